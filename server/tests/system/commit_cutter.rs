//! A way to PostgreSQL that breaks at COMMIT.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What the connection's end does to the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// PostgreSQL has committed, and its answer is lost.
    Committed,
    /// It never hears of the COMMIT.
    NotCommitted,
    /// It hears of it, and of the end of the connection at once.
    Either,
}

/// A proxy that carries everything, and ends a connection at its COMMIT when it is told to.
pub(crate) struct CommitCutter {
    address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// COMMITs seen.
    seen: AtomicUsize,
    cuts: AtomicUsize,
    /// Every so many COMMITs one is cut; 0: none.
    every: AtomicUsize,
    /// What the next cut is; 3: each in turn.
    kind: AtomicUsize,
    /// Whether with the next cut all connections end.
    is_last: AtomicBool,
    end: Notify,
}

const KINDS: [Cut; 3] = [Cut::Committed, Cut::NotCommitted, Cut::Either];

impl CommitCutter {
    /// A way to the server at this address of the form postgres://USER@HOST:PORT/DATABASE.
    pub(crate) async fn to(url: &str) -> Self {
        let (_, rest) = url.split_once('@').expect("postgres://USER@HOST:PORT/DATABASE");
        let target: SocketAddr = rest.split('/').next().unwrap().replace("localhost", "127.0.0.1").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        let shared = state.clone();
        let serving = tokio::spawn(async move {
            loop {
                let Ok((caller, _)) = listener.accept().await else { continue };
                tokio::spawn(carry(caller, target, shared.clone()));
            }
        });
        Self { address, state, serving }
    }

    /// The same database, by this way.
    pub(crate) fn url(&self, url: &str) -> String {
        let (scheme, rest) = url.split_once('@').unwrap();
        let (_, database) = rest.split_once('/').unwrap();
        format!("{scheme}@{}/{database}", self.address)
    }

    /// Cuts every `every`th COMMIT from now on, in all ways by turns; 0: no more.
    #[allow(dead_code)]
    pub(crate) fn cut_every(&self, every: usize) {
        self.state.kind.store(KINDS.len(), Ordering::SeqCst);
        self.state.every.store(every, Ordering::SeqCst);
    }

    /// Cuts the next COMMIT in this way, and no other.
    #[allow(dead_code)]
    pub(crate) fn cut_next(&self, cut: Cut) {
        self.state.kind.store(KINDS.iter().position(|kind| *kind == cut).unwrap(), Ordering::SeqCst);
        self.state.every.store(1, Ordering::SeqCst);
    }

    /// Takes no more connections; with the next cut all others end too.
    #[allow(dead_code)]
    pub(crate) fn stay_away(&self) {
        self.serving.abort();
        self.state.is_last.store(true, Ordering::SeqCst);
    }

    /// How many it has cut.
    pub(crate) fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for CommitCutter {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl State {
    /// What is to become of this COMMIT.
    fn verdict(&self) -> Option<Cut> {
        let number = self.seen.fetch_add(1, Ordering::SeqCst);
        let every = self.every.load(Ordering::SeqCst);
        if every == 0 || !number.is_multiple_of(every) {
            return None;
        }
        let kind = self.kind.load(Ordering::SeqCst);
        let cuts = self.cuts.fetch_add(1, Ordering::SeqCst);
        if self.is_last.load(Ordering::SeqCst) {
            self.end.notify_waiters();
        }
        if kind < KINDS.len() {
            self.every.store(0, Ordering::SeqCst);
        }
        Some(KINDS[if kind < KINDS.len() { kind } else { cuts % KINDS.len() }])
    }
}

/// Statements that are transactions of their own and write executions: PostgreSQL commits them when it reads the Sync behind them.
#[derive(Default)]
struct Implicit {
    /// Names of prepared ones.
    names: HashSet<Vec<u8>>,
    is_bound: bool,
}

impl Implicit {
    /// Whether PostgreSQL commits one of them at this message.
    fn ends(&mut self, kind: u8, body: &[u8]) -> bool {
        let mut texts = body.split(|byte| *byte == 0);
        match kind {
            b'P' => {
                let (name, query) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
                let query = String::from_utf8_lossy(query);
                if query.contains("with job as") && query.contains("insert into live_executions") {
                    self.names.insert(name.to_vec());
                }
            }
            b'B' => self.is_bound = texts.nth(1).is_some_and(|name| self.names.contains(name)),
            b'S' => return std::mem::take(&mut self.is_bound),
            _ => {}
        }
        false
    }
}

async fn carry(caller: TcpStream, target: SocketAddr, state: Arc<State>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Messages are carried one by one, and none is to wait for the one before it.
    caller.set_nodelay(true).and(server.set_nodelay(true)).unwrap();
    let (from_caller, mut to_caller) = caller.into_split();
    let (mut from_server, to_server) = server.into_split();
    let cut = {
        let answers = copy(&mut from_server, &mut to_caller);
        tokio::select! {
            _ = answers => None,
            () = state.end.notified() => None,
            cut = pass(from_caller, to_server, &state) => cut,
        }
    };
    // While the answer is not carried, it is waited for: once it has come, the transaction has been committed.
    if let Some(_open) = cut {
        let _ = from_server.read(&mut [0; 1]).await;
    }
}

/// Carries what the caller says until it ends or is cut. Where the answer is to be waited for, the way to the server stays open.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) -> Option<OwnedWriteHalf> {
    let mut is_begun = false;
    let mut implicit = Implicit::default();
    loop {
        // The first messages of a connection have no letter: a wish for encryption (which is refused), and the beginning.
        let mut message = if is_begun { vec![from.read_u8().await.ok()?] } else { Vec::new() };
        let length = from.read_u32().await.ok()?;
        message.extend(length.to_be_bytes());
        let start = message.len();
        message.resize(start + usize::try_from(length).unwrap() - 4, 0);
        from.read_exact(&mut message[start..]).await.ok()?;
        if !is_begun {
            const ENCRYPTION: [u8; 4] = 80_877_103_u32.to_be_bytes();
            is_begun = message[start..] != ENCRYPTION;
        } else if implicit.ends(message[0], &message[start..]) || message[0] == b'Q' && &message[start..] == b"COMMIT\0"
        {
            match state.verdict() {
                None => {}
                Some(Cut::NotCommitted) => return None,
                Some(cut) => {
                    to.write_all(&message).await.ok()?;
                    return (cut == Cut::Committed).then_some(to);
                }
            }
        }
        to.write_all(&message).await.ok()?;
    }
}
