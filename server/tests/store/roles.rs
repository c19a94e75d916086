//! Roles of tenants, who has them, and what is shown to those who have them for jobs with a tag alone.

use orrery_proto::v1::{Delivery, GranteeKind};
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

const ANNA: Uuid = Uuid::from_u128(0xa);

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

async fn role(store: &DynStore, tenant: Uuid, name: &str, permissions: &[&str]) -> Role {
    let at = now(store).await;
    let role = Role {
        tenant_id: tenant,
        name: name.to_owned(),
        description: "mails".to_owned(),
        permissions: names(permissions),
        created_by: USER,
        created_at: at,
        updated_at: at,
    };
    store.create_role(&role).await.unwrap();
    role
}

/// A role of a tenant that somebody has.
pub async fn filled(store: &DynStore, tenant: Uuid) {
    role(store, tenant, "mailer", &["jobs:read"]).await;
    bind_in(store, tenant, "mailer", GranteeKind::User, ANNA, "mail").await.unwrap();
}

/// A binding of a role that the tenant has made.
async fn bind(store: &DynStore, role: &str, kind: GranteeKind, principal_id: Uuid, tag: &str) -> Result<RoleBinding> {
    bind_in(store, TENANT, role, kind, principal_id, tag).await
}

async fn bind_in(
    store: &DynStore,
    tenant_id: Uuid,
    role: &str,
    kind: GranteeKind,
    principal_id: Uuid,
    tag: &str,
) -> Result<RoleBinding> {
    let binding = RoleBinding {
        id: Uuid::now_v7(),
        tenant_id,
        role: role.to_owned(),
        kind,
        principal_id,
        tag: tag.to_owned(),
        created_by: USER,
        created_at: now(store).await,
    };
    store.bind_role(&binding, true).await
}

async fn bindings(store: &DynStore, tenant: Uuid, filter: BindingFilter, page: Page) -> Vec<Uuid> {
    store.role_bindings(tenant, &filter, &page).await.unwrap().into_iter().map(|binding| binding.id).collect()
}

fn all() -> Page {
    Page { after: None, limit: 100 }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T>, code: &str) -> String {
    match answer {
        Err(StoreError::Refused(error)) => {
            assert_eq!(error.code, code);
            error.message
        }
        other => panic!("{other:?}"),
    }
}

pub async fn a_role_reads_back_and_is_its_tenants(store: DynStore) {
    let made = role(&store, TENANT, "mailer", &["jobs:trigger", "jobs:read"]).await;
    assert_eq!(store.role(TENANT, "mailer").await.unwrap(), Some(made.clone()));
    assert_eq!(store.role(OTHER_TENANT, "mailer").await.unwrap(), None);
    refused(store.create_role(&made).await, "ROLE_NAME_TAKEN");
    role(&store, OTHER_TENANT, "mailer", &["*"]).await;
    for name in ["b_2", "a-1", "b-1"] {
        role(&store, TENANT, name, &["*"]).await;
    }
    let listed = async |after: &str, limit| {
        let roles = store.roles(TENANT, after, limit).await.unwrap();
        roles.into_iter().map(|role| role.name).collect::<Vec<_>>()
    };
    assert_eq!(listed("", 3).await, ["a-1", "b-1", "b_2"]);
    assert_eq!(listed("b_2", 3).await, ["mailer"]);
    let changed = store.change_role(TENANT, "mailer", "other", &names(&["logs:read"])).await.unwrap();
    assert_eq!((changed.description.as_str(), &changed.permissions[..]), ("other", &names(&["logs:read"])[..]));
    assert!(changed.updated_at >= made.updated_at && changed.created_at == made.created_at);
    assert_eq!(store.role(OTHER_TENANT, "mailer").await.unwrap().unwrap().permissions, ["*"]);
    let other = store.change_role(OTHER_TENANT, "a-1", "", &[]).await;
    assert!(matches!(other, Err(StoreError::NotFound)), "{other:?}");
}

