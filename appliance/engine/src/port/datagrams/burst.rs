//! Memory that messages of one socket are received into, and what is known of each.
//!
//! Owned by one data core, filled by [`super::Sockets::receive`]. Payload is sent from here, so
//! nothing is received into it before what was queued from it has been sent.

use super::address::{Control, Name, last_error};
use super::{BURST_MESSAGES, MESSAGE_BYTES_MAX};
use rustix::io::Errno;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// From one message's buffer to the next. Buffers that begin at multiples of a power of two would
/// compete for the same few lines of the cache, since most messages are short.
const STRIDE_BYTES: usize = MESSAGE_BYTES_MAX + 33 * 64;

/// A message: one datagram, or several of the same sender that came together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Who sent it.
    pub source: SocketAddr,
    /// Where it was sent to, if the socket is on all addresses.
    pub local: Option<IpAddr>,
    /// How long each of its datagrams is; the last one may be shorter.
    pub segment_bytes: usize,
    /// Where its bytes are in [`Burst::memory`].
    pub place: Range<usize>,
}

impl Arrival {
    /// Where each of its datagrams is. An empty message is one empty datagram.
    pub fn datagrams(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Range { start, end } = self.place;
        let step = self.segment_bytes.max(1);
        let count = (end - start).div_ceil(step).max(1);
        (0..count).map(move |index| {
            let from = start + index * step;
            from..(from + step).min(end)
        })
    }
}

/// See the module.
pub struct Burst {
    memory: Box<[u8]>,
    names: Box<[Name; BURST_MESSAGES]>,
    controls: Box<[Control; BURST_MESSAGES]>,
    slices: Box<[libc::iovec; BURST_MESSAGES]>,
    headers: Box<[libc::mmsghdr; BURST_MESSAGES]>,
    count: usize,
}

impl fmt::Debug for Burst {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Burst({} messages)", self.count)
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

impl Burst {
    /// Empty, with all the memory it will ever need.
    pub fn new() -> Self {
        let slice = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Self {
            memory: vec![0; BURST_MESSAGES * STRIDE_BYTES].into(),
            names: Box::new([Name::EMPTY; BURST_MESSAGES]),
            controls: Box::new([Control::EMPTY; BURST_MESSAGES]),
            slices: Box::new([slice; BURST_MESSAGES]),
            headers: Box::new([super::outgoing::EMPTY_HEADER; BURST_MESSAGES]),
            count: 0,
        }
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One of the messages; none if it was cut short or came from nowhere.
    pub fn arrival(&self, index: usize) -> Option<Arrival> {
        let header = self.headers[..self.count].get(index)?;
        let source = self.names[index].address()?;
        if header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return None;
        }
        let bytes = header.msg_len as usize;
        let told = self.controls[index].told(header.msg_hdr.msg_controllen);
        let start = index * STRIDE_BYTES;
        Some(Arrival {
            source,
            local: told.local,
            segment_bytes: told.segment_bytes.unwrap_or(bytes),
            place: start..start + bytes,
        })
    }

    /// The memory that arrivals are in.
    pub fn memory(&self) -> &[u8] {
        &self.memory
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
    }

    /// Receives what is there, without waiting.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        self.count = 0;
        self.prepare();
        // SAFETY: each header points to a name, a slice and a control buffer of its own, of the
        // lengths it says, in boxes of this burst, and each slice to a piece of its memory that no
        // other slice has; all of them outlive the call, and no reference to any of them is held.
        // `bursts_hold_many_senders` of `tests/ports/datagrams.rs` runs it.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BURST_MESSAGES as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        match usize::try_from(received) {
            Ok(count) => {
                self.count = count;
                Ok(())
            }
            Err(_) => Err(last_error()),
        }
    }

    /// The kernel shortens what headers say, so they are written anew each time.
    fn prepare(&mut self) {
        let buffers = self.memory.chunks_exact_mut(STRIDE_BYTES);
        for (index, buffer) in buffers.enumerate() {
            let slice = &mut self.slices[index];
            slice.iov_base = buffer.as_mut_ptr().cast();
            slice.iov_len = MESSAGE_BYTES_MAX;
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = self.names[index].as_mut_ptr().cast();
            header.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_iov = slice;
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>();
            header.msg_flags = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(place: Range<usize>, segment_bytes: usize) -> Arrival {
        Arrival { source: SocketAddr::from(([127, 0, 0, 1], 9)), local: None, segment_bytes, place }
    }

    #[test]
    fn a_train_is_cut_into_its_datagrams_and_the_last_one_may_be_shorter() {
        let cut: Vec<_> = arrival(100..350, 100).datagrams().collect();
        assert_eq!(cut, [100..200, 200..300, 300..350]);
        let even: Vec<_> = arrival(0..200, 100).datagrams().collect();
        assert_eq!(even, [0..100, 100..200]);
    }

    #[test]
    fn an_empty_message_is_an_empty_datagram() {
        let mut cut = arrival(7..7, 0).datagrams();
        assert_eq!((cut.next(), cut.next()), (Some(7..7), None));
    }
}
