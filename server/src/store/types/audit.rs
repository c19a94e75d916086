//! What was done, by whom.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use orrery_proto::v1::AuditOutcome;
use uuid::Uuid;

use super::{EnrolledAgent, NewUserSession};
use crate::audit::{Author, Deed};
use crate::execution::{Event, Execution, Rejected};
use crate::store::Change;

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// Ordered by time: lists go by it.
    pub id: Uuid,
    /// By the database's clock, whatever a new entry says.
    pub at: DateTime<Utc>,
    pub author: Arc<Author>,
    pub deed: Deed,
    pub outcome: AuditOutcome,
}

/// An entry as it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    pub entry: AuditEntry,
    /// Whether it is in the chain.
    pub is_sealed: bool,
}

/// What of a tenant waits to be sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsealed {
    pub tenant: Uuid,
    pub entries: i64,
    /// How long the first one in the queue has waited.
    pub age: Duration,
}

/// What of a tenant the audit service does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncopied {
    pub tenant: Uuid,
    /// Up to which seal it has them; 0: none.
    pub copied: i64,
    /// How long the first one that it lacks has waited.
    pub age: Duration,
}

/// What a seal has taken up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Entries of what was changed.
    pub changed: u64,
    /// Entries of what was denied.
    pub denied: u64,
    /// Whether as many waited as a seal holds.
    pub more: bool,
}

impl Unsealed {
    pub(in crate::store) fn of((tenant, entries, micros): (Uuid, i64, i64)) -> Self {
        Self { tenant, entries, age: age(micros) }
    }
}

impl Uncopied {
    pub(in crate::store) fn of((tenant, copied, micros): (Uuid, i64, i64)) -> Self {
        Self { tenant, copied, age: age(micros) }
    }
}

/// Of microseconds by one clock, which may have been set back.
fn age(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

impl Sealed {
    pub(in crate::store) fn of(entries: &[AuditEntry]) -> Self {
        let denied = entries.iter().filter(|entry| entry.outcome == AuditOutcome::Denied).count();
        Self {
            changed: (entries.len() - denied) as u64,
            denied: denied as u64,
            more: entries.len() >= crate::audit::IN_A_SEAL,
        }
    }
}

/// What retention drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropAudit {
    /// Older than this.
    pub age: Duration,
    /// Only what the audit service has.
    pub only_copied: bool,
    /// Seals, in one transaction.
    pub limit: i64,
}

/// Which entries to list.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// An id, or a name.
    pub actor: Option<String>,
    /// `resource:verb`, or `resource:*`.
    pub action: Option<String>,
    pub resource_type: Option<String>,
    pub resource_id: Option<String>,
    pub outcome: Option<AuditOutcome>,
    /// At this instant or later.
    pub from: Option<DateTime<Utc>>,
    /// Before this instant.
    pub to: Option<DateTime<Utc>>,
}

/// By how much the instants in ids may differ from those of entries: coordinators make ids, the database the instants.
const SLACK: chrono::TimeDelta = chrono::TimeDelta::hours(1);

impl AuditFilter {
    /// The ids between which all of it must be, so that a range of time is one of the index.
    pub(in crate::store) fn ids(&self) -> (Option<Uuid>, Option<Uuid>) {
        let lowest = |at: DateTime<Utc>| {
            let millis = u128::try_from(at.timestamp_millis()).unwrap_or(0) & 0xffff_ffff_ffff;
            Uuid::from_u128(millis << 80)
        };
        let from = self.from.and_then(|from| from.checked_sub_signed(SLACK)).map(lowest);
        let to = self.to.and_then(|to| to.checked_add_signed(SLACK)).map(lowest);
        (from, to)
    }

    /// The actor, where it is named by its id.
    pub(in crate::store) fn actor_id(&self) -> Option<Uuid> {
        self.actor.as_deref().and_then(|actor| Uuid::parse_str(actor).ok())
    }

