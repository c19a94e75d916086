use std::collections::{BTreeMap, HashMap, VecDeque};

use chrono::{DateTime, Utc};
use orrery_proto::v1::{LogChunk, LogStream};

use super::{Budget, CHUNK, utf8};
use crate::worker::lease::LeaseKey;

/// The largest batch; well within what a coordinator takes as one message.
const BATCH: usize = 256 * 1024;
/// What a chunk costs beside its bytes, so that a flood of empty lines is bounded too.
pub(super) const OVERHEAD: usize = 128;

#[derive(Debug)]
pub(super) struct Inner {
    budget: Budget,
    pub(super) used: usize,
    pub(super) tasks: HashMap<LeaseKey, TaskLog>,
    /// Tasks with pending output, each once, in the order in which they are served.
    pub(super) ready: VecDeque<LeaseKey>,
    /// Ships at once instead of waiting for more: somebody waits for it, or a batch is full.
    pub(super) urgent: bool,
    /// Rises when all is dropped, so that a batch taken before is not counted after.
    generation: u64,
}

#[derive(Debug)]
pub(super) struct TaskLog {
    attempt: i32,
    left: u64,
    /// Bytes that are not told, for want of room or since they were refused.
    pub(super) dropped: u64,
    /// How many of them the note at the end names.
    noted: u64,
    /// The beginnings of characters whose rest has not come.
    tails: BTreeMap<LogStream, Vec<u8>>,
    pending: VecDeque<Piece>,
    /// Chunks taken in batches that are not acknowledged.
    flying: Vec<LogChunk>,
    /// Chunks taken so far; their numbers let the coordinator store one that is sent twice once.
    taken: u32,
    closed: bool,
}

#[derive(Debug)]
struct Piece {
    stream: LogStream,
    at: DateTime<Utc>,
    data: Vec<u8>,
    /// It is the note of what was dropped, and is written when it is taken.
    note: bool,
}

/// Chunks to send together.
#[derive(Debug, Clone)]
pub(in crate::worker) struct Batch {
    pub(in crate::worker) chunks: Vec<LogChunk>,
    /// The bytes of output in each of them.
    output: Vec<u64>,
    generation: u64,
}

impl Piece {
    fn chunk(self, key: &LeaseKey, attempt: i32, number: u32) -> LogChunk {
        LogChunk {
            execution_id: key.execution_id.text(),
            epoch: key.epoch,
            stream: self.stream.into(),
            at: Some(self.at.into()),
            data: self.data,
            attempt,
            number,
        }
    }
}

impl TaskLog {
    /// What is not acknowledged, as it is or will be sent, the newest of it that fits into `limit` bytes.
    fn tail(&self, key: &LeaseKey, limit: usize) -> Vec<LogChunk> {
        let waiting = self.pending.iter().zip(self.taken + 1..).map(|(piece, number)| {
            let dropped = || format!("{} bytes of output were dropped\n", self.dropped).into_bytes();
            let data = if piece.note { dropped() } else { piece.data.clone() };
            Piece { stream: piece.stream, at: piece.at, data, note: false }.chunk(key, self.attempt, number)
        });
        let mut all: Vec<LogChunk> = self.flying.iter().cloned().chain(waiting).collect();
        let mut size = 0;
        let fits = |chunk: &&LogChunk| {
            size += chunk.data.len() + OVERHEAD;
            size <= limit
        };
        let kept = all.iter().rev().take_while(fits).count();
        all.split_off(all.len() - kept)
    }

    /// Adds the note of what was dropped at the end, if that is more than an earlier one says.
    fn note(&mut self, at: DateTime<Utc>) -> bool {
        let wanted = self.dropped > self.noted;
        if wanted {
            self.pending.push_back(Piece { stream: LogStream::System, at, data: Vec::new(), note: true });
        }
        wanted
    }
}

