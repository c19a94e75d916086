//! The forms under which a value may stand in output, as far as they cannot be undone where they stand.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::reference::MIN_VALUE;

/// The shortest line of a value of several lines that is taken out on its own.
const MIN_LINE: usize = 8;

/// What to look for.
#[derive(Default)]
pub(super) struct Forms {
    /// As it is; looked for under every reading.
    pub(super) plain: Vec<Vec<u8>>,
    /// Encoded by characters that other encoders may wrap.
    pub(super) encoded: Vec<Vec<u8>>,
}

impl Forms {
    /// Those of some values. Values that are too short to be taken out are left out.
    pub(super) fn of<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut forms = Self::default();
        for value in values {
            // What reads a value from a file or a variable often trims it.
            for value in [value, value.trim()] {
                if value.len() >= MIN_VALUE {
                    forms.add(value.as_bytes());
                }
            }
            // A key of several lines is printed with indentation, or by halves.
            let lines: Vec<&str> = value.lines().map(str::trim).filter(|line| line.len() >= MIN_LINE).collect();
            if lines.len() > 1 {
                lines.into_iter().for_each(|line| forms.add(line.as_bytes()));
            }
        }
        for list in [&mut forms.plain, &mut forms.encoded] {
            list.sort_unstable();
            list.dedup();
        }
        forms
    }

    fn add(&mut self, value: &[u8]) {
        self.plain.push(value.to_owned());
        for before in 0..3 {
            self.encoded.extend(base64_of(value, before));
        }
        let hex = |digits: &[u8; 16]| -> Vec<u8> {
            let both = |byte: &u8| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]];
            value.iter().flat_map(both).collect()
        };
        self.encoded.extend([hex(b"0123456789abcdef"), hex(b"0123456789ABCDEF")]);
    }
}

/// The characters of base64 that a value decides alone where so many bytes (modulo 3) stand before it, in both alphabets (RFC 4648, 4 and 5):
/// so it is found within what was encoded with it, such as `user:password`.
fn base64_of(value: &[u8], before: usize) -> Vec<Vec<u8>> {
    let padded = [&[0; 2][..before], value].concat();
    let (first, end) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
    let cut = |text: String| text.as_bytes().get(first..end).map(<[u8]>::to_owned);
    let both = [cut(STANDARD_NO_PAD.encode(&padded)), cut(URL_SAFE_NO_PAD.encode(&padded))];
    both.into_iter().flatten().filter(|form| form.len() >= MIN_VALUE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_known_wherever_the_value_stands_in_it() {
        for before in ["", "a", "ab", "abc", "user:"] {
            let encoded = STANDARD_NO_PAD.encode(format!("{before}s3cr3t?>~after"));
            let forms = Forms::of(["s3cr3t?>~"]).encoded;
            let found = forms.iter().any(|form| encoded.as_bytes().windows(form.len()).any(|part| part == form));
            assert!(found, "{before}: {encoded}");
        }
    }

    #[test]
    fn short_values_have_no_forms_and_keys_have_lines() {
        assert!(Forms::of(["abc", "ab "]).plain.is_empty());
        let forms = Forms::of(["-----BEGIN-----\n  0123456789abcdef\nshort\n"]);
        assert!(forms.plain.contains(&b"0123456789abcdef".to_vec()));
        assert!(!forms.plain.contains(&b"short".to_vec()));
    }
}
