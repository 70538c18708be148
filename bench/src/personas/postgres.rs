//! The personas' operations on plain PostgreSQL: a table with indexes on purpose and user, nothing sealed, nothing logged
//! but what the regulator is to read.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tokio_postgres::{Client, NoTls, Statement};

use super::Performer;
use super::operation::{DELETED, Operation, READ, Record};
use crate::Failure;

/// `bench/postgres.sh`, which a run of this program does not have to find.
const SCRIPT: &str = include_str!("../../postgres.sh");
/// What the script says with this: there is no PostgreSQL.
const ABSENT: i32 = 3;
const SCHEMA: &str = "CREATE TABLE records (key bigint PRIMARY KEY, usr bigint NOT NULL, purpose bigint NOT NULL, \
     objection bigint, recipient text NOT NULL, source text NOT NULL, automated boolean NOT NULL, expires bigint NOT NULL, \
     value text NOT NULL); \
     CREATE INDEX ON records (purpose); CREATE INDEX ON records (usr); \
     CREATE TABLE log (number bigint PRIMARY KEY, entry text NOT NULL);";
const INSERT: &str = "INSERT INTO records VALUES ($1, $2, $3, $4, $5, 'registration', $6, $7, $8)";

/// A private cluster.
pub(super) struct Cluster {
    dir: PathBuf,
}

impl Cluster {
    /// Starts one below `scratch`, or says why there is none.
    pub(super) fn start(scratch: &Path) -> Result<Result<Cluster, String>, Failure> {
        // PostgreSQL runs as a user of its own, who has to get there.
        std::fs::set_permissions(scratch, std::fs::Permissions::from_mode(0o711))?;
        let dir = scratch.join("postgres");
        let output = script("start", &dir)?;
        if output.status.success() {
            return Ok(Ok(Cluster { dir }));
        }
        let why = match output.status.code() {
            Some(ABSENT) => "no PostgreSQL: `bench/postgres.sh install` gets it by apt".to_owned(),
            _ => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        };
        Ok(Err(why))
    }

    /// Fills it.
    pub(super) async fn load(&self, records: u64) -> Result<(), Failure> {
        let mut client = self.connect().await?;
        client.batch_execute(SCHEMA).await?;
        let transaction = client.transaction().await?;
        let insert = transaction.prepare(INSERT).await?;
        for record in (0..records).map(Record) {
            insert_record(&transaction, &insert, record).await?;
        }
        transaction.commit().await?;
        // As many entries as writing the records would have left, of the size that entries of the vault's log have.
        let fill = "INSERT INTO log SELECT n, repeat('x', 200) FROM generate_series(0, $1::bigint) n";
        client.execute(fill, &[&number(records)]).await?;
        client.batch_execute("VACUUM ANALYZE").await?;
        Ok(())
    }

    /// Connections that perform.
    pub(super) async fn performers(&self, count: u16) -> Result<Vec<Session>, Failure> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Session::open(self.connect().await?).await?);
        }
        Ok(all)
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.dir).user("bench").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        // Ends with the client; what goes wrong before shows at the client.
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What is left of it goes with its directory.
        let _ = script("stop", &self.dir);
    }
}

fn script(action: &str, dir: &Path) -> Result<Output, Failure> {
    let mut command = Command::new("bash");
    command.args(["-c", SCRIPT, "postgres.sh", action]).arg(dir).stdin(Stdio::null());
    command.output().map_err(|why| format!("bash, which starts PostgreSQL, does not start: {why}").into())
}

async fn insert_record(
    client: &impl tokio_postgres::GenericClient,
    insert: &Statement,
    record: Record,
) -> Result<(), Failure> {
    let (key, user, purpose) = (number(record.0), number(record.user()), number(record.purpose()));
    let (objection, recipient) = (record.objection().map(number), format!("partner-of-old-{}", record.recipient()));
    let (automated, expires, value) = (record.automated(), number(record.expires()), record.value());
    client.execute(insert, &[&key, &user, &purpose, &objection, &recipient, &automated, &expires, &value]).await?;
    Ok(())
}

/// A connection with everything prepared.
pub(super) struct Session {
    client: Client,
    insert: Statement,
    delete_by_purpose: Statement,
    delete_by_expiry: Statement,
    delete_by_user: Statement,
    delete_by_key: Statement,
    change_metadata_by_purpose: Statement,
    change_metadata_by_user: Statement,
    change_metadata_by_recipient: Statement,
    change_metadata_by_key: Statement,
    change_by_key: Statement,
    read_by_key: Statement,
    read_metadata_by_key: Statement,
    read_metadata_by_user: Statement,
    read_by_purpose: Statement,
    read_by_objection: Statement,
    read_by_decision: Statement,
    read_log: Statement,
    verify_deletion: Statement,
}

