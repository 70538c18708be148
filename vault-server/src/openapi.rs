//! The routes and their OpenAPI document, both from the same list of handlers.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, OpenApi as Document, SecurityRequirement};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::auth::{Access, ROUTES};
use crate::routes::{
    accesses, audit, backups, batch, callers, certificates, erasures, export, fields, health, keys, lock, lookups,
    metadata, notes, schema, slots, status, subjects, tokens,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "User data vault",
        description = "Keeps what is personal, sealed; rotates its keys while it runs; forgets for good. \
                       Times are RFC 3339 in UTC. Every error is a problem document (RFC 9457)."
    ),
    components(schemas(ProblemDocument))
)]
struct Base;

/// An error (RFC 9457), as `application/problem+json`. Never holds a value.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument {
    /// `urn:udv:problem:` and the code.
    r#type: String,
    title: String,
    status: u16,
    /// For programs.
    code: String,
    /// What happened and what to do next.
    detail: String,
    /// The field or parameter that is refused.
    field: Option<String>,
    /// The rule of the policy that refused.
    rule: Option<String>,
}

/// The document as it is sent.
#[derive(Clone)]
pub(crate) struct Served(Bytes);

impl IntoResponse for Served {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], self.0).into_response()
    }
}

/// The router of every documented route, and the document.
pub(crate) fn assemble() -> (Router<App>, Served) {
    let (router, document) = all().split_for_parts();
    let mut document = serde_json::to_value(&document).unwrap_or_default();
    for &(method, path, access, _) in ROUTES {
        // Asked for by index, it would be made where it is not there.
        let operation = document["paths"].get_mut(path).and_then(|item| item.get_mut(method.to_lowercase()));
        operation.into_iter().for_each(|operation| complete(operation, access));
    }
    if let Some(paths) = document["paths"].as_object_mut() {
        *paths = std::mem::take(paths).into_iter().map(|(path, item)| (described(&path), item)).collect();
    }
    (router, Served(document.to_string().into()))
}

/// A route's template as OpenAPI writes it, which has no word for what may hold slashes.
fn described(template: &str) -> String {
    template.replace("{*", "{")
}

/// What holds for every operation: any error is a problem document, and who may call it.
fn complete(operation: &mut Value, access: Access) {
    let Some(operation) = operation.as_object_mut() else { return };
    let problem = json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
    operation["responses"]["default"] =
        json!({ "description": "A problem", "content": { "application/problem+json": problem } });
    // OpenAPI wants a description of each response.
    for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        let reason = status.parse().ok().and_then(|status: StatusCode| status.canonical_reason());
        if let (Some(reason), Some(response)) = (reason, response.as_object_mut()) {
            response.entry("description").or_insert_with(|| json!(reason));
        }
    }
    match access {
        Access::Open => operation.insert("security".to_owned(), json!([])),
        Access::Roles(roles) => {
            let words: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
            operation.insert("x-roles".to_owned(), json!(words))
        }
    };
}

fn all() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(base())
        .routes(routes!(status::show))
        .routes(routes!(schema::show, schema::put))
        .routes(routes!(subjects::describe, subjects::shred))
        .routes(routes!(fields::read, fields::patch))
        .routes(routes!(fields::read_one, fields::put_one, fields::forget_one))
        .routes(routes!(notes::consents))
        .routes(routes!(notes::give_consent, notes::withdraw_consent))
        .routes(routes!(notes::restrict, notes::unrestrict))
        .routes(routes!(notes::add_hold, notes::release_hold))
        .routes(routes!(notes::held))
        .routes(routes!(metadata::show, metadata::change))
        .routes(routes!(metadata::search))
        .routes(routes!(metadata::apply))
        .routes(routes!(export::export))
        .routes(routes!(accesses::of_subject))
        .routes(routes!(accesses::of_caller))
        .routes(routes!(lookups::look_up))
        .routes(routes!(tokens::create))
        .routes(routes!(tokens::resolve))
        .routes(routes!(tokens::revoke))
        .routes(routes!(batch::write))
        .routes(routes!(batch::read))
        .routes(routes!(erasures::create, erasures::list))
        .routes(routes!(erasures::show, erasures::cancel))
        .routes(routes!(erasures::approve))
        .routes(routes!(certificates::of_erasure))
        .routes(routes!(certificates::of_subjects))
        .routes(routes!(audit::checkpoint))
        .routes(routes!(audit::entries))
        .routes(routes!(audit::tile))
        .routes(routes!(audit::proof))
        .routes(routes!(audit::consistency))
        .routes(routes!(audit::keys))
        .routes(routes!(audit::rotate))
        .routes(routes!(keys::show))
        .routes(routes!(keys::rotate, keys::rotations))
        .routes(routes!(keys::rotation, keys::change_rotation))
        .routes(routes!(slots::list))
        .routes(routes!(slots::rotate))
        .routes(routes!(backups::make, backups::list))
        .routes(routes!(backups::confirm))
        .routes(routes!(backups::release))
        .routes(routes!(backups::abandon))
        .routes(routes!(lock::lock))
        .routes(routes!(lock::unlock))
        .routes(routes!(callers::create, callers::list))
        .routes(routes!(callers::revoke))
        .routes(routes!(callers::rotate))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
}

