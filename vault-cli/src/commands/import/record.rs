//! One line of an import: from an NDJSON object to the item the vault takes, values byte for byte.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::commands::subject::{check_id, quoted};

/// Fields of a line, by name, each with its value as JSON.
type Columns = Vec<(Cow<'static, str>, Zeroizing<String>)>;

/// The fields of the built-in schema.
const FIELDS: [&str; 9] =
    ["nickname", "name", "phone", "email", "home_address", "birth_date", "ip_address", "device", "location"];

/// What the lines of an export and of a salvage call themselves, as JSON.
const EXPORTS: [&str; 2] = ["\"udv-export-1\"", "\"udv-salvage-1\""];

/// A subject and its fields, each value as raw JSON.
pub(crate) struct Record {
    pub(crate) subject: String,
    pub(crate) fields: Columns,
}

impl Record {
    /// Reads a line; the reason of a refusal never quotes it.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned())?;
        // A byte order mark is what some editors begin a file with.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let keys: Keys<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
            Category::Data => "not a JSON object".to_owned(),
            _ => format!("not valid JSON (column {})", error.column()),
        })?;
        if let Some(name) = keys.repeated {
            return Err(format!("key {name} is given twice"));
        }
        let subject = keys.subject.ok_or("no subject")?;
        let subject: String = serde_json::from_str(subject.get()).map_err(|_| "the subject is not text".to_owned())?;
        check_id(&subject)?;
        let fields = match (keys.is_export(), keys.listed) {
            (true, Some(listed)) => exported(listed)?,
            (true, None) => return Err("an export without its fields".to_owned()),
            (false, _) => fields(keys.fields, keys.phone_national, keys.region)?,
        };
        Ok(Self { subject, fields })
    }

    /// The item for a batch write.
    pub(crate) fn item(&self) -> Zeroizing<String> {
        let size: usize = self.fields.iter().map(|(n, v)| n.len() + v.len() + 4).sum();
        let mut json = Zeroizing::new(String::with_capacity(size + 2 * self.subject.len() + 32));
        json.push_str("{\"subject\":");
        json.push_str(&quoted(&self.subject));
        json.push_str(",\"fields\":{");
        for (index, (name, value)) in self.fields.iter().enumerate() {
            if index > 0 {
                json.push(',');
            }
            json.push_str(&quoted(name));
            json.push(':');
            json.push_str(value);
        }
        json.push_str("}}");
        json
    }
}

/// The fields to store; a national number with its region becomes the phone, unless `phone` is given itself.
fn fields(
    given: Vec<(&'static str, &RawValue)>,
    national: Option<&RawValue>,
    region: Option<&RawValue>,
) -> Result<Columns, String> {
    let mut fields: Vec<_> =
        given.into_iter().map(|(name, value)| (Cow::from(name), Zeroizing::new(value.get().to_owned()))).collect();
    let has_phone = fields.iter().any(|(name, _)| name == "phone");
    if let Some(national) = national.filter(|_| !has_phone) {
        let region = region.ok_or("phone_national needs a region")?;
        let phone = format!("{{\"national\":{},\"region\":{}}}", national.get(), region.get());
        fields.push((Cow::from("phone"), Zeroizing::new(phone)));
    }
    if fields.is_empty() {
        return Err("no field of the schema".to_owned());
    }
    Ok(fields)
}

/// The fields of a line that the vault itself wrote, whatever its schema; those without a value are over.
fn exported(listed: &RawValue) -> Result<Columns, String> {
    #[derive(Deserialize)]
    struct Exported<'a> {
        name: String,
        #[serde(borrow)]
        value: Option<&'a RawValue>,
    }

    let listed: Vec<Exported<'_>> =
        serde_json::from_str(listed.get()).map_err(|_| "its fields are not those of an export".to_owned())?;
    let valued = listed.into_iter().filter_map(|field| Some((field.name, field.value?)));
    let fields: Vec<_> =
        valued.map(|(name, value)| (Cow::from(name), Zeroizing::new(value.get().to_owned()))).collect();
    let mut names = HashSet::new();
    if !fields.iter().all(|(name, _)| names.insert(name)) {
        return Err("a field is given twice".to_owned());
    }
    if fields.is_empty() { Err("no field has a value".to_owned()) } else { Ok(fields) }
}

