//! Which links should change cores: those whose payload goes to another core for the most part.
//!
//! Owned by the management core and called on its thread, once for each round of [`LinkTraffic`]
//! that the data cores have reported. Pure: what passed and how busy the cores are comes in, moves
//! come out. It must not send a link to and fro: a link that has moved rests, of two cores only one
//! gives links to the other in a round, and a core that is busy gets none.

use std::collections::BTreeMap;
use waystation_engine::control::LinkTraffic;
use waystation_engine::statistics::CoreCounters;
use waystation_relay::ids::{CoreId, LinkTag};

/// Payload of a link to and from one core in one round below which it is not worth moving: at 1 ns
/// a byte, a millisecond of a round.
const TRAFFIC_MIN_BYTES: u64 = 1 << 20;
/// A link moves only to where more than this part of its payload goes.
const SHARE_MIN: f64 = 0.5;
/// How busy a core may be at most once it has taken in a link.
const LOAD_MAX: f64 = 0.95;
/// What is left of a link's cost once its payload stays on one core; both goals of row 12 and
/// measurements say 1 / 1.25.
const COST_LEFT: f64 = 0.8;
/// Moves begun in one round, so that the next one sees what became of them.
const MOVES_PER_ROUND_MAX: usize = 4;
/// How long a link stays where it has moved to, whatever its payload does.
const REST_NS: u64 = 10_000_000_000;

/// A link and where it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub link: LinkTag,
    pub to: CoreId,
}

/// Whether the cores are to be asked what has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// They are not: too little has crossed for links to move.
    None,
    /// They are, but decide nothing: they tell what has passed since they were asked last, which may
    /// be long ago.
    Baseline,
    /// What they tell is of one interval.
    Deciding,
}

/// How busy a core was in an interval, of whose counters this is the growth.
pub fn load(grown: impl Fn(fn(&CoreCounters) -> u64) -> u64) -> f64 {
    // Neither time for which others had the CPU nor spinning in vain is load: a core that spins
    // has that time to spare.
    let spent_ns = CoreCounters::spent_ns(
        grown(|counters| counters.cpu_ns),
        grown(|counters| counters.run_delay_ns),
        grown(|counters| counters.empty_spins_ns),
    );
    spent_ns as f64 / grown(|counters| counters.up_ns).max(1) as f64
}

/// See the module.
#[derive(Debug, Default)]
pub struct Placement {
    /// Links that rest, until when. Entries go when their time has come.
    resting: BTreeMap<LinkTag, u64>,
    /// The cores were asked at the end of the interval before.
    asked: bool,
}

impl Placement {
    /// An interval has ended in which this has crossed between cores.
    pub fn interval_ended(&mut self, crossed_bytes: u64) -> Round {
        let asked_before = std::mem::replace(&mut self.asked, crossed_bytes >= TRAFFIC_MIN_BYTES);
        match (self.asked, asked_before) {
            (false, _) => Round::None,
            (true, false) => Round::Baseline,
            (true, true) => Round::Deciding,
        }
    }

    /// A core has not answered: what it tells next is of more than one interval.
    pub fn miss_answer(&mut self) {
        self.asked = false;
    }

    /// A link has moved, or was refused to: under this tag it rests.
    pub fn rest(&mut self, link: LinkTag, now_ns: u64) {
        // Links can move by command alone, and then nobody decides.
        self.resting.retain(|_, until_ns| *until_ns > now_ns);
        self.resting.insert(link, now_ns + REST_NS);
    }

    /// What should move, after a round in which this has passed and the cores, in order, were busy
    /// for these parts of it.
    pub fn decide(&mut self, now_ns: u64, traffic: &[LinkTraffic], loads: &[f64]) -> Vec<Move> {
        self.resting.retain(|_, until_ns| *until_ns > now_ns);
        let mut loads = loads.to_vec();
        let mut candidates: Vec<_> =
            traffic.iter().filter_map(|link| self.candidate(link)).collect();
        // Those with most to win first; the tag only makes the order certain.
        candidates.sort_by_key(|(at, bytes)| (std::cmp::Reverse(*bytes), at.link));
        let mut moves: Vec<Move> = Vec::new();
        let mut bytes_of_cores = vec![0_u64; loads.len()];
        for link in traffic {
            if let Some(bytes) = bytes_of_cores.get_mut(link.link.core.index()) {
                *bytes += link.bytes_by_core.iter().sum::<u64>();
            }
        }
        for (wanted, bytes) in candidates {
            let from = wanted.link.core;
            let opposed =
                moves.iter().any(|chosen| (chosen.link.core, chosen.to) == (wanted.to, from));
            if opposed || moves.len() == MOVES_PER_ROUND_MAX {
                continue;
            }
            let all = bytes_of_cores.get(from.index()).copied().unwrap_or(0);
            let load = |core: CoreId| loads.get(core.index()).copied().unwrap_or(1.0);
            let cost = load(from) * (bytes as f64 / all.max(1) as f64).min(1.0);
            if load(wanted.to) + cost * COST_LEFT > LOAD_MAX {
                continue;
            }
            if let Some(load) = loads.get_mut(wanted.to.index()) {
                *load += cost * COST_LEFT;
            }
            moves.push(wanted);
        }
        moves
    }

