//! Value tokens: random stand-ins for a field of a subject, created, resolved and revoked, one by one or in batches.

use std::borrow::Cow;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vault_core::Error;
use vault_core::ids::{CallerId, Purpose};
use vault_core::schema::View;
use vault_core::time::Timestamp;
use vault_core::vault::{CreatedToken, NewToken, ResolveItem, Resolved, TokenShape};
use zeroize::Zeroizing;

use super::batch::{Results, bounded, fill, parse_all, unlocked};
use super::shapes::{Shown, Value, view};
use crate::app::App;
use crate::auth::Who;
use crate::body::{JsonBody, Shape, answer, field_name, subject};
use crate::idempotency;
use crate::openapi::ProblemDocument;
use crate::problem::{Kind, Problem};

/// A token, or `{"items": […]}` with up to 1,000.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateToken<'a> {
    #[serde(borrow)]
    #[schema(value_type = String)]
    subject: Cow<'a, str>,
    /// A field that the subject holds. The token stands for the field, and resolves to what it holds then.
    #[serde(borrow)]
    #[schema(value_type = String)]
    field: Cow<'a, str>,
    /// How long it resolves, in seconds; up to 10 years.
    ttl: Option<u64>,
    /// It resolves once.
    #[serde(default)]
    single_use: bool,
    /// `random` (default), or one that is made like the values of the field's type and never is a valid one: `phone`,
    /// `card` or `email`.
    #[schema(value_type = Option<String>)]
    shape: Option<Cow<'a, str>>,
    /// The only purpose it resolves for.
    #[schema(value_type = Option<String>)]
    purpose: Option<Cow<'a, str>>,
    /// Whether it resolves for this caller only.
    #[serde(default)]
    bind_caller: bool,
}

impl<'a> Shape<'a> for CreateToken<'a> {
    const SHAPE: &'static str = r#"{"subject": id, "field": name, "ttl"?: seconds, "single_use"?: true or false, "shape"?: text, "purpose"?: text, "bind_caller"?: true or false}, or {"items": [such, …]}"#;
}

/// A token, or `{"items": […]}` with up to 1,000.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResolveToken<'a> {
    #[serde(borrow)]
    #[schema(value_type = String)]
    token: Cow<'a, str>,
    /// `full` (default, and needs a purpose), `masked` or `last4`.
    #[schema(value_type = Option<String>)]
    view: Option<Cow<'a, str>>,
}

impl<'a> Shape<'a> for ResolveToken<'a> {
    const SHAPE: &'static str = r#"{"token": text, "view"?: text}, or {"items": [such, …]}"#;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Items<T> {
    items: Vec<T>,
}

/// Tells a batch from a single request.
#[derive(Deserialize)]
struct Head {
    items: Option<IgnoredAny>,
}

macro_rules! batch_of {
    ($one:ident) => {
        impl<'a> Shape<'a> for Items<$one<'a>> {
            const SHAPE: &'static str = $one::SHAPE;
        }
    };
}

batch_of!(CreateToken);
batch_of!(ResolveToken);

impl<'a> Shape<'a> for Head {
    const SHAPE: &'static str = r#"{"items": [such, …]}, or of a single request"#;
}

#[derive(Serialize, ToSchema)]
pub(crate) struct TokenAnswer<'a> {
    /// Shown this once.
    token: &'a str,
    /// When it stops resolving.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    expires_at: Option<Shown<Timestamp>>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct TokenResult<'a> {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    expires_at: Option<Shown<Timestamp>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ProblemDocument>)]
    problem: Option<&'a Problem>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct TokenValue<'a> {
    #[schema(value_type = serde_json::Value)]
    value: Value<'a>,
    /// The view, if it is lower than was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    view: Option<Shown<View>>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct TokenValueResult<'a> {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    value: Option<Value<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    view: Option<Shown<View>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ProblemDocument>)]
    problem: Option<&'a Problem>,
}

