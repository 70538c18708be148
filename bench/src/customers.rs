//! The people whose data is stored: the same in every run, of the lengths that registrations have.
//!
//! Modelled on 225 registrations from 144 regions: names of 17 bytes on average, some of them not in Latin letters, e-mail
//! addresses of 27, addresses of three lines and 60 bytes of which a third is not plain ASCII, phone numbers in national
//! form with their region.

use std::fmt::Write;

use vault_bench::seeded::Seeded;
use vault_bench::wide;

/// Fields of a subject.
pub(crate) const FIELDS: u64 = 6;
/// Subjects with ten fields, for whom the schema must be `wide::SCHEMA`.
pub(crate) const WIDE: u64 = 1000;

const GIVEN: [&str; 12] = [
    "Amal",
    "Béatrice",
    "Chidi",
    "Daniela",
    "Эльвира",
    "Farid",
    "Grace",
    "Hyun-woo",
    "Ingrid",
    "João",
    "Kateřina",
    "明",
];
const FAMILY: [&str; 12] = [
    "Abernathy",
    "Bergström",
    "Castellanos",
    "Dobrowolski",
    "Ежова",
    "Fitzgerald",
    "Grünwald",
    "Hashimoto",
    "Ibrahimović",
    "Johansson",
    "Kowalczyk",
    "王",
];
const ROADS: [&str; 8] = [
    "Avenida de la Constitución",
    "Birkenstraße",
    "Chemin des Vergers",
    "Harbour Road",
    "Kastanienallee",
    "Rua do Almada",
    "Ulica Długa",
    "شارع النخيل",
];
const TOWNS: [&str; 8] =
    ["Abu Dhabi", "Bad Münstereifel", "Coimbra", "Gdańsk", "Greater Manchester", "Oderzo", "Saint-Étienne", "أبو ظبي"];
/// What mobile numbers begin with where these people live.
const PREFIXES: [&str; 6] = ["050", "052", "054", "055", "056", "058"];

/// The id of a subject.
pub(crate) fn id(number: u64) -> String {
    format!("cust-{number:08}")
}

/// The id of a subject with ten fields.
pub(crate) fn wide_id(number: u64) -> String {
    format!("wide-{:04}", number % WIDE)
}

/// A phone number in national form: no two of the first 60 million subjects have the same.
pub(crate) fn phone(number: u64) -> String {
    let (prefix, rest) = (PREFIXES[(number / 10_000_000 % 6) as usize], number % 10_000_000);
    format!("{prefix} {:03} {:04}", rest / 10_000, rest % 10_000)
}

/// `"fields": {…}` of a new subject.
pub(crate) fn fields(number: u64) -> String {
    let mut seeded = Seeded::new(number);
    let mut text = String::with_capacity(400);
    write_fields(&mut text, number, &mut seeded).expect("a string takes all that is written to it");
    text
}

fn write_fields(text: &mut String, number: u64, seeded: &mut Seeded) -> std::fmt::Result {
    let (given, family) = (one_of(&GIVEN, seeded), one_of(&FAMILY, seeded));
    let (nickname, mailbox, domain) = (word(seeded, 10), word(seeded, 7), word(seeded, 8));
    let (road, town) = (one_of(&ROADS, seeded), one_of(&TOWNS, seeded));
    let (house, flat, postcode) = (seeded.below(200) + 1, seeded.below(90) + 1, seeded.below(90_000) + 10_000);
    let (year, month, day) = (seeded.below(70) + 1935, seeded.below(12) + 1, seeded.below(28) + 1);
    let phone = phone(number);
    write!(text, r#""fields":{{"nickname":"{nickname}","name":"{given} {family}","#)?;
    write!(text, r#""phone":{{"national":"{phone}","region":"AE"}},"#)?;
    write!(text, r#""email":"{mailbox}{number}@{domain}.com","#)?;
    write!(text, r#""home_address":"Flat {flat}\n{house} {road}\n{postcode} {town}","#)?;
    write!(text, r#""birth_date":"{year}-{month:02}-{day:02}"}}"#)
}

/// `"fields": {…}` of a subject with ten of them.
pub(crate) fn wide_fields() -> String {
    let fields: Vec<_> = wide::FIELDS.iter().map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
    format!(r#""fields":{{{}}}"#, fields.join(","))
}

fn one_of<'a>(of: &[&'a str], seeded: &mut Seeded) -> &'a str {
    of[seeded.below(of.len() as u64) as usize]
}

fn word(seeded: &mut Seeded, len: u64) -> String {
    (0..len).map(|_| char::from(b'a' + seeded.below(26) as u8)).collect()
}
