//! One flow: who sends what, what has arrived, and what is owed. No sockets: the rounds move bytes
//! between flows and connections.

use crate::load::message::{ACKNOWLEDGEMENT_BYTES, Arrived, FLAG_LAST, Pattern, Receiver};
use crate::swarm::connection::Connection;
use crate::swarm::limits::{LATENCY_DIGITS, LATENCY_NS_MAX, WINDOW_BYTES};
use crate::swarm::shape::{Layout, Pace, Shape};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use waystation_astral::frame::Frame;

/// Which end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Near,
    Far,
}

/// One end: where it is, what it may send, and what it has to give back.
#[derive(Debug)]
pub struct End {
    pub connection: usize,
    pub nonce: u64,
    /// Bytes the relay still takes; without end on a plain connection.
    pub credit_bytes: u64,
    /// Consumed and not given back yet.
    owed_bytes: u32,
    /// The same by data frame, where credit is returned for each.
    owed_chunks: Vec<u32>,
}

impl End {
    /// An end that owes nothing yet.
    pub fn new(connection: usize, nonce: u64, credit_bytes: u64) -> Self {
        Self { connection, nonce, credit_bytes, owed_bytes: 0, owed_chunks: Vec::new() }
    }

    /// Takes credit that the relay gave.
    pub fn take_credit(&mut self, bytes: u32) {
        self.credit_bytes = self.credit_bytes.saturating_add(u64::from(bytes));
    }

    fn spend(&mut self, bytes: usize) -> Result<()> {
        let left = self.credit_bytes.checked_sub(bytes as u64);
        self.credit_bytes = left.context("a flow would send more than the relay takes")?;
        Ok(())
    }

    fn consumed(&mut self, bytes: usize, ends_frame: bool, layout: Layout) -> Result<()> {
        self.owed_bytes += u32::try_from(bytes)?;
        if layout == Layout::Stock && ends_frame {
            self.owed_chunks.push(self.owed_bytes);
            self.owed_bytes = 0;
        }
        Ok(())
    }

    /// Lays down the credit that is due.
    fn give_back(&mut self, connection: &mut Connection) -> Result<bool> {
        let nonce = self.nonce;
        if self.owed_bytes >= WINDOW_BYTES / 4 {
            self.owed_chunks.push(self.owed_bytes);
            self.owed_bytes = 0;
        }
        let any = !self.owed_chunks.is_empty();
        for bytes in self.owed_chunks.drain(..) {
            connection.put_control(&Frame::Read { nonce, bytes })?;
        }
        Ok(any)
    }
}

/// A flow and its counts since it exists.
#[derive(Debug)]
pub struct Flow {
    /// Which of the generator's shapes it has.
    pub kind: usize,
    pub near: End,
    pub far: End,
    pub latency: Histogram<u64>,
    /// Waits to be looked at in this turn.
    pub touched: bool,
    shape: Shape,
    pattern: Pattern,
    sent: u64,
    acknowledged: u64,
    /// Messages whose arrival was told.
    told: u64,
    receiver: Receiver,
    /// Checks what comes back with echo.
    returned: Receiver,
    /// Bytes of a running count that was cut.
    cut_count: Vec<u8>,
    /// What the far side has to send back.
    reply: Vec<u8>,
    last_arrived: bool,
    /// When the next message is due.
    due_ns: u64,
    /// The last message of the round is on its way.
    ended: bool,
}

/// What a flow may look at while it takes bytes.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now_ns: u64,
    pub measuring: bool,
}

