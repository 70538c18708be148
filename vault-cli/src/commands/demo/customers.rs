//! The customers of the demo: what was given for each, and how to tell whether the vault still has it.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::search::Search;
use crate::address::segment;
use crate::client::Client;
use crate::commands::import::record::Record;
use crate::commands::lookup::find;
use crate::commands::subject::quoted;
use crate::exit::{Exit, Failure};

/// A purpose that may see every field in full under the built-in schema.
const PURPOSE: &str = "account";

/// All customers of an NDJSON text, in order.
pub(super) struct Customers {
    pub(super) text: String,
    all: Vec<Customer>,
}

/// One customer as given.
pub(super) struct Customer {
    record: Record,
    clear: Clear,
}

/// The parts of a line the demo looks up and looks for.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Clear {
    phone_e164: Option<String>,
    phone_national: Option<String>,
    region: Option<String>,
    email: Option<String>,
    home_address: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Shown {
    fields: BTreeMap<String, Box<RawValue>>,
}

impl Customers {
    pub(super) fn parse(text: String) -> Result<Self, Failure> {
        let mut all: Vec<Customer> = Vec::new();
        let mut seen = HashSet::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let told = |reason: String| Failure::usage(format!("line {}: {reason}", index + 1));
            let record = Record::parse(line.as_bytes()).map_err(told)?;
            if !seen.insert(record.subject.clone()) {
                return Err(told("its subject has a line already; the demo takes one a customer".into()));
            }
            let clear =
                serde_json::from_str(line).map_err(|_| told("a phone, region or e-mail that is not text".into()))?;
            all.push(Customer { record, clear });
        }
        if all.len() < 2 {
            return Err(Failure::usage("the demo needs at least two customers: one to shred, one to keep"));
        }
        Ok(Self { text, all })
    }

    pub(super) fn len(&self) -> u64 {
        self.all.len() as u64
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Customer> {
        self.all.iter()
    }

    /// The one who stays.
    pub(super) fn witness(&self) -> &Customer {
        &self.all[0]
    }

    /// The one who asks to be forgotten.
    pub(super) fn victim(&self) -> &Customer {
        &self.all[1]
    }

    /// All that would betray a customer, on lines of its own.
    pub(super) fn plain(&self) -> String {
        self.traces().collect::<Vec<_>>().join("\n")
    }

    /// A search for all of it.
    pub(super) fn search(&self) -> Search {
        Search::new(self.traces())
    }

    fn traces(&self) -> impl Iterator<Item = String> {
        self.all.iter().flat_map(|customer| customer.clear.traces())
    }
}

impl Clear {
    /// Phone number in each spelling, e-mail address, first line of the address.
    fn traces(&self) -> Vec<String> {
        let e164 = self.phone_e164.clone();
        let digits = e164.as_ref().map(|n| n.trim_start_matches('+').to_owned());
        let street = self.home_address.as_ref().and_then(|address| address.as_str()?.lines().next()).map(str::to_owned);
        let spelled = [e164, digits, self.phone_national.clone(), self.email.clone(), street];
        spelled.into_iter().flatten().collect()
    }
}

impl Customer {
    pub(super) fn subject(&self) -> &str {
        &self.record.subject
    }

    /// How many fields were given.
    pub(super) fn fields(&self) -> usize {
        self.record.fields.len()
    }

    fn path(&self, query: &str) -> String {
        format!("/v1/subjects/{}/fields?{query}", segment(self.subject()))
    }

    /// The fields that do not read back as they were given: missing, added or different. A customer the vault
    /// does not know differs in all.
    pub(super) fn differences(&self, client: &Client) -> Result<Vec<String>, Failure> {
        let mut shown = match client.get_for(&self.path("view=full"), Some(PURPOSE)) {
            Ok(answer) => answer.json::<Shown>()?.fields,
            Err(failure) if matches!(failure.exit, Exit::Shredded | Exit::NotFound) => BTreeMap::new(),
            Err(failure) => return Err(failure),
        };
        let mut wrong = Vec::new();
        for (name, given) in &self.record.fields {
            let same = shown.remove(&**name).is_some_and(|value| compact(value.get()) == compact(given));
            // A field given as null is one the vault was told not to have.
            if !same && given.as_str() != "null" {
                wrong.push(name.to_string());
            }
        }
        wrong.extend(shown.into_keys());
        Ok(wrong)
    }

