//! Core to core: bounded rings of batches, one wake-up per turn, blocks that go home again.
//!
//! Each data core owns one [`MeshEnd`]. During a turn, payload and signals for another core are
//! copied into a batch, a block of the sender's pool, in order; the batch crosses at the end of the
//! turn, the receiver works through it, and the block returns to the pool it came from. Nothing
//! crosses per frame. Raw sockets and links change cores with their descriptors.

use crate::block::{Block, BlockPool};
use crate::core::moving::MovedLink;
use crate::limits::{BLOCKS_RESERVED, MESH_RING_BATCHES, MESH_RING_LINKS, MESH_RING_SOCKETS};
use crate::port::waker::Waker;
use crossbeam::queue::ArrayQueue;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LegTag, SocketTag};
use waystation_relay::leg::Signal;
use waystation_relay::limiting::Limit;
use waystation_relay::quota::Quota;

/// Bytes of the largest entry without payload.
const ENTRY_MAX_BYTES: usize = 40;
/// Bytes in front of the payload of a data entry: kind, leg, length, time.
const DATA_HEADER_BYTES: usize = 1 + 8 + 4 + 8;

/// Entries of one turn for one core.
#[derive(Debug)]
pub struct Batch {
    block: Block,
    bytes: usize,
}

/// A raw socket on its way to another core.
#[derive(Debug)]
pub struct MovedSocket {
    pub socket: TcpStream,
    pub remote: SocketAddr,
    pub local: SocketAddr,
    /// The idle connection it is to be joined to.
    pub idle: SocketTag,
    /// What it sent already.
    pub early: Option<Box<[u8]>>,
    pub quotas: PipeQuotas,
}

/// How fast each side of a raw pipe may send.
#[derive(Clone, Debug, Default)]
pub struct PipeQuotas {
    pub caller: Option<Arc<Quota>>,
    pub idle: Option<Arc<Quota>>,
}

/// One thing another core has sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    Signal(Signal),
    /// Payload for a leg, opened at `stamp_ns`.
    Payload {
        to: LegTag,
        stamp_ns: u64,
        bytes: &'a [u8],
    },
}

/// A data core's end of the rings to and from all others.
#[derive(Debug)]
pub struct MeshEnd {
    core: CoreId,
    outgoing: Vec<Option<Outgoing>>,
    incoming: Vec<Option<Incoming>>,
    batches_sent: u64,
    batches_received: u64,
}

#[derive(Debug)]
struct Outgoing {
    batches: Arc<ArrayQueue<Batch>>,
    returns: Arc<ArrayQueue<Block>>,
    sockets: Arc<ArrayQueue<MovedSocket>>,
    links: Arc<ArrayQueue<Box<MovedLink>>>,
    waker: Waker,
    open: Option<Batch>,
    /// Closed batches that found the ring full.
    outbox: VecDeque<Batch>,
    sent_something: bool,
}

#[derive(Debug)]
struct Incoming {
    batches: Arc<ArrayQueue<Batch>>,
    returns: Arc<ArrayQueue<Block>>,
    sockets: Arc<ArrayQueue<MovedSocket>>,
    links: Arc<ArrayQueue<Box<MovedLink>>>,
    /// Blocks that found the return ring full.
    stranded: Vec<Block>,
}

/// No block was left for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no block is left for another core")]
pub struct MeshExhausted;

/// Connects cores with these wakers, each with each.
pub fn connect(wakers: &[Waker]) -> Vec<MeshEnd> {
    let count = wakers.len();
    let mut ends: Vec<MeshEnd> = (0..count)
        .map(|core| MeshEnd {
            core: CoreId(u16::try_from(core).unwrap_or(u16::MAX)),
            outgoing: Vec::with_capacity(count),
            incoming: (0..count).map(|_| None).collect(),
            batches_sent: 0,
            batches_received: 0,
        })
        .collect();
    for from in 0..count {
        for (to, waker) in wakers.iter().enumerate() {
            if from == to {
                ends[from].outgoing.push(None);
                continue;
            }
            let batches = Arc::new(ArrayQueue::new(MESH_RING_BATCHES));
            // Twice the ring: what waits there and what the receiver is working through.
            let returns = Arc::new(ArrayQueue::new(2 * MESH_RING_BATCHES));
            let sockets = Arc::new(ArrayQueue::new(MESH_RING_SOCKETS));
            let links = Arc::new(ArrayQueue::new(MESH_RING_LINKS));
            ends[from].outgoing.push(Some(Outgoing {
                batches: Arc::clone(&batches),
                returns: Arc::clone(&returns),
                sockets: Arc::clone(&sockets),
                links: Arc::clone(&links),
                waker: waker.clone(),
                open: None,
                outbox: VecDeque::new(),
                sent_something: false,
            }));
            ends[to].incoming[from] =
                Some(Incoming { batches, returns, sockets, links, stranded: Vec::new() });
        }
    }
    ends
}

