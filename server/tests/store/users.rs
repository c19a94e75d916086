//! People who sign in with a password, and their sessions.

use std::time::Duration;

use chrono::TimeDelta;
use orrery_proto::v1::AuditOutcome::{self, Changed, Denied};
use orrery_server::audit::Resource;
use orrery_server::execution::manual_id;
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

pub(crate) async fn user(store: &DynStore, name: &str) -> User {
    let now = now(store).await;
    let user = User {
        id: Uuid::now_v7(),
        tenant_id: TENANT,
        name: name.to_owned(),
        display_name: "Anna".to_owned(),
        password_hash: "$argon2id$".to_owned(),
        roles: vec!["admin".to_owned()],
        created_by: Some(USER),
        created_at: now,
        updated_at: now,
        last_login_at: None,
        disabled_at: None,
    };
    store.create_user(&user, &[]).await.unwrap();
    user
}

/// Begins a session whose first refresh token has this hash.
pub(crate) async fn session(store: &DynStore, user: &User, token: u8, life: Duration) -> Uuid {
    let new = NewUserSession {
        id: Uuid::now_v7(),
        tenant_id: user.tenant_id,
        user_id: user.id,
        address: "192.0.2.1".to_owned(),
        refresh_hash: [token; 32],
        life,
    };
    assert!(store.begin_user_session(&new).await.unwrap());
    new.id
}

async fn lives(store: &DynStore, session: Uuid) -> bool {
    store.user_session(session).await.unwrap().is_some()
}

pub async fn a_user_reads_back_and_is_its_tenants(store: DynStore) {
    let anna = user(&store, "anna").await;
    assert_eq!(store.user(TENANT, anna.id).await.unwrap(), Some(anna.clone()));
    assert_eq!(store.user_by_name(TENANT, "anna").await.unwrap(), Some(anna.clone()));
    assert_eq!(store.user(OTHER_TENANT, anna.id).await.unwrap(), None);
    assert_eq!(store.user_by_name(OTHER_TENANT, "anna").await.unwrap(), None);
    let bert = user(&store, "bert").await;
    let page = |after| Page { after, limit: 1 };
    let listed = async |tenant, after| store.users(tenant, &page(after)).await.unwrap();
    assert_eq!(listed(TENANT, None).await, std::slice::from_ref(&bert));
    assert_eq!(listed(TENANT, Some(bert.id)).await, std::slice::from_ref(&anna));
    assert_eq!(listed(OTHER_TENANT, None).await, []);
    let change = UserChange { disabled: Some(true), ..UserChange::default() };
    assert!(matches!(store.change_user(OTHER_TENANT, anna.id, &change).await, Err(StoreError::NotFound)));
}

pub async fn names_of_users_are_unique_in_their_tenant(store: DynStore) {
    let anna = user(&store, "anna").await;
    let again = User { id: Uuid::now_v7(), ..anna.clone() };
    match store.create_user(&again, &[]).await {
        Err(StoreError::Refused(error)) => assert_eq!(error.code, "USER_NAME_TAKEN"),
        other => panic!("{other:?}"),
    }
    store.create_user(&User { tenant_id: OTHER_TENANT, ..again }, &[]).await.unwrap();
}

pub async fn a_change_leaves_the_rest(store: DynStore) {
    let anna = user(&store, "anna").await;
    let roles = UserChange { roles: Some(vec!["viewer".into()]), ..UserChange::default() };
    let changed = store.change_user(TENANT, anna.id, &roles).await.unwrap();
    assert_eq!((changed.roles, changed.display_name), (vec!["viewer".to_owned()], anna.display_name));
    assert_eq!((changed.password_hash, changed.disabled_at), (anna.password_hash, None));
    let disable = |disabled| UserChange { disabled: Some(disabled), ..UserChange::default() };
    let first = store.change_user(TENANT, anna.id, &disable(true)).await.unwrap().disabled_at;
    assert!(first.is_some());
    assert_eq!(store.change_user(TENANT, anna.id, &disable(true)).await.unwrap().disabled_at, first);
    assert_eq!(store.change_user(TENANT, anna.id, &disable(false)).await.unwrap().disabled_at, None);
}

pub async fn a_session_lives_until_its_end(store: DynStore) {
    let anna = user(&store, "anna").await;
    let long = session(&store, &anna, 1, MINUTE).await;
    let over = session(&store, &anna, 2, Duration::ZERO).await;
    let found = store.user_session(long).await.unwrap().unwrap();
    assert_eq!((found.id, found.user.id), (long, anna.id));
    assert!(found.user.last_login_at.is_some());
    assert!(!lives(&store, over).await);
    assert_eq!(store.rotate_refresh_token(&[2; 32], &[3; 32]).await.unwrap(), Rotation::Unknown);
    assert_eq!(store.end_user_session(&[1; 32]).await.unwrap(), Some(long));
    assert!(!lives(&store, long).await);
    assert_eq!(store.rotate_refresh_token(&[1; 32], &[3; 32]).await.unwrap(), Rotation::Unknown);
    assert_eq!(store.end_user_session(&[9; 32]).await.unwrap(), None);
}

