//! The sockets of the DHT's node and of its signalling hub, bound before there are threads.
//!
//! Called once, by the program, as ports may be privileged ones. Daemons look for a hub at the TCP
//! port that has the number of the node's UDP port (specification §19.4), so where the kernel is to
//! choose one, it has to be free for both. Nothing is received or accepted here.

use crate::config::Config;
use crate::dht::limits::RECEIVE_BUFFER_BYTES;
use crate::hub::limits::LISTEN_BACKLOG;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

/// Ports of the kernel's choice that are tried before there is said to be none for both. Even where
/// half of all ports are taken, one of a million starts fails.
const PORT_TRIES_MAX: usize = 20;

/// What listens.
#[derive(Debug, Default)]
pub struct A2alSockets {
    /// The node's, in the order of `dht.listen`.
    pub dht: Vec<UdpSocket>,
    /// The hub's.
    pub hub: Vec<TcpListener>,
}

impl A2alSockets {
    /// Where the node listens, with the ports that the kernel gave.
    pub fn dht_addresses(&self) -> Vec<SocketAddr> {
        self.dht.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum A2alSocketsError {
    /// For datagrams of the DHT.
    #[error("cannot listen on {address} for the DHT: {source}")]
    Dht { address: SocketAddr, source: io::Error },
    /// For connections to the hub.
    #[error("cannot listen on {address}, over TCP, for the signalling hub: {source}")]
    Hub { address: SocketAddr, source: io::Error },
}

impl A2alSocketsError {
    /// What the kernel says.
    pub fn refusal(&self) -> &io::Error {
        match self {
            Self::Dht { source, .. } | Self::Hub { source, .. } => source,
        }
    }
}

/// Binds what the configuration wants: the node where it is enabled, and the hub at
/// [`Config::hub_addresses`].
///
/// # Errors
/// See [`A2alSocketsError`].
pub fn bind(config: &Config) -> Result<A2alSockets, A2alSocketsError> {
    bind_with(config, A2alSockets::default())
}

/// As [`bind`], with the sockets of another process where it has given some.
///
/// # Errors
/// See [`A2alSocketsError`].
pub fn bind_with(config: &Config, mut given: A2alSockets) -> Result<A2alSockets, A2alSocketsError> {
    let mut bound = A2alSockets::default();
    let hub = config.hub_addresses();
    let dht: &[SocketAddr] = if config.dht.enabled { &config.dht.listen } else { &[] };
    for address in dht {
        let is_for_both = address.port() == 0 && hub.contains(address);
        let taken = take(&mut given.dht, *address, UdpSocket::local_addr);
        if let Some((datagrams, at)) = taken {
            bound.dht.push(datagrams);
            if is_for_both {
                bound.hub.push(given_or_bound(&mut given.hub, at)?);
            }
        } else if is_for_both {
            let (datagrams, connections) = bind_both(*address)?;
            bound.dht.push(datagrams);
            bound.hub.push(connections);
        } else {
            bound.dht.push(datagrams_at(*address)?);
        }
    }
    for address in hub.iter().filter(|at| at.port() != 0 || !dht.contains(at)) {
        bound.hub.push(given_or_bound(&mut given.hub, *address)?);
    }
    Ok(bound)
}

fn given_or_bound(
    given: &mut Vec<TcpListener>,
    address: SocketAddr,
) -> Result<TcpListener, A2alSocketsError> {
    match take(given, address, TcpListener::local_addr) {
        Some((listener, _)) => Ok(listener),
        None => connections_at(address),
    }
}

/// One of another process's sockets that is on an address, or on its IP if the port is the kernel's
/// choice.
pub(crate) fn take<S>(
    given: &mut Vec<S>,
    wanted: SocketAddr,
    bound_to: impl Fn(&S) -> io::Result<SocketAddr>,
) -> Option<(S, SocketAddr)> {
    let is_it = |at: SocketAddr| {
        at.ip() == wanted.ip() && (wanted.port() == 0 || at.port() == wanted.port())
    };
    let found = given.iter().enumerate().find_map(|(place, socket)| {
        bound_to(socket).ok().filter(|at| is_it(*at)).map(|at| (place, at))
    });
    found.map(|(place, at)| (given.remove(place), at))
}

/// A port of the kernel's choice that is free for both. TCP comes first, as it has fewer free ones:
/// those of connections that have just ended count too.
fn bind_both(address: SocketAddr) -> Result<(UdpSocket, TcpListener), A2alSocketsError> {
    let mut tries = 0;
    loop {
        let connections = connections_at(address)?;
        let chosen = connections.local_addr();
        let chosen = chosen.map_err(|source| A2alSocketsError::Hub { address, source })?;
        tries += 1;
        match datagrams_at(chosen) {
            Ok(datagrams) => return Ok((datagrams, connections)),
            Err(error) if error.refusal().kind() != io::ErrorKind::AddrInUse => return Err(error),
            Err(error) if tries == PORT_TRIES_MAX => return Err(error),
            // Somebody else has the port for UDP; the kernel chooses at random.
            Err(_) => {}
        }
    }
}

fn datagrams_at(address: SocketAddr) -> Result<UdpSocket, A2alSocketsError> {
    let bound = || {
        let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
        // The kernel gives what it may; a smaller buffer drops more of a flood.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    bound().map_err(|source| A2alSocketsError::Dht { address, source })
}

fn connections_at(address: SocketAddr) -> Result<TcpListener, A2alSocketsError> {
    let bound = || {
        let socket = socket(address, Type::STREAM, Protocol::TCP)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        Ok(socket.into())
    };
    bound().map_err(|source| A2alSocketsError::Hub { address, source })
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // So that both families may be listened on at the same port.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dht: &[&str], hub: &[&str]) -> Config {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let mut config = Config::default();
        config.dht.enabled = true;
        config.dht.listen = addresses(dht);
        config.hub.listen = addresses(hub);
        config
    }

    fn ports(bound: &A2alSockets) -> (Vec<u16>, Vec<u16>) {
        let dht = bound.dht.iter().map(|socket| socket.local_addr().unwrap().port());
        let hub = bound.hub.iter().map(|socket| socket.local_addr().unwrap().port());
        (dht.collect(), hub.collect())
    }

    #[test]
    fn a_node_has_its_hub_at_the_same_ports() {
        let bound = bind(&config(&["127.0.0.1:0", "127.0.0.2:0"], &[])).unwrap();
        let (dht, hub) = ports(&bound);
        assert_eq!(dht.len(), 2);
        assert_eq!(dht, hub);
    }

    #[test]
    fn a_hub_may_be_elsewhere_or_nowhere() {
        let mut elsewhere = config(&["127.0.0.1:0"], &["127.0.0.2:0"]);
        let bound = bind(&elsewhere).unwrap();
        assert!(bound.hub[0].local_addr().unwrap().to_string().starts_with("127.0.0.2:"));
        elsewhere.hub.enabled = false;
        let bound = bind(&elsewhere).unwrap();
        assert_eq!((bound.dht.len(), bound.hub.len()), (1, 0));
        elsewhere.hub.enabled = true;
        elsewhere.dht.enabled = false;
        let bound = bind(&elsewhere).unwrap();
        assert_eq!((bound.dht.len(), bound.hub.len()), (0, 1));
        elsewhere.hub.listen.clear();
        let bound = bind(&elsewhere).unwrap();
        assert_eq!((bound.dht.len(), bound.hub.len()), (0, 0));
    }

    #[test]
    fn who_cannot_have_an_address_is_named() {
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = datagrams.local_addr().unwrap().to_string();
        let refused = bind(&config(&[&taken], &[])).unwrap_err();
        assert!(matches!(refused, A2alSocketsError::Dht { .. }), "{refused}");
        let connections = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = connections.local_addr().unwrap().to_string();
        // UDP may have that port elsewhere, so the hub is asked for alone.
        let mut config = config(&[], &[&taken]);
        config.dht.enabled = false;
        let refused = bind(&config).unwrap_err();
        assert!(matches!(refused, A2alSocketsError::Hub { .. }), "{refused}");
        assert!(refused.to_string().contains(&taken), "{refused}");
    }
}