impl MeshEnd {
    /// This end's core.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Batches handed over so far.
    pub fn batches_sent(&self) -> u64 {
        self.batches_sent
    }

    /// Batches taken from the others' rings so far.
    pub fn batches_received(&self) -> u64 {
        self.batches_received
    }

    /// Adds a signal to the batch for its core.
    ///
    /// # Errors
    /// [`MeshExhausted`] when the pool has no block at all; the signal is lost.
    pub fn push_signal(
        &mut self,
        signal: Signal,
        pool: &mut BlockPool,
    ) -> Result<(), MeshExhausted> {
        let out = self.outgoing_mut(signal.core())?;
        let batch = out.batch_with(ENTRY_MAX_BYTES, 0, pool)?;
        batch.write_signal(signal);
        Ok(())
    }

    /// Adds payload for a leg on another core, cut over batches as needed.
    ///
    /// # Errors
    /// [`MeshExhausted`] when the pool has only its reserve left; what was added before stays, and
    /// the session cannot go on.
    pub fn push_payload(
        &mut self,
        to: LegTag,
        stamp_ns: u64,
        mut payload: &[u8],
        pool: &mut BlockPool,
    ) -> Result<(), MeshExhausted> {
        let out = self.outgoing_mut(to.core)?;
        while !payload.is_empty() {
            let batch = out.batch_with(DATA_HEADER_BYTES + 1, BLOCKS_RESERVED, pool)?;
            let room = batch.block.len() - batch.bytes - DATA_HEADER_BYTES;
            let (now, rest) = payload.split_at(payload.len().min(room));
            batch.write_payload(to, stamp_ns, now);
            payload = rest;
        }
        Ok(())
    }

    /// Sends a raw socket to another core.
    ///
    /// # Errors
    /// Gives the socket back when the ring is full or there is no such core.
    pub fn push_socket(&mut self, to: CoreId, moved: MovedSocket) -> Result<(), MovedSocket> {
        match self.outgoing.get_mut(to.index()) {
            Some(Some(out)) => {
                out.sent_something = true;
                out.sockets.push(moved)
            }
            Some(None) | None => Err(moved),
        }
    }

    /// Sends a link to another core. Half of the ring is kept for links that come back.
    ///
    /// # Errors
    /// Gives the link back when too many are on their way, or there is no such core.
    pub fn push_link(&mut self, to: CoreId, moved: Box<MovedLink>) -> Result<(), Box<MovedLink>> {
        match self.outgoing.get_mut(to.index()) {
            Some(Some(out)) if out.links.len() < MESH_RING_LINKS / 2 => {
                out.sent_something = true;
                out.links.push(moved)
            }
            Some(_) | None => Err(moved),
        }
    }

    /// Sends a link back to the core it came from.
    ///
    /// # Errors
    /// Gives the link back when the ring is full or there is no such core.
    pub fn return_link(&mut self, to: CoreId, moved: Box<MovedLink>) -> Result<(), Box<MovedLink>> {
        match self.outgoing.get_mut(to.index()) {
            Some(Some(out)) => {
                out.sent_something = true;
                out.links.push(moved)
            }
            Some(None) | None => Err(moved),
        }
    }

    /// Hands the turn's batches over and wakes their cores.
    pub fn flush(&mut self) {
        for out in self.outgoing.iter_mut().flatten() {
            out.outbox.extend(out.open.take());
            while let Some(batch) = out.outbox.pop_front() {
                if let Err(batch) = out.batches.push(batch) {
                    out.outbox.push_front(batch);
                    break;
                }
                self.batches_sent += 1;
                out.sent_something = true;
            }
            if std::mem::take(&mut out.sent_something) {
                out.waker.wake();
            }
        }
    }

    /// Whether batches wait for room in a ring.
    pub fn is_backed_up(&self) -> bool {
        self.outgoing.iter().flatten().any(|out| !out.outbox.is_empty())
    }

