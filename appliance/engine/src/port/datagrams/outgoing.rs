//! Datagrams on their way out: queued in the order they come, sent in trains.
//!
//! Owned by one data core. What is queued names its payload by a place in memory that stays as it
//! is until [`Outgoing::send`]; the kernel gathers heads, payload and padding itself. Datagrams of
//! one socket to one destination keep their order, whatever lies between them.

use super::address::{Control, Name, last_error};
use super::{
    DEPARTURES_MAX, DatagramKey, PLAIN_ROUTES_MAX, SEND_MESSAGES_MAX, SendFailure, Sockets,
    TRAIN_BYTES_MAX, TRAIN_SEGMENTS_MAX, UdpTier,
};
use arrayvec::ArrayVec;
use rustix::io::Errno;
use std::ffi::c_int;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::ptr;

/// Bytes in front of a payload: a Data indication with an IPv6 peer has 48.
pub const DEPARTURE_HEAD_BYTES_MAX: usize = 64;
/// Bytes behind a payload.
const PADDING: [u8; 4] = [0; 4];
/// Pieces of one datagram: head, payload, padding.
const PIECES_MAX: usize = 3;
/// Pieces of the messages of one send call: those of a long train, twice over.
const SLICES_MAX: usize = 2 * PIECES_MAX * TRAIN_SEGMENTS_MAX;
/// Destinations that are remembered until [`Outgoing::take_too_long`]; further ones are counted as
/// lost like any other, and their senders learn of it with the next datagram.
const TOO_LONG_MAX: usize = 16;

pub(super) const EMPTY_HEADER: libc::mmsghdr = libc::mmsghdr {
    msg_hdr: libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    },
    msg_len: 0,
};

/// A datagram to be sent.
#[derive(Clone, Debug)]
pub struct Departure {
    pub socket: DatagramKey,
    pub to: SocketAddr,
    /// The address of ours it is sent from, if the socket is on all addresses.
    pub from: Option<IpAddr>,
    pub head: ArrayVec<u8, DEPARTURE_HEAD_BYTES_MAX>,
    /// Where its payload is in the memory that [`Outgoing::send`] is given.
    pub payload: Range<usize>,
    /// Zeros behind it, at most 4.
    pub padding_bytes: usize,
    /// Whether it leaves unfragmented or not at all.
    pub unfragmented: bool,
    /// What its owner knows it by.
    pub tag: u32,
}

impl Departure {
    fn bytes(&self) -> usize {
        self.head.len() + self.payload.len() + self.padding_bytes
    }

    /// Whether both can be in one train.
    fn goes_with(&self, other: &Self) -> bool {
        let key = |departure: &Self| {
            (departure.socket, departure.to, departure.from, departure.unfragmented)
        };
        key(self) == key(other)
    }
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It left by itself.
    Plainly,
    /// It left in a train.
    InTrain,
    /// It was handed over as a frame.
    Framed,
    /// It is lost.
    Not(SendFailure),
}

/// A message: so many departures, from a place in the order on.
#[derive(Clone, Copy, Debug)]
struct Message {
    first: usize,
    count: usize,
}

/// Destinations that took no train.
#[derive(Debug)]
struct PlainRoutes {
    routes: Box<[Option<IpAddr>; PLAIN_ROUTES_MAX]>,
}

impl PlainRoutes {
    fn place(ip: IpAddr) -> usize {
        let step = |sum: usize, byte: u8| sum.wrapping_mul(31).wrapping_add(usize::from(byte));
        let sum = match ip {
            IpAddr::V4(ip) => ip.octets().into_iter().fold(0, step),
            IpAddr::V6(ip) => ip.octets().into_iter().fold(0, step),
        };
        sum % PLAIN_ROUTES_MAX
    }

    fn contains(&self, ip: IpAddr) -> bool {
        self.routes[Self::place(ip)] == Some(ip)
    }

    fn insert(&mut self, ip: IpAddr) {
        self.routes[Self::place(ip)] = Some(ip);
    }
}

