//! Sockets that share an address and port (`SO_REUSEPORT`): which of them is whose.

use crate::{Address, NetworkU16, family};

/// A data core's socket among those that share an address: the address they are bound to, and whose
/// it is. Sockets of another address or port are another group, and the kernel takes no choice from
/// another group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct SocketPlace {
    /// The address they are bound to; all zero where they are on all addresses of their family.
    pub address: Address,
    /// The port.
    pub port: NetworkU16,
    /// [`crate::family::V4`] or [`crate::family::V6`].
    pub family: u16,
    /// Processor of the data core whose socket it is, as [`crate::Session::owner_cpu`].
    pub owner_cpu: u32,
}

impl SocketPlace {
    /// The place of a core's socket that is bound to `bound`.
    pub fn new(bound: core::net::SocketAddr, owner_cpu: u32) -> Self {
        let ip = bound.ip();
        let address = if ip.is_unspecified() { Address::default() } else { ip.into() };
        let family = if ip.is_ipv4() { family::V4 } else { family::V6 };
        Self { address, port: NetworkU16::new(bound.port()), family: family.into(), owner_cpu }
    }
}

/// What the selecting program did with datagrams of sessions, and its place among the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Selection {
    /// Brought to the socket of the core that owns the session.
    Owner = 0,
    /// Left to the kernel's hash, since that core has no socket there.
    NoSocket = 1,
}

impl Selection {
    /// How many there are.
    pub const COUNT: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{align_of, offset_of, size_of};

    #[test]
    fn a_place_has_no_hidden_bytes() {
        assert_eq!((size_of::<SocketPlace>(), align_of::<SocketPlace>()), (24, 4));
        assert_eq!(size_of::<SocketPlace>(), 16 + 2 + 2 + 4);
        assert_eq!(offset_of!(SocketPlace, owner_cpu), 20);
    }

    #[test]
    fn groups_differ_by_address_port_and_family() {
        let place = |bound: &str| SocketPlace::new(bound.parse().unwrap(), 1);
        let all =
            ["192.0.2.1:3478", "192.0.2.2:3478", "192.0.2.1:3479", "0.0.0.0:3478", "[::]:3478"];
        for (index, one) in all.iter().enumerate() {
            for (other_index, other) in all.iter().enumerate() {
                assert_eq!(place(one) == place(other), index == other_index, "{one} {other}");
            }
        }
        assert_eq!(place("0.0.0.0:3478").address, place("[::]:3478").address);
    }
}
