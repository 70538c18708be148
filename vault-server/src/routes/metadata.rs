//! What is known of values besides themselves: shown, changed, found the other way round, changed for many.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use vault_core::ids::Purpose;
use vault_core::time::Timestamp;
use vault_core::vault::{Applied, Metadata, MetadataEdit, MetadataLists, MetadataPage, MetadataPatch, MetadataQuery};

use super::page_size;
use super::shapes::Shown;
use crate::app::App;
use crate::body::{JsonBody, OfField, Shape, answer};
use crate::idempotency;
use crate::problem::Problem;

const NO_EFFECT: &str = "Accepted and without effect: the same change made again changes nothing.";

/// What is replaced: a key that is there replaces, null clears.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = MetadataPatch)]
pub(crate) struct Patch {
    /// Where the value came from: 1 to 128 bytes on one line.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>, example = "campaign-7")]
    source: Option<Option<String>>,
    /// What it may be used for, at most 32 declared purposes; null for whatever the schema allows.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    purposes: Option<Option<Vec<String>>>,
    /// Purposes that the subject objects to, at most 32.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    objections: Option<Option<Vec<String>>>,
    /// Whom it was shared with: at most 32 of 1 to 128 bytes on one line.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    recipients: Option<Option<Vec<String>>>,
    /// Whether automated decisions may use it.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<bool>)]
    automated: Option<Option<bool>>,
    /// When it has to be forgotten: a time that is yet to come.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    expires_at: Option<Option<String>>,
}

/// A key that is there, null or not.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl Shape<'_> for Patch {
    const SHAPE: &'static str = r#"{"source"?: text or null, "purposes"?: [name, …] or null, "objections"?: [name, …] or null, "recipients"?: [text, …] or null, "automated"?: true, false or null, "expires_at"?: time or null}"#;
}

/// Exactly one of these.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = MetadataCriterion)]
struct Criterion {
    /// Given for this purpose by name.
    purpose: Option<String>,
    /// The subject objects to this purpose.
    objection: Option<String>,
    /// Shared with him.
    recipient: Option<String>,
    /// Comes from there.
    source: Option<String>,
    /// Expires before this time, at most ten years ahead.
    expires_before: Option<String>,
    /// A read for this purpose would show something of it now.
    usable_for: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MetadataSearch)]
pub(crate) struct Search {
    /// Given for this purpose by name.
    purpose: Option<String>,
    /// The subject objects to this purpose.
    objection: Option<String>,
    /// Shared with him.
    recipient: Option<String>,
    /// Comes from there.
    source: Option<String>,
    /// Expires before this time, at most ten years ahead.
    expires_before: Option<String>,
    /// A read for this purpose would show something of it now.
    usable_for: Option<String>,
    /// 1 to 1000; 100 by default. A page of `usable_for` ends with a whole subject, so it may be a little longer.
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

impl Shape<'_> for Search {
    const SHAPE: &'static str = r#"{one of "purpose", "objection", "recipient", "source", "expires_before", "usable_for": text, "limit"?: number, "after"?: text}"#;
}

/// Members of lists.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = MetadataLists)]
struct Lists {
    purposes: Vec<String>,
    objections: Vec<String>,
    recipients: Vec<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MetadataApply)]
pub(crate) struct Apply {
    r#where: Criterion,
    /// What is replaced.
    #[serde(default)]
    set: Patch,
    /// What is put into lists; a value without purposes may be used for all anyway.
    #[serde(default)]
    add: Lists,
    /// What is taken out of lists; from a value without purposes, it leaves all other declared ones.
    #[serde(default)]
    remove: Lists,
}

impl Shape<'_> for Apply {
    const SHAPE: &'static str = r#"{"where": {one of "purpose", "objection", "recipient", "source", "expires_before", "usable_for": text}, "set"?: {…}, "add"?: {"purposes"?, "objections"?, "recipients"?: [text, …]}, "remove"?: {…}}"#;
}

/// What is known of a value.
#[derive(Serialize, ToSchema)]
#[schema(as = Metadata)]
pub(crate) struct MetadataAnswer<'a> {
    source: Option<&'a str>,
    /// Null: whatever the schema allows.
    purposes: Option<Vec<&'a str>>,
    objections: Vec<&'a str>,
    recipients: &'a [String],
    automated: Option<bool>,
    #[schema(value_type = Option<String>)]
    expires_at: Option<Shown<Timestamp>>,
}

