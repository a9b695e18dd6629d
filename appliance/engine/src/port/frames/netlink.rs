//! What the kernel says of interfaces, routes and neighbours (rtnetlink, RFC 3549).
//!
//! Owns the layout of the few messages that are needed. A question is answered within the system call
//! that sends it, by the thread that asks, so it costs two calls; no privilege is needed. Kernels
//! before 6.14 answer about neighbours and interfaces under the lock on their network configuration,
//! for which the asking thread waits while somebody changes that.

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// The longest answer that is read; that about an interface is some 1500 bytes, and what is needed of
/// it is at its beginning.
const ANSWER_BYTES_MAX: usize = 4096;
/// A header: length, type, flags, sequence, port.
const HEADER_BYTES: usize = 16;
const REQUEST: u16 = 1;
/// Types (`include/uapi/linux/rtnetlink.h`).
const ERROR: u16 = 2;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const GET_NEIGHBOUR: u16 = 30;
/// Bytes of what follows a header.
const LINK_BYTES: usize = 16;
const ROUTE_BYTES: usize = 12;
const NEIGHBOUR_BYTES: usize = 12;
/// Attributes.
const LINK_ADDRESS: u16 = 1;
const LINK_MTU: u16 = 4;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_SOURCE: u16 = 2;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_METRICS: u16 = 8;
const ROUTE_VIA: u16 = 18;
const ROUTE_ENCAPSULATION_TYPE: u16 = 21;
const METRIC_MTU: u16 = 2;
const NEIGHBOUR_DESTINATION: u16 = 1;
const NEIGHBOUR_STATION: u16 = 2;
/// To another machine, and neither here nor to many.
const UNICAST: u8 = 1;
/// An interface with Ethernet headers.
const ETHERNET: u16 = 1;
/// States of a neighbour whose address holds, and of one that may have another by now (`NUD_…`).
const HOLDS: u16 = 0x02 | 0x40 | 0x80;
const MAY_HOLD: u16 = 0x04 | 0x08 | 0x10;

/// An interface that frames leave by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) station: [u8; 6],
    pub(super) mtu_bytes: usize,
}

/// Where packets to an address go next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) interface: u32,
    /// Whom they are given to there.
    pub(super) next: IpAddr,
    /// The longest that is known to pass, if one is.
    pub(super) mtu_bytes: Option<usize>,
}

/// A neighbour's Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) station: [u8; 6],
    /// Whether the kernel has heard from it lately; else it wants to be given a packet to ask anew.
    pub(super) is_confirmed: bool,
}

/// A socket that questions are asked by.
pub(super) struct Netlink {
    socket: OwnedFd,
    answer: Box<[u8; ANSWER_BYTES_MAX]>,
    sequence: u32,
    syscalls: u64,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Netlink({} questions)", self.sequence)
    }
}

impl Interface {
    /// What the kernel says of an interface of this network namespace.
    ///
    /// # Errors
    /// When there is none, or it is no Ethernet.
    pub(super) fn of_index(index: u32) -> io::Result<Self> {
        Netlink::new()?.interface(index)
    }
}

