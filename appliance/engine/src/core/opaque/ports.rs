//! The sockets of the ports that sessions are reached at: open while a leg needs them.
//!
//! Part of a core's opaque sessions, on its thread. A port has a socket on each of the addresses,
//! which are at most one of each family, and belongs to one core alone.

use crate::port::datagrams::{DatagramKey, Role, Sockets, bind};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use waystation_relay::udp::LocalPort;

/// A port of this machine that the kernel does not give.
#[derive(Debug, thiserror::Error)]
#[error("port {port} cannot be had on {address}: {source}")]
pub struct PortError {
    /// Which.
    pub port: LocalPort,
    /// On which address.
    pub address: IpAddr,
    /// The kernel's refusal.
    pub source: io::Error,
}

/// The sockets of one port: of IPv4, and of IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SocketsOfPort([Option<DatagramKey>; 2]);

impl SocketsOfPort {
    /// The one that an address is sent to from.
    pub(super) fn to(&self, end: SocketAddr) -> Option<DatagramKey> {
        self.0[usize::from(end.is_ipv6())]
    }

    fn iter(&self) -> impl Iterator<Item = DatagramKey> {
        self.0.into_iter().flatten()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ports {
    addresses: Vec<IpAddr>,
    open: BTreeMap<LocalPort, OpenPort>,
    /// By the place of a socket.
    owners: Vec<Option<LocalPort>>,
    /// Sockets of another process, which are taken instead of new ones, by what they are bound to.
    inherited: BTreeMap<(LocalPort, IpAddr), UdpSocket>,
}

#[derive(Debug)]
struct OpenPort {
    sockets: SocketsOfPort,
    legs: u32,
}

impl Ports {
    pub(super) fn new(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, open: BTreeMap::new(), owners: Vec::new(), inherited: BTreeMap::new() }
    }

    /// Takes these sockets for the ports that are opened next, and forgets others that were given.
    pub(super) fn inherit(&mut self, sockets: Vec<(LocalPort, UdpSocket)>) {
        let bound = sockets.into_iter().filter_map(|(port, socket)| {
            // One that is bound to nothing is no session's.
            let address = socket.local_addr().ok()?.ip();
            Some(((port, address), socket))
        });
        self.inherited = bound.collect();
    }

    /// One more descriptor of each socket, for another process, but for those that it has been given
    /// already. They count as given from then on.
    pub(super) fn share(
        &self,
        sockets: &Sockets,
        given: &mut BTreeMap<LocalPort, SocketsOfPort>,
    ) -> io::Result<Vec<(LocalPort, UdpSocket)>> {
        let mut shared = Vec::new();
        let before = std::mem::take(given);
        for (port, open) in &self.open {
            given.insert(*port, open.sockets);
            if before.get(port) == Some(&open.sockets) {
                continue;
            }
            for key in open.sockets.iter() {
                shared.extend(sockets.share(key)?.map(|socket| (*port, socket)));
            }
        }
        Ok(shared)
    }

    /// The address of a family that the ports are on; unspecified: on all there are.
    pub(super) fn address_of_family(&self, is_ipv6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv6() == is_ipv6)
    }

    /// The port at an address of ours, and its socket there.
    pub(super) fn at(&self, local: SocketAddr) -> Option<(DatagramKey, LocalPort)> {
        let address = self.address_of_family(local.is_ipv6())?;
        let is_there = address == local.ip() || address.is_unspecified();
        let port = LocalPort(local.port());
        let open = self.open.get(&port).filter(|_| is_there)?;
        Some((open.sockets.to(local)?, port))
    }

    /// Whether ports are on all addresses of a family.
    pub(super) fn is_on_all_addresses(&self, is_ipv6: bool) -> bool {
        self.address_of_family(is_ipv6).is_some_and(|address| address.is_unspecified())
    }

    /// The port of a socket.
    pub(super) fn of(&self, key: DatagramKey) -> Option<LocalPort> {
        *self.owners.get(key.slot as usize)?
    }

