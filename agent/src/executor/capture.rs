use std::collections::VecDeque;

/// The beginning and the end of an output, within a bound.
pub(super) struct Capture {
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Capture {
    /// Keeps up to `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { half: limit / 2, head: Vec::new(), tail: VecDeque::new(), total: 0 }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.total += data.len() as u64;
        let (first, rest) = data.split_at(data.len().min(self.half - self.head.len()));
        self.head.extend_from_slice(first);
        let rest = &rest[rest.len() - rest.len().min(self.half)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(self.half);
        self.tail.drain(..surplus.min(self.tail.len()));
        self.tail.extend(rest);
    }

    /// How many bytes there were.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The output as text of no more than `limit` bytes or so, and whether something was cut, which the text then says as well.
    pub(super) fn text(&self, limit: usize) -> (String, bool) {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let kept = (self.head.len() + tail.len()) as u64;
        if kept == self.total && self.total <= limit as u64 {
            let whole = [self.head.as_slice(), &tail].concat();
            return (String::from_utf8_lossy(&whole).into_owned(), false);
        }
        let head = whole_chars_before(&self.head[..self.head.len().min(limit / 2)]);
        let tail = whole_chars_after(&tail[tail.len() - tail.len().min(limit / 2)..]);
        let cut = self.total - (head.len() + tail.len()) as u64;
        let text =
            format!("{}\n[... {cut} bytes cut ...]\n{}", String::from_utf8_lossy(head), String::from_utf8_lossy(tail));
        (text, true)
    }
}

/// Without a character at the end that the cut has split.
fn whole_chars_before(bytes: &[u8]) -> &[u8] {
    for back in 1..=bytes.len().min(3) {
        let (rest, last) = bytes.split_at(bytes.len() - back);
        let needs = match last[0] {
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            0x80..=0xBF => continue,
            _ => return bytes,
        };
        return if needs > back { rest } else { bytes };
    }
    bytes
}

/// Without the rest of a character at the beginning that the cut has split.
fn whole_chars_after(bytes: &[u8]) -> &[u8] {
    let broken = bytes.iter().take(3).take_while(|byte| (0x80..=0xBF).contains(*byte)).count();
    &bytes[broken..]
}

/// A JSON string literal of no more than `budget` bytes, and whether the text was cut for it, at the end of a character.
pub(super) fn json_string(text: &str, budget: usize) -> (String, bool) {
    let mut end = text.floor_char_boundary(budget);
    loop {
        let literal = serde_json::Value::from(&text[..end]).to_string();
        if literal.len() <= budget || end == 0 {
            return (literal, end < text.len());
        }
        // Escapes made it longer than the text: in proportion, and at least by one, so that this ends.
        end = text.floor_char_boundary((end * budget / literal.len()).min(end - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_head_and_tail_and_says_what_is_cut() {
        let mut capture = Capture::new(8);
        for piece in ["abc", "defgh", "ijklmnop", "q"] {
            capture.push(piece.as_bytes());
        }
        assert_eq!(capture.text(8), ("abcd\n[... 9 bytes cut ...]\nnopq".into(), true));
        assert_eq!(capture.text(4), ("ab\n[... 13 bytes cut ...]\npq".into(), true));
        assert_eq!(capture.total(), 17);
    }

    #[test]
    fn within_the_limit_all_is_kept() {
        let mut capture = Capture::new(8);
        capture.push(b"abcdef\0\xff");
        assert_eq!(capture.text(8), ("abcdef\0\u{fffd}".into(), false));
    }

    #[test]
    fn characters_are_not_split() {
        let mut capture = Capture::new(8);
        capture.push("aäöüß€€".as_bytes());
        assert_eq!(capture.text(8), ("aä\n[... 9 bytes cut ...]\n€".into(), true));
        assert_eq!(json_string("aäb", 4), ("\"a\"".into(), true));
        assert_eq!(json_string("\0\0\0", 15), ("\"\\u0000\\u0000\"".into(), true));
        assert_eq!(json_string("ab", 4), ("\"ab\"".into(), false));
    }
}
