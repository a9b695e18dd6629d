//! The row of UDP relays.

use crate::compare::contender::{Outcome, Setting, alternate};
use crate::compare::goals::{FLOOR, PLAIN_TIER, SINGLE_DATAGRAMS, TRAINS, WAYSTATION};
use crate::compare::turn::{TurnServer, floor, waystation};
use crate::datagrams::flow::DatagramShape;
use anyhow::Result;
use waystation_engine::port::datagrams::UdpTier;

/// Media-sized messages. What is under way of all flows fits the 208 KiB that a socket has by default,
/// since a relay may receive all of it through one.
const SHAPE: DatagramShape =
    DatagramShape { flows: 4, message_bytes: 1000, in_flight: 16, train: 1 };

/// Row 18.
pub(super) fn udp(setting: &Setting) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (case, train) in [(TRAINS, 16), (SINGLE_DATAGRAMS, 1)] {
        let shape = DatagramShape { train, ..SHAPE };
        let entries = vec![
            (WAYSTATION, Ok(waystation(UdpTier::Gso, shape, setting)?)),
            (PLAIN_TIER, Ok(waystation(UdpTier::Plain, shape, setting)?)),
            TurnServer::Coturn.entry(shape, setting)?,
            TurnServer::TurnRs.entry(shape, setting)?,
            (FLOOR, Ok(floor(shape, setting)?)),
        ];
        outcome.extend(alternate(case, entries, &setting.schedule)?);
    }
    Ok(outcome)
}