pub async fn a_refresh_token_is_good_once(store: DynStore) {
    let anna = user(&store, "anna").await;
    let (mine, other) = (session(&store, &anna, 1, MINUTE).await, session(&store, &anna, 100, MINUTE).await);
    for turn in 1..4 {
        match store.rotate_refresh_token(&[turn; 32], &[turn + 1; 32]).await.unwrap() {
            Rotation::Rotated(rotated) => assert_eq!((rotated.id, rotated.user.id), (mine, anna.id)),
            unexpected => panic!("{unexpected:?}"),
        }
    }
    assert_eq!(store.rotate_refresh_token(&[77; 32], &[78; 32]).await.unwrap(), Rotation::Unknown);
    assert!(lives(&store, mine).await);
    // Any earlier one of the family ends all of it.
    let reused = store.rotate_refresh_token(&[2; 32], &[50; 32]).await.unwrap();
    assert_eq!(reused, Rotation::Reused { session: mine, user: anna.id });
    assert!(!lives(&store, mine).await);
    assert_eq!(store.rotate_refresh_token(&[4; 32], &[51; 32]).await.unwrap(), Rotation::Unknown);
    assert!(lives(&store, other).await);
}

pub async fn of_two_that_come_at_once_one_is_the_thief(store: DynStore) {
    let anna = user(&store, "anna").await;
    let mine = session(&store, &anna, 1, MINUTE).await;
    let (second, third) = ([2; 32], [3; 32]);
    let (one, other) =
        tokio::join!(store.rotate_refresh_token(&[1; 32], &second), store.rotate_refresh_token(&[1; 32], &third));
    let answers = [one.unwrap(), other.unwrap()];
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Rotation::Rotated(_))).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Rotation::Reused { .. })).count(), 1, "{answers:?}");
    assert!(!lives(&store, mine).await);
}

pub async fn sessions_end_with_what_they_were_begun_with(store: DynStore) {
    let anna = user(&store, "anna").await;
    let first = session(&store, &anna, 1, MINUTE).await;
    let password = UserChange { password_hash: Some("$argon2id$2".into()), ..UserChange::default() };
    store.change_user(TENANT, anna.id, &password).await.unwrap();
    assert!(!lives(&store, first).await);
    let second = session(&store, &anna, 2, MINUTE).await;
    store.change_user(TENANT, anna.id, &UserChange { disabled: Some(true), ..UserChange::default() }).await.unwrap();
    assert!(!lives(&store, second).await);
    let new = NewUserSession {
        id: Uuid::now_v7(),
        tenant_id: TENANT,
        user_id: anna.id,
        address: String::new(),
        refresh_hash: [3; 32],
        life: MINUTE,
    };
    assert!(!store.begin_user_session(&new).await.unwrap());
    // Enabling a user brings no old session back.
    store.change_user(TENANT, anna.id, &UserChange { disabled: Some(false), ..UserChange::default() }).await.unwrap();
    assert!(!lives(&store, second).await);
    assert!(store.begin_user_session(&new).await.unwrap());
    assert_eq!(store.forget_user_sessions().await.unwrap(), 0);
}

/// Each refresh, the one that a thief has tried, and the end; under the time at which it was, however old the session is.
pub async fn what_becomes_of_a_session_is_written_when_it_happens(store: DynStore) {
    let anna = user(&store, "anna").await;
    let began = now(&store).await - TimeDelta::days(2);
    let sessions = [manual_id(began), manual_id(began)];
    for (n, id) in sessions.into_iter().enumerate() {
        let refresh_hash = [u8::try_from(n).unwrap() * 10; 32];
        let (tenant_id, user_id) = (TENANT, anna.id);
        let new = NewUserSession { id, tenant_id, user_id, address: String::new(), refresh_hash, life: MINUTE };
        assert!(store.begin_user_session(&new).await.unwrap());
    }
    for (token, next) in [(0, 1), (1, 2), (0, 3), (0, 4), (10, 11), (99, 98)] {
        store.rotate_refresh_token(&[token; 32], &[next; 32]).await.unwrap();
    }
    for token in [11, 11, 99] {
        store.end_user_session(&[token; 32]).await.unwrap();
    }
    let filter = AuditFilter { from: Some(began + TimeDelta::days(1)), ..AuditFilter::default() };
    let listed = store.audit_entries(TENANT, &filter, &Page { after: None, limit: 100 }).await.unwrap();
    let mut entries: Vec<AuditEntry> = listed.into_iter().map(|row| row.entry).collect();
    entries.sort_by_key(|entry| entry.at);
    assert!(entries.iter().all(|entry| (entry.author.kind.as_str(), entry.author.id) == ("user", anna.id)));
    let of = |entry: &AuditEntry| (entry.deed.action.clone(), entry.outcome, entry.deed.resource.clone());
    let told = |action: &str, outcome: AuditOutcome, session: usize| {
        (action.to_owned(), outcome, Resource::new("session", sessions[session], "anna"))
    };
    assert_eq!(
        entries.iter().map(of).collect::<Vec<_>>(),
        [
            told("sessions:refresh", Changed, 0),
            told("sessions:refresh", Changed, 0),
            told("sessions:refresh", Denied, 0),
            told("sessions:refresh", Changed, 1),
            told("sessions:logout", Changed, 1),
        ]
    );
}