/// See the module.
pub struct Outgoing {
    tier: UdpTier,
    plain_routes: PlainRoutes,
    queue: Vec<Departure>,
    /// Positions in the queue, by socket and destination, then in order of coming.
    order: Vec<u16>,
    messages: ArrayVec<Message, SEND_MESSAGES_MAX>,
    names: Box<[Name; SEND_MESSAGES_MAX]>,
    controls: Box<[Control; SEND_MESSAGES_MAX]>,
    slices: Box<[libc::iovec; SLICES_MAX]>,
    headers: Box<[libc::mmsghdr; SEND_MESSAGES_MAX]>,
    trains: u64,
    failed_trains: u64,
    too_long: TooLong,
}

/// Sockets and destinations of datagrams that were too long to leave unfragmented.
pub type TooLong = ArrayVec<(DatagramKey, SocketAddr), TOO_LONG_MAX>;

impl fmt::Debug for Outgoing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Outgoing({:?}, {} queued)", self.tier, self.queue.len())
    }
}

impl Outgoing {
    /// An empty queue, with all the memory it will ever need.
    pub fn new(tier: UdpTier) -> Self {
        let slice = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Self {
            tier,
            plain_routes: PlainRoutes { routes: Box::new([None; PLAIN_ROUTES_MAX]) },
            queue: Vec::with_capacity(DEPARTURES_MAX),
            order: Vec::with_capacity(DEPARTURES_MAX),
            messages: ArrayVec::new(),
            names: Box::new([Name::EMPTY; SEND_MESSAGES_MAX]),
            controls: Box::new([Control::EMPTY; SEND_MESSAGES_MAX]),
            slices: Box::new([slice; SLICES_MAX]),
            headers: Box::new([EMPTY_HEADER; SEND_MESSAGES_MAX]),
            trains: 0,
            failed_trains: 0,
            too_long: TooLong::new(),
        }
    }

    /// How datagrams to a destination are sent.
    pub fn tier_of(&self, ip: IpAddr) -> UdpTier {
        if self.plain_routes.contains(ip) { UdpTier::Plain } else { self.tier }
    }

    /// Trains that the kernel took, and those it refused, whose datagrams went plainly.
    pub fn trains(&self) -> (u64, u64) {
        (self.trains, self.failed_trains)
    }

    /// Whether [`Self::take_too_long`] has something.
    pub fn has_too_long(&self) -> bool {
        !self.too_long.is_empty()
    }

    /// Where datagrams went, since the last call, that were too long to leave unfragmented; in the
    /// order of their sockets within a [`Self::send`].
    pub fn take_too_long(&mut self) -> TooLong {
        std::mem::take(&mut self.too_long)
    }

