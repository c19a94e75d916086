//! Page tokens: where a listing goes on. Opaque to callers, and good only for the listing and the filters that they came from.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::Error;
use crate::store::Page;

/// Rises when the payload changes, so that an old token is refused and not misread.
const VERSION: u8 = 1;
const SCOPE: usize = 8;

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    Jobs = 1,
    Executions = 2,
    Omissions = 3,
    Workers = 4,
    Queues = 5,
    Logs = 6,
    DeadLetters = 7,
    Keys = 8,
    Users = 9,
    Agents = 30,
    Secrets = 20,
    Tenants = 40,
    Audit = 31,
    Roles = 50,
    RoleBindings = 51,
}

/// A listing with the filters it was asked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    listing: Listing,
    hash: [u8; SCOPE],
}

impl Scope {
    /// `filters` are all that decides which rows are listed, the tenant included.
    pub(crate) fn new(listing: Listing, filters: &[&str]) -> Self {
        let mut digest = Sha256::new();
        for filter in filters {
            digest.update(filter.len().to_be_bytes());
            digest.update(filter.as_bytes());
        }
        let mut hash = [0; SCOPE];
        hash.copy_from_slice(&digest.finalize()[..SCOPE]);
        Self { listing, hash }
    }

    /// The token of the page that follows a position.
    pub(crate) fn token(&self, position: &[u8]) -> String {
        let mut payload = vec![VERSION, self.listing as u8];
        payload.extend_from_slice(&self.hash);
        payload.extend_from_slice(position);
        URL_SAFE_NO_PAD.encode(payload)
    }

    /// The position in a token; `None` for an empty one, which means the first page.
    ///
    /// # Errors
    /// INVALID_PAGE_TOKEN where the token is not one of this listing.
    pub(crate) fn position(&self, token: &str) -> Result<Option<Vec<u8>>, Error> {
        if token.is_empty() {
            return Ok(None);
        }
        let payload = URL_SAFE_NO_PAD.decode(token).map_err(|_| refused("is not a token of this API"))?;
        match payload.split_at_checked(2 + SCOPE) {
            Some(([version, ..], _)) if *version != VERSION => Err(refused("is of another version")),
            Some(([_, listing, hash @ ..], position)) if *listing == self.listing as u8 && *hash == self.hash => {
                Ok(Some(position.to_owned()))
            }
            Some(_) => Err(refused("belongs to another list or to other filters")),
            None => Err(refused("is not a token of this API")),
        }
    }

    /// The id in a token.
    ///
    /// # Errors
    /// INVALID_PAGE_TOKEN.
    pub(crate) fn id(&self, token: &str) -> Result<Option<Uuid>, Error> {
        let Some(position) = self.position(token)? else { return Ok(None) };
        Uuid::from_slice(&position).map(Some).map_err(|_| refused("is cut"))
    }

    /// The number in a token.
    ///
    /// # Errors
    /// INVALID_PAGE_TOKEN.
    pub(crate) fn number(&self, token: &str) -> Result<Option<i64>, Error> {
        let Some(position) = self.position(token)? else { return Ok(None) };
        let bytes = position.try_into().map_err(|_| refused("is cut"))?;
        Ok(Some(i64::from_be_bytes(bytes)))
    }
}

fn refused(why: &str) -> Error {
    Error::field(
        "INVALID_PAGE_TOKEN",
        "pageToken",
        format!("{why}; give the nextPageToken of the page before, with the same filters, or none"),
    )
}

/// Rows of a page: `default` where `asked` is 0.
///
/// # Errors
/// INVALID_PAGE_SIZE where it is out of range.
pub(crate) fn page_size(asked: i32, default: i32, most: i32) -> Result<usize, Error> {
    let size = if asked == 0 { default } else { asked };
    usize::try_from(size).ok().filter(|size| (1..=most).contains(&i32::try_from(*size).unwrap_or(0))).ok_or_else(|| {
        Error::field("INVALID_PAGE_SIZE", "pageSize", format!("{asked} is out of range; give 1 to {most}"))
    })
}

