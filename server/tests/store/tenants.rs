//! Tenants as things of their own.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use orrery_proto::v1::LogStream;
use orrery_server::error::{Error, Kind};
use orrery_server::firing;
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

fn admit(job: &Job, active: i64, _: &Trigger) -> Result<(), Error> {
    firing::admit_trigger(job, active, false)
}

pub async fn nothing_of_a_suspended_tenant_fires_or_is_granted(store: DynStore) {
    let free = |job: &mut Job| job.spec.max_concurrent = 0;
    let manual = job_with(&store, "manual", free).await;
    let mut other = job_of(OTHER_TENANT, spec("other"));
    other.spec.max_concurrent = 0;
    let other = store.create_jobs(vec![new_job(other)], None).await.unwrap().remove(0);
    let shared = store.open_session(&NewSession { tenant_id: None, ..agent("shared") }, MINUTE).await.unwrap();
    let running = leased(&store, &manual, &shared).await;
    let running = apply(&store, &running, started(&running)).await.unwrap();
    // One fire is planned, another is to be.
    let (soon, later) = (seconds_from_now(&store, -1).await, seconds_from_now(&store, 2).await);
    let fires = job_with(&store, "fires", |job| {
        free(job);
        job.cursor = Some(soon);
    })
    .await;
    assert_eq!(plan(&store, &[soon], Some(later)).await.fires, 1);
    let (waits, others) = (trigger(&store, &manual).await, trigger(&store, &other).await);
    // Known to the store, so that the next ones would be made in one statement.
    store.trigger_each(vec![trigger_of(&manual)], &admit, None).await.unwrap().remove(0).unwrap();

    let since = suspend(&store, TENANT, true).await.suspended_at.unwrap();
    let refused = store.trigger(vec![trigger_of(&manual)], &admit).await;
    assert!(matches!(refused, Err(StoreError::TriggerRefused { reason, .. }) if reason.code == "TENANT_SUSPENDED"));
    for made in store.trigger_each(vec![trigger_of(&manual), trigger_of(&other)], &admit, None).await.unwrap() {
        match made {
            Ok(made) => assert_eq!(made.execution.tenant_id, OTHER_TENANT),
            Err(StoreError::TriggerRefused { reason, .. }) => assert_eq!(reason.code, "TENANT_SUSPENDED"),
            Err(other) => panic!("{other:?}"),
        }
    }
    let planned = plan(&store, &[later], None).await;
    assert_eq!((planned.jobs, planned.fires, planned.next_cursor), (0, 0, None));
    assert_eq!(store.release(10, &firing::judge).await.unwrap().omitted, 1);
    let [omitted] = omissions(&store, &fires).await.try_into().unwrap();
    assert_eq!((omitted.reason.as_str(), omitted.from), ("tenant_suspended", soon));
    let granted: Vec<Uuid> = claim(&store, &shared, 100).await.grants.iter().map(|g| g.execution.id).collect();
    assert!(granted.contains(&others.id) && !granted.contains(&waits.id), "{granted:?}");
    assert_eq!(job_now(&store, fires.id).await.tenant_suspended_at, Some(since));
    // What runs ends as it would have.
    let done = apply(&store, &running, completed(&running)).await.unwrap();
    assert!(done.is_done());

    suspend(&store, TENANT, false).await;
    assert_eq!(plan(&store, &[later], None).await.fires, 1, "its cursor has stood where it was");
    let granted: Vec<Uuid> = claim(&store, &shared, 100).await.grants.iter().map(|g| g.execution.id).collect();
    assert!(granted.contains(&waits.id), "{granted:?}");
    store.trigger(vec![trigger_of(&manual)], &admit).await.unwrap();
}

/// Whether so many minutes are left of the hour that a test of it does not cross its end.
async fn early_in_the_hour(store: &DynStore) -> bool {
    let now = now(store).await;
    now.minute() < 59
}

