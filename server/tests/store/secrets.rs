//! Secrets: what is stored of them, and the vault over it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orrery_sdk::secret::Reference;
use orrery_server::secret::{EncryptionError, KeySource, Unresolved, Vault};
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

pub(crate) const OLD: &str = "old:MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3BxcnN0dXY=";
const NEW: &str = "new:QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=";

fn text(keys: &str) -> KeySource {
    KeySource::Text(keys.to_owned().into())
}

pub(crate) async fn vault(store: &DynStore, keys: &str) -> Vault {
    Vault::open(store.clone(), text(keys)).await.unwrap()
}

fn reference(name: &str, version: Option<i64>) -> Reference {
    Reference { name: name.to_owned(), version }
}

/// What a lease would be sent; each look is a fresh one.
async fn value(store: &DynStore, keys: &str, tenant: Uuid, wanted: Reference) -> Result<String, Unresolved> {
    let resolved = vault(store, keys).await.resolve(tenant, BTreeSet::from([wanted.clone()])).await.unwrap();
    resolved[&wanted].clone().map(|value| value.expose().to_owned())
}

async fn names(store: &DynStore, tenant: Uuid) -> Vec<String> {
    let listed = store.list_secrets(tenant, None, 100).await.unwrap();
    listed.into_iter().map(|row| row.name).collect()
}

async fn sealed(store: &DynStore, tenant: Uuid) -> Vec<SealedSecret> {
    let all = StaleSecrets { tenant, other_than: None, after: None, limit: 10_000 };
    store.stale_secrets(&all).await.unwrap()
}

pub async fn versions_are_kept_and_found(store: DynStore) {
    let vault = vault(&store, OLD).await;
    for n in 1..=12 {
        let row = vault.put(TENANT, "db", &format!("password {n}"), USER).await.unwrap();
        assert_eq!(row.version, n);
    }
    let [row] = store.secrets_named(TENANT, &["db".to_owned(), "none".to_owned()]).await.unwrap().try_into().unwrap();
    assert_eq!((row.version, row.versions, row.updated_by), (12, (3..=12).collect::<Vec<i64>>(), USER));
    assert_eq!(value(&store, OLD, TENANT, reference("db", None)).await.as_deref(), Ok("password 12"));
    assert_eq!(value(&store, OLD, TENANT, reference("db", Some(3))).await.as_deref(), Ok("password 3"));
    assert_eq!(value(&store, OLD, TENANT, reference("db", Some(2))).await, Err(Unresolved::Missing));
    assert_eq!(value(&store, OLD, TENANT, reference("other", None)).await, Err(Unresolved::Missing));

    store.delete_secret(TENANT, "db", Some(4), USER).await.unwrap();
    assert_eq!(value(&store, OLD, TENANT, reference("db", Some(4))).await, Err(Unresolved::Missing));
    let newest = store.delete_secret(TENANT, "db", Some(12), USER).await;
    assert!(matches!(newest, Err(StoreError::Refused(error)) if error.code == "SECRET_VERSION_IN_USE"));
    assert!(matches!(store.delete_secret(TENANT, "db", Some(99), USER).await, Err(StoreError::NotFound)));
}

pub async fn a_deleted_secret_is_gone_and_its_versions_never_come_again(store: DynStore) {
    let vault = vault(&store, OLD).await;
    vault.put(TENANT, "db", "first", USER).await.unwrap();
    let before = sealed(&store, TENANT).await.remove(0);
    vault.delete(TENANT, "db", None, USER).await.unwrap();
    assert_eq!(names(&store, TENANT).await, [""; 0]);
    assert_eq!(sealed(&store, TENANT).await, [], "nothing of it is left to decrypt");
    assert_eq!(value(&store, OLD, TENANT, reference("db", None)).await, Err(Unresolved::Missing));
    assert!(matches!(store.delete_secret(TENANT, "db", None, USER).await, Err(StoreError::NotFound)));

    let row = vault.put(TENANT, "db", "second", USER).await.unwrap();
    assert_eq!((row.version, row.versions), (2, vec![2]), "an old backup of version 1 does not open as this one");
    assert!(before.ciphertext != sealed(&store, TENANT).await[0].ciphertext);
}