/// Create a value token, or many at once.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", request_body = CreateToken,
    params(("Idempotency-Key" = Option<String>, Header, description = idempotency::NO_EFFECT_ON_TOKENS)),
    responses(
        (status = 201, body = TokenAnswer),
        (status = 200, body = Results<TokenResult>, description = "A batch: each item has its own answer")
    )
)]
pub(crate) async fn create(State(app): State<App>, who: Who, body: JsonBody) -> Result<Response, Problem> {
    if body.read::<Head>()?.items.is_none() {
        let new = body.read::<CreateToken<'_>>()?.parse(who.caller.id)?;
        let made = app.vault.create_token(new).await?;
        let shown = TokenAnswer { token: &made.token, expires_at: made.expires_at.map(Shown) };
        return Ok(answer(StatusCode::CREATED, &shown));
    }
    let items = body.read::<Items<CreateToken<'_>>>()?.items;
    bounded(items.len())?;
    unlocked(&app)?;
    let (parsed, mut outcomes) = parse_all(&items, |item| item.parse(who.caller.id));
    fill(&mut outcomes, app.vault.create_tokens(&parsed).await.into_iter().map(|made| made.map_err(Problem::from)));
    let results = outcomes.iter().flatten().map(TokenResult::of).collect();
    Ok(answer(StatusCode::OK, &Results { results }))
}

impl CreateToken<'_> {
    fn parse(&self, caller: CallerId) -> Result<NewToken, Problem> {
        let shape = self.shape.as_deref().map_or(Some(TokenShape::Random), TokenShape::parse);
        let purpose = self.purpose.as_deref().map(Purpose::parse).transpose();
        Ok(NewToken {
            subject: subject(&self.subject)?,
            field: field_name(&self.field)?,
            ttl: self.ttl,
            single_use: self.single_use,
            shape: shape.ok_or_else(|| Problem::invalid("shape", "one of random, phone, card, email"))?,
            purpose: purpose.map_err(|_| Problem::invalid("purpose", "a purpose that the schema declares"))?,
            caller: self.bind_caller.then_some(caller),
        })
    }
}

impl<'a> TokenResult<'a> {
    fn of(outcome: &'a Result<CreatedToken, Problem>) -> Self {
        match outcome {
            Ok(made) => {
                let (token, expires_at) = (Some(made.token.as_str()), made.expires_at.map(Shown));
                Self { status: StatusCode::CREATED.as_u16(), token, expires_at, problem: None }
            }
            Err(problem) => {
                Self { status: problem.status().as_u16(), token: None, expires_at: None, problem: Some(problem) }
            }
        }
    }
}

/// Read what a value token stands for, or many. A read like any other: the purpose decides. What looks like a shaped token of
/// few digits and is none is counted against the caller's budget of lookups (429).
#[utoipa::path(
    post, path = "/v1/tokens/resolve", tag = "tokens", request_body = ResolveToken,
    params(
        ("Udv-Purpose" = Option<String>, Header, description = "Why"),
        ("Idempotency-Key" = Option<String>, Header, description = idempotency::NO_EFFECT_ON_READS)
    ),
    responses(
        (status = 200, body = TokenValue, description = "One; of a batch `{\"results\": [{\"status\", \"value\"}, …]}`"),
        (status = 404, description = "It does not resolve, whatever the reason")
    )
)]
pub(crate) async fn resolve(State(app): State<App>, who: Who, body: JsonBody) -> Result<Response, Problem> {
    if body.read::<Head>()?.items.is_none() {
        let one = body.read::<ResolveToken<'_>>()?;
        let resolved = resolve_all(&app, &who, &[one.item()?]).await?.pop();
        let resolved = resolved.ok_or_else(unknown)??;
        let (value, view) = (Value(&resolved.value), resolved.lowered.map(Shown));
        return Ok(answer(StatusCode::OK, &TokenValue { value, view }));
    }
    let items = body.read::<Items<ResolveToken<'_>>>()?.items;
    bounded(items.len())?;
    unlocked(&app)?;
    let (parsed, mut outcomes) = parse_all(&items, ResolveToken::item);
    fill(&mut outcomes, resolve_all(&app, &who, &parsed).await?.into_iter());
    let results = outcomes.iter().flatten().map(TokenValueResult::of).collect();
    Ok(answer(StatusCode::OK, &Results { results }))
}

