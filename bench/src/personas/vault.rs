//! The personas' operations over the vault's API.

use std::fmt::Write;
use std::path::Path;
use std::rc::Rc;

use serde_json::{Value, json};
use tokio::task::LocalSet;
use vault_core::schema::Document;
use vault_core::store::EngineName;
use vault_core::time::Timestamp;

use super::Performer;
use super::operation::{DELETED, GONE, OF_USER, Operation, PURPOSES, READ, Record};
use crate::Failure;
use crate::http::{Connection, Endpoint, Request};
use crate::server::{Program, Server, Vault};

/// Subjects in a request that loads.
const BATCH: u64 = 250;
/// Connections that give the loaded records their metadata.
const LOADERS: u16 = 64;
/// Seconds of a day.
const DAY: u64 = 24 * 3600;

/// A vault that holds the records.
pub(super) struct Bed {
    server: Server,
}

impl Bed {
    /// Makes and fills one.
    pub(super) async fn load(program: &Program, dir: &Path, engine: EngineName, records: u64) -> Result<Bed, Failure> {
        let server = Vault::make(program, dir.to_owned(), engine)?.start(&[])?;
        let mut connection = server.endpoint.connect().await?;
        let body = Document::from_toml(&schema())?.to_json();
        connection.expect(&Request::new("PUT", "/v1/schema", body)).await?;
        for first in (0..records / OF_USER).step_by(usize::try_from(BATCH)?) {
            values(&mut connection, first..(first + BATCH).min(records / OF_USER)).await?;
        }
        values(&mut connection, records..records + GONE).await?;
        for user in records..records + GONE {
            connection.expect(&Request::new("DELETE", subject(user), "")).await?;
        }
        describe_all(&server.endpoint, records).await?;
        Ok(Bed { server })
    }

    /// Connections that perform.
    pub(super) async fn performers(&self, count: u16) -> Result<Vec<Connection>, Failure> {
        self.server.endpoint.connect_all(count).await
    }

    /// Ends the server.
    pub(super) fn stop(self) -> Result<(), Failure> {
        self.server.stop()
    }
}

fn schema() -> String {
    // `account` is what requests name that read no values.
    let mut text = "title = \"Personas\"\n[purposes.account]\nbasis = \"contract\"\n".to_owned();
    for purpose in 0..PURPOSES {
        let automated = purpose % 2 == 0;
        let name = purpose_name(purpose);
        write!(text, "[purposes.{name}]\nbasis = \"contract\"\ndefault_view = \"full\"\nautomated = {automated}\n")
            .expect("a string takes all that is written to it");
    }
    for field in 0..OF_USER {
        write!(text, "[fields.record_{field}]\ntype = \"text\"\n").expect("a string takes all that is written to it");
    }
    text
}

async fn values(connection: &mut Connection, users: std::ops::Range<u64>) -> Result<(), Failure> {
    let item = |user: u64| {
        let fields = (0..OF_USER).map(|field| {
            let record = Record(user * OF_USER + field);
            (field_name(record), Value::from(record.value()))
        });
        json!({ "subject": user_id(user), "fields": fields.collect::<serde_json::Map<_, _>>() })
    };
    let items: Vec<_> = users.map(item).collect();
    connection.expect(&Request::post("/v1/batch/write", json!({ "items": items }).to_string())).await.map(drop)
}

/// Gives every record its metadata.
async fn describe_all(endpoint: &Endpoint, records: u64) -> Result<(), Failure> {
    let (local, next) = (LocalSet::new(), Rc::new(std::cell::Cell::new(0)));
    let mut tasks = Vec::new();
    for mut connection in endpoint.connect_all(LOADERS).await? {
        let next = Rc::clone(&next);
        tasks.push(local.spawn_local(async move {
            loop {
                let record = Record(next.replace(next.get() + 1));
                if record.0 >= records {
                    return Ok::<_, Failure>(());
                }
                connection.expect(&metadata_of(record)).await?;
            }
        }));
    }
    local.await;
    for task in tasks {
        task.await??;
    }
    Ok(())
}

fn metadata_of(record: Record) -> Request {
    let objections: Vec<_> = record.objection().map(purpose_name).into_iter().collect();
    let body = json!({
        "source": "registration", "purposes": [purpose_name(record.purpose())], "objections": objections,
        "recipients": [recipient_name(record.recipient())], "automated": record.automated(),
        "expires_at": expiry(record.expires()),
    });
    Request::new("PATCH", metadata_path(record), body.to_string())
}

