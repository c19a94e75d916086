//! What databases refuse in texts: NULs, and JSON that `jsonb` does not take although it is JSON. It is mended here, beforehand, so that
//! one odd row never fails its batch.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// U+2400, SYMBOL FOR NULL: what is stored for a NUL.
const NUL_SHOWN: char = '\u{2400}';
/// Digits before the point that PostgreSQL's `numeric` holds (131,072), with a margin.
const MAX_WHOLE_DIGITS: usize = 131_000;
/// Digits after the point that PostgreSQL's `numeric` holds (16,383), with a margin.
const MAX_FRACTION_DIGITS: usize = 16_000;
/// Exponents beyond this are no number that anybody counts with, and would be written out digit by digit.
const MAX_EXPONENT: usize = 1_000;
/// Arrays and objects within each other; PostgreSQL reads them by recursion, on a bounded stack.
const MAX_DEPTH: usize = 1_000;
/// `jsonb` takes strings of up to 256 MiB.
const MAX_BYTES: usize = 200 << 20;

/// Plain text without NULs.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', NUL_SHOWN.encode_utf8(&mut [0; 4])))
    } else {
        Cow::Borrowed(text)
    }
}

/// JSON text that `jsonb` takes. Escaped NULs become U+2400 and lone surrogates U+FFFD; numbers out of any range become strings of their
/// digits; what is not JSON at all, or too deep, becomes one string that says so.
pub(super) fn jsonb(text: &str) -> Cow<'_, str> {
    if text.len() > MAX_BYTES {
        return Cow::Owned(said(&format!("too large for the database: {} bytes", text.len())));
    }
    if serde_json::from_str::<&RawValue>(text).is_err() {
        return Cow::Owned(said(&format!("not valid JSON: {text}")));
    }
    match mended(text) {
        Ok(None) => Cow::Borrowed(text),
        Ok(Some(mended)) => Cow::Owned(mended),
        Err(TooDeep) => Cow::Owned(said(&format!("nested too deeply for the database: {text}"))),
    }
}

fn said(what: &str) -> String {
    serde_json::Value::String(plain(what).into_owned()).to_string()
}

struct TooDeep;

/// Walks through valid JSON; `None` where nothing had to be mended.
fn mended(text: &str) -> Result<Option<String>, TooDeep> {
    let bytes = text.as_bytes();
    let mut out: Option<String> = None;
    // Up to where the text has been copied to `out`.
    let mut copied = 0;
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut at = 0;
    while at < bytes.len() {
        let (length, instead) = match bytes[at] {
            b'"' => {
                in_string = !in_string;
                (1, None)
            }
            b'\\' if in_string => escape(text, at),
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(TooDeep);
                }
                (1, None)
            }
            b']' | b'}' if !in_string => {
                depth -= 1;
                (1, None)
            }
            b'-' | b'0'..=b'9' if !in_string => number(text, at),
            _ => (1, None),
        };
        if let Some(instead) = instead {
            let out = out.get_or_insert_with(|| String::with_capacity(text.len() + 16));
            out.push_str(&text[copied..at]);
            out.push_str(&instead);
            copied = at + length;
        }
        at += length;
    }
    Ok(out.map(|mut out| {
        out.push_str(&text[copied..]);
        out
    }))
}

/// The length of an escape, and what is to stand there instead.
fn escape(text: &str, at: usize) -> (usize, Option<Cow<'static, str>>) {
    match unit(text, at) {
        None => (2, None),
        Some(0) => (6, Some(Cow::Borrowed("\\u2400"))),
        Some(0xd800..=0xdbff) => match unit(text, at + 6) {
            Some(0xdc00..=0xdfff) => (12, None),
            _ => (6, Some(Cow::Borrowed("\\ufffd"))),
        },
        Some(0xdc00..=0xdfff) => (6, Some(Cow::Borrowed("\\ufffd"))),
        Some(_) => (6, None),
    }
}

/// The code unit of an escape of the form `\uXXXX`.
fn unit(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    u32::from_str_radix(digits, 16).ok()
}

/// The length of a number, and itself as a string where the database could not hold it.
fn number(text: &str, at: usize) -> (usize, Option<Cow<'static, str>>) {
    let rest = &text[at..];
    let length = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
    let number = &rest[..length];
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let exponent = exponent.trim_start_matches(['+', '-']).parse::<usize>().unwrap_or(usize::MAX);
    let fits = exponent <= MAX_EXPONENT
        && whole.len() + exponent <= MAX_WHOLE_DIGITS
        && fraction.len() + exponent <= MAX_FRACTION_DIGITS;
    (length, (!fits).then(|| Cow::Owned(format!("\"{number}\""))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nuls_of_plain_text_are_shown() {
        assert_eq!(plain("a\0b"), "a\u{2400}b");
        assert!(matches!(plain("ab"), Cow::Borrowed("ab")));
    }

    #[test]
    fn only_a_real_escape_of_nul_is_replaced() {
        assert_eq!(jsonb(r#"["\u0000"]"#), r#"["\u2400"]"#);
        assert_eq!(jsonb(r#"{"\u0000a\u0000":1}"#), r#"{"\u2400a\u2400":1}"#);
        // An escaped backslash, then the letters u0000.
        assert_eq!(jsonb(r#""\\u0000""#), r#""\\u0000""#);
        assert_eq!(jsonb(r#""\\\u0000""#), r#""\\\u2400""#);
        assert_eq!(jsonb(r#""\"\u0000\"""#), r#""\"\u2400\"""#);
    }

    #[test]
    fn surrogates_stay_only_in_pairs() {
        assert_eq!(jsonb(r#""\ud83d\ude00""#), r#""\ud83d\ude00""#);
        assert_eq!(jsonb(r#""\ud800""#), r#""\ufffd""#);
        assert_eq!(jsonb(r#""\ud800x\uDC00""#), r#""\ufffdx\ufffd""#);
        assert_eq!(jsonb(r#""\ud800\ud83d\ude00""#), r#""\ufffd\ud83d\ude00""#);
        assert_eq!(jsonb(r#""\ud800\u0000""#), r#""\ufffd\u2400""#);
        assert_eq!(jsonb(r#""\ud800é""#), r#""\ufffdé""#);
    }

    #[test]
    fn numbers_keep_their_digits_unless_out_of_any_range() {
        let kept = "[123456789012345678901234567890, 1.50, -0.0, 1e300, 1E-7, 30000]";
        assert!(matches!(jsonb(kept), Cow::Borrowed(k) if k == kept));
        assert_eq!(jsonb("[1e999999, 2]"), "[\"1e999999\", 2]");
        assert_eq!(jsonb("-1e-99999999999999999999"), "\"-1e-99999999999999999999\"");
        let long = format!("0.{}", "1".repeat(20_000));
        assert_eq!(jsonb(&long), format!("\"{long}\""));
        assert_eq!(jsonb(r#""1e999999""#), r#""1e999999""#);
    }

    #[test]
    fn what_is_not_json_or_too_deep_says_so() {
        assert_eq!(jsonb("{oops"), "\"not valid JSON: {oops\"");
        assert_eq!(jsonb(""), "\"not valid JSON: \"");
        let deep = "[".repeat(MAX_DEPTH + 1) + &"]".repeat(MAX_DEPTH + 1);
        assert!(jsonb(&deep).starts_with("\"nested too deeply"));
        let fits = "[".repeat(MAX_DEPTH) + &"]".repeat(MAX_DEPTH);
        assert_eq!(jsonb(&fits), fits.as_str());
    }
}
