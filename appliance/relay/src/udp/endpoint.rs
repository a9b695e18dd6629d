//! An address and a port in 18 bytes, and the time in four.
//!
//! Plain values inside the entries of the session table, made from what a socket reports and turned
//! back into it. Nothing here looks an address up or judges it.

use crate::address_policy::canonical;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A UDP port of this machine that sessions are reached at; the default, 0, is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalPort(pub u16);

impl fmt::Display for LocalPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where datagrams come from and go to, in its one canonical form: IPv4 is held as mapped into
/// IPv6, which [`canonical`] never leaves as such. Scope and flow label are not kept; link-local
/// addresses are no peers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    ip: [u8; 16],
    port: u16,
}

impl Endpoint {
    /// No address: port 0 can be neither sent from nor to.
    pub(super) const NONE: Self = Self { ip: [0; 16], port: 0 };

    /// `None` for port 0.
    pub(super) fn new(address: SocketAddr) -> Option<Self> {
        let ip = match canonical(address.ip()) {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        (address.port() != 0).then_some(Self { ip: ip.octets(), port: address.port() })
    }

    pub(super) fn is_none(self) -> bool {
        self.port == 0
    }

    /// `None` for [`Self::NONE`].
    pub(super) fn address(self) -> Option<SocketAddr> {
        (!self.is_none()).then(|| SocketAddr::new(self.ip(), self.port))
    }

    pub(super) fn ip(self) -> IpAddr {
        canonical(IpAddr::V6(Ipv6Addr::from(self.ip)))
    }

    /// Everything that tells it from others, in three words.
    pub(super) fn words(self) -> [u64; 3] {
        let bits = u128::from_le_bytes(self.ip);
        // The lower and the upper half are meant.
        [bits as u64, (bits >> 64) as u64, u64::from(self.port)]
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("none"),
        }
    }
}

/// Nanoseconds of a tick, as a power of two: 67 ms, so 32 bits last for nine years.
const TICK_NS_LOG2: u32 = 26;

/// A time in ticks. Ages measured in it are too long by less than a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u32);

impl Tick {
    pub(super) fn at(now_ns: u64) -> Self {
        Self(u32::try_from(now_ns >> TICK_NS_LOG2).unwrap_or(u32::MAX))
    }

    /// When it began.
    pub(super) fn ns(self) -> u64 {
        u64::from(self.0) << TICK_NS_LOG2
    }

    /// How long ago it began; 0 for what is still to come.
    pub(super) fn age_ns(self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.ns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mapped_address_is_the_address_itself() {
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:9".parse().unwrap();
        let plain: SocketAddr = "192.0.2.7:9".parse().unwrap();
        assert_eq!(Endpoint::new(mapped), Endpoint::new(plain));
        assert_eq!(Endpoint::new(mapped).and_then(Endpoint::address), Some(plain));
    }

    #[test]
    fn port_zero_is_no_endpoint() {
        let address: SocketAddr = "192.0.2.7:0".parse().unwrap();
        assert_eq!(Endpoint::new(address), None);
        assert_eq!(Endpoint::NONE.address(), None);
    }

    proptest! {
        #[test]
        fn endpoint_gives_back_the_canonical_address(ip: u128, port in 1_u16..) {
            let address = SocketAddr::new(IpAddr::V6(Ipv6Addr::from_bits(ip)), port);
            let endpoint = Endpoint::new(address).unwrap();
            let expected = SocketAddr::new(canonical(address.ip()), port);
            prop_assert_eq!(endpoint.address(), Some(expected));
        }

        #[test]
        fn age_is_too_long_by_less_than_a_tick(now_ns in 0_u64..1 << 57, age_ns in 0_u64..1 << 40) {
            let measured = Tick::at(now_ns).age_ns(now_ns + age_ns);
            prop_assert!(measured >= age_ns && measured - age_ns < 1 << TICK_NS_LOG2);
        }
    }
}
