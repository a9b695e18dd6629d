//! The rows of UDP relays: on loopback, between namespaces with the XDP program, and under a flood.

use crate::compare::contender::{Contender, Entry, Line, Outcome, Setting, alternate};
use crate::compare::flooded;
use crate::compare::goals::{
    AF_XDP_TIER, COTURN, FLOOD, FLOOR, FRAMES, GSO_FLOODED, GSO_QUIET, GSO_TIER, PLAIN_TIER,
    SINGLE_DATAGRAMS, TRAINS, TURN_RS, WAYSTATION, XDP_FLOODED, XDP_QUIET, XDP_TIER,
};
use crate::compare::turn::{Place, Tier, TurnServer, floor, waystation};
use crate::datagrams::flow::DatagramShape;
use crate::streets;
use anyhow::{Context, Result, anyhow};
use std::thread;
use waystation_engine::port::datagrams::UdpTier;

/// Media-sized messages. What is under way of all flows fits the 208 KiB that a socket has by default,
/// since a relay may receive all of it through one.
const SHAPE: DatagramShape =
    DatagramShape { flows: 4, message_bytes: 1000, in_flight: 16, train: 1 };
/// The same in trains, for a relay whose sockets take a train apart into datagrams.
const CUT_TRAINS_SHAPE: DatagramShape = DatagramShape { train: 16, ..SHAPE };
/// For what receives a train as one piece, of which a socket holds four of each flow. Were there but
/// one under way, everybody would wait for everybody, and be woken for each.
const TRAINS_SHAPE: DatagramShape = DatagramShape { in_flight: 64, ..CUT_TRAINS_SHAPE };
/// Between namespaces, a frame that waits in a socket takes a page of its memory and more, and turn-rs
/// receives those of all flows by one that has the default: it holds 48.
const FRAMES_SHAPE: DatagramShape = DatagramShape { in_flight: 12, ..SHAPE };
/// For what relays without sockets: a ring of an interface holds 256 frames, those of two flows.
const RINGS_SHAPE: DatagramShape = DatagramShape { in_flight: 96, ..SHAPE };

const GSO: Tier = Tier::Sockets(UdpTier::Gso);
const PLAIN: Tier = Tier::Sockets(UdpTier::Plain);
const AF_XDP: Tier = Tier::Sockets(UdpTier::AfXdp);

/// Row 18.
pub(super) fn udp(setting: &Setting) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let cases = [(TRAINS, TRAINS_SHAPE, CUT_TRAINS_SHAPE), (SINGLE_DATAGRAMS, SHAPE, SHAPE)];
    for (case, shape, others_shape) in cases {
        let entries = vec![
            (WAYSTATION, Ok(waystation(GSO, shape, Place::Loopback, setting)?)),
            (PLAIN_TIER, Ok(waystation(PLAIN, shape, Place::Loopback, setting)?)),
            TurnServer::Coturn.entry(others_shape, Place::Loopback, setting)?,
            TurnServer::TurnRs.entry(others_shape, Place::Loopback, setting)?,
            (FLOOR, Ok(floor(shape, &Place::Loopback, setting)?)),
        ];
        outcome.extend(alternate(case, entries, &setting.schedule)?);
    }
    Ok(outcome)
}

/// Row 19.
pub(super) fn between_hosts(setting: &Setting) -> Result<Outcome> {
    let names = [XDP_TIER, AF_XDP_TIER, GSO_TIER, PLAIN_TIER, COTURN, TURN_RS, FLOOR];
    in_namespaces(FRAMES, &names, setting, |setting| {
        let ours = |tier, shape| -> Result<Box<dyn Contender>> {
            waystation(tier, shape, Place::streets(Some(tier), setting)?, setting)
        };
        let theirs = |server: TurnServer| -> Result<Entry> {
            server.entry(FRAMES_SHAPE, Place::streets(None, setting)?, setting)
        };
        Ok(vec![
            (XDP_TIER, Ok(ours(Tier::Xdp, RINGS_SHAPE).context(XDP_TIER)?)),
            (AF_XDP_TIER, Ok(ours(AF_XDP, FRAMES_SHAPE).context(AF_XDP_TIER)?)),
            (GSO_TIER, Ok(ours(GSO, FRAMES_SHAPE).context(GSO_TIER)?)),
            (PLAIN_TIER, Ok(ours(PLAIN, FRAMES_SHAPE).context(PLAIN_TIER)?)),
            theirs(TurnServer::Coturn)?,
            theirs(TurnServer::TurnRs)?,
            (FLOOR, Ok(floor(FRAMES_SHAPE, &Place::streets(None, setting)?, setting)?)),
        ])
    })
}

/// Row 20.
pub(super) fn flood(setting: &Setting) -> Result<Outcome> {
    let contenders = [
        (XDP_QUIET, Tier::Xdp, false),
        (XDP_FLOODED, Tier::Xdp, true),
        (GSO_QUIET, GSO, false),
        (GSO_FLOODED, GSO, true),
    ];
    in_namespaces(FLOOD, &contenders.map(|(name, ..)| name), setting, |setting| {
        let contender = |(name, tier, is_flooded): (&'static str, _, _)| -> Result<Entry> {
            let contender = flooded::waystation(tier, is_flooded, SHAPE, setting);
            Ok((name, Ok(contender.context(name)?)))
        };
        contenders.into_iter().map(contender).collect()
    })
}

/// Runs a case in a thread of its own, which goes with the namespaces that it has moved to. Who
/// cannot make any has lines that say so.
fn in_namespaces(
    case: &'static str,
    names: &[&'static str],
    setting: &Setting,
    entries: impl FnOnce(&Setting) -> Result<Vec<Entry>> + Send,
) -> Result<Outcome> {
    if let Some(needs) = streets::missing() {
        let line = |name: &&str| Line {
            case: case.to_owned(),
            contender: (*name).to_owned(),
            figures: Err(needs.to_owned()),
        };
        return Ok(Outcome { lines: names.iter().map(line).collect(), messages_checked: 0 });
    }
    thread::scope(|scope| {
        let run = || alternate(case, entries(setting)?, &setting.schedule);
        scope.spawn(run).join().map_err(|_panic| anyhow!("the generator's thread panicked"))?
    })
}