    /// Takes blocks back that other cores are done with.
    pub fn collect_returns(&mut self, pool: &mut BlockPool) {
        for out in self.outgoing.iter_mut().flatten() {
            while let Some(block) = out.returns.pop() {
                pool.give_back(block);
            }
        }
    }

    /// The next batch from a core.
    pub fn next_batch(&mut self, from: CoreId) -> Option<Batch> {
        let batch = self.incoming.get_mut(from.index())?.as_mut()?.batches.pop()?;
        self.batches_received += 1;
        Some(batch)
    }

    /// The next raw socket from a core.
    pub fn next_socket(&mut self, from: CoreId) -> Option<MovedSocket> {
        self.incoming.get_mut(from.index())?.as_mut()?.sockets.pop()
    }

    /// The next link from a core.
    pub fn next_link(&mut self, from: CoreId) -> Option<Box<MovedLink>> {
        self.incoming.get_mut(from.index())?.as_mut()?.links.pop()
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.outgoing.len()
    }

    /// Sends the block of a finished batch home.
    pub fn finish(&mut self, from: CoreId, batch: Batch) {
        let Some(Some(incoming)) = self.incoming.get_mut(from.index()) else { return };
        incoming.stranded.push(batch.block);
        while let Some(block) = incoming.stranded.pop() {
            if let Err(block) = incoming.returns.push(block) {
                incoming.stranded.push(block);
                break;
            }
        }
    }

    fn outgoing_mut(&mut self, to: CoreId) -> Result<&mut Outgoing, MeshExhausted> {
        match self.outgoing.get_mut(to.index()) {
            Some(Some(out)) => Ok(out),
            Some(None) | None => Err(MeshExhausted),
        }
    }
}

impl Outgoing {
    /// The open batch, with room for `bytes`; a new one from the pool if need be.
    fn batch_with(
        &mut self,
        bytes: usize,
        reserve_blocks: usize,
        pool: &mut BlockPool,
    ) -> Result<&mut Batch, MeshExhausted> {
        let fits = self.open.as_ref().is_some_and(|open| open.bytes + bytes <= open.block.len());
        if !fits {
            if pool.available() <= reserve_blocks {
                return Err(MeshExhausted);
            }
            let block = pool.take().ok_or(MeshExhausted)?;
            self.outbox.extend(self.open.replace(Batch { block, bytes: 0 }));
        }
        self.open.as_mut().ok_or(MeshExhausted)
    }
}

const KIND_PAYLOAD: u8 = 0;
const KIND_OFFERED: u8 = 1;
const KIND_ACCEPTED: u8 = 2;
const KIND_REJECTED: u8 = 3;
const KIND_END: u8 = 4;
const KIND_CONSUMED: u8 = 5;
const KIND_ABORT: u8 = 6;
const KIND_JOINED: u8 = 7;
const KIND_LIMITED: u8 = 8;
const KIND_FREEZE: u8 = 9;
const KIND_FROZEN: u8 = 10;
const KIND_FREEZE_REFUSED: u8 = 11;
const KIND_THAWED: u8 = 12;

impl Batch {
    fn write(&mut self, bytes: &[u8]) {
        self.block[self.bytes..self.bytes + bytes.len()].copy_from_slice(bytes);
        self.bytes += bytes.len();
    }

    fn write_head(&mut self, kind: u8, to: LegTag) {
        self.write(&[kind]);
        self.write(&to.slot.to_ne_bytes());
        self.write(&to.generation.to_ne_bytes());
    }

    fn write_payload(&mut self, to: LegTag, stamp_ns: u64, payload: &[u8]) {
        self.write_head(KIND_PAYLOAD, to);
        let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.write(&bytes.to_ne_bytes());
        self.write(&stamp_ns.to_ne_bytes());
        self.write(payload);
    }

    fn write_from(&mut self, from: LegTag) {
        self.write(&from.core.0.to_ne_bytes());
        self.write(&from.slot.to_ne_bytes());
        self.write(&from.generation.to_ne_bytes());
    }

