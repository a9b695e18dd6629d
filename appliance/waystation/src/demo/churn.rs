//! Deliberate disorder beside the traffic of `mixed`: transfers that one side ends half-way, nodes
//! that come, talk and vanish. What arrives must be right as far as it goes, everything written
//! before a reset must arrive, the other side must hear of the end, and nobody else may notice.

use super::clock;
use super::limits::{CHURN_MESSAGES_MAX, CHURN_PAUSE, STALL_TIMEOUT};
use super::message::{Pattern, ReceiveError, Receiver, Writer};
use super::nodes::{Direction, Gateway, Pair, Profiles, with_patience};
use super::tally::{Signals, Trouble, is_stall, receive_error};
use anyhow::Context;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::{self, Builder};
use waystation_peer::Session;

/// Flow numbers of churn begin here, far from those of bulk.
const FIRST_FLOW: u32 = 1 << 24;

/// How a transfer is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By the sender, when it has sent so many messages.
    BySender(u64),
    /// By the receiver, when so many have arrived.
    ByReceiver(u64),
}

impl End {
    /// Another end and another length every round.
    fn of(round: u64) -> Self {
        let messages = 1 + round.wrapping_mul(37) % CHURN_MESSAGES_MAX;
        if round.is_multiple_of(2) { Self::BySender(messages) } else { Self::ByReceiver(messages) }
    }

    /// Messages after which the receiver ends it.
    fn most_received(self) -> Option<u64> {
        match self {
            Self::BySender(_) => None,
            Self::ByReceiver(messages) => Some(messages),
        }
    }

    /// Messages after which the sender ends it.
    fn most_sent(self) -> u64 {
        match self {
            Self::BySender(messages) => messages,
            Self::ByReceiver(_) => u64::MAX,
        }
    }
}

/// Opens further sessions between the nodes of a pair and ends each half-way, until told to stop.
pub(super) fn cancel_sessions(pair: &Pair, signals: &Signals) -> anyhow::Result<()> {
    let mut round = pair.number as u64;
    while !signals.is_stopping() {
        let direction = if round & 2 == 0 { Direction::Out } else { Direction::Back };
        let (sender, receiver) = pair.route(direction)?;
        transfer(with_patience(sender), with_patience(receiver), round, signals)
            .with_context(|| format!("cancelled session {round}"))?;
        signals.tally.cancelled.add(1);
        round += 1;
        clock::pause(CHURN_PAUSE);
    }
    Ok(())
}

/// Pairs of nodes come, move something in one of both ways and vanish, until told to stop.
pub(super) fn visit(gateway: Gateway, visitor: usize, signals: &Signals) -> anyhow::Result<()> {
    let mut round = visitor as u64;
    while !signals.is_stopping() {
        let number = usize::try_from(round).unwrap_or_default();
        let pair = Pair::dial(gateway, number, Profiles::of(number))?;
        let moved = if round & 2 == 0 {
            let (sender, receiver) = pair.route(Direction::Out)?;
            transfer(with_patience(sender), with_patience(receiver), round, signals)
        } else {
            let (sender, receiver, pool) = pair.connect(round & 4 == 0)?;
            let moved =
                transfer(patient_stream(sender)?, patient_stream(receiver)?, round, signals);
            drop(pool);
            moved.and_then(|()| Ok(pair.far.link.unregister()?))
        };
        moved.with_context(|| format!("{} of visit {round}", pair.profiles))?;
        leave_mid_transfer(pair, round, signals).with_context(|| format!("visit {round}"))?;
        signals.tally.cancelled.add(1);
        signals.tally.links_closed.add(2);
        round += 1;
        clock::pause(CHURN_PAUSE);
    }
    Ok(())
}