impl Session {
    async fn open(client: Client) -> Result<Session, Failure> {
        let metadata = "usr, purpose, objection, recipient, source, automated, expires FROM records";
        let delete_some = |of: &str| {
            format!(
                "DELETE FROM records WHERE key IN (SELECT key FROM records WHERE {of} LIMIT {DELETED} FOR UPDATE SKIP LOCKED)"
            )
        };
        let read_some = |of: &str| format!("SELECT value FROM records WHERE {of} LIMIT {READ}");
        let change = |of: &str| format!("UPDATE records SET recipient = $2 WHERE {of}");
        Ok(Session {
            insert: client.prepare(INSERT).await?,
            delete_by_purpose: client.prepare(&delete_some("purpose = $1")).await?,
            delete_by_expiry: client.prepare(&delete_some("expires < $1")).await?,
            delete_by_user: client.prepare("DELETE FROM records WHERE usr = $1").await?,
            delete_by_key: client.prepare("DELETE FROM records WHERE key = $1").await?,
            change_metadata_by_purpose: client.prepare(&change("purpose = $1")).await?,
            change_metadata_by_user: client.prepare(&change("usr = $1")).await?,
            change_metadata_by_recipient: client.prepare(&change("recipient = $1")).await?,
            change_metadata_by_key: client.prepare(&change("key = $1")).await?,
            change_by_key: client.prepare("UPDATE records SET value = $2 WHERE key = $1").await?,
            read_by_key: client.prepare("SELECT value FROM records WHERE key = $1").await?,
            read_metadata_by_key: client.prepare(&format!("SELECT {metadata} WHERE key = $1")).await?,
            read_metadata_by_user: client.prepare(&format!("SELECT {metadata} WHERE usr = $1")).await?,
            read_by_purpose: client.prepare(&read_some("purpose = $1")).await?,
            read_by_objection: client.prepare(&read_some("purpose = $1 AND objection IS DISTINCT FROM $1")).await?,
            read_by_decision: client
                .prepare(&read_some("purpose = $1 AND automated AND objection IS DISTINCT FROM $1"))
                .await?,
            read_log: client
                .prepare("SELECT number, entry FROM log WHERE number >= $1 ORDER BY number LIMIT 100")
                .await?,
            verify_deletion: client.prepare("SELECT 1::bigint FROM records WHERE usr = $1 LIMIT 1").await?,
            client,
        })
    }

    async fn query(&self, statement: &Statement, of: u64) -> Result<(), Failure> {
        self.client.query(statement, &[&number(of)]).await?;
        Ok(())
    }

    async fn execute(&self, statement: &Statement, of: u64) -> Result<(), Failure> {
        self.client.execute(statement, &[&number(of)]).await?;
        Ok(())
    }

    /// Two changes of many rows may wait for each other; PostgreSQL ends one, and its caller asks again.
    async fn change(
        &self,
        statement: &Statement,
        of: &(dyn tokio_postgres::types::ToSql + Sync),
        new: u64,
    ) -> Result<(), Failure> {
        let partner = format!("partner-{new}");
        loop {
            match self.client.execute(statement, &[of, &partner]).await {
                Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::T_R_DEADLOCK_DETECTED) => {}
                done => return Ok(done.map(drop)?),
            }
        }
    }
}

impl Performer for Session {
    async fn perform(&mut self, operation: &Operation) -> Result<(), Failure> {
        match *operation {
            Operation::Create { record } => insert_record(&self.client, &self.insert, Record(record)).await,
            Operation::DeleteByPurpose { purpose } => self.execute(&self.delete_by_purpose, purpose).await,
            Operation::DeleteByExpiry { day } => self.execute(&self.delete_by_expiry, day).await,
            Operation::DeleteByUser { user } => self.execute(&self.delete_by_user, user).await,
            Operation::DeleteByKey { record } => self.execute(&self.delete_by_key, record).await,
            Operation::ChangeMetadataByPurpose { purpose, new } => {
                self.change(&self.change_metadata_by_purpose, &number(purpose), new).await
            }
            Operation::ChangeMetadataByUser { user, new } => {
                self.change(&self.change_metadata_by_user, &number(user), new).await
            }
            Operation::ChangeMetadataByRecipient { recipient, new } => {
                let recipient = format!("partner-of-old-{recipient}");
                self.change(&self.change_metadata_by_recipient, &recipient, new).await
            }
            Operation::ChangeMetadataByKey { record, new } => {
                self.change(&self.change_metadata_by_key, &number(record), new).await
            }
            Operation::ChangeByKey { record, new } => {
                let value = format!("{new} {}", Record(record).value());
                self.client.execute(&self.change_by_key, &[&number(record), &value]).await?;
                Ok(())
            }
            Operation::ReadByKey { record } => self.query(&self.read_by_key, record).await,
            Operation::ReadMetadataByKey { record } => self.query(&self.read_metadata_by_key, record).await,
            Operation::ReadMetadataByUser { user } => self.query(&self.read_metadata_by_user, user).await,
            Operation::ReadByPurpose { purpose } => self.query(&self.read_by_purpose, purpose).await,
            Operation::ReadByObjection { purpose } => self.query(&self.read_by_objection, purpose).await,
            Operation::ReadByDecision { purpose } => self.query(&self.read_by_decision, purpose).await,
            Operation::ReadLog { from } => self.query(&self.read_log, from).await,
            Operation::VerifyDeletion { user } => self.query(&self.verify_deletion, user).await,
        }
    }
}

/// PostgreSQL has no unsigned numbers. Ours are small.
fn number(of: u64) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}
