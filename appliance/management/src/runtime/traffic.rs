//! Rounds of questions to all data cores about what passes over which link and to which cores.
//!
//! Placement has them asked at the end of an interval in which much has crossed, and whoever asks
//! for links has them asked when the last answers are old: adding up costs the cores time, so
//! nobody asks for nothing. The cores tell what has passed since they were asked last; rounds for
//! those who ask for links must not cut short what placement decides by, so there is none while
//! placement has rounds of its own.

use super::ManagementCore;
use crate::clock::{self, Moment};
use crate::limits::CORE_ANSWER_TIMEOUT;
use tokio::time::Instant;
use waystation_engine::control::{Command, LinkTraffic};
use waystation_relay::ids::CoreId;

/// One such round.
pub(super) struct TrafficRound {
    missing: Vec<CoreId>,
    links: Vec<LinkTraffic>,
    /// Links may move because of it.
    for_placement: bool,
    pub(super) deadline: Instant,
}

impl ManagementCore {
    /// Asks all cores. A round that is under way is given up: so do the cores.
    pub(super) fn begin_traffic_round(&mut self, for_placement: bool) {
        self.shares.forget();
        let missing: Vec<CoreId> = self.cores().collect();
        for &core in &missing {
            self.command(core, Command::ReportLinkTraffic);
        }
        let deadline = Instant::now() + CORE_ANSWER_TIMEOUT;
        let links = Vec::new();
        self.traffic_round = Some(TrafficRound { missing, links, for_placement, deadline });
    }

    /// Sees to it that what the cores have told of links is recent, or is going to be told.
    pub(super) fn ask_for_shares(&mut self) {
        if self.traffic_round.is_none() && !self.shares.are_recent(clock::now()) {
            self.begin_traffic_round(false);
        }
    }

    pub(super) fn on_traffic(&mut self, now: Moment, core: CoreId, links: &[LinkTraffic]) {
        let Some(round) = &mut self.traffic_round else { return };
        let before = round.missing.len();
        round.missing.retain(|&missing| missing != core);
        // An answer that was late comes in the next round, and that round's own is then too much.
        if round.missing.len() < before {
            round.links.extend_from_slice(links);
        }
        if round.missing.is_empty() {
            self.end_traffic_round(now);
        }
    }

    /// Goes on with what the cores that answered have told.
    pub(super) fn end_traffic_round(&mut self, now: Moment) {
        let Some(round) = self.traffic_round.take() else { return };
        // A core may have told of a link before it went.
        let directory = self.node.directory();
        let open = round.links.iter().filter(|link| directory.get(link.link).is_some());
        self.shares.tell(now, open);
        if !round.missing.is_empty() {
            self.moves.placement.miss_answer();
        } else if round.for_placement {
            self.place(now, &round.links);
        }
        self.end_complete_listing();
    }
}