impl<'a> MetadataAnswer<'a> {
    pub(crate) fn of(metadata: &'a Metadata) -> Self {
        let names = |purposes: &'a Vec<Purpose>| purposes.iter().map(Purpose::as_str).collect();
        Self {
            source: metadata.source.as_deref(),
            purposes: metadata.purposes.as_ref().map(names),
            objections: names(&metadata.objections),
            recipients: &metadata.recipients,
            automated: metadata.automated,
            expires_at: metadata.expires_at.map(Shown),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = MetadataFound)]
pub(crate) struct Found<'a> {
    data: Vec<FoundValue<'a>>,
    /// Where the next page starts; there may be one even if this one is empty.
    next: Option<&'a str>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MetadataFoundValue)]
struct FoundValue<'a> {
    subject: &'a str,
    field: &'a str,
}

impl<'a> Found<'a> {
    fn of(page: &'a MetadataPage) -> Self {
        let value = |found: &'a vault_core::vault::FoundValue| FoundValue {
            subject: found.subject.as_str(),
            field: found.field.as_str(),
        };
        Self { data: page.values.iter().map(value).collect(), next: page.next.as_deref() }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = MetadataApplied)]
pub(crate) struct AppliedAnswer {
    /// Values that were found; one that the change moves ahead of the search counts each time that it is.
    matched: u64,
    /// Values whose metadata is another now.
    changed: u64,
    /// Values left as they are: theirs would have grown too large, or they have expired.
    refused: u64,
}

/// What is known of a value besides itself.
#[utoipa::path(
    get, path = "/v1/subjects/{id}/fields/{name}/metadata", tag = "metadata",
    params(("id" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = MetadataAnswer))
)]
pub(crate) async fn show(State(app): State<App>, OfField(id, name): OfField) -> Result<Response, Problem> {
    let metadata = app.vault.metadata(&id, &name).await?;
    Ok(answer(StatusCode::OK, &MetadataAnswer::of(&metadata)))
}

/// Change what is known of a value: the next read goes by it. Answers all of it.
#[utoipa::path(
    patch, path = "/v1/subjects/{id}/fields/{name}/metadata", tag = "metadata",
    params(("id" = String, Path), ("name" = String, Path)), request_body = Patch,
    responses((status = 200, body = MetadataAnswer))
)]
pub(crate) async fn change(
    State(app): State<App>,
    OfField(id, name): OfField,
    body: JsonBody,
) -> Result<Response, Problem> {
    let patch = body.read::<Patch>()?.read()?;
    let metadata = app.vault.change_metadata(&id, &name, patch).await?;
    Ok(answer(StatusCode::OK, &MetadataAnswer::of(&metadata)))
}

/// All values, and their subjects, that answer to one criterion, in pages.
#[utoipa::path(
    post, path = "/v1/metadata/search", tag = "metadata", request_body = Search,
    params(("Idempotency-Key" = Option<String>, Header, description = idempotency::NO_EFFECT_ON_READS)),
    responses((status = 200, body = Found))
)]
pub(crate) async fn search(State(app): State<App>, body: JsonBody) -> Result<Response, Problem> {
    let Search { purpose, objection, recipient, source, expires_before, usable_for, limit, after } =
        body.read::<Search>()?;
    let query = Criterion { purpose, objection, recipient, source, expires_before, usable_for }.read()?;
    let page = app.vault.search_metadata(&query, after.as_deref(), page_size(limit)?).await?;
    Ok(answer(StatusCode::OK, &Found::of(&page)))
}

