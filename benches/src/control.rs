//! The control: the relay as it is written without a thought for its price. One task per link reads
//! frame by frame, a channel carries each frame to the task that writes for the other link, every
//! field is a record and every frame a write. It is a correct relay of `gateway.node_route` with
//! credit from end to end, and nothing more: no quotas, no timers, no raw sockets.
//!
//! Runs as the program `astral-control`, on a current-thread runtime; the comparisons start it.

mod link;
mod wire;

use anyhow::Result;
use link::Link;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use waystation_astral::aead::AeadSuite;
use waystation_astral::identity::{Identity, SecretKey};

/// What the tasks of all links share.
#[derive(Debug)]
pub(crate) struct Relay {
    key: SecretKey,
    suite: AeadSuite,
    links: Mutex<HashMap<Identity, Arc<Link>>>,
}

/// Serves links, sealed by `suite`, until the process ends.
///
/// # Errors
///
/// When no connection can be accepted any more.
pub async fn serve(listener: TcpListener, key: SecretKey, suite: AeadSuite) -> Result<()> {
    let relay = Arc::new(Relay { key, suite, links: Mutex::default() });
    loop {
        let (stream, _) = listener.accept().await?;
        let relay = Arc::clone(&relay);
        // A link that fails takes nobody along.
        tokio::spawn(async move {
            let _ = serve_link(stream, &relay).await;
        });
    }
}

async fn serve_link(stream: TcpStream, relay: &Arc<Relay>) -> Result<()> {
    stream.set_nodelay(true)?;
    let (remote, mut incoming, outgoing) = wire::accept(stream, &relay.key, relay.suite).await?;
    let (link, writing) = Link::start(outgoing);
    relay.links.lock().insert(remote, Arc::clone(&link));
    let served = link.read_all(&mut incoming, relay).await;
    relay.links.lock().remove(&remote);
    link.reset_all().await;
    writing.abort();
    served
}

impl Relay {
    fn link_of(&self, identity: &Identity) -> Option<Arc<Link>> {
        self.links.lock().get(identity).map(Arc::clone)
    }
}