    /// Whether nothing more can be queued before what is there was sent.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= DEPARTURES_MAX
    }

    /// Queues a datagram.
    ///
    /// # Panics
    /// When [`Self::is_full`].
    pub fn queue(&mut self, departure: Departure) {
        assert!(!self.is_full(), "a datagram too many was queued");
        debug_assert!(departure.padding_bytes <= PADDING.len());
        self.queue.push(departure);
    }

    /// Offers each datagram that is queued to another way out, which takes it or not, as frames do.
    /// What it takes is reported as sent and is queued no more.
    pub fn offer(
        &mut self,
        sockets: &Sockets,
        memory: &[u8],
        mut take: impl FnMut(SocketAddr, SocketAddr, [&[u8]; PIECES_MAX]) -> bool,
        mut report: impl FnMut(u32, usize, Sent),
    ) {
        self.queue.retain(|departure| {
            let Some(from) = sockets.leaves_from(departure.socket, departure.from) else {
                return true;
            };
            let payload = &memory[departure.payload.clone()];
            let pieces = [&departure.head[..], payload, &PADDING[..departure.padding_bytes]];
            let is_taken = take(from, departure.to, pieces);
            if is_taken {
                report(departure.tag, departure.payload.len(), Sent::Framed);
            }
            !is_taken
        });
    }

    /// Sends everything that is queued, with payload from `memory`, and reports what became of each
    /// datagram by its tag and the bytes of its payload.
    pub fn send(
        &mut self,
        sockets: &mut Sockets,
        memory: &[u8],
        mut report: impl FnMut(u32, usize, Sent),
    ) {
        self.sort();
        let mut next = 0;
        while next < self.order.len() {
            next = self.gather(next);
            self.transmit(sockets, memory, &mut report);
        }
        self.queue.clear();
        self.order.clear();
    }

    fn sort(&mut self) {
        let queue = &self.queue;
        // A queue is no longer than `DEPARTURES_MAX`.
        self.order.extend((0..queue.len()).map(|position| position as u16));
        let key = |position: &u16| {
            let departure = &queue[usize::from(*position)];
            (departure.socket, departure.to, *position)
        };
        if !self.order.is_sorted_by_key(key) {
            self.order.sort_unstable_by_key(key);
        }
    }

    fn departure(&self, place: usize) -> &Departure {
        &self.queue[usize::from(self.order[place])]
    }

    /// Makes the messages of one send call, all of one socket and of one kind. Returns where the
    /// next call begins.
    fn gather(&mut self, from: usize) -> usize {
        self.messages.clear();
        let kind = |departure: &Departure| (departure.socket, departure.unfragmented);
        let first = kind(self.departure(from));
        let (mut next, mut slices) = (from, 0);
        while next < self.order.len()
            && kind(self.departure(next)) == first
            && !self.messages.is_full()
        {
            let count = self.train_from(next);
            slices += count * PIECES_MAX;
            if slices > SLICES_MAX {
                break;
            }
            self.messages.push(Message { first: next, count });
            next += count;
        }
        next
    }

    /// How many datagrams from a place on are one message: as many as are equally long, and a
    /// shorter one behind them.
    fn train_from(&self, first: usize) -> usize {
        let head = self.departure(first);
        let segment_bytes = head.bytes();
        if self.tier_of(head.to.ip()) == UdpTier::Plain || segment_bytes == 0 {
            return 1;
        }
        let most = (TRAIN_BYTES_MAX / segment_bytes).clamp(1, TRAIN_SEGMENTS_MAX);
        let mut count = 1;
        while count < most && first + count < self.order.len() {
            let next = self.departure(first + count);
            let bytes = next.bytes();
            if !head.goes_with(next) || bytes > segment_bytes || bytes == 0 {
                break;
            }
            count += 1;
            if bytes < segment_bytes {
                break;
            }
        }
        count
    }

    /// Sends the messages that were gathered.
    fn transmit(
        &mut self,
        sockets: &mut Sockets,
        memory: &[u8],
        report: &mut impl FnMut(u32, usize, Sent),
    ) {
        let Some(first) = self.messages.first() else { return };
        let head = self.departure(first.first);
        let socket = match sockets.descriptor(head.socket, head.unfragmented) {
            Ok(socket) => socket,
            Err(failure) => {
                for message in self.messages.take() {
                    self.report(message, Sent::Not(failure), report);
                }
                return;
            }
        };
        self.prepare(memory);
        let (mut done, mut tried) = (0, None);
        while done < self.messages.len() {
            sockets.syscalls += 1;
            match self.call(socket, done) {
                Ok(sent) => {
                    for message in done..done + sent {
                        self.report_sent(self.messages[message], report);
                    }
                    done += sent;
                }
                Err(Errno::INTR) => {}
                Err(error) if may_be_an_earlier_ones(error) && tried != Some(done) => {
                    tried = Some(done);
                }
                Err(error) if SendFailure::of(error) == SendFailure::NoRoom => {
                    // The others would find none either, for a system call each.
                    for message in done..self.messages.len() {
                        let lost = Sent::Not(SendFailure::NoRoom);
                        self.report(self.messages[message], lost, report);
                    }
                    return;
                }
                Err(error) => {
                    let message = self.messages[done];
                    if message.count > 1 && may_refuse_trains(error) {
                        self.failed_trains += 1;
                        if refuses_all_trains(error) {
                            self.plain_routes.insert(self.departure(message.first).to.ip());
                        }
                        self.send_plainly(sockets, socket, message, memory, report);
                    } else {
                        self.report(message, Sent::Not(SendFailure::of(error)), report);
                    }
                    done += 1;
                }
            }
        }
    }

    /// Writes what the kernel reads to find the messages.
    fn prepare(&mut self, memory: &[u8]) {
        let mut used = 0;
        for index in 0..self.messages.len() {
            let Message { first, count } = self.messages[index];
            let begin = used;
            for place in first..first + count {
                used = self.push_pieces(place, memory, used);
            }
            let head = self.departure(first);
            // A datagram's length is 16 bits.
            let segment_bytes = (count > 1).then_some(head.bytes() as u16);
            let (to, from) = (head.to, head.from);
            let (name, name_bytes) = Name::of(to);
            self.names[index] = name;
            let control_bytes = self.controls[index].ask(from, segment_bytes);
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = self.names[index].as_mut_ptr().cast();
            header.msg_namelen = name_bytes;
            header.msg_iov = self.slices[begin..].as_mut_ptr();
            header.msg_iovlen = used - begin;
            header.msg_control = self.controls[index].as_ptr().cast_mut().cast();
            header.msg_controllen = control_bytes;
            header.msg_flags = 0;
        }
    }

    fn push_pieces(&mut self, place: usize, memory: &[u8], mut used: usize) -> usize {
        let departure = &self.queue[usize::from(self.order[place])];
        let payload = &memory[departure.payload.clone()];
        for piece in [&departure.head[..], payload, &PADDING[..departure.padding_bytes]] {
            if !piece.is_empty() {
                let slice = &mut self.slices[used];
                slice.iov_base = piece.as_ptr().cast_mut().cast();
                slice.iov_len = piece.len();
                used += 1;
            }
        }
        used
    }

    /// Hands over the messages from one on. Returns how many the kernel took, at least one.
    fn call(&mut self, socket: c_int, from: usize) -> Result<usize, Errno> {
        let headers = &mut self.headers[from..self.messages.len()];
        // SAFETY: each header points to a name, slices and a control buffer, of the lengths it
        // says, in boxes of this queue; slices point into `memory`, departures and a constant. All
        // of it was written by `prepare`, since when nothing was queued, and the kernel only reads
        // it. `a_train_arrives_as_one_message_and_leaves_as_one` of `tests/ports/datagrams.rs` runs
        // it.
        let sent = unsafe {
            libc::sendmmsg(
                socket,
                headers.as_mut_ptr(),
                headers.len() as u32,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        match usize::try_from(sent) {
            Ok(0) => Err(Errno::AGAIN),
            Ok(count) => Ok(count),
            Err(_) => Err(last_error()),
        }
    }

    /// Sends the datagrams of a refused train one by one.
    fn send_plainly(
        &mut self,
        sockets: &mut Sockets,
        socket: c_int,
        train: Message,
        memory: &[u8],
        report: &mut impl FnMut(u32, usize, Sent),
    ) {
        for place in train.first..train.first + train.count {
            let departure = self.departure(place);
            let payload = &memory[departure.payload.clone()];
            let pieces = [&departure.head[..], payload, &PADDING[..departure.padding_bytes]];
            sockets.syscalls += 1;
            let sent = match send_pieces(socket, departure.to, departure.from, pieces) {
                Ok(()) => Sent::Plainly,
                Err(error) => Sent::Not(SendFailure::of(error)),
            };
            self.report(Message { first: place, count: 1 }, sent, report);
        }
    }

    fn report_sent(&mut self, message: Message, report: &mut impl FnMut(u32, usize, Sent)) {
        let is_train = message.count > 1;
        self.trains += u64::from(is_train);
        self.report(message, if is_train { Sent::InTrain } else { Sent::Plainly }, report);
    }

    fn report(&mut self, message: Message, sent: Sent, report: &mut impl FnMut(u32, usize, Sent)) {
        for place in message.first..message.first + message.count {
            let departure = self.departure(place);
            let destination = (departure.socket, departure.to);
            let is_too_long = departure.unfragmented && sent == Sent::Not(SendFailure::TooLong);
            report(departure.tag, departure.payload.len(), sent);
            if is_too_long && !self.too_long.is_full() && self.too_long.last() != Some(&destination)
            {
                self.too_long.push(destination);
            }
        }
    }
}

/// Whether an error may be about an earlier datagram: a socket that hears errors is told of one in
/// place of whatever it does next, once (`sock_error` of the kernel), and what it was asked to send
/// is still to be sent. The numbers are those that ICMP errors are turned into.
fn may_be_an_earlier_ones(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNREFUSED
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            | Errno::PROTO
            | Errno::MSGSIZE
            | Errno::ACCESS
    )
}

