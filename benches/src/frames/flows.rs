//! The generator of frames: has the kernel send the messages of all flows, and take them again.
//!
//! Runs on one thread, which is in the kernel most of the time and never waits: it is to keep the
//! relay busy. A flow has so many messages under way; a lost one is noticed by the next that comes,
//! or when nothing has come for a while, and counted. Or all flows together keep a steady rate.

use super::layout::{self, CAME, CHANGED, COMPARED, EXPECTED, FLOOD, LOST, MESSAGE_BYTES, STEADY};
use super::programs::{FLOOD_COURSE, FramePrograms};
use crate::datagrams::flow::{DatagramRound, DatagramShape, LOST_SHARE_MAX, PATIENCE_NS, Way};
use crate::load::clock::{Clock, thread_processor_ns};
use crate::load::processor::Watched;
use crate::streets::{PEERS, Side, Streets};
use anyhow::{Result, bail, ensure};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::Duration;

/// How long the last messages of a steady round may take.
const LATE_NS: u64 = 500_000_000;
/// The pause between two looks at whether something has come that is still under way.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub struct FrameFlows {
    programs: FramePrograms,
    clock: Clock,
    frame: Vec<u8>,
    /// What each flow had to come next when it was last looked at, and since when.
    progress: Vec<(u64, u64)>,
    ends: Watched,
    /// Their sockets hold the ports.
    _ways: Vec<Way>,
}

impl FrameFlows {
    /// Of the ways, whose sockets are sent from and received at by nobody else from then on: what
    /// else comes to them is theirs as before.
    ///
    /// # Errors
    ///
    /// When the shape cannot be, or the kernel refuses.
    pub fn new(
        ways: Vec<Way>,
        shape: DatagramShape,
        streets: &Streets,
        clock: Clock,
    ) -> Result<Self> {
        ensure!(shape.message_bytes == MESSAGE_BYTES, "messages have {MESSAGE_BYTES} bytes");
        ensure!(shape.train == 1, "frames are no trains");
        let flows = u32::try_from(ways.len())?;
        let mut programs = FramePrograms::load(flows, shape.in_flight)?;
        for (flow, way) in (0..).zip(&ways) {
            let (leaves_at, sender) = end_of(&way.sender)?;
            let (_, receiver) = end_of(&way.receiver)?;
            let end = streets.end(leaves_at);
            let course = layout::course(&end, sender, ipv4(way.to)?, way.sent_in);
            programs.set_course(flow, course, streets, leaves_at)?;
            let is_finished = streets.checksums_are_finished();
            let from = ipv4(way.comes_from)?;
            let arrival = layout::arrival(from, receiver, way.received_in, is_finished);
            programs.set_arrival(flow, layout::bound_for(receiver), arrival)?;
        }
        programs.attach(streets)?;
        let (frame, progress) = (layout::frame(), vec![(0, clock.now_ns()); ways.len()]);
        let ends = streets.watched_ends();
        Ok(Self { programs, clock, frame, progress, ends, _ways: ways })
    }

