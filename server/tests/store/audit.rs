//! The audit log: who changed what is written with it, or not at all.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use orrery_proto::v1::{AuditOutcome, Delivery, JobStatus};
use orrery_server::audit::{Author, Deed, Resource};
use orrery_server::auth::{self, Origin, Permissions, Principal, PrincipalKind};
use orrery_server::error::{Error, Kind};
use orrery_server::job::Job;
use orrery_server::store::*;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::dead_letters::poisoned;
use crate::support::*;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Does something as a user of [`TENANT`].
pub async fn as_anna<F: Future>(work: F) -> F::Output {
    let principal = Principal {
        kind: PrincipalKind::User,
        tenant_id: Some(TENANT),
        subject: USER,
        name: "anna".to_owned(),
        roles: Vec::new(),
        permissions: Permissions::All,
        tagged: Vec::new(),
    };
    let origin = Origin { address: Some(IpAddr::from([192, 0, 2, 7])), request_id: "r-1".to_owned() };
    auth::scope(principal, origin, work).await
}

pub(crate) async fn listed(store: &DynStore, tenant: Uuid, filter: &AuditFilter) -> Vec<AuditEntry> {
    let page = Page { after: None, limit: 1000 };
    store.audit_entries(tenant, filter, &page).await.unwrap().into_iter().map(|row| row.entry).collect()
}

/// What was done so far, the oldest first.
pub async fn actions(store: &DynStore, tenant: Uuid) -> Vec<String> {
    let mut entries = listed(store, tenant, &AuditFilter::default()).await;
    entries.sort_by_key(|entry| (entry.at, entry.id));
    entries.into_iter().map(|entry| entry.deed.action).collect()
}

fn json_of(text: &Option<String>) -> Value {
    text.as_deref().map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
}

fn no_such_thing() -> Error {
    Error::new(Kind::Conflict, "NO", "no")
}

/// Every call that changes something, once; with what is written of each.
pub async fn every_change_of_a_caller_is_written(store: DynStore) {
    let made = as_anna(job(&store, "a")).await;
    as_anna(edit(&store, &made, |job| job.spec.description = "other".to_owned())).await;
    for status in [JobStatus::Paused, JobStatus::Active] {
        as_anna(edit(&store, &made, move |job| job.status = status)).await;
    }
    let asked = as_anna(async {
        let trigger = Trigger { author: Author::of_call(), ..trigger_of(&made) };
        store.trigger(vec![trigger.clone(), trigger], &|_, _, _| Ok(())).await.unwrap()
    });
    let asked = asked.await;
    as_anna(apply(&store, &asked[0], cancel_requested())).await.unwrap();
    let stop = |job: &Job, _| {
        let job = Job { status: JobStatus::Inactive, ..job.clone() };
        Ok(JobChange { job, unplan: true, cancel: Some("stopped".to_owned()), omission: None })
    };
    as_anna(store.change_job(TENANT, made.id, &stop)).await.unwrap();
    as_anna(delete(&store, &made)).await;
    assert_eq!(
        actions(&store, TENANT).await,
        [
            "jobs:create",
            "jobs:update",
            "jobs:pause",
            "jobs:resume",
            "jobs:trigger",
            "executions:cancel",
            "jobs:stop",
            "jobs:delete"
        ]
    );
    let entries = listed(&store, TENANT, &AuditFilter::default()).await;
    let of = |action: &str| entries.iter().find(|entry| entry.deed.action == action).unwrap();
    for entry in &entries {
        let Author { kind, id, name, address, request_id } = &*entry.author;
        assert_eq!((kind.as_str(), *id, name.as_str()), ("user", USER, "anna"));
        assert_eq!((address.as_str(), request_id.as_str()), ("192.0.2.7", "r-1"));
        assert_eq!((entry.deed.tenant, entry.outcome), (TENANT, AuditOutcome::Changed));
    }
    let update = of("jobs:update");
    assert_eq!(update.deed.resource, Resource::new("job", made.id, "a"));
    assert_eq!(json_of(&update.deed.before)["description"], "a description");
    assert_eq!(json_of(&update.deed.after)["description"], "other");
    assert_eq!(
        (json_of(&update.deed.before)["version"].clone(), json_of(&update.deed.after)["version"].clone()),
        (json!(1), json!(2))
    );
    assert_eq!(of("jobs:create").deed.before, None);
    assert_eq!(of("jobs:delete").deed.after, None);
    // Those of one call and job are one entry, under the id of the first.
    let triggered = of("jobs:trigger");
    assert_eq!(json_of(&triggered.deed.after)["executions"], json!([asked[0].id, asked[1].id]));
    assert_eq!(triggered.id, asked[0].id);
    assert_eq!(json_of(&of("executions:cancel").deed.after), json!({"status": "cancelled", "reason": "enough"}));
    assert_eq!(store.audit_entry(TENANT, triggered.id).await.unwrap().map(|row| row.entry).as_ref(), Some(triggered));
    assert_eq!(store.audit_entry(OTHER_TENANT, triggered.id).await.unwrap(), None);
    assert!(listed(&store, OTHER_TENANT, &AuditFilter::default()).await.is_empty());
}

