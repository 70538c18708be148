//! Phone numbers: E.164 text or a national form beside its region, checked against the numbering plan.
//!
//! The plans are libphonenumber's, as the `phonenumber` crate carries them. Its parser is not used: it guesses at free
//! text, has panicked on hostile input with that input in the message, accepts a valid number with more digits behind
//! it, and compiles its patterns anew under a lock. Here the text is reduced to digits first, each region's patterns are
//! compiled once, and a number is valid only if one of them matches it as a whole.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use phonenumber::Metadata;
use phonenumber::metadata::DATABASE;
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::json;

/// The longest text that may be a phone number, in characters, punctuation included.
const TEXT_MAX: usize = 64;
/// More digits than any number has, with its international prefix.
const DIGITS_MAX: usize = 24;

const VALID: &str = "a phone number valid for its region";
const SHAPE: &str =
    "a phone number valid for its region, as text in E.164 form or as an object of `national` and `region`";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPhone<'a> {
    #[serde(borrow)]
    national: &'a RawValue,
    #[serde(borrow)]
    region: &'a RawValue,
}

/// The normal form is E.164 text, whichever way the number was given.
pub(super) fn normalise(raw: &str) -> Result<Zeroizing<String>, &'static str> {
    if json::is_object(raw) {
        let phone: RawPhone<'_> = serde_json::from_str(raw).map_err(|_| SHAPE)?;
        let region = json::text(phone.region.get()).ok_or(SHAPE)?;
        return normalise_national(phone.national.get(), &region);
    }
    let text = json::text(raw).ok_or(SHAPE)?;
    let dialled = Dialled::read(&text).ok_or(SHAPE)?;
    if !dialled.plus {
        return Err(SHAPE);
    }
    international(&dialled.digits).ok_or(VALID)
}

/// The same for JSON text of a national form whose region is told beside it.
pub(super) fn normalise_national(raw: &str, region: &str) -> Result<Zeroizing<String>, &'static str> {
    let text = json::text(raw).ok_or(SHAPE)?;
    let dialled = Dialled::read(&text).ok_or(VALID)?;
    let region = Region::named(region).ok_or(VALID)?;
    let national = if dialled.plus {
        let digits = region.without_code(&dialled.digits).ok_or(VALID)?;
        region.international(digits)
    } else {
        region.national(&dialled.digits)
    };
    Ok(e164(region.code(), &national.ok_or(VALID)?))
}

/// Country code and national number of E.164 text.
pub(super) fn split(e164: &str) -> Option<(&str, &str)> {
    let digits = e164.strip_prefix('+')?;
    (1..=3)
        .filter_map(|length| digits.split_at_checked(length))
        .find(|(code, _)| code.parse().is_ok_and(|code| PLANS.contains_key(&code)))
}

fn international(digits: &str) -> Option<Zeroizing<String>> {
    let plus = Zeroizing::new(["+", digits].concat());
    let (code, rest) = split(&plus)?;
    let code = code.parse().ok()?;
    let regions = PLANS.get(&code)?;
    // As it stands in any region of the code, before a trunk prefix is guessed at: some plans take a short number of
    // one region for a local one of theirs.
    let as_given = regions.iter().any(|region| region.is_valid(rest)).then(|| Zeroizing::new(rest.to_owned()));
    let national = as_given.or_else(|| regions.iter().find_map(|region| region.international(rest)))?;
    Some(e164(code, &national))
}

fn e164(code: u16, national: &str) -> Zeroizing<String> {
    json::quote(&Zeroizing::new(["+", &code.to_string(), national].concat()))
}

/// What is left of a text when its punctuation is dropped.
struct Dialled {
    plus: bool,
    digits: Zeroizing<String>,
}

impl Dialled {
    /// `None` if there is anything but digits, one leading plus and punctuation.
    fn read(text: &str) -> Option<Self> {
        if text.chars().count() > TEXT_MAX {
            return None;
        }
        let mut plus = false;
        let mut digits = Zeroizing::new(String::with_capacity(TEXT_MAX));
        for c in text.chars() {
            match c {
                '+' | '\u{ff0b}' if !plus && digits.is_empty() => plus = true,
                _ if is_punctuation(c) => {}
                _ => digits.push(digit(c)?),
            }
        }
        (1..=DIGITS_MAX).contains(&digits.len()).then_some(Self { plus, digits })
    }
}