impl Performer for Connection {
    async fn perform(&mut self, operation: &Operation) -> Result<(), Failure> {
        match *operation {
            Operation::Create { record } => {
                let record = Record(record);
                let fields = json!({ "fields": { field_name(record): record.value() } });
                self.done(&Request::new("PATCH", format!("{}/fields", subject(record.user())), fields.to_string()))
                    .await?;
                self.done(&metadata_of(record)).await
            }
            Operation::DeleteByPurpose { purpose } => {
                self.delete_found(json!({ "purpose": purpose_name(purpose), "limit": DELETED })).await
            }
            Operation::DeleteByExpiry { day } => {
                self.delete_found(json!({ "expires_before": expiry(day), "limit": DELETED })).await
            }
            Operation::DeleteByUser { user } => self.done(&Request::new("DELETE", subject(user), "")).await,
            Operation::DeleteByKey { record } => {
                self.done(&Request::new("DELETE", field_path(Record(record)), "")).await
            }
            Operation::ChangeMetadataByPurpose { purpose, new } => {
                self.apply(json!({ "purpose": purpose_name(purpose) }), new).await
            }
            Operation::ChangeMetadataByRecipient { recipient, new } => {
                self.apply(json!({ "recipient": recipient_name(recipient) }), new).await
            }
            Operation::ChangeMetadataByUser { user, new } => {
                for field in 0..OF_USER {
                    self.change_metadata(Record(user * OF_USER + field), new).await?;
                }
                Ok(())
            }
            Operation::ChangeMetadataByKey { record, new } => self.change_metadata(Record(record), new).await,
            Operation::ChangeByKey { record, new } => {
                let body = json!({ "value": format!("{new} {}", Record(record).value()) });
                self.done(&Request::new("PUT", field_path(Record(record)), body.to_string())).await
            }
            Operation::ReadByKey { record } => {
                let record = Record(record);
                let path = format!("{}?view=full", field_path(record));
                self.done(&Request::get(path).with_purpose(purpose_name(record.purpose()))).await
            }
            Operation::ReadMetadataByKey { record } => self.done(&Request::get(metadata_path(Record(record)))).await,
            Operation::ReadMetadataByUser { user } => {
                for field in 0..OF_USER {
                    self.done(&Request::get(metadata_path(Record(user * OF_USER + field)))).await?;
                }
                Ok(())
            }
            Operation::ReadByPurpose { purpose } => {
                self.read_found(json!({ "purpose": purpose_name(purpose), "limit": READ }), purpose).await
            }
            // The vault decides on objections and decisions together: what a purpose may use is one question.
            Operation::ReadByObjection { purpose } | Operation::ReadByDecision { purpose } => {
                self.read_found(json!({ "usable_for": purpose_name(purpose), "limit": READ }), purpose).await
            }
            Operation::ReadLog { from } => {
                self.done(&Request::get(format!("/v1/audit/entries?from={from}&limit=100"))).await
            }
            Operation::VerifyDeletion { user } => self.done(&Request::get(subject(user))).await,
        }
    }
}

impl Connection {
    /// A request that may be about what is gone, or was given for other purposes by now.
    async fn done(&mut self, request: &Request) -> Result<(), Failure> {
        match self.ask(request).await? {
            (200..300 | 403 | 404 | 410, _) => Ok(()),
            (status, body) => {
                let told = String::from_utf8_lossy(&body[..body.len().min(300)]);
                Err(format!("{} {}: the server answered {status} {told}", request.method, request.path).into())
            }
        }
    }

    async fn change_metadata(&mut self, record: Record, new: u64) -> Result<(), Failure> {
        let body = json!({ "recipients": [format!("partner-{new}")] });
        self.done(&Request::new("PATCH", metadata_path(record), body.to_string())).await
    }

    async fn apply(&mut self, of: Value, new: u64) -> Result<(), Failure> {
        let body = json!({ "where": of, "set": { "recipients": [format!("partner-{new}")] } });
        self.done(&Request::post("/v1/metadata/apply", body.to_string())).await
    }

    /// In one commit. Not final, as a deletion of PostgreSQL's is not.
    async fn delete_found(&mut self, query: Value) -> Result<(), Failure> {
        let items = self.found(query, |fields| {
            let nulls = fields.into_iter().map(|field| (field, Value::Null)).collect::<serde_json::Map<_, _>>();
            ("fields", nulls.into())
        });
        let items = items.await?;
        if items.is_empty() {
            return Ok(());
        }
        self.done(&Request::post("/v1/batch/write", json!({ "items": items }).to_string())).await
    }

    async fn read_found(&mut self, query: Value, purpose: u64) -> Result<(), Failure> {
        let items = self.found(query, |fields| ("names", fields.into())).await?;
        if items.is_empty() {
            return Ok(());
        }
        let items: Vec<_> = items
            .into_iter()
            .map(|mut item| {
                item["view"] = "full".into();
                item
            })
            .collect();
        let body = json!({ "items": items }).to_string();
        self.done(&Request::post("/v1/batch/read", body).with_purpose(purpose_name(purpose))).await
    }

    /// Items of a batch, one for each subject with values that answer to `query`.
    async fn found(
        &mut self,
        query: Value,
        of_fields: impl Fn(Vec<String>) -> (&'static str, Value),
    ) -> Result<Vec<Value>, Failure> {
        let answer = self.expect(&Request::post("/v1/metadata/search", query.to_string())).await?;
        let mut subjects = std::collections::BTreeMap::<String, Vec<String>>::new();
        for value in answer["data"].as_array().into_iter().flatten() {
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            subjects.entry(text("subject")).or_default().push(text("field"));
        }
        let item = |(subject, fields): (String, Vec<String>)| {
            let (key, value) = of_fields(fields);
            json!({ "subject": subject, key: value })
        };
        Ok(subjects.into_iter().map(item).collect())
    }
}

fn user_id(user: u64) -> String {
    format!("user-{user}")
}

fn subject(user: u64) -> String {
    format!("/v1/subjects/{}", user_id(user))
}

fn field_name(record: Record) -> String {
    format!("record_{}", record.field())
}

fn field_path(record: Record) -> String {
    format!("{}/fields/{}", subject(record.user()), field_name(record))
}

fn metadata_path(record: Record) -> String {
    format!("{}/metadata", field_path(record))
}

fn purpose_name(purpose: u64) -> String {
    format!("p{purpose}")
}

fn expiry(day: u64) -> String {
    Timestamp::now().plus_seconds(day * DAY).to_string()
}

fn recipient_name(recipient: u64) -> String {
    format!("partner-of-old-{recipient}")
}
