//! JSON that a caller wrote, before it is stored to the last digit: what a JSON parser lets pass and a database refuses.

use std::collections::HashSet;
use std::str::CharIndices;

use serde_json::value::RawValue;

/// The largest power of ten of a number. PostgreSQL writes numbers out in full.
const MAX_EXPONENT: u64 = 1000;
/// The most characters of a number.
const MAX_DIGITS: usize = 2000;
/// The most levels of objects and lists. Readers in many languages stop at 128, of which an answer has some of its own.
const MAX_LEVELS: usize = 100;

/// An object or a list that is open.
enum Level {
    /// The names so far, and whether a string is the next one.
    Object {
        names: HashSet<String>,
        name_next: bool,
    },
    List,
}

/// What is wrong with a text that should be one JSON value, if anything.
pub(crate) fn problem(text: &str) -> Option<String> {
    if let Err(error) = serde_json::from_str::<&RawValue>(text) {
        return Some(format!("is not JSON: {error}"));
    }
    let mut levels: Vec<Level> = Vec::new();
    let mut rest = text.char_indices();
    while let Some((at, c)) = rest.next() {
        let found = match c {
            '{' => opened(&mut levels, Level::Object { names: HashSet::new(), name_next: true }),
            '[' => opened(&mut levels, Level::List),
            '}' | ']' => {
                levels.pop();
                None
            }
            ',' => {
                if let Some(Level::Object { name_next, .. }) = levels.last_mut() {
                    *name_next = true;
                }
                None
            }
            '"' => string_problem(text, &mut rest).or_else(|| name_problem(&mut levels, &text[at..rest.offset()])),
            '-' | '0'..='9' => number_problem(&text[at..], &mut rest),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn opened(levels: &mut Vec<Level>, level: Level) -> Option<String> {
    levels.push(level);
    (levels.len() > MAX_LEVELS).then(|| format!("has more than {MAX_LEVELS} levels of objects and lists"))
}

/// Readers differ on which of two values of one name counts. `string` is with its quotes.
fn name_problem(levels: &mut [Level], string: &str) -> Option<String> {
    let Some(Level::Object { names, name_next: name_next @ true }) = levels.last_mut() else { return None };
    *name_next = false;
    let name: String = serde_json::from_str(string).ok()?;
    let problem = format!("has {name:?} twice in one object; give it once");
    (!names.insert(name)).then_some(problem)
}

fn string_problem(text: &str, rest: &mut CharIndices<'_>) -> Option<String> {
    while let Some((at, c)) = rest.next() {
        match c {
            '"' => return None,
            '\\' => {}
            _ => continue,
        }
        let Some((_, 'u')) = rest.next() else { continue };
        skip(rest, 4);
        match escape_at(text, at) {
            Some(0) => return Some("holds a NUL character (\\u0000); remove it".to_owned()),
            Some(0xD800..=0xDBFF) if matches!(escape_at(text, at + 6), Some(0xDC00..=0xDFFF)) => skip(rest, 6),
            Some(0xD800..=0xDFFF) => return Some(half_a_pair(text, at)),
            _ => {}
        }
    }
    None
}

/// The number of the escape `\uXXXX` at a place.
fn escape_at(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    u32::from_str_radix(digits, 16).ok()
}

fn skip(rest: &mut CharIndices<'_>, characters: usize) {
    for _ in 0..characters {
        rest.next();
    }
}

fn half_a_pair(text: &str, at: usize) -> String {
    let near: String = text[at..].chars().take(6).collect();
    format!("holds half of a surrogate pair near {near}; write the whole character")
}

fn number_problem(from: &str, rest: &mut CharIndices<'_>) -> Option<String> {
    let end = from.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(from.len());
    let number = &from[..end];
    skip(rest, end - 1);
    if number.len() > MAX_DIGITS {
        return Some(format!("holds a number of {} digits; at most {MAX_DIGITS} are allowed", number.len()));
    }
    let exponent = number.split_once(['e', 'E']).map(|(_, exponent)| exponent.trim_start_matches(['+', '-']))?;
    if exponent.parse::<u64>().is_ok_and(|power| power <= MAX_EXPONENT) {
        return None;
    }
    Some(format!("holds the number {number}; its exponent may be {MAX_EXPONENT} at most"))
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn what_databases_keep_passes() {
        for text in [
            "null",
            "12345678901234567890123456789012345678901234567890.10",
            r#"{"a": [1e10, -2.5E-3, "\\u0000", "\ud83d\ude00", "é😀", "\n\"x\""], "b": {"c": true}}"#,
            r#""\\""#,
            r#"[{"a": "a", "b": ["a", {"a": 1}], "c": "b"}, {"a": 1}, {"": {"": {}}}]"#,
        ] {
            assert_eq!(problem(text), None, "{text}");
        }
    }

    #[test]
    fn what_they_refuse_is_named() {
        for (text, part) in [
            (r#"{"a": "x\u0000y"}"#, "NUL"),
            (r#"["\ud83d"]"#, "surrogate"),
            (r#"["\ud83dx"]"#, "surrogate"),
            (r#"["\ude00"]"#, "surrogate"),
            (r#"["\ud83d\ud83d"]"#, "surrogate"),
            (r#"["\ud83d\n"]"#, "surrogate"),
            ("[1e99999]", "exponent"),
            ("[1e99999999999999999999999]", "exponent"),
            (r#"{"a": {"b": 1, "c": [], "b": 2}}"#, "\"b\" twice"),
            (r#"{"a": 1, "\u0061": 2}"#, "\"a\" twice"),
            ("{", "not JSON"),
            ("1 2", "not JSON"),
            ("", "not JSON"),
        ] {
            assert!(problem(text).is_some_and(|found| found.contains(part)), "{text}");
        }
        assert!(problem(&format!("[{}]", "9".repeat(3000))).is_some());
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(problem(&deep(100)), None);
        assert!(problem(&deep(101)).is_some_and(|found| found.contains("levels")));
        assert!(problem(&deep(100_000)).is_some());
    }
}