    fn write_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Offered { to, from, link } => {
                self.write_head(KIND_OFFERED, to);
                self.write_from(from);
                self.write(&link.to_ne_bytes());
            }
            Signal::Joined { to, core, link } => {
                self.write_head(KIND_JOINED, to);
                self.write(&core.0.to_ne_bytes());
                self.write(&link.to_ne_bytes());
            }
            Signal::Accepted { to, from } => {
                self.write_head(KIND_ACCEPTED, to);
                self.write_from(from);
            }
            Signal::Rejected { to, code, reason } => {
                self.write_head(KIND_REJECTED, to);
                let reason = reason.and_then(|reason| u8::try_from(reason.index()).ok());
                self.write(&[code, reason.unwrap_or(u8::MAX)]);
            }
            Signal::End { to } => self.write_head(KIND_END, to),
            Signal::Abort { to } => self.write_head(KIND_ABORT, to),
            Signal::Consumed { to, bytes } => {
                self.write_head(KIND_CONSUMED, to);
                self.write(&bytes.to_ne_bytes());
            }
            Signal::Limited { to, from, limit } => {
                self.write_head(KIND_LIMITED, to);
                self.write_from(from);
                self.write(&[limit.map_or(u8::MAX, |limit| limit as u8)]);
            }
            Signal::Freeze { to, from, round } => {
                self.write_head(KIND_FREEZE, to);
                self.write_from(from);
                self.write(&round.to_ne_bytes());
            }
            Signal::Frozen { to, round } => {
                self.write_head(KIND_FROZEN, to);
                self.write(&round.to_ne_bytes());
            }
            Signal::FreezeRefused { to, round } => {
                self.write_head(KIND_FREEZE_REFUSED, to);
                self.write(&round.to_ne_bytes());
            }
            Signal::Thawed { to, was, from, link } => {
                self.write_head(KIND_THAWED, to);
                self.write_from(was);
                self.write_from(from);
                self.write(&link.to_ne_bytes());
            }
        }
    }

    /// The entries for `core`, the core that received this batch, in order.
    pub fn entries(&self, core: CoreId) -> Entries<'_> {
        Entries { core, rest: &self.block[..self.bytes] }
    }
}

/// Iterates over the entries of a batch.
#[derive(Debug)]
pub struct Entries<'a> {
    core: CoreId,
    rest: &'a [u8],
}

