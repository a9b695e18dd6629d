//! Whether addresses of this machine have come or gone, as the kernel announces it (rtnetlink(7)).

use crate::limits::NETLINK_CHANGES_MAX;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::io;

/// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`.
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;

/// A socket that hears of addresses. It needs no privilege, but an address family that a sandbox may
/// forbid later.
#[derive(Debug)]
pub struct AddressChanges {
    socket: OwnedFd,
}

impl AddressChanges {
    /// Hears of what happens from now on, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, ADDRESS_GROUPS))?;
        Ok(Self { socket })
    }

    /// Whether something was announced since the last call. Does not wait, and takes a bounded number
    /// of announcements; with more of them the next call says so again.
    pub fn take(&self) -> bool {
        // What is announced is read anew, so the kernel may cut it off.
        let mut buffer = [0; 1];
        let mut is_changed = false;
        for _ in 0..NETLINK_CHANGES_MAX {
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                // What overflowed was an announcement as well.
                Ok(_) | Err(Errno::NOBUFS) => is_changed = true,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        is_changed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn nothing_is_announced_where_nothing_changes() {
        let changes = AddressChanges::open().unwrap();
        // Another test may change addresses; what it announces ends.
        assert!((0..1000).any(|_| !changes.take()));
    }
}
