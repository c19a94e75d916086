use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::error::{Result, Tried};
use crate::pgwire;
use crate::trap::Trap;

/// What a link does to what passes over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing.
    Pass,
    /// Takes connections and bytes, and passes neither on. What it has taken goes on once it is healed, as after lost packets.
    Drop,
    /// Passes on only what goes to the target.
    OnlyThere,
    /// Passes on only what comes from the target.
    OnlyBack,
    /// Passes everything on this much later.
    Delay(Duration),
    /// Passes on a kilobyte each tenth of a second.
    Slow,
    /// Ends all connections by a reset, and takes no more.
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    There,
    Back,
}

impl Rule {
    fn lets(self, way: Way) -> bool {
        match self {
            Self::Drop => false,
            Self::OnlyThere => way == Way::There,
            Self::OnlyBack => way == Way::Back,
            _ => true,
        }
    }
}

/// Where a link leads.
#[derive(Clone, Debug)]
pub enum Target {
    /// A program on this host.
    Tcp(SocketAddr),
    /// A program with a socket in the file system.
    Unix(PathBuf),
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Target {
    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Unix(socket) => Box::new(UnixStream::connect(socket).await?),
        })
    }
}

/// An address of its own that leads to another one, as well as its rule lets it.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    rule: watch::Sender<Rule>,
    target: Arc<Mutex<Option<Target>>>,
    busy: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

/// What a connection of a link works with.
#[derive(Clone)]
struct Passage {
    rule: watch::Receiver<Rule>,
    target: Arc<Mutex<Option<Target>>>,
    trap: Option<Arc<Trap>>,
    busy: Arc<AtomicUsize>,
}

/// Counts a connection while it lasts.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Link {
    /// A link to a target, or to none yet. With a trap it reads PostgreSQL's protocol.
    ///
    /// # Errors
    /// Where no address is to be had.
    pub async fn open(target: Option<Target>, trap: Option<Arc<Trap>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.tried(|| "listening".into())?;
        let address = listener.local_addr().tried(|| "listening".into())?;
        let target = Arc::new(Mutex::new(target));
        let (rule, rules) = watch::channel(Rule::Pass);
        let busy: Arc<AtomicUsize> = Arc::default();
        let passage = Passage { rule: rules, target: target.clone(), trap, busy: busy.clone() };
        let serving = tokio::spawn(async move {
            loop {
                if let Ok((caller, _)) = listener.accept().await {
                    tokio::spawn(passage.clone().carry(caller));
                }
            }
        });
        Ok(Self { address, rule, target, busy, serving })
    }

    /// Its own address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For clients of gRPC.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Leads new connections elsewhere.
    pub fn lead_to(&self, target: Target) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
    }

    /// Whether there are connections.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst) > 0
    }

    /// Does this from now on, to connections that there are too.
    pub fn set(&self, rule: Rule) {
        self.rule.send_replace(rule);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Passage {
    async fn carry(mut self, caller: TcpStream) {
        let _ = caller.set_nodelay(true);
        let _busy = Busy::new(&self.busy);
        let (mut rules, mut healed) = (self.rule.clone(), self.rule.clone());
        let reset = async {
            let _ = rules.wait_for(|rule| *rule == Rule::Reset).await;
        };
        let open = async {
            let _ = healed.wait_for(|rule| rule.lets(Way::There) && rule.lets(Way::Back)).await;
        };
        // What ends a connection ends it hard: nothing of it is delivered later.
        tokio::select! {
            () = reset => hang_up(&caller),
            () = open => {
                let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let Some(target) = target else { return };
                let Ok(origin) = target.connect().await else { return hang_up(&caller) };
                self.join(caller, origin).await;
            }
        }
    }

    async fn join(&mut self, caller: TcpStream, origin: Box<dyn Stream>) {
        let mut rules = self.rule.clone();
        let there = Gate { rule: self.rule.clone(), way: Way::There };
        let back = Gate { rule: self.rule.clone(), way: Way::Back };
        let mut caller = caller;
        let is_cut = {
            let reset = async {
                let _ = rules.wait_for(|rule| *rule == Rule::Reset).await;
            };
            let (origin_read, origin_write) = split(origin);
            let (caller_read, caller_write) = caller.split();
            tokio::select! {
                () = reset => true,
                is_cut = async {
                    match &self.trap {
                        Some(trap) => {
                            pgwire::carry((caller_read, caller_write), (origin_read, origin_write), (there, back), trap).await
                        }
                        None => {
                            tokio::select! {
                                () = pump(caller_read, origin_write, there) => {}
                                () = pump(origin_read, caller_write, back) => {}
                            }
                            false
                        }
                    }
                } => is_cut,
            }
        };
        if is_cut {
            hang_up(&caller);
        }
    }
}

/// The end by reset.
fn hang_up(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

/// One direction of a connection.
pub(crate) struct Gate {
    rule: watch::Receiver<Rule>,
    way: Way,
}

impl Gate {
    /// Returns once this much may pass.
    pub(crate) async fn pass(&mut self, bytes: usize) {
        let way = self.way;
        let rule = match self.rule.wait_for(|rule| rule.lets(way)).await {
            Ok(rule) => *rule,
            Err(_) => return,
        };
        match rule {
            Rule::Delay(delay) => sleep(delay).await,
            Rule::Slow => {
                let tenths = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
                sleep(Duration::from_millis(100) * tenths).await;
            }
            _ => return,
        }
        // It may have been cut meanwhile.
        let _ = self.rule.wait_for(|rule| rule.lets(way)).await;
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut gate: Gate) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        if count == 0 {
            return;
        }
        gate.pass(count).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