pub async fn secrets_page_by_name_and_tenants_do_not_see_each_other(store: DynStore) {
    let vault = vault(&store, OLD).await;
    for name in ["b", "B", "a_1", "a-1", "a/1"] {
        vault.put(TENANT, name, "value", USER).await.unwrap();
    }
    vault.put(OTHER_TENANT, "theirs", "value", USER).await.unwrap();
    let mut listed = Vec::new();
    loop {
        let after: Option<String> = listed.last().cloned();
        let page = store.list_secrets(TENANT, after.as_deref(), 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|row| row.name));
    }
    assert_eq!(listed, ["B", "a-1", "a/1", "a_1", "b"]);
    assert_eq!(store.secrets_named(TENANT, &["theirs".to_owned()]).await.unwrap(), []);
    assert_eq!(value(&store, OLD, TENANT, reference("theirs", None)).await, Err(Unresolved::Missing));
    assert!(matches!(store.delete_secret(TENANT, "theirs", None, USER).await, Err(StoreError::NotFound)));
    assert_eq!(names(&store, OTHER_TENANT).await, ["theirs"]);
}

pub async fn swapped_rows_do_not_open(store: DynStore) {
    let vault = vault(&store, OLD).await;
    vault.put(TENANT, "mine", "my value", USER).await.unwrap();
    vault.put(TENANT, "mine", "my newer value", USER).await.unwrap();
    vault.put(OTHER_TENANT, "mine", "their value", USER).await.unwrap();
    let mine = sealed(&store, TENANT).await;
    let theirs = sealed(&store, OTHER_TENANT).await.remove(0);
    let put_in = |place: &SealedSecret, of: &SealedSecret| SealedSecret {
        wrapped_key: of.wrapped_key.clone(),
        ciphertext: of.ciphertext.clone(),
        ..place.clone()
    };
    // Another tenant's, and an older version of the same.
    for other in [&theirs, &mine[0]] {
        let swapped = put_in(&mine[1], other);
        assert_eq!(store.replace_sealed(&[(mine[1].clone(), swapped.clone())]).await.unwrap(), 1);
        assert_eq!(value(&store, OLD, TENANT, reference("mine", None)).await, Err(Unresolved::Closed));
        assert_eq!(store.replace_sealed(&[(swapped, mine[1].clone())]).await.unwrap(), 1);
        assert_eq!(value(&store, OLD, TENANT, reference("mine", None)).await.as_deref(), Ok("my newer value"));
    }
}

pub async fn encryption_that_is_off_or_wrong_stops_the_start(store: DynStore) {
    Vault::open(store.clone(), KeySource::Nowhere).await.unwrap();
    let off = Vault::open(store.clone(), KeySource::Nowhere).await.unwrap();
    let refused = off.put(TENANT, "db", "value", USER).await.unwrap_err();
    assert_eq!(refused.code, "ENCRYPTION_NOT_CONFIGURED");
    assert!(refused.message.contains("ORRERY_ENCRYPTION_KEY"), "{}", refused.message);

    vault(&store, OLD).await.put(TENANT, "db", "value", USER).await.unwrap();
    let open = |keys: KeySource| Vault::open(store.clone(), keys);
    assert!(matches!(open(KeySource::Nowhere).await, Err(EncryptionError::NoKey { ids }) if ids == "old"));
    assert!(matches!(open(text(NEW)).await, Err(EncryptionError::Missing { ids }) if ids == "old"));
    let another = NEW.replace("new:", "old:");
    assert!(matches!(open(text(&another)).await, Err(EncryptionError::Another { id }) if id == "old"));
    assert!(matches!(open(text("")).await, Err(EncryptionError::Empty { .. })));
    assert!(matches!(open(text("off")).await, Err(EncryptionError::Malformed { .. })));
    open(text(&format!("{NEW},{OLD}"))).await.unwrap();
    // One that was started without a key does not learn of another's secrets.
    let wanted = reference("db", None);
    let resolved = off.resolve(TENANT, BTreeSet::from([wanted.clone()])).await.unwrap();
    assert_eq!(resolved[&wanted], Err(Unresolved::Closed));
}

