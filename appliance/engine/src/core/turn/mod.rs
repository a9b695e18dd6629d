//! TURN on one data core: its own server, its own sockets, nothing shared but what
//! [`waystation_turn::sharing`] has.
//!
//! Each core has a socket on each listening address, and the kernel brings a client's datagrams to
//! the same one each time, so an allocation, its relayed addresses and its client are all of one
//! core. The core calls [`TurnServer::serve`] when its port says that datagrams are there, and
//! [`TurnServer::expire`] when a deadline has come. Relayed payload is sent from the memory it was
//! received into; only requests allocate. Clients that come over TCP are in [`streams`].

mod errors;
mod handing_over;
mod hosting;
mod listing;
mod paths;
mod streams;

pub use handing_over::TurnHandOver;
pub(super) use streams::Around;
pub use streams::StreamLimits;

use super::framed::SharedFrames;
use crate::clock;
use crate::fabric::Fabric;
use crate::limits::{DATAGRAM_BURSTS_PER_TURN, DATAGRAMS_PER_TURN};
use crate::port::Port;
use crate::port::datagrams::{
    BURST_MESSAGES, Burst, DatagramKey, Departure, Outgoing, SendFailure, Sent, Sockets, UdpTier,
};
use crate::snapshot::TurnSnapshot;
use hosting::{Hosting, Owner, Tally};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::Arc;
use streams::ClientStreams;
use waystation_relay::drop_reason::DropReason;
use waystation_turn::discard::Discard;
use waystation_turn::limits::{ANSWER_BYTES_MAX, NONCE_KEY_BYTES};
use waystation_turn::server::{
    AllocationId, ConfigError, Now, Outcome, Server, ServerConfig, ToClient, ToPeer,
};
use waystation_turn::sharing::Shared;
use waystation_turn::transport::{FiveTuple, Transport};
use zeroize::Zeroizing;

/// What the TURN server of one core is made of.
#[derive(Debug)]
pub struct TurnParts {
    /// A bound socket for each listening address.
    pub sockets: Vec<UdpSocket>,
    /// A listener for each address that clients connect to.
    pub listeners: Vec<TcpListener>,
    /// How many of them may.
    pub stream_limits: StreamLimits,
    /// With the ports that are this core's alone.
    pub server: ServerConfig,
    /// The same for all cores.
    pub nonce_key: Zeroizing<[u8; NONCE_KEY_BYTES]>,
    /// What all cores have in common.
    pub shared: Arc<Shared>,
    /// Relayed addresses that clients and peers know by another one: that one, and the one that
    /// this machine has.
    pub behind: Vec<(IpAddr, IpAddr)>,
    /// The best way datagrams may be sent.
    pub tier: UdpTier,
}

