//! Memory that messages of one socket are received into, and what is known of each.
//!
//! Owned by one data core, filled by [`super::Sockets::receive`], or with datagrams out of frames
//! ([`crate::port::frames`]). Payload is sent from here, so
//! nothing is received into it before what was queued from it has been sent.

use super::address::{Control, Name, last_error};
use super::{BURST_MESSAGES, MESSAGE_BYTES_MAX};
use arrayvec::ArrayVec;
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
    /// Datagrams that came in frames, of which a header says nothing. Either these are there, or
    /// messages.
    framed: ArrayVec<Arrival, BURST_MESSAGES>,
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
            framed: ArrayVec::new(),
        }
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.count + self.framed.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of the messages; none if it was cut short or came from nowhere.
    pub fn arrival(&self, index: usize) -> Option<Arrival> {
        if let Some(framed) = self.framed.get(index) {
            return Some(framed.clone());
        }
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

    pub(in crate::port) fn clear(&mut self) {
        self.count = 0;
        self.framed.clear();
    }

    /// Takes a datagram in; `false` if there is no room for it. What is there has to be of the same
    /// kind.
    pub(in crate::port) fn push(&mut self, source: SocketAddr, payload: &[u8]) -> bool {
        let start = self.framed.len() * STRIDE_BYTES;
        let place = start..start + payload.len();
        if self.framed.is_full() || payload.len() > MESSAGE_BYTES_MAX {
            return false;
        }
        self.memory[place.clone()].copy_from_slice(payload);
        let segment_bytes = payload.len();
        self.framed.push(Arrival { source, local: None, segment_bytes, place });
        true
    }

    /// Says where the datagrams out of frames were sent to, for a socket that is on all addresses.
    pub fn note_local(&mut self, local: IpAddr) {
        self.framed.iter_mut().for_each(|arrival| arrival.local = Some(local));
    }

    /// Receives what is there, without waiting.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        self.clear();
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
    fn datagrams_out_of_frames_are_a_burst_like_any_other() {
        let mut burst = Burst::new();
        let source = SocketAddr::from(([192, 0, 2, 1], 9));
        for number in 0..BURST_MESSAGES {
            assert!(burst.push(source, &[number as u8; 100]));
        }
        assert!(!burst.push(source, b"one too many"));
        assert_eq!(burst.len(), BURST_MESSAGES);
        burst.note_local(IpAddr::from([198, 51, 100, 1]));
        let last = burst.arrival(BURST_MESSAGES - 1).unwrap();
        assert!(last.datagrams().eq([last.place.clone()]));
        assert_eq!(burst.memory()[last.place], [BURST_MESSAGES as u8 - 1; 100]);
        assert_eq!(last.local, Some(IpAddr::from([198, 51, 100, 1])));
        assert_eq!(burst.arrival(BURST_MESSAGES), None);
        burst.clear();
        assert!(burst.is_empty() && burst.arrival(0).is_none());
        assert!(burst.push(source, b""));
        assert_eq!(burst.arrival(0).unwrap().datagrams().count(), 1);
    }

    #[test]
    fn an_empty_message_is_an_empty_datagram() {
        let mut cut = arrival(7..7, 0).datagrams();
        assert_eq!((cut.next(), cut.next()), (Some(7..7), None));
    }
}