/// The page to read: one row more than asked for, so as to know whether another page follows.
///
/// # Errors
/// INVALID_PAGE_TOKEN.
pub(crate) fn page(scope: &Scope, token: &str, size: usize) -> Result<Page, Error> {
    Ok(Page { after: scope.id(token)?, limit: i64::try_from(size).unwrap_or(i64::MAX - 1) + 1 })
}

/// Cuts the row that was asked for beyond the page, and gives the token of the page after where there was one.
pub(crate) fn cut<T>(rows: &mut Vec<T>, size: usize, token: impl FnOnce(&T) -> String) -> String {
    if rows.len() <= size {
        return String::new();
    }
    rows.truncate(size);
    rows.last().map(token).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_leads_back_to_its_place() {
        let scope = Scope::new(Listing::Jobs, &["tenant", "active"]);
        let id = Uuid::from_u128(7);
        assert_eq!(scope.id(&scope.token(id.as_bytes())).unwrap(), Some(id));
        assert_eq!(scope.id("").unwrap(), None);
        assert_eq!(scope.number(&scope.token(&42_i64.to_be_bytes())).unwrap(), Some(42));
    }

    #[test]
    fn a_token_from_elsewhere_is_refused() {
        let scope = Scope::new(Listing::Jobs, &["tenant", "active"]);
        let id = Uuid::from_u128(7);
        let others = [
            Scope::new(Listing::Executions, &["tenant", "active"]),
            Scope::new(Listing::Jobs, &["tenant", "paused"]),
            Scope::new(Listing::Jobs, &["tenantactive", ""]),
        ];
        for other in others {
            assert_eq!(scope.id(&other.token(id.as_bytes())).unwrap_err().code, "INVALID_PAGE_TOKEN");
        }
        for token in ["x", "!!!", "AQ", &scope.token(&[1, 2, 3]), &scope.token(id.as_bytes())[1..]] {
            assert_eq!(scope.id(token).unwrap_err().code, "INVALID_PAGE_TOKEN", "{token}");
        }
    }

    #[test]
    fn any_token_is_refused_or_one_that_was_given() {
        proptest!(ProptestConfig::with_cases(5_000), |(bytes: Vec<u8>, changes: Vec<(u8, u8)>)| {
            let scope = Scope::new(Listing::Jobs, &["tenant", "active"]);
            let text = String::from_utf8_lossy(&bytes);
            assert!(text.is_empty() || scope.id(&text).is_err(), "{text:?}");
            let mut changed = scope.token(&[7; 16]).into_bytes();
            for (place, byte) in changes {
                let place = usize::from(place) % changed.len();
                changed[place] = byte;
            }
            let changed = String::from_utf8_lossy(&changed);
            if let (Ok(Some(id)), Ok(payload)) = (scope.id(&changed), URL_SAFE_NO_PAD.decode(changed.as_bytes())) {
                assert_eq!(scope.token(id.as_bytes()), URL_SAFE_NO_PAD.encode(payload), "nothing but the position may differ");
            }
        });
    }

    #[test]
    fn a_page_has_bounds() {
        assert_eq!(page_size(0, 50, 1000).unwrap(), 50);
        assert_eq!(page_size(1000, 50, 1000).unwrap(), 1000);
        for asked in [-1, 1001, i32::MIN, i32::MAX] {
            assert_eq!(page_size(asked, 50, 1000).unwrap_err().code, "INVALID_PAGE_SIZE");
        }
    }

    #[test]
    fn the_last_page_has_no_token() {
        let mut rows = vec![1, 2, 3];
        assert_eq!(cut(&mut rows, 2, |row| row.to_string()), "2");
        assert_eq!(rows, [1, 2]);
        assert_eq!(cut(&mut rows, 2, |row| row.to_string()), "");
    }
}
