//! A search of bytes for many texts at once.

use std::collections::HashMap;
use std::path::Path;

use super::{Customer, files_under};

/// Texts that must be nowhere. The shortest that can be searched for has four bytes.
pub(crate) struct Traces {
    /// Which pairs of bytes a text starts with: most places are passed over by this alone.
    starts: Vec<bool>,
    by_start: HashMap<[u8; 4], Vec<Vec<u8>>>,
}

/// Shorter texts are in any megabyte of random bytes.
const MIN: usize = 5;
/// Shorter numbers are in any log, as a duration or a fraction of a second.
const MIN_DIGITS_IN_TEXT: usize = 8;
/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 32;

impl Traces {
    pub(crate) fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut traces = Self { starts: vec![false; 1 << 16], by_start: HashMap::new() };
        for text in texts {
            let bytes = text.into_bytes();
            assert!(bytes.len() >= 4);
            traces.starts[pair(&bytes, 0)] = true;
            traces.by_start.entry([bytes[0], bytes[1], bytes[2], bytes[3]]).or_default().push(bytes);
        }
        traces
    }

    /// What must not be at rest: ids, phone numbers in every spelling, e-mail addresses, first lines of addresses.
    pub(crate) fn at_rest(customers: &[Customer]) -> Self {
        Self::new(customers.iter().flat_map(personal).filter(|text| text.len() >= MIN))
    }

    /// The same for logs and metrics, which are full of short numbers.
    pub(crate) fn in_text(customers: &[Customer]) -> Self {
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let long = |text: &String| text.len() >= if number(text) { MIN_DIGITS_IN_TEXT } else { MIN };
        Self::new(customers.iter().flat_map(personal).filter(long))
    }

    /// The texts found in `bytes`.
    pub(crate) fn find(&self, bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        let mut at = 0;
        while at + 4 <= bytes.len() {
            if self.starts[pair(bytes, at)] {
                let start = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
                let texts = self.by_start.get(&start).into_iter().flatten();
                let here = texts.filter(|text| bytes[at..].starts_with(text) && !by_chance(bytes, at, text));
                found.extend(here.map(|text| String::from_utf8_lossy(text).into_owned()));
            }
            at += 1;
        }
        found
    }

    /// Asserts that no file of a directory holds any of the texts, nor is named by one. Answers the bytes searched.
    #[track_caller]
    pub(crate) fn absent_under(&self, directory: &Path) -> u64 {
        let mut searched = 0;
        for file in files_under(directory) {
            let bytes = std::fs::read(&file).unwrap();
            let found = self.find(&bytes);
            assert!(found.is_empty(), "{} holds {found:?}", file.display());
            assert!(self.find(file.to_string_lossy().as_bytes()).is_empty(), "{}", file.display());
            searched += bytes.len() as u64;
        }
        searched
    }
}

/// Whether a short number lies within an id: a vault's hexadecimal ids have any of five digits now and then.
fn by_chance(bytes: &[u8], at: usize, text: &[u8]) -> bool {
    let number = text.len() < MIN_DIGITS_IN_TEXT && text.iter().all(u8::is_ascii_digit);
    let hex = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let around = || {
        let before = bytes[..at].iter().rev().take(ID_DIGITS).take_while(hex).count();
        before + bytes[at..].iter().take(ID_DIGITS).take_while(hex).count()
    };
    number && around() >= ID_DIGITS
}

fn pair(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

fn personal(customer: &Customer) -> Vec<String> {
    let e164 = customer.text("phone_e164");
    let national = customer.text("phone_national");
    let digits = national.chars().filter(char::is_ascii_digit).collect();
    let address = customer.text("home_address");
    let first_line = address.lines().next().unwrap_or_default().to_owned();
    let without_plus = e164.trim_start_matches('+').to_owned();
    vec![customer.id.clone(), e164, without_plus, national, digits, customer.text("email"), first_line]
}

#[test]
fn a_short_number_is_found_but_within_an_id() {
    let traces = Traces::new(["50340".to_owned(), "+29050340".to_owned()]);
    for told in ["phone 50340", "50340", "a50340f", "\u{4}50340\u{1}", "0123456789abcdef50340"] {
        assert_eq!(traces.find(told.as_bytes()), ["50340"], "{told}");
    }
    assert_eq!(traces.find(b"+29050340").len(), 2);
    for id in ["01a227d1950340e9a9215cbb29d9a4ed", "by=5034001a227d1e9a9215cbb29d9a4ed7;"] {
        assert!(traces.find(id.as_bytes()).is_empty(), "{id}");
    }
}
