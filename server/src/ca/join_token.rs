//! Join tokens: 256 random bits that let one agent in, once. The store keeps their SHA-256.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// What every token begins with, so that people and scanners of leaked secrets know it.
pub const PREFIX: &str = "orj_";
/// The characters of 32 bytes in base64 without padding.
const LENGTH: usize = PREFIX.len() + 43;

/// The text of a join token. It is shown once, to whoever asked for it, and never written to a log: its `Debug` hides it.
pub struct JoinSecret(String);

impl JoinSecret {
    /// A new one.
    pub fn generate() -> Self {
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())))
    }

    /// What somebody shows as a join token; `None` where it cannot be one, which spares the database a question.
    pub fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_one = text.len() == LENGTH && text.starts_with(PREFIX);
        is_one.then(|| Self(text.to_owned()))
    }

    /// What the store knows it by.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// The token itself.
    pub fn into_text(self) -> String {
        self.0
    }
}

impl std::fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash_only() {
        let (one, other) = (JoinSecret::generate(), JoinSecret::generate());
        assert_ne!(one.hash(), other.hash());
        assert_eq!(format!("{one:?}"), "JoinSecret(..)");
        let text = other.into_text();
        assert_eq!(text.len(), LENGTH);
        assert_eq!(JoinSecret::read(&format!("{text}\n")).map(|read| read.hash()), Some(Sha256::digest(&text).into()));
        for bad in ["", "orj_", "ork_abc", &text[1..], &format!("{text}x")] {
            assert!(JoinSecret::read(bad).is_none(), "{bad}");
        }
    }
}
