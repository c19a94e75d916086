//! The segments of a journal: files that are only appended to, and removed from the oldest on once nothing in them is wanted.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use orrery_proto::v1::{Finished, LogChunk};
use tracing::warn;

use super::frame::{FAMILY, Frame, HEADER, frames, put_forgotten, put_result};
use super::replace::{remove, sync_directory_of};
use crate::worker::lease::{ByLease, LeaseKey};

/// Bytes from which on a segment is followed by the next.
const SEGMENT: u64 = 4 * 1024 * 1024;
/// Bytes of forgotten results, beyond as many as are wanted, from which on the oldest segment is emptied into the newest. What is copied is
/// thus never more than what was written since.
const SLACK: u64 = 4 * SEGMENT;

/// The memory that a batch leaves to the next one, in bytes.
const SPARE: usize = 1024 * 1024;

/// What is written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The frames of the results.
    bytes: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    /// Its frame in the batch.
    Result(LeaseKey, Range<usize>),
    Forgotten(LeaseKey),
}

impl Batch {
    pub(super) fn record(&mut self, finished: &Finished, tail: &[LogChunk]) -> io::Result<()> {
        let place = put_result(&mut self.bytes, finished, tail)?;
        self.changes.push(Change::Result(LeaseKey::from(finished), place));
        Ok(())
    }

    pub(super) fn forget(&mut self, key: LeaseKey) {
        self.changes.push(Change::Forgotten(key));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// For the next ones, in the same memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(SPARE);
        self.changes.clear();
        self.changes.shrink_to(SPARE / size_of::<Change>());
    }
}

#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    /// Oldest first; the last is appended to.
    segments: VecDeque<Segment>,
    file: File,
    /// Where the results stand that are wanted.
    live: ByLease<Place>,
    live_bytes: u64,
    /// A write failed, so that the segment may end within a frame: the next one goes to a new segment.
    broken: bool,
    /// What is being written, kept for its memory.
    buffer: Vec<u8>,
    /// Held for the life of the journal: two agents on one directory would undo each other's lines.
    _lock: File,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    path: PathBuf,
    bytes: u64,
    /// How many of its results are wanted.
    live: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    at: u64,
    length: usize,
}

impl Segment {
    /// What it costs to keep: many small ones are no better than a large one.
    fn weight(&self) -> u64 {
        self.bytes.max(SEGMENT / 4)
    }
}

impl Disk {
    /// Takes up the segments in `directory`, and `old` results that are in none of them. Writes go to a segment of their own, since a crash may
    /// have cut the newest short.
    pub(super) fn open(directory: &Path, old: Vec<(Finished, Vec<LogChunk>)>, lock: File) -> io::Result<Self> {
        let found = numbered(directory)?;
        let number = found.last().map_or(1, |(number, _)| number + 1);
        let (segment, file) = begin(directory, number)?;
        let mut disk = Self {
            directory: directory.into(),
            segments: VecDeque::new(),
            file,
            live: ByLease::default(),
            live_bytes: 0,
            broken: false,
            buffer: Vec::new(),
            _lock: lock,
        };
        for (number, path) in found {
            disk.take_up(number, path)?;
        }
        disk.segments.push_back(segment);
        let mut batch = Batch::default();
        for (finished, tail) in &old {
            batch.record(finished, tail)?;
        }
        disk.write(&batch)?;
        Ok(disk)
    }

