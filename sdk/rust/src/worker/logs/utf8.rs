//! Where text may be cut: whoever reads a chunk reads it by itself.

/// How many bytes at the end are the beginning of a character whose rest may be still to come: 3 at most. None where they cannot become
/// a character any more.
pub(super) fn incomplete(data: &[u8]) -> usize {
    for back in 1..=data.len().min(3) {
        let end = &data[data.len() - back..];
        match end.first() {
            Some(0x80..=0xBF) => {}
            _ => {
                let begun = std::str::from_utf8(end).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none());
                return if begun { back } else { 0 };
            }
        }
    }
    0
}

/// How many bytes from the beginning make a piece of no more than `most`, which is 4 or more.
pub(super) fn piece(data: &[u8], most: usize) -> usize {
    match data.get(..most) {
        Some(head) if data.len() > most => most - incomplete(head),
        _ => data.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_still_become_a_character_waits() {
        for (data, waits) in [
            (&b""[..], 0),
            (b"a", 0),
            ("€".as_bytes(), 0),
            (b"a\xE2", 1),
            (b"a\xE2\x82", 2),
            (b"\xF0\x9F\x98", 3),
            (b"\xC3", 1),
            // No beginning of anything: bare continuations, overlong forms, a surrogate, beyond Unicode.
            (b"\x82\x82\x82\x82", 0),
            (b"\xC0", 0),
            (b"\xE0\x80", 0),
            (b"\xED\xA0", 0),
            (b"\xF5", 0),
            (b"\xFF", 0),
            (b"\xE2(", 0),
        ] {
            assert_eq!(incomplete(data), waits, "{data:x?}");
        }
    }

    #[test]
    fn pieces_end_between_characters() {
        assert_eq!(piece("ab€".as_bytes(), 4), 2);
        assert_eq!(piece("a€".as_bytes(), 4), 4);
        assert_eq!(piece(b"\xFF\xFF\xFF\xFF\xFF", 4), 4);
        assert_eq!(piece(b"ab\xE2", 4), 3, "the end is not cut");
    }
}
