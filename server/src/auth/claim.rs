//! Whom a call says that it comes from, before that is proved, so that the audit log can tell whose account somebody has tried.

use std::sync::{Arc, OnceLock};

use crate::audit::Claimed;
use crate::store::User;

tokio::task_local! {
    /// That of the call being served.
    static CLAIM: Claim;
}

/// What a call that signs in has said.
#[derive(Clone, Default)]
pub(super) struct Claim(Arc<OnceLock<Claimed>>);

impl Claim {
    /// Serves a call, which may say whom it comes from.
    pub(super) async fn of<F: Future>(&self, call: F) -> F::Output {
        CLAIM.scope(self.clone(), call).await
    }

    /// What the call has said; `None` where it came to no account.
    pub(super) fn claimed(&self) -> Option<Claimed> {
        self.0.get().cloned()
    }
}

/// The call being served says that it comes from this user, or from somebody whom there is not. What was typed is not kept: people type
/// passwords there.
pub(super) fn claims(user: Option<&User>) {
    let claimed = user.map_or(Claimed::Nobody, |user| Claimed::User {
        tenant: user.tenant_id,
        id: user.id,
        name: user.name.clone(),
    });
    // Where the layer does not listen, nobody asks.
    let _ = CLAIM.try_with(|claim| claim.0.set(claimed));
}