/// The keys of a line that matter, in raw JSON.
#[derive(Default)]
struct Keys<'a> {
    subject: Option<&'a RawValue>,
    fields: Vec<(&'static str, &'a RawValue)>,
    phone_national: Option<&'a RawValue>,
    region: Option<&'a RawValue>,
    /// How a line of the vault's own says what it is.
    format: Option<&'a RawValue>,
    /// The fields of such a line.
    listed: Option<&'a RawValue>,
    /// A key that matters and came twice: which value is meant cannot be known.
    repeated: Option<&'static str>,
}

impl<'de> Deserialize<'de> for Keys<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeysVisitor)
    }
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut keys = Keys::default();
        while let Some(key) = map.next_key::<String>()? {
            let value: &'de RawValue = map.next_value()?;
            keys.note(&key, value);
        }
        Ok(keys)
    }
}

impl<'a> Keys<'a> {
    fn note(&mut self, key: &str, value: &'a RawValue) {
        let (name, place) = match key {
            "subject" => ("subject", &mut self.subject),
            "phone_national" => ("phone_national", &mut self.phone_national),
            "region" => ("region", &mut self.region),
            "format" => ("format", &mut self.format),
            "fields" => ("fields", &mut self.listed),
            _ => return self.note_field(key, value),
        };
        if place.replace(value).is_some() {
            self.repeated = Some(name);
        }
        // Exports write null for what they do not know.
        if name != "subject" && value.get() == "null" {
            *place = None;
        }
    }

    /// Whether it is a line of `subject export`, or of a salvage.
    fn is_export(&self) -> bool {
        self.format.is_some_and(|format| EXPORTS.contains(&format.get()))
    }

