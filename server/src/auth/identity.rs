//! What is checked of the configured secrets before anything is served.

use std::path::PathBuf;

use crate::config::Identity;

/// The least bytes of a secret.
const LEAST: usize = 32;
/// Parts of values that stand in examples and are no secrets.
const PLACEHOLDERS: [&str; 13] = [
    "changeme",
    "change-me",
    "change_me",
    "changethis",
    "your-",
    "your_",
    "yoursecret",
    "placeholder",
    "example",
    "password",
    "insecure",
    "default",
    "replace",
];

/// Why a coordinator does not start with these secrets.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{name} has {length} bytes; give {LEAST} at least, such as from `openssl rand -base64 48`")]
    TooShort { name: &'static str, length: usize },
    #[error(
        "{name} is a placeholder (it contains `{part}`); give a secret of your own, such as from `openssl rand -base64 48`"
    )]
    Placeholder { name: &'static str, part: &'static str },
    #[error(
        "{name} repeats the same few characters; give a secret of your own, such as from `openssl rand -base64 48`"
    )]
    Repetitive { name: &'static str },
    #[error("the public key {path} cannot be read")]
    UnreadableKey { path: PathBuf, source: std::io::Error },
    #[error("ORRERY_JWT_PUBLIC_KEY: {path} {reason}")]
    NoPublicKey { path: PathBuf, reason: &'static str },
    #[error("ORRERY_JWKS: {reason}")]
    Jwks { reason: String },
    #[error(
        "ORRERY_JWT_ISSUER is needed with ORRERY_JWT_PUBLIC_KEY or ORRERY_JWKS: others may have tokens signed by the same keys; give the `iss` of yours"
    )]
    NoIssuer,
    #[error("{name} must not be empty; give the `{claim}` that tokens must have")]
    EmptyClaim { name: &'static str, claim: &'static str },
    #[error(transparent)]
    Sibling(#[from] crate::sibling::AddressError),
    #[error(
        "ORRERY_KEY_PEPPER is needed, so that API keys can be hashed and logins signed: give the output of `openssl rand -base64 48`, the same \
         to all coordinators; or name a file for it by ORRERY_KEY_FILE, or set ORRERY_JWT_SECRET, which it is then derived from"
    )]
    NoServerSecret,
    #[error("ORRERY_KEY_FILE: {path}: {source}")]
    KeyFile { path: PathBuf, source: std::io::Error },
    #[error("ORRERY_KEY_FILE: {path} can be read by everybody on this host; chmod 600 it")]
    OpenKeyFile { path: PathBuf },
    #[error(
        "ORRERY_KEY_FILE: {path} holds no 32 bytes in base64; let it be made, or write the output of `openssl rand -base64 48`"
    )]
    NoKey { path: PathBuf },
}

impl Identity {
    /// Refuses secrets that are none, and rules that would let anybody in.
    ///
    /// # Errors
    /// The first setting that is wrong, with how to mend it.
    pub fn check(&self) -> Result<(), IdentityError> {
        let secrets = [
            ("ORRERY_JWT_SECRET", &self.jwt_secret),
            ("INTERNAL_SERVICE_TOKEN", &self.internal.internal_service_token),
        ];
        for (name, secret) in secrets {
            if let Some(secret) = secret {
                check_secret(name, secret)?;
            }
        }
        for pepper in &self.server_secret.key_pepper {
            check_secret("ORRERY_KEY_PEPPER", pepper)?;
        }
        if self.jwt_audience.trim().is_empty() {
            return Err(IdentityError::EmptyClaim { name: "ORRERY_JWT_AUDIENCE", claim: "aud" });
        }
        match &self.jwt_issuer {
            Some(issuer) if issuer.trim().is_empty() => {
                Err(IdentityError::EmptyClaim { name: "ORRERY_JWT_ISSUER", claim: "iss" })
            }
            None if !self.jwt_public_key.is_empty()
                || self.jwks.as_deref().is_some_and(|jwks| !jwks.trim().is_empty()) =>
            {
                Err(IdentityError::NoIssuer)
            }
            _ => Ok(()),
        }
    }
}

/// Refuses a secret that others could guess. A placeholder is called one whatever its length.
///
/// # Errors
/// What is wrong with it, under its name.
pub fn check_secret(name: &'static str, secret: &str) -> Result<(), IdentityError> {
    let lower = secret.trim().to_lowercase();
    if let Some(part) = PLACEHOLDERS.into_iter().find(|part| lower.contains(part)) {
        return Err(IdentityError::Placeholder { name, part });
    }
    if lower == "secret" || lower.starts_with("supersecret") || lower.starts_with("super-secret") {
        return Err(IdentityError::Placeholder { name, part: "secret" });
    }
    if secret.len() < LEAST {
        return Err(IdentityError::TooShort { name, length: secret.len() });
    }
    let mut characters: Vec<char> = secret.chars().collect();
    characters.sort_unstable();
    characters.dedup();
    // 32 random bytes have 8 different characters in any usual writing, and far more.
    if characters.len() < 8 {
        return Err(IdentityError::Repetitive { name });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_are_none_are_refused() {
        for bad in [
            "",
            "short",
            "secret",
            "changeme",
            "your-internal-service-token",
            "your-256-bit-secret-goes-right-here-ok",
            "PasswordPasswordPasswordPasswordPassword",
            "super-secret-jwt-key-for-the-whole-system",
            &"a".repeat(64),
            &"ab".repeat(32),
        ] {
            assert!(check_secret("X", bad).is_err(), "{bad}");
        }
        check_secret("X", "q3v8Zk1mPw5Tn7Yc2Rb9Lx4Jd6Hf0Gs8Aa").unwrap();
    }

    #[test]
    fn the_error_names_the_variable() {
        let identity = Identity { jwt_secret: Some("changeme".into()), ..Identity::default() };
        assert!(identity.check().unwrap_err().to_string().contains("ORRERY_JWT_SECRET"));
        let mut identity = Identity::default();
        identity.internal.internal_service_token = Some("your-internal-service-token".into());
        assert!(identity.check().unwrap_err().to_string().contains("INTERNAL_SERVICE_TOKEN"));
        Identity::default().check().unwrap();
    }

    #[test]
    fn public_keys_need_an_issuer() {
        let jwks = Identity { jwks: Some("https://idp.example/jwks".into()), ..Identity::default() };
        let file = Identity { jwt_public_key: vec!["a.pem".into()], ..Identity::default() };
        for identity in [jwks, file] {
            assert!(matches!(identity.check(), Err(IdentityError::NoIssuer)));
            Identity { jwt_issuer: Some("https://idp.example".into()), ..identity.clone() }.check().unwrap();
            assert!(Identity { jwt_issuer: Some(" ".into()), ..identity }.check().is_err());
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let secret = "q3v8Zk1mPw5Tn7Yc2Rb9Lx4Jd6Hf0Gs8Aa".to_owned();
        let mut identity = Identity {
            jwt_secret: Some(secret.clone()),
            auth_service_url: Some(secret.clone()),
            rbac_service_url: Some(secret.clone()),
            ..Identity::default()
        };
        identity.internal.internal_service_token = Some(secret.clone());
        identity.server_secret.key_pepper = vec![secret.clone()];
        assert!(!format!("{identity:?}").contains(&secret));
    }
}