    /// The sockets of a port for one more leg, opened if it is the first.
    pub(super) fn take(
        &mut self,
        port: LocalPort,
        sockets: &mut Sockets,
    ) -> Result<SocketsOfPort, PortError> {
        if let Some(open) = self.open.get_mut(&port) {
            open.legs += 1;
            return Ok(open.sockets);
        }
        let mut opened = SocketsOfPort::default();
        for address in self.addresses.clone() {
            let inherited = self.inherited.remove(&(port, address));
            match open(address, port, inherited, sockets) {
                Ok(key) => {
                    opened.0[usize::from(address.is_ipv6())] = key;
                    if let Some(key) = key {
                        own(&mut self.owners, key, Some(port));
                    }
                }
                Err(source) => {
                    self.close(opened, sockets);
                    return Err(PortError { port, address, source });
                }
            }
        }
        self.open.insert(port, OpenPort { sockets: opened, legs: 1 });
        Ok(opened)
    }

    /// A leg needs its port no longer; without any, its sockets are closed.
    pub(super) fn give_back(&mut self, port: LocalPort, sockets: &mut Sockets) {
        let Some(open) = self.open.get_mut(&port) else { return };
        open.legs -= 1;
        if open.legs == 0 {
            let closing = open.sockets;
            self.open.remove(&port);
            self.close(closing, sockets);
        }
    }

    fn close(&mut self, closing: SocketsOfPort, sockets: &mut Sockets) {
        for key in closing.iter() {
            own(&mut self.owners, key, None);
            sockets.close(key);
        }
    }
}

fn own(owners: &mut Vec<Option<LocalPort>>, key: DatagramKey, port: Option<LocalPort>) {
    let place = key.slot as usize;
    if owners.len() <= place {
        owners.resize(place + 1, None);
    }
    owners[place] = port;
}

/// A socket, or none on all addresses of a family that this machine does not have.
fn open(
    address: IpAddr,
    port: LocalPort,
    inherited: Option<UdpSocket>,
    sockets: &mut Sockets,
) -> io::Result<Option<DatagramKey>> {
    if let Some(socket) = inherited {
        return sockets.add(socket).map(Some);
    }
    match bind(SocketAddr::new(address, port.0), Role::Session) {
        Ok(socket) => sockets.add(socket).map(Some),
        Err(error) if address.is_unspecified() && is_without_family(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the kernel was built or started without a family of addresses.
pub(crate) fn is_without_family(error: &io::Error) -> bool {
    let without = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL];
    without.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port that nobody had a moment ago.
    fn free_port() -> LocalPort {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        LocalPort(socket.local_addr().unwrap().port())
    }

    #[test]
    fn port_is_open_while_a_leg_needs_it() {
        let mut sockets = Sockets::new().unwrap();
        let mut ports = Ports::new(vec![IpAddr::from([127, 0, 0, 1])]);
        let port = free_port();
        let first = ports.take(port, &mut sockets).unwrap();
        assert_eq!(ports.take(port, &mut sockets).unwrap(), first);
        let key = first.to("192.0.2.1:9".parse().unwrap()).unwrap();
        assert_eq!(ports.of(key), Some(port));
        assert_eq!(first.to("[2001:db8::1]:9".parse().unwrap()), None);
        let at = |address: &str| ports.at(SocketAddr::new(address.parse().unwrap(), port.0));
        assert_eq!((at("127.0.0.1"), at("127.0.0.2"), at("::1")), (Some((key, port)), None, None));
        ports.give_back(port, &mut sockets);
        assert_eq!((ports.of(key), sockets.len()), (Some(port), 1));
        ports.give_back(port, &mut sockets);
        assert_eq!((ports.of(key), sockets.len()), (None, 0));
    }

    #[test]
    fn port_that_somebody_else_has_is_named_and_nothing_stays_open() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = LocalPort(taken.local_addr().unwrap().port());
        let mut sockets = Sockets::new().unwrap();
        let addresses = ["127.0.0.2", "127.0.0.1"].map(|ip| ip.parse().unwrap());
        let error = Ports::new(addresses.to_vec()).take(port, &mut sockets).unwrap_err();
        assert!(error.to_string().contains(&format!("{port}")), "{error}");
        assert_eq!((error.port, sockets.len()), (port, 0));
    }
}
