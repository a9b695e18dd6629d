//! The next process's first questions, before it has any thread.
//!
//! Called by the program on its main thread. What comes of it are the sockets to bind with, and the
//! conversation, which the management core goes on with once its cores wait.

use super::{ANSWER_TIMEOUT, Ask, Channel, ChannelError, Message, Offer, Role, VERSION, socket_of};
use crate::a2al_sockets::A2alSockets;
use rustix::process::geteuid;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use waystation_astral::identity::Identity;
use waystation_engine::cores::{Listening, ListeningSockets};
use zeroize::Zeroizing;

/// Why nothing is handed over. The running program goes on as if nobody had asked.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// There is nobody to take over from.
    #[error("nobody hands over at {}: {source}", path.display())]
    Nobody { path: PathBuf, source: io::Error },
    /// Somebody else's program.
    #[error("user {uid}, whose program is at {}, is neither this one nor root", path.display())]
    Stranger { path: PathBuf, uid: u32 },
    /// This process has no means to talk.
    #[error("cannot ask for a hand-over: {0}")]
    Start(#[source] io::Error),
    /// The conversation failed.
    #[error("nothing is handed over: {0}")]
    Failed(#[from] ChannelError),
}

/// What the running program listens with.
#[derive(Debug, Default)]
pub struct Given {
    pub listening: ListeningSockets,
    pub metrics: Vec<TcpListener>,
    pub a2al: A2alSockets,
}

/// A hand-over under way. Dropped, it has not taken place.
#[derive(Debug)]
pub struct TakeOver {
    /// Of the running program.
    pub program: String,
    /// Whether a service manager waits for its signs of life.
    pub is_watched: bool,
    stream: std::os::unix::net::UnixStream,
}

impl TakeOver {
    /// Goes on with the conversation, inside a runtime.
    pub(crate) fn channel(self) -> io::Result<Channel> {
        Ok(Channel::new(UnixStream::from_std(self.stream)?))
    }
}

/// Asks the program with this stats socket to hand over to a process with so many cores. It is to
/// go on for `drain` at most with what stays.
///
/// # Errors
/// See [`HandOverError`].
pub fn ask(
    stats_socket: &Path,
    identity: &Identity,
    cores: usize,
    drain: Duration,
) -> Result<(Given, TakeOver), HandOverError> {
    let path = socket_of(stats_socket);
    // It is gone when this returns, and makes no thread.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(HandOverError::Start)?;
    runtime.block_on(async {
        let connected = UnixStream::connect(&path).await;
        let stream =
            connected.map_err(|source| HandOverError::Nobody { path: path.clone(), source })?;
        let uid = stream.peer_cred().map_err(HandOverError::Start)?.uid();
        if uid != 0 && uid != geteuid().as_raw() {
            return Err(HandOverError::Stranger { path: path.clone(), uid });
        }
        let mut channel = Channel::new(stream);
        let ask = Ask {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            identity: identity.to_string(),
            cores,
            drain_ms: u64::try_from(drain.as_millis()).unwrap_or(u64::MAX),
        };
        channel.send(&Message::Ask(ask), &[], ANSWER_TIMEOUT).await?;
        let (message, descriptors) = channel.receive(ANSWER_TIMEOUT).await?;
        let offer = match message {
            Message::Offer(offer) => offer,
            Message::Refusal(why) => return Err(ChannelError::Refused(why).into()),
            other => return Err(ChannelError::unexpected(&other, "an offer").into()),
        };
        let given = sort(&offer, descriptors)?;
        let stream = channel.into_stream().into_std().map_err(HandOverError::Start)?;
        let (program, is_watched) = (offer.program.clone(), offer.is_watched);
        Ok((given, TakeOver { program, is_watched, stream }))
    })
}

/// Makes sockets of descriptors.
fn sort(offer: &Offer, descriptors: Vec<OwnedFd>) -> Result<Given, ChannelError> {
    let count: usize = offer.groups.iter().map(|group| group.sockets).sum();
    if count != descriptors.len() {
        let said = format!("{count} sockets with {} descriptors", descriptors.len());
        return Err(ChannelError::Unexpected { said, wanted: "as many of both" });
    }
    let mut given = Given::default();
    given.listening.nonce_key = offer.nonce_key.map(Zeroizing::new);
    let mut descriptors = descriptors.into_iter();
    for group in &offer.groups {
        let of_group = descriptors.by_ref().take(group.sockets);
        match group.role {
            Role::Links => given.listening.links.push(listening(group.wanted, of_group)),
            Role::TurnTcp => given.listening.turn_tcp.push(listening(group.wanted, of_group)),
            Role::TurnUdp => given.listening.turn_udp.push(listening(group.wanted, of_group)),
            Role::Metrics => given.metrics.extend(of_group.map(TcpListener::from)),
            Role::Dht => given.a2al.dht.extend(of_group.map(UdpSocket::from)),
            Role::Hub => given.a2al.hub.extend(of_group.map(TcpListener::from)),
        }
    }
    Ok(given)
}

fn listening<S: From<OwnedFd>>(
    wanted: SocketAddr,
    descriptors: impl Iterator<Item = OwnedFd>,
) -> Listening<S> {
    Listening { wanted, sockets: descriptors.map(S::from).collect() }
}
