//! Takes values out of what an attempt says.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use super::automaton::Automaton;
use super::forms::Forms;
use super::json;
use super::view::{Found, Reading, View};

/// What stands in the place of a value.
pub const MASK: &str = "***";

/// The values of one attempt, and every form of them that is looked for: as they are, URL-encoded, with the escapes of JSON and of most
/// languages, in base64 wherever they stand in it (also over line breaks), and in hexadecimal. Cheap to clone.
#[derive(Clone)]
pub struct Redactor(Arc<Words>);

struct Words {
    /// All forms.
    all: Automaton,
    /// Those that are wrapped into lines.
    encoded: Automaton,
    is_empty: bool,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor")
    }
}

/// One stream of output under way.
pub struct Stream {
    words: Arc<Words>,
    views: [View; 6],
    /// What is held back, since it may be the beginning of a value.
    held: Vec<u8>,
    /// The offset of its first byte in the stream.
    base: u64,
    /// What of it belongs to values, in order and apart.
    covered: Vec<Found>,
    /// A value goes on whose mask is written already.
    masked: bool,
    found: Vec<Found>,
}

impl Redactor {
    /// For these values. Those of less than [`super::MIN_VALUE`] bytes are not looked for.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let Forms { plain, encoded } = Forms::of(values);
        let words = Words {
            all: Automaton::new(plain.iter().chain(&encoded).map(Vec::as_slice)),
            encoded: Automaton::new(encoded.iter().map(Vec::as_slice)),
            is_empty: plain.is_empty(),
        };
        Self(Arc::new(words))
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty
    }

    /// A stream of output, to be given piece by piece.
    pub fn stream(&self) -> Stream {
        let readings = [
            Reading::Plain,
            Reading::Unwrapped,
            Reading::Percent { plus: false },
            Reading::Percent { plus: true },
            Reading::Backslash { pairs: true },
            Reading::Backslash { pairs: false },
        ];
        Stream {
            words: self.0.clone(),
            views: readings.map(View::new),
            held: Vec::new(),
            base: 0,
            covered: Vec::new(),
            masked: false,
            found: Vec::new(),
        }
    }

    /// A text without the values.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut stream = self.stream();
        let mut out = stream.push(text.as_bytes());
        out.extend(stream.finish());
        if out == text.as_bytes() {
            return Cow::Borrowed(text);
        }
        Cow::Owned(String::from_utf8_lossy(&out).into_owned())
    }

    /// A JSON text without the values, which is JSON still: they are looked for in the characters of each string, whatever its escapes, and
    /// in what stands bare. All else stays as it is, to the last digit.
    pub fn json<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.is_empty() {
            return Cow::Borrowed(text);
        }
        let mask = |token: &json::Token, part: &str| {
            let new = match token.is_string.then(|| json::decoded(part)).flatten() {
                Some(characters) => match self.text(&characters) {
                    Cow::Borrowed(_) => None,
                    Cow::Owned(masked) => Some(json::encoded(&masked)),
                },
                None => matches!(self.text(part), Cow::Owned(_)).then(|| json::encoded(MASK)),
            };
            Ok::<_, Infallible>(new)
        };
        let Ok(masked) = json::rewrite(text, mask);
        masked
    }
}

impl Stream {
    /// Takes a piece, cut anywhere, and answers with what can go on: all but what may be the beginning of a value.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        if self.words.is_empty {
            return piece.to_owned();
        }
        let next = self.base + (self.held.len() + piece.len()) as u64;
        for (at, byte) in (next - piece.len() as u64..).zip(piece) {
            for view in &mut self.views {
                let words = if view.is_unwrapped() { &self.words.encoded } else { &self.words.all };
                view.read(words, *byte, at, &mut self.found);
            }
            for found in self.found.drain(..) {
                cover(&mut self.covered, found);
            }
        }
        self.held.extend_from_slice(piece);
        let open = self.views.iter().map(|view| view.open_from(next)).fold(next, u64::min);
        self.release(open)
    }

    /// The stream has ended: what was held back, without values. Another one begins.
    pub fn finish(&mut self) -> Vec<u8> {
        let rest = self.release(self.base + self.held.len() as u64);
        let fresh = Redactor(self.words.clone()).stream();
        *self = fresh;
        rest
    }

    /// What stands before an offset, with masks.
    fn release(&mut self, until: u64) -> Vec<u8> {
        let length = usize::try_from(until.saturating_sub(self.base)).unwrap_or(0).min(self.held.len());
        let end = self.base + length as u64;
        let mut out = Vec::with_capacity(length);
        let mut at = self.base;
        let mut left = Vec::new();
        for (from, to) in std::mem::take(&mut self.covered) {
            if from < end {
                self.plain(&mut out, at, from);
                if !self.masked {
                    out.extend_from_slice(MASK.as_bytes());
                }
                at = to.min(end).max(at);
                self.masked = true;
            }
            if to > end {
                left.push((from.max(end), to));
            }
        }
        self.plain(&mut out, at, end);
        self.covered = left;
        self.held.drain(..length);
        self.base = end;
        out
    }

    /// Copies what belongs to no value.
    fn plain(&mut self, out: &mut Vec<u8>, from: u64, to: u64) {
        let offset = |at: u64| usize::try_from(at.saturating_sub(self.base)).unwrap_or(usize::MAX);
        if to > from
            && let Some(bytes) = self.held.get(offset(from)..offset(to))
        {
            out.extend_from_slice(bytes);
            self.masked = false;
        }
    }
}

/// Adds a range that ends no earlier than those before it.
fn cover(covered: &mut Vec<Found>, (mut from, mut to): Found) {
    while let Some((start, end)) = covered.last().copied().filter(|(_, end)| *end >= from) {
        (from, to) = (from.min(start), to.max(end));
        covered.pop();
    }
    covered.push((from, to));
}

#[cfg(test)]
mod tests;
