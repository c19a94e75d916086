//! Sensitive fields of a job's config: found by their path, hidden when they are shown, and kept when they come back hidden. Pure, and every
//! other character of the config stays as it is.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use orrery_sdk::secret::{MASK, MIN_VALUE, OPENING, Reference};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The most sensitive fields of a job.
pub const MAX_FIELDS: usize = 50;

/// Fields that decide over what runs, and where: they are read before anything is decrypted.
const DECIDING: [&str; 4] = ["modulePath", "functionName", "runtime", "method"];

/// What is wrong with a path, in a sentence that follows its name.
pub type Wrong = String;

/// The members of an object, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Reading).map(Self)
    }
}

/// A path without the `config.` that it may begin with.
pub fn path(field: &str) -> &str {
    field.strip_prefix("config.").unwrap_or(field)
}

/// Where in a config the string of a path stands, with its quotes.
///
/// # Errors
/// Where there is none.
pub fn find(config: &str, path: &str) -> Result<Range<usize>, Wrong> {
    let mut rest = path;
    let mut at = config.trim();
    while !rest.is_empty() {
        (at, rest) = step(at, rest)?;
    }
    if path.is_empty() || !at.starts_with('"') {
        return Err("is no string of the config; only strings can be sensitive".into());
    }
    // A part of it, so its address is within the config's.
    let start = (at.as_ptr() as usize).saturating_sub(config.as_ptr() as usize);
    Ok(start..start + at.len())
}

/// From a value to the one of its first name or index, and what is left of the path.
fn step<'a, 'p>(value: &'a str, path: &'p str) -> Result<(&'a str, &'p str), Wrong> {
    let missing = || -> Wrong { "is not in the config; name a field such as headers.Authorization".into() };
    if value.starts_with('[') {
        let (index, rest) = path.split_once('.').unwrap_or((path, ""));
        let items: Vec<&RawValue> = serde_json::from_str(value).map_err(|_| missing())?;
        let item = index.parse::<usize>().ok().and_then(|index| items.get(index)).ok_or_else(missing)?;
        return Ok((item.get(), rest));
    }
    let Members(members) = serde_json::from_str(value).map_err(|_| missing())?;
    // Names may hold dots: the longest one that fits is meant.
    let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
    for end in ends.collect::<Vec<_>>().into_iter().rev() {
        let mut found = members.iter().filter(|(name, _)| *name == path[..end]);
        if let Some((_, value)) = found.next() {
            if found.next().is_some() {
                return Err("stands in the config twice; leave one out".into());
            }
            return Ok((value.get(), path.get(end + 1..).unwrap_or_default()));
        }
    }
    Err(missing())
}

/// The characters of the string at a place.
fn text(config: &str, span: &Range<usize>) -> String {
    config.get(span.clone()).and_then(|literal| serde_json::from_str(literal).ok()).unwrap_or_default()
}

fn put(config: &str, span: &Range<usize>, text: &str) -> String {
    let literal = serde_json::Value::from(text).to_string();
    [&config[..span.start], &literal, &config[span.end..]].concat()
}

/// What is wrong with a path that is to be sensitive, if anything. `kept` are the names of values that stay as they are.
pub fn problem(config: &str, path: &str, kept: &BTreeSet<String>) -> Option<Wrong> {
    if DECIDING.contains(&path) {
        return Some("decides over what runs, and cannot be sensitive".into());
    }
    let value = match find(config, path) {
        Ok(span) => text(config, &span),
        Err(wrong) => return Some(wrong),
    };
    if Reference::to_sealed(&value).is_some_and(|reference| kept.contains(&reference.name)) {
        return None;
    }
    if value == MASK {
        return Some(
            "is ***, which stands for a value that is stored already, and there is none; give the value".into(),
        );
    }
    if value.contains(OPENING) {
        return Some("refers to a secret, which is encrypted as it is; leave it out of sensitive".into());
    }
    (value.len() < MIN_VALUE).then(|| format!("has less than {MIN_VALUE} bytes, too few to be hidden in output"))
}

/// Takes the next value out of a config that is to be sealed: the config without it is made by `seal`, which is given the value and answers
/// with the reference that is to stand for it. `None` where all are.
pub fn unsealed(config: &str, sensitive: &[String]) -> Option<(Range<usize>, String)> {
    let spans = sensitive.iter().filter_map(|path| find(config, path).ok());
    spans.map(|span| (span.clone(), text(config, &span))).find(|(_, value)| Reference::to_sealed(value).is_none())
}

/// The config with a reference in the place of a value.
pub fn with_reference(config: &str, span: &Range<usize>, reference: &Reference) -> String {
    put(config, span, &reference.to_string())
}

