//! Ways to read a stream: as it is, or with the escapes undone under which a value may stand in it. One way a view, so that a value is found
//! however much of it an encoder has left as it was.

use std::collections::VecDeque;

use super::automaton::{Automaton, State};

/// How a stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// As it is.
    Plain,
    /// Over line breaks, as encoders wrap base64 (RFC 2045, 6.8).
    Unwrapped,
    /// `%41` is A (RFC 3986, 2.1); with `plus`, + is a space, as forms have it.
    Percent { plus: bool },
    /// `\n`, `\"`, `\x41`, `\u0041`, `\u{41}`: JSON, and the strings of most languages. With `pairs`, two backslashes are one; where they
    /// come from two encoders, the second of them begins an escape.
    Backslash { pairs: bool },
}

/// A reading of a stream under way, and how far it has come into the words.
pub(super) struct View {
    reading: Reading,
    /// An escape that is not complete.
    escape: Escape,
    state: State,
    /// Where the latest bytes began, as many as may be part of a word.
    starts: VecDeque<u64>,
}

/// An escape that has begun at an offset of the stream.
#[derive(Default)]
struct Escape {
    /// Its bytes, one after the other in the stream.
    bytes: Vec<u8>,
    start: u64,
    /// The first half of a pair of surrogates that went before it, and where that began.
    high: Option<(u32, u64)>,
}

/// What the bytes of an escape mean.
enum Meaning {
    /// More is to come.
    Open,
    Byte(u8),
    /// A number of Unicode: a character, or half of a pair.
    Scalar(u32),
    /// It is none.
    None,
}

/// Where found words stand: from an offset to one that is not part of them.
pub(super) type Found = (u64, u64);

impl View {
    pub(super) fn new(reading: Reading) -> Self {
        Self { reading, escape: Escape::default(), state: State::default(), starts: VecDeque::new() }
    }

    /// Whether it reads over line breaks, for words that are wrapped.
    pub(super) fn is_unwrapped(&self) -> bool {
        self.reading == Reading::Unwrapped
    }

    /// Reads the byte at an offset. What is found ends with it.
    pub(super) fn read(&mut self, words: &Automaton, byte: u8, at: u64, found: &mut Vec<Found>) {
        match self.reading {
            Reading::Plain => self.take(words, byte, at, at, found),
            Reading::Unwrapped if byte == b'\n' || byte == b'\r' => {}
            Reading::Unwrapped => self.take(words, byte, at, at, found),
            Reading::Percent { .. } | Reading::Backslash { .. } => self.unescape(words, byte, at, found),
        }
    }

    /// A byte that has been read: its first and its last offset.
    fn take(&mut self, words: &Automaton, byte: u8, start: u64, last: u64, found: &mut Vec<Found>) {
        self.state = words.step(self.state, byte);
        self.starts.push_back(start);
        let longest = words.longest(self.state);
        if longest > 0
            && let Some(first) = self.starts.get(self.starts.len().saturating_sub(longest))
        {
            found.push((*first, last + 1));
        }
        let kept = words.open(self.state);
        self.starts.drain(..self.starts.len().saturating_sub(kept));
    }

    fn unescape(&mut self, words: &Automaton, byte: u8, at: u64, found: &mut Vec<Found>) {
        let opens = if matches!(self.reading, Reading::Backslash { .. }) { b'\\' } else { b'%' };
        if self.escape.bytes.is_empty() && byte != opens {
            self.give_up_half(words, at, found);
            let byte = if byte == b'+' && self.reading == (Reading::Percent { plus: true }) { b' ' } else { byte };
            return self.take(words, byte, at, at, found);
        }
        if self.escape.bytes.is_empty() {
            self.escape.start = at;
        }
        self.escape.bytes.push(byte);
        let meaning = match self.reading {
            Reading::Backslash { pairs: false } if self.escape.bytes == b"\\\\" => Meaning::None,
            Reading::Backslash { .. } => backslash(&self.escape.bytes),
            _ => percent(&self.escape.bytes),
        };
        let start = self.escape.start;
        match meaning {
            Meaning::Open => return,
            Meaning::Byte(byte) => {
                self.give_up_half(words, at, found);
                self.take(words, byte, start, at, found);
            }
            Meaning::Scalar(number) => self.scalar(words, number, at, found),
            Meaning::None => return self.no_escape(words, found),
        }
        self.escape.bytes.clear();
    }

    /// What was no escape is read as it stands. The last byte may open one.
    fn no_escape(&mut self, words: &Automaton, found: &mut Vec<Found>) {
        let start = self.escape.start;
        let bytes = std::mem::take(&mut self.escape.bytes);
        self.give_up_half(words, start, found);
        let Some((first, rest)) = bytes.split_first() else { return };
        self.take(words, *first, start, start, found);
        for (offset, byte) in (start + 1..).zip(rest) {
            self.unescape(words, *byte, offset, found);
        }
    }

    fn scalar(&mut self, words: &Automaton, number: u32, last: u64, found: &mut Vec<Found>) {
        let start = self.escape.start;
        match (self.escape.high.take(), number) {
            (Some((high, start)), 0xDC00..=0xDFFF) => {
                let whole = 0x10000 + ((high - 0xD800) << 10) + (number - 0xDC00);
                self.character(words, whole, start, last, found);
            }
            (lost, 0xD800..=0xDBFF) => {
                self.lost(words, lost, start, found);
                self.escape.high = Some((number, start));
            }
            (lost, number) => {
                self.lost(words, lost, start, found);
                self.character(words, number, start, last, found);
            }
        }
    }

