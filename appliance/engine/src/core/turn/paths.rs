//! Which paths of its clients a core tells the management core about, and in which order.
//!
//! Part of the TURN server, on its thread. Changes wait in a bounded queue; when it overflows, or
//! telling begins, everything is told anew: allocation by allocation, with changes in between where
//! they happen, so that what is told last of a path is how it is. Nothing is allocated for it while
//! payload is relayed.

use super::TurnServer;
use crate::control::Report;
use crate::fabric::Fabric;
use crate::limits::{PATH_CHANGES_PER_REPORT, PATH_CHANGES_WAITING_MAX, PATH_REPORTS_PER_TURN};
use crate::offload::{OffloadPath, Offloaded, PathChange};
use crate::statistics::CoreCounters;
use std::collections::VecDeque;
use waystation_turn::transport::{FiveTuple, Transport};

/// Changes that wait to be told.
#[derive(Debug)]
pub(super) struct PathChanges {
    waiting: VecDeque<PathChange>,
    waiting_max: usize,
    is_wanted: bool,
    /// The place of the allocation that is told next, while all are told anew.
    next_place: Option<usize>,
}

impl PathChanges {
    /// For allocations with so many channels at most.
    pub(super) fn new(channels_max: usize) -> Self {
        // While all are told anew one allocation must fit beside what happens, whatever its size.
        let waiting_max = PATH_CHANGES_WAITING_MAX + 2 * (channels_max + 1);
        Self { waiting: VecDeque::new(), waiting_max, is_wanted: false, next_place: None }
    }

    /// Begins to tell, with everything there is, or ends it.
    fn want(&mut self, is_wanted: bool) {
        self.waiting = VecDeque::new();
        self.next_place = None;
        self.is_wanted = is_wanted;
        if is_wanted {
            self.begin_anew();
        }
    }

    /// One more change. Without room, all that there is is told anew.
    pub(super) fn push(&mut self, change: PathChange) {
        if !self.is_wanted {
            return;
        }
        if self.waiting.len() >= self.waiting_max {
            self.waiting.clear();
            self.begin_anew();
            return;
        }
        self.waiting.push_back(change);
    }

    fn begin_anew(&mut self) {
        self.waiting.push_back(PathChange::Void);
        self.next_place = Some(0);
    }

    /// Whether there is room to tell of one more allocation.
    fn place_to_tell(&self) -> Option<usize> {
        self.next_place.filter(|_| self.waiting.len() < PATH_CHANGES_WAITING_MAX)
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.next_place.is_none()
    }

    fn take(&mut self) -> Box<[PathChange]> {
        let changes = self.waiting.len().min(PATH_CHANGES_PER_REPORT);
        self.waiting.drain(..changes).collect()
    }
}

impl TurnServer {
    /// Begins or ends telling about paths.
    pub(in crate::core) fn tell_paths(&mut self, is_wanted: bool) {
        self.hosting.changes.want(is_wanted);
        self.hosting.forget_offloaded();
    }

    /// Whether there is something to tell, now or when the management core has room.
    pub(in crate::core) fn has_paths_to_tell(&self) -> bool {
        !self.hosting.changes.is_empty()
    }

    /// Tells what waits, as far as there is room.
    pub(in crate::core) fn report_paths(&mut self, fabric: &mut Fabric) {
        for _ in 0..PATH_REPORTS_PER_TURN {
            self.go_on_telling_anew();
            if self.hosting.changes.waiting.is_empty() {
                return;
            }
            let (core, changes) = (fabric.core, &mut self.hosting.changes);
            if !fabric.report_if_room(|| Report::Paths { core, changes: changes.take() }) {
                return;
            }
        }
    }

    /// Adds allocations to what waits, one after the other, while all are told anew.
    fn go_on_telling_anew(&mut self) {
        while let Some(first) = self.hosting.changes.place_to_tell() {
            let Some((place, view)) = self.server.allocations_from(first).next() else {
                self.hosting.changes.next_place = None;
                return;
            };
            self.hosting.changes.next_place = Some(place + 1);
            if let Some(change) = client(&view.client, true) {
                self.hosting.changes.push(change);
            }
            for (path, is_two_way) in self.server.paths_of(place) {
                if let Some(path) = self.hosting.offload_path(&path) {
                    self.hosting.changes.push(PathChange::Open { path, is_two_way });
                }
            }
        }
    }

