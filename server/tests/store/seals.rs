//! The chains of audit entries: what waits is sealed, and what is old is dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use orrery_server::audit::verify::{self, Fault};
use orrery_server::audit::{DEPLOYMENT, Head, Link, Place, Seal, Signer};
use orrery_server::store::*;
use uuid::Uuid;

use crate::audit::{HOUR, entry, listed, recorded};
use crate::support::*;

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
    recorded(&store, TENANT, 1..300).await;
    recorded(&store, OTHER_TENANT, 0..2).await;
    recorded(&store, DEPLOYMENT, 0..1).await;
    let asked = now(&store).await;
    let waiting = store.unsealed().await.unwrap();
    let answered = now(&store).await;
    let counts: BTreeMap<Uuid, i64> = waiting.iter().map(|unsealed| (unsealed.tenant, unsealed.entries)).collect();
    assert_eq!(counts, BTreeMap::from([(DEPLOYMENT, 1), (TENANT, 300), (OTHER_TENANT, 2)]));
    // It is the first one that has waited longest.
    let age = waiting.iter().find(|unsealed| unsealed.tenant == TENANT).unwrap().age;
    assert!(((asked - first).to_std().unwrap()..=(answered - began).to_std().unwrap()).contains(&age), "{age:?}");
    let old = Duration::ZERO;
    assert_eq!(store.left_unsealed(OTHER_TENANT, old, 10).await.unwrap().iter().filter(|(_, there)| *there).count(), 2);
    assert_eq!(store.left_unsealed(OTHER_TENANT, HOUR, 10).await.unwrap(), []);
    let is_sealed = async |n| store.audit_entry(TENANT, entry(TENANT, n).id).await.unwrap().unwrap().is_sealed;
    assert!(!is_sealed(5).await);
    let first = seal_one(&store, TENANT).await.unwrap();
    assert_eq!(first, Sealed { changed: 214, denied: 36, more: true });
    assert!(is_sealed(5).await && !is_sealed(275).await);
    seal_all(&store).await;
    assert_eq!(seal_one(&store, TENANT).await, None);
    let (seals, problems) = chain(&store, TENANT).await;
    assert_eq!((seals.len(), problems), (2, vec![]));
    assert_eq!(chain(&store, OTHER_TENANT).await.0.len(), 1);
    let head = store.audit_head(TENANT, Place::Head).await.unwrap().unwrap();
    assert_eq!(head.link, Link { sequence: 2, hash: seals[1].hash, entries: 300 });
    assert!(signer().is_ours(&head));
    assert_eq!(store.audited_tenants().await.unwrap(), [DEPLOYMENT, TENANT, OTHER_TENANT]);
    // What is in the chain is not among what no seal holds.
    let ids = store.audit_ids(TENANT, Uuid::nil(), None, 5000).await.unwrap();
    assert_eq!(ids.len(), 300);
    assert_eq!(store.highest_sealed(TENANT, 1).await.unwrap(), entry(TENANT, 249).id);
    assert_eq!(store.audit_seals_around(TENANT, entry(TENANT, 275).id).await.unwrap(), seals[1..]);
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