    /// The actor, where it is named by its name.
    pub(in crate::store) fn actor_name(&self) -> Option<&str> {
        self.actor.as_deref().filter(|_| self.actor_id().is_none())
    }

    /// The one action.
    pub(in crate::store) fn exact_action(&self) -> Option<&str> {
        self.action.as_deref().filter(|action| !action.ends_with(":*"))
    }

    /// What actions begin with, where they are those of a resource.
    pub(in crate::store) fn action_prefix(&self) -> Option<&str> {
        self.action.as_deref().and_then(|action| action.strip_suffix('*')).filter(|prefix| prefix.ends_with(':'))
    }
}

/// What becomes of a session by one of its refresh tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum SessionDeed {
    /// New tokens were given for it.
    Refreshed,
    /// It came a second time: nobody gets anything for it, and the session is ended.
    Reused,
    /// The user has signed out.
    Ended,
}

/// A user's session, as far as entries tell of it.
pub(in crate::store) struct AuditedSession {
    pub(in crate::store) id: Uuid,
    pub(in crate::store) tenant_id: Uuid,
    pub(in crate::store) user_id: Uuid,
    /// Empty where there is no such user any more.
    pub(in crate::store) user_name: String,
}

/// What a call may have to write down. Its ids are chosen before the transaction, so that a transaction that is repeated writes it once.
pub(in crate::store) struct Notes {
    author: Option<Arc<Author>>,
    first: Uuid,
}

impl Notes {
    /// Those of whoever makes the call that is being served, with ids from `first` on.
    pub(in crate::store) fn of_call(first: impl FnOnce() -> Uuid) -> Self {
        match Author::of_call() {
            Some(author) => Self { author: Some(author), first: first() },
            None => Self { author: None, first: Uuid::nil() },
        }
    }

    /// Those of a call by which somebody becomes known: it is written down whoever calls.
    pub(in crate::store) fn of_credentials(first: Uuid) -> Self {
        Self { author: Author::of_call(), first }
    }

    /// That somebody has signed in, who is known from then on. The session's id is the entry's.
    pub(in crate::store) fn signed_in(&self, new: &NewUserSession, name: &str) -> [AuditEntry; 1] {
        let author = self.author_or(("user", new.user_id, name));
        let deed = Deed::session("sessions:login", new.tenant_id, new.id, name);
        [AuditEntry { id: new.id, author, ..AuditEntry::changed(deed) }]
    }

    /// What was done to a session that goes on for longer than the call that began it, by whoever holds a refresh token of it.
    pub(in crate::store) fn of_session(&self, done: SessionDeed, session: &AuditedSession) -> [AuditEntry; 1] {
        let AuditedSession { id, tenant_id, user_id, user_name } = session;
        let (action, outcome) = match done {
            SessionDeed::Refreshed => ("sessions:refresh", AuditOutcome::Changed),
            SessionDeed::Reused => ("sessions:refresh", AuditOutcome::Denied),
            SessionDeed::Ended => ("sessions:logout", AuditOutcome::Changed),
        };
        let author = self.author_or(("user", *user_id, user_name));
        let deed = Deed::session(action, *tenant_id, *id, user_name);
        [AuditEntry { id: self.first, author, outcome, ..AuditEntry::changed(deed) }]
    }

    /// That an agent was let in, which is known from then on. Its id is the entry's.
    pub(in crate::store) fn enrolled(&self, agent: &EnrolledAgent) -> AuditEntry {
        let author = self.author_or(("agent", agent.id, &agent.scope.name));
        AuditEntry { id: agent.id, author, ..AuditEntry::changed(Deed::agent("agents:enroll", agent)) }
    }

    fn author_or(&self, (kind, id, name): (&str, Uuid, &str)) -> Arc<Author> {
        self.author.clone().unwrap_or_else(|| Author::becoming(kind, id, name))
    }

