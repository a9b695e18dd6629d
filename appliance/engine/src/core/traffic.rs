//! What passes over which link and to which cores, for whoever decides where links should be, or
//! looks at them.
//!
//! Part of [`DataCore`], on its thread, at the request of the management core. Sessions count their
//! bytes anyway; these are added up a part in each turn, as for listings, and never on the way of a
//! frame.

use super::DataCore;
use super::connection::{Connection, Phase};
use crate::control::{LinkTraffic, Report};
use crate::limits::SESSIONS_ADDED_UP_PER_TURN;
use crate::port::Port;
use std::collections::BTreeMap;
use waystation_relay::ids::LinkTag;

/// A sum over the sessions with the place that comes next.
#[derive(Debug)]
pub(super) struct TrafficWalk {
    next: u32,
    /// Links over which something has passed, in the order of the cores.
    bytes: BTreeMap<LinkTag, Box<[u64]>>,
}

impl<P: Port> DataCore<P> {
    /// Begins to add up. One that is under way ends without an answer: whoever asks again has given
    /// it up.
    pub(super) fn begin_traffic_walk(&mut self) {
        self.traffic_walk = Some(TrafficWalk { next: 0, bytes: BTreeMap::new() });
    }

    /// Does this turn's part.
    pub(super) fn go_on_adding_traffic(&mut self) {
        let Some(walk) = &mut self.traffic_walk else { return };
        self.in_vain = false;
        let (core, cores) = (self.fabric.core, self.fabric.mesh.cores());
        let (connections, places) = (&self.connections, SESSIONS_ADDED_UP_PER_TURN);
        let next = self.fabric.switch.take_traffic(walk.next, places, |slot, other, bytes| {
            let link = LinkTag { core, slot, generation: connections.generation_at(slot) };
            let sums = walk.bytes.entry(link).or_insert_with(|| vec![0; cores].into());
            if let Some(sum) = sums.get_mut(other.index()) {
                *sum += bytes;
            }
        });
        match next {
            Some(next) => {
                walk.next = next;
                // The next turn must not sleep on it.
                self.port.waker().wake();
            }
            None => self.finish_traffic_walk(),
        }
    }

    /// One turn for all links: there are as many as `engine.links_max` at most, and whoever asks
    /// wants them in one piece.
    fn finish_traffic_walk(&mut self) {
        let Some(TrafficWalk { bytes, .. }) = self.traffic_walk.take() else { return };
        let connections = &self.connections;
        let here = |link: LinkTag| {
            let connection = connections.get(link.slot, link.generation);
            matches!(connection, Some(Connection { phase: Phase::Link(_), .. }))
        };
        let links = bytes
            .into_iter()
            .filter(|(link, _)| here(*link))
            .map(|(link, bytes_by_core)| LinkTraffic { link, bytes_by_core })
            .collect();
        self.fabric.report(Report::LinkTraffic { core: self.fabric.core, links });
    }
}
