//! Where in a JSON text a parser stopped, as the path of a field.

/// One level that is open.
enum Level {
    /// The key that was read last, if any.
    Object { key: Option<String>, expects_key: bool },
    /// The index of the element being read.
    Array(usize),
}

/// The path of the field at a line and column (both from 1, in bytes), such as `jobs[3].config.url`.
pub(super) fn path(text: &[u8], line: usize, column: usize) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let start: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let end = (start + column).min(text.len());
    let levels = levels(text.get(..end).or_else(|| text.get(..end - 1))?);
    let mut path = String::new();
    for level in &levels {
        match level {
            Level::Object { key: Some(key), .. } if path.is_empty() => path.push_str(key),
            Level::Object { key: Some(key), .. } => {
                path.push('.');
                path.push_str(key);
            }
            Level::Object { key: None, .. } => {}
            Level::Array(index) => path.push_str(&format!("[{index}]")),
        }
    }
    (!path.is_empty()).then_some(path)
}

fn levels(text: &str) -> Vec<Level> {
    let mut levels = Vec::new();
    let mut rest = text.char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            // What is opened at the very end is what the parser complains of, and nothing within it.
            '{' if at + 1 < text.len() => levels.push(Level::Object { key: None, expects_key: true }),
            '[' if at + 1 < text.len() => levels.push(Level::Array(0)),
            // An object that is closed at the very end may have been complained of for a field.
            '}' if at + 1 == text.len() => {}
            '}' | ']' => drop(levels.pop()),
            ',' => match levels.last_mut() {
                Some(Level::Array(index)) => *index += 1,
                Some(Level::Object { expects_key, .. }) => *expects_key = true,
                None => {}
            },
            '"' => {
                let string = string(&mut rest);
                if let Some(Level::Object { key, expects_key }) = levels.last_mut()
                    && *expects_key
                {
                    *key = Some(string);
                    *expects_key = false;
                }
            }
            _ => {}
        }
    }
    levels
}

/// The characters up to the closing quote, escapes as they are written.
fn string(rest: &mut std::str::CharIndices<'_>) -> String {
    let mut read = String::new();
    while let Some((_, c)) = rest.next() {
        match c {
            '"' => break,
            '\\' => {
                read.push(c);
                read.extend(rest.next().map(|(_, escaped)| escaped));
            }
            _ => read.push(c),
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn a_place_has_a_path() {
        let text = b"{\"name\": \"x\",\n \"jobs\": [{}, {\"a\": {\"b\": 5}}]}";
        let at = |line, column| path(text, line, column);
        assert_eq!(at(1, 8).as_deref(), Some("name"));
        assert_eq!(at(1, 12).as_deref(), Some("name"));
        assert_eq!(at(2, 27).as_deref(), Some("jobs[1].a.b"));
        assert_eq!(at(2, 11).as_deref(), Some("jobs[0]"));
        assert_eq!(at(9, 9), path(text, 2, 99));
        assert_eq!(path(b"{\"a\": [[1]]}", 1, 7).as_deref(), Some("a"));
        assert_eq!(path(b"{\"a\": []}", 1, 8).as_deref(), Some("a"));
        assert_eq!(path(b"[[1]]", 1, 1), None);
        assert_eq!(path(b"[]", 1, 2), None);
        assert_eq!(path(b"5", 1, 1), None);
        assert_eq!(path(b"", 0, 0), None);
    }

    #[test]
    fn serde_json_points_at_the_field() {
        #[derive(Debug, serde::Deserialize)]
        #[allow(dead_code)]
        struct Inner {
            number: i32,
        }
        #[derive(Debug, serde::Deserialize)]
        #[allow(dead_code)]
        struct Outer {
            list: Vec<Inner>,
        }
        for text in [
            r#"{"list": [{"number": 1}, {"number": "x"}]}"#,
            "{\"list\": [{\"number\": 1},\n {\"number\":\n 99999999999}]}",
            r#"{"list": [{"number": 1}, {"number": {"x": 1}}]}"#,
        ] {
            let error = serde_json::from_str::<Outer>(text).unwrap_err();
            let found = path(text.as_bytes(), error.line(), error.column());
            assert_eq!(found.as_deref(), Some("list[1].number"), "{text}");
        }
    }
}
