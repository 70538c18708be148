//! The customers that are imported, as the file has them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The file of customers that ships with the tests.
pub(crate) const CUSTOMERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/customers.ndjson");

/// One line of the file: each value's JSON text, untouched.
pub(crate) struct Customer {
    pub(crate) id: String,
    raw: BTreeMap<String, Box<RawValue>>,
}

/// The fields that are stored as the line has them.
const AS_GIVEN: &[&str] =
    &["name", "nickname", "email", "home_address", "birth_date", "ip_address", "device", "location"];

/// Everybody in the file.
pub(crate) fn customers() -> Vec<Customer> {
    let text = std::fs::read_to_string(Path::new(CUSTOMERS)).unwrap();
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let raw: BTreeMap<String, Box<RawValue>> = serde_json::from_str(line).unwrap();
            Customer { id: serde_json::from_str(raw["subject"].get()).unwrap(), raw }
        })
        .collect()
}

impl Customer {
    /// A value that is a text.
    pub(crate) fn text(&self, key: &str) -> String {
        serde_json::from_str(self.raw[key].get()).unwrap()
    }

    /// What the vault must answer for each field: JSON text, byte for byte.
    pub(crate) fn fields(&self) -> BTreeMap<String, String> {
        let given =
            AS_GIVEN.iter().filter_map(|name| Some(((*name).to_owned(), self.raw.get(*name)?.get().to_owned())));
        given.collect()
    }

    /// What the vault must answer for the phone.
    pub(crate) fn phone(&self) -> Value {
        json!({ "national": self.text("phone_national"), "region": self.text("region") })
    }

    /// Asserts that an answer with all fields in full is this customer.
    #[track_caller]
    pub(crate) fn check(&self, body: &str) {
        let answer: BTreeMap<String, Box<RawValue>> = serde_json::from_str(body).unwrap();
        let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(answer["fields"].get()).unwrap();
        let phone = fields.remove("phone").unwrap();
        assert_eq!(serde_json::from_str::<Value>(phone.get()).unwrap(), self.phone(), "{}", self.id);
        assert!(phone.get().contains(self.raw["phone_national"].get()), "the number is spelled as given: {phone}");
        let fields: BTreeMap<_, _> = fields.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect();
        assert_eq!(fields, self.fields(), "{}", self.id);
        assert!(!answer.contains_key("views"), "{body}");
    }

    /// The lookups that find this customer.
    pub(crate) fn lookups(&self) -> [Value; 3] {
        [
            json!({ "field": "phone", "value": self.text("phone_national"), "region": self.text("region") }),
            json!({ "field": "phone", "value": self.text("phone_e164") }),
            json!({ "field": "email", "value": self.text("email") }),
        ]
    }
}
