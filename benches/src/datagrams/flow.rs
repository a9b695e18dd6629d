//! The generator: one thread that sends the datagrams of all flows and receives them again.
//!
//! Owns the sockets of both ends of every flow, and never waits: it is to keep the relay busy. A
//! flow has so many datagrams under way; a lost one is noticed by the next that comes, or when
//! nothing has come for a while, and counted.

use crate::load::clock::{Clock, thread_processor_ns};
use crate::load::message::{HEADER_BYTES, Pattern};
use crate::load::processor::{Spent, Watched};
use anyhow::{Context, Result, bail, ensure};
use arrayvec::ArrayVec;
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use waystation_engine::port::datagrams::{
    Burst, DEPARTURES_MAX, DatagramKey, Departure, Outgoing, Sent, Sockets, UdpTier,
};
use waystation_turn::channel_data::{ChannelNumber, header, parse};

/// When nothing of a flow has come for so long, what was under way is lost. A relay that shares its
/// processor with others may not run for a good part of it.
pub(crate) const PATIENCE_NS: u64 = 5_000_000_000;
/// More lost ones than this share end a round with an error: its figures would be of another load.
pub(crate) const LOST_SHARE_MAX: f64 = 0.01;

/// What all flows of a contender are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramShape {
    pub flows: u32,
    pub message_bytes: usize,
    /// Datagrams of a flow that are under way at a time, a multiple of `train`.
    pub in_flight: u32,
    /// Datagrams that are sent in one piece; 1: each by itself.
    pub train: u32,
}

/// One flow: who sends to whom, and how it is framed on its way.
#[derive(Debug)]
pub struct Way {
    pub sender: UdpSocket,
    pub to: SocketAddr,
    /// Where the receiver has them from.
    pub comes_from: SocketAddr,
    /// The channel that the sender's datagrams are framed for.
    pub sent_in: Option<ChannelNumber>,
    pub receiver: UdpSocket,
    /// The channel that they come in.
    pub received_in: Option<ChannelNumber>,
}

/// What came of one round.
#[derive(Clone, Copy, Debug)]
pub struct DatagramRound {
    pub messages: u64,
    pub lost: u64,
    pub seconds: f64,
    pub spent: Spent,
    pub generator_ns: u64,
    /// Datagrams of a flood beside it.
    pub flooded: u64,
}

#[derive(Debug)]
struct Flow {
    sender: DatagramKey,
    to: SocketAddr,
    head: ArrayVec<u8, 64>,
    received_in: Option<ChannelNumber>,
    pattern: Pattern,
    /// Where its datagrams are in the generator's memory, one for each that is under way.
    place: usize,
    /// Number of the next datagram that is sent, and of the next that is to come.
    next: u64,
    expected: u64,
    moved_ns: u64,
    came: u64,
    lost: u64,
}

/// See the module.
#[derive(Debug)]
pub struct DatagramFlows {
    shape: DatagramShape,
    clock: Clock,
    sockets: Sockets,
    outgoing: Outgoing,
    burst: Burst,
    memory: Vec<u8>,
    scratch: Vec<u8>,
    flows: Vec<Flow>,
    by_receiver: BTreeMap<DatagramKey, usize>,
}

impl DatagramFlows {
    /// Takes over the sockets of the ways, which do not block from then on.
    ///
    /// # Errors
    ///
    /// When the shape cannot be, or the kernel refuses.
    pub fn new(ways: Vec<Way>, shape: DatagramShape, clock: Clock) -> Result<Self> {
        let in_flight = usize::try_from(shape.in_flight)?;
        ensure!(shape.message_bytes >= HEADER_BYTES, "too short for a numbered message");
        ensure!(ways.len() * in_flight <= DEPARTURES_MAX, "more under way than can be queued");
        ensure!(shape.train > 0 && shape.in_flight.is_multiple_of(shape.train), "odd trains");
        let mut flows = Self {
            shape,
            clock,
            sockets: Sockets::new()?,
            outgoing: Outgoing::new(if shape.train > 1 { UdpTier::Gso } else { UdpTier::Plain }),
            burst: Burst::new(),
            memory: vec![0; ways.len() * in_flight * shape.message_bytes],
            scratch: Vec::new(),
            flows: Vec::new(),
            by_receiver: BTreeMap::new(),
        };
        for (number, way) in ways.into_iter().enumerate() {
            flows.add(number, way)?;
        }
        Ok(flows)
    }