/// Change the metadata of all values that answer to one criterion. It goes on if the caller hangs up; after an error,
/// the same request does the rest.
#[utoipa::path(
    post, path = "/v1/metadata/apply", tag = "metadata", request_body = Apply,
    params(("Idempotency-Key" = Option<String>, Header, description = NO_EFFECT)),
    responses((status = 200, body = AppliedAnswer))
)]
pub(crate) async fn apply(State(app): State<App>, body: JsonBody) -> Result<Response, Problem> {
    let Apply { r#where, set, add, remove } = body.read::<Apply>()?;
    let edit = MetadataEdit { set: set.read()?, add: add.read()?, remove: remove.read()? };
    if edit == MetadataEdit::default() {
        return Err(Problem::malformed("nothing is to be changed: give `set`, `add` or `remove`"));
    }
    let Applied { matched, changed, refused } = app.vault.apply_metadata(r#where.read()?, edit).await?;
    Ok(answer(StatusCode::OK, &AppliedAnswer { matched, changed, refused }))
}

impl Patch {
    fn read(self) -> Result<MetadataPatch, Problem> {
        let list = |field, names: Option<Option<Vec<String>>>| names.map(|n| purposes(field, n.unwrap_or_default()));
        Ok(MetadataPatch {
            source: self.source,
            purposes: self.purposes.map(|p| p.map(|p| purposes("purposes", p)).transpose()).transpose()?,
            objections: list("objections", self.objections).transpose()?,
            recipients: self.recipients.map(Option::unwrap_or_default),
            automated: self.automated,
            expires_at: self.expires_at.map(|at| at.map(|at| time("expires_at", &at)).transpose()).transpose()?,
        })
    }
}

impl Lists {
    fn read(self) -> Result<MetadataLists, Problem> {
        Ok(MetadataLists {
            purposes: purposes("purposes", self.purposes)?,
            objections: purposes("objections", self.objections)?,
            recipients: self.recipients,
        })
    }
}

impl Criterion {
    fn read(self) -> Result<MetadataQuery, Problem> {
        let one = |field, name: String| purpose(field, &name);
        let given = [
            self.purpose.map(|name| one("purpose", name).map(MetadataQuery::Purpose)),
            self.objection.map(|name| one("objection", name).map(MetadataQuery::Objection)),
            self.recipient.map(|text| Ok(MetadataQuery::Recipient(text))),
            self.source.map(|text| Ok(MetadataQuery::Source(text))),
            self.expires_before.map(|at| time("expires_before", &at).map(MetadataQuery::ExpiresBefore)),
            self.usable_for.map(|name| one("usable_for", name).map(MetadataQuery::UsableFor)),
        ];
        let told = "give exactly one of purpose, objection, recipient, source, expires_before and usable_for";
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(query), None) => query,
            _ => Err(Problem::malformed(told)),
        }
    }
}

fn purposes(field: &'static str, names: Vec<String>) -> Result<Vec<Purpose>, Problem> {
    names.iter().map(|name| purpose(field, name)).collect()
}

fn purpose(field: &'static str, name: &str) -> Result<Purpose, Problem> {
    Purpose::parse(name).map_err(|_| Problem::invalid(field, "the name of a purpose"))
}

fn time(field: &'static str, text: &str) -> Result<Timestamp, Problem> {
    Timestamp::parse(text).ok_or_else(|| Problem::invalid(field, "an RFC 3339 time"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_that_is_there_replaces_and_null_clears() {
        let read = |text: &str| serde_json::from_str::<Patch>(text).unwrap().read().unwrap();
        assert_eq!(read("{}"), MetadataPatch::default());
        let cleared = read(r#"{"source": null, "purposes": null, "objections": null, "expires_at": null}"#);
        assert_eq!((cleared.source, cleared.purposes, cleared.recipients), (Some(None), Some(None), None));
        assert_eq!((cleared.objections, cleared.expires_at), (Some(Vec::new()), Some(None)));
        let set = read(r#"{"purposes": ["marketing"], "automated": false, "expires_at": "2030-01-02T00:00:00Z"}"#);
        assert_eq!(set.purposes.unwrap().unwrap()[0].as_str(), "marketing");
        assert_eq!(
            (set.automated, set.expires_at),
            (Some(Some(false)), Some(Timestamp::parse("2030-01-02T00:00:00Z")))
        );
        for bad in [r#"{"from": "x"}"#, r#"{"source": 1}"#, r#"{"source": "a", "source": "b"}"#, r#"{"purposes": "m"}"#]
        {
            assert!(serde_json::from_str::<Patch>(bad).is_err(), "{bad}");
        }
        let bad = serde_json::from_str::<Patch>(r#"{"expires_at": "soon"}"#).unwrap().read().unwrap_err();
        assert_eq!(bad.field.as_deref(), Some("expires_at"));
    }

    #[test]
    fn one_criterion_and_no_more() {
        let read = |text: &str| serde_json::from_str::<Criterion>(text).unwrap().read();
        assert_eq!(read(r#"{"source": "x"}"#), Ok(MetadataQuery::Source("x".to_owned())));
        for bad in ["{}", r#"{"source": "x", "recipient": "x"}"#, r#"{"source": null}"#] {
            assert_eq!(read(bad).unwrap_err().status(), 400, "{bad}");
        }
        assert_eq!(read(r#"{"purpose": "Jane Doe"}"#).unwrap_err().status(), 422);
    }
}
