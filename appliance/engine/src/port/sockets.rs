//! What both ports do to sockets in the same way: ending them, and judging a failed accept.
//!
//! Called by the ports on their thread, for streams on which no operation is in flight. Nothing
//! here blocks.

use super::{Event, StreamKey};
use rustix::io::Errno;
use rustix::ioctl::{Getter, ioctl};
use rustix::net::{RecvFlags, Shutdown};
use socket2::SockRef;
use std::ffi::c_int;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

/// Bytes thrown away by one read of a lingering stream.
const DISCARD_BYTES: usize = 16 * 1024;
/// Most reads of a lingering stream in one turn: about one full socket buffer of 1 MiB.
const DISCARD_READS_MAX: usize = 64;
/// `SIOCOUTQ`, which is `TIOCOUTQ`: bytes the peer has not acknowledged (tcp(7)).
const SIOCOUTQ: u32 = 0x5411;

/// Ends a stream with RST. Not even a FIN can come first: with a linger time of zero, closing
/// drops what is queued (socket(7), `SO_LINGER`).
pub(super) fn reset(stream: TcpStream) {
    reset_when_closed(&stream);
    drop(stream);
}

/// Makes closing the stream, whenever that is, end it with RST.
pub(super) fn reset_when_closed(stream: &TcpStream) {
    // It fails only on something that is no socket; closing is then all that is left.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Whether closing now could turn into a reset that destroys what the peer has yet to receive.
///
/// Linux resets a connection that is closed with received bytes unread, or that receives more
/// after it was closed, and drops its send queue with it. So a stream whose peer has not ended its
/// direction lingers while there is something to lose: it stays open, its direction ended, what
/// comes in thrown away.
pub(super) fn must_linger(stream: &TcpStream, peer_ended: bool) -> bool {
    if peer_ended {
        return false;
    }
    let unread = rustix::io::ioctl_fionread(stream).unwrap_or(0);
    unread > 0 || unacknowledged(stream) > 0
}

fn unacknowledged(stream: &TcpStream) -> c_int {
    // SAFETY: SIOCOUTQ writes one `int` (tcp(7)). `graceful_close_delivers_everything_then_fin` of
    // `tests/ports.rs` exercises it.
    let request = unsafe { Getter::<SIOCOUTQ, c_int>::new() };
    // SAFETY: the request's type is the one the kernel writes, see above.
    unsafe { ioctl(stream, request) }.unwrap_or(0)
}

/// What receiving nothing means: the peer's FIN, or a reset that looks like one.
///
/// The kernel tells a reset once, to whichever call comes first. If that was a send, receiving
/// shows what looks like a clean end; but the socket is connected no longer, which it would be
/// after a FIN as long as we have not ended our direction (getpeername(2)).
pub(super) fn end_of_stream(key: StreamKey, socket: &TcpStream) -> Event {
    match rustix::net::getpeername(socket) {
        Ok(_) => Event::EndOfStream { stream: key },
        Err(_) => Event::ReceiveFailed { stream: key, error: Errno::CONNRESET.into() },
    }
}

/// Ends our direction: FIN goes out after what is queued.
pub(super) fn end_direction(stream: &TcpStream) {
    // It fails when the connection is gone already, and then there is nothing to end.
    let _ = rustix::net::shutdown(stream, Shutdown::Write);
}

/// Throws away what a lingering stream received, up to a bound. Returns whether the stream is over
/// and the number of system calls.
pub(super) fn discard(stream: &TcpStream) -> (bool, u64) {
    let mut waste = [0; DISCARD_BYTES];
    let mut reads = 0;
    for _ in 0..DISCARD_READS_MAX {
        reads += 1;
        match rustix::net::recv(stream, &mut waste, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return (true, reads),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return (false, reads),
            Err(_) => return (true, reads),
        }
    }
    (false, reads)
}

/// Whether a failed accept says something about one connection only, so that accepting goes on at
/// once. Everything else (no descriptors, no memory, a listener gone bad) would fail again and
/// again without a pause.
pub(super) fn concerns_one_connection(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| {
        let error = Errno::from_raw_os_error(number);
        // accept(2): errors already pending on the new socket are passed to accept.
        matches!(
            error,
            Errno::CONNABORTED
                | Errno::INTR
                | Errno::AGAIN
                | Errno::CANCELED
                | Errno::PERM
                | Errno::PROTO
                | Errno::NOTCONN
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
        )
    })
}
