//! What must hold after every turn, and at the end.

use super::management::Standing;
use super::peers::{Ended, Peer};
use super::world::{BURST_BYTES, World};
use crate::core::DataCore;
use crate::core::connection::{Connection, Early, Phase, PipeHalf};
use crate::limits::PIPE_PENDING_MAX;
use crate::port::simulated::{Held, Phase as StreamPhase, Place, SimulatedPort, SocketId};
use crate::port::{CloseMode, Port, Segment, StreamKey};
use crate::timer::TICK_NS;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use waystation_relay::drop_reason::DropReason;

/// Drops of which not every one ends a connection that somebody was told of.
const ALSO_UNTOLD: [DropReason; 6] = [
    DropReason::TooManyConnections,
    DropReason::AcceptFailed,
    DropReason::MeshFull,
    DropReason::BufferExhausted,
    DropReason::PeerNotReading,
    DropReason::LinkClosedByOperator,
];

/// What a core's connections add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    half_open: usize,
    sockets: usize,
    pipe_halves: usize,
    dismissed: usize,
    handshakes: usize,
}

impl World {
    /// What holds between any two turns of a core.
    pub(super) fn check(&mut self, core: usize) {
        self.check_streams(core);
        let mut sums = Sums::default();
        let mut held = self.cores[core].port.held();
        let mut steps = Vec::new();
        for (slot, _, connection) in self.cores[core].connections.iter() {
            let Connection { timer_ns, deadline_ns, .. } = *connection;
            assert!(timer_ns <= deadline_ns && timer_ns < u64::MAX, "nothing ends {connection:?}");
            assert!(deadline_ns + TICK_NS > self.now_ns, "{connection:?} is late");
            let phase = &connection.phase;
            sums.half_open += usize::from(phase.is_half_open());
            sums.sockets += usize::from(phase.is_socket());
            match phase {
                Phase::Shaking(_) => sums.handshakes += 1,
                Phase::Dismissed => sums.dismissed += 1,
                Phase::Presented(early) | Phase::Waiting(early) => {
                    held.blocks += blocks_of(early, &mut steps);
                }
                Phase::Leaving(leaving) => held.blocks += blocks_of(&leaving.early, &mut steps),
                Phase::Pipe(half) => {
                    sums.pipe_halves += 1;
                    add_pending(half, &mut held);
                    self.check_half(core, slot, half);
                }
                _ => {}
            }
        }
        self.check_sums(core, &sums, held);
        self.check_paced(core);
        self.note_pipes(core);
        self.check_rates();
        steps.into_iter().for_each(|step| self.reach(step));
    }

    /// Every open stream belongs to one connection, and every connection to one open stream.
    fn check_streams(&self, core: usize) {
        let data_core = &self.cores[core];
        let mut owned = 0;
        for (key, socket, phase) in data_core.port.streams() {
            let place = Place::Port(core, key);
            assert_eq!(self.network.borrow().place(socket), place, "two owners of {socket:?}");
            let connection = connection_of(data_core, key);
            owned += usize::from(connection.is_some());
            let leaves = connection.is_some_and(|it| matches!(it.phase, Phase::Leaving(_)));
            match phase {
                StreamPhase::Open => assert!(connection.is_some(), "{socket:?} is an orphan"),
                StreamPhase::Detaching => assert!(connection.is_none() || leaves),
                StreamPhase::Closing | StreamPhase::Gone => assert!(connection.is_none()),
            }
        }
        assert_eq!(owned, data_core.connections.len(), "a connection without a stream");
        let places = data_core.by_stream.iter().flatten().count();
        assert_eq!(places, owned, "a stream key that leads nowhere");
    }

    /// A pipe has two halves, which name each other, and belong together.
    fn check_half(&self, core: usize, slot: u32, half: &PipeHalf) {
        let data_core = &self.cores[core];
        let Some(Connection { phase: Phase::Pipe(other), .. }) =
            data_core.connections.at(half.other)
        else {
            panic!("half a pipe");
        };
        assert_eq!(other.other, slot, "a pipe with three ends");
        assert_ne!(half.other, slot, "a pipe with one end");
        assert!(half.pending.len() <= PIPE_PENDING_MAX, "{half:?}");
        let by_ns = half.drained_by_ns;
        assert!(by_ns == 0 || by_ns + TICK_NS > self.now_ns, "kept waiting for too long");
        let (one, two) = (self.peer_at(core, slot), self.peer_at(core, half.other));
        assert_eq!(self.peers[one].partner, Some(two), "joined to another than it was told");
    }