/// One of the two nodes closes its link while it sends or receives; the other must hear of it.
fn leave_mid_transfer(pair: Pair, round: u64, signals: &Signals) -> anyhow::Result<()> {
    let (sender, receiver) = pair.route(Direction::Back)?;
    let (mut sender, mut receiver) = (with_patience(sender), with_patience(receiver));
    let end = End::of(round);
    thread::scope(|scope| {
        let leaving = pair.far.link.clone();
        let sending = Builder::new().spawn_scoped(scope, move || {
            let sent = send(&mut sender, pattern(round), end, signals);
            if let End::BySender(_) = end {
                leaving.close();
            }
            sent
        })?;
        let received = receive(&mut receiver, pattern(round), end.most_received(), signals);
        if let End::ByReceiver(_) = end {
            pair.near.link.close();
        }
        let sent = sending.join().map_err(|_panic| Trouble::Panic)?;
        received.and(sent).map(drop)
    })?;
    pair.near.link.close();
    pair.far.link.close();
    Ok(())
}

fn pattern(round: u64) -> Pattern {
    Pattern::new(FIRST_FLOW + u32::try_from(round % u64::from(FIRST_FLOW)).unwrap_or_default())
}

fn patient_stream(stream: TcpStream) -> anyhow::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL_TIMEOUT))?;
    stream.set_write_timeout(Some(STALL_TIMEOUT))?;
    Ok(stream)
}

/// Either kind of stream; dropping it ends it.
trait Way: Read + Write + Send {}
impl Way for Session {}
impl Way for TcpStream {}

/// Moves messages one way until one side ends it.
fn transfer<W: Way>(
    mut sender: W,
    mut receiver: W,
    round: u64,
    signals: &Signals,
) -> anyhow::Result<()> {
    let end = End::of(round);
    thread::scope(|scope| {
        let sending = Builder::new()
            .spawn_scoped(scope, move || send(&mut sender, pattern(round), end, signals))?;
        let received = receive(&mut receiver, pattern(round), end.most_received(), signals);
        drop(receiver);
        let sent = sending.join().map_err(|_panic| Trouble::Panic)?;
        let (arrived, sent) = (received?, sent?);
        match end {
            // What was written before the end is still delivered (spec §7.2).
            End::BySender(_) if arrived != sent => Err(Trouble::Lost { sent, arrived }.into()),
            End::BySender(_) | End::ByReceiver(_) => Ok(()),
        }
    })
}

/// Sends as many messages as the sender is to send, or as it gets rid of before the other side ends
/// it; returns how many.
fn send(
    sender: &mut dyn Write,
    pattern: Pattern,
    end: End,
    signals: &Signals,
) -> anyhow::Result<u64> {
    let mut messages = Writer::new(pattern);
    let mut message = Vec::new();
    for sent in 0..end.most_sent() {
        messages.next(signals.clock.now_ns(), false, &mut message);
        match sender.write_all(&message) {
            Ok(()) => {}
            Err(error) if is_stall(&error) => return Err(Trouble::Stalled.into()),
            // The other side has ended it.
            Err(_ended) => return Ok(sent),
        }
    }
    Ok(end.most_sent())
}

/// Checks what comes until the stream ends or `most` messages are there; returns how many.
fn receive(
    receiver: &mut dyn Read,
    pattern: Pattern,
    most: Option<u64>,
    signals: &Signals,
) -> anyhow::Result<u64> {
    let mut messages = Receiver::new(pattern);
    let mut bytes = 0;
    let outcome = loop {
        if most.is_some_and(|most| messages.arrived() >= most) {
            break Ok(());
        }
        match messages.receive(receiver, |message| bytes += message.bytes as u64) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            // A link that was closed on purpose.
            Err(ReceiveError::Stream(error)) if !is_stall(&error) => break Ok(()),
            Err(error) => break Err(receive_error(error)),
        }
    };
    // Nobody misses what a transfer without an end did not bring.
    signals.tally.sent.add(messages.arrived());
    signals.tally.messages.add(messages.arrived());
    signals.tally.bulk_bytes.add(bytes);
    outcome.map(|()| messages.arrived())
}
