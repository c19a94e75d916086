//! What a file holds, with the place of every value, and its JSON text.

use super::Position;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A string, number, boolean or null as its JSON text.
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Position,
    pub(super) value: Node,
}

/// The JSON string literal of a text.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Node {
    /// How many values there are in it, itself included.
    pub(super) fn size(&self) -> usize {
        match &self.value {
            Value::Scalar(_) => 1,
            Value::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|entry| entry.value.size()).sum::<usize>(),
        }
    }
}

/// One line of JSON, and where in the file each of its parts stands.
#[derive(Debug)]
pub(super) struct Rendered {
    text: String,
    marks: Vec<Mark>,
}

#[derive(Debug)]
struct Mark {
    /// Where it begins and ends in the text.
    start: usize,
    end: usize,
    at: Position,
    /// Such as `config.url`.
    path: String,
    /// Of a map, the mark of its last value.
    last: Option<usize>,
}

impl Rendered {
    pub(super) fn of(node: &Node) -> Self {
        let mut rendered = Self { text: String::new(), marks: Vec::new() };
        rendered.push(node, "");
        rendered
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The place in the file, and the path, of what serde_json complains about at a column of the text.
    ///
    /// Its column is where it stood when the error came up: behind the key or value at fault; but where that was the last of
    /// its map and the error came from a type of ours, behind the map.
    pub(super) fn place(&self, column: usize) -> (Position, &str) {
        let after = self.marks.partition_point(|mark| mark.start < column);
        let begun = self.marks.get(..after).unwrap_or_default();
        let ended = begun.iter().rev().find(|mark| mark.end == column);
        let last = ended.and_then(|mark| mark.last).and_then(|index| self.marks.get(index));
        match last.or(ended).or(begun.last()) {
            Some(mark) => (mark.at, &mark.path),
            None => (Position::default(), ""),
        }
    }

    fn push(&mut self, node: &Node, path: &str) {
        let mark = self.begin(node.at, path.to_owned());
        match &node.value {
            Value::Scalar(text) => self.text.push_str(text),
            Value::List(items) => {
                self.text.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.separate(index);
                    self.push(item, &format!("{path}[{index}]"));
                }
                self.text.push(']');
            }
            Value::Map(entries) => {
                self.text.push('{');
                for (index, entry) in entries.iter().enumerate() {
                    self.separate(index);
                    let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                    let key = self.begin(entry.at, path.clone());
                    self.text.push_str(&quoted(&entry.key));
                    self.end(key);
                    self.text.push(':');
                    let value = self.marks.len();
                    self.push(&entry.value, &path);
                    self.marks[mark].last = Some(value);
                }
                self.text.push('}');
            }
        }
        self.end(mark);
    }

    fn separate(&mut self, index: usize) {
        if index > 0 {
            self.text.push(',');
        }
    }

    /// Marks what is written until [`Self::end`] is told of the mark.
    fn begin(&mut self, at: Position, path: String) -> usize {
        self.marks.push(Mark { start: self.text.len(), end: usize::MAX, at, path, last: None });
        self.marks.len() - 1
    }

    fn end(&mut self, mark: usize) {
        self.marks[mark].end = self.text.len();
    }
}