    fn check_sums(&self, core: usize, sums: &Sums, held: Held) {
        let core = &self.cores[core];
        let counted = Sums {
            half_open: core.half_open,
            sockets: core.sockets,
            pipe_halves: core.pipe_halves,
            dismissed: core.dismissed,
            handshakes: sums.handshakes,
        };
        assert_eq!(&counted, sums);
        assert_eq!(core.blocks_in_use(), held.blocks, "blocks in use");
        let (total, free) = core.port.receive_buffers();
        // A handshake may keep what it has received for its turn.
        if sums.handshakes == 0 {
            assert_eq!(total - free, held.buffers, "receive buffers in use");
        }
    }

    /// Whoever waits for a quota is woken once.
    fn check_paced(&self, core: usize) {
        let core = &self.cores[core];
        let mut waiting = BTreeMap::new();
        for &Reverse((ready_ns, slot, generation)) in &core.paced {
            if core.connections.get(slot, generation).is_some() {
                assert_eq!(waiting.insert(slot, ready_ns), None, "woken twice");
            }
        }
        for (slot, _, connection) in core.connections.iter() {
            let ready_ns = match &connection.phase {
                Phase::Pipe(half) if half.ready_ns != 0 => Some(half.ready_ns),
                _ => None,
            };
            assert_eq!(ready_ns, waiting.get(&slot).copied(), "who waits for a quota");
        }
    }

    fn note_pipes(&mut self, core: usize) {
        let halves = self.cores[core].connections.iter().filter_map(|(slot, _, connection)| {
            let Phase::Pipe(half) = &connection.phase else { return None };
            let copied = half.pending.iter().any(|it| matches!(it.segment, Segment::Block { .. }));
            Some((slot, half.ended, half.drained_by_ns != 0, half.ready_ns != 0, copied))
        });
        let halves: Vec<_> = halves.collect();
        for (slot, ended, drains, is_paced, copied) in halves {
            let peer = self.peer_at(core, slot);
            self.peers[peer].whole |= ended;
            if is_paced {
                self.reach("paced");
            }
            if drains {
                self.reach("ended, and has yet to take what is left");
            }
            if std::mem::replace(&mut self.peers[peer].piped, true) {
                if copied {
                    self.reach("copied to a block");
                }
            } else if self.peers[peer].tags.len() == 2 {
                self.reach("pipe over two cores");
            } else {
                self.reach("pipe on one core");
            }
        }
    }

    /// No quota lets more pass than its rate, its burst and what each side receives at a time.
    fn check_rates(&self) {
        for (number, rate) in self.rates.iter().enumerate() {
            let mine = |peer: &&Peer| peer.rate == Some(number);
            let sides = self.peers.iter().filter(mine).count() as u64;
            let passed: u64 =
                self.peers.iter().filter(mine).map(|it| self.accepted_bytes(it)).sum();
            let elapsed_ns = self.now_ns - rate.since_ns;
            let earned = u128::from(rate.bytes_per_s) * u128::from(elapsed_ns) / 1_000_000_000;
            // The smallest burst of a fast quota is 20 ms of its rate; early bytes come at once.
            let burst = BURST_BYTES.max(rate.bytes_per_s / 50);
            let most = burst + 2 * sides * u64::from(self.buffer_bytes);
            assert!(u128::from(passed) <= earned + u128::from(most), "faster than its rate");
        }
    }

    /// Payload that its core has taken from a peer.
    fn accepted_bytes(&self, peer: &Peer) -> u64 {
        if let Some(ended) = peer.ended {
            return ended.bytes_in;
        }
        let Some(tag) = peer.tags.last() else { return 0 };
        let connections = &self.cores[tag.core.index()].connections;
        match connections.get(tag.slot, tag.generation) {
            Some(Connection { phase: Phase::Pipe(half), .. }) => half.bytes_in,
            Some(_) | None => 0,
        }
    }