    /// Has a flood, when there is one, go from the clients' side to an address.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn aim_flood(&mut self, to: SocketAddr, streets: &Streets) -> Result<()> {
        let course = layout::flood_course(&streets.end(Side::Clients), ipv4(to)?);
        self.programs.set_course(FLOOD_COURSE, course, streets, Side::Clients)
    }

    /// Messages whose number, addresses, lengths and framing were as they should be.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to tell.
    pub fn messages_checked(&self) -> Result<u64> {
        self.sum(CAME)
    }

    /// Those of which every byte was compared as well.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to tell.
    pub fn messages_compared(&self) -> Result<u64> {
        self.sum(COMPARED)
    }

    /// One round. Nothing is under way when it ends.
    ///
    /// # Errors
    ///
    /// When a message was changed, or more than a few were lost.
    pub fn round(
        &mut self,
        warm_up: Duration,
        measured: Duration,
        watched: &Watched,
    ) -> Result<DatagramRound> {
        let round = self.measure(warm_up, measured, watched)?;
        while self.is_under_way()? {
            self.give_up_on_the_late(PATIENCE_NS)?;
            thread::park_timeout(LOOK_PAUSE);
        }
        self.check()?;
        ensure!(round.messages > 0, "nothing came in {:.1} s", round.seconds);
        let share = round.lost as f64 / (round.messages + round.lost) as f64;
        ensure!(share <= LOST_SHARE_MAX, "{:.1} % were lost", 100.0 * share);
        Ok(round)
    }

    /// One round at a steady rate of all flows together, beside a flood of so many a second. However
    /// many are lost, it is no error.
    ///
    /// # Errors
    ///
    /// When a message was changed, or the kernel refuses to send.
    pub fn steady_round(
        &mut self,
        per_second: u64,
        flood_per_second: Option<u64>,
        (warm_up, measured): (Duration, Duration),
        watched: &Watched,
    ) -> Result<DatagramRound> {
        const SECOND_NS: u64 = 1_000_000_000;
        self.programs.set_pace(STEADY, SECOND_NS / per_second)?;
        self.programs.set_pace(FLOOD, flood_per_second.map_or(0, |rate| SECOND_NS / rate))?;
        let round = self.measure(warm_up, measured, watched)?;
        self.programs.set_pace(FLOOD, 0)?;
        self.programs.set_pace(STEADY, 0)?;
        let (came, lost) = (self.messages_checked()?, self.sum(LOST)?);
        self.settle()?;
        self.check()?;
        let messages = round.messages + self.messages_checked()? - came;
        let lost = round.lost + self.sum(LOST)? - lost;
        Ok(DatagramRound { messages, lost, ..round })
    }

    fn measure(
        &mut self,
        warm_up: Duration,
        measured: Duration,
        watched: &Watched,
    ) -> Result<DatagramRound> {
        self.run_for(warm_up)?;
        let (came, lost) = (self.messages_checked()?, self.sum(LOST)?);
        let (began_ns, generator_ns) = (self.clock.now_ns(), thread_processor_ns());
        let flooded = self.programs.count(FLOOD)?;
        let (before, ends_before) = (watched.read()?, self.ends.read()?);
        self.run_for(measured)?;
        let spent = watched.read()?.since(&before);
        let ends = self.ends.read()?.since(&ends_before);
        Ok(DatagramRound {
            messages: self.messages_checked()? - came,
            lost: self.sum(LOST)? - lost,
            seconds: (self.clock.now_ns() - began_ns) as f64 / 1e9,
            spent,
            generator_ns: thread_processor_ns() - generator_ns + ends.total_ns,
            flooded: self.programs.count(FLOOD)? - flooded,
        })
    }

    fn run_for(&mut self, time: Duration) -> Result<()> {
        let until_ns = self.clock.now_ns() + u64::try_from(time.as_nanos())?;
        // What was under way before the pause between rounds is not late.
        let now_ns = self.clock.now_ns();
        self.progress.iter_mut().for_each(|(_, moved_ns)| *moved_ns = now_ns);
        while self.clock.now_ns() < until_ns {
            self.programs.send(&self.frame)?;
            self.check()?;
            self.give_up_on_the_late(PATIENCE_NS)?;
        }
        Ok(())
    }

    /// Waits a while for what is under way; what has not come then is lost.
    fn settle(&mut self) -> Result<()> {
        let until_ns = self.clock.now_ns() + LATE_NS;
        while self.is_under_way()? && self.clock.now_ns() < until_ns {
            thread::park_timeout(LOOK_PAUSE);
        }
        self.give_up_on_the_late(0)
    }

    fn is_under_way(&self) -> Result<bool> {
        for flow in self.numbers() {
            if self.programs.tally(flow)?[EXPECTED] < self.programs.sent(flow)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes for lost what is under way of flows of which nothing has come for so long.
    fn give_up_on_the_late(&mut self, patience_ns: u64) -> Result<()> {
        let now_ns = self.clock.now_ns();
        for flow in self.numbers() {
            let (mut tally, sent) = (self.programs.tally(flow)?, self.programs.sent(flow)?);
            let (expected, moved_ns) = &mut self.progress[flow as usize];
            if tally[EXPECTED] != *expected || tally[EXPECTED] == sent {
                (*expected, *moved_ns) = (tally[EXPECTED], now_ns);
            }
            if tally[EXPECTED] < sent && now_ns.saturating_sub(*moved_ns) >= patience_ns {
                tally[LOST] += sent - tally[EXPECTED];
                tally[EXPECTED] = sent;
                (*expected, *moved_ns) = (sent, now_ns);
                self.programs.set_tally(flow, tally)?;
            }
        }
        Ok(())
    }

    /// Makes sure that everything that came was as it should be.
    fn check(&self) -> Result<()> {
        for flow in self.numbers() {
            let tally = self.programs.tally(flow)?;
            if tally[CHANGED] > 0 {
                bail!("flow {flow}: {} messages have other bytes than were sent", tally[CHANGED]);
            }
        }
        Ok(())
    }

    fn sum(&self, word: usize) -> Result<u64> {
        let words = self.numbers().map(|flow| Ok(self.programs.tally(flow)?[word]));
        words.sum()
    }

    fn numbers(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.progress.len() as u32
    }
}

/// The side that a socket is on, and its address there. Peers have sockets on their address, clients
/// some on all.
fn end_of(socket: &UdpSocket) -> Result<(Side, SocketAddrV4)> {
    let address = socket.local_addr()?;
    let side = if address.ip() == PEERS { Side::Peers } else { Side::Clients };
    Ok((side, ipv4(SocketAddr::new(side.address(), address.port()))?))
}

fn ipv4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => bail!("{address}: frames are of IPv4"),
    }
}