impl Inner {
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, used: 0, tasks: HashMap::new(), ready: VecDeque::new(), urgent: false, generation: 0 }
    }

    pub(super) fn open(&mut self, key: &LeaseKey, attempt: i32) {
        let log = TaskLog {
            attempt,
            left: self.budget.attempt,
            dropped: 0,
            noted: 0,
            tails: BTreeMap::new(),
            pending: VecDeque::new(),
            flying: Vec::new(),
            taken: 0,
            closed: false,
        };
        self.tasks.insert(key.clone(), log);
    }

    pub(super) fn push(&mut self, key: &LeaseKey, stream: LogStream, data: &[u8], at: DateTime<Utc>) {
        let Some(log) = self.tasks.get_mut(key).filter(|log| !log.closed) else { return };
        let joined = log.tails.remove(&stream).map(|tail| [&tail, data].concat());
        let data = joined.as_deref().unwrap_or(data);
        let (mut rest, tail) = data.split_at(data.len() - utf8::incomplete(data));
        if !tail.is_empty() {
            log.tails.insert(stream, tail.to_vec());
        }
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(utf8::piece(rest, CHUNK));
            self.add(key, stream, piece, at);
            rest = after;
        }
    }

    /// Adds a piece of no more than a chunk.
    fn add(&mut self, key: &LeaseKey, stream: LogStream, data: &[u8], at: DateTime<Utc>) {
        let Some(log) = self.tasks.get_mut(key) else { return };
        let size = data.len() as u64;
        let joins = log.pending.back().is_some_and(|p| p.stream == stream && p.data.len() + data.len() <= CHUNK);
        let cost = data.len() + if joins { 0 } else { OVERHEAD };
        if size > log.left || self.used + cost > self.budget.buffer {
            log.dropped += size;
            return;
        }
        log.left -= size;
        self.used += cost;
        match log.pending.back_mut() {
            Some(last) if joins => last.data.extend_from_slice(data),
            _ => {
                if log.pending.is_empty() {
                    self.ready.push_back(key.clone());
                }
                log.pending.push_back(Piece { stream, at, data: data.to_vec(), note: false });
            }
        }
    }

    /// Whether nothing is left to ship.
    pub(super) fn close(&mut self, key: &LeaseKey, at: DateTime<Utc>) -> bool {
        let Some(log) = self.tasks.get_mut(key) else { return true };
        if log.closed {
            return false;
        }
        // What was cut short for good.
        for (stream, tail) in std::mem::take(&mut log.tails) {
            self.add(key, stream, &tail, at);
        }
        let Some(log) = self.tasks.get_mut(key) else { return true };
        log.closed = true;
        let idle = log.pending.is_empty();
        if log.note(at) {
            // Over the budget if need be: the note matters more than the rule.
            self.used += OVERHEAD;
            if idle {
                self.ready.push_back(key.clone());
            }
        }
        let empty = log.pending.is_empty() && log.flying.is_empty();
        if empty {
            self.tasks.remove(key);
        } else {
            self.urgent = true;
        }
        empty
    }

    /// See [`TaskLog::tail`].
    pub(super) fn tail(&self, key: &LeaseKey, limit: usize) -> Vec<LogChunk> {
        self.tasks.get(key).map(|log| log.tail(key, limit)).unwrap_or_default()
    }

    /// Takes up what an earlier process did not ship: of one attempt, in order.
    pub(super) fn restore(&mut self, chunk: LogChunk) {
        let key = LeaseKey::new(&chunk.execution_id, chunk.epoch);
        if !self.tasks.contains_key(&key) {
            self.open(&key, chunk.attempt);
            self.ready.push_back(key.clone());
        }
        let Some(log) = self.tasks.get_mut(&key) else { return };
        if log.pending.is_empty() {
            log.taken = chunk.number.saturating_sub(1);
            log.closed = true;
        }
        self.used += chunk.data.len() + OVERHEAD;
        let at = chunk.at.as_ref().and_then(|at| at.instant()).unwrap_or_default();
        log.pending.push_back(Piece { stream: chunk.stream(), at, data: chunk.data, note: false });
    }

    pub(super) fn discard(&mut self, key: &LeaseKey) {
        if let Some(log) = self.tasks.remove(key) {
            self.used -= log.pending.iter().map(|piece| piece.data.len() + OVERHEAD).sum::<usize>();
            self.ready.retain(|other| other != key);
        }
    }

    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.generation += 1;
        self.ready.clear();
        self.tasks.retain(|_, log| {
            log.pending.clear();
            log.tails.clear();
            log.flying.clear();
            !log.closed
        });
    }

    /// Goes round the tasks, a chunk of each at a time, so that a noisy one does not keep the others waiting.
    pub(super) fn take(&mut self) -> Option<Batch> {
        let mut batch = Batch { chunks: Vec::new(), output: Vec::new(), generation: self.generation };
        let mut size = 0;
        while size < BATCH {
            let Some(key) = self.ready.pop_front() else { break };
            let Some(log) = self.tasks.get_mut(&key) else { continue };
            let Some(mut piece) = log.pending.pop_front() else { continue };
            if !log.pending.is_empty() {
                self.ready.push_back(key.clone());
            }
            batch.output.push(piece.data.len() as u64);
            if piece.note {
                // Only now is it known what came of the batches before it.
                piece.data = format!("{} bytes of output were dropped\n", log.dropped).into_bytes();
                log.noted = log.dropped;
                self.used += piece.data.len();
            }
            log.taken += 1;
            size += piece.data.len();
            let chunk = piece.chunk(&key, log.attempt, log.taken);
            log.flying.push(chunk.clone());
            batch.chunks.push(chunk);
        }
        if self.ready.is_empty() {
            self.urgent = false;
        }
        (!batch.chunks.is_empty()).then_some(batch)
    }

    /// A batch is stored, or given up.
    pub(super) fn settle(&mut self, batch: &Batch, stored: bool, at: DateTime<Utc>) {
        if batch.generation != self.generation {
            return;
        }
        for (chunk, output) in batch.chunks.iter().zip(&batch.output) {
            self.used = self.used.saturating_sub(chunk.data.len() + OVERHEAD);
            let key = LeaseKey::new(&chunk.execution_id, chunk.epoch);
            let Some(log) = self.tasks.get_mut(&key) else { continue };
            log.flying.retain(|flying| flying.number != chunk.number);
            if !stored {
                log.dropped += output;
            }
            if !log.closed || !log.flying.is_empty() || !log.pending.is_empty() {
                continue;
            }
            if log.note(at) {
                self.used += OVERHEAD;
                self.urgent = true;
                self.ready.push_back(key);
            } else {
                self.tasks.remove(&key);
            }
        }
    }
}