pub async fn bindings_are_kept_once_and_listed(store: DynStore) {
    role(&store, TENANT, "mailer", &["jobs:trigger"]).await;
    let whole = bind(&store, "mailer", GranteeKind::User, ANNA, "").await.unwrap();
    let again = bind(&store, "mailer", GranteeKind::User, ANNA, "").await.unwrap();
    assert_eq!(again, whole, "the same for the same is one");
    let tagged = bind(&store, "mailer", GranteeKind::User, ANNA, "mail").await.unwrap();
    let key = bind(&store, "mailer", GranteeKind::Key, ANNA, "").await.unwrap();
    assert_eq!(bindings(&store, TENANT, BindingFilter::default(), all()).await, [key.id, tagged.id, whole.id]);
    let page = Page { after: Some(key.id), limit: 1 };
    assert_eq!(bindings(&store, TENANT, BindingFilter::default(), page).await, [tagged.id]);
    let of = |role: Option<&str>, principal_id| BindingFilter { role: role.map(str::to_owned), principal_id };
    assert_eq!(bindings(&store, TENANT, of(Some("mailer"), Some(ANNA)), all()).await.len(), 3);
    for none in [of(Some("viewer"), None), of(None, Some(USER))] {
        assert!(bindings(&store, TENANT, none, all()).await.is_empty());
    }
    // Another tenant sees and takes none of it, and no binding is of a role that there is not.
    assert!(bindings(&store, OTHER_TENANT, BindingFilter::default(), all()).await.is_empty());
    assert_eq!(store.role_binding(OTHER_TENANT, whole.id).await.unwrap(), None);
    assert!(matches!(store.unbind_role(OTHER_TENANT, whole.id).await, Err(StoreError::NotFound)));
    assert!(matches!(bind(&store, "nobody", GranteeKind::User, ANNA, "").await, Err(StoreError::NotFound)));
    assert_eq!(store.role_binding(TENANT, whole.id).await.unwrap().as_ref(), Some(&whole));
    assert_eq!(store.unbind_role(TENANT, whole.id).await.unwrap(), whole);
    assert!(matches!(store.unbind_role(TENANT, whole.id).await, Err(StoreError::NotFound)));
}

pub async fn what_somebody_has_is_found(store: DynStore) {
    role(&store, TENANT, "mailer", &["jobs:trigger"]).await;
    role(&store, TENANT, "named", &["logs:read"]).await;
    role(&store, OTHER_TENANT, "theirs", &["*"]).await;
    bind(&store, "mailer", GranteeKind::User, ANNA, "mail").await.unwrap();
    bind(&store, "mailer", GranteeKind::Key, USER, "").await.unwrap();
    let built_in =
        RoleBinding { role: "viewer".to_owned(), ..bind(&store, "named", GranteeKind::User, ANNA, "").await.unwrap() };
    store.bind_role(&RoleBinding { id: Uuid::now_v7(), ..built_in }, false).await.unwrap();
    let granted = async |tenant, kind, id, roles: &[&str]| {
        let roles = names(roles);
        let mut found = store.granted(&Grantee { tenant, kind, id, roles: &roles }).await.unwrap();
        found.sort_by(|a, b| (&a.role, &a.tag).cmp(&(&b.role, &b.tag)));
        found.into_iter().map(|g| (g.role, g.tag, g.permissions)).collect::<Vec<_>>()
    };
    let of = |role: &str, tag: &str, may: Option<&[&str]>| (role.to_owned(), tag.to_owned(), may.map(names));
    assert_eq!(
        granted(TENANT, GranteeKind::User, ANNA, &["theirs", "nobody"]).await,
        [
            of("mailer", "mail", Some(&["jobs:trigger"])),
            of("named", "", Some(&["logs:read"])),
            of("nobody", "", None),
            of("theirs", "", None),
            of("viewer", "", None),
        ]
    );
    assert_eq!(granted(TENANT, GranteeKind::User, USER, &["named"]).await, [of("named", "", Some(&["logs:read"]))]);
    assert_eq!(granted(TENANT, GranteeKind::Key, USER, &[]).await, [of("mailer", "", Some(&["jobs:trigger"]))]);
    assert_eq!(granted(OTHER_TENANT, GranteeKind::User, ANNA, &[]).await, []);
}