/// A job with these fires, planned.
async fn due(store: &DynStore, name: &str, tenant: Uuid, fires: Vec<DateTime<Utc>>) -> Job {
    let mut job = job_of(tenant, spec(name));
    (job.spec.max_concurrent, job.cursor) = (0, fires.first().copied());
    let job = store.create_jobs(vec![new_job(job)], None).await.unwrap().remove(0);
    let id = job.id;
    let decide = |candidate: &PlanCandidate| match candidate.job.id == id {
        true => {
            JobPlan { fires: fires.clone(), omissions: vec![], cursor: Some(candidate.now + chrono::Duration::days(1)) }
        }
        false => JobPlan { cursor: candidate.job.cursor, ..JobPlan::default() },
    };
    store.plan(MINUTE, 1000, &decide).await.unwrap();
    job
}

pub async fn fires_beyond_the_hourly_quota_are_omitted(store: DynStore) {
    if !early_in_the_hour(&store).await {
        return;
    }
    let due = async |name: &str, tenant, count: i64| {
        let first = seconds_from_now(&store, -count).await;
        due(&store, name, tenant, (0..count).map(|n| first + TimeDelta::seconds(n)).collect()).await
    };
    let (mine, others) = (due("mine", TENANT, 5).await, due("others", OTHER_TENANT, 5).await);
    changed(&store, TENANT, |tenant| tenant.quotas.max_executions_per_hour = Some(3)).await;
    assert_eq!(store.set_aside(TENANT, 1, 0).await.unwrap().granted, 1, "callers and schedules share it");
    let released = store.release_within(Places::of(100), 0, &firing::judge).await.unwrap();
    assert_eq!((released.released, released.omitted), (2 + 5, 3));
    let omitted = omissions(&store, &mine).await;
    assert!(omitted.len() == 3 && omitted.iter().all(|omission| omission.reason == "quota"), "{omitted:?}");
    assert_eq!((store.hour_of(TENANT).await.unwrap(), store.hour_of(OTHER_TENANT).await.unwrap()), (3, 0));
    assert_eq!(job_now(&store, mine.id).await.execution_count, 2);
    // By the deployment's default, where the tenant says nothing; and none where it says that.
    due("more", OTHER_TENANT, 3).await;
    let released = store.release_within(Places::of(100), 2, &firing::judge).await.unwrap();
    assert_eq!((released.released, released.omitted), (2, 1));
    assert_eq!(omissions(&store, &others).await, []);
    changed(&store, OTHER_TENANT, |tenant| tenant.quotas.max_executions_per_hour = Some(0)).await;
    due("unlimited", OTHER_TENANT, 3).await;
    assert_eq!(store.release_within(Places::of(100), 2, &firing::judge).await.unwrap().released, 3);
    assert_eq!(store.hour_of(OTHER_TENANT).await.unwrap(), 2);
}

/// However many coordinators release at the same time, and each sees plenty left.
pub async fn what_fires_never_passes_the_quota(store: DynStore) {
    if !early_in_the_hour(&store).await {
        return;
    }
    for round in 1..=5 {
        changed(&store, TENANT, |tenant| tenant.quotas.max_executions_per_hour = Some(40 * round)).await;
        let first = seconds_from_now(&store, -2).await;
        for n in 0..8 {
            // One after the other, so that each round has a job of its own.
            let fires = (0..10).map(|fire| first + TimeDelta::milliseconds(10 * n + fire)).collect();
            due(&store, &format!("job {round} {n}"), TENANT, fires).await;
        }
        let tasks = (0..8).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.release_within(Places::of(10), 0, &firing::judge).await.unwrap() })
        });
        let (mut released, mut omitted) = (0, 0);
        for task in tasks.collect::<Vec<_>>() {
            let done = task.await.unwrap();
            (released, omitted) = (released + done.released, omitted + done.omitted);
        }
        // What a round found locked by another one is left.
        let rest = store.release_within(Places::of(100), 0, &firing::judge).await.unwrap();
        assert_eq!((released + rest.released, omitted + rest.omitted), (40, 40));
        assert_eq!(store.hour_of(TENANT).await.unwrap(), 40 * round);
    }
}

