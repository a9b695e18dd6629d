//! TURN clients that come over TCP: which streams of the core's port are theirs.
//!
//! Owned by one data core, part of its TURN server; `serving` drives it. Everything here is bounded:
//! streams of a core and of an address, memory for messages that were cut, blocks that wait for
//! clients, and the time that a client has to get an allocation. TLS would sit between a stream and
//! its [`Input`] and in front of its [`Output`]; nothing else here would have to know.

mod input;
mod output;
mod serving;

pub(in crate::core) use serving::Around;

use crate::block::BlockPool;
use crate::limits::{
    TURN_CUT_BYTES_MAX, TURN_DEADLINES_OF_ENDED_MAX, TURN_PAYLOAD_BLOCK_QUARTERS,
    TURN_REQUEST_BYTES_MAX, TURN_STREAM_BLOCK_QUARTERS,
};
use crate::port::arena::ReceiveBuffer;
use crate::port::{ListenerKey, StreamKey};
use input::Input;
use output::{Kind, Output};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, TcpStream};
use waystation_relay::drop_reason::DropReason;
use waystation_turn::limits::STREAM_MESSAGE_BYTES_MAX;
use waystation_turn::transport::FiveTuple;

/// How many TURN clients may come over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Streams of one core.
    pub streams_max: usize,
    /// Streams of one /32 of IPv4 or /64 of IPv6, on one core.
    pub streams_per_source_max: usize,
}

/// Whose an address is: an IPv4 address, or the /64 that one customer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source(u128);

impl Source {
    fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self(ip.to_ipv6_mapped().to_bits()),
            IpAddr::V6(ip) => Self(ip.to_bits() >> 64 << 64),
        }
    }
}

/// One client.
#[derive(Debug)]
struct ClientStream {
    tuple: FiveTuple,
    /// Tells the streams that had the same key apart.
    generation: u32,
    input: Input,
    /// What was received and not used up, and from where on.
    buffer: Option<(ReceiveBuffer, usize)>,
    output: Output,
    /// Whether it had an allocation at any time: strangers send nothing long.
    was_admitted: bool,
    /// Whether it had no allocation when its time was set.
    is_without: bool,
    /// On the list of those to be sent to.
    is_dirty: bool,
}