    fn take_up(&mut self, number: u64, path: PathBuf) -> io::Result<()> {
        let bytes = fs::read(&path)?;
        let readable = bytes.starts_with(HEADER);
        if !readable && bytes.starts_with(FAMILY) && bytes.len() >= HEADER.len() {
            let why = format!("{} has a form that this version does not know", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        self.segments.push_back(Segment { number, path, bytes: bytes.len() as u64, live: 0 });
        let mut end = if readable { HEADER.len() } else { 0 };
        if readable {
            for (place, frame) in frames(&bytes, HEADER.len()) {
                end = place.end;
                match frame {
                    Frame::Result(finished, _) => {
                        self.insert(LeaseKey::from(&finished), number, place.start as u64, place.len())
                    }
                    Frame::Forgotten(key) => self.drop_live(&key),
                }
            }
        }
        if end < bytes.len() {
            warn!(segment = number, at = end, "the journal is cut short; what came after was never acknowledged");
        }
        Ok(())
    }

    /// Appends what is in the batch. Once it has returned, the results in it survive a crash.
    ///
    /// # Errors
    /// Where any of it cannot be written: then none of its results are kept, and removals may be lost.
    pub(super) fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self.write_with(&mut buffer, batch);
        buffer.clear();
        buffer.shrink_to(SPARE);
        self.buffer = buffer;
        written?;
        if let Err(error) = self.tidy() {
            warn!(%error, "what is forgotten cannot be removed from the journal");
        }
        Ok(())
    }

    fn write_with(&mut self, buffer: &mut Vec<u8>, batch: &Batch) -> io::Result<()> {
        self.room()?;
        let (number, start) = self.newest();
        let mut results = false;
        let mut framed = Ok(());
        for change in &batch.changes {
            match change {
                Change::Result(key, place) => {
                    let at = start + buffer.len() as u64;
                    buffer.extend_from_slice(&batch.bytes[place.clone()]);
                    self.insert(key.clone(), number, at, place.len());
                    results = true;
                }
                Change::Forgotten(key) if self.live.contains_key(key) => {
                    framed = framed.and(put_forgotten(buffer, key).map(|_| ()));
                    self.drop_live(key);
                }
                // It is not there: its writing failed, or it was never asked for.
                Change::Forgotten(_) => {}
            }
        }
        let written = framed.and_then(|()| self.append(buffer, results));
        if written.is_err() {
            for change in &batch.changes {
                if let Change::Result(key, _) = change {
                    self.drop_live(key);
                }
            }
        }
        written
    }

    /// Appends bytes, which survive a crash afterwards where that is asked for.
    fn append(&mut self, bytes: &[u8], sync: bool) -> io::Result<()> {
        let (_, length) = self.newest();
        let written = self.file.write_all(bytes).and_then(|()| if sync { self.file.sync_data() } else { Ok(()) });
        match written {
            Ok(()) => {
                if let Some(newest) = self.segments.back_mut() {
                    newest.bytes += bytes.len() as u64;
                }
            }
            Err(_) => {
                self.broken = true;
                // What of it is there all the same would be told once more, and refused.
                let _ = self.file.set_len(length);
            }
        }
        written
    }

    /// Goes on to the next segment where the newest is full, or cannot be trusted.
    fn room(&mut self) -> io::Result<()> {
        let (number, bytes) = self.newest();
        if !self.broken && bytes < SEGMENT {
            return Ok(());
        }
        let (segment, file) = begin(&self.directory, number + 1)?;
        self.segments.push_back(segment);
        self.file = file;
        self.broken = false;
        Ok(())
    }

    /// The number and the length of the segment that is appended to.
    fn newest(&self) -> (u64, u64) {
        self.segments.back().map_or((0, 0), |segment| (segment.number, segment.bytes))
    }

    fn insert(&mut self, key: LeaseKey, segment: u64, at: u64, length: usize) {
        let old = self.live.insert(key, Place { segment, at, length });
        self.settle(old);
        self.live_bytes += length as u64;
        if let Some(segment) = self.segment(segment) {
            segment.live += 1;
        }
    }

    fn drop_live(&mut self, key: &LeaseKey) {
        let old = self.live.remove(key);
        self.settle(old);
    }

    fn settle(&mut self, old: Option<Place>) {
        let Some(place) = old else { return };
        self.live_bytes -= place.length as u64;
        if let Some(segment) = self.segment(place.segment) {
            segment.live -= 1;
        }
    }

    /// Numbers have no gaps but those that earlier removals left.
    fn segment(&mut self, number: u64) -> Option<&mut Segment> {
        let at = self.segments.binary_search_by_key(&number, |segment| segment.number).ok()?;
        self.segments.get_mut(at)
    }

    /// Removes segments that are not wanted, from the oldest on: the removals in a segment are of results in it or before it, so they are
    /// lost with it only when those are.
    fn tidy(&mut self) -> io::Result<()> {
        for _ in 0..self.segments.len() {
            let weight: u64 = self.segments.iter().map(Segment::weight).sum();
            let crowded = weight > 2 * self.live_bytes + SLACK;
            match self.segments.front() {
                Some(oldest) if self.segments.len() > 1 && oldest.live == 0 => {}
                Some(oldest) if self.segments.len() > 1 && crowded => {
                    let (number, path) = (oldest.number, oldest.path.clone());
                    self.carry_over(number, &path)?;
                }
                _ => return Ok(()),
            }
            if let Some(oldest) = self.segments.pop_front() {
                fs::remove_file(&oldest.path)?;
            }
        }
        Ok(())
    }

    /// Copies what is wanted of a segment to the newest, and waits until it is there for good: the segment is removed next.
    fn carry_over(&mut self, number: u64, path: &Path) -> io::Result<()> {
        self.room()?;
        let mut moved: Vec<(LeaseKey, Place)> = self
            .live
            .iter()
            .filter(|(_, place)| place.segment == number)
            .map(|(key, place)| (key.clone(), *place))
            .collect();
        moved.sort_by_key(|(_, place)| place.at);
        let mut bytes = Vec::new();
        let mut file = File::open(path)?;
        for (_, place) in &moved {
            read_into(&mut bytes, &mut file, place)?;
        }
        let (newest, mut at) = self.newest();
        self.append(&bytes, true)?;
        for (key, place) in moved {
            self.insert(key, newest, at, place.length);
            at += place.length as u64;
        }
        Ok(())
    }

    /// All results that are wanted, in order.
    pub(super) fn read(&self) -> io::Result<Vec<(Finished, Vec<LogChunk>)>> {
        let mut places: Vec<(&LeaseKey, &Place)> = self.live.iter().collect();
        places.sort_unstable_by_key(|(_, place)| (place.segment, place.at));
        let mut results = Vec::with_capacity(places.len());
        let mut open: Option<(u64, File)> = None;
        for (key, place) in places {
            if open.as_ref().is_none_or(|(number, _)| *number != place.segment) {
                open = Some((place.segment, File::open(path_of(&self.directory, place.segment))?));
            }
            let Some((_, file)) = &mut open else { continue };
            let mut bytes = Vec::new();
            read_into(&mut bytes, file, place)?;
            match frames(&bytes, 0).next() {
                Some((_, Frame::Result(finished, tail))) => results.push((key, finished, tail)),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the result of {key} is damaged"))),
            }
        }
        results.sort_unstable_by_key(|(key, ..)| *key);
        Ok(results.into_iter().map(|(_, finished, tail)| (finished, tail)).collect())
    }

    #[cfg(test)]
    pub(super) fn spoil(&mut self) {
        let (number, _) = self.newest();
        self.file = File::open(path_of(&self.directory, number)).expect("a file that cannot be written");
    }

    /// What is written seems to be, and cannot be made safe.
    #[cfg(test)]
    pub(super) fn lose(&mut self) {
        self.file = OpenOptions::new().write(true).open("/dev/null").expect("a file without a disk");
    }

    #[cfg(test)]
    pub(super) fn segments(&self) -> Vec<(u64, usize)> {
        self.segments.iter().map(|segment| (segment.number, segment.live)).collect()
    }
}

fn read_into(bytes: &mut Vec<u8>, file: &mut File, place: &Place) -> io::Result<()> {
    let start = bytes.len();
    bytes.resize(start + place.length, 0);
    file.seek(SeekFrom::Start(place.at))?;
    file.read_exact(&mut bytes[start..])
}

fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("results-{number:010}.log"))
}

/// The segments that are there, oldest first.
fn numbered(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("results-").and_then(|rest| rest.strip_suffix(".log"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes a segment that is there after a crash. Its header is on disk with the first result.
fn begin(directory: &Path, number: u64) -> io::Result<(Segment, File)> {
    let path = path_of(directory, number);
    let mut file = OpenOptions::new().create_new(true).append(true).open(&path)?;
    let begun = file.write_all(HEADER).and_then(|()| sync_directory_of(&path));
    if let Err(error) = begun {
        let _ = remove(&path);
        return Err(error);
    }
    Ok((Segment { number, path, bytes: HEADER.len() as u64, live: 0 }, file))
}
