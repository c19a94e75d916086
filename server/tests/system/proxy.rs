use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A way to an address that can be cut.
pub(crate) struct Proxy {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    /// Whether it is whole.
    whole: watch::Sender<bool>,
    /// How often what was under way has been frozen.
    frozen: watch::Sender<u32>,
    serving: JoinHandle<()>,
}

impl Proxy {
    /// A way to `origin`, such as `http://127.0.0.1:50051`.
    pub(crate) async fn to(origin: &str) -> Self {
        let target = Arc::new(Mutex::new(address_of(origin)));
        let current = target.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (whole, state) = watch::channel(true);
        let (frozen, ice) = watch::channel(0);
        let serving = tokio::spawn(async move {
            loop {
                let Ok((caller, _)) = listener.accept().await else { continue };
                let target = *current.lock().unwrap();
                tokio::spawn(carry(caller, target, state.clone(), ice.clone()));
            }
        });
        Self { address, target, whole, frozen, serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends all connections, and takes no more.
    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// New connections lead to another address.
    pub(crate) fn lead_to(&self, origin: &str) {
        *self.target.lock().unwrap() = address_of(origin);
    }

    /// Connections that there are carry nothing any more and stay open, as those of a host that is gone; new ones are carried.
    pub(crate) fn freeze(&self) {
        self.frozen.send_modify(|times| *times += 1);
    }

    pub(crate) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn address_of(origin: &str) -> SocketAddr {
    origin.strip_prefix("http://").unwrap().parse().unwrap()
}

async fn carry(
    mut caller: TcpStream,
    target: SocketAddr,
    mut state: watch::Receiver<bool>,
    mut frozen: watch::Receiver<u32>,
) {
    frozen.mark_unchanged();
    if !*state.borrow_and_update() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let is_frozen = tokio::select! {
        _ = copy_bidirectional(&mut caller, &mut server) => false,
        _ = state.wait_for(|whole| !whole) => false,
        changed = frozen.changed() => changed.is_ok(),
    };
    if is_frozen {
        let _ = state.wait_for(|whole| !whole).await;
    }
}