impl Netlink {
    pub(super) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol it is that of routes.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        let answer = Box::new([0; ANSWER_BYTES_MAX]);
        Ok(Self { socket, answer, sequence: 0, syscalls: 0 })
    }

    pub(super) fn syscalls(&self) -> u64 {
        self.syscalls
    }

    /// What the kernel says of an interface.
    ///
    /// # Errors
    /// When there is none, or it is no Ethernet.
    pub(super) fn interface(&mut self, index: u32) -> io::Result<Interface> {
        let mut body = [0; LINK_BYTES];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let answer = self.ask(GET_LINK, NEW_LINK, &body, &[])?;
        let no_ethernet = || io::Error::other("no Ethernet interface");
        if answer.get(2..4) != Some(&ETHERNET.to_ne_bytes()) {
            return Err(no_ethernet());
        }
        let attributes = answer.get(LINK_BYTES..).unwrap_or_default();
        let station = attribute(attributes, LINK_ADDRESS).and_then(|it| it.try_into().ok());
        let mtu_bytes = attribute(attributes, LINK_MTU).and_then(word);
        match (station, mtu_bytes) {
            (Some(station), Some(mtu_bytes)) => {
                Ok(Interface { station, mtu_bytes: mtu_bytes as usize })
            }
            _ => Err(no_ethernet()),
        }
    }

    /// The way from an address of this machine to another machine's; none if there is none.
    pub(super) fn route(&mut self, from: IpAddr, to: IpAddr) -> Option<Route> {
        let mut body = [0; ROUTE_BYTES];
        let bits = if to.is_ipv4() { 32 } else { 128 };
        body[..3].copy_from_slice(&[family(to), bits, bits]);
        let (source, destination) = (octets(from), octets(to));
        let bytes = if to.is_ipv4() { 4 } else { 16 };
        let attributes =
            [(ROUTE_DESTINATION, &destination[..bytes]), (ROUTE_SOURCE, &source[..bytes])];
        let answer = self.ask(GET_ROUTE, NEW_ROUTE, &body, &attributes).ok()?;
        route_of(answer, to)
    }

    /// What is known of a neighbour; none if the kernel has yet to ask for it.
    pub(super) fn neighbour(&mut self, interface: u32, next: IpAddr) -> Option<Neighbour> {
        let mut body = [0; NEIGHBOUR_BYTES];
        body[0] = family(next);
        body[4..8].copy_from_slice(&interface.to_ne_bytes());
        let next_octets = octets(next);
        let bytes = if next.is_ipv4() { 4 } else { 16 };
        let attributes = [(NEIGHBOUR_DESTINATION, &next_octets[..bytes])];
        let answer = self.ask(GET_NEIGHBOUR, NEW_NEIGHBOUR, &body, &attributes).ok()?;
        let state = u16::from_ne_bytes(answer.get(8..10)?.try_into().ok()?);
        let attributes = answer.get(NEIGHBOUR_BYTES..)?;
        let station = attribute(attributes, NEIGHBOUR_STATION)?.try_into().ok()?;
        let is_known = state & (HOLDS | MAY_HOLD) != 0;
        is_known.then_some(Neighbour { station, is_confirmed: state & HOLDS != 0 })
    }

    /// Asks, and returns what follows the header of the answer.
    fn ask(
        &mut self,
        kind: u16,
        wanted: u16,
        body: &[u8],
        attributes: &[(u16, &[u8])],
    ) -> io::Result<&[u8]> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut question = arrayvec::ArrayVec::<u8, 128>::new();
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
        question.try_extend_from_slice(&[0; HEADER_BYTES]).map_err(too_long)?;
        question.try_extend_from_slice(body).map_err(too_long)?;
        for (kind, value) in attributes {
            // All values are multiples of four bytes, so nothing is between attributes.
            let length = (4 + value.len()) as u16;
            question.try_extend_from_slice(&length.to_ne_bytes()).map_err(too_long)?;
            question.try_extend_from_slice(&kind.to_ne_bytes()).map_err(too_long)?;
            question.try_extend_from_slice(value).map_err(too_long)?;
        }
        let length = question.len() as u32;
        question[..4].copy_from_slice(&length.to_ne_bytes());
        question[4..6].copy_from_slice(&kind.to_ne_bytes());
        question[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
        question[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.syscalls += 2;
        send(&self.socket, &question, SendFlags::empty())?;
        // An earlier answer that nobody took would be in front.
        for _ in 0..2 {
            let (bytes, _) = recv(&self.socket, &mut self.answer[..], RecvFlags::empty())?;
            if self.answer.get(8..12) == Some(&self.sequence.to_ne_bytes()) && bytes > HEADER_BYTES
            {
                return body_of(&self.answer[..bytes], wanted);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// The route that an answer tells of, if frames can go that way.
fn route_of(answer: &[u8], to: IpAddr) -> Option<Route> {
    let attributes = answer.get(ROUTE_BYTES..)?;
    // The type of a route is the eighth byte. What goes into a tunnel by its route is the kernel's.
    if *answer.get(7)? != UNICAST || attribute(attributes, ROUTE_ENCAPSULATION_TYPE).is_some() {
        return None;
    }
    let gateway = attribute(attributes, ROUTE_GATEWAY).and_then(address);
    // A gateway of the other family: that family, and the address.
    let via = attribute(attributes, ROUTE_VIA).and_then(|via| address(via.get(2..)?));
    let metrics = attribute(attributes, ROUTE_METRICS).unwrap_or_default();
    Some(Route {
        interface: attribute(attributes, ROUTE_INTERFACE).and_then(word)?,
        next: gateway.or(via).unwrap_or(to),
        mtu_bytes: attribute(metrics, METRIC_MTU).and_then(word).map(|mtu| mtu as usize),
    })
}

/// What follows the header of an answer of the wanted kind.
fn body_of(answer: &[u8], wanted: u16) -> io::Result<&[u8]> {
    let odd = || io::Error::from(io::ErrorKind::InvalidData);
    let length = answer.get(..4).and_then(word).ok_or_else(odd)? as usize;
    let kind = answer.get(4..6).and_then(|it| it.try_into().ok()).ok_or_else(odd)?;
    let body = answer.get(HEADER_BYTES..length.min(answer.len())).ok_or_else(odd)?;
    match u16::from_ne_bytes(kind) {
        kind if kind == wanted => Ok(body),
        ERROR => {
            let number = body.get(..4).and_then(word).ok_or_else(odd)?;
            // It is told as a negative number.
            Err(io::Error::from_raw_os_error(number.cast_signed().wrapping_neg()))
        }
        _ => Err(odd()),
    }
}

/// The value of an attribute among several.
fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    while let Some(length) = rest.get(..2) {
        let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
        let its = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        // The highest two bits say how its value is to be read.
        if its & 0x3fff == kind {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The octets of an address of either family, at the beginning.
fn octets(ip: IpAddr) -> [u8; 16] {
    let mut octets = [0; 16];
    match ip {
        IpAddr::V4(ip) => octets[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => octets = ip.octets(),
    }
    octets
}

fn family(ip: IpAddr) -> u8 {
    let family = if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // Families of addresses are small numbers.
    family as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::io::Errno;

    #[test]
    fn loopback_is_no_ethernet_and_no_way_to_another_machine() {
        assert!(Interface::of_index(1).is_err());
        assert!(Interface::of_index(u32::MAX / 2).is_err());
        let mut netlink = Netlink::new().unwrap();
        let local = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(netlink.route(local, local), None);
        assert_eq!(netlink.neighbour(1, local), None);
        assert!(netlink.syscalls() >= 4);
    }

    #[test]
    fn a_refusal_has_the_number_of_its_error() {
        let mut netlink = Netlink::new().unwrap();
        let mut body = [0; LINK_BYTES];
        body[4..8].copy_from_slice(&0x7fff_ffff_u32.to_ne_bytes());
        let error = netlink.ask(GET_LINK, NEW_LINK, &body, &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NODEV.raw_os_error()));
    }

    #[test]
    fn a_route_into_a_tunnel_is_none_for_frames() {
        let to = IpAddr::from([203, 0, 113, 7]);
        let mut answer = vec![0; ROUTE_BYTES];
        answer[7] = UNICAST;
        answer.extend([8, 0, 4, 0]);
        answer.extend(3_u32.to_ne_bytes());
        let route = Route { interface: 3, next: to, mtu_bytes: None };
        assert_eq!(route_of(&answer, to), Some(route));
        answer.extend([6, 0, 21, 0, 1, 0, 0, 0]);
        assert_eq!(route_of(&answer, to), None);
    }

    proptest! {
        #[test]
        fn answers_of_any_bytes_are_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200), kind: u16,
        ) {
            let _ = body_of(&bytes, kind);
            route_of(&bytes, IpAddr::from([203, 0, 113, 7]));
            attribute(&bytes, kind);
        }
    }
}