/// Users, keys, secrets, agents and the rest.
pub async fn changes_of_who_and_what_may_are_written(store: DynStore) {
    let anna = as_anna(crate::users::user(&store, "anna")).await;
    let change = |change: UserChange| {
        let store = store.clone();
        let id = anna.id;
        async move { as_anna(store.change_user(TENANT, id, &change)).await.unwrap() }
    };
    change(UserChange { roles: Some(vec!["viewer".to_owned()]), ..UserChange::default() }).await;
    change(UserChange { password_hash: Some("canary hash".to_owned()), ..UserChange::default() }).await;
    change(UserChange { disabled: Some(true), ..UserChange::default() }).await;
    change(UserChange { disabled: Some(false), ..UserChange::default() }).await;
    // Nobody is known before these.
    let session = crate::users::session(&store, &anna, 1, HOUR).await;
    store.end_user_session(&[1; 32]).await.unwrap();
    store.end_user_session(&[1; 32]).await.unwrap();
    crate::users::session(&store, &anna, 2, HOUR).await;
    store.rotate_refresh_token(&[2; 32], &[3; 32]).await.unwrap();
    for _ in 0..2 {
        store.rotate_refresh_token(&[2; 32], &[4; 32]).await.unwrap();
    }
    let key = as_anna(crate::keys::key_of(&store, TENANT, 5)).await;
    for _ in 0..2 {
        as_anna(store.revoke_key(KeysOf::Tenant(TENANT), key.id)).await.unwrap();
    }
    let vault = crate::secrets::vault(&store, crate::secrets::OLD).await;
    for value in ["canary value", "another value"] {
        as_anna(vault.put(TENANT, "db", value, USER)).await.unwrap();
    }
    as_anna(store.delete_secret(TENANT, "db", None, USER)).await.unwrap();
    as_anna(store.set_queue_limit(TENANT, "mail", 3, USER)).await.unwrap();
    as_anna(store.set_queue_limit(TENANT, "mail", 0, USER)).await.unwrap();
    let enrolled = as_anna(crate::agents::enrolled(&store, 1, Some(TENANT), 60)).await;
    let certificate = Certified { serial: "02".to_owned(), expires_at: seconds_from_now(&store, 60).await };
    as_anna(store.renew_agent(enrolled.id, &certificate)).await.unwrap();
    for _ in 0..2 {
        as_anna(store.revoke_agent(Some(TENANT), enrolled.id, USER)).await.unwrap();
    }
    let worker = session_of(&store).await;
    assert!(as_anna(store.drain_session(Some(TENANT), worker)).await.unwrap());
    let once = job_with(&store, "once", |job| job.spec.delivery = Delivery::AtMostOnce).await;
    let (one, two) = (poisoned(&store, &once).await, poisoned(&store, &once).await);
    let discard = Discard { tenant: TENANT, execution: one.id, by: USER, note: "old".to_owned() };
    for _ in 0..2 {
        as_anna(store.discard_dead_letter(&discard)).await.unwrap();
    }
    let release = async {
        let trigger = Trigger { author: Author::of_call(), ..crate::dead_letters::release_of(&two) };
        store.release_dead_letter(&trigger, &|_, _, _| Ok(())).await.unwrap()
    };
    as_anna(release).await;
    let mut done = actions(&store, TENANT).await;
    // Both of one transaction.
    done[23..].sort();
    assert_eq!(
        done,
        [
            "users:create",
            "users:update",
            "users:password",
            "users:disable",
            "users:enable",
            "sessions:login",
            "sessions:logout",
            "sessions:login",
            "sessions:refresh",
            "sessions:refresh",
            "keys:create",
            "keys:revoke",
            "secrets:put",
            "secrets:put",
            "secrets:delete",
            "queues:update",
            "queues:update",
            "agents:invite",
            "agents:enroll",
            "agents:renew",
            "agents:revoke",
            "workers:drain",
            "dead_letters:discard",
            "dead_letters:release",
            "executions:retry"
        ]
    );
    let entries = listed(&store, TENANT, &AuditFilter::default()).await;
    let of = |action: &str| entries.iter().find(|entry| entry.deed.action == action).unwrap();
    assert_eq!(json_of(&of("queues:update").deed.before), json!({"maxConcurrent": 3}));
    let login = entries.iter().find(|entry| entry.id == session).unwrap();
    assert_eq!((login.author.kind.as_str(), login.author.id), ("user", anna.id));
    let shown = format!("{entries:?}");
    assert!(!shown.contains("canary") && shown.contains("***"), "{shown}");
}

