//! Socket addresses and control messages as the kernel lays them out.
//!
//! Owns both layouts, byte by byte, so that nothing of them needs a pointer. Called by the parts of
//! [`super`], on the data core's thread.

use rustix::io::Errno;
use std::ffi::{c_int, c_void};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

pub(super) const SOL_UDP: c_int = libc::SOL_UDP;
pub(super) const UDP_GRO: c_int = libc::UDP_GRO;
pub(super) const IPPROTO_IP: c_int = libc::IPPROTO_IP;
pub(super) const IPPROTO_IPV6: c_int = libc::IPPROTO_IPV6;
pub(super) const IP_PKTINFO: c_int = libc::IP_PKTINFO;
pub(super) const IPV6_RECVPKTINFO: c_int = libc::IPV6_RECVPKTINFO;

/// Families, as `sockaddr` has them.
const AF_INET: u16 = libc::AF_INET as u16;
const AF_INET6: u16 = libc::AF_INET6 as u16;
/// Bytes of `sockaddr_in` and `sockaddr_in6`.
const NAME_IPV4_BYTES: u32 = 16;
const NAME_IPV6_BYTES: u32 = 28;
/// Bytes of `cmsghdr`: a length, a level and a type.
const CONTROL_HEADER_BYTES: usize = size_of::<usize>() + 2 * size_of::<c_int>();
/// Control messages begin at multiples of this.
const CONTROL_ALIGNMENT: usize = size_of::<usize>();
/// Room for what comes with a message: where it was sent to (40 bytes with IPv6), how long the
/// datagrams of a train are (24), and whatever else a socket was told to report.
pub(super) const CONTROL_BYTES: usize = 128;

/// Level and number of the option that has errors kept, and of the control message that tells of
/// one.
pub(super) const RECEIVE_ERRORS_IPV4: (c_int, c_int) = (IPPROTO_IP, libc::IP_RECVERR);
pub(super) const RECEIVE_ERRORS_IPV6: (c_int, c_int) = (IPPROTO_IPV6, libc::IPV6_RECVERR);

/// A `sockaddr` of either family.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Name {
    bytes: [u8; 32],
}

/// Control messages, one behind the other.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; CONTROL_BYTES],
}

/// What a received message's control messages say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Where it was sent to.
    pub(super) local: Option<IpAddr>,
    /// How long each datagram of a train is; the last one may be shorter.
    pub(super) segment_bytes: Option<usize>,
}

/// What `sock_extended_err` says of a datagram's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExtendedError {
    /// Who noticed it: `SO_EE_ORIGIN_LOCAL` and the like.
    pub(super) origin: u8,
    pub(super) kind: u8,
    pub(super) code: u8,
    /// With an error of length, the longest packet that the way takes.
    pub(super) info: u32,
}

impl ExtendedError {
    /// The bytes are: the error's number (4), origin, type, code, padding, `info` (4), `data` (4).
    fn read(value: &[u8]) -> Option<Self> {
        let &[_, _, _, _, origin, kind, code, _, i0, i1, i2, i3, ..] = value else { return None };
        Some(Self { origin, kind, code, info: u32::from_ne_bytes([i0, i1, i2, i3]) })
    }
}

impl Name {
    pub(super) const EMPTY: Self = Self { bytes: [0; 32] };

    /// The address, and how many bytes of the name are it.
    pub(super) fn of(address: SocketAddr) -> (Self, u32) {
        let mut bytes = [0; 32];
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(address) => {
                bytes[..2].copy_from_slice(&AF_INET.to_ne_bytes());
                bytes[4..8].copy_from_slice(&address.ip().octets());
                (Self { bytes }, NAME_IPV4_BYTES)
            }
            SocketAddr::V6(address) => {
                bytes[..2].copy_from_slice(&AF_INET6.to_ne_bytes());
                bytes[8..24].copy_from_slice(&address.ip().octets());
                bytes[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
                (Self { bytes }, NAME_IPV6_BYTES)
            }
        }
    }

    /// The address that the kernel has written.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let bytes = &self.bytes;
        let port = u16::from_be_bytes([bytes[2], bytes[3]]);
        match u16::from_ne_bytes([bytes[0], bytes[1]]) {
            AF_INET => {
                let ip = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
                Some(SocketAddrV4::new(ip, port).into())
            }
            AF_INET6 => {
                let ip: [u8; 16] = bytes[8..24].try_into().ok()?;
                let scope = u32::from_ne_bytes(bytes[24..28].try_into().ok()?);
                Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
            }
            _ => None,
        }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }
}

impl Control {
    pub(super) const EMPTY: Self = Self { bytes: [0; CONTROL_BYTES] };

    /// What the first `length` bytes, which the kernel has written, say.
    pub(super) fn told(&self, length: usize) -> Told {
        let mut told = Told::default();
        let mut rest = self.bytes.get(..length).unwrap_or_default();
        while let Some((level, kind, value, behind)) = split_first(rest) {
            match (level, kind) {
                (SOL_UDP, UDP_GRO) => told.segment_bytes = segment_bytes(value),
                (IPPROTO_IP, IP_PKTINFO) => told.local = ipv4_at(value, 4),
                (IPPROTO_IPV6, libc::IPV6_PKTINFO) => told.local = ipv6_at(value),
                _ => {}
            }
            rest = behind;
        }
        told
    }