    /// The first half of a pair is followed by something else.
    fn give_up_half(&mut self, words: &Automaton, at: u64, found: &mut Vec<Found>) {
        let lost = self.escape.high.take();
        self.lost(words, lost, at, found);
    }

    fn lost(&mut self, words: &Automaton, lost: Option<(u32, u64)>, next: u64, found: &mut Vec<Found>) {
        if let Some((_, start)) = lost {
            self.character(words, 0xFFFD, start, next.saturating_sub(1).max(start), found);
        }
    }

    fn character(&mut self, words: &Automaton, number: u32, start: u64, last: u64, found: &mut Vec<Found>) {
        let character = char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER);
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            self.take(words, byte, start, last, found);
        }
    }

    /// The first offset that may be part of a word of which more is to come, given the offset of the next byte.
    pub(super) fn open_from(&self, next: u64) -> u64 {
        let escape = (!self.escape.bytes.is_empty()).then_some(self.escape.start);
        let half = self.escape.high.map(|(_, start)| start);
        [self.starts.front().copied(), escape, half].into_iter().flatten().fold(next, u64::min)
    }
}

fn percent(bytes: &[u8]) -> Meaning {
    match bytes {
        [_] => Meaning::Open,
        [_, digit] if digit.is_ascii_hexdigit() => Meaning::Open,
        [_, digits @ ..] => {
            hex(digits).and_then(|number| u8::try_from(number).ok()).map_or(Meaning::None, Meaning::Byte)
        }
        [] => Meaning::None,
    }
}

fn backslash(bytes: &[u8]) -> Meaning {
    let simple = |byte: u8| match byte {
        b'n' => Some(b'\n'),
        b't' => Some(b'\t'),
        b'r' => Some(b'\r'),
        b'b' => Some(8),
        b'f' => Some(12),
        b'a' => Some(7),
        b'v' => Some(11),
        b'e' => Some(27),
        b'0' => Some(0),
        b'"' | b'\'' | b'\\' | b'/' | b'`' | b'$' => Some(byte),
        _ => None,
    };
    let number = |digits: &[u8]| hex(digits).map_or(Meaning::None, Meaning::Scalar);
    match bytes {
        [_] | [_, b'u' | b'x'] => Meaning::Open,
        [_, byte] => simple(*byte).map_or(Meaning::None, Meaning::Byte),
        [_, b'u', b'{', digits @ .., b'}'] => number(digits),
        [_, b'u', b'{', digits @ ..] if digits.len() <= 6 && digits.iter().all(u8::is_ascii_hexdigit) => Meaning::Open,
        [_, b'u', digits @ ..] if digits.iter().all(u8::is_ascii_hexdigit) => {
            if digits.len() < 4 {
                Meaning::Open
            } else {
                number(digits)
            }
        }
        [_, b'x', digit] if digit.is_ascii_hexdigit() => Meaning::Open,
        [_, b'x', digits @ ..] => {
            hex(digits).and_then(|number| u8::try_from(number).ok()).map_or(Meaning::None, Meaning::Byte)
        }
        _ => Meaning::None,
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    let is_hex = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    is_hex.then(|| std::str::from_utf8(digits).ok().and_then(|text| u32::from_str_radix(text, 16).ok())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found of `word` in `text`, and from where more may come.
    fn read(reading: Reading, word: &str, text: &str) -> (Vec<Found>, u64) {
        let words = Automaton::new([word.as_bytes()]);
        let mut view = View::new(reading);
        let mut found = Vec::new();
        for (at, byte) in (0..).zip(text.bytes()) {
            view.read(&words, byte, at, &mut found);
        }
        (found, view.open_from(text.len() as u64))
    }

    #[test]
    fn escapes_are_undone() {
        let percent = Reading::Percent { plus: false };
        assert_eq!(read(percent, "a b+", "x%61%20b+y"), (vec![(1, 9)], 10));
        assert_eq!(read(Reading::Percent { plus: true }, "a b", "a+b"), (vec![(0, 3)], 3));
        assert_eq!(read(percent, "%zab", "%%zab%"), (vec![(1, 5)], 5));
        assert_eq!(read(Reading::Backslash { pairs: true }, "a\"\nb", r#"xa\"\nb"#), (vec![(1, 7)], 7));
        assert_eq!(read(Reading::Backslash { pairs: true }, "ä😀/", r"\u00e4\ud83d\ude00\/").0, [(0, 20)]);
        assert_eq!(read(Reading::Backslash { pairs: true }, "ä😀", r"\u{e4}\u{1F600}").0, [(0, 15)]);
        assert_eq!(read(Reading::Backslash { pairs: true }, "A\\q", r"\x41\q").0, [(0, 6)]);
        assert_eq!(read(Reading::Backslash { pairs: true }, "\\ab", r"\\a\x62").0, [(0, 7)]);
        assert_eq!(read(Reading::Backslash { pairs: false }, "ab", r"\\x61b").0, [(1, 6)]);
        assert_eq!(read(Reading::Unwrapped, "QUJD", "QU\r\nJD").0, [(0, 6)]);
    }

    #[test]
    fn what_is_not_complete_is_held_back() {
        assert_eq!(read(Reading::Plain, "abc", "xxab").1, 2);
        assert_eq!(read(Reading::Percent { plus: false }, "abc", "xa%6").1, 1);
        assert_eq!(read(Reading::Backslash { pairs: true }, "😀", r"x\ud83d").1, 1);
        assert_eq!(read(Reading::Backslash { pairs: true }, "😀", r"\ud83dx"), (vec![], 7));
        assert_eq!(read(Reading::Unwrapped, "abcd", "ab\n").1, 0);
    }
}
