//! What became of datagrams after they were sent: errors that the kernel keeps for a socket.
//!
//! Used on one data core's thread, through [`super::Sockets`]. A socket that was told to hear errors
//! (`IP_RECVERR`, `IPV6_RECVERR`) has a queue of what ICMP said about its datagrams, and of those
//! that were too long to leave unfragmented. Nothing here waits.

use super::address::{Control, Name, last_error};
use super::outgoing::EMPTY_HEADER;
use arrayvec::ArrayVec;
use rustix::io::Errno;
use std::ffi::c_int;
use std::net::SocketAddr;

/// Errors taken from one socket before others come.
pub const ERRORS_PER_CALL_MAX: usize = 16;

/// `SO_EE_ORIGIN_LOCAL`: this machine found the datagram too long.
const ORIGIN_LOCAL: u8 = 1;
/// `SO_EE_ORIGIN_ICMP` and `SO_EE_ORIGIN_ICMP6`: somebody on its way sent an error.
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;

/// An error about one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramError {
    /// Where the datagram was sent to. With [`Cause::TooLong`] its port may be 0.
    pub to: SocketAddr,
    /// What went wrong.
    pub cause: Cause,
    /// Bytes of the longest packet, IP header included, that the way takes; 0 unless the cause is
    /// one of length.
    pub mtu_bytes: u32,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An ICMP or, as `to` is of IPv6, an ICMPv6 error of this type and code.
    Icmp { kind: u8, code: u8 },
    /// This machine did not send it, because it had to leave unfragmented.
    TooLong,
}

/// Errors of one socket.
pub type DatagramErrors = ArrayVec<DatagramError, ERRORS_PER_CALL_MAX>;

/// Takes the errors of a socket, up to a bound.
pub(super) fn take(socket: c_int, syscalls: &mut u64) -> DatagramErrors {
    let mut errors = DatagramErrors::new();
    for _ in 0..ERRORS_PER_CALL_MAX {
        *syscalls += 1;
        match take_one(socket) {
            Ok(Some(error)) => errors.push(error),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    errors
}

/// Takes the oldest error; none if it is of a kind that nobody asked for.
fn take_one(socket: c_int) -> Result<Option<DatagramError>, Errno> {
    let (mut name, mut control) = (Name::EMPTY, Control::EMPTY);
    let mut header = EMPTY_HEADER.msg_hdr;
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = size_of::<Name>() as libc::socklen_t;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<Control>();
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the header points to a name and a control buffer on this stack, of the lengths it says,
    // and to no bytes for the datagram itself, which the kernel cuts off then.
    // `errors_about_datagrams_are_taken_one_by_one` of `tests/ports/datagram_errors.rs` runs it.
    let received = unsafe { libc::recvmsg(socket, &raw mut header, flags) };
    if received < 0 {
        return Err(last_error());
    }
    let told = control.error(header.msg_controllen);
    Ok(name.address().zip(told).and_then(|(to, told)| {
        let cause = match told.origin {
            ORIGIN_LOCAL => Cause::TooLong,
            ORIGIN_ICMP | ORIGIN_ICMP6 => Cause::Icmp { kind: told.kind, code: told.code },
            _ => return None,
        };
        Some(DatagramError { to, cause, mtu_bytes: told.info })
    }))
}
