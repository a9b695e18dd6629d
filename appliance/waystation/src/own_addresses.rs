//! The addresses of this machine, as far as the kernel's tables say: nobody is relayed to them.
//!
//! Read on the main thread at start-up, and on the management thread with every reload and whenever
//! the kernel has announced a change.

use anyhow::Context;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use waystation_management::runtime::OwnAddresses;
use waystation_tuning::netlink::AddressChanges;

/// The kernel's tables of local addresses, of IPv4 and of IPv6.
const TABLES: [&str; 2] = ["/proc/net/fib_trie", "/proc/net/if_inet6"];

/// What the management core asks once a second. The first time, addresses are read anyway: some may
/// have come between the first reading and the kernel's first announcement. Without the kernel's
/// announcements, which a sandbox may forbid, addresses are read with reloads alone.
pub(crate) fn follow() -> Option<OwnAddresses> {
    match AddressChanges::open() {
        Ok(changes) => Some(Box::new(Followed::new(move || changes.take(), read).into_question())),
        Err(error) => {
            tracing::warn!("addresses of this machine are read with reloads alone: {error}");
            None
        }
    }
}

/// All of them, each once. A table that is not there has none.
///
/// # Errors
/// A table that is there cannot be read, for want of a descriptor for example. What is known stays in
/// force then: with none at all, anybody would be relayed to this machine.
pub(crate) fn read() -> anyhow::Result<Vec<IpAddr>> {
    read_from(TABLES)
}

fn read_from([ipv4, ipv6]: [&str; 2]) -> anyhow::Result<Vec<IpAddr>> {
    let read = |path: &str| match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.with_context(|| {
            format!("cannot read {path}, which lists the addresses of this machine")
        }),
    };
    let mut own = ipv4_of(&read(ipv4)?);
    own.extend(ipv6_of(&read(ipv6)?));
    own.sort_unstable();
    own.dedup();
    Ok(own)
}

/// When to read addresses again.
struct Followed<C, R> {
    is_changed: C,
    read: R,
    /// Whether some may have changed since they were read.
    is_due: bool,
    /// Whether it was said that they cannot be read.
    has_failed: bool,
}

impl<C: FnMut() -> bool, R: FnMut() -> anyhow::Result<Vec<IpAddr>>> Followed<C, R> {
    fn new(is_changed: C, read: R) -> Self {
        Self { is_changed, read, is_due: true, has_failed: false }
    }

    fn into_question(mut self) -> impl FnMut() -> Option<Vec<IpAddr>> {
        move || self.ask()
    }

    /// The addresses, if some may have changed. What cannot be read is tried again.
    fn ask(&mut self) -> Option<Vec<IpAddr>> {
        self.is_due |= (self.is_changed)();
        if !self.is_due {
            return None;
        }
        match (self.read)() {
            Ok(own) => {
                (self.is_due, self.has_failed) = (false, false);
                Some(own)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::error!("what is known stays in force: {error:#}");
                }
                None
            }
        }
    }
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

    #[test]
    fn a_table_that_cannot_be_read_is_an_error_and_one_that_is_not_there_is_empty() {
        let files = tempfile::TempDir::new().unwrap();
        let absent = files.path().join("absent").display().to_string();
        assert_eq!(read_from([&absent, &absent]).unwrap(), Vec::<IpAddr>::new());
        let unreadable = files.path().display().to_string();
        let said = format!("{:#}", read_from([&absent, &unreadable]).unwrap_err());
        assert!(said.contains(&unreadable), "{said}");
    }

    #[test]
    fn addresses_that_cannot_be_read_are_asked_for_until_they_can() {
        let own = vec![IpAddr::from([9, 9, 9, 9])];
        let mut announced = [false, false, true, false, false].into_iter();
        let mut outcomes = [Some(own.clone()), None, Some(own.clone())].into_iter();
        let read = || outcomes.next().unwrap().context("no descriptor is left");
        let mut followed = Followed::new(|| announced.next().unwrap(), read);
        let given: Vec<_> = (0..5).map(|_| followed.ask()).collect();
        assert_eq!(given, [Some(own.clone()), None, None, Some(own), None]);
    }
}