/// Spaces, hyphens, brackets, and the invisible marks that come along when a number is copied from a text.
fn is_punctuation(c: char) -> bool {
    matches!(c, ' ' | '-' | '.' | '/' | '(' | ')' | '\u{a0}' | '\u{2007}' | '\u{202f}' | '\u{2010}'..='\u{2015}'
        | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A decimal digit as ASCII: Latin, Arabic, Persian, Devanagari, Bengali or full-width.
fn digit(c: char) -> Option<char> {
    let value = ['0', '\u{660}', '\u{6f0}', '\u{966}', '\u{9e6}', '\u{ff10}']
        .into_iter()
        .find_map(|zero| u32::from(c).checked_sub(u32::from(zero)).filter(|&v| v < 10))?;
    char::from_digit(value, 10)
}

/// All regions by country code; the main one of a shared code comes first.
static PLANS: LazyLock<HashMap<u16, Vec<Region>>> = LazyLock::new(|| {
    (1..=999)
        .filter_map(|code| Some((code, DATABASE.by_code(&code)?)))
        .map(|(code, plans)| (code, plans.into_iter().map(Region::new).collect()))
        .collect()
});

/// The numbering plan of one region, its patterns compiled when first needed.
struct Region {
    plan: &'static Metadata,
    valid: OnceLock<Option<Regex>>,
    trunk: OnceLock<Option<Regex>>,
    exit: OnceLock<Option<Regex>>,
}

impl Region {
    fn new(plan: &'static Metadata) -> Self {
        Self { plan, valid: OnceLock::new(), trunk: OnceLock::new(), exit: OnceLock::new() }
    }

    /// The region of an ISO 3166-1 code of two letters.
    fn named(name: &str) -> Option<&'static Self> {
        let letters = name.len() == 2 && name.bytes().all(|b| b.is_ascii_alphabetic());
        let name = letters.then(|| name.to_ascii_uppercase())?;
        let code = DATABASE.by_id(name.as_str())?.country_code();
        PLANS.get(&code)?.iter().find(|region| region.plan.id() == name)
    }

    fn code(&self) -> u16 {
        self.plan.country_code()
    }

    /// What follows the country code, if the digits begin with it.
    fn without_code<'d>(&self, digits: &'d str) -> Option<&'d str> {
        digits.strip_prefix(self.code().to_string().as_str())
    }

    /// The national number in digits that followed a country code: as they stand, or with a needless trunk prefix.
    fn international(&self, digits: &str) -> Option<Zeroizing<String>> {
        let as_given = || Zeroizing::new(digits.to_owned());
        std::iter::once_with(|| Some(as_given()))
            .chain(std::iter::once_with(|| self.without_trunk(digits)))
            .flatten()
            .find(|national| self.is_valid(national))
    }

    /// The national number in digits as dialled within the region: after the trunk prefix, as they stand, or after an
    /// exit code or nothing with the region's own country code.
    fn national(&self, digits: &str) -> Option<Zeroizing<String>> {
        let trunk = self.without_trunk(digits).filter(|n| self.is_valid(n));
        trunk.or_else(|| self.international(digits)).or_else(|| {
            let exit = self.exit().and_then(|exit| exit.find(digits));
            let abroad = exit.map_or(digits, |exit| &digits[exit.end()..]);
            self.international(self.without_code(abroad)?)
        })
    }

    fn is_valid(&self, national: &str) -> bool {
        self.valid().is_some_and(|valid| valid.is_match(national))
    }

    /// The digits without their trunk prefix, rewritten where the plan says so.
    fn without_trunk(&self, digits: &str) -> Option<Zeroizing<String>> {
        let found = self.trunk()?.captures(digits)?;
        let rest = &digits[found.get(0)?.end()..];
        let last = found.iter().skip(1).last().flatten();
        let mut national = Zeroizing::new(String::with_capacity(2 * DIGITS_MAX));
        if let (Some(rule), Some(_)) = (self.plan.national_prefix_transform_rule(), last) {
            found.expand(rule, &mut national);
        }
        national.push_str(rest);
        Some(national)
    }

    /// Matches a whole valid national number of any type; of short and emergency codes none.
    fn valid(&self) -> Option<&Regex> {
        self.valid
            .get_or_init(|| {
                let types = self.plan.descriptors();
                let patterns: Vec<_> = [
                    types.fixed_line(),
                    types.mobile(),
                    types.toll_free(),
                    types.premium_rate(),
                    types.shared_cost(),
                    types.personal_number(),
                    types.voip(),
                    types.pager(),
                    types.uan(),
                    types.voicemail(),
                ]
                .into_iter()
                .flatten()
                .map(|kind| format!("(?:{})", kind.national_number().as_str()))
                .collect();
                compile(&format!("^(?:{})$", patterns.join("|")))
            })
            .as_ref()
    }

    fn trunk(&self) -> Option<&Regex> {
        self.trunk
            .get_or_init(|| {
                let pattern = self.plan.national_prefix_for_parsing();
                let pattern = pattern.map(|pattern| pattern.as_str());
                let pattern = pattern.or_else(|| self.plan.national_prefix())?;
                compile(&format!("^(?:{pattern})"))
            })
            .as_ref()
    }

    fn exit(&self) -> Option<&Regex> {
        self.exit
            .get_or_init(|| {
                let pattern = self.plan.international_prefix()?;
                compile(&format!("^(?:{})", pattern.as_str()))
            })
            .as_ref()
    }
}

/// `None` for a pattern that does not compile; a test compiles them all.
fn compile(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern).ignore_whitespace(true).unicode(false).build().ok()
}

#[cfg(test)]
mod tests;
