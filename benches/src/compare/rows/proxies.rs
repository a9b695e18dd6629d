//! Rows against plain proxies, which have no crypto to pay for.

use crate::compare::appliance::{Appliance, Port};
use crate::compare::contender::{Contender, Flows, Outcome, Setting, alternate};
use crate::compare::floor::Floor;
use crate::compare::goals::WAYSTATION;
use crate::compare::libp2p;
use crate::compare::proxy::Proxy;
use crate::compare::rows::own::{KIB_8, MANY, waystation_and_floor};
use crate::load::pairs::raw_pipe as connect_raw_pipe;
use crate::swarm::rounds::Swarm;
use crate::swarm::shape::Shape;
use anyhow::Result;
use waystation_peer::Link;

/// Row 6.
pub(super) fn small_messages(setting: &Setting) -> Result<Outcome> {
    let (case, shape) = MANY;
    let [relay, floor] = waystation_and_floor(shape, setting)?;
    let haproxy = Proxy::Haproxy.entry(shape, setting)?;
    let entries = vec![relay, haproxy, libp2p::entry(shape, setting)?, floor];
    alternate(case, entries, &setting.schedule)
}

/// Row 8.
pub(super) fn raw_pipe(setting: &Setting) -> Result<Outcome> {
    let (case, shape) = KIB_8;
    let pipes: Box<dyn Contender> = Box::new(pipes(shape, setting)?);
    let plain: Box<dyn Contender> = Box::new(Floor::plain(shape, setting)?);
    let entries = vec![
        (WAYSTATION, Ok(pipes)),
        Proxy::Haproxy.entry(shape, setting)?,
        Proxy::Nginx.entry(shape, setting)?,
        ("plain forwarding", Ok(plain)),
    ];
    alternate(case, entries, &setting.schedule)
}

/// Flows over raw pipes through an appliance of their own.
fn pipes(shape: Shape, setting: &Setting) -> Result<Flows<(Appliance, Vec<Link>)>> {
    let appliance = Appliance::start(Port::IoUring, setting)?;
    let (mut pairs, mut links) = (Vec::new(), Vec::new());
    for _ in 0..shape.flows {
        let relay = &appliance.relay;
        let (pair, kept) = connect_raw_pipe(relay.address, &relay.identity)?;
        pairs.push(pair);
        links.extend(kept);
    }
    let swarm = Swarm::through_streams(pairs, &shape, setting.clock)?;
    let watched = appliance.process.watched();
    Ok(Flows { swarm, shape, watched, kept: (appliance, links) })
}