/// The one place where tokens are resolved for a caller. What could be guessed and is none is counted against its budget
/// of lookups, as the guess that it is: spent before it is known to be one, for a hit must not slip through.
async fn resolve_all(
    app: &App,
    who: &Who,
    items: &[ResolveItem<'_>],
) -> Result<Vec<Result<Resolved, Problem>>, Problem> {
    let guesses: Vec<bool> = items.iter().map(|item| TokenShape::is_guessable(item.token)).collect();
    let units = count(guesses.iter().copied());
    if units > 0 {
        app.budget.spend(&who.caller, units)?;
    }
    let outcomes = app.vault.resolve_tokens(items, &who.reader, who.caller.id).await;
    let missed = outcomes.iter().map(|outcome| matches!(outcome, Err(Error::NotFound(_))));
    app.budget.give_back(&who.caller, units, count(missed.zip(guesses).map(|(missed, guess)| missed && guess)));
    Ok(outcomes.into_iter().map(|outcome| outcome.map_err(told)).collect())
}

fn count(of: impl Iterator<Item = bool>) -> u32 {
    of.map(u32::from).sum()
}

impl ResolveToken<'_> {
    fn item(&self) -> Result<ResolveItem<'_>, Problem> {
        let view = self.view.as_deref().map_or(Ok(View::Full), |name| view(Some(name)))?;
        Ok(ResolveItem { token: &self.token, view })
    }
}

impl<'a> TokenValueResult<'a> {
    fn of(outcome: &'a Result<Resolved, Problem>) -> Self {
        match outcome {
            Ok(resolved) => {
                let (value, view) = (Some(Value(&resolved.value)), resolved.lowered.map(Shown));
                Self { status: StatusCode::OK.as_u16(), value, view, problem: None }
            }
            Err(problem) => Self { status: problem.status().as_u16(), value: None, view: None, problem: Some(problem) },
        }
    }
}

/// Revoke a value token; it resolves no more at once.
#[utoipa::path(
    delete, path = "/v1/tokens/{token}", tag = "tokens", params(("token" = String, Path)),
    responses((status = 204, description = "Revoked"), (status = 404, description = "It does not resolve anyway"))
)]
pub(crate) async fn revoke(State(app): State<App>, who: Who, OfToken(token): OfToken) -> Result<Response, Problem> {
    // A guess that hits would take away a token: it counts as one that is tried out.
    let units = u32::from(TokenShape::is_guessable(&token));
    if units > 0 {
        app.budget.spend(&who.caller, units)?;
    }
    let revoked = app.vault.revoke_token(&token, who.caller.role, who.caller.id).await;
    app.budget.give_back(&who.caller, units, if revoked.is_ok() { 0 } else { units });
    revoked.map(|()| StatusCode::NO_CONTENT.into_response()).map_err(told)
}

/// The token that a path names.
pub(crate) struct OfToken(Zeroizing<String>);

impl<S: Send + Sync> FromRequestParts<S> for OfToken {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(token) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| unknown())?;
        Ok(Self(Zeroizing::new(token)))
    }
}

fn told(error: Error) -> Problem {
    match error {
        Error::NotFound(_) => unknown(),
        other => other.into(),
    }
}

fn unknown() -> Problem {
    let told = "no such value token: it is unknown, past its end, used up or revoked, or what it stood for is gone";
    Problem::new(Kind::NotFound, told)
}
