//! The `Debug` of messages that hold a secret: without it, so that no log and no error shows one.

use std::fmt::{Debug, Formatter, Result};

use super::v1;

/// Shows these fields of a message, and that there are others.
macro_rules! shown {
    ($($message:ident { $($field:ident),* })+) => {
        $(impl Debug for v1::$message {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                f.debug_struct(stringify!($message))$(.field(stringify!($field), &self.$field))*.finish_non_exhaustive()
            }
        })+
    };
}

shown! {
    LoginRequest { name, tenant_id }
    SignedIn { token_type, expires_in, session_expires_at, user }
    RefreshRequest {}
    LogoutRequest {}
    ChangePasswordRequest {}
    CreateKeyResponse { key }
    CreateUserRequest { name, display_name, roles }
    ResetPasswordRequest { id }
}

#[cfg(test)]
mod tests {
    use super::v1;

    #[test]
    fn no_secret_is_shown() {
        let login = v1::LoginRequest { name: "anna".into(), password: "hush".into(), tenant_id: String::new() };
        let shown = format!("{login:?} {:?}", v1::CreateKeyResponse { secret: "hush".into(), key: None });
        assert!(shown.contains("anna") && !shown.contains("hush"), "{shown}");
        let signed = v1::SignedIn { access_token: "hush".into(), refresh_token: "hush".into(), ..Default::default() };
        assert!(!format!("{signed:?}").contains("hush"));
    }
}