    /// Where a link should be, if that is not where it is, and what of its payload would cross no
    /// more.
    fn candidate(&self, traffic: &LinkTraffic) -> Option<(Move, u64)> {
        if self.resting.contains_key(&traffic.link) {
            return None;
        }
        let all: u64 = traffic.bytes_by_core.iter().sum();
        let (core, &bytes) =
            traffic.bytes_by_core.iter().enumerate().max_by_key(|(_, bytes)| **bytes)?;
        let to = CoreId(u16::try_from(core).ok()?);
        let most = bytes as f64 > all as f64 * SHARE_MIN;
        let worth = to != traffic.link.core && bytes >= TRAFFIC_MIN_BYTES && most;
        worth.then_some((Move { link: traffic.link, to }, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const SECOND_NS: u64 = 1_000_000_000;

    fn tag(core: u16, slot: u32) -> LinkTag {
        LinkTag { core: CoreId(core), slot, generation: 0 }
    }

    fn traffic(core: u16, slot: u32, bytes_by_core: &[u64]) -> LinkTraffic {
        LinkTraffic { link: tag(core, slot), bytes_by_core: bytes_by_core.into() }
    }

    #[test]
    fn one_link_of_a_pair_moves_to_the_other() {
        let pair = [traffic(0, 1, &[0, 50 * MIB]), traffic(1, 1, &[50 * MIB, 0])];
        let moves = Placement::default().decide(0, &pair, &[0.2, 0.2]);
        assert_eq!(moves, [Move { link: tag(0, 1), to: CoreId(1) }]);
    }

    #[test]
    fn link_that_has_moved_rests() {
        let mut placement = Placement::default();
        placement.rest(tag(1, 4), 0);
        let pair = [traffic(1, 4, &[50 * MIB, 0])];
        assert_eq!(placement.decide(9 * SECOND_NS, &pair, &[0.2, 0.2]), []);
        assert_eq!(placement.decide(10 * SECOND_NS, &pair, &[0.2, 0.2]).len(), 1);
    }

    #[test]
    fn rest_that_is_over_is_forgotten_without_a_decision() {
        let mut placement = Placement::default();
        for moved in 0..9 {
            placement.rest(tag(0, moved), u64::from(moved) * REST_NS);
        }
        assert_eq!(placement.resting.len(), 1);
    }

    #[test]
    fn round_after_a_pause_decides_nothing() {
        let mut placement = Placement::default();
        let rounds = [MIB, MIB, MIB - 1, MIB, MIB].map(|bytes| placement.interval_ended(bytes));
        let (none, baseline, deciding) = (Round::None, Round::Baseline, Round::Deciding);
        assert_eq!(rounds, [baseline, deciding, none, baseline, deciding]);
        placement.miss_answer();
        assert_eq!(placement.interval_ended(MIB), baseline);
    }

    #[test]
    fn core_that_spins_in_vain_has_time_to_spare() {
        let spinning = CoreCounters {
            up_ns: SECOND_NS,
            cpu_ns: 900_000_000,
            empty_spins_ns: 750_000_000,
            run_delay_ns: 50_000_000,
            ..CoreCounters::default()
        };
        assert!((load(|read| read(&spinning)) - 0.2).abs() < 1e-9);
    }

    #[test]
    fn busy_core_gets_no_link() {
        let links = [traffic(0, 1, &[0, 50 * MIB])];
        assert_eq!(Placement::default().decide(0, &links, &[0.5, 0.7]), []);
        assert_eq!(Placement::default().decide(0, &links, &[0.5, 0.4]).len(), 1);
    }

    #[test]
    fn link_with_as_much_at_home_stays() {
        let links = [traffic(0, 1, &[50 * MIB, 50 * MIB]), traffic(0, 2, &[0, MIB - 1])];
        assert_eq!(Placement::default().decide(0, &links, &[0.1, 0.1]), []);
    }

    proptest! {
        #[test]
        fn moves_are_few_and_one_way_and_to_cores_with_room(
            rows in prop::collection::vec((0_u16..3, 0_u32..9, prop::array::uniform3(0_u64..9)), 0..30),
            loads in prop::array::uniform3(0.0_f64..1.0),
        ) {
            let rows: Vec<_> = rows
                .into_iter()
                .map(|(core, slot, bytes)| traffic(core, slot, &bytes.map(|bytes| bytes * MIB)))
                .collect();
            let moves = Placement::default().decide(0, &rows, &loads);
            prop_assert!(moves.len() <= MOVES_PER_ROUND_MAX);
            for chosen in &moves {
                prop_assert_ne!(chosen.link.core, chosen.to);
                prop_assert!(loads[chosen.to.index()] <= LOAD_MAX);
                let opposed = |other: &&Move| (other.link.core, other.to) == (chosen.to, chosen.link.core);
                prop_assert!(moves.iter().find(opposed).is_none());
            }
        }
    }
}