impl ClientStream {
    /// Bytes of the longest message that it may send.
    fn message_bytes_max(&self) -> usize {
        if self.was_admitted { STREAM_MESSAGE_BYTES_MAX } else { TURN_REQUEST_BYTES_MAX }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct ClientStreams {
    listeners: Vec<ListenerKey>,
    limits: StreamLimits,
    by_key: Vec<Option<Box<ClientStream>>>,
    open: usize,
    generation: u32,
    /// Streams of each source that has any.
    sources: HashMap<Source, usize>,
    /// New connections, which wait for the end of the burst that may have freed their keys.
    accepted: VecDeque<(TcpStream, SocketAddr)>,
    /// Streams with input that was not used up.
    waiting: VecDeque<(StreamKey, u32)>,
    /// Streams with something to send.
    dirty: Vec<StreamKey>,
    /// When each stream is looked at again, in the order of time: one entry for each, and no more
    /// of those that have ended than of those that are there, but for a few.
    deadlines: VecDeque<(u64, StreamKey, u32)>,
    /// Bytes of messages that were cut.
    cut_bytes: usize,
    /// Blocks that wait for clients or are on their way to them.
    blocks: usize,
}

impl ClientStreams {
    pub(super) fn new(listeners: Vec<ListenerKey>, limits: StreamLimits) -> Self {
        Self {
            listeners,
            limits,
            by_key: Vec::new(),
            open: 0,
            generation: 0,
            sources: HashMap::new(),
            accepted: VecDeque::new(),
            waiting: VecDeque::new(),
            dirty: Vec::new(),
            deadlines: VecDeque::new(),
            cut_bytes: 0,
            blocks: 0,
        }
    }

    /// Further listeners whose connections are clients.
    pub(super) fn listen_on(&mut self, listeners: &[ListenerKey]) {
        self.listeners.extend_from_slice(listeners);
    }

    pub(super) fn len(&self) -> usize {
        self.open
    }

    /// Whether input waits that the kernel will say nothing more about.
    pub(super) fn has_input(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        self.deadlines.front().map(|(due_ns, _, _)| *due_ns)
    }

    fn get_mut(&mut self, key: StreamKey) -> Option<&mut ClientStream> {
        self.by_key.get_mut(key.0 as usize)?.as_deref_mut()
    }

    fn is_current(&self, key: StreamKey, generation: u32) -> bool {
        let stream = self.by_key.get(key.0 as usize).and_then(Option::as_deref);
        stream.is_some_and(|stream| stream.generation == generation)
    }

    /// Whether one more client of this address may come.
    fn has_room_for(&self, remote: SocketAddr) -> Result<(), DropReason> {
        if self.open >= self.limits.streams_max {
            return Err(DropReason::TooManyConnections);
        }
        let of_source = self.sources.get(&Source::of(remote.ip())).copied().unwrap_or_default();
        if of_source >= self.limits.streams_per_source_max {
            return Err(DropReason::TurnStreamsPerSource);
        }
        Ok(())
    }

    fn insert(&mut self, key: StreamKey, tuple: FiveTuple, due_ns: u64) {
        let place = key.0 as usize;
        if self.by_key.len() <= place {
            self.by_key.resize_with(place + 1, || None);
        }
        self.generation = self.generation.wrapping_add(1);
        self.by_key[place] = Some(Box::new(ClientStream {
            tuple,
            generation: self.generation,
            input: Input::default(),
            buffer: None,
            output: Output::default(),
            was_admitted: false,
            is_without: true,
            is_dirty: false,
        }));
        self.open += 1;
        *self.sources.entry(Source::of(tuple.client.ip())).or_default() += 1;
        self.deadlines.push_back((due_ns, key, self.generation));
    }

    fn remove(&mut self, key: StreamKey) -> Option<Box<ClientStream>> {
        let stream = self.by_key.get_mut(key.0 as usize)?.take()?;
        self.open -= 1;
        let source = Source::of(stream.tuple.client.ip());
        if let Some(of_source) = self.sources.get_mut(&source) {
            *of_source -= 1;
            if *of_source == 0 {
                self.sources.remove(&source);
            }
        }
        self.cut_bytes -= stream.input.memory_bytes();
        self.blocks -= stream.output.blocks();
        self.forget_ended();
        Some(stream)
    }

    /// Who connects and leaves again and again would otherwise have an entry here for each time of
    /// the last minute.
    fn forget_ended(&mut self) {
        if self.deadlines.len() > 2 * self.open + TURN_DEADLINES_OF_ENDED_MAX {
            let mut deadlines = std::mem::take(&mut self.deadlines);
            deadlines.retain(|(_, key, generation)| self.is_current(*key, *generation));
            self.deadlines = deadlines;
        }
    }

    /// Whether what is for a client may take a block. All clients together have a part of the pool,
    /// so that those who do not read leave links the rest, and payload does not have all of that
    /// part, so that answers have some.
    fn may_take_block(&self, kind: Kind, pool: &BlockPool) -> bool {
        let quarters = match kind {
            Kind::Payload => TURN_PAYLOAD_BLOCK_QUARTERS,
            Kind::Answer => TURN_STREAM_BLOCK_QUARTERS,
        };
        self.blocks < (pool.in_use() + pool.available()) * quarters / 4
    }

    /// A stream whose time has come. The entries of those that have ended are dropped on the way.
    fn take_due(&mut self, now_ns: u64) -> Option<(StreamKey, u32)> {
        while let Some((_, key, generation)) =
            self.deadlines.pop_front_if(|(due_ns, _, _)| *due_ns <= now_ns)
        {
            if self.is_current(key, generation) {
                return Some((key, generation));
            }
        }
        None
    }

    /// Whether messages that were cut hold more memory than all of them may.
    fn holds_too_much(&self) -> bool {
        self.cut_bytes > TURN_CUT_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_turn::transport::Transport;

    fn streams() -> ClientStreams {
        let limits = StreamLimits { streams_max: 3, streams_per_source_max: 2 };
        ClientStreams::new(vec![ListenerKey(4)], limits)
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn tuple(client: &str) -> FiveTuple {
        let server = address("198.51.100.1:3478");
        FiveTuple { transport: Transport::Tcp, client: address(client), server }
    }

    #[test]
    fn streams_of_a_core_and_of_a_source_are_bounded() {
        let mut streams = streams();
        streams.insert(StreamKey(0), tuple("[2001:db8:0:1::1]:5"), 0);
        streams.insert(StreamKey(1), tuple("[2001:db8:0:1::2]:5"), 0);
        let neighbour = streams.has_room_for(address("[2001:db8:0:1::3]:5"));
        assert_eq!(neighbour, Err(DropReason::TurnStreamsPerSource));
        assert_eq!(streams.has_room_for(address("[2001:db8:0:2::3]:5")), Ok(()));
        streams.insert(StreamKey(7), tuple("192.0.2.1:5"), 0);
        let other = streams.has_room_for(address("192.0.2.2:5"));
        assert_eq!(other, Err(DropReason::TooManyConnections));
        assert!(streams.remove(StreamKey(1)).is_some());
        assert!(streams.remove(StreamKey(1)).is_none());
        assert_eq!(streams.has_room_for(address("[2001:db8:0:1::3]:5")), Ok(()));
        streams.remove(StreamKey(0));
        streams.remove(StreamKey(7));
        assert!(streams.sources.is_empty() && streams.len() == 0);
    }

    #[test]
    fn clients_that_come_and_go_leave_few_deadlines_behind() {
        let mut streams = streams();
        streams.insert(StreamKey(1), tuple("192.0.2.1:4"), 7);
        for _ in 0..10 * TURN_DEADLINES_OF_ENDED_MAX {
            streams.insert(StreamKey(0), tuple("192.0.2.1:5"), 8);
            streams.remove(StreamKey(0));
        }
        assert!(streams.deadlines.len() <= TURN_DEADLINES_OF_ENDED_MAX + 2);
        assert!(matches!(streams.take_due(8), Some((StreamKey(1), _))), "those there keep theirs");
        assert_eq!(streams.take_due(8), None);
    }

    #[test]
    fn answers_to_clients_leave_links_a_part_of_the_pool() {
        let (mut streams, mut pool) = (streams(), BlockPool::new(8));
        let _of_links = [pool.take(), pool.take()];
        for (blocks, payload, answer) in [(3, true, true), (4, false, true), (6, false, false)] {
            streams.blocks = blocks;
            assert_eq!(streams.may_take_block(Kind::Payload, &pool), payload, "{blocks}");
            assert_eq!(streams.may_take_block(Kind::Answer, &pool), answer, "{blocks}");
        }
    }

    #[test]
    fn deadlines_of_streams_that_have_ended_are_nobodys() {
        let mut streams = streams();
        streams.insert(StreamKey(0), tuple("192.0.2.1:5"), 10);
        streams.remove(StreamKey(0));
        streams.insert(StreamKey(0), tuple("192.0.2.1:6"), 20);
        assert_eq!(streams.next_deadline_ns(), Some(10));
        assert_eq!(streams.take_due(10), None);
        assert!(matches!(streams.take_due(20), Some((StreamKey(0), _))));
        assert_eq!(streams.next_deadline_ns(), None);
    }
}
