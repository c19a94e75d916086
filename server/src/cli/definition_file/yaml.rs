//! YAML as nodes. Scalars are read by the core schema of YAML 1.2, and numbers that JSON can write stay the text they are.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::node::{Entry, Node, Value, quoted};
use super::{Position, Problem};

/// How deep values may lie in each other.
const MAX_DEPTH: usize = 100;
/// How many values aliases may add, so that a small file does not grow into a huge one.
const MAX_ALIASED: usize = 100_000;

/// Reads all documents of a text; those without a value are left out.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, Problem> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), aliased: 0 };
    let mut documents = Vec::new();
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
            event => {
                let empty = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, 0, None) if text.is_empty());
                let node = reader.node(event, span, 0)?;
                if !empty {
                    documents.push(node);
                }
            }
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.parser.next() {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => Err(broken(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Problem> {
        let at = position(span);
        if depth > MAX_DEPTH {
            return Err(Problem::new(at, format!("values lie more than {MAX_DEPTH} deep in each other")));
        }
        let (anchor, value) = match event {
            Event::Alias(id) => return self.alias(id, at),
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, Value::Scalar(scalar(&text, style, tag.as_deref(), at)?))
            }
            Event::SequenceStart(anchor, tag) => {
                require_tag(tag.as_deref(), "seq", at)?;
                (anchor, Value::List(self.items(depth)?))
            }
            Event::MappingStart(anchor, tag) => {
                require_tag(tag.as_deref(), "map", at)?;
                (anchor, Value::Map(self.entries(depth)?))
            }
            _ => return Err(Problem::new(at, "a value is missing here")),
        };
        let node = Node { at, value };
        // 0 is no anchor.
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Node>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd | Event::StreamEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>, Problem> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let (event, span) = self.next()?;
            let at = position(span);
            let key = match event {
                Event::MappingEnd | Event::StreamEnd => return Ok(entries),
                Event::Scalar(text, style, 0, None) => {
                    if text == "<<" && style == ScalarStyle::Plain {
                        return Err(Problem::new(at, "merge keys (`<<`) are not supported; write the fields out"));
                    }
                    text.into_owned()
                }
                Event::Scalar(..) | Event::Alias(_) => {
                    return Err(Problem::new(at, "a key must be plain text, without anchor, alias or tag"));
                }
                _ => return Err(Problem::new(at, "a key must be text, not a list or a mapping")),
            };
            if !seen.insert(key.clone()) {
                return Err(Problem::new(at, format!("the key {key:?} stands twice")));
            }
            let (event, span) = self.next()?;
            entries.push(Entry { key, at, value: self.node(event, span, depth + 1)? });
        }
    }

    fn alias(&mut self, id: usize, at: Position) -> Result<Node, Problem> {
        let Some(node) = self.anchors.get(&id) else {
            return Err(Problem::new(at, "an alias cannot stand within what it is an alias of"));
        };
        self.aliased += node.size();
        if self.aliased > MAX_ALIASED {
            return Err(Problem::new(at, format!("aliases add more than {MAX_ALIASED} values")));
        }
        Ok(node.clone())
    }
}

fn position(span: Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

fn broken(error: &ScanError) -> Problem {
    let at = Position { line: error.marker().line(), column: error.marker().col() + 1 };
    Problem::new(at, error.info())
}

/// The part of a tag that names a type of the core schema, such as `str`.
fn core_type(tag: &Tag) -> Option<&str> {
    tag.is_yaml_core_schema().then_some(tag.suffix.as_str())
}

fn require_tag(tag: Option<&Tag>, wanted: &str, at: Position) -> Result<(), Problem> {
    match tag {
        Some(tag) if core_type(tag) != Some(wanted) => {
            Err(Problem::new(at, format!("the tag {tag} is not supported; leave it out")))
        }
        _ => Ok(()),
    }
}

/// The JSON of a scalar.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Result<String, Problem> {
    match tag.map(|tag| (tag, core_type(tag))) {
        Some((_, Some("str"))) => return Ok(quoted(text)),
        Some((tag, None)) if tag.handle == "!" && tag.suffix.is_empty() => return Ok(quoted(text)),
        Some((_, Some("int" | "float" | "bool" | "null"))) | None => {}
        Some((tag, _)) => return Err(Problem::new(at, format!("the tag {tag} is not supported; leave it out"))),
    }
    if style != ScalarStyle::Plain && tag.is_none() {
        return Ok(quoted(text));
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Ok("null".to_owned()),
        "true" | "True" | "TRUE" => Ok("true".to_owned()),
        "false" | "False" | "FALSE" => Ok("false".to_owned()),
        text if is_json_number(text) => Ok(text.to_owned()),
        // Neither guessing the number nor making it text without a word would be what the writer expects.
        text if is_other_number(text) => {
            let message = format!("`{text}` is a number in YAML that JSON cannot write: quote it if it is text");
            Err(Problem::new(at, message))
        }
        text => Ok(quoted(text)),
    }
}

