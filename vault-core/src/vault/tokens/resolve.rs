//! Resolving a value token: find → decide as for any read → open the field → use it up, if it is for one use → answer.

use zeroize::Zeroizing;

use super::super::metadata::RowMetadata;
use super::super::read::facts;
use super::super::records::{DirectoryEntry, SubjectRecord, SubjectState, TokenRecord};
use super::super::session::{Snapshot, reading};
use super::super::subject;
use super::super::types::Reader;
use super::super::writer::Write;
use super::super::{Inner, Vault};
use super::UNKNOWN;
use crate::audit::trail;
use crate::error::Error;
use crate::ids::CallerId;
use crate::policy::{self, Decision, Question, Rule, ValueFacts};
use crate::schema::{FieldSpec, FieldValue, Form, View};
use crate::time::Timestamp;
use crate::trie::Header;

/// Items of a batch after which others get their turn.
const BREATH: usize = 16;

/// A token to be resolved.
#[derive(Clone, Copy)]
pub struct ResolveItem<'a> {
    /// The token.
    pub token: &'a str,
    /// How much of the value is wanted; not [`View::None`].
    pub view: View,
}

/// What a token stands for.
pub struct Resolved {
    /// JSON text of what is shown, as it was given.
    pub value: Zeroizing<String>,
    /// The view, where the policy shows less than was asked for.
    pub lowered: Option<View>,
}

impl Vault {
    /// The present value of the field that a token stands for. It is a read, decided like any other; a token for one use
    /// is used up only if it is granted.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a token that does not resolve, whatever the reason: unknown, past its end, spent, revoked,
    /// another caller's, of a subject that was shredded, of a field that is not held any more. [`Error::Refused`].
    pub async fn resolve_token(
        &self,
        item: ResolveItem<'_>,
        reader: &Reader,
        caller: CallerId,
    ) -> Result<Resolved, Error> {
        self.resolve_tokens(&[item], reader, caller).await.pop().unwrap_or(Err(Error::Failed))
    }

    /// Resolves many, and answers them in order. Those that are used up are so in one durable commit.
    pub async fn resolve_tokens(
        &self,
        items: &[ResolveItem<'_>],
        reader: &Reader,
        caller: CallerId,
    ) -> Vec<Result<Resolved, Error>> {
        let Ok(session) = self.session() else { return items.iter().map(|_| Err(Error::Locked)).collect() };
        let mut outcomes = Vec::with_capacity(items.len());
        let (mut writes, mut spending) = (Vec::new(), Vec::new());
        for (at, item) in items.iter().enumerate() {
            let found = reading!(session, |snapshot| self.inner.resolve(&snapshot, *item, reader, caller).await);
            if !matches!(found, Ok((_, Some(_)))) {
                trail::ended(&found);
            }
            outcomes.push(found.map(|(resolved, write)| {
                if let Some(write) = write {
                    writes.push(Write { entries: trail::so_far(), together: !writes.is_empty(), ..write });
                    trail::anew();
                    spending.push(at);
                }
                resolved
            }));
            if at % BREATH == BREATH - 1 {
                tokio::task::yield_now().await;
            }
        }
        if writes.is_empty() {
            return outcomes;
        }
        // Nothing of what is used up is answered before that is durable.
        match session.commit(writes).await {
            Ok(committed) => {
                for (at, _) in spending.into_iter().zip(committed).filter(|(_, held)| !held) {
                    trail::failed(None, [], &UNKNOWN);
                    outcomes[at] = Err(UNKNOWN);
                }
            }
            Err(error) => {
                for at in spending {
                    trail::failed(None, [], &error);
                    outcomes[at] = Err(error.again());
                }
            }
        }
        outcomes
    }
}

impl Inner {
    /// What a token resolves to, and the write that uses it up.
    async fn resolve(
        &self,
        snapshot: &Snapshot,
        item: ResolveItem<'_>,
        reader: &Reader,
        caller: CallerId,
    ) -> Result<(Resolved, Option<Write>), Error> {
        if item.view == View::None {
            return Err(Error::Invalid { field: "view", expected: "one of masked, full, last4" });
        }
        let any = reader.question(&snapshot.schema, item.view);
        let token = self.living_token(&snapshot.header, item.token).await?;
        let token = token.filter(|token| token.record.caller.is_none_or(|bound| bound == caller));
        let bound = token.as_ref().and_then(|token| token.record.purpose.as_ref());
        // Refused before it is told that there is no such token, so that who may not read can not try out tokens.
        policy::admit_token(&any, bound).map_err(refused)?;
        let token = token.ok_or(UNKNOWN)?;
        let record = self.subject_of(&snapshot.header, &token.record).await?.ok_or(UNKNOWN)?;
        trail::subject(&record.audit_key);
        trail::fields([&token.record.field]);
        let asked = any.about(record.standing(), &record.consents);
        policy::admit_token(&asked, token.record.purpose.as_ref()).map_err(refused)?;
        let spec = snapshot.schema.field_by_id(&token.record.field).ok_or(UNKNOWN)?;
        let resolved = self.show(&record, spec, &asked).await?;
        let write = token.record.single_use.then(|| token.spend(&snapshot.header)).transpose()?;
        Ok((resolved, write))
    }

    /// The living subject that a token is of; the same one, and not enrolled again since.
    pub(super) async fn subject_of(
        &self,
        header: &Header,
        token: &TokenRecord,
    ) -> Result<Option<SubjectRecord>, Error> {
        let found = subject::find_by_key(self, header, subject::directory_of(token.directory)).await?;
        Ok(match found.entry {
            Some(DirectoryEntry::Subject(record))
                if record.uuid == token.uuid && record.state == SubjectState::Active =>
            {
                Some(record)
            }
            _ => None,
        })
    }

    /// The field, as far as the policy shows it.
    async fn show(&self, record: &SubjectRecord, spec: &FieldSpec, asked: &Question<'_>) -> Result<Resolved, Error> {
        // Refused, if it would be of any value, before it is told that none is held.
        decided(asked, spec, ValueFacts::default())?;
        let place = record.row_place(record.keys(&spec.compartment).ok_or(UNKNOWN)?);
        let row = subject::open_row(self, &place).await?;
        let entry = row.fields.get(&spec.id).ok_or(UNKNOWN)?;
        let metadata = RowMetadata::open(&row, &place)?;
        let known = facts(spec, entry.updated_at, metadata.0.get(&spec.id), asked.purpose_name(), Timestamp::now());
        let view = decided(asked, spec, known)?;
        let plaintext = subject::open_field(self, &row, &spec.id, &place).await?;
        let value = spec.show(&FieldValue::decode(&plaintext)?, view, Form::Given).ok_or(UNKNOWN)?;
        Ok(Resolved { value, lowered: (view != asked.view).then_some(view) })
    }
}

fn decided(asked: &Question<'_>, spec: &FieldSpec, facts: ValueFacts) -> Result<View, Error> {
    match policy::decide_field(asked, spec, facts) {
        Decision::Allow(view) => Ok(view),
        Decision::Refuse(rule) => Err(refused(rule)),
    }
}

/// The field is not named: who has but the token need not know what it is of.
fn refused(rule: Rule) -> Error {
    match rule {
        Rule::Shredded => UNKNOWN,
        Rule::TokenExpired => Error::Unauthenticated,
        rule => Error::Refused { rule, field: None },
    }
}
