//! A subject with ten fields, under the schema that docs/schema has.

/// The schema document, as TOML.
pub const SCHEMA: &str = include_str!("../../docs/schema/privacy-policy.toml");

/// The fields and their JSON, all in one compartment, as a registration is.
pub const FIELDS: [(&str, &str); 10] = [
    ("nickname", r#""browny""#),
    ("name", r#""Joshua Brown""#),
    ("phone", r#""+971501236091""#),
    ("email", r#""dwaters2@mclean.com""#),
    ("home_address", r#""28th Street\nAbu Dhabi""#),
    ("birth_date", r#""1990-02-28""#),
    ("ip_address", r#""214.3.10.24""#),
    ("device", r#"{"model":"Pixel 9"}"#),
    ("location", r#"{"lat":24.45,"lon":54.38}"#),
    ("avatar", r#""https://img.example/7.png""#),
];