/// Whether the text is a number by the grammar of RFC 8259.
fn is_json_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (integer, rest) = digits(text);
    if integer.is_empty() || (integer.len() > 1 && integer.starts_with('0')) {
        return false;
    }
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => match digits(fraction) {
            ("", _) => return false,
            (_, rest) => rest,
        },
        None => rest,
    };
    match rest.strip_prefix(['e', 'E']) {
        Some(exponent) => {
            let (digits, rest) = digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
            !digits.is_empty() && rest.is_empty()
        }
        None => rest.is_empty(),
    }
}

/// Whether the core schema reads it as a number, and JSON does not: `+1`, `.5`, `007`, `0x1F`, `.inf`.
fn is_other_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let radix = |prefix: &str, base: u32| {
        text.strip_prefix(prefix).is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_digit(base)))
    };
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    if radix("0x", 16) || radix("0o", 8) {
        return true;
    }
    // With the zeros that JSON wants, or without those that it does not, it is one of JSON's.
    let trimmed = unsigned.trim_start_matches('0');
    let whole =
        if trimmed.starts_with(|c: char| c.is_ascii_digit()) { trimmed.to_owned() } else { format!("0{trimmed}") };
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned != "."
        && (is_json_number(&whole) || whole.strip_suffix('.').is_some_and(is_json_number))
}

/// The digits at the beginning, and what follows them.
fn digits(text: &str) -> (&str, &str) {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::super::node::Rendered;
    use super::*;

    fn json(text: &str) -> Result<String, String> {
        let nodes = parse(text).map_err(|p| format!("{}:{}: {}", p.at.line, p.at.column, p.message))?;
        Ok(nodes.iter().map(|node| Rendered::of(node).text().to_owned()).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn numbers_that_json_can_write_stay_as_they_are() {
        for number in ["0", "-0", "7", "1.50", "-1.0e+10", "1E400", "123456789012345678901234567890", "0.10"] {
            assert_eq!(json(number), Ok(number.to_owned()));
            assert_eq!(json(&format!("'{number}'")), Ok(format!("\"{number}\"")));
        }
    }

    #[test]
    fn other_numbers_are_refused_rather_than_guessed() {
        for number in ["+1", ".5", "1.", "007", "0x1F", "0o17", ".inf", "-.Inf", ".nan", "+1.5e3"] {
            let error = json(number).unwrap_err();
            assert!(error.contains("JSON cannot write"), "{number}: {error}");
        }
    }

    #[test]
    fn all_else_is_text() {
        for text in ["yes", "on", "1.2.3", "1_000", "12:30", "2026-01-31T09:00:00Z", "0 9 * * 1-5", ".", "-", "1e", "a"]
        {
            let quoted = format!("[\"{text}\"]");
            let source = if text == "-" { "['-']".to_owned() } else { format!("- {text}") };
            assert_eq!(json(&source), Ok(quoted), "{text}");
        }
        assert_eq!(json("[~, null, true, False, ]"), Ok("[null,null,true,false]".to_owned()));
        assert_eq!(json("a:\nb: \"\"\n"), Ok("{\"a\":null,\"b\":\"\"}".to_owned()));
        assert_eq!(json("a: |\n  x\n  y\n"), Ok("{\"a\":\"x\\ny\\n\"}".to_owned()));
        assert_eq!(json("!!str 5"), Ok("\"5\"".to_owned()));
        assert_eq!(json("1: x"), Ok("{\"1\":\"x\"}".to_owned()));
    }

    #[test]
    fn aliases_repeat_what_they_name() {
        assert_eq!(json("a: &x {n: 1.50}\nb: *x\n"), Ok("{\"a\":{\"n\":1.50},\"b\":{\"n\":1.50}}".to_owned()));
        assert!(json("a: &x [*x]\n").unwrap_err().contains("within what it is an alias of"));
        assert!(json("a: *x\n").is_err());
        assert!(json("a: &x {n: 1}\nb:\n  <<: *x\n").unwrap_err().starts_with("3:3: merge keys"));
    }

    #[test]
    fn small_files_do_not_grow_into_huge_ones() {
        let mut text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for level in 1..9 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            text.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        assert!(json(&text).unwrap_err().contains("aliases add more than"));
        assert!(json(&"[".repeat(200)).is_err());
        assert!(json(&format!("{}{}", "[".repeat(150), "]".repeat(150))).unwrap_err().contains("deep"));
    }

    #[test]
    fn what_cannot_be_json_is_refused_with_its_place() {
        for (text, error) in [
            ("a: 1\na: 2\n", "2:1: the key \"a\" stands twice"),
            ("a: 1\n? [b]\n: 2\n", "2:3: a key must be text"),
            ("a: !!binary aGk=\n", "1:4: the tag"),
            ("a: !mine x\n", "1:4: the tag"),
        ] {
            let found = json(text).unwrap_err();
            assert!(found.starts_with(error), "{text:?}: {found}");
        }
        assert!(json("a: \"x\n").is_err());
        assert!(json("a: b: c\n").is_err());
        assert!(json("a:\n\tb: 1\n").is_err());
    }
}