/// However many coordinators set aside at the same time.
pub async fn what_is_set_aside_never_passes_the_quota(store: DynStore) {
    if !early_in_the_hour(&store).await {
        return;
    }
    let mut granted = 0;
    // So little more each time that those which come together find its end, and often enough that some do.
    for quota in (20..=200).step_by(20) {
        changed(&store, TENANT, |tenant| tenant.quotas.max_executions_per_hour = Some(quota)).await;
        let tasks = (0..20).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.set_aside(TENANT, 7, 1_000_000).await.unwrap() })
        });
        for task in tasks.collect::<Vec<_>>() {
            let set_aside = task.await.unwrap();
            assert!(set_aside.ends_in <= std::time::Duration::from_secs(3600));
            granted += set_aside.granted;
        }
        assert_eq!((granted, store.hour_of(TENANT).await.unwrap()), (quota, quota));
    }
    assert_eq!(store.set_aside(TENANT, 1, 0).await.unwrap().granted, 0);
    assert_eq!(store.set_aside(OTHER_TENANT, 7, 5).await.unwrap().granted, 5, "the default");
    assert_eq!(store.set_aside(Uuid::from_u128(3), 7, 0).await.unwrap().granted, 7, "none at all");
    assert_eq!(store.hour_of(Uuid::from_u128(3)).await.unwrap(), 0, "and nothing is counted");
}

pub async fn a_tenant_says_what_one_execution_may_print(store: DynStore) {
    changed(&store, TENANT, |tenant| tenant.quotas.max_log_bytes = Some(10)).await;
    let (job, session) =
        (job_with(&store, "a", |job| job.spec.max_concurrent = 0).await, session(&store, "agent").await);
    let print = async |most: i64| {
        let running = leased(&store, &job, &session).await;
        let running = apply(&store, &running, started(&running)).await.unwrap();
        let line = |n: i64| LogLine {
            execution_id: running.id,
            sequence: running.epoch << 32 | n,
            epoch: running.epoch,
            attempt: 1,
            stream: LogStream::Stdout,
            at: running.created_at,
            text: "12345678".to_owned(),
        };
        store.append_logs(None, vec![line(1), line(2), line(3)], most).await.unwrap();
        store.logs(TENANT, running.id, 0, 10).await.unwrap().into_iter().map(|line| line.text).collect::<Vec<_>>()
    };
    let printed = print(1 << 20).await;
    assert!(printed.len() == 2 && printed[1].contains("full at 10 bytes"), "{printed:?}");
    changed(&store, TENANT, |tenant| tenant.quotas.max_log_bytes = Some(0)).await;
    assert_eq!(print(10).await.len(), 3, "no limit");
    changed(&store, TENANT, |tenant| tenant.quotas.max_log_bytes = None).await;
    assert_eq!(print(16).await.len(), 3, "the deployment's default");
}

/// While both have a backlog, however few places each claim has.
pub async fn a_tenants_weight_is_its_share(store: DynStore) {
    changed(&store, TENANT, |tenant| tenant.weight = 3).await;
    let shared = store.open_session(&NewSession { tenant_id: None, ..agent("shared") }, MINUTE).await.unwrap();
    // The lighter one was there first, and has two lanes.
    for (tenant, queue) in [(OTHER_TENANT, "default"), (OTHER_TENANT, "mail"), (TENANT, "default")] {
        let mut job = job_of(tenant, spec(queue));
        (job.spec.max_concurrent, job.spec.queue) = (0, queue.to_owned());
        let job = store.create_jobs(vec![new_job(job)], None).await.unwrap().remove(0);
        triggers(&store, &job, 150).await;
    }
    for (places, claims) in [(1, 40), (6, 12)] {
        let mut got: HashMap<Uuid, i32> = HashMap::new();
        for _ in 0..claims {
            for grant in claim(&store, &shared, places).await.grants {
                *got.entry(grant.execution.tenant_id).or_default() += 1;
            }
        }
        let share = f64::from(got[&TENANT]) / f64::from(got[&OTHER_TENANT]);
        assert!((2.5..3.6).contains(&share), "{places} places: {got:?}");
    }
}
