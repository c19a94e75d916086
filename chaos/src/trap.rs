use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::Signal;
use tokio::sync::Notify;

use crate::process::Victim;

/// What happens to a write of a coordinator at the moment of its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// The connection is cut before PostgreSQL hears of the commit.
    CutBefore,
    /// The commit is done, and the connection is cut before the answer.
    CutAfter,
    /// The coordinator is killed before PostgreSQL hears of the commit.
    KillBefore,
    /// The commit is done, and the coordinator is killed before the answer.
    KillAfter,
}

/// A statement that writes, held up in the middle of its transaction.
#[derive(Debug, Default)]
struct Stall {
    /// At the write after this many others; none while it is not armed.
    others: Option<u32>,
    /// Or at every write with these words.
    words: Option<&'static str>,
    lasting: Duration,
}

#[derive(Debug, Default)]
enum Arming {
    #[default]
    Off,
    /// At the commit after this many others.
    Once { others: u32, deed: Deed },
    /// At one commit in so many.
    Often { one_in: u32, deeds: Vec<Deed>, rng: Box<StdRng> },
}

/// Waits at the commits of one coordinator: COMMIT itself, and the end of single statements that write.
#[derive(Debug, Default)]
pub struct Trap {
    arming: Mutex<Arming>,
    stall: Mutex<Stall>,
    sprung: AtomicU64,
    commits: AtomicU64,
    notify: Notify,
    victim: Victim,
}

impl Trap {
    /// A trap that is not armed, for the process that stands in `victim`.
    pub fn new(victim: Victim) -> Self {
        Self { victim, ..Self::default() }
    }

    /// Does this at one commit, after so many others.
    pub fn arm_once(&self, others: u32, deed: Deed) {
        self.arm(Arming::Once { others, deed });
    }

    /// Does one of these at one commit in so many.
    pub fn arm_often(&self, one_in: u32, deeds: Vec<Deed>, rng: StdRng) {
        self.arm(Arming::Often { one_in, deeds, rng: Box::new(rng) });
    }

    /// Holds one statement that writes up, after so many others.
    pub fn stall_once(&self, others: u32, lasting: Duration) {
        *self.stall.lock().unwrap_or_else(PoisonError::into_inner) =
            Stall { others: Some(others), words: None, lasting };
    }

    /// Holds every statement up that writes and has these words, in small letters.
    pub fn stall_all(&self, words: &'static str, lasting: Duration) {
        *self.stall.lock().unwrap_or_else(PoisonError::into_inner) =
            Stall { others: None, words: Some(words), lasting };
    }

    /// How long to hold up this statement, which writes.
    pub(crate) fn at_write(&self, text: &str) -> Option<Duration> {
        let mut stall = self.stall.lock().unwrap_or_else(PoisonError::into_inner);
        if stall.words.is_some_and(|words| text.contains(words)) {
            return Some(stall.lasting);
        }
        match stall.others? {
            0 => {
                stall.others = None;
                Some(stall.lasting)
            }
            others => {
                stall.others = Some(others - 1);
                None
            }
        }
    }

    /// Does nothing more.
    pub fn disarm(&self) {
        *self.stall.lock().unwrap_or_else(PoisonError::into_inner) = Stall::default();
        self.arm(Arming::Off);
    }

    fn arm(&self, arming: Arming) {
        *self.arming.lock().unwrap_or_else(PoisonError::into_inner) = arming;
    }

    /// How often it did something.
    pub fn sprung(&self) -> u64 {
        self.sprung.load(Ordering::SeqCst)
    }

    /// How many commits it has seen.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// Returns when it has done something, once for each.
    pub async fn springs(&self) {
        self.notify.notified().await;
    }

    /// What to do at this commit.
    pub(crate) fn at_commit(&self) -> Option<Deed> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        let mut arming = self.arming.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *arming {
            Arming::Off => None,
            Arming::Once { others, .. } if *others > 0 => {
                *others -= 1;
                None
            }
            Arming::Once { deed, .. } => {
                let deed = *deed;
                *arming = Arming::Off;
                Some(deed)
            }
            Arming::Often { one_in, deeds, rng } => {
                let chosen = rng.random_range(0..deeds.len().max(1));
                (rng.random_range(0..*one_in) == 0).then(|| deeds.get(chosen).copied()).flatten()
            }
        }
    }

    /// Says that a statement is held up.
    pub(crate) fn held(&self) {
        self.sprung.fetch_add(1, Ordering::SeqCst);
        self.notify.notify_one();
    }

    /// Kills the coordinator, where that is the deed, and says that it is done.
    pub(crate) fn done(&self, deed: Deed) {
        if matches!(deed, Deed::KillBefore | Deed::KillAfter) {
            self.victim.signal(Signal::KILL);
        }
        self.sprung.fetch_add(1, Ordering::SeqCst);
        self.notify.notify_one();
    }
}