    fn phase_of(&self, peer: &Peer) -> Option<&Phase> {
        let tag = peer.tags.last()?;
        let connections = &self.cores[tag.core.index()].connections;
        connections.get(tag.slot, tag.generation).map(|connection| &connection.phase)
    }

    fn peer_at(&self, core: usize, slot: u32) -> usize {
        let core = &self.cores[core];
        let key = core.connections.at(slot).and_then(|connection| connection.stream);
        let socket = core.port.streams().find(|(stream, _, _)| Some(*stream) == key);
        let (_, socket, _) = socket.expect("a stream of its own");
        self.peer_of_socket(socket)
    }

    fn peer_of_socket(&self, socket: SocketId) -> usize {
        self.peers.iter().position(|peer| peer.socket == socket).expect("a peer's socket")
    }

    // After all have read and all cores had time

    pub(super) fn check_everything_arrived(&mut self) {
        for core in 0..self.cores.len() {
            self.check_counters(core);
        }
        for peer in &self.peers {
            match self.phase_of(peer) {
                Some(Phase::Idle(_)) => {
                    assert_eq!(peer.standing, Standing::Idle, "a node nobody looks after");
                }
                Some(Phase::Presented(_)) => assert_eq!(peer.standing, Standing::Presented),
                Some(Phase::Waiting(_)) => {
                    let node = peer.partner.map(|node| &self.peers[node]);
                    let phase = node.and_then(|node| self.phase_of(node));
                    assert!(matches!(phase, Some(Phase::HandingOff(_))), "nobody is waited for");
                }
                Some(Phase::Leaving(_)) => panic!("a caller that does not leave"),
                Some(Phase::Pipe(_)) => self.check_pipe_moves(peer),
                Some(_) | None => {}
            }
        }
    }

    /// Everything that was sent into a pipe has come out, as far as somebody reads.
    fn check_pipe_moves(&self, peer: &Peer) {
        let partner = &self.peers[peer.partner.expect("the other side of a pipe")];
        if partner.stalled {
            return;
        }
        let received_bytes = partner.payload_received_bytes;
        if peer.end.is_none() && partner.end.is_none() && !peer.lies {
            assert_eq!(received_bytes, peer.payload_sent_bytes(), "still under way");
        }
        assert!(peer.stalled || peer.end.is_none(), "a pipe goes on after {:?}", peer.end);
    }

    fn check_counters(&mut self, core: usize) {
        let core = &mut self.cores[core];
        core.update_statistics();
        let counters = &core.fabric.statistics.counters;
        let phases = || core.connections.iter().map(|(_, _, connection)| &connection.phase);
        let sockets = phases().filter(|phase| phase.is_socket()).count();
        let halves = phases().filter(|phase| matches!(phase, Phase::Pipe(_))).count();
        assert_eq!(counters.sockets_open, sockets as u64);
        assert_eq!(counters.pipes_open * 2, halves as u64);
        let blocks_in_use = (counters.blocks_total - counters.blocks_free) as usize;
        assert_eq!(blocks_in_use, core.fabric.pool.in_use());
        let (total, free) = core.port.receive_buffers();
        let buffers = (counters.receive_buffers_total, counters.receive_buffers_free);
        assert_eq!(buffers, (total as u64, free as u64));
    }

    // At the end

    pub(super) fn check_nothing_is_left(&mut self) {
        for core in 0..self.cores.len() {
            self.check(core);
            self.check_counters(core);
            let core = &self.cores[core];
            assert_eq!(core.load(), (0, 0), "connections");
            assert!(core.port.is_at_rest(), "streams");
            assert_eq!(core.blocks_in_use(), 0, "blocks");
            let (total, free) = core.port.receive_buffers();
            assert_eq!(total, free, "receive buffers");
            assert_eq!(core.wheel.len(), 0, "timers");
            assert!(core.paced.is_empty(), "paced sides");
            assert_eq!(core.closing.len(), 0, "streams that are being closed");
        }
        for rate in &self.rates {
            assert_eq!(Arc::strong_count(&rate.quota), 1, "a quota is kept");
        }
        self.check_drops();
        for peer in 0..self.peers.len() {
            self.check_end(peer);
        }
    }

