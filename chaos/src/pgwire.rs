//! As much of PostgreSQL's protocol as it takes to stand at a commit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::proxy::Gate;
use crate::trap::{Deed, Trap};

/// One message: its type, 0 for the first of a connection, and all of its bytes.
struct Frame {
    kind: u8,
    bytes: Vec<u8>,
}

impl Frame {
    async fn read(from: &mut (impl AsyncRead + Unpin), has_kind: bool) -> std::io::Result<Self> {
        let mut bytes = vec![0; if has_kind { 5 } else { 4 }];
        from.read_exact(&mut bytes).await?;
        let kind = if has_kind { bytes[0] } else { 0 };
        let mut length = [0; 4];
        length.copy_from_slice(&bytes[bytes.len() - 4..]);
        let rest = (u32::from_be_bytes(length) as usize).saturating_sub(4);
        let begin = bytes.len();
        bytes.resize(begin + rest, 0);
        from.read_exact(&mut bytes[begin..]).await?;
        Ok(Self { kind, bytes })
    }

    /// The texts that end with a zero byte, from the beginning.
    fn texts(&self) -> impl Iterator<Item = String> + '_ {
        self.bytes
            .get(5..)
            .unwrap_or_default()
            .split(|b| *b == 0)
            .map(|text| String::from_utf8_lossy(text).into_owned())
    }
}

/// What is known of a connection from what the client has said.
#[derive(Default)]
struct Conversation {
    in_transaction: bool,
    /// The prepared statements that write, by name.
    writes: HashMap<String, String>,
    /// The one that runs at the next Sync.
    writing: Option<String>,
}

impl Conversation {
    /// The statement that writes, and that this message lets run.
    fn writes_now(&self, frame: &Frame) -> Option<&str> {
        self.writing.as_deref().filter(|_| frame.kind == b'S')
    }

    /// Whether this message commits something.
    fn commits(&mut self, frame: &Frame) -> bool {
        match frame.kind {
            b'Q' => {
                let text = frame.texts().next().unwrap_or_default();
                let commits = text == "COMMIT";
                if text.starts_with("BEGIN") {
                    self.in_transaction = true;
                } else if commits || text == "ROLLBACK" {
                    self.in_transaction = false;
                }
                commits
            }
            b'P' => {
                let mut texts = frame.texts();
                let name = texts.next().unwrap_or_default();
                let query = texts.next().unwrap_or_default().to_lowercase();
                if ["insert into", "update ", "delete from"].iter().any(|word| query.contains(word)) {
                    self.writes.insert(name, query);
                } else {
                    self.writes.remove(&name);
                }
                false
            }
            b'B' => {
                let name = frame.texts().nth(1).unwrap_or_default();
                self.writing = self.writes.get(&name).cloned().or(self.writing.take());
                false
            }
            b'S' => self.writing.take().is_some() && !self.in_transaction,
            _ => false,
        }
    }
}

/// What both directions know of a cut under way.
#[derive(Default)]
struct Cut {
    /// The answer of PostgreSQL goes nowhere.
    mute: AtomicBool,
    answered: Notify,
}

type Ends<R, W> = (R, W);

/// Carries one connection. Whether it is to be cut hard.
pub(crate) async fn carry(
    caller: Ends<impl AsyncRead + Unpin, impl AsyncWrite + Unpin>,
    origin: Ends<impl AsyncRead + Unpin, impl AsyncWrite + Unpin>,
    gates: (Gate, Gate),
    trap: &Trap,
) -> bool {
    let cut = Cut::default();
    tokio::select! {
        is_cut = there(caller.0, origin.1, gates.0, trap, &cut) => is_cut.unwrap_or(false),
        _ = back(origin.0, caller.1, gates.1, &cut) => false,
    }
}

async fn there(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut gate: Gate,
    trap: &Trap,
    cut: &Cut,
) -> std::io::Result<bool> {
    let mut conversation = Conversation::default();
    let mut has_kind = false;
    loop {
        let frame = Frame::read(&mut from, has_kind).await?;
        has_kind = true;
        gate.pass(frame.bytes.len()).await;
        if let Some(lasting) = conversation.writes_now(&frame).and_then(|text| trap.at_write(text)) {
            trap.held();
            sleep(lasting).await;
        }
        let deed = if conversation.commits(&frame) { trap.at_commit() } else { None };
        if let Some(deed) = deed {
            if matches!(deed, Deed::CutAfter | Deed::KillAfter) {
                cut.mute.store(true, Ordering::SeqCst);
                to.write_all(&frame.bytes).await?;
                cut.answered.notified().await;
            }
            trap.done(deed);
            return Ok(true);
        }
        to.write_all(&frame.bytes).await?;
    }
}

async fn back(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut gate: Gate,
    cut: &Cut,
) -> std::io::Result<()> {
    loop {
        let frame = Frame::read(&mut from, true).await?;
        if cut.mute.load(Ordering::SeqCst) {
            // Ready for the next query: what was asked is done.
            if frame.kind == b'Z' {
                cut.answered.notify_one();
                std::future::pending::<()>().await;
            }
            continue;
        }
        gate.pass(frame.bytes.len()).await;
        to.write_all(&frame.bytes).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Frame {
        let mut bytes = vec![kind];
        bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend(body);
        Frame { kind, bytes }
    }

    #[test]
    fn a_commit_is_seen_and_so_is_a_single_write() {
        let mut said = Conversation::default();
        let mut commits = |kind: u8, body: &[u8]| said.commits(&frame(kind, body));
        assert!(!commits(b'Q', b"BEGIN\0"));
        assert!(!commits(b'P', b"s1\0update jobs set a = 1\0\0\0"));
        assert!(!commits(b'B', b"\0s1\0"));
        assert!(!commits(b'S', b""), "it is in a transaction");
        assert!(commits(b'Q', b"COMMIT\0"));
        assert!(!commits(b'B', b"\0s1\0"));
        assert!(commits(b'S', b""), "it stands alone");
        assert!(!commits(b'P', b"s2\0select 1\0\0\0"));
        assert!(!commits(b'B', b"\0s2\0"));
        assert!(!commits(b'S', b""), "it reads");
    }

    #[tokio::test]
    async fn a_message_is_read_whole() {
        let sent = frame(b'Q', b"COMMIT\0");
        let mut bytes = sent.bytes.as_slice();
        let read = Frame::read(&mut bytes, true).await.unwrap();
        assert_eq!((read.kind, &read.bytes), (b'Q', &sent.bytes));
        assert_eq!(read.texts().next().as_deref(), Some("COMMIT"));
    }
}