impl<'a> Entries<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (now, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*now)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.array()?))
    }

    fn from(&mut self) -> Option<LegTag> {
        let core = CoreId(u16::from_ne_bytes(self.array()?));
        Some(LegTag { core, slot: self.u32()?, generation: self.u32()? })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let [kind] = self.array()?;
        let to = LegTag { core: self.core, slot: self.u32()?, generation: self.u32()? };
        let signal = match kind {
            KIND_PAYLOAD => {
                let bytes = self.u32()? as usize;
                let stamp_ns = u64::from_ne_bytes(self.array()?);
                let (payload, rest) = self.rest.split_at_checked(bytes)?;
                self.rest = rest;
                return Some(Entry::Payload { to, stamp_ns, bytes: payload });
            }
            KIND_OFFERED => Signal::Offered { to, from: self.from()?, link: self.u32()? },
            KIND_JOINED => {
                let core = CoreId(u16::from_ne_bytes(self.array()?));
                Signal::Joined { to, core, link: self.u32()? }
            }
            KIND_ACCEPTED => Signal::Accepted { to, from: self.from()? },
            KIND_REJECTED => {
                let [code, reason] = self.array()?;
                let reason = DropReason::ALL.get(usize::from(reason)).copied();
                Signal::Rejected { to, code, reason }
            }
            KIND_END => Signal::End { to },
            KIND_ABORT => Signal::Abort { to },
            KIND_CONSUMED => Signal::Consumed { to, bytes: self.u32()? },
            KIND_LIMITED => {
                let from = self.from()?;
                let [limit] = self.array()?;
                let limit = Limit::ALL.get(usize::from(limit)).copied();
                Signal::Limited { to, from, limit }
            }
            KIND_FREEZE => Signal::Freeze { to, from: self.from()?, round: self.u32()? },
            KIND_FROZEN => Signal::Frozen { to, round: self.u32()? },
            KIND_FREEZE_REFUSED => Signal::FreezeRefused { to, round: self.u32()? },
            KIND_THAWED => {
                let (was, from) = (self.from()?, self.from()?);
                Signal::Thawed { to, was, from, link: self.u32()? }
            }
            other => unreachable!("a batch of this process has no entry of kind {other}"),
        };
        Some(Entry::Signal(signal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(core: u16, slot: u32) -> LegTag {
        LegTag { core: CoreId(core), slot, generation: slot + 1 }
    }

    fn two_cores() -> (MeshEnd, MeshEnd) {
        let wakers = [Waker::new().unwrap(), Waker::new().unwrap()];
        let mut ends = connect(&wakers).into_iter();
        (ends.next().unwrap(), ends.next().unwrap())
    }

    #[test]
    fn entries_arrive_in_order_and_blocks_go_home() {
        let (mut one, mut two) = two_cores();
        let mut pool = BlockPool::new(64);
        let signals = [
            Signal::Offered { to: leg(1, 5), from: leg(0, 6), link: 3 },
            Signal::Joined { to: leg(1, 6), core: CoreId(0), link: 4 },
            Signal::Accepted { to: leg(1, 5), from: leg(0, 6) },
            Signal::Rejected { to: leg(1, 7), code: 9, reason: Some(DropReason::TargetTimeout) },
            Signal::Rejected { to: leg(1, 7), code: 255, reason: None },
            Signal::Consumed { to: leg(1, 5), bytes: 77 },
            Signal::Freeze { to: leg(1, 8), from: leg(0, 2), round: 12 },
            Signal::Frozen { to: leg(1, 8), round: 12 },
            Signal::FreezeRefused { to: leg(1, 8), round: 13 },
            Signal::Thawed { to: leg(1, 8), was: leg(0, 2), from: leg(2, 9), link: 6 },
            Signal::End { to: leg(1, 5) },
            Signal::Abort { to: leg(1, 5) },
            Signal::Limited { to: leg(1, 5), from: leg(0, 2), limit: Some(Limit::Credit) },
            Signal::Limited { to: leg(1, 5), from: leg(0, 2), limit: None },
        ];
        for signal in signals {
            one.push_signal(signal, &mut pool).unwrap();
            one.push_payload(leg(1, 5), 42, b"payload", &mut pool).unwrap();
        }
        one.flush();
        let batch = two.next_batch(CoreId(0)).unwrap();
        let mut entries = batch.entries(CoreId(1));
        for signal in signals {
            assert_eq!(entries.next(), Some(Entry::Signal(signal)));
            let payload = Entry::Payload { to: leg(1, 5), stamp_ns: 42, bytes: b"payload" };
            assert_eq!(entries.next(), Some(payload));
        }
        assert_eq!(entries.next(), None);
        two.finish(CoreId(0), batch);
        assert_eq!(pool.in_use(), 1);
        one.collect_returns(&mut pool);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn payload_larger_than_a_block_is_cut_and_arrives_whole() {
        let (mut one, mut two) = two_cores();
        let mut pool = BlockPool::new(64);
        let payload: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
        one.push_payload(leg(1, 1), 0, &payload, &mut pool).unwrap();
        one.flush();
        let mut got = Vec::new();
        while let Some(batch) = two.next_batch(CoreId(0)) {
            for entry in batch.entries(CoreId(1)) {
                let Entry::Payload { bytes, .. } = entry else { panic!("{entry:?}") };
                got.extend_from_slice(bytes);
            }
            two.finish(CoreId(0), batch);
        }
        assert_eq!(got, payload);
    }

    #[test]
    fn full_ring_keeps_batches_until_the_other_core_takes_some() {
        let (mut one, mut two) = two_cores();
        let mut pool = BlockPool::new(MESH_RING_BATCHES + 10 + BLOCKS_RESERVED);
        for _ in 0..MESH_RING_BATCHES + 5 {
            one.push_payload(leg(1, 1), 0, b"x", &mut pool).unwrap();
            one.flush();
        }
        assert!(one.is_backed_up());
        let mut count = 0;
        while let Some(batch) = two.next_batch(CoreId(0)) {
            count += batch.entries(CoreId(1)).count();
            two.finish(CoreId(0), batch);
            one.collect_returns(&mut pool);
            one.flush();
        }
        assert_eq!(count, MESH_RING_BATCHES + 5);
        one.collect_returns(&mut pool);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn payload_leaves_the_reserve_to_signals() {
        let (mut one, _two) = two_cores();
        let mut pool = BlockPool::new(BLOCKS_RESERVED);
        assert_eq!(one.push_payload(leg(1, 1), 0, b"x", &mut pool), Err(MeshExhausted));
        assert_eq!(one.push_signal(Signal::End { to: leg(1, 1) }, &mut pool), Ok(()));
    }
}