    /// True when reading answers that the subject was shredded.
    pub(super) fn is_gone(&self, client: &Client) -> Result<bool, Failure> {
        match client.get_for(&self.path("view=full"), Some(PURPOSE)) {
            Err(failure) if failure.exit == Exit::Shredded => Ok(true),
            Ok(_) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Whom lookups by this customer's phone number and e-mail address find, each with how it was asked.
    pub(super) fn lookups(&self, client: &Client) -> Result<Vec<(String, Vec<String>)>, Failure> {
        let mut found = Vec::new();
        if let (Some(national), Some(region)) = (&self.clear.phone_national, &self.clear.region) {
            let subjects = find(client, "phone", &quoted(national), Some(region), None)?;
            found.push((format!("national phone number in {region}"), subjects));
        }
        for (how, field, value) in [
            ("international phone number", "phone", &self.clear.phone_e164),
            ("e-mail address", "email", &self.clear.email),
        ] {
            if let Some(value) = value {
                found.push((how.to_owned(), find(client, field, &quoted(value), None, None)?));
            }
        }
        Ok(found)
    }

    /// A field as it is shown without a purpose, and whether that hides the value.
    pub(super) fn masked(&self, client: &Client) -> Result<Option<(String, String, bool)>, Failure> {
        let shown: Shown = client.get(&self.path("view=masked"))?.json()?;
        let pick = ["phone", "email", "name"].into_iter().find_map(|name| Some((name, shown.fields.get(name)?)));
        Ok(pick.map(|(name, value)| {
            let text = serde_json::from_str::<String>(value.get()).unwrap_or_else(|_| value.get().to_owned());
            let hides =
                !self.clear.traces().iter().chain(&self.given_text(name)).any(|trace| text.contains(trace.as_str()));
            (name.to_owned(), text, hides)
        }))
    }

    fn given_text(&self, name: &str) -> Option<String> {
        let (_, given) = self.record.fields.iter().find(|(field, _)| *field == name)?;
        serde_json::from_str(given).ok()
    }
}

/// JSON without the blanks between its tokens, which carry nothing; strings and numbers stay as spelled.
fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_text, mut escaped) = (false, false);
    for c in json.chars() {
        if in_text || !c.is_ascii_whitespace() {
            out.push(c);
        }
        match c {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => in_text = !in_text,
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;

    const TWO: &str = "{\"subject\":\"a\",\"region\":\"AD\",\"phone_e164\":\"+376315260\",\"phone_national\":\"315 260\",\"home_address\":\"88 Avinguda\\nAndorra\",\"location\":{\"lat\": -47.7630, \"lon\": 1}}\n\n{\"subject\":\"b\",\"name\":\"B\"}\n";

    #[test]
    fn only_blanks_between_tokens_are_unimportant() {
        assert_eq!(compact("{\"a b\": \"c \\\" d\",\n \"e\": 1.50 }"), "{\"a b\":\"c \\\" d\",\"e\":1.50}");
        assert_ne!(compact("1.5"), compact("1.50"));
    }

    #[test]
    fn a_changed_missing_or_added_field_is_a_difference() {
        let customers = Customers::parse(TWO.to_owned()).unwrap();
        let phone = r#""phone":{"national":"315 260","region":"AD"}"#;
        let address = r#""home_address":"88 Avinguda\nAndorra""#;
        for (fields, wrong) in [
            (format!(r#"{phone},{address},"location":{{"lat":-47.7630,"lon":1}}"#), vec![]),
            (format!(r#"{phone},{address},"location":{{"lat":-47.763,"lon":1}}"#), vec!["location"]),
            (format!(r#"{phone},"location":{{"lat":-47.7630,"lon":1}},"name":"x""#), vec!["home_address", "name"]),
        ] {
            let fake = FakeVault::answering(vec![(200, format!("{{\"subject\":\"a\",\"fields\":{{{fields}}}}}"))]);
            let client = Client::anonymous(&fake.connection()).unwrap();
            assert_eq!(customers.witness().differences(&client).unwrap(), wrong);
        }
    }

    #[test]
    fn a_customer_has_one_line() {
        let twice = format!("{TWO}\n{}", TWO.lines().next().unwrap());
        let told = Customers::parse(twice).err().unwrap().message;
        assert!(told.starts_with("line 5: its subject has a line already"), "{told}");
    }

    #[test]
    fn a_shredded_customer_is_gone_and_a_locked_vault_proves_nothing() {
        let customers = Customers::parse(TWO.to_owned()).unwrap();
        let fake = FakeVault::answering(vec![
            (410, r#"{"code":"shredded","detail":"shredded"}"#.into()),
            (423, r#"{"code":"locked","detail":"locked"}"#.into()),
        ]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        assert!(customers.victim().is_gone(&client).unwrap());
        assert!(customers.victim().is_gone(&client).is_err());
    }

    #[test]
    fn the_search_covers_every_spelling_and_finds_them_in_the_clear() {
        let customers = Customers::parse(TWO.to_owned()).unwrap();
        let search = customers.search();
        assert_eq!(search.len(), 4, "e164, digits, national, street");
        assert_eq!(search.count_in(customers.plain().as_bytes()), 4);
        assert!(Customers::parse("{\"subject\":\"a\",\"name\":\"A\"}".into()).is_err());
    }
}