/// Whether a train failed for what only trains fail for, so that its datagrams may leave plainly:
/// what [`refuses_all_trains`] says, or a segment longer than the way takes unfragmented (`EINVAL`,
/// `EMSGSIZE`).
fn may_refuse_trains(error: Errno) -> bool {
    refuses_all_trains(error) || matches!(error, Errno::INVAL | Errno::MSGSIZE)
}

/// Whether every train to the same destination would fail: a device that cannot fill in checksums
/// (`EIO`), or a kernel without `UDP_SEGMENT`. What fails for its length does not say that, or one
/// client with long datagrams would take trains away from everybody behind that address.
fn refuses_all_trains(error: Errno) -> bool {
    matches!(error, Errno::IO | Errno::OPNOTSUPP | Errno::NOPROTOOPT)
}

/// Sends one datagram.
pub(super) fn send_one(
    socket: c_int,
    to: SocketAddr,
    from: Option<IpAddr>,
    bytes: &[u8],
) -> Result<(), Errno> {
    send_pieces(socket, to, from, [bytes, &[], &[]])
}

fn send_pieces(
    socket: c_int,
    to: SocketAddr,
    from: Option<IpAddr>,
    pieces: [&[u8]; PIECES_MAX],
) -> Result<(), Errno> {
    let mut slices = pieces.map(|piece| libc::iovec {
        iov_base: piece.as_ptr().cast_mut().cast(),
        iov_len: piece.len(),
    });
    let (mut name, name_bytes) = Name::of(to);
    let mut control = Control::EMPTY;
    let control_bytes = control.ask(from, None);
    let mut header = EMPTY_HEADER.msg_hdr;
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = name_bytes;
    header.msg_iov = slices.as_mut_ptr();
    header.msg_iovlen = slices.len();
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control_bytes;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header points to a name, slices and control messages on this stack, of the
    // lengths it says, and the slices to what was passed in; the kernel only reads them.
    // `datagrams_leave_from_the_address_that_is_asked_for` of `tests/ports/datagrams.rs` runs it.
    let send = || match unsafe { libc::sendmsg(socket, &raw const header, flags) } {
        ..0 => Err(last_error()),
        0.. => Ok(()),
    };
    match send() {
        Err(error) if may_be_an_earlier_ones(error) => send(),
        sent => sent,
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::set_option;
    use super::super::{Role, bind};
    use super::*;

    #[test]
    fn destinations_are_remembered_for_what_every_train_fails_for() {
        for error in [Errno::IO, Errno::OPNOTSUPP, Errno::NOPROTOOPT] {
            assert!(refuses_all_trains(error) && may_refuse_trains(error), "{error}");
        }
        for error in [Errno::INVAL, Errno::MSGSIZE] {
            assert!(!refuses_all_trains(error) && may_refuse_trains(error), "{error}");
        }
        for error in [Errno::NETUNREACH, Errno::PERM, Errno::AGAIN] {
            assert!(!may_refuse_trains(error), "{error}");
        }
    }

    #[test]
    fn remembered_destinations_take_no_trains() {
        let mut outgoing = Outgoing::new(UdpTier::Gso);
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        outgoing.plain_routes.insert(one);
        assert_eq!(outgoing.tier_of(one), UdpTier::Plain);
        assert_eq!(outgoing.tier_of(other), UdpTier::Gso);
    }

    /// A socket that sends without checksums takes no trains (`udp_send_skb` of the kernel), with
    /// the error that one for its length has.
    #[test]
    fn refused_trains_go_plainly() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = bind(any, Role::Relayed).unwrap();
        set_option(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let mut sockets = Sockets::new().unwrap();
        let socket = sockets.add(socket).unwrap();
        let peer = bind(any, Role::Relayed).unwrap();
        peer.set_nonblocking(false).unwrap();
        let to = peer.local_addr().unwrap();
        let mut outgoing = Outgoing::new(UdpTier::Gso);
        let memory: Vec<u8> = (0..60).collect();
        for round in 1..=2 {
            for start in (0..60).step_by(10) {
                outgoing.queue(Departure {
                    socket,
                    to,
                    from: None,
                    head: ArrayVec::new(),
                    payload: start..start + 10,
                    padding_bytes: 0,
                    unfragmented: false,
                    tag: 0,
                });
            }
            let mut sent = Vec::new();
            outgoing.send(&mut sockets, &memory, |_, _, what| sent.push(what));
            assert_eq!(sent, [Sent::Plainly; 6], "round {round}");
            assert_eq!((outgoing.trains(), outgoing.tier_of(to.ip())), ((0, round), UdpTier::Gso));
            for start in (0..60).step_by(10) {
                let mut buffer = [0; 64];
                let bytes = peer.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..bytes], memory[start..start + 10]);
            }
        }
    }
}
