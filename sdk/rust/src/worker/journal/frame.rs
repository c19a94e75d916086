//! How results and their removals stand in a segment: the length and the CRC-32 of what follows, as two little-endian u32, then a byte for
//! the kind and its fields. What a crash cut short, or left unwritten, has no such sum and ends the segment.

use std::io;
use std::ops::Range;

use orrery_proto::v1::{Finished, LogChunk};
use prost::Message as _;

use crate::worker::lease::LeaseKey;

/// The first bytes of a segment: which form it has.
pub(super) const HEADER: &[u8] = b"orrery-journal 2\n";
/// How every header begins, whatever its form.
pub(super) const FAMILY: &[u8] = b"orrery-journal ";

const RESULT: u8 = 1;
const FORGOTTEN: u8 = 2;
/// Length and sum.
const PREFIX: usize = 8;

/// What a frame says.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    /// A result with the last output of its attempt.
    Result(Finished, Vec<LogChunk>),
    Forgotten(LeaseKey),
}

/// Appends a result; answers with where it stands in `buffer`.
pub(super) fn put_result(buffer: &mut Vec<u8>, finished: &Finished, tail: &[LogChunk]) -> io::Result<Range<usize>> {
    framed(buffer, RESULT, |buffer| {
        finished.encode_length_delimited(buffer)?;
        tail.iter().try_for_each(|chunk| chunk.encode_length_delimited(buffer))
    })
}

/// Appends the removal of a result.
pub(super) fn put_forgotten(buffer: &mut Vec<u8>, key: &LeaseKey) -> io::Result<Range<usize>> {
    framed(buffer, FORGOTTEN, |buffer| {
        buffer.extend_from_slice(&key.epoch.to_le_bytes());
        buffer.extend_from_slice(key.execution_id.as_text(&mut [0; 36]).as_bytes());
        Ok(())
    })
}

fn framed(
    buffer: &mut Vec<u8>,
    kind: u8,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), prost::EncodeError>,
) -> io::Result<Range<usize>> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; PREFIX]);
    buffer.push(kind);
    let filled = fill(buffer).map_err(io::Error::other);
    let length = filled.and_then(|()| u32::try_from(buffer.len() - start - PREFIX).map_err(io::Error::other));
    match length {
        Ok(length) => {
            let sum = crc32fast::hash(&buffer[start + PREFIX..]);
            buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
            buffer[start + 4..start + PREFIX].copy_from_slice(&sum.to_le_bytes());
            Ok(start..buffer.len())
        }
        Err(error) => {
            buffer.truncate(start);
            Err(error)
        }
    }
}

/// The frames from `start` on with where they stand, up to the first that is not whole.
pub(super) fn frames(bytes: &[u8], start: usize) -> impl Iterator<Item = (Range<usize>, Frame)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let body = body(bytes, at)?;
        let frame = read(&bytes[body.clone()])?;
        let place = at..body.end;
        at = body.end;
        Some((place, frame))
    })
}

/// Where the body of the frame at `at` stands, if it is whole.
fn body(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let number = |from: usize| Some(u32::from_le_bytes(bytes.get(from..from + 4)?.try_into().ok()?));
    let (length, sum) = (usize::try_from(number(at)?).ok()?, number(at + 4)?);
    let start = at + PREFIX;
    let body = bytes.get(start..start.checked_add(length)?)?;
    // No frame is empty, but the zeros of a block that was never written would be one with a right sum.
    (length > 0 && crc32fast::hash(body) == sum).then(|| start..start + length)
}

fn read(body: &[u8]) -> Option<Frame> {
    match body.split_first()? {
        (&RESULT, mut rest) => {
            let finished = Finished::decode_length_delimited(&mut rest).ok()?;
            let mut tail = Vec::new();
            while !rest.is_empty() {
                tail.push(LogChunk::decode_length_delimited(&mut rest).ok()?);
            }
            Some(Frame::Result(finished, tail))
        }
        (&FORGOTTEN, rest) => {
            let (epoch, id) = rest.split_at_checked(8)?;
            let epoch = i64::from_le_bytes(epoch.try_into().ok()?);
            Some(Frame::Forgotten(LeaseKey::new(std::str::from_utf8(id).ok()?, epoch)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (Vec<u8>, Vec<Frame>) {
        let finished = |id: &str| Finished { execution_id: id.into(), epoch: 3, started: true, ..Finished::default() };
        let chunk = LogChunk { execution_id: "a".into(), data: b"bye".into(), number: 2, ..LogChunk::default() };
        let mut bytes = Vec::new();
        put_result(&mut bytes, &finished("a"), &[chunk.clone(), chunk.clone()]).expect("a frame");
        put_forgotten(&mut bytes, &LeaseKey::new("a", 3)).expect("a frame");
        put_result(&mut bytes, &finished("0193a5e0-0000-8000-8000-000000000001"), &[]).expect("a frame");
        put_forgotten(&mut bytes, &LeaseKey::new("0193a5e0-0000-8000-8000-000000000001", -1)).expect("a frame");
        let frames = vec![
            Frame::Result(finished("a"), vec![chunk.clone(), chunk]),
            Frame::Forgotten(LeaseKey::new("a", 3)),
            Frame::Result(finished("0193a5e0-0000-8000-8000-000000000001"), Vec::new()),
            Frame::Forgotten(LeaseKey::new("0193a5e0-0000-8000-8000-000000000001", -1)),
        ];
        (bytes, frames)
    }

    #[test]
    fn what_is_cut_anywhere_is_read_up_to_the_last_whole_frame() {
        let (bytes, expected) = written();
        let ends: Vec<usize> = frames(&bytes, 0).map(|(place, _)| place.end).collect();
        assert_eq!(frames(&bytes, 0).map(|(_, frame)| frame).collect::<Vec<_>>(), expected);
        for length in 0..bytes.len() {
            let whole = ends.iter().filter(|end| **end <= length).count();
            assert_eq!(frames(&bytes[..length], 0).count(), whole, "cut at {length}");
            // As a file system leaves it that has grown the file before its blocks were written.
            let mut holes = bytes[..length].to_vec();
            holes.resize(bytes.len() + 64, 0);
            assert_eq!(frames(&holes, 0).count(), whole, "zeros from {length} on");
        }
    }

    #[test]
    fn a_bit_that_has_changed_is_noticed() {
        let (bytes, expected) = written();
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            let read: Vec<Frame> = frames(&bytes, 0).map(|(_, frame)| frame).collect();
            assert!(read.len() < expected.len() && read == expected[..read.len()], "byte {at}");
        }
    }
}
