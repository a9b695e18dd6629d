//! Which part of a link's payload stays on the link's core, as documents tell it.
//!
//! Owned by the management core and used on its thread: filled from the rounds in which the data
//! cores report what passes over links, read when links are listed. It holds one number for each
//! open link over which something has passed in the last round, so the caps on links bound it.
//! Nobody may tell what is no longer recent: a link that has come to where its payload goes would
//! look as if it had stayed.

use crate::clock::Moment;
use crate::limits::LINK_TRAFFIC_AGE_MAX;
use std::collections::BTreeMap;
use waystation_engine::control::LinkTraffic;
use waystation_relay::ids::LinkTag;

/// See the module.
#[derive(Debug, Default)]
pub struct SameCoreShares {
    by_link: BTreeMap<LinkTag, f64>,
    /// When the last round ended; nothing while the next one is under way.
    told: Option<Moment>,
}

impl SameCoreShares {
    /// A round has begun: what is known is about an earlier one.
    pub fn forget(&mut self) {
        self.by_link.clear();
        self.told = None;
    }

    /// A round has ended, in which this has passed over links.
    pub fn tell<'t>(&mut self, now: Moment, traffic: impl Iterator<Item = &'t LinkTraffic>) {
        self.by_link = traffic.filter_map(|link| Some((link.link, share(link)?))).collect();
        self.told = Some(now);
    }

    /// Whether the last round is recent enough to be told about.
    pub fn are_recent(&self, now: Moment) -> bool {
        self.told.is_some_and(|told| now.since(told) <= LINK_TRAFFIC_AGE_MAX)
    }

    /// The part of a link's payload that stayed on its core, between 0 and 1; nothing if no payload
    /// passed, or its core has not said so.
    pub fn of(&self, link: LinkTag) -> Option<f64> {
        self.by_link.get(&link).copied()
    }

    /// A link has another tag now. What passed before passed as it did.
    pub fn link_moved(&mut self, from: LinkTag, to: LinkTag) {
        if let Some(share) = self.by_link.remove(&from) {
            self.by_link.insert(to, share);
        }
    }

    /// A link has ended.
    pub fn link_down(&mut self, link: LinkTag) {
        self.by_link.remove(&link);
    }
}

/// The part of what passed that went to, or came from, the link's own core.
fn share(traffic: &LinkTraffic) -> Option<f64> {
    let all: u64 = traffic.bytes_by_core.iter().sum();
    let same = *traffic.bytes_by_core.get(traffic.link.core.index())?;
    (all > 0).then(|| same as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::moment;
    use waystation_relay::ids::CoreId;

    fn tag(core: u16, slot: u32) -> LinkTag {
        LinkTag { core: CoreId(core), slot, generation: 0 }
    }

    fn told(traffic: &[(LinkTag, &[u64])]) -> SameCoreShares {
        let traffic: Vec<_> = traffic
            .iter()
            .map(|(link, bytes)| LinkTraffic { link: *link, bytes_by_core: (*bytes).into() })
            .collect();
        let mut shares = SameCoreShares::default();
        shares.tell(moment(1), traffic.iter());
        shares
    }

    #[test]
    fn share_is_that_of_the_links_own_core() {
        let (here, there, both, idle) = (tag(0, 1), tag(1, 1), tag(1, 2), tag(0, 2));
        let shares =
            told(&[(here, &[70, 0]), (there, &[9, 0]), (both, &[300, 100]), (idle, &[0, 0])]);
        assert_eq!(shares.of(here), Some(1.0));
        assert_eq!(shares.of(there), Some(0.0));
        assert_eq!(shares.of(both), Some(0.25));
        assert_eq!(shares.of(idle), None);
        assert_eq!(shares.of(tag(0, 3)), None, "nobody has told of it");
    }

    #[test]
    fn core_that_is_unknown_has_no_share() {
        assert_eq!(told(&[(tag(2, 1), &[1, 1])]).of(tag(2, 1)), None);
    }

    #[test]
    fn share_follows_a_link_that_moves_and_goes_with_one_that_ends() {
        let (from, to, other) = (tag(0, 1), tag(1, 4), tag(0, 2));
        let mut shares = told(&[(from, &[1, 3]), (other, &[1, 0])]);
        shares.link_moved(from, to);
        assert_eq!((shares.of(from), shares.of(to)), (None, Some(0.25)));
        shares.link_moved(tag(0, 9), other);
        assert_eq!(shares.of(other), Some(1.0), "nothing was known of the one that has moved");
        shares.link_down(to);
        assert_eq!((shares.of(to), shares.by_link.len()), (None, 1));
    }

    #[test]
    fn nothing_is_told_while_a_round_is_under_way_or_once_it_is_long_over() {
        let mut shares = told(&[(tag(0, 1), &[1, 0])]);
        assert!(shares.are_recent(moment(2)));
        assert!(!shares.are_recent(moment(3)));
        shares.forget();
        assert!(!shares.are_recent(moment(1)));
        assert_eq!(shares.of(tag(0, 1)), None);
    }
}
