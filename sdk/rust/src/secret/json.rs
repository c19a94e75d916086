//! The texts in a JSON text, found without reading the rest: what is not touched keeps every digit.

use std::borrow::Cow;
use std::ops::Range;

/// A string, or what stands bare: a number, `true`, `false`, `null`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) span: Range<usize>,
    pub(super) is_string: bool,
    /// It is the name of a member.
    pub(super) is_key: bool,
    /// How many objects and arrays it is in.
    pub(super) depth: usize,
}

/// The tokens of a text, in their order. What is no JSON is cut into pieces all the same.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let (mut tokens, mut depth, mut at) = (Vec::new(), 0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        let start = at;
        match byte {
            b'"' => {
                at = end_of_string(bytes, start);
                let is_key = bytes[at..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':');
                tokens.push(Token { span: start..at, is_string: true, is_key, depth });
            }
            b'{' | b'[' | b'}' | b']' | b':' | b',' => {
                depth = match byte {
                    b'{' | b'[' => depth + 1,
                    b'}' | b']' => depth.saturating_sub(1),
                    _ => depth,
                };
                at += 1;
            }
            _ if byte.is_ascii_whitespace() => at += 1,
            _ => {
                let ends = |byte: &u8| byte.is_ascii_whitespace() || b"\"{}[]:,".contains(byte);
                at += bytes[start..].iter().position(ends).unwrap_or(bytes.len() - start);
                tokens.push(Token { span: start..at, is_string: false, is_key: false, depth });
            }
        }
    }
    tokens
}

/// Past the closing quote, or the end of the text.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The text with other JSON in the place of some tokens: those for which `change` gives some.
///
/// # Errors
/// The first of `change`.
pub(super) fn rewrite<E>(
    text: &str,
    mut change: impl FnMut(&Token, &str) -> Result<Option<String>, E>,
) -> Result<Cow<'_, str>, E> {
    let mut changed: Option<String> = None;
    let mut copied = 0;
    for token in tokens(text) {
        if let Some(new) = change(&token, &text[token.span.clone()])? {
            let out = changed.get_or_insert_default();
            out.push_str(&text[copied..token.span.start]);
            out.push_str(&new);
            copied = token.span.end;
        }
    }
    Ok(match changed {
        None => Cow::Borrowed(text),
        Some(mut out) => {
            out.push_str(&text[copied..]);
            Cow::Owned(out)
        }
    })
}

/// The characters of a string's literal; `None` where it is none.
pub(super) fn decoded(literal: &str) -> Option<String> {
    serde_json::from_str(literal).ok()
}

/// The literal of a text.
pub(super) fn encoded(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_their_places() {
        let text = r#" {"a" : ["x\"y", 1.50,null], "b\\":{"c":"}"}} "#;
        let found: Vec<(&str, bool, bool, usize)> =
            tokens(text).into_iter().map(|t| (&text[t.span], t.is_string, t.is_key, t.depth)).collect();
        let expected = [
            (r#""a""#, true, true, 1),
            (r#""x\"y""#, true, false, 2),
            ("1.50", false, false, 2),
            ("null", false, false, 2),
            (r#""b\\""#, true, true, 1),
            (r#""c""#, true, true, 2),
            (r#""}""#, true, false, 2),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_not_changed_stays_as_it_is() {
        let text = r#"{"n": 1.50, "t":"old" }"#;
        let change = |_: &Token, token: &str| Ok::<_, ()>((token == "\"old\"").then(|| encoded("n\"ew")));
        assert_eq!(rewrite(text, change).unwrap(), r#"{"n": 1.50, "t":"n\"ew" }"#);
        assert!(matches!(rewrite(text, |_, _| Ok::<_, ()>(None)), Ok(Cow::Borrowed(_))));
        for broken in ["\"open", "\"a\\", "{", "", "\\"] {
            assert_eq!(rewrite(broken, |_, _| Ok::<_, ()>(None)).unwrap(), broken);
        }
    }
}
