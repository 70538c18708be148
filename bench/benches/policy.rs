//! What deciding costs, alone and as a part of reading: ten fields of one subject against one.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use vault_bench::cpu::CpuTime;
use vault_bench::wide::{FIELDS, SCHEMA};
use vault_core::crypto::passphrase::new_key_file;
use vault_core::ids::{FieldName, SubjectId};
use vault_core::policy::{self, Named, Question, Role, SubjectStanding, ValueFacts};
use vault_core::root::NewUnlock;
use vault_core::schema::{Document, Form, Schema, View};
use vault_core::store::MemoryStore;
use vault_core::vault::{Change, PutOptions, ReadRequest, Reader, Vault, VaultOptions};

const PURPOSE: &str = "delivery";

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    decide(&mut criterion);
    read(&mut criterion);
    criterion.final_summary();
}

fn document() -> Document {
    Document::from_toml(SCHEMA).expect("the shipped schema is a document")
}

/// The decision on ten fields of one read, every rule asked.
fn decide(criterion: &mut Criterion<CpuTime>) {
    let schema = Schema::compile(document(), 2).expect("the shipped schema fits together");
    let purpose = schema.purpose(PURPOSE).map_or(Named::Undeclared, Named::Purpose);
    let asked = Question {
        role: Role::Service,
        expired: false,
        purpose,
        purpose_required: true,
        subject: SubjectStanding::Active,
        consent: true,
        view: View::Full,
    };
    let fields: Vec<_> = schema.fields().take(10).collect();
    criterion.bench_function("policy/decide 10 fields", |bencher| {
        bencher.iter(|| {
            for field in &fields {
                black_box(policy::decide(black_box(&asked), field, ValueFacts::default()));
            }
        });
    });
}

/// Reading from the engine in memory, everything in the caches.
fn read(criterion: &mut Criterion<CpuTime>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let id = SubjectId::parse("subject").expect("it is an id");
    let vault = runtime.block_on(async {
        let slot = dir.path().join("root.slot");
        let unlock = NewUnlock::KeyFile(new_key_file().0);
        let store = Arc::new(MemoryStore::new());
        let vault =
            Vault::create(store, &[slot.into()], vec![unlock], VaultOptions::default()).await.expect("it is created");
        vault.put_schema(document(), None).await.expect("it comes into force");
        let changes = FIELDS.iter().map(|(name, value)| {
            (FieldName::parse(name).expect("it is a name"), Change::Set((*value).to_owned().into()))
        });
        vault.put_fields(&id, changes.collect(), &PutOptions::default()).await.expect("it is put");
        vault
    });
    let reader = Reader { role: Role::Admin, purposes: [].into(), expires_at: None, purpose: Some("account".into()) };
    let request = ReadRequest { reader, view: View::Full, form: Form::Given };
    let names: Vec<_> = FIELDS.iter().map(|(name, _)| FieldName::parse(name).expect("it is a name")).collect();
    for (label, names) in [("read/1 field", &names[2..3]), ("read/10 fields", &names[..])] {
        criterion.bench_function(label, |bencher| {
            bencher.iter(|| runtime.block_on(vault.read_fields(&id, Some(names), &request)).expect("it is read"));
        });
    }
}
