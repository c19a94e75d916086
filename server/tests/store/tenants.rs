//! Tenants as things of their own.

use orrery_server::error::{Error, Kind};
use orrery_server::job::Job;
use orrery_server::store::*;
use orrery_server::tenant::{Quotas, Settings, Tenant};
use uuid::Uuid;

use crate::support::*;

/// A tenant of that id, made where there is none, after a change.
pub async fn changed(store: &DynStore, id: Uuid, change: impl Fn(&mut Tenant) + Send + Sync) -> Tenant {
    if store.tenant(id).await.unwrap().is_none() {
        let new = Tenant { name: format!("tenant-{id}"), ..Tenant::unnamed(id) };
        store.create_tenant(&new).await.unwrap();
    }
    let decide = |stored: &Tenant, _| {
        let mut tenant = stored.clone();
        change(&mut tenant);
        Ok(tenant)
    };
    store.change_tenant(id, &decide).await.unwrap()
}

/// Suspends a tenant, or lets it go on.
pub async fn suspend(store: &DynStore, id: Uuid, suspended: bool) -> Tenant {
    let now = now(store).await;
    changed(store, id, move |tenant| tenant.suspended_at = suspended.then_some(now)).await
}

fn named(name: &str) -> Tenant {
    Tenant { name: name.to_owned(), created_by: Some(USER), ..Tenant::unnamed(Uuid::now_v7()) }
}

fn code(error: StoreError) -> &'static str {
    let StoreError::Refused(reason) = error else { panic!("{error:?}") };
    reason.code
}

pub async fn a_tenant_reads_back_and_changes(store: DynStore) {
    let default = store.tenant(TENANT).await.unwrap().expect("the default tenant is there from the start");
    assert_eq!((default.name.as_str(), default.weight, default.version), ("default", 1, 1));
    assert_eq!((default.quotas, default.settings), (Quotas::default(), Settings::default()));
    assert_eq!(store.tenant(OTHER_TENANT).await.unwrap(), None);
    let new = Tenant {
        description: "with \0 in it".to_owned(),
        quotas: Quotas { max_jobs: Some(0), max_executions_per_hour: Some(7), ..Quotas::default() },
        weight: 3,
        settings: Settings { allow_shell: Some(false), ip_allow: vec!["10.0.0.0/8".to_owned()], ..Settings::default() },
        ..named("acme")
    };
    let made = store.create_tenant(&new).await.unwrap();
    assert_eq!((made.version, made.created_at.is_some(), made.settings.clone()), (1, true, new.settings.clone()));
    let read = store.tenant(made.id).await.unwrap().unwrap();
    let expected = Tenant { description: read.description.clone(), ..made.clone() };
    assert_eq!(read, expected);
    let after = changed(&store, made.id, |tenant| {
        tenant.quotas = Quotas { max_concurrent: Some(5), max_log_bytes: Some(1 << 40), ..Quotas::default() };
        tenant.settings.egress_deny = vec!["*.internal".to_owned()];
        // Not for a change to say.
        (tenant.version, tenant.created_by, tenant.id) = (77, None, Uuid::nil());
    })
    .await;
    assert_eq!((after.version, after.created_by, after.id, after.weight), (2, Some(USER), made.id, 3));
    assert!(after.updated_at > made.updated_at && after.created_at == made.created_at);
    assert_eq!(store.tenant(made.id).await.unwrap(), Some(after.clone()));
    // What changes nothing makes no version.
    assert_eq!(changed(&store, made.id, |_| {}).await, after);
}

pub async fn names_of_tenants_are_unique(store: DynStore) {
    let acme = store.create_tenant(&named("acme")).await.unwrap();
    assert_eq!(code(store.create_tenant(&named("acme")).await.unwrap_err()), "TENANT_NAME_TAKEN");
    let again = Tenant { name: "other".to_owned(), ..acme.clone() };
    assert_eq!(code(store.create_tenant(&again).await.unwrap_err()), "TENANT_EXISTS");
    let other = store.create_tenant(&named("other")).await.unwrap();
    let renamed = |tenant: &Tenant, _| Ok(Tenant { name: "acme".to_owned(), ..tenant.clone() });
    assert_eq!(code(store.change_tenant(other.id, &renamed).await.unwrap_err()), "TENANT_NAME_TAKEN");
    // Of many that want a name one gets it.
    let tries = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.create_tenant(&named("wanted")).await })
    });
    let mut made = 0;
    for tried in tries.collect::<Vec<_>>() {
        match tried.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert_eq!(code(error), "TENANT_NAME_TAKEN"),
        }
    }
    assert_eq!(made, 1);
}