pub async fn a_role_that_somebody_has_stays(store: DynStore) {
    role(&store, TENANT, "mailer", &["jobs:trigger"]).await;
    role(&store, TENANT, "other", &["jobs:trigger"]).await;
    let bound = bind(&store, "mailer", GranteeKind::User, ANNA, "mail").await.unwrap();
    let user = crate::users::user(&store, "bert").await;
    let roles = |roles: &[&str]| UserChange { roles: Some(names(roles)), ..UserChange::default() };
    store.change_user(TENANT, user.id, &roles(&["viewer", "mailer"])).await.unwrap();
    let message = refused(store.delete_role(TENANT, "mailer").await, "ROLE_IN_USE");
    assert!(message.contains("bert") && message.contains("1 bindings"), "{message}");
    store.unbind_role(TENANT, bound.id).await.unwrap();
    refused(store.delete_role(TENANT, "mailer").await, "ROLE_IN_USE");
    store.change_user(TENANT, user.id, &roles(&["viewer"])).await.unwrap();
    assert!(matches!(store.delete_role(OTHER_TENANT, "mailer").await, Err(StoreError::NotFound)));
    store.delete_role(TENANT, "mailer").await.unwrap();
    assert!(matches!(store.delete_role(TENANT, "mailer").await, Err(StoreError::NotFound)));
    assert_eq!(store.role(TENANT, "mailer").await.unwrap(), None);
    assert!(store.role(TENANT, "other").await.unwrap().is_some());
}

/// One that is bound and deleted at once is either gone, and nobody has it, or somebody has it, and it is there.
pub async fn no_binding_is_left_of_a_deleted_role(store: DynStore) {
    for n in 0..20 {
        let name = format!("role-{n}");
        role(&store, TENANT, &name, &["jobs:read"]).await;
        let (bound, deleted) =
            tokio::join!(bind(&store, &name, GranteeKind::User, ANNA, ""), store.delete_role(TENANT, &name));
        let is_there = store.role(TENANT, &name).await.unwrap().is_some();
        assert_eq!((bound.is_ok(), deleted.is_err()), (is_there, is_there), "{bound:?} {deleted:?}");
    }
}

/// The same of a user's own roles, whether the user is new or is changed.
pub async fn no_user_has_a_deleted_role(store: DynStore) {
    let anna = crate::users::user(&store, "anna").await;
    for n in 0..50 {
        let name = format!("role-{n}");
        role(&store, TENANT, &name, &["jobs:read"]).await;
        let (roles, made_roles) = (names(&["viewer", &name]), names(&[&name]));
        let give = async {
            if n % 2 == 0 {
                let id = Uuid::now_v7();
                let new = User { id, name: format!("user-{n}"), roles: roles.clone(), ..anna.clone() };
                store.create_user(&new, &made_roles).await.map(|()| new)
            } else {
                let change =
                    UserChange { roles: Some(roles.clone()), made_roles: made_roles.clone(), ..UserChange::default() };
                store.change_user(TENANT, anna.id, &change).await
            }
        };
        let (given, deleted) = tokio::join!(give, store.delete_role(TENANT, &name));
        let is_there = store.role(TENANT, &name).await.unwrap().is_some();
        assert_eq!((given.is_ok(), deleted.is_err()), (is_there, is_there), "{given:?} {deleted:?}");
        match given {
            Ok(user) => assert_eq!(store.user(TENANT, user.id).await.unwrap().unwrap().roles, roles),
            Err(_) => assert!(refused(given, "INVALID_ROLE").contains(&name)),
        }
        let elsewhere = User { id: Uuid::now_v7(), tenant_id: OTHER_TENANT, roles, ..anna.clone() };
        refused(store.create_user(&elsewhere, &made_roles).await, "INVALID_ROLE");
    }
}