fn base() -> Document {
    let mut document = Base::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_with(Components::new).add_security_scheme("api_token", bearer);
    document.security = Some(vec![SecurityRequirement::new("api_token", Vec::<String>::new())]);
    document
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::auth::TAKE_PARAMETERS;
    use std::collections::BTreeSet;

    fn documented() -> serde_json::Value {
        serde_json::from_slice(&assemble().1.0).unwrap()
    }

    #[test]
    fn every_documented_route_has_its_access_and_the_other_way_round() {
        let document = documented();
        let mut documented = BTreeSet::from([("GET".to_owned(), "/openapi.json".to_owned())]);
        for (path, item) in document["paths"].as_object().unwrap() {
            documented.extend(item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())));
        }
        let guarded = ROUTES.iter().map(|(method, path, ..)| ((*method).to_owned(), described(path))).collect();
        assert_eq!(documented, guarded);
    }

    #[test]
    fn what_changes_something_takes_the_parameters_that_are_documented() {
        let document = documented();
        let takes_some = |path: &&str, method: &&str| {
            let parameters = &document["paths"][*path][method.to_lowercase()]["parameters"];
            parameters.as_array().into_iter().flatten().any(|parameter| parameter["in"] == "query")
        };
        let changing = ROUTES.iter().filter(|(method, ..)| *method != "GET").map(|(method, path, ..)| (*method, *path));
        let documented: BTreeSet<_> = changing.filter(|(method, path)| takes_some(path, method)).collect();
        assert_eq!(documented, TAKE_PARAMETERS.iter().copied().collect());
    }

    #[test]
    fn every_request_that_makes_something_says_what_an_idempotency_key_does() {
        let document = documented();
        for path in [
            "erasures",
            "keys/rotations",
            "callers",
            "callers/{id}/rotate",
            "lookups",
            "tokens",
            "tokens/resolve",
            "batch/write",
            "batch/read",
            "metadata/search",
            "metadata/apply",
            "audit/accesses",
        ] {
            let parameters = document["paths"][format!("/v1/{path}")]["post"]["parameters"].clone();
            let key = parameters.as_array().unwrap().iter().find(|p| p["name"] == "Idempotency-Key").unwrap();
            assert_eq!((&key["in"], &key["required"]), (&json!("header"), &json!(false)), "{path}");
            assert!(key["description"].as_str().unwrap().len() > 20, "{path}");
        }
        let erasures = &document["paths"]["/v1/erasures"]["post"]["responses"]["201"]["headers"];
        assert!(erasures.get("Idempotency-Replayed").is_some());
    }

    #[test]
    fn every_response_has_a_description() {
        let document = documented();
        let operations = document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap());
        for (method, operation) in operations {
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(response["description"].is_string(), "{method} {} {status}", operation["operationId"]);
            }
        }
    }

    #[test]
    fn every_reference_resolves() {
        let document = documented();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
        assert!(document.pointer("/components/schemas/Problem").is_some());
    }
}
