//! `token create|resolve|revoke`: value tokens, the stand-ins for a field.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::Context;
use super::subject::check_id;
use crate::address::segment;
use crate::args::{CreateToken, ResolveToken, ShapeChoice, TokenCommand, TokenView};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::printable;
use crate::secret;

#[derive(Serialize)]
struct NewToken<'a> {
    subject: &'a str,
    field: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    single_use: bool,
    shape: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    purpose: Option<&'a str>,
    bind_caller: bool,
}

#[derive(Deserialize)]
struct Created {
    token: Zeroizing<String>,
    expires_at: Option<String>,
}

#[derive(Serialize)]
struct Asked<'a> {
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    view: Option<&'static str>,
}

#[derive(Deserialize)]
struct Resolved {
    value: Box<RawValue>,
    view: Option<String>,
}

/// Runs a `token` command.
pub(crate) fn run(command: &TokenCommand, context: &Context) -> Result<Exit, Failure> {
    match command {
        TokenCommand::Create(args) => create(args, &context.client()?, context),
        TokenCommand::Resolve(args) => resolve(args, &context.client()?, context),
        TokenCommand::Revoke { stand_in } => {
            revoke(stand_in, &context.client()?)?;
            context.ui.note("revoked");
            Ok(Exit::Done)
        }
    }
}

fn create(args: &CreateToken, client: &Client, context: &Context) -> Result<Exit, Failure> {
    check_id(&args.id).map_err(Failure::usage)?;
    let body = NewToken {
        subject: &args.id,
        field: &args.field,
        ttl: args.ttl,
        single_use: args.single_use,
        shape: args.shape.name(),
        purpose: args.purpose.as_deref(),
        bind_caller: args.bind_caller,
    };
    let answer = client.post("/v1/tokens", &body)?;
    if context.ui.wants_json() {
        context.ui.line(answer.text()?)?;
        return Ok(Exit::Done);
    }
    let created: Created = answer.json()?;
    if let Some(end) = &created.expires_at {
        context.ui.note(&format!("resolves until {}", printable(end)));
    }
    context.ui.line(&printable(&created.token))?;
    Ok(Exit::Done)
}

fn resolve(args: &ResolveToken, client: &Client, context: &Context) -> Result<Exit, Failure> {
    let token = given(&args.stand_in)?;
    let body = Asked { token: &token, view: args.view.map(TokenView::name) };
    let answer = client.post_for("/v1/tokens/resolve", &body, args.purpose.as_deref()).map_err(hinted)?;
    if context.ui.wants_json() {
        context.ui.line(answer.text()?)?;
        return Ok(Exit::Done);
    }
    let resolved: Resolved = answer.json()?;
    if let Some(view) = &resolved.view {
        context.ui.note(&format!("shown as {}: the policy allows no more", printable(view)));
    }
    let text = serde_json::from_str::<Zeroizing<String>>(resolved.value.get());
    context.ui.line(&printable(text.as_ref().map_or(resolved.value.get(), |text| text.as_str())))?;
    Ok(Exit::Done)
}

fn revoke(stand_in: &str, client: &Client) -> Result<(), Failure> {
    client.delete(&format!("/v1/tokens/{}", segment(&given(stand_in)?))).map(|_| ())
}

/// The token itself, from standard input where it is `-`.
fn given(argument: &str) -> Result<Zeroizing<String>, Failure> {
    let token = match argument {
        "-" => secret::read_line()?,
        token => Zeroizing::new(token.to_owned()),
    };
    if token.is_empty() { Err(Failure::usage("the value token is empty")) } else { Ok(token) }
}

fn hinted(failure: Failure) -> Failure {
    match failure.exit {
        Exit::NotFound => {
            failure.hint("it may be past its end or used up, or the field or subject behind it is forgotten")
        }
        _ => failure,
    }
}

impl ShapeChoice {
    fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Phone => "phone",
            Self::Card => "card",
            Self::Email => "email",
        }
    }
}

impl TokenView {
    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Masked => "masked",
            Self::Last4 => "last4",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::args::Globals;
    use crate::fake::FakeVault;

    fn context() -> Context {
        Context { ui: Globals::default().ui(), globals: Globals::default() }
    }

    fn creating(id: &str) -> CreateToken {
        CreateToken {
            id: id.to_owned(),
            field: "phone".to_owned(),
            ttl: Some(60),
            single_use: true,
            shape: ShapeChoice::Phone,
            purpose: Some("delivery".to_owned()),
            bind_caller: false,
        }
    }

    #[test]
    fn asks_for_what_the_flags_say() {
        let fake = FakeVault::answering(vec![
            (201, r#"{"token":"+999123456789012","expires_at":"2026-01-01T00:00:00.000Z"}"#.into()),
            (200, r#"{"value":"+971501238301"}"#.into()),
            (204, String::new()),
        ]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        assert!(matches!(create(&creating("cust-1"), &client, &context()), Ok(Exit::Done)));
        let args = ResolveToken {
            stand_in: "udt_1".to_owned(),
            purpose: Some("delivery".to_owned()),
            view: Some(TokenView::Masked),
        };
        assert!(matches!(resolve(&args, &client, &context()), Ok(Exit::Done)));
        revoke("+999123456789012", &client).unwrap();
        let asked = fake.requests();
        assert!(asked[0].ends_with(
            r#"{"subject":"cust-1","field":"phone","ttl":60,"single_use":true,"shape":"phone","purpose":"delivery","bind_caller":false}"#
        ));
        assert!(asked[1].to_lowercase().contains("udv-purpose: delivery"), "{}", asked[1]);
        assert!(asked[1].ends_with(r#"{"token":"udt_1","view":"masked"}"#));
        assert!(asked[2].starts_with("DELETE /v1/tokens/%2B999123456789012 ") || asked[2].contains("/v1/tokens/+999"));
    }

    #[test]
    fn refusals_end_with_their_codes() {
        let problem = |status: u16, code: &str| (status, format!(r#"{{"status":{status},"code":"{code}"}}"#));
        let fake = FakeVault::answering(vec![
            problem(404, "not_found"),
            problem(403, "forbidden"),
            problem(410, "shredded"),
            problem(404, "not_found"),
        ]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let args = ResolveToken { stand_in: "udt_1".to_owned(), purpose: None, view: None };
        let unknown = resolve(&args, &client, &context()).unwrap_err();
        assert_eq!(unknown.exit as u8, 3);
        assert!(unknown.hint.unwrap().contains("used up"));
        assert_eq!(resolve(&args, &client, &context()).unwrap_err().exit as u8, 4);
        assert_eq!(create(&creating("gone"), &client, &context()).unwrap_err().exit as u8, 7);
        assert_eq!(revoke("udt_1", &client).unwrap_err().exit as u8, 3);
        assert_eq!(create(&creating(""), &client, &context()).unwrap_err().exit as u8, 2);
        assert_eq!(revoke("", &client).unwrap_err().exit as u8, 2);
    }
}