/// Why a core has no TURN server.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The kernel refuses a descriptor, or to watch one.
    #[error("sockets of the TURN server cannot be watched: {0}")]
    Watch(#[from] io::Error),
    /// The operator's numbers contradict each other.
    #[error("the TURN server cannot be configured so: {0}")]
    Config(#[from] ConfigError),
}

/// A socket that clients send to.
#[derive(Clone, Copy, Debug)]
struct Listener {
    key: DatagramKey,
    address: SocketAddr,
}

impl Listener {
    /// Whether what is sent to an address comes to it, since it is on all of that family.
    fn is_on_all_of(&self, server: SocketAddr) -> bool {
        self.address.ip().is_unspecified()
            && self.address.is_ipv4() == server.is_ipv4()
            && self.address.port() == server.port()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct TurnServer {
    server: Server,
    hosting: Hosting,
    listeners: Vec<Listener>,
    burst: Burst,
    outgoing: Outgoing,
    frames: SharedFrames,
    answer: Box<[u8; ANSWER_BYTES_MAX]>,
    streams: ClientStreams,
    /// The kernel may have more.
    has_more: bool,
    /// Whether datagrams are left where they are, because another process is to have them.
    is_paused: bool,
}

impl TurnServer {
    /// A server whose listeners the port accepts on; its sockets have to be watched by the port.
    /// `frames`: what it sends by with [`UdpTier::AfXdp`], if there are any.
    pub(super) fn new(
        parts: TurnParts,
        snapshot: &TurnSnapshot,
        frames: SharedFrames,
        port: &mut impl Port,
    ) -> Result<Self, TurnError> {
        let (allocations_max, channels_max) =
            (parts.server.allocations_max, parts.server.channels_max);
        let credentials = Arc::clone(&snapshot.credentials);
        let server = Server::sharing(parts.server, credentials, &parts.nonce_key, parts.shared)?;
        let mut sockets = Sockets::new()?;
        let mut listeners = Vec::with_capacity(parts.sockets.len());
        let mut owners = Vec::new();
        for (index, socket) in parts.sockets.into_iter().enumerate() {
            let address = socket.local_addr()?;
            let key = sockets.add(socket)?;
            listeners.push(Listener { key, address });
            // Listening addresses are few.
            owners.push(Owner::Listener(index));
        }
        let watched = parts.listeners.into_iter().map(|listener| port.add_listener(listener));
        let streams = ClientStreams::new(watched.collect::<io::Result<_>>()?, parts.stream_limits);
        let peers = Arc::clone(&snapshot.peers);
        let (frames, tier) = frames.of_tier(parts.tier);
        Ok(Self {
            server,
            hosting: Hosting::new(
                sockets,
                owners,
                peers,
                parts.behind,
                (allocations_max, channels_max),
            ),
            listeners,
            burst: Burst::new(),
            outgoing: Outgoing::new(tier),
            frames,
            answer: Box::new([0; ANSWER_BYTES_MAX]),
            streams,
            has_more: false,
            is_paused: false,
        })
    }

    /// The sockets, for the port to watch.
    pub(super) fn sockets(&self) -> &Sockets {
        &self.hosting.sockets
    }

    /// The kernel has said that there is something to receive.
    pub(super) fn note_ready(&mut self) {
        self.has_more = !self.is_paused;
    }

    /// Whether there may be something to receive without the kernel saying so again.
    pub(super) fn has_more(&self) -> bool {
        self.has_more || self.streams.has_input()
    }

    /// Makes no new allocations from now on; those that are there go on and are refreshed.
    pub(super) fn refuse_allocations(&mut self) {
        self.server.refuse_allocations();
    }

    /// Takes up other credentials and another policy. Permissions that it does not give end within
    /// the next turns; nothing is sent to such peers from now on.
    pub(super) fn adopt(&mut self, snapshot: &TurnSnapshot) {
        self.server.set_credentials(Arc::clone(&snapshot.credentials));
        // Most reloads leave the policy as it was, and looking at every permission takes long.
        if self.hosting.set_peers(Arc::clone(&snapshot.peers)) {
            self.server.recheck_peers();
        }
    }

    /// Receives and relays, up to a bound. Sockets that clients send to come first, so that busy
    /// relayed addresses do not keep a client from refreshing its allocation; the others have at
    /// least half of the bound and a burst.
    pub(super) fn serve(&mut self, now_ns: u64, fabric: &mut Fabric) {
        if !self.has_more {
            return;
        }
        let now = Now { monotonic_ns: now_ns, unix_s: clock::unix_s() };
        let mut budget = Budget::TURN;
        let share = Budget::of_listener(self.listeners.len());
        for index in 0..self.listeners.len() {
            let Some(&Listener { key, .. }) = self.listeners.get(index) else { break };
            let mut left = share;
            while left.is_left() {
                let datagrams = self.receive(key, now, fabric);
                left.spend(datagrams);
                budget.spend(datagrams);
                if self.burst.len() < BURST_MESSAGES {
                    break;
                }
            }
        }
        loop {
            let Some(key) = self.hosting.sockets.next_ready() else {
                self.has_more = false;
                return;
            };
            if self.hosting.sockets.has_errors() {
                // Of those that were too long, clients know.
                self.tell_icmp_errors(key, now, fabric);
            }
            let datagrams = self.receive(key, now, fabric);
            budget.spend(datagrams);
            if !budget.is_left() {
                return;
            }
        }
    }

    /// Receives a burst that came in frames to an address of ours, and relays it. Returns how many
    /// datagrams it had.
    pub(super) fn take_frames(
        &mut self,
        local: SocketAddr,
        now_ns: u64,
        fabric: &mut Fabric,
    ) -> usize {
        let now = Now { monotonic_ns: now_ns, unix_s: clock::unix_s() };
        self.frames.receive(&mut self.burst);
        match self.owner_of(local) {
            Some(Owner::Listener(index)) => self.take_from_clients(index, now, fabric),
            Some(Owner::Relayed(relayed)) => self.take_from_peers(relayed, now, fabric),
            // Closed since the program was told of it.
            None => (0..self.burst.len())
                .for_each(|_| fabric.count_drop(DropReason::TurnNoAllocation, 0)),
        }
        self.send(fabric);
        self.burst.len()
    }

    /// Whose an address of ours is. Frames to a socket on all addresses are told to which.
    fn owner_of(&mut self, local: SocketAddr) -> Option<Owner> {
        if let Some(owner) = self.hosting.owner_of(local) {
            return Some(owner);
        }
        let exactly = self.listeners.iter().position(|listener| listener.address == local);
        if let Some(index) = exactly {
            return Some(Owner::Listener(index));
        }
        let on_all = self.listeners.iter().position(|listener| listener.is_on_all_of(local))?;
        self.burst.note_local(local.ip());
        Some(Owner::Listener(on_all))
    }

    /// Receives a burst of a socket and relays it. Returns how many datagrams it had.
    fn receive(&mut self, key: DatagramKey, now: Now, fabric: &mut Fabric) -> u64 {
        let before = fabric.statistics.counters.udp_datagrams_received;
        self.hosting.sockets.receive(key, &mut self.burst);
        match self.hosting.owner(key) {
            Some(Owner::Listener(index)) => self.take_from_clients(index, now, fabric),
            Some(Owner::Relayed(relayed)) => self.take_from_peers(relayed, now, fabric),
            None => {}
        }
        self.send(fabric);
        self.tell_too_long(now, fabric);
        fabric.statistics.counters.udp_datagrams_received - before
    }

    /// When [`Self::expire`] or [`Self::serve_streams`] has something to do.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        let stream_ns = self.streams.next_deadline_ns();
        let allocation_ns = self.server.next_deadline_ns().filter(|_| !self.is_paused);
        allocation_ns.into_iter().chain(stream_ns).min()
    }

    /// Ends what has come to its end.
    pub(super) fn expire(&mut self, now_ns: u64) {
        let deadline_ns = self.server.next_deadline_ns().filter(|_| !self.is_paused);
        if deadline_ns.is_some_and(|deadline_ns| deadline_ns <= now_ns) {
            self.server.expire(now_ns, &mut self.hosting);
        }
    }

    /// How many allocations there are, for tests.
    #[cfg(test)]
    pub(super) fn allocations_len(&self) -> usize {
        self.server.allocations_len()
    }

    /// Brings counters up to date that are kept here.
    pub(super) fn update_counters(&self, counters: &mut crate::statistics::CoreCounters) {
        counters.turn_allocations_open = self.server.allocations_len() as u64;
        counters.turn_allocations_opened = self.hosting.opened();
        counters.turn_streams_open = self.streams.len() as u64;
        counters.udp_sockets_open = self.hosting.sockets.len() as u64;
        counters.udp_syscalls = self.hosting.sockets.syscalls();
        (counters.udp_trains_sent, counters.udp_trains_refused) = self.outgoing.trains();
    }

    // From clients

    fn take_from_clients(&mut self, index: usize, now: Now, fabric: &mut Fabric) {
        let Some(&listener) = self.listeners.get(index) else { return };
        for index in 0..self.burst.len() {
            let Some(arrival) = self.burst.arrival(index) else {
                fabric.count_drop(DropReason::SocketError, 0);
                continue;
            };
            fabric.statistics.counters.udp_messages_received += 1;
            let local = arrival.local.unwrap_or(listener.address.ip());
            let server = SocketAddr::new(local, listener.address.port());
            let tuple = FiveTuple { transport: Transport::Udp, client: arrival.source, server };
            for place in arrival.datagrams() {
                fabric.statistics.counters.udp_datagrams_received += 1;
                if self.outgoing.is_full() {
                    self.send(fabric);
                }
                self.take_from_client(listener, &tuple, arrival.local, place, now, fabric);
            }
        }
    }

    fn take_from_client(
        &mut self,
        listener: Listener,
        tuple: &FiveTuple,
        from: Option<IpAddr>,
        place: Range<usize>,
        now: Now,
        fabric: &mut Fabric,
    ) {
        let start = place.start;
        let packet = &self.burst.memory()[place];
        let outcome = self.server.receive(now, tuple, packet, &mut self.answer, &mut self.hosting);
        match outcome {
            Outcome::Answer { bytes, error } => {
                count_answer(fabric, error.is_some());
                let answer = &self.answer[..bytes];
                let sent = self.hosting.sockets.send(listener.key, tuple.client, from, answer);
                if let Err(failure) = sent {
                    fabric.count_drop(reason_of_failure(failure), bytes);
                }
            }
            Outcome::Relay(to_peer) => self.queue_to_peer(&to_peer, start, fabric),
            Outcome::Discard(discard) => count_discard(fabric, discard, packet.len()),
        }
    }

    /// Queues payload for a peer; the packet it lies in starts at a place of the memory.
    fn queue_to_peer(&mut self, to_peer: &ToPeer, start: usize, fabric: &mut Fabric) {
        let bytes = to_peer.payload.len();
        let Some(to) = self.hosting.destination(to_peer.peer) else {
            fabric.count_drop(DropReason::TurnPeerDenied, bytes);
            return;
        };
        let Some(socket) = self.hosting.relayed_socket(to_peer.allocation, to.is_ipv6()) else {
            fabric.count_drop(DropReason::TurnNoAllocation, bytes);
            return;
        };
        let Range { start: first, end } = to_peer.payload.clone();
        self.outgoing.queue(Departure {
            socket,
            to,
            from: None,
            head: Default::default(),
            payload: start + first..start + end,
            padding_bytes: 0,
            unfragmented: to_peer.dont_fragment,
            tag: tag(to_peer.allocation, Direction::ToPeer),
        });
    }

    // From peers

    fn take_from_peers(&mut self, relayed: SocketAddr, now: Now, fabric: &mut Fabric) {
        for index in 0..self.burst.len() {
            let Some(arrival) = self.burst.arrival(index) else {
                fabric.count_drop(DropReason::SocketError, 0);
                continue;
            };
            fabric.statistics.counters.udp_messages_received += 1;
            let peer = self.hosting.known_as(arrival.source);
            for place in arrival.datagrams() {
                fabric.statistics.counters.udp_datagrams_received += 1;
                if self.outgoing.is_full() {
                    self.send(fabric);
                }
                match self.server.receive_from_peer(now, relayed, peer, place.len()) {
                    Ok(to_client) => self.queue_to_client(&to_client, place, fabric),
                    Err(discard) => count_discard(fabric, discard, place.len()),
                }
            }
        }
    }

    fn queue_to_client(
        &mut self,
        to_client: &ToClient,
        payload: Range<usize>,
        fabric: &mut Fabric,
    ) {
        let client = to_client.client;
        if client.transport.is_stream() {
            return self.queue_to_stream(to_client, payload, fabric);
        }
        let (Some((socket, from)), Ok(head)) =
            (self.listening_socket(client.server), to_client.head.as_slice().try_into())
        else {
            fabric.count_drop(DropReason::TurnNoAllocation, payload.len());
            return;
        };
        self.outgoing.queue(Departure {
            socket,
            to: client.client,
            from,
            head,
            payload,
            padding_bytes: to_client.padding_bytes,
            unfragmented: false,
            tag: tag(to_client.allocation, Direction::ToClient),
        });
    }

    /// The socket of an address that clients send to, and where it has to send from.
    fn listening_socket(&self, server: SocketAddr) -> Option<(DatagramKey, Option<IpAddr>)> {
        let exactly = self.listeners.iter().find(|listener| listener.address == server);
        let exactly = exactly.map(|listener| (listener.key, None));
        exactly.or_else(|| {
            let on_all = self.listeners.iter().find(|listener| listener.is_on_all_of(server))?;
            Some((on_all.key, Some(server.ip())))
        })
    }

    // Both ways

    /// Sends what is queued, and counts what became of it.
    fn send(&mut self, fabric: &mut Fabric) {
        let Self { outgoing, hosting, frames, burst, .. } = self;
        send_queued(outgoing, hosting, frames, burst.memory(), fabric);
    }

    /// The same for payload that lies elsewhere.
    fn send_from(&mut self, memory: &[u8], fabric: &mut Fabric) {
        let Self { outgoing, hosting, frames, .. } = self;
        send_queued(outgoing, hosting, frames, memory, fabric);
    }
}

/// Sends what is queued, as frames where that can be.
fn send_queued(
    outgoing: &mut Outgoing,
    hosting: &mut Hosting,
    frames: &SharedFrames,
    memory: &[u8],
    fabric: &mut Fabric,
) {
    let Hosting { sockets, tallies, .. } = hosting;
    frames.send_queued(outgoing, sockets, memory, |tag, bytes, sent| {
        count_sent(fabric, tallies, tag, bytes, sent);
    });
}

/// Counts what became of a datagram.
fn count_sent(fabric: &mut Fabric, tallies: &mut [Tally], tag: u32, bytes: usize, sent: Sent) {
    let (allocation, direction) = of_tag(tag);
    if let Sent::Not(failure) = sent {
        fabric.count_drop(reason_of_failure(failure), bytes);
        return;
    }
    let counters = &mut fabric.statistics.counters;
    counters.count_way_out(sent);
    let (datagrams_total, bytes_total) = match direction {
        Direction::ToPeer => {
            (&mut counters.turn_datagrams_to_peers, &mut counters.turn_bytes_to_peers)
        }
        Direction::ToClient => {
            (&mut counters.turn_datagrams_to_clients, &mut counters.turn_bytes_to_clients)
        }
    };
    *datagrams_total += 1;
    *bytes_total += bytes as u64;
    if let Some(tally) = tallies.get_mut(allocation) {
        tally.count(direction, bytes, sent);
    }
}

/// What may still be received, counted in both ways that cost time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Budget {
    bursts: u64,
    datagrams: u64,
}

impl Budget {
    const TURN: Self =
        Self { bursts: DATAGRAM_BURSTS_PER_TURN as u64, datagrams: DATAGRAMS_PER_TURN as u64 };

    /// What each of so many listening sockets has before others come: half of a turn together.
    fn of_listener(listeners: usize) -> Self {
        let share = |whole: u64| (whole / 2 / listeners.max(1) as u64).max(1);
        Self { bursts: share(Self::TURN.bursts), datagrams: share(Self::TURN.datagrams) }
    }

    fn is_left(self) -> bool {
        self.bursts > 0 && self.datagrams > 0
    }

    /// Takes a burst of so many datagrams away.
    fn spend(&mut self, datagrams: u64) {
        self.bursts = self.bursts.saturating_sub(1);
        self.datagrams = self.datagrams.saturating_sub(datagrams);
    }
}

/// Which way payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToPeer,
    ToClient,
}