    /// An entry of the call, its `n`th; `None` where nobody calls.
    pub(in crate::store) fn changed(&self, n: usize, deed: impl FnOnce() -> Deed) -> Option<AuditEntry> {
        let author = self.author.clone()?;
        Some(AuditEntry { id: nth(self.first, n), author, ..AuditEntry::changed(deed()) })
    }
}

impl AuditEntry {
    /// Something that was done, by nobody yet.
    fn changed(deed: Deed) -> Self {
        Self { id: Uuid::nil(), at: DateTime::UNIX_EPOCH, author: Arc::default(), deed, outcome: AuditOutcome::Changed }
    }

    /// That executions are to end, where callers ask for that.
    pub(in crate::store) fn of_cancels(
        notes: &Notes,
        changes: &[Change],
        answers: &[std::result::Result<Execution, Rejected>],
    ) -> Vec<Self> {
        let entry = |(n, (change, answer)): (usize, (&Change, &std::result::Result<Execution, Rejected>))| {
            let (Event::CancelRequested { reason }, Ok(execution)) = (&change.event, answer) else { return None };
            notes.changed(n, || Deed::cancelled(execution, reason))
        };
        changes.iter().zip(answers).enumerate().filter_map(entry).collect()
    }

    /// That executions were asked for, those of one call and job together; each pair is a trigger and the execution that it made. The id of
    /// an entry is that of its first execution, so that repeating the transaction repeats no entry.
    pub(in crate::store) fn of_triggers<'a>(
        made: impl IntoIterator<Item = (&'a super::Trigger, Uuid)>,
        name: impl Fn(Uuid) -> String,
    ) -> Vec<Self> {
        let mut calls: Vec<(&super::Trigger, Vec<Uuid>)> = Vec::new();
        let mut known = std::collections::HashMap::new();
        for (trigger, execution) in made {
            let Some(author) = &trigger.author else { continue };
            let call = (Arc::as_ptr(author), trigger.job, trigger.retry_of);
            let at = *known.entry(call).or_insert_with(|| {
                calls.push((trigger, Vec::new()));
                calls.len() - 1
            });
            calls[at].1.push(execution);
        }
        let entry = |(trigger, executions): (&super::Trigger, Vec<Uuid>)| {
            let deed = Deed::triggered(trigger, &name(trigger.job), &executions);
            let id = executions.first().copied().unwrap_or_default();
            Self { id, author: trigger.author.clone().unwrap_or_default(), ..Self::changed(deed) }
        };
        calls.into_iter().map(entry).collect()
    }
}

/// The `n`th id after one, by its random bits.
fn nth(first: Uuid, n: usize) -> Uuid {
    const COUNTED: u128 = (1 << 62) - 1;
    let bits = first.as_u128();
    let counted = (bits & COUNTED).wrapping_add(n as u128) & COUNTED;
    Uuid::from_u128((bits & !COUNTED) | counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_a_call_are_uuids_of_their_own() {
        let first = Uuid::from_u128(0x0190_0000_0000_7000_bfff_ffff_ffff_ffff);
        let ids: Vec<Uuid> = (0..3).map(|n| nth(first, n)).collect();
        assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn a_range_of_time_is_one_of_ids() {
        let at = DateTime::from_timestamp(1_700_000_000, 0);
        let filter = AuditFilter { from: at, to: at, ..AuditFilter::default() };
        let (from, to) = filter.ids();
        let id = crate::execution::manual_id(at.unwrap());
        assert!(from.unwrap() < id && id < to.unwrap());
        let action = |text: &str| AuditFilter { action: Some(text.to_owned()), ..AuditFilter::default() };
        assert_eq!(action("jobs:*").action_prefix(), Some("jobs:"));
        assert_eq!((action("jobs:create").action_prefix(), action("*").action_prefix()), (None, None));
        assert_eq!((action("jobs:*").exact_action(), action("*").exact_action()), (None, Some("*")));
    }
}