async fn session_of(store: &DynStore) -> Uuid {
    let agent = NewSession { tenant_id: Some(TENANT), ..agent("agent") };
    store.open_session(&agent, MINUTE).await.unwrap().id
}

/// What is refused, replayed or undone leaves nothing; nor does what nobody asks for.
pub async fn an_entry_is_there_only_if_its_change_is(store: DynStore) {
    let made = job(&store, "a").await;
    assert_eq!(actions(&store, TENANT).await, [""; 0], "nobody asked for it");
    // Refused before, in the middle, and by what stands in the table.
    let refuse = |_: &Job, _| Err(no_such_thing());
    as_anna(store.change_job(TENANT, made.id, &refuse)).await.unwrap_err();
    let batch = ["b", "a"].map(|name| new_job(job_of(TENANT, spec(name)))).to_vec();
    as_anna(store.create_jobs(batch, None)).await.unwrap_err();
    as_anna(store.create_jobs(vec![new_job(job_of(TENANT, spec("c")))], Some(1))).await.unwrap_err();
    as_anna(store.change_job(OTHER_TENANT, made.id, &|job: &Job, _| {
        Ok(JobChange { job: job.clone(), unplan: false, cancel: None, omission: None })
    }))
    .await
    .unwrap_err();
    let refused = as_anna(async {
        let trigger = Trigger { author: Author::of_call(), ..trigger_of(&made) };
        let bare = |_: &Job, _: i64, asked: &Trigger| match asked.parameters {
            Some(_) => Err(no_such_thing()),
            None => Ok(()),
        };
        let second = Trigger { parameters: Some("1".to_owned()), ..trigger.clone() };
        store.trigger(vec![trigger.clone(), second], &bare).await.unwrap_err();
        store.trigger_each(vec![trigger], &|_, _, _| Err(no_such_thing()), None).await.unwrap().remove(0).unwrap_err()
    });
    assert!(matches!(refused.await, StoreError::TriggerRefused { .. }));
    let seal = |_| Err(no_such_thing());
    as_anna(store.put_secret(TENANT, "db", USER, &seal)).await.unwrap_err();
    as_anna(store.delete_secret(TENANT, "db", None, USER)).await.unwrap_err();
    as_anna(store.revoke_key(KeysOf::Tenant(TENANT), Uuid::now_v7())).await.unwrap_err();
    let done = apply(&store, &trigger(&store, &made).await, cancel_requested()).await.unwrap();
    as_anna(apply(&store, &done, cancel_requested())).await.unwrap_err();
    assert_eq!(actions(&store, TENANT).await, [""; 0]);
    // A key that comes again makes nothing again.
    for _ in 0..2 {
        let new = NewJob { idempotency: key("k", 1), ..new_job(job_of(TENANT, spec("keyed"))) };
        as_anna(store.create_jobs(vec![new], None)).await.unwrap();
    }
    for _ in 0..2 {
        let trigger =
            as_anna(async { Trigger { author: Author::of_call(), idempotency: key("t", 1), ..trigger_of(&made) } });
        store.trigger(vec![trigger.await], &|_, _, _| Ok(())).await.unwrap();
    }
    assert_eq!(actions(&store, TENANT).await, ["jobs:create", "jobs:trigger"]);
}

