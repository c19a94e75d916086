//! JSON as nodes. The numbers stay the text they are, for serde_json would round them.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::node::{Entry, Node, Value};
use super::{Position, Problem};

/// How deep values may lie in each other.
const MAX_DEPTH: usize = 100;

/// Reads one JSON value.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let suffix = format!(" at line {} column {}", error.line(), error.column());
        let at = Position { line: error.line(), column: error.column() };
        Problem::new(at, message.strip_suffix(&suffix).unwrap_or(&message))
    })?;
    let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(index, _)| index + 1);
    Source { text, line_starts: std::iter::once(0).chain(breaks).collect() }.node(raw, 0)
}

/// The value where the text is JSON, and not YAML that looks like it.
pub(super) fn parse_if_json(text: &str) -> Option<Result<Node, Problem>> {
    let looks = text.trim_start().starts_with(['{', '[']);
    (looks && serde_json::from_str::<&RawValue>(text).is_ok()).then(|| parse(text))
}

/// The keys of an object with their values, in order, the same key twice or not.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    entries.push((key, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

struct Source<'a> {
    text: &'a str,
    /// Offsets at which lines begin.
    line_starts: Vec<usize>,
}

impl<'a> Source<'a> {
    fn node(&self, raw: &'a RawValue, depth: usize) -> Result<Node, Problem> {
        let at = self.position(raw);
        if depth > MAX_DEPTH {
            return Err(Problem::new(at, format!("values lie more than {MAX_DEPTH} deep in each other")));
        }
        let broken = |error: serde_json::Error| Problem::new(at, error.to_string());
        let value = match raw.get().as_bytes().first() {
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(broken)?;
                Value::List(items.into_iter().map(|item| self.node(item, depth + 1)).collect::<Result<_, _>>()?)
            }
            Some(b'{') => {
                let Entries(entries) = serde_json::from_str(raw.get()).map_err(broken)?;
                Value::Map(self.entries(entries, depth)?)
            }
            _ => Value::Scalar(raw.get().to_owned()),
        };
        Ok(Node { at, value })
    }

    fn entries(&self, entries: Vec<(String, &'a RawValue)>, depth: usize) -> Result<Vec<Entry>, Problem> {
        let mut seen = HashSet::new();
        let mut result = Vec::with_capacity(entries.len());
        for (key, raw) in entries {
            // serde does not say where a key stands; its value is next to it.
            let at = self.position(raw);
            if !seen.insert(key.clone()) {
                return Err(Problem::new(at, format!("the key {key:?} stands twice")));
            }
            result.push(Entry { key, at, value: self.node(raw, depth + 1)? });
        }
        Ok(result)
    }

    /// Where a borrowed part of the text begins, its column in bytes.
    fn position(&self, raw: &RawValue) -> Position {
        let offset = (raw.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|index| self.line_starts.get(index)).copied().unwrap_or(0);
        Position { line, column: offset - start + 1 }
    }
}