pub async fn lists_show_what_a_tag_lets_see(store: DynStore) {
    let tagged = |name: &'static str, tags: &'static [&'static str]| {
        job_with(&store, name, |job| {
            job.spec.tags = names(tags);
            job.spec.delivery = Delivery::AtMostOnce;
        })
    };
    let (a, b, both) = (tagged("a", &["a"]).await, tagged("b", &["b"]).await, tagged("both", &["b", "a"]).await);
    let none = tagged("none", &[]).await;
    let mut found = store.job_tags(TENANT, &[a.id, both.id, none.id, USER]).await.unwrap();
    found.sort();
    let mut expected = vec![(a.id, names(&["a"])), (both.id, both.spec.tags.clone()), (none.id, vec![])];
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(store.job_tags(OTHER_TENANT, &[a.id]).await.unwrap(), []);
    let jobs_tagged = async |tags: &[&str], limit| store.jobs_tagged(TENANT, &names(tags), limit).await.unwrap();
    assert_eq!(jobs_tagged(&["a"], 10).await, [both.id, a.id]);
    assert_eq!(jobs_tagged(&["a", "b"], 2).await, [both.id, b.id]);
    assert!(jobs_tagged(&["A", ""], 10).await.is_empty());
    assert!(store.jobs_tagged(OTHER_TENANT, &names(&["a"]), 10).await.unwrap().is_empty());
    let filter = JobFilter { any_tag: Some(names(&["a", "x"])), ..JobFilter::default() };
    let listed = store.jobs(TENANT, &filter, &all()).await.unwrap();
    assert_eq!(listed.iter().map(|job| job.id).collect::<Vec<_>>(), [both.id, a.id]);

    for job in [&a, &b, &both, &none] {
        // Lost with its agent, so that there is a dead letter of it.
        let agent = session(&store, "agent").await;
        leased(&store, job, &agent).await;
        kill(&store, &agent).await;
        store.reap(MINUTE, 100).await.unwrap();
    }
    for job in [&a, &b, &both, &none] {
        trigger(&store, job).await;
    }
    let jobs = |ids: &[Uuid]| Some(ids.to_vec());
    for (ids, count) in [(jobs(&[a.id, both.id]), 2), (jobs(&[]), 0), (None, 4)] {
        let filter = ExecutionFilter { jobs: ids.clone(), ..ExecutionFilter::default() };
        let found = store.executions(TENANT, &filter, &all()).await.unwrap();
        assert_eq!(found.len(), 2 * count, "{ids:?}");
        assert!(found.iter().all(|e| ids.as_ref().is_none_or(|ids| ids.contains(&e.job_id))), "{ids:?}");
        assert!(found.is_sorted_by_key(|e| std::cmp::Reverse(e.id)));
        let page = Page { after: found.first().map(|e| e.id), limit: 1 };
        let next = store.executions(TENANT, &filter, &page).await.unwrap();
        assert_eq!(next.first(), found.get(1), "{ids:?}");
        let filter = DeadLetterFilter { jobs: ids.clone(), ..DeadLetterFilter::default() };
        assert_eq!(store.dead_letters(TENANT, &filter, &all()).await.unwrap().len(), count, "{ids:?}");
    }
    let gone = |job: &orrery_server::job::Job, at| {
        let mut job = job.clone();
        job.deleted_at = Some(at);
        Ok(JobChange { job, unplan: false, cancel: None, omission: None })
    };
    store.change_job(TENANT, both.id, &gone).await.unwrap();
    assert_eq!(jobs_tagged(&["a"], 10).await, [both.id, a.id], "what a deleted job has left is its tags' too");
    assert_eq!(store.job_tags(TENANT, &[both.id]).await.unwrap().len(), 1);
}