impl Flow {
    /// A flow that has sent nothing.
    ///
    /// # Errors
    ///
    /// Never in practice: when the histogram's bounds make no sense.
    pub fn new(number: u32, kind: usize, shape: Shape, near: End, far: End) -> Result<Self> {
        let pattern = Pattern::new(number, shape.message_bytes);
        Ok(Self {
            kind,
            near,
            far,
            latency: Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS)?,
            touched: false,
            shape,
            receiver: Receiver::new(pattern.clone()),
            returned: Receiver::new(pattern.clone()),
            pattern,
            sent: 0,
            acknowledged: 0,
            told: 0,
            cut_count: Vec::new(),
            reply: Vec::new(),
            last_arrived: false,
            due_ns: 0,
            ended: true,
        })
    }

    /// Begins a round; paced flows are due one after the other within their interval.
    pub fn begin(&mut self, now_ns: u64, position: f64) {
        self.latency.reset();
        self.ended = false;
        if let Pace::Paced { interval_ns } = self.shape.pace {
            self.due_ns = now_ns + (interval_ns as f64 * position) as u64;
        }
    }

    /// Messages laid down since the flow exists.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Messages that reached the end of their way, with echo back at the sender.
    pub fn arrived(&self) -> u64 {
        if self.shape.echo { self.returned.arrived() } else { self.receiver.arrived() }
    }

    /// Whether everything that was sent is known to have arrived.
    pub fn is_drained(&self) -> bool {
        self.ended && self.acknowledged == self.sent
    }

    /// Whether it sends on a schedule.
    pub fn is_paced(&self) -> bool {
        matches!(self.shape.pace, Pace::Paced { .. })
    }

    /// When its next message is due, in a round that goes on.
    pub fn due_ns(&self) -> Option<u64> {
        (self.is_paced() && !self.ended).then_some(self.due_ns)
    }

    /// Takes bytes that arrived at one side.
    ///
    /// # Errors
    ///
    /// When they are not what was sent.
    pub fn take(&mut self, side: Side, bytes: &[u8], ends_frame: bool, at: Moment) -> Result<()> {
        match side {
            Side::Far => {
                self.far.consumed(bytes.len(), ends_frame, self.shape.layout)?;
                self.take_messages(bytes, at)
            }
            Side::Near => {
                self.near.consumed(bytes.len(), ends_frame, self.shape.layout)?;
                if self.shape.echo {
                    self.take_returned(bytes, at)
                } else {
                    self.take_counts(bytes)
                }
            }
        }
    }

    fn take_messages(&mut self, mut bytes: &[u8], at: Moment) -> Result<()> {
        let Self { receiver, latency, last_arrived, reply, shape, .. } = self;
        if shape.echo {
            reply.extend_from_slice(bytes);
        }
        while !bytes.is_empty() {
            receiver.receive(&mut bytes, |message: Arrived<'_>| {
                if !shape.echo {
                    record(latency, at, message.stamp_ns);
                }
                *last_arrived |= message.flags & FLAG_LAST != 0;
                Ok(())
            })?;
        }
        Ok(())
    }

    fn take_returned(&mut self, mut bytes: &[u8], at: Moment) -> Result<()> {
        let Self { returned, latency, .. } = self;
        while !bytes.is_empty() {
            returned.receive(&mut bytes, |message: Arrived<'_>| {
                record(latency, at, message.stamp_ns);
                Ok(())
            })?;
        }
        self.acknowledged = self.returned.arrived();
        Ok(())
    }

    fn take_counts(&mut self, bytes: &[u8]) -> Result<()> {
        self.cut_count.extend_from_slice(bytes);
        let whole = self.cut_count.len() - self.cut_count.len() % ACKNOWLEDGEMENT_BYTES;
        let counts = self.cut_count.get(..whole).unwrap_or_default();
        if let Some(count) = counts.last_chunk::<ACKNOWLEDGEMENT_BYTES>() {
            let count = u64::from_be_bytes(*count);
            if count <= self.acknowledged || count > self.sent {
                bail!("{count} messages acknowledged after {} of {}", self.acknowledged, self.sent);
            }
            self.acknowledged = count;
        }
        self.cut_count.drain(..whole);
        Ok(())
    }

    /// Lays down what the far side has to say; `true` when it said anything.
    ///
    /// # Errors
    ///
    /// When sealing fails or the relay gives no credit.
    pub fn answer(&mut self, connection: &mut Connection) -> Result<bool> {
        let mut any = self.far.give_back(connection)?;
        let arrived = self.receiver.arrived();
        if self.shape.echo {
            if !self.reply.is_empty() {
                self.far.spend(self.reply.len())?;
                connection.put(self.far.nonce, &self.reply)?;
                self.reply.clear();
                any = true;
            }
        } else if self.last_arrived || arrived - self.told >= self.acknowledge_every() {
            let count = arrived.to_be_bytes();
            self.far.spend(count.len())?;
            connection.put(self.far.nonce, &count)?;
            self.told = arrived;
            any = true;
        }
        self.last_arrived = false;
        Ok(any)
    }

    /// Lays down every message that may be sent now; `true` when there was anything to lay down.
    ///
    /// # Errors
    ///
    /// When sealing fails.
    pub fn send(
        &mut self,
        connection: &mut Connection,
        now_ns: u64,
        stopping: bool,
        message: &mut Vec<u8>,
    ) -> Result<bool> {
        let mut any = self.near.give_back(connection)?;
        while !self.ended && self.may_send(now_ns, stopping) && connection.takes_more() {
            if self.near.credit_bytes < self.shape.message_bytes as u64 {
                break;
            }
            let stamp_ns = if self.is_paced() { self.due_ns } else { now_ns };
            let flags = if stopping { FLAG_LAST } else { 0 };
            self.pattern.write(self.sent, stamp_ns, flags, message);
            self.near.spend(message.len())?;
            connection.put(self.near.nonce, message)?;
            self.sent += 1;
            self.ended = stopping;
            any = true;
            if let Pace::Paced { interval_ns } = self.shape.pace {
                self.due_ns += interval_ns;
            }
        }
        Ok(any)
    }

    fn may_send(&self, now_ns: u64, stopping: bool) -> bool {
        match self.shape.pace {
            Pace::Closed { window, .. } => {
                // The last message asks for an acknowledgement at once and may find the window
                // full, because part of a window is never acknowledged by itself.
                stopping || self.sent - self.acknowledged < u64::from(window)
            }
            Pace::Paced { .. } => stopping || self.due_ns <= now_ns,
        }
    }

    fn acknowledge_every(&self) -> u64 {
        match self.shape.pace {
            Pace::Closed { acknowledge_every, .. } => u64::from(acknowledge_every.max(1)),
            // Nobody waits for it but the end of a round, whose last message asks for it.
            Pace::Paced { .. } => u64::MAX,
        }
    }
}

fn record(latency: &mut Histogram<u64>, at: Moment, stamp_ns: u64) {
    if at.measuring {
        latency.saturating_record(at.now_ns.saturating_sub(stamp_ns).max(1));
    }
}
