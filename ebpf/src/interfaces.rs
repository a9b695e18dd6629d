//! Which network interfaces there are, in the network namespace of the calling thread.

use nix::{
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_nametoindex},
};
use std::{collections::BTreeSet, io, net::IpAddr};

/// The number of an interface; `None` if there is none of that name.
pub fn index_of(interface: &str) -> Option<u32> {
    if_nametoindex(interface).ok()
}

/// An address of an interface that is up and is not loopback.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The interface's name.
    pub interface: String,
    /// One of its addresses.
    pub address: IpAddr,
}

/// All of them, in the order of the names.
///
/// # Errors
/// When the kernel does not tell.
pub fn addresses() -> io::Result<BTreeSet<InterfaceAddress>> {
    let is_outward = |flags: InterfaceFlags| {
        flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    let found = getifaddrs()?.filter(|found| is_outward(found.flags)).filter_map(|found| {
        let address = found.address?;
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        let v6 = || address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip()));
        Some(InterfaceAddress { address: v4.or_else(v6)?, interface: found.interface_name })
    });
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn loopback_is_there_and_is_not_among_those_that_lead_outward() {
        assert_eq!(index_of("lo"), Some(crate::forwarding::LOOPBACK_INTERFACE));
        assert_eq!(index_of("no-such-one"), None);
        assert!(addresses().unwrap().iter().all(|found| found.interface != "lo"));
    }
}
