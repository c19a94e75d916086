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
    #[error("{path} holds no public key in PEM form, RSA or P-256")]
    NoPublicKey { path: PathBuf },
}

impl Identity {
    /// Refuses secrets that are none.
    ///
    /// # Errors
    /// The first one that is too short or a placeholder, with how to mend it.
    pub fn check(&self) -> Result<(), IdentityError> {
        match &self.jwt_secret {
            Some(secret) => check_secret("ORRERY_JWT_SECRET", secret),
            None => Ok(()),
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
        Identity::default().check().unwrap();
    }
}
