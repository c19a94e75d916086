//! Refresh tokens: 256 random bits, each good once. The store keeps their SHA-256.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// What each begins with, so that people and scanners of leaked secrets know it.
const PREFIX: &str = "orr_";

/// Makes one: its text, which is told once, and what is stored.
pub(super) fn generate() -> (String, [u8; 32]) {
    let plain = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let hash = hash_of(&plain);
    (plain, hash)
}

/// What is stored of a token; `None` where it cannot be one.
pub(super) fn hash(plain: &str) -> Option<[u8; 32]> {
    let random = URL_SAFE_NO_PAD.decode(plain.strip_prefix(PREFIX)?).ok()?;
    (random.len() == 32).then(|| hash_of(plain))
}

fn hash_of(plain: &str) -> [u8; 32] {
    Sha256::digest(plain.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_by_its_hash() {
        let (plain, stored) = generate();
        assert_eq!(hash(&plain), Some(stored));
        assert_ne!(generate().0, plain);
        for bad in ["", "orr_", "orr_short", "ork_x", &plain[4..], &format!("{plain}A")] {
            assert_eq!(hash(bad), None, "{bad}");
        }
    }
}