/// The config as it is shown.
pub fn masked<'a>(config: &'a str, sensitive: &[String]) -> Cow<'a, str> {
    let mut shown = Cow::Borrowed(config);
    for path in sensitive {
        if let Ok(span) = find(&shown, path) {
            shown = Cow::Owned(put(&shown, &span, MASK));
        }
    }
    shown
}

/// A config, and the names of what was put back into it.
type Unmasked = (String, BTreeSet<String>);

/// A config that came back as it was shown, with what is stored in the places of masks, and the names of what was put back.
///
/// # Errors
/// The paths of masks that stand for nothing any more, since they are not sensitive now.
pub fn unmasked(
    config: &str,
    sensitive: &[String],
    stored: (&str, &[String]),
) -> Result<Unmasked, Vec<(String, Wrong)>> {
    let (mut config, mut kept, mut wrong) = (config.to_owned(), BTreeSet::new(), Vec::new());
    let (before, were) = stored;
    for path in were {
        let Ok(span) = find(&config, path) else { continue };
        if text(&config, &span) != MASK {
            continue;
        }
        if !sensitive.contains(path) {
            let message = format!("is *** and not among sensitive any more; name {path} there, or give the value");
            wrong.push((path.clone(), message));
            continue;
        }
        if let Some(reference) = find(before, path).ok().and_then(|span| Reference::to_sealed(&text(before, &span))) {
            config = with_reference(&config, &span, &reference);
            kept.insert(reference.name);
        }
    }
    if wrong.is_empty() { Ok((config, kept)) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"url": "https://h", "n": 1.50, "headers": {"X.Key": "k.e.y.s", "A": {"b": ["x", "deep"]}}, "body": {"a": 1}}"#;

    fn at(path: &str) -> Result<&'static str, Wrong> {
        find(CONFIG, path).map(|span| &CONFIG[span])
    }

    #[test]
    fn strings_are_found_by_their_path() {
        assert_eq!(at("url"), Ok(r#""https://h""#));
        assert_eq!(at("headers.X.Key"), Ok(r#""k.e.y.s""#), "names may hold dots");
        assert_eq!(at("headers.A.b.1"), Ok(r#""deep""#));
        for path in ["", "n", "body", "headers", "nothing", "headers.A.b.2", "headers.A.b.x", "url.x"] {
            assert!(at(path).is_err(), "{path}");
        }
        assert!(find(r#"{"a": "hidden", "a": "shown"}"#, "a").unwrap_err().contains("twice"));
    }

    #[test]
    fn what_cannot_be_sensitive_is_said() {
        let wrong = |config: &str, path| problem(config, path, &BTreeSet::new()).unwrap_or_default();
        assert!(wrong(r#"{"method": "POST"}"#, "method").contains("decides"));
        assert!(wrong(r#"{"a": "abc"}"#, "a").contains("4 bytes"));
        assert!(wrong(r#"{"a": "***"}"#, "a").contains("give the value"));
        assert!(wrong(r#"{"a": "${secret:x}"}"#, "a").contains("refers to a secret"));
        assert!(wrong(r#"{"a": "${secret:~f00}"}"#, "a").contains("refers to a secret"), "a name that nobody can know");
        assert_eq!(problem(r#"{"a": "${secret:~f00}"}"#, "a", &["~f00".to_owned()].into()), None);
        assert_eq!(problem(CONFIG, "url", &BTreeSet::new()), None);
    }

    #[test]
    fn a_config_is_sealed_shown_and_sent_back() {
        let sensitive = ["headers.X.Key".to_owned(), "url".to_owned()];
        let mut config = CONFIG.to_owned();
        let mut values = Vec::new();
        while let Some((span, value)) = unsealed(&config, &sensitive) {
            let reference = Reference { name: Reference::sealed_name(&values.len().to_string()), version: None };
            config = with_reference(&config, &span, &reference);
            values.push(value);
        }
        assert_eq!(values, ["k.e.y.s", "https://h"]);
        assert_eq!(config, CONFIG.replace("k.e.y.s", "${secret:~0}").replace("https://h", "${secret:~1}"));
        let shown = masked(&config, &sensitive);
        assert_eq!(shown, CONFIG.replace("k.e.y.s", "***").replace("https://h", "***"));

        let changed = shown.replace(r#""url": "***""#, r#""url": "https://other""#);
        let (back, kept) = unmasked(&changed, &sensitive, (&config, &sensitive)).unwrap();
        assert_eq!(back, CONFIG.replace("k.e.y.s", "${secret:~0}").replace("https://h", "https://other"));
        assert_eq!(kept, ["~0".to_owned()].into());
        let wrong = unmasked(&shown, &[], (&config, &sensitive)).unwrap_err();
        assert_eq!(wrong.len(), 2, "a mask must not become the value");
    }
}
