//! The audit log: who changed what is written with it, or not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use orrery_proto::v1::{AuditOutcome, Delivery, JobStatus};
use orrery_server::audit::verify::{self, Fault};
use orrery_server::audit::{Author, DEPLOYMENT, Deed, Head, Link, Place, Resource, Seal, Signer};
use orrery_server::auth::{self, Origin, Permissions, Principal, PrincipalKind};
use orrery_server::error::{Error, Kind};
use orrery_server::job::Job;
use orrery_server::store::*;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::dead_letters::poisoned;
use crate::support::*;

const HOUR: Duration = Duration::from_secs(3600);

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

async fn listed(store: &DynStore, tenant: Uuid, filter: &AuditFilter) -> Vec<AuditEntry> {
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
fn entry(tenant: Uuid, n: u128) -> AuditEntry {
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

fn signer() -> Signer {
    Signer::new([&[1; 32]])
}

/// Seals all that waits, as the coordinator's loop does.
pub async fn seal_all(store: &DynStore) {
    while let Some(unsealed) = store.unsealed().await.unwrap().first() {
        seal_one(store, unsealed.tenant).await;
    }
}

async fn seal_one(store: &DynStore, tenant: Uuid) -> Option<Sealed> {
    let seal = |after: Link, entries: &[AuditEntry], now| {
        let seal = Seal::of(tenant, after, entries, now);
        let head = signer().sign(Place::Head, tenant, seal.link(after), now);
        (seal, head)
    };
    store.seal_audit(tenant, &seal).await.unwrap()
}

/// The seals of a tenant, and what is wrong with them.
async fn chain(store: &DynStore, tenant: Uuid) -> (Vec<Seal>, Vec<Fault>) {
    let seals = store.audit_seals(tenant, 0, 1000).await.unwrap();
    let ids: Vec<Uuid> = seals.iter().flat_map(|seal| seal.entries.iter().map(|(id, _)| *id)).collect();
    let entries = store.audit_entries_of(tenant, &ids).await.unwrap();
    let entries: HashMap<Uuid, AuditEntry> = entries.into_iter().map(|entry| (entry.id, entry)).collect();
    let before = store.audit_head(tenant, Place::Checkpoint).await.unwrap().map(|head| head.link).unwrap_or_default();
    let mut problems = verify::seals(Some(before), &seals, &entries);
    let end = seals.last().map_or(before.sequence, |seal| seal.sequence);
    let head: Option<Head> = store.audit_head(tenant, Place::Head).await.unwrap();
    if let Some(head) = &head {
        problems.extend(verify::head(&signer(), tenant, head, &seals, Some(end)));
    }
    (seals, problems.into_iter().map(|problem| problem.fault).collect())
}

pub async fn what_waits_is_sealed_in_the_chain_of_its_tenant(store: DynStore) {
    assert_eq!(store.unsealed().await.unwrap(), []);
    let began = now(&store).await;
    recorded(&store, TENANT, 0..1).await;
    let first = now(&store).await;
    recorded(&store, TENANT, 1..1200).await;
    recorded(&store, OTHER_TENANT, 0..2).await;
    recorded(&store, DEPLOYMENT, 0..1).await;
    let asked = now(&store).await;
    let waiting = store.unsealed().await.unwrap();
    let answered = now(&store).await;
    let counts: BTreeMap<Uuid, i64> = waiting.iter().map(|unsealed| (unsealed.tenant, unsealed.entries)).collect();
    assert_eq!(counts, BTreeMap::from([(DEPLOYMENT, 1), (TENANT, 1200), (OTHER_TENANT, 2)]));
    // It is the first one that has waited longest.
    let age = waiting.iter().find(|unsealed| unsealed.tenant == TENANT).unwrap().age;
    assert!(((asked - first).to_std().unwrap()..=(answered - began).to_std().unwrap()).contains(&age), "{age:?}");
    let old = Duration::ZERO;
    assert_eq!(store.left_unsealed(OTHER_TENANT, old, 10).await.unwrap().iter().filter(|(_, there)| *there).count(), 2);
    assert_eq!(store.left_unsealed(OTHER_TENANT, HOUR, 10).await.unwrap(), []);
    let is_sealed = async |n| store.audit_entry(TENANT, entry(TENANT, n).id).await.unwrap().unwrap().is_sealed;
    assert!(!is_sealed(5).await);
    let first = seal_one(&store, TENANT).await.unwrap();
    assert_eq!(first, Sealed { changed: 857, denied: 143, more: true });
    assert!(is_sealed(5).await && !is_sealed(1100).await);
    seal_all(&store).await;
    assert_eq!(seal_one(&store, TENANT).await, None);
    let (seals, problems) = chain(&store, TENANT).await;
    assert_eq!((seals.len(), problems), (2, vec![]));
    assert_eq!(chain(&store, OTHER_TENANT).await.0.len(), 1);
    let head = store.audit_head(TENANT, Place::Head).await.unwrap().unwrap();
    assert_eq!(head.link, Link { sequence: 2, hash: seals[1].hash, entries: 1200 });
    assert!(signer().is_ours(&head));
    assert_eq!(store.audited_tenants().await.unwrap(), [DEPLOYMENT, TENANT, OTHER_TENANT]);
    // What is in the chain is not among what no seal holds.
    let ids = store.audit_ids(TENANT, Uuid::nil(), None, 5000).await.unwrap();
    assert_eq!(ids.len(), 1200);
    assert_eq!(store.highest_sealed(TENANT, 1).await.unwrap(), entry(TENANT, 999).id);
    assert_eq!(store.audit_seals_around(TENANT, entry(TENANT, 1100).id).await.unwrap(), seals[1..]);
    assert_eq!(store.audit_ids(TENANT, entry(TENANT, 5).id, Some(entry(TENANT, 8).id), 10).await.unwrap().len(), 3);
}

/// This seal is the first that the audit service lacks, and has waited since it was made.
async fn uncopied_from(store: &DynStore, seal: &Seal) {
    let asked = now(store).await;
    let uncopied = store.uncopied().await.unwrap().remove(0);
    let answered = now(store).await;
    assert_eq!((uncopied.tenant, uncopied.copied), (seal.tenant, seal.sequence - 1));
    let waited = |at: DateTime<Utc>| (at - seal.sealed_at).to_std().unwrap();
    assert!((waited(asked)..=waited(answered)).contains(&uncopied.age), "{uncopied:?}");
}

/// Several coordinators seal while callers write.
pub async fn chains_have_no_gap_whoever_seals(store: DynStore) {
    let writer = async |from: u128| {
        for n in from..from + 20 {
            recorded(&store, if n.is_multiple_of(3) { OTHER_TENANT } else { TENANT }, n..n + 1).await;
        }
    };
    let sealer = async || {
        while store.audit_ids(TENANT, Uuid::nil(), None, 100).await.unwrap().len() < 53 {
            for tenant in [TENANT, OTHER_TENANT] {
                seal_one(&store, tenant).await;
            }
        }
    };
    let writers = join_all((0..4).map(|n| writer(100 * n)));
    tokio::join!(writers, sealer(), sealer(), sealer());
    seal_all(&store).await;
    let mut held = 0;
    for tenant in [TENANT, OTHER_TENANT] {
        let (seals, problems) = chain(&store, tenant).await;
        assert_eq!(problems, []);
        let sequences: Vec<i64> = seals.iter().map(|seal| seal.sequence).collect();
        assert_eq!(sequences, (1..=seals.len() as i64).collect::<Vec<_>>());
        let ids: BTreeSet<Uuid> = seals.iter().flat_map(|seal| seal.entries.iter().map(|(id, _)| *id)).collect();
        held += ids.len();
    }
    assert_eq!(held, 80);
}

/// Whoever comes after one that had nothing to do is not told that the chain is another one's.
pub async fn who_finds_nothing_lets_go_of_the_chain(store: DynStore) {
    let drop = DropAudit { age: HOUR, only_copied: false, limit: 10 };
    let checkpoint = |link, at| signer().sign(Place::Checkpoint, TENANT, link, at);
    for n in 0..150 {
        assert_eq!(seal_one(&store, TENANT).await, None);
        recorded(&store, TENANT, n..n + 1).await;
        assert_eq!(store.drop_audit(TENANT, &drop, &checkpoint).await.unwrap(), 0);
        assert!(seal_one(&store, TENANT).await.is_some(), "turn {n}");
    }
}

/// Retention drops from the front, and the chain that is left still holds.
pub async fn what_is_dropped_leaves_a_signed_checkpoint(store: DynStore) {
    for n in 0..4 {
        recorded(&store, TENANT, 10 * n..10 * n + 3).await;
        seal_all(&store).await;
    }
    let drop = |age, only_copied, limit| DropAudit { age, only_copied, limit };
    let dropped = async |what: DropAudit| {
        let checkpoint = |link, at| signer().sign(Place::Checkpoint, TENANT, link, at);
        store.drop_audit(TENANT, &what, &checkpoint).await.unwrap()
    };
    assert_eq!(dropped(drop(HOUR, false, 10)).await, 0);
    // What the audit service has not is kept.
    assert_eq!(dropped(drop(Duration::ZERO, true, 10)).await, 0);
    let sealed = store.audit_seals(TENANT, 0, 10).await.unwrap();
    uncopied_from(&store, &sealed[0]).await;
    store.copied(TENANT, 1).await.unwrap();
    uncopied_from(&store, &sealed[1]).await;
    assert_eq!(dropped(drop(Duration::ZERO, true, 10)).await, 1);
    assert_eq!(dropped(drop(Duration::ZERO, false, 2)).await, 2);
    let checkpoint = store.audit_head(TENANT, Place::Checkpoint).await.unwrap().unwrap();
    assert_eq!((checkpoint.link.sequence, checkpoint.link.entries), (3, 9));
    assert!(signer().is_ours(&checkpoint));
    assert_eq!(listed(&store, TENANT, &AuditFilter::default()).await.len(), 3);
    let (seals, problems) = chain(&store, TENANT).await;
    assert_eq!((seals.len(), problems), (1, vec![]));
    // It goes on from there, also when nothing is left.
    assert_eq!(dropped(drop(Duration::ZERO, false, 10)).await, 1);
    recorded(&store, TENANT, 50..52).await;
    seal_all(&store).await;
    let (seals, problems) = chain(&store, TENANT).await;
    assert_eq!((seals.len(), seals[0].sequence, problems), (1, 5, vec![]));
    assert_eq!(store.audit_head(TENANT, Place::Head).await.unwrap().unwrap().link.entries, 14);
    store.copied(TENANT, 5).await.unwrap();
    store.copied(TENANT, 2).await.unwrap();
    assert_eq!(store.uncopied().await.unwrap(), []);
}