pub async fn a_change_of_a_tenant_may_be_refused(store: DynStore) {
    let acme = store.create_tenant(&named("acme")).await.unwrap();
    let refuse = |_: &Tenant, _| Err(Error::new(Kind::Conflict, "NO", "no"));
    assert_eq!(code(store.change_tenant(acme.id, &refuse).await.unwrap_err()), "NO");
    assert_eq!(store.tenant(acme.id).await.unwrap(), Some(acme));
    let any = |tenant: &Tenant, _| Ok(tenant.clone());
    assert!(matches!(store.change_tenant(Uuid::now_v7(), &any).await, Err(StoreError::NotFound)));
}

pub async fn changes_of_a_tenant_do_not_overwrite_each_other(store: DynStore) {
    let acme = store.create_tenant(&named("acme")).await.unwrap();
    let tasks = (0..10).map(|_| {
        let (store, id) = (store.clone(), acme.id);
        tokio::spawn(async move { changed(&store, id, |tenant| tenant.weight += 1).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let after = store.tenant(acme.id).await.unwrap().unwrap();
    assert_eq!((after.weight, after.version), (11, 11));
}

pub async fn tenants_page(store: DynStore) {
    let mut made = Vec::new();
    for name in ["a", "b", "c"] {
        made.push(store.create_tenant(&named(name)).await.unwrap().id);
    }
    made.reverse();
    made.push(TENANT);
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.tenants(&Page { after, limit: 2 }).await.unwrap();
        after = page.last().map(|tenant| tenant.id);
        seen.extend(page.into_iter().map(|tenant| tenant.id));
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, made);
}

/// In the transaction of the suspension, whether they are there or in the making.
pub async fn jobs_are_told_of_a_suspension(store: DynStore) {
    let there = job(&store, "there").await;
    let other = store.create_jobs(vec![new_job(job_of(OTHER_TENANT, spec("a")))], None).await.unwrap().remove(0);
    let since = suspend(&store, TENANT, true).await.suspended_at;
    assert!(since.is_some());
    let told = async |job: &Job| store.job(job.tenant_id, job.id).await.unwrap().unwrap().tenant_suspended_at;
    assert_eq!((told(&there).await, told(&other).await), (since, None));
    // What was read before the suspension, and is written after it, forgets nothing.
    store.change_job(TENANT, there.id, &|_, _| Ok(change_of(&there))).await.unwrap();
    assert_eq!(told(&there).await, since);
    let late = store.create_jobs(vec![new_job(job_of(TENANT, spec("late")))], None).await;
    assert_eq!(code(late.unwrap_err()), "TENANT_SUSPENDED");
    suspend(&store, TENANT, false).await;
    assert_eq!(told(&there).await, None);
    job(&store, "late").await;

    // Made at the same time: each job is refused, or told.
    for round in 0..10 {
        let making = (0..4).map(|n| {
            let (store, name) = (store.clone(), format!("{round}-{n}"));
            tokio::spawn(async move { store.create_jobs(vec![new_job(job_of(TENANT, spec(&name)))], None).await })
        });
        let making: Vec<_> = making.collect();
        let since = suspend(&store, TENANT, true).await.suspended_at;
        for made in making {
            match made.await.unwrap() {
                Ok(made) => assert_eq!(told(&made[0]).await, since, "round {round}"),
                Err(error) => assert_eq!(code(error), "TENANT_SUSPENDED"),
            }
        }
        suspend(&store, TENANT, false).await;
    }
}

fn change_of(job: &Job) -> JobChange {
    JobChange { job: job.clone(), unplan: false, cancel: None, omission: None }
}
