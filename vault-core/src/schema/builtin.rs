//! The schema of a new vault.

use std::sync::LazyLock;

use super::{Document, Schema};

const TOML: &str = include_str!("builtin.toml");
const VERSION: u16 = 1;

static BUILTIN: LazyLock<Schema> = LazyLock::new(|| {
    let document = Document::from_toml(TOML).expect("the built-in document has its shape: a test reads it");
    Schema::compile(document, VERSION).expect("the built-in document fits together: a test compiles it")
});

pub(super) fn schema() -> Schema {
    BUILTIN.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_document_compiles_in_its_order() {
        let schema = schema();
        assert_eq!(schema.version, 1);
        let fields: Vec<_> = schema.fields().map(|field| field.name.as_str()).collect();
        assert_eq!(
            fields,
            ["nickname", "name", "phone", "email", "home_address", "birth_date", "ip_address", "device", "location"]
        );
        let purposes: Vec<_> = schema.purposes().map(|purpose| purpose.name.as_str()).collect();
        assert_eq!(purposes, ["account", "delivery", "support", "marketing", "security"]);
        assert!(schema.purposes().all(|purpose| !purpose.needs_consent()));
    }
}
