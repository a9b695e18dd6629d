//! The addresses of this machine, as far as the kernel's tables say: nobody is relayed to them.
//!
//! Read on the main thread at start-up, and on the management thread with every reload and whenever
//! the kernel has announced a change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use waystation_management::runtime::OwnAddresses;
use waystation_tuning::netlink::AddressChanges;

/// What the management core asks once a second. The first time, addresses are read anyway: some may
/// have come between the first reading and the kernel's first announcement. Without the kernel's announcements, which a sandbox
/// may forbid, addresses are read with reloads alone.
pub(crate) fn follow() -> Option<OwnAddresses> {
    match AddressChanges::open() {
        Ok(changes) => {
            let mut is_first = true;
            Some(Box::new(move || {
                let is_due = changes.take() || is_first;
                is_first = false;
                is_due.then(read)
            }))
        }
        Err(error) => {
            tracing::warn!("addresses of this machine are read with reloads alone: {error}");
            None
        }
    }
}

/// All of them, each once.
pub(crate) fn read() -> Vec<IpAddr> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut own = ipv4_of(&read("/proc/net/fib_trie"));
    own.extend(ipv6_of(&read("/proc/net/if_inet6")));
    own.sort_unstable();
    own.dedup();
    own
}

/// Local addresses of a routing table: a line names an address, the next says that it is a host's.
fn ipv4_of(fib_trie: &str) -> Vec<IpAddr> {
    let mut last: Option<Ipv4Addr> = None;
    let mut own = Vec::new();
    for line in fib_trie.lines() {
        if let Some((_, named)) = line.split_once("|-- ") {
            last = named.trim().parse().ok();
        } else if line.contains("/32 host LOCAL") {
            own.extend(last.map(IpAddr::V4));
        }
    }
    own
}

/// Addresses of interfaces: each line begins with one, in hexadecimal digits.
fn ipv6_of(if_inet6: &str) -> Vec<IpAddr> {
    let first = |line: &str| {
        let digits = line.split_ascii_whitespace().next()?;
        let bits = u128::from_str_radix(digits, 16).ok()?;
        Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
    };
    if_inet6.lines().filter_map(first).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn local_addresses_are_read_from_the_kernels_tables() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 9.9.9.0\n        /24 link UNICAST\n     \
                    |-- 9.9.9.9\n        /32 host LOCAL\n     |-- 9.9.9.255\n        /32 link \
                    BROADCAST\n";
        assert_eq!(ipv4_of(trie), [IpAddr::from([9, 9, 9, 9])]);
        let table = "20010db8000000000000000000000007 02 40 00 80     eth0\nrubbish\n";
        assert_eq!(ipv6_of(table), ["2001:db8::7".parse::<IpAddr>().unwrap()]);
    }
}
