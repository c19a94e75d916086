use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;

/// What comes out where the text comes in pieces that end at these places.
fn redacted(values: &[String], text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut stream = Redactor::new(values.iter().map(String::as_str)).stream();
    let mut out = Vec::new();
    let mut from = 0;
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    ends.sort_unstable();
    for end in ends.into_iter().chain([text.len()]) {
        out.extend(stream.push(&text[from..end]));
        from = end;
    }
    out.extend(stream.finish());
    out
}

fn whole(value: &str, text: &str) -> String {
    Redactor::new([value]).text(text).into_owned()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// A value as encoders write it.
fn encoded(value: &str, how: u8) -> String {
    let bytes = value.as_bytes();
    match how % 9 {
        0 => value.to_owned(),
        1 => STANDARD.encode(bytes),
        2 => URL_SAFE_NO_PAD.encode([b"user:", bytes].concat()),
        3 => bytes.iter().map(|byte| format!("%{byte:02X}")).collect(),
        4 => bytes
            .iter()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(*b).into() } else { format!("%{b:02x}") })
            .collect(),
        5 => json::encoded(value),
        6 => value.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect(),
        7 => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        _ => STANDARD
            .encode(bytes)
            .as_bytes()
            .chunks(5)
            .map(|line| format!("{}\n", String::from_utf8_lossy(line)))
            .collect(),
    }
}

fn value() -> impl Strategy<Value = String> {
    // Few letters, so that values overlap, begin alike and stand within each other; and all that encoders escape.
    prop_oneof!["[ab]{4,9}", "[a-c\"\\\\%+/ é😀\n=&]{4,12}", "[!-)+-~]{4,40}"]
        .prop_filter("4 bytes", |value| value.len() >= 4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_value_passes_however_it_is_cut(
        values in prop::collection::vec(value(), 1..4),
        parts in prop::collection::vec(("[abc %\\\\\"\n]{0,6}", any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let text: String = parts.iter().map(|(noise, which, how)| noise.clone() + &encoded(which.get::<String>(&values), *how)).collect();
        let out = redacted(&values, text.as_bytes(), &cuts);
        for value in &values {
            let base64 = STANDARD.encode(value).trim_end_matches('=').to_owned();
            for form in [value.clone(), base64, encoded(value, 3), encoded(value, 6), encoded(value, 7)] {
                prop_assert!(!contains(&out, form.as_bytes()), "{form:?} in {:?}", String::from_utf8_lossy(&out));
            }
        }
        // Where it is cut makes no difference.
        prop_assert_eq!(out, redacted(&values, text.as_bytes(), &[]));
    }

    #[test]
    fn what_holds_no_value_passes_as_it_is(text in "[b-z \n%\\\\\"+=]{0,200}", cuts in prop::collection::vec(any::<usize>(), 0..9)) {
        let values = ["A-value".to_owned(), "ANOTHER ONE".to_owned()];
        prop_assert_eq!(redacted(&values, text.as_bytes(), &cuts), text.as_bytes());
    }

    #[test]
    fn json_stays_json(value in value(), how in any::<u8>(), key in any::<bool>()) {
        let text = serde_json::json!({"n": 1.5, "list": [encoded(&value, how)]}).to_string();
        let text = if key { text.replace("list", "l") } else { text };
        let masked = Redactor::new([value.as_str()]).json(&text).into_owned();
        let read: serde_json::Value = serde_json::from_str(&masked).unwrap();
        prop_assert!(!read.to_string().contains(&json::encoded(&value)[1..json::encoded(&value).len() - 1]), "{masked}");
        prop_assert_eq!(&read["n"], 1.5);
    }
}

#[test]
fn a_value_is_masked_once_and_what_is_around_it_stays() {
    assert_eq!(whole("hunter22", "user=me password=hunter22\n"), "user=me password=***\n");
    assert_eq!(whole("abab", "xabababy"), "x***y", "what overlaps is one");
    assert_eq!(whole("hunter22", "hunter22hunter22"), "***");
    assert_eq!(whole("user:pass", "Basic dXNlcjpwYXNz, see"), "Basic ***, see");
    assert_eq!(whole("p&ss word", "https://h/?a=p%26ss+word&b=1"), "https://h/?a=***&b=1");
    assert_eq!(whole("abc", "abc abcd"), "abc abcd", "too short to be looked for");
}

#[test]
fn what_cannot_be_a_value_is_not_held_back() {
    let mut stream = Redactor::new(["hunter22"]).stream();
    assert_eq!(stream.push(b"login: "), b"login: ");
    assert_eq!(stream.push(b"it is hunt"), b"it is ");
    assert_eq!(stream.push(b"er2"), b"");
    assert_eq!(stream.push(b"2"), b"***", "known to be one at its last byte");
    assert_eq!(stream.push(b" hunting"), b" hunting");
    assert_eq!(stream.push(b"hunter2"), b"");
    assert_eq!(stream.finish(), b"hunter2");
    assert_eq!(stream.push(b"2"), b"2", "another stream");
}

#[test]
fn numbers_in_results_are_looked_at_too() {
    let redactor = Redactor::new(["12345678"]);
    assert_eq!(redactor.json(r#"{"pin": 12345678, "n": 1234.50}"#), r#"{"pin": "***", "n": 1234.50}"#);
    assert_eq!(redactor.json("12345678"), "\"***\"");
}

#[test]
fn a_long_value_of_one_letter_costs_no_more_than_others() {
    let value = "a".repeat(32 * 1024);
    let text = "a".repeat(256 * 1024);
    assert_eq!(whole(&value, &text), "***");
}
