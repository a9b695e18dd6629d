//! The sockets that the cores listen with, as one process gives them to another.
//!
//! Used on the programs' main threads and by the management core, at an upgrade. Every core has a
//! socket of its own on each address. The next process's cores take the same ones, so that nothing
//! is lost that waits in them, and so that the kernel brings each client to the core that knows it.

use super::EngineError;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use waystation_turn::limits::NONCE_KEY_BYTES;
use zeroize::Zeroizing;

/// The sockets of one address, in the order of the cores.
#[derive(Debug)]
pub struct Listening<S> {
    /// The address as it was asked for: its port may be the kernel's choice.
    pub wanted: SocketAddr,
    pub sockets: Vec<S>,
}

/// Everything that is listened with.
#[derive(Debug, Default)]
pub struct ListeningSockets {
    pub links: Vec<Listening<TcpListener>>,
    pub turn_udp: Vec<Listening<UdpSocket>>,
    pub turn_tcp: Vec<Listening<TcpListener>>,
    /// What the TURN server's nonces are made with, if there is one.
    pub nonce_key: Option<Zeroizing<[u8; NONCE_KEY_BYTES]>>,
}

/// A socket that two processes can have.
pub trait Shared: Sized {
    /// One more descriptor of it.
    ///
    /// # Errors
    /// The kernel's refusal of a descriptor.
    fn share(&self) -> io::Result<Self>;

    /// Its own address.
    ///
    /// # Errors
    /// The kernel's refusal to tell.
    fn bound_to(&self) -> io::Result<SocketAddr>;
}

impl Shared for TcpListener {
    fn share(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn bound_to(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

impl Shared for UdpSocket {
    fn share(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn bound_to(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

impl<S: Shared> Listening<S> {
    /// One more descriptor of each socket.
    pub(super) fn share(&self) -> io::Result<Self> {
        let sockets = self.sockets.iter().map(Shared::share).collect::<io::Result<_>>()?;
        Ok(Self { wanted: self.wanted, sockets })
    }

    /// The address with the port that the kernel chose.
    pub(super) fn actual(&self) -> Result<SocketAddr, EngineError> {
        let address = self.wanted;
        let actual = self.sockets.first().map(Shared::bound_to).transpose();
        let actual = actual.map_err(|source| EngineError::Listen { address, source })?;
        Ok(actual.unwrap_or(address))
    }
}

impl ListeningSockets {
    /// One more descriptor of each socket.
    ///
    /// # Errors
    /// The kernel's refusal of a descriptor.
    pub fn share(&self) -> io::Result<Self> {
        fn all<S: Shared>(listening: &[Listening<S>]) -> io::Result<Vec<Listening<S>>> {
            listening.iter().map(Listening::share).collect()
        }
        Ok(Self {
            links: all(&self.links)?,
            turn_udp: all(&self.turn_udp)?,
            turn_tcp: all(&self.turn_tcp)?,
            nonce_key: self.nonce_key.clone(),
        })
    }
}

impl ListeningSockets {
    /// One more descriptor of each listener of one core: for links, and for TURN clients.
    ///
    /// # Errors
    /// The kernel's refusal of a descriptor.
    pub fn listeners_of(&self, core: usize) -> io::Result<[Vec<TcpListener>; 2]> {
        let of_core = |all: &[Listening<TcpListener>]| -> io::Result<Vec<TcpListener>> {
            let own = all.iter().filter_map(|listening| listening.sockets.get(core));
            own.map(TcpListener::try_clone).collect()
        };
        Ok([of_core(&self.links)?, of_core(&self.turn_tcp)?])
    }
}

/// Those of an address among what another process has given, if it has given one for each core.
pub(super) fn take<S>(
    given: &mut Vec<Listening<S>>,
    wanted: SocketAddr,
    cores: usize,
) -> Option<Listening<S>> {
    let is_it =
        |listening: &Listening<S>| listening.wanted == wanted && listening.sockets.len() == cores;
    let place = given.iter().position(is_it)?;
    Some(given.swap_remove(place))
}

/// Hands the sockets out: for each core those of all addresses, in order.
pub(super) fn by_core<S>(listening: Vec<Listening<S>>, cores: usize) -> Vec<Vec<S>> {
    let mut of_core: Vec<Vec<S>> = (0..cores).map(|_| Vec::new()).collect();
    for Listening { sockets, .. } in listening {
        for (list, socket) in of_core.iter_mut().zip(sockets) {
            list.push(socket);
        }
    }
    of_core
}