/// An allocation's place, and the direction in the lowest bit.
fn tag(allocation: AllocationId, direction: Direction) -> u32 {
    allocation.index << 1 | direction as u32
}

fn of_tag(tag: u32) -> (usize, Direction) {
    let direction = if tag & 1 == 0 { Direction::ToPeer } else { Direction::ToClient };
    ((tag >> 1) as usize, direction)
}

fn count_answer(fabric: &mut Fabric, is_refusal: bool) {
    let counters = &mut fabric.statistics.counters;
    counters.turn_answers += 1;
    counters.turn_refusals += u64::from(is_refusal);
}

fn count_discard(fabric: &mut Fabric, discard: Discard, bytes: usize) {
    match reason_of_discard(discard) {
        Some(reason) => fabric.count_drop(reason, bytes),
        None => fabric.statistics.counters.turn_keep_alives += 1,
    }
}

fn reason_of_failure(failure: SendFailure) -> DropReason {
    match failure {
        SendFailure::NoRoom => DropReason::UdpNoRoom,
        SendFailure::TooLong => DropReason::UdpTooLong,
        SendFailure::Unreachable => DropReason::UdpUnreachable,
        SendFailure::Closed => DropReason::TurnNoAllocation,
    }
}

/// What a discarded packet is counted as; a client that keeps its address translation alive has
/// lost nothing.
fn reason_of_discard(discard: Discard) -> Option<DropReason> {
    Some(match discard {
        Discard::KeepAlive => return None,
        Discard::NotTurn => DropReason::TurnNotTurn,
        Discard::Malformed => DropReason::TurnMalformed,
        Discard::UnknownMethod => DropReason::TurnUnknownMethod,
        Discard::UnexpectedResponse => DropReason::TurnUnexpectedResponse,
        Discard::BadIndication => DropReason::TurnBadIndication,
        Discard::NoAllocation => DropReason::TurnNoAllocation,
        Discard::NoPermission => DropReason::TurnNoPermission,
        Discard::NoChannel => DropReason::TurnNoChannel,
        Discard::BadChannelData => DropReason::TurnBadChannelData,
        Discard::ReplyLimit => DropReason::TurnReplyLimit,
        Discard::Oversize => DropReason::TurnOversize,
        Discard::IcmpType => DropReason::TurnIcmpType,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discarded_packets_are_counted_under_the_names_that_the_server_gives_them() {
        for discard in Discard::ALL {
            let name = reason_of_discard(discard).map_or("turn_keep_alive", DropReason::name);
            assert_eq!(name, discard.name());
        }
    }

    #[test]
    fn trains_use_up_a_turn_before_its_bursts_are() {
        let mut left = Budget::TURN;
        left.spend(256);
        assert!(left.is_left());
        left.spend(1024);
        assert!(!left.is_left() && left.bursts > 0);
        let mut single = Budget::TURN;
        (0..DATAGRAM_BURSTS_PER_TURN).for_each(|_| single.spend(1));
        assert!(!single.is_left() && single.datagrams > 0);
    }

    #[test]
    fn listening_sockets_share_half_of_a_turn_and_each_has_a_burst() {
        assert_eq!(Budget::of_listener(1), Budget { bursts: 8, datagrams: 256 });
        assert_eq!(Budget::of_listener(2), Budget { bursts: 4, datagrams: 128 });
        assert!(Budget::of_listener(1000).is_left());
    }

    #[test]
    fn tags_tell_allocations_and_directions_apart() {
        for index in [0, 1, 16_383] {
            for direction in [Direction::ToPeer, Direction::ToClient] {
                let allocation = AllocationId { index, generation: 7 };
                assert_eq!(of_tag(tag(allocation, direction)), (index as usize, direction));
            }
        }
    }
}