    fn add(&mut self, number: usize, way: Way) -> Result<()> {
        let bytes = self.shape.message_bytes;
        let mut head = ArrayVec::new();
        if let Some(channel) = way.sent_in {
            let framing = header(channel, bytes).context("too long for a channel")?;
            head.try_extend_from_slice(&framing)?;
        }
        way.sender.set_nonblocking(true)?;
        way.receiver.set_nonblocking(true)?;
        let flow = Flow {
            sender: self.sockets.add(way.sender)?,
            to: way.to,
            head,
            received_in: way.received_in,
            pattern: Pattern::new(u32::try_from(number)?, bytes),
            place: number * usize::try_from(self.shape.in_flight)? * bytes,
            next: 0,
            expected: 0,
            moved_ns: self.clock.now_ns(),
            came: 0,
            lost: 0,
        };
        let receiver = self.sockets.add(way.receiver)?;
        self.by_receiver.insert(receiver, self.flows.len());
        self.flows.push(flow);
        Ok(())
    }

    /// Datagrams compared so far.
    pub fn messages_checked(&self) -> u64 {
        self.flows.iter().map(|flow| flow.came).sum()
    }

    /// One round. Nothing is under way when it ends.
    ///
    /// # Errors
    ///
    /// When a datagram was changed, or more than a few were lost.
    pub fn round(
        &mut self,
        warm_up: Duration,
        measured: Duration,
        watched: &Watched,
    ) -> Result<DatagramRound> {
        self.run_for(warm_up)?;
        let (came, lost) = (self.messages_checked(), self.lost());
        let (began_ns, generator_ns) = (self.clock.now_ns(), thread_processor_ns());
        let before = watched.read()?;
        self.run_for(measured)?;
        let spent = watched.read()?.since(&before);
        let round = DatagramRound {
            messages: self.messages_checked() - came,
            lost: self.lost() - lost,
            seconds: (self.clock.now_ns() - began_ns) as f64 / 1e9,
            spent,
            generator_ns: thread_processor_ns() - generator_ns,
            flooded: 0,
        };
        self.drain()?;
        ensure!(round.messages > 0, "nothing came in {:.1} s", round.seconds);
        let share = round.lost as f64 / (round.messages + round.lost) as f64;
        ensure!(share <= LOST_SHARE_MAX, "{:.1} % were lost", 100.0 * share);
        Ok(round)
    }

    fn lost(&self) -> u64 {
        self.flows.iter().map(|flow| flow.lost).sum()
    }

    fn run_for(&mut self, time: Duration) -> Result<()> {
        let until_ns = self.clock.now_ns() + u64::try_from(time.as_nanos())?;
        let mut now_ns = self.clock.now_ns();
        // What was under way before the pause between rounds is not late.
        self.flows.iter_mut().for_each(|flow| flow.moved_ns = now_ns);
        while now_ns < until_ns {
            self.send()?;
            self.receive(now_ns)?;
            now_ns = self.clock.now_ns();
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        while self.flows.iter().any(|flow| flow.expected < flow.next) {
            self.receive(self.clock.now_ns())?;
        }
        Ok(())
    }

    /// Sends what each flow may have under way.
    fn send(&mut self) -> Result<()> {
        let (in_flight, train) = (u64::from(self.shape.in_flight), u64::from(self.shape.train));
        for index in 0..self.flows.len() {
            let flow = &self.flows[index];
            let room = in_flight - (flow.next - flow.expected);
            for _ in 0..room - room % train {
                self.queue_of(index)?;
            }
        }
        self.send_queued()
    }

    /// Queues the next datagram of a flow.
    fn queue_of(&mut self, index: usize) -> Result<()> {
        let in_flight = u64::from(self.shape.in_flight);
        let flow = self.flows.get_mut(index).context("no such flow")?;
        let departure = flow.departure(in_flight, &mut self.scratch, &mut self.memory)?;
        self.outgoing.queue(departure);
        Ok(())
    }

    fn send_queued(&mut self) -> Result<()> {
        let mut failure = None;
        self.outgoing.send(&mut self.sockets, &self.memory, |_, _, sent| {
            if let Sent::Not(error) = sent {
                failure = Some(error);
            }
        });
        match failure {
            Some(error) => bail!("the generator cannot send: {error}"),
            None => Ok(()),
        }
    }

    /// Takes what has come, and gives up on what has not for long.
    fn receive(&mut self, now_ns: u64) -> Result<()> {
        while let Some(key) = self.sockets.next_ready() {
            self.sockets.receive(key, &mut self.burst);
            let flow = self.by_receiver.get(&key).and_then(|at| self.flows.get_mut(*at));
            // What comes to a sender is of the relay's own: none of it is waited for.
            let Some(flow) = flow else { continue };
            for index in 0..self.burst.len() {
                let arrival = self.burst.arrival(index).context("a datagram was cut")?;
                for place in arrival.datagrams() {
                    flow.arrived(self.burst.memory().get(place).unwrap_or_default(), now_ns)?;
                }
            }
        }
        for flow in &mut self.flows {
            if flow.expected < flow.next && now_ns.saturating_sub(flow.moved_ns) > PATIENCE_NS {
                flow.lost += flow.next - flow.expected;
                (flow.expected, flow.moved_ns) = (flow.next, now_ns);
            }
        }
        Ok(())
    }
}

impl Flow {
    fn departure(
        &mut self,
        in_flight: u64,
        scratch: &mut Vec<u8>,
        memory: &mut [u8],
    ) -> Result<Departure> {
        let bytes = self.pattern.message_bytes();
        self.pattern.write(self.next, 0, 0, scratch);
        let start = self.place + usize::try_from(self.next % in_flight)? * bytes;
        let payload = start..start + bytes;
        memory.get_mut(payload.clone()).context("a place outside")?.copy_from_slice(scratch);
        self.next += 1;
        let (socket, to, head) = (self.sender, self.to, self.head.clone());
        let (from, padding_bytes, unfragmented, tag) = (None, 0, false, 0);
        Ok(Departure { socket, to, from, head, payload, padding_bytes, unfragmented, tag })
    }

