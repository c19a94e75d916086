use std::fmt;

/// What a reference begins with.
pub const OPENING: &str = "${secret:";
/// The most characters of a secret's name.
pub const MAX_NAME: usize = 100;
/// The fewest bytes of a value: taking shorter ones out of output would leave nothing to read.
pub const MIN_VALUE: usize = 4;
/// What the names of values begin with that were taken out of a config and sealed. Nobody can give a secret such a name.
const SEALED: char = '~';

/// `${secret:NAME}`, or `${secret:NAME@VERSION}` for a version that is not the newest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The secret's name.
    pub name: String,
    /// The newest where absent.
    pub version: Option<i64>,
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// As it is.
    Text(&'a str),
    /// A reference.
    Reference(Reference),
    /// It begins as a reference does, and is none.
    Malformed(&'a str),
}

/// What is wrong with the name of a secret, if anything.
pub fn name_problem(name: &str) -> Option<String> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let is_good = (1..=MAX_NAME).contains(&name.len()) && begins && name.chars().all(known);
    let rule = "letters, digits and the characters . _ - /, the first of them a letter or _";
    (!is_good).then(|| format!("give 1 to {MAX_NAME} of {rule}"))
}

impl Reference {
    /// What stands between the colon and the brace.
    fn parse(inner: &str) -> Option<Self> {
        let (name, version) = match inner.split_once('@') {
            None => (inner, None),
            Some((name, version)) => (name, Some(version.parse::<i64>().ok().filter(|version| *version > 0)?)),
        };
        let is_sealed = name.strip_prefix(SEALED).is_some_and(|id| {
            (1..=MAX_NAME).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        (is_sealed || name_problem(name).is_none()).then(|| Self { name: name.to_owned(), version })
    }

    /// The name of a value that was taken out of a config.
    pub fn sealed_name(id: &str) -> String {
        format!("{SEALED}{id}")
    }

    /// The reference that stands for the whole of a text that was taken out of a config and sealed, if that is what the text is.
    pub fn to_sealed(text: &str) -> Option<Self> {
        match pieces(text).pop() {
            Some(Piece::Reference(reference)) if reference.is_sealed() && reference.to_string() == text => {
                Some(reference)
            }
            _ => None,
        }
    }

    /// Whether it stands for a value that was taken out of a config and sealed.
    pub fn is_sealed(&self) -> bool {
        self.name.starts_with(SEALED)
    }

    /// Under what a lease carries its value: `NAME` or `NAME@VERSION`.
    pub fn key(&self) -> String {
        match self.version {
            Some(version) => format!("{}@{version}", self.name),
            None => self.name.clone(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{OPENING}{}}}", self.key())
    }
}

/// A text by its references. `$${secret:NAME}` stands for the characters `${secret:NAME}`.
pub fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(OPENING) {
        let (before, found) = rest.split_at(at);
        let escaped = before.strip_suffix('$');
        let plain = escaped.unwrap_or(before);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        let (inner, whole, after) = match found.find('}') {
            Some(end) => (&found[OPENING.len()..end], &found[..=end], &found[end + 1..]),
            None => ("", found, ""),
        };
        pieces.push(match Reference::parse(inner) {
            _ if escaped.is_some() => Piece::Text(whole),
            Some(reference) => Piece::Reference(reference),
            None => Piece::Malformed(whole),
        });
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(name: &str, version: Option<i64>) -> Piece<'static> {
        Piece::Reference(Reference { name: name.into(), version })
    }

    #[test]
    fn a_text_is_read_by_its_references() {
        let read = pieces("Bearer ${secret:api/token} and ${secret:DB_PASSWORD@3}.");
        let expected = [
            Piece::Text("Bearer "),
            reference("api/token", None),
            Piece::Text(" and "),
            reference("DB_PASSWORD", Some(3)),
            Piece::Text("."),
        ];
        assert_eq!(read, expected);
        assert_eq!(pieces("$${secret:a} ${HOME}"), [Piece::Text("${secret:a}"), Piece::Text(" ${HOME}")]);
        assert_eq!(pieces("${secret:~0f3}"), [reference("~0f3", None)]);
    }

    #[test]
    fn what_only_looks_like_a_reference_is_said_to_be_none() {
        for text in ["${secret:}", "${secret:0:4}", "${secret:a b}", "${secret:a@0}", "${secret:a@x}", "${secret:a"] {
            assert_eq!(pieces(text), [Piece::Malformed(text)], "{text}");
        }
    }

    #[test]
    fn names_are_bounded_and_never_those_of_sealed_values() {
        for name in ["a", "_x", "team/db.password-2", &"n".repeat(MAX_NAME)] {
            assert_eq!(name_problem(name), None, "{name}");
        }
        for name in ["", "1a", "~a", "a b", "a}", "a@1", "ä", &"n".repeat(MAX_NAME + 1)] {
            assert!(name_problem(name).is_some(), "{name}");
        }
    }
}