    /// Every drop that ends a connection was told, and every end by a drop was counted.
    fn check_drops(&self) {
        for reason in DropReason::ALL {
            let counts = self.cores.iter().map(|core| core.fabric.switch.drops().events(reason));
            let counted: u64 = counts.sum();
            let told = self.told.get(reason.name()).copied().unwrap_or_default();
            let known = counted == told || ALSO_UNTOLD.contains(&reason) && counted > told;
            assert!(known, "{}: {counted} counted, {told} told", reason.name());
        }
    }

    fn check_end(&mut self, number: usize) {
        let peer = &self.peers[number];
        let place = self.network.borrow().place(peer.socket);
        // A core drops a descriptor that it cannot put anywhere.
        assert!(matches!(place, Place::Nobody | Place::Core), "{place:?}");
        let known = peer.standing != Standing::Unknown;
        // The end of a caller that leaves its core is told by the next one.
        assert!(peer.ended.is_some() || peer.travels || !known, "an end that nobody was told of");
        let Some(partner) = peer.partner else { return };
        let other = &self.peers[partner];
        let (Some(mine), Some(theirs)) = (peer.ended, other.ended) else { return };
        let clean = mine.reason.is_none() && theirs.reason.is_none() && peer.piped;
        if clean {
            self.check_clean_end((peer, mine), (other, theirs));
        }
        let cut = |ended: Ended| ended.reason.is_some_and(|reason| reason != DropReason::PipeReset);
        if other.whole && peer.reads_to_the_end() && !cut(mine) && !cut(theirs) {
            assert_eq!(peer.payload_received_bytes, theirs.bytes_in, "its end overtook its bytes");
        }
        self.check_end_seen((peer, mine), (other, theirs));
        let steps = [
            ("both ways", peer.payload_received_bytes > 0 && other.payload_received_bytes > 0),
            ("ended cleanly", clean),
            ("ended cleanly with bytes for the side that ended", {
                clean && peer.whole && theirs.bytes_in > 0
            }),
            (
                "ended, and took nothing more",
                other.whole && theirs.reason.is_some() && { !cut(mine) && !cut(theirs) },
            ),
        ];
        for (step, _) in steps.into_iter().filter(|(_, reached)| *reached) {
            self.reach(step);
        }
    }

    /// A reset never looks like a clean end, and a clean end never like a reset.
    fn check_end_seen(&self, (peer, mine): (&Peer, Ended), (other, theirs): (&Peer, Ended)) {
        if !peer.reads_to_the_end() || !peer.piped {
            return;
        }
        let expected = match (mine.reason, theirs.reason) {
            (None, None) => CloseMode::Graceful,
            (None, Some(DropReason::PipeReset)) if !other.whole => CloseMode::Reset,
            _ => return,
        };
        let seen = self.network.borrow().end_seen(peer.socket);
        assert_eq!(seen, Some(expected), "how a peer sees the end");
    }

    /// A pipe that ended without a reason was ended by one side, all of whose bytes have arrived;
    /// and whatever was taken from either side has arrived at the other.
    fn check_clean_end(&self, (peer, mine): (&Peer, Ended), (other, theirs): (&Peer, Ended)) {
        let ended_it = |peer: &Peer, ended: Ended| {
            let whole = peer.lies || ended.bytes_in == peer.payload_sent_bytes();
            peer.end.is_some() && whole
        };
        assert!(ended_it(peer, mine) || ended_it(other, theirs), "nobody ended this pipe");
        assert_eq!((mine.bytes_in, theirs.bytes_in), (theirs.bytes_out, mine.bytes_out));
        if peer.reads_to_the_end() {
            assert_eq!(peer.payload_received_bytes, theirs.bytes_in, "bytes lost without a reason");
        }
    }
}

fn connection_of(core: &DataCore<SimulatedPort>, key: StreamKey) -> Option<&Connection> {
    let connection = core.connections.at(core.slot_of(key)?)?;
    assert_eq!(connection.stream, Some(key), "a stream of two connections");
    Some(connection)
}

fn blocks_of(early: &Early, steps: &mut Vec<&'static str>) -> usize {
    if early.block.is_some() {
        steps.push("early bytes");
    }
    usize::from(early.block.is_some())
}

fn add_pending(half: &PipeHalf, held: &mut Held) {
    for pending in &half.pending {
        match pending.segment {
            Segment::Block { .. } => held.blocks += 1,
            Segment::Receive { .. } => held.buffers += 1,
        }
    }
}