    fn note_field(&mut self, key: &str, value: &'a RawValue) {
        let Some(name) = FIELDS.into_iter().find(|name| *name == key) else {
            return;
        };
        if self.fields.iter().any(|(known, _)| *known == name) {
            self.repeated = Some(name);
        }
        self.fields.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn item(line: &str) -> String {
        Record::parse(line.as_bytes()).unwrap().item().to_string()
    }

    fn refusal(line: &[u8]) -> String {
        Record::parse(line).err().unwrap()
    }

    // Two customers of the sample data, as they stand in the file.
    const ANDORRA: &str = r#"{"subject": "cust-00001", "region": "AD", "name": "Chris Curtis", "nickname": "nicholsonclinton", "email": "browningjason0@hamilton.com", "phone_e164": "+376315260", "phone_national": "315 260", "home_address": "88 Avinguda Meritxell\nAD500 Andorra la Vella\nAndorra", "home_address_parts": {"country": "Andorra", "country_code": "ad", "house_number": "88"}, "birth_date": "1937-12-20", "ip_address": "90c1:92cf:d3ac:94af:f21:ddb7:6cad:4a26", "device": {"model": "Pixel 9", "os": "Debian 12", "device_id": "5feceb66ffc86f38"}, "location": {"lat": -47.76309, "lon": 29.80368}}"#;
    const EMIRATES: &str = r#"{"subject": "cust-00003", "region": "AE", "phone_e164": "+971501236091", "phone_national": "050 123 6091", "home_address": "28th Street\nأبو ظبي\nالإمارات العربية المتحدة", "location": {"lat": 63.20216, "lon": 27.75706}}"#;

    #[test]
    fn a_customer_becomes_an_item_with_its_values_as_written() {
        assert_eq!(
            item(ANDORRA),
            r#"{"subject":"cust-00001","fields":{"name":"Chris Curtis","nickname":"nicholsonclinton","email":"browningjason0@hamilton.com","home_address":"88 Avinguda Meritxell\nAD500 Andorra la Vella\nAndorra","birth_date":"1937-12-20","ip_address":"90c1:92cf:d3ac:94af:f21:ddb7:6cad:4a26","device":{"model": "Pixel 9", "os": "Debian 12", "device_id": "5feceb66ffc86f38"},"location":{"lat": -47.76309, "lon": 29.80368},"phone":{"national":"315 260","region":"AD"}}}"#
        );
        assert_eq!(
            item(EMIRATES),
            r#"{"subject":"cust-00003","fields":{"home_address":"28th Street\nأبو ظبي\nالإمارات العربية المتحدة","location":{"lat": 63.20216, "lon": 27.75706},"phone":{"national":"050 123 6091","region":"AE"}}}"#
        );
    }

    #[test]
    fn numbers_and_escapes_keep_their_spelling() {
        let line = r#"{"subject":"x","location":{"lat":-47.7630900,"lon":1e1},"name":"\u0041da"}"#;
        assert_eq!(
            item(line),
            r#"{"subject":"x","fields":{"location":{"lat":-47.7630900,"lon":1e1},"name":"\u0041da"}}"#
        );
    }

    #[test]
    fn a_phone_given_itself_wins_and_unknown_numbers_are_left_out() {
        let line = r#"{"subject":"x","phone":"+376315260","phone_national":"315 260","region":"AD"}"#;
        assert_eq!(item(line), r#"{"subject":"x","fields":{"phone":"+376315260"}}"#);
        let line = r#"{"subject":"x","name":"A","phone_national":null,"region":null}"#;
        assert_eq!(item(line), r#"{"subject":"x","fields":{"name":"A"}}"#);
        assert!(item("\u{feff}{\"subject\":\"x\",\"name\":null}").ends_with(r#"{"name":null}}"#));
    }

    #[test]
    fn what_the_vault_wrote_itself_comes_back_whatever_its_schema() {
        let line = r#"{"format":"udv-salvage-1","subject":"x","state":"active","fields":[{"name":"iban","compartment":"billing","value": "DE89" ,"version":3},{"name":"phone","value":{"national":"315 260","region":"AD"}},{"name":"old","expired":true}],"consents":[]}"#;
        assert_eq!(
            item(line),
            r#"{"subject":"x","fields":{"iban":"DE89","phone":{"national":"315 260","region":"AD"}}}"#
        );
        assert_eq!(
            item(&line.replace("udv-salvage-1", "udv-export-1")),
            item(line),
            "an export is taken like a salvage"
        );
        assert!(refusal(br#"{"format":"udv-export-1","subject":"x","fields":[]}"#).contains("no field has a value"));
        assert!(refusal(br#"{"format":"udv-export-1","subject":"x"}"#).contains("without its fields"));
        assert!(refusal(br#"{"format":"udv-export-1","subject":"x","fields":{"a":1}}"#).contains("not those of"));
        let twice =
            br#"{"format":"udv-export-1","subject":"x","fields":[{"name":"a","value":1},{"name":"a","value":2}]}"#;
        assert!(refusal(twice).contains("given twice"));
        assert!(refusal(br#"{"format":"other","subject":"x","fields":[]}"#).contains("no field of the schema"));
    }

    #[test]
    fn bad_lines_say_why_and_never_what() {
        let table: [(&[u8], &str); 11] = [
            (b"secret", "not valid JSON"),
            (b"{\"subject\":\"secret\"", "not valid JSON"),
            (b"{\"subject\":\"secret\"} x", "not valid JSON"),
            (b"[\"secret\"]", "not a JSON object"),
            (b"\"secret\"", "not a JSON object"),
            (b"{\"name\":\"secret\"}", "no subject"),
            (b"{\"subject\":7,\"name\":\"secret\"}", "the subject is not text"),
            (b"{\"subject\":\"\",\"name\":\"secret\"}", "empty"),
            (b"{\"subject\":\"secret\",\"colour\":\"secret\"}", "no field"),
            (b"{\"subject\":\"s\",\"name\":\"secret\",\"name\":\"x\"}", "name is given twice"),
            (b"{\"subject\":\"s\",\"phone_national\":\"secret\"}", "needs a region"),
        ];
        for (line, why) in table {
            let reason = refusal(line);
            assert!(reason.contains(why), "{reason} / {why}");
            assert!(!reason.contains("secret"), "{reason}");
        }
        assert!(refusal(b"{\"subject\":\"\xff\"}").contains("UTF-8"));
    }

    #[test]
    fn any_line_is_an_item_that_reads_or_is_refused() {
        use crate::fuzz::{Dice, cases, corpus, fire};

        #[derive(Deserialize)]
        struct Item {
            subject: String,
            // As they were written: what is in a value is the vault's to refuse.
            fields: std::collections::BTreeMap<String, Box<RawValue>>,
        }

        let run = |bytes: &[u8]| {
            let Ok(record) = Record::parse(bytes) else { return false };
            let item: Item = serde_json::from_str(&record.item()).unwrap();
            assert_eq!((item.subject, item.fields.len()), (record.subject, record.fields.len()));
            true
        };
        let taken = fire("import_line", &corpus("import_line"), cases(5000), &mut Dice::of_run(), run);
        assert!(taken > 0);
    }
}