pub async fn keys_rotate_under_load(store: DynStore) {
    let (old, both) = (vault(&store, OLD).await, vault(&store, &format!("{NEW},{OLD}")).await);
    for n in 0..30 {
        old.put(TENANT, &format!("s{n}"), &format!("value of s{n}"), USER).await.unwrap();
    }
    old.put(OTHER_TENANT, "theirs", "their value", USER).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    // Coordinators that know the new key already, and write and read all the time.
    let busy: Vec<_> = (0..3)
        .map(|task| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                let both = format!("{NEW},{OLD}");
                let mut rounds = 0;
                while !stop.load(Ordering::SeqCst) || rounds < 3 {
                    let vault = vault(&store, &both).await;
                    let (mine, name) = (format!("of-{task}"), format!("s{}", rounds % 30));
                    vault.put(TENANT, &mine, &format!("{rounds} of {task}"), USER).await.unwrap();
                    for (name, wanted) in
                        [(mine, format!("{rounds} of {task}")), (name.clone(), format!("value of {name}"))]
                    {
                        let read = value(&store, &both, TENANT, reference(&name, None)).await;
                        assert_eq!(read, Ok(wanted), "{name}");
                    }
                    rounds += 1;
                }
            })
        })
        .collect();
    let rotated = both.rotate(Some(TENANT), false).await.unwrap();
    assert!(rotated.changed >= 30, "{rotated:?}");
    assert_eq!((rotated.retired.len(), rotated.in_use), (0, vec!["old".to_owned()]), "another tenant needs it");
    let data_keys = both.rotate(Some(TENANT), true).await.unwrap();
    assert!(data_keys.changed >= 30, "{data_keys:?}");
    stop.store(true, Ordering::SeqCst);
    for task in busy {
        task.await.unwrap();
    }
    let rotated = both.rotate(None, false).await.unwrap();
    assert_eq!((rotated.key_id.as_str(), rotated.retired, rotated.in_use), ("new", vec!["old".to_owned()], vec![]));
    for n in 0..30 {
        let read = value(&store, NEW, TENANT, reference(&format!("s{n}"), None)).await;
        assert_eq!(read, Ok(format!("value of s{n}")), "the old key is not needed");
    }
    assert_eq!(value(&store, NEW, OTHER_TENANT, reference("theirs", None)).await.as_deref(), Ok("their value"));
    // One that still writes under the old key brings it back, and is not refused.
    old.put(TENANT, "late", "value", USER).await.unwrap();
    assert!(store.encryption_keys().await.unwrap().iter().any(|key| key.id == "old"));
}

pub async fn what_changed_meanwhile_is_not_replaced(store: DynStore) {
    let vault = vault(&store, OLD).await;
    vault.put(TENANT, "db", "value", USER).await.unwrap();
    let read = sealed(&store, TENANT).await.remove(0);
    vault.rotate(Some(TENANT), true).await.unwrap();
    assert_eq!(store.replace_sealed(&[(read.clone(), read)]).await.unwrap(), 0, "it is not what was read any more");
    assert_eq!(value(&store, OLD, TENANT, reference("db", None)).await.as_deref(), Ok("value"));
}

pub async fn sealed_values_come_and_go_with_their_job(store: DynStore) {
    let place = SealedSecret {
        tenant_id: TENANT,
        name: "~0f".to_owned(),
        version: 1,
        key: EncryptionKey { id: "k".to_owned(), proof: vec![1] },
        wrapped_key: vec![2],
        ciphertext: vec![3],
    };
    let of_job = |name: &str, sealed: &str| {
        let mut job = job_of(TENANT, spec(name));
        job.spec.sealed = vec![SealedSecret { name: sealed.to_owned(), ..place.clone() }];
        new_job(job)
    };
    store.create_jobs(vec![of_job("taken", "~01")], None).await.unwrap();
    assert!(store.create_jobs(vec![of_job("taken", "~02")], None).await.is_err());
    let job = store.create_jobs(vec![of_job("a", "~0f")], None).await.unwrap().remove(0);
    let stored = async || {
        let found = store.sealed_secrets(TENANT, &["~01", "~02", "~0f", "~1f"].map(|n| (n.to_owned(), None))).await;
        found.unwrap().into_iter().map(|((name, _), sealed)| (name, sealed.ciphertext)).collect::<BTreeSet<_>>()
    };
    let both = BTreeSet::from([("~01".to_owned(), vec![3]), ("~0f".to_owned(), vec![3])]);
    assert_eq!(stored().await, both, "with the job or not at all");
    assert_eq!(names(&store, TENANT).await, [""; 0], "they are nobody's to list");
    assert!(matches!(store.delete_secret(TENANT, "~0f", None, USER).await, Err(StoreError::NotFound)));

    let another = SealedSecret { name: "~1f".to_owned(), ..place };
    edit(&store, &job, |job| job.spec.sealed = vec![another.clone()]).await;
    assert_eq!(stored().await.len(), 3, "runs of the version before need theirs");
    delete(&store, &job).await;
    let retention = Retention {
        executions: std::time::Duration::ZERO,
        omissions: std::time::Duration::ZERO,
        logs: std::time::Duration::ZERO,
        ..Retention::default()
    };
    store.upkeep(1, &retention).await.unwrap();
    assert_eq!(stored().await.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["~01"]);
}