    /// The error that the first `length` bytes, which the kernel has written, tell of, if they do.
    pub(super) fn error(&self, length: usize) -> Option<ExtendedError> {
        let mut rest = self.bytes.get(..length).unwrap_or_default();
        while let Some((level, kind, value, behind)) = split_first(rest) {
            if matches!((level, kind), RECEIVE_ERRORS_IPV4 | RECEIVE_ERRORS_IPV6) {
                return ExtendedError::read(value);
            }
            rest = behind;
        }
        None
    }

    /// Has a message sent from an address of ours, and taken apart into datagrams. Returns how many
    /// bytes that takes.
    pub(super) fn ask(&mut self, from: Option<IpAddr>, segment_bytes: Option<u16>) -> usize {
        let mut length = 0;
        match from {
            Some(IpAddr::V4(ip)) => {
                // `in_pktinfo`: an interface, of the kernel's choice; from where; unused.
                let mut value = [0; 12];
                value[4..8].copy_from_slice(&ip.octets());
                length = self.push(length, IPPROTO_IP, IP_PKTINFO, &value);
            }
            Some(IpAddr::V6(ip)) => {
                // `in6_pktinfo`: from where; an interface, of the kernel's choice.
                let mut value = [0; 20];
                value[..16].copy_from_slice(&ip.octets());
                length = self.push(length, IPPROTO_IPV6, libc::IPV6_PKTINFO, &value);
            }
            None => {}
        }
        if let Some(bytes) = segment_bytes {
            length = self.push(length, SOL_UDP, libc::UDP_SEGMENT, &bytes.to_ne_bytes());
        }
        length
    }

    fn push(&mut self, at: usize, level: c_int, kind: c_int, value: &[u8]) -> usize {
        let whole = CONTROL_HEADER_BYTES + value.len();
        let (bytes, word) = (&mut self.bytes, size_of::<usize>());
        bytes[at..at + word].copy_from_slice(&whole.to_ne_bytes());
        bytes[at + word..at + word + 4].copy_from_slice(&level.to_ne_bytes());
        bytes[at + word + 4..at + word + 8].copy_from_slice(&kind.to_ne_bytes());
        bytes[at + CONTROL_HEADER_BYTES..at + whole].copy_from_slice(value);
        at + whole.next_multiple_of(CONTROL_ALIGNMENT)
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }
}

/// Level, type and value of the first control message, and what is behind it.
fn split_first(bytes: &[u8]) -> Option<(c_int, c_int, &[u8], &[u8])> {
    let word = size_of::<usize>();
    let whole = usize::from_ne_bytes(bytes.get(..word)?.try_into().ok()?);
    let level = c_int::from_ne_bytes(bytes.get(word..word + 4)?.try_into().ok()?);
    let kind = c_int::from_ne_bytes(bytes.get(word + 4..word + 8)?.try_into().ok()?);
    let value = bytes.get(CONTROL_HEADER_BYTES..whole)?;
    let behind = bytes.get(whole.next_multiple_of(CONTROL_ALIGNMENT)..).unwrap_or_default();
    Some((level, kind, value, behind))
}

fn segment_bytes(value: &[u8]) -> Option<usize> {
    let bytes = c_int::from_ne_bytes(value.get(..4)?.try_into().ok()?);
    usize::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

fn ipv4_at(value: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = value.get(at..at + 4)?.try_into().ok()?;
    Some(IpAddr::from(octets))
}

fn ipv6_at(value: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 16] = value.get(..16)?.try_into().ok()?;
    Some(IpAddr::from(octets))
}

/// Sets an option whose value is a number.
pub(super) fn set_option(
    socket: &UdpSocket,
    level: c_int,
    option: c_int,
    value: c_int,
) -> Result<(), Errno> {
    let value_pointer = (&raw const value).cast::<c_void>();
    let value_bytes = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the pointer is to a `c_int` that outlives the call, of the length that is given.
    // `a_train_arrives_as_one_message_and_leaves_as_one` of `tests/ports/datagrams.rs` runs it.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value_pointer, value_bytes) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// Why the last call of the C library failed.
pub(super) fn last_error() -> Errno {
    let number = std::io::Error::last_os_error().raw_os_error();
    number.map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_come_back_as_they_were(ipv4: u32, ipv6: u128, port: u16, scope: u32) {
            let ipv4 = SocketAddr::from((Ipv4Addr::from_bits(ipv4), port));
            let ipv6 = SocketAddrV6::new(Ipv6Addr::from_bits(ipv6), port, 0, scope).into();
            for address in [ipv4, ipv6] {
                prop_assert_eq!(Name::of(address).0.address(), Some(address));
            }
        }

        #[test]
        fn control_messages_of_any_bytes_are_read_without_a_panic(
            bytes in prop::array::uniform32(any::<[u8; 4]>()), length in 0..200_usize,
        ) {
            let mut control = Control::EMPTY;
            control.bytes.copy_from_slice(bytes.as_flattened());
            control.told(length);
        }
    }

    #[test]
    fn what_is_asked_reads_as_it_was_written() {
        for from in [IpAddr::from([192, 0, 2, 1]), "2001:db8::7".parse().unwrap()] {
            let mut control = Control::EMPTY;
            let length = control.ask(Some(from), Some(1200));
            let (level, kind, value, behind) = split_first(&control.bytes[..length]).unwrap();
            let local = match (level, kind) {
                (IPPROTO_IP, IP_PKTINFO) => ipv4_at(value, 4),
                _ => ipv6_at(value),
            };
            assert_eq!(local, Some(from));
            let (level, kind, value, behind) = split_first(behind).unwrap();
            assert_eq!((level, kind), (SOL_UDP, libc::UDP_SEGMENT));
            assert_eq!(value, 1200_u16.to_ne_bytes());
            assert!(behind.is_empty());
        }
    }
}