/// What callers ask for one by one is made together, and is each one's own.
pub async fn of_triggers_that_are_made_together_each_is_its_callers(store: DynStore) {
    let (a, b) = (job(&store, "a").await, job(&store, "b").await);
    let by = |n: u128| {
        let author =
            Author { kind: "key".to_owned(), id: Uuid::from_u128(n), name: format!("key {n}"), ..Author::default() };
        Some(Arc::new(author))
    };
    // The first round teaches the store the jobs, the second is the quick one.
    for _ in 0..2 {
        let asked = [(&a, 1), (&b, 2), (&a, 2), (&a, 3)];
        let triggers = asked.map(|(job, n)| Trigger { author: by(n), ..trigger_of(job) }).to_vec();
        let unknown = Trigger { author: by(4), job: Uuid::now_v7(), ..trigger_of(&a) };
        let nobodys = trigger_of(&b);
        let made =
            store.trigger_each([triggers, vec![unknown, nobodys]].concat(), &|_, _, _| Ok(()), None).await.unwrap();
        for ((job, n), made) in asked.iter().zip(&made) {
            let made = &made.as_ref().unwrap().execution;
            let entry = store.audit_entry(TENANT, made.id).await.unwrap().unwrap().entry;
            assert_eq!((entry.author.id, entry.author.name.as_str()), (Uuid::from_u128(*n), &*format!("key {n}")));
            assert_eq!(entry.deed.resource, Resource::new("job", job.id, &job.spec.name));
            assert_eq!(json_of(&entry.deed.after), json!({"executions": [made.id]}));
        }
    }
    assert_eq!(actions(&store, TENANT).await, ["jobs:trigger"; 8]);
}

/// An entry of its own.
pub(crate) fn entry(tenant: Uuid, n: u128) -> AuditEntry {
    AuditEntry {
        id: Uuid::from_u128((0x0190_0000_0000 << 80) | (7 << 76) | (2 << 62) | n),
        at: chrono::DateTime::UNIX_EPOCH,
        author: Arc::new(Author { name: format!("user {}", n % 3), id: Uuid::from_u128(n % 3), ..Author::default() }),
        deed: Deed::new(
            tenant,
            if n.is_multiple_of(2) { "jobs:update" } else { "jobs:delete" },
            Resource::new("job", n % 5, "<b>\0"),
        ),
        outcome: if n.is_multiple_of(7) { AuditOutcome::Denied } else { AuditOutcome::Changed },
    }
}

pub async fn recorded(store: &DynStore, tenant: Uuid, numbers: std::ops::Range<u128>) {
    let entries: Vec<AuditEntry> = numbers.map(|n| entry(tenant, n)).collect();
    store.record(&entries).await.unwrap();
}

pub async fn entries_are_found_by_what_is_asked(store: DynStore) {
    let before = now(&store).await;
    recorded(&store, TENANT, 0..30).await;
    recorded(&store, OTHER_TENANT, 0..3).await;
    let all = listed(&store, TENANT, &AuditFilter::default()).await;
    assert_eq!(all.len(), 30);
    // A NUL is shown, whatever the engine.
    assert!(all.iter().all(|entry| entry.at >= before && entry.deed.resource.name == "<b>\u{2400}"));
    let text = |text: &str| Some(text.to_owned());
    let none = AuditFilter::default;
    for (filter, wanted) in [
        (AuditFilter { actor: text("user 1"), ..none() }, 10),
        (AuditFilter { actor: text(&Uuid::from_u128(2).to_string()), ..none() }, 10),
        (AuditFilter { action: text("jobs:update"), ..none() }, 15),
        (AuditFilter { action: text("jobs:*"), ..none() }, 30),
        (AuditFilter { action: text("job*"), ..none() }, 0),
        (AuditFilter { resource_id: text("3"), ..none() }, 6),
        (AuditFilter { resource_type: text("job"), resource_id: text("3"), ..none() }, 6),
        (AuditFilter { resource_type: text("key"), ..none() }, 0),
        (AuditFilter { outcome: Some(AuditOutcome::Denied), ..none() }, 5),
        (AuditFilter { to: Some(before), ..none() }, 0),
        (AuditFilter { from: Some(before + TimeDelta::days(400)), ..none() }, 0),
    ] {
        assert_eq!(listed(&store, TENANT, &filter).await.len(), wanted, "{filter:?}");
    }
    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = store.audit_entries(TENANT, &none(), &Page { after, limit: 7 }).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.entry.id);
        paged.extend(page.into_iter().map(|row| row.entry));
    }
    assert_eq!(paged, all);
    assert_eq!(listed(&store, OTHER_TENANT, &none()).await.len(), 3);
}