    /// Enters what was relayed without this core.
    pub(in crate::core) fn note_offloaded(
        &mut self,
        offloaded: &[Offloaded],
        counters: &mut CoreCounters,
    ) {
        for Offloaded { allocation, directions, to_peers, to_client } in offloaded.iter().copied() {
            counters.udp_datagrams_offloaded += to_peers.datagrams + to_client.datagrams;
            counters.turn_datagrams_to_peers += to_peers.datagrams;
            counters.turn_bytes_to_peers += to_peers.bytes;
            counters.turn_datagrams_to_clients += to_client.datagrams;
            counters.turn_bytes_to_clients += to_client.bytes;
            if let Some(tally) = self.hosting.tally_if_there(allocation) {
                tally.directions_offloaded = directions;
                tally.datagrams_offloaded += to_peers.datagrams + to_client.datagrams;
                tally.datagrams_to_peers += to_peers.datagrams;
                tally.bytes_to_peers += to_peers.bytes;
                tally.datagrams_to_client += to_client.datagrams;
                tally.bytes_to_client += to_client.bytes;
            }
        }
    }
}

/// What is told of a client that has come or gone; of one over TCP nothing, because the program
/// knows UDP alone.
pub(super) fn client(tuple: &FiveTuple, is_there: bool) -> Option<PathChange> {
    let FiveTuple { transport, client, server } = *tuple;
    (transport == Transport::Udp).then_some(match is_there {
        true => PathChange::Client { client, server },
        false => PathChange::ClientGone { client, server },
    })
}

/// A path with the addresses of its packets, for a client over UDP.
pub(super) fn with_addresses(
    path: &waystation_turn::server::Path,
    bound: impl Fn(std::net::IpAddr) -> std::net::IpAddr,
) -> Option<OffloadPath> {
    (path.client.transport == Transport::Udp).then(|| OffloadPath {
        allocation: path.allocation,
        client: path.client.client,
        server: path.client.server,
        channel: path.channel.number(),
        relayed: std::net::SocketAddr::new(bound(path.relayed.ip()), path.relayed.port()),
        peer: path.peer,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn some(port: u16) -> PathChange {
        let at = |port: u16| std::net::SocketAddr::from(([192, 0, 2, 1], port));
        PathChange::Client { client: at(port), server: at(3478) }
    }

    #[test]
    fn nothing_waits_until_it_is_wanted_and_then_everything_is_told_anew() {
        let mut changes = PathChanges::new(8);
        changes.push(some(1));
        assert!(changes.is_empty());
        changes.want(true);
        changes.push(some(2));
        assert_eq!(changes.place_to_tell(), Some(0));
        assert_eq!(*changes.take(), [PathChange::Void, some(2)]);
        changes.want(false);
        assert!(changes.is_empty());
    }

    #[test]
    fn overflow_forgets_what_waits_and_tells_everything_anew() {
        let mut changes = PathChanges::new(8);
        changes.want(true);
        changes.next_place = None;
        for port in 0..=u16::try_from(changes.waiting_max).unwrap() {
            changes.push(some(port));
        }
        // The first that found no room has cleared the queue; what came behind it waits.
        assert!(changes.waiting.len() < 4, "{}", changes.waiting.len());
        assert_eq!(changes.waiting.front(), Some(&PathChange::Void));
        assert_eq!(changes.place_to_tell(), Some(0));
    }

    #[test]
    fn one_allocation_with_all_channels_fits_beside_what_happens() {
        let channels = 4096;
        let mut changes = PathChanges::new(channels);
        changes.want(true);
        while changes.place_to_tell().is_some() {
            (0..=channels).for_each(|_| changes.push(some(1)));
        }
        assert_eq!(changes.waiting.iter().filter(|it| **it == PathChange::Void).count(), 1);
        assert!(changes.waiting.len() > channels);
    }

    #[test]
    fn reports_have_a_bounded_length() {
        let mut changes = PathChanges::new(8);
        changes.want(true);
        (0..1000).for_each(|port| changes.push(some(port)));
        assert_eq!(changes.take().len(), PATH_CHANGES_PER_REPORT);
    }
}