    fn arrived(&mut self, datagram: &[u8], now_ns: u64) -> Result<()> {
        let message = match self.received_in {
            None => datagram,
            Some(channel) => {
                let Some((came_in, place)) = parse(datagram) else {
                    // STUN, of which a relay may send some.
                    return Ok(());
                };
                ensure!(came_in == channel, "a message came in {came_in:?}, not {channel:?}");
                datagram.get(place).unwrap_or_default()
            }
        };
        let number = message.first_chunk().context("a message without a number")?;
        let number = u64::from_be_bytes(*number);
        ensure!(number < self.next, "message {number} came before it was sent");
        self.pattern.check(number, message)?;
        // An earlier one has been given up on.
        if number >= self.expected {
            self.lost += number - self.expected;
            self.came += 1;
            (self.expected, self.moved_ns) = (number + 1, now_ns);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagrams::forwarder::DatagramForwarder;

    const SHAPE: DatagramShape =
        DatagramShape { flows: 2, message_bytes: 500, in_flight: 32, train: 16 };

    fn socket() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").unwrap()
    }

    /// A way through a socket of somebody between.
    fn way() -> (Way, (UdpSocket, SocketAddr)) {
        let (sender, between, receiver) = (socket(), socket(), socket());
        let (to, then) = (between.local_addr().unwrap(), receiver.local_addr().unwrap());
        let comes_from = to;
        (
            Way { sender, to, comes_from, sent_in: None, receiver, received_in: None },
            (between, then),
        )
    }

    #[test]
    fn every_datagram_through_the_forwarder_is_compared() {
        for train in [1, 16] {
            let (ways, routes) = (0..2).map(|_| way()).unzip();
            let _forwarder = DatagramForwarder::start(routes, None).unwrap();
            let shape = DatagramShape { train, ..SHAPE };
            let mut flows = DatagramFlows::new(ways, shape, Clock::start()).unwrap();
            let until_ns = flows.clock.now_ns() + 60_000_000_000;
            while flows.messages_checked() < 1000 && flows.clock.now_ns() < until_ns {
                flows.run_for(Duration::from_millis(5)).unwrap();
            }
            flows.drain().unwrap();
            let sent = flows.flows.iter().map(|flow| flow.next).sum::<u64>();
            assert!(sent >= 1000, "{sent} in a minute");
            assert_eq!((flows.messages_checked(), flows.lost()), (sent, 0));
        }
    }

    #[test]
    fn a_changed_byte_ends_the_round() {
        let (way, (between, then)) = way();
        std::thread::spawn(move || {
            let mut datagram = [0; 2000];
            while let Ok((bytes, _)) = between.recv_from(&mut datagram) {
                datagram[bytes - 1] ^= 1;
                if between.send_to(&datagram[..bytes], then).is_err() {
                    return;
                }
            }
        });
        let mut flows = DatagramFlows::new(vec![way], SHAPE, Clock::start()).unwrap();
        let long = Duration::from_secs(30);
        let error = flows.round(long, long, &Watched::Nobody).unwrap_err();
        assert!(error.to_string().contains("other bytes"), "{error}");
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        let refused = |shape| DatagramFlows::new(vec![way().0], shape, Clock::start()).is_err();
        assert!(refused(DatagramShape { message_bytes: HEADER_BYTES - 1, ..SHAPE }));
        assert!(refused(DatagramShape { in_flight: 17, ..SHAPE }));
        assert!(refused(DatagramShape { in_flight: 1040, ..SHAPE }));
        assert!(refused(DatagramShape { train: 0, ..SHAPE }));
    }
}
