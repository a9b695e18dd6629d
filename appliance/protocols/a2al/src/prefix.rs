//! Networks that one party is likely to own: /24 of IPv4, /48 of IPv6, and /56 where answers are
//! counted (specification §8.8, §17.3).

use std::net::IpAddr;

/// The leading bits of an address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Prefix {
    /// Three bytes of IPv4.
    V4([u8; 3]),
    /// Six bytes of IPv6.
    V6Site([u8; 6]),
    /// Seven bytes of IPv6.
    V6Customer([u8; 7]),
}

impl Prefix {
    /// The network that diversity is counted by.
    pub fn site(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(*ip.octets().first_chunk().unwrap_or(&[0; 3])),
            IpAddr::V6(ip) => Self::V6Site(*ip.octets().first_chunk().unwrap_or(&[0; 6])),
        }
    }

    /// The network that answers to strangers are counted by.
    pub fn customer(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(*ip.octets().first_chunk().unwrap_or(&[0; 3])),
            IpAddr::V6(ip) => Self::V6Customer(*ip.octets().first_chunk().unwrap_or(&[0; 7])),
        }
    }
}
