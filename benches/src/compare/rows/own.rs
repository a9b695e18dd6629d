//! Rows without foreign peers: the floor, our own ports, the recorded stock gateway.

use crate::compare::appliance::{Port, flows};
use crate::compare::contender::{Contender, Entry, Outcome, Setting, alternate};
use crate::compare::control;
use crate::compare::figures::{Figures, Measure};
use crate::compare::floor::Floor;
use crate::compare::goals::{EPOLL, FLOOR, TO_FEW, TO_MANY, WAYSTATION};
use crate::swarm::shape::Shape;
use anyhow::Result;

pub(crate) const KIB_1: (&str, Shape) = ("4 x 1 KiB", Shape::closed(4, 1_024, 64));
pub(crate) const KIB_8: (&str, Shape) = ("4 x 8 KiB", Shape::closed(4, 8_192, 32));
/// The half of a window is acknowledged at a time, so that acknowledgements do not outweigh what
/// they acknowledge.
pub(crate) const MANY: (&str, Shape) =
    ("64 x 200 B", Shape::closed(64, 200, 4).acknowledged_every(2).single());

/// Forwarding of what nobody seals.
const PLAIN: &str = "plain forwarding";

/// The appliance over its default port.
pub(crate) fn waystation(shape: Shape, setting: &Setting) -> Result<Entry> {
    let contender: Box<dyn Contender> = Box::new(flows(Port::IoUring, shape, setting)?);
    Ok((WAYSTATION, Ok(contender)))
}

/// The appliance, and the floor of the same flows.
pub(crate) fn waystation_and_floor(shape: Shape, setting: &Setting) -> Result<[Entry; 2]> {
    let relay = flows(Port::IoUring, shape, setting)?;
    let floor = Floor::sealed(shape, relay.kept.relay.suite, setting)?;
    let (relay, floor): (Box<dyn Contender>, Box<dyn Contender>) =
        (Box::new(relay), Box::new(floor));
    Ok([(WAYSTATION, Ok(relay)), (FLOOR, Ok(floor))])
}

/// Row 1.
pub(super) fn floor(setting: &Setting) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (case, shape) in [KIB_1, KIB_8] {
        let plain: Box<dyn Contender> = Box::new(Floor::plain(shape, setting)?);
        let mut entries = Vec::from(waystation_and_floor(shape, setting)?);
        entries.push((PLAIN, Ok(plain)));
        let mut compared = alternate(case, entries, &setting.schedule)?;
        let cost = Measure::ProcessorMicrosecondsPerMessage;
        let forwarding = compared.figure(case, PLAIN, cost);
        let cipher = compared.figure(case, FLOOR, Measure::CipherMicrosecondsPerMessage);
        if let (Some(forwarding), Some(cipher)) = (forwarding, cipher) {
            let sum = forwarding.with(&cipher, |forwarding, cipher| forwarding + cipher);
            compared.derive(case, "plain forwarding and cipher, sum", Figures::from([(cost, sum)]));
        }
        outcome.extend(compared);
    }
    Ok(outcome)
}

/// Row 3.
pub(super) fn control(setting: &Setting) -> Result<Outcome> {
    let (case, shape) = KIB_1;
    beside_control(case, shape, false, setting)
}

/// Row 4.
pub(super) fn stock_sender(setting: &Setting) -> Result<Outcome> {
    let shape = KIB_8.1.stock();
    beside_control("4 x 8 KiB, a record per field", shape, true, setting)
}

fn beside_control(case: &str, shape: Shape, floor: bool, setting: &Setting) -> Result<Outcome> {
    let relay = flows(Port::IoUring, shape, setting)?;
    let suite = relay.kept.relay.suite;
    let relay: Box<dyn Contender> = Box::new(relay);
    let mut entries = vec![(WAYSTATION, Ok(relay)), control::entry(shape, suite, setting)?];
    if floor {
        let floor: Box<dyn Contender> = Box::new(Floor::sealed(shape, suite, setting)?);
        entries.push((FLOOR, Ok(floor)));
    }
    alternate(case, entries, &setting.schedule)
}

/// Row 7.
pub(super) fn coalescing(setting: &Setting) -> Result<Outcome> {
    let (case, shape) = MANY;
    let mut entries: Vec<Entry> = Vec::new();
    for (name, shape) in [(TO_FEW, shape.to_destinations(4)), (TO_MANY, shape)] {
        let contender: Box<dyn Contender> = Box::new(flows(Port::IoUring, shape, setting)?);
        entries.push((name, Ok(contender)));
    }
    alternate(case, entries, &setting.schedule)
}

/// Row 9.
pub(super) fn ports(setting: &Setting) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (case, shape) in [KIB_1, KIB_8, MANY] {
        let epoll: Box<dyn Contender> = Box::new(flows(Port::Epoll, shape, setting)?);
        let entries = vec![waystation(shape, setting)?, (EPOLL, Ok(epoll))];
        outcome.extend(alternate(case, entries, &setting.schedule)?);
    }
    Ok(outcome)
}

/// Row 16.
pub(super) fn stock_gateway(setting: &Setting) -> Result<Outcome> {
    let cases = [
        ("8 KiB frames, bulk", Shape::closed(4, 8_192, 32).stock()),
        ("1 KiB ping-pong", Shape::closed(1, 1_024, 1).stock().with_echo()),
    ];
    let mut outcome = Outcome::default();
    for (case, shape) in cases {
        let entries = Vec::from(waystation_and_floor(shape, setting)?);
        outcome.extend(alternate(case, entries, &setting.schedule)?);
    }
    Ok(outcome)
}
