//! Who is linked to this node: every open link by identity, and which of them a query should take.
//!
//! Owned by the node on the management core and used on its thread only. Fed from link reports,
//! in the order each core sent them. It holds as many links as the data cores admit, so their caps
//! bound it. It must never close or replace a link because an identity has several (spec §9.2).

use std::collections::{BTreeMap, BTreeSet};
use waystation_astral::identity::Identity;
use waystation_engine::control::LinkUp;
use waystation_relay::ids::LinkTag;

/// Every open link, by tag and by identity.
#[derive(Debug, Default)]
pub struct Directory {
    /// In order of their places: a tag's successor in the same place replaces it.
    links: BTreeMap<LinkTag, Entry>,
    /// Those that are about to change cores: their places may have others before they are known to
    /// have gone.
    leaving: BTreeSet<LinkTag>,
    /// In order of preference within an identity: the last one is the best.
    preference: BTreeMap<Rank, LinkTag>,
    opened: u64,
}

#[derive(Debug)]
struct Entry {
    up: LinkUp,
    opened: u64,
}

/// Sorts links of an identity: inner links before outer ones, older before newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    identity: Identity,
    outer: bool,
    opened: u64,
}

impl Entry {
    fn rank(&self) -> Rank {
        Rank { identity: self.up.identity, outer: !self.up.inner, opened: self.opened }
    }
}

impl Directory {
    /// Enters a link. Gives back the link whose place it took, if that one's end was never
    /// reported: a core reuses a place only after its link has ended.
    pub fn link_up(&mut self, up: &LinkUp) -> Option<LinkUp> {
        if self.links.contains_key(&up.link) {
            return None;
        }
        let replaced = self.take_place_of(up.link);
        let entry = Entry { up: up.clone(), opened: self.opened };
        self.opened += 1;
        self.preference.insert(entry.rank(), up.link);
        self.links.insert(up.link, entry);
        replaced
    }

    /// A link is about to change cores, or stays after all.
    pub fn leave(&mut self, link: LinkTag, leaves: bool) {
        match leaves {
            true => self.leaving.insert(link),
            false => self.leaving.remove(&link),
        };
    }

    /// A link has another tag now; it stays as old as it is. Gives back the link whose place it
    /// took, as [`Self::link_up`] does.
    pub fn link_moved(&mut self, from: LinkTag, up: &LinkUp) -> Option<LinkUp> {
        self.leaving.remove(&from);
        let mut entry = self.links.remove(&from)?;
        let replaced = self.take_place_of(up.link);
        entry.up = up.clone();
        self.preference.insert(entry.rank(), up.link);
        self.links.insert(up.link, entry);
        replaced
    }

    /// Removes a link and gives it back; `None` for a link that is not, or no longer, in here.
    pub fn link_down(&mut self, link: LinkTag) -> Option<LinkUp> {
        self.leaving.remove(&link);
        self.remove(link)
    }

    /// The link with this tag, while it is open.
    pub fn get(&self, link: LinkTag) -> Option<&LinkUp> {
        self.links.get(&link).map(|entry| &entry.up)
    }

    /// The link on which to reach an identity: the outer link opened last, or else the inner link
    /// opened last.
    pub fn pick(&self, identity: &Identity) -> Option<&LinkUp> {
        self.best_first(identity).next()
    }

    /// As [`Self::pick`], but never this link.
    pub fn pick_other(&self, identity: &Identity, than: LinkTag) -> Option<&LinkUp> {
        self.best_first(identity).find(|up| up.link != than)
    }

    /// All links of an identity, in the order in which [`Self::pick`] prefers them.
    pub fn best_first(&self, identity: &Identity) -> impl Iterator<Item = &LinkUp> {
        let first = Rank { identity: *identity, outer: false, opened: 0 };
        let last = Rank { identity: *identity, outer: true, opened: u64::MAX };
        self.preference.range(first..=last).rev().filter_map(|(_, link)| self.get(*link))
    }

    /// At most so many links of one identity, or of all, in the order in which they were opened.
    pub fn oldest_first(&self, of: Option<&Identity>, max: usize) -> Vec<&LinkUp> {
        let mut entries: Vec<_> = self
            .links
            .values()
            .filter(|entry| of.is_none_or(|of| entry.up.identity == *of))
            .collect();
        entries.sort_by_key(|entry| entry.opened);
        entries.into_iter().take(max).map(|entry| &entry.up).collect()
    }

    /// Whether an identity has a link that this node dialed.
    pub fn is_dialed(&self, identity: &Identity) -> bool {
        self.best_first(identity).any(|up| up.dial.is_some())
    }

    /// Whether an identity has a link of any kind.
    pub fn is_linked(&self, identity: &Identity) -> bool {
        self.pick(identity).is_some()
    }

    /// How many links are open.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether no link is open.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Removes whoever had the place of a link that is new there.
    fn take_place_of(&mut self, link: LinkTag) -> Option<LinkUp> {
        let first = LinkTag { generation: 0, ..link };
        let last = LinkTag { generation: u32::MAX, ..link };
        let mut there = self.links.range(first..=last).map(|(tag, _)| *tag);
        let before = there.find(|tag| !self.leaving.contains(tag))?;
        self.remove(before)
    }

    fn remove(&mut self, link: LinkTag) -> Option<LinkUp> {
        let entry = self.links.remove(&link)?;
        self.preference.remove(&entry.rank());
        Some(entry.up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_astral::frame::Profile;
    use waystation_astral::identity::SecretKey;
    use waystation_relay::ids::CoreId;

    fn identity(number: u8) -> Identity {
        let mut scalar = [0; 32];
        scalar[31] = number;
        SecretKey::from_bytes(&scalar).unwrap().identity()
    }

    fn up(number: u8, slot: u32, generation: u32, inner: bool) -> LinkUp {
        LinkUp {
            link: LinkTag { core: CoreId(0), slot, generation },
            identity: identity(number),
            profile: Profile::P4,
            link_id: 7,
            remote: "203.0.113.7:41000".parse().unwrap(),
            local: "198.51.100.9:1791".parse().unwrap(),
            inner,
            network: waystation_engine::control::Network::Tcp,
            dial: None,
        }
    }

    #[test]
    fn newest_outer_link_is_picked() {
        let mut directory = Directory::default();
        for (slot, inner) in [(5, false), (3, false), (9, true)] {
            assert_eq!(directory.link_up(&up(1, slot, 0, inner)), None);
        }
        directory.link_up(&up(2, 1, 0, false));
        let order: Vec<_> = directory.best_first(&identity(1)).map(|up| up.link.slot).collect();
        assert_eq!(order, [3, 5, 9]);
        assert_eq!(directory.pick(&identity(1)).unwrap().link.slot, 3);
        assert_eq!(directory.pick(&identity(3)), None);
        assert_eq!(directory.len(), 4);
    }

    #[test]
    fn inner_link_is_picked_when_nothing_else_is_left() {
        let mut directory = Directory::default();
        directory.link_up(&up(1, 1, 0, true));
        directory.link_up(&up(1, 2, 0, false));
        assert_eq!(directory.link_down(up(1, 2, 0, false).link), Some(up(1, 2, 0, false)));
        assert_eq!(directory.pick(&identity(1)), Some(&up(1, 1, 0, true)));
        directory.link_down(up(1, 1, 0, true).link);
        assert!(!directory.is_linked(&identity(1)) && directory.is_empty());
    }

    #[test]
    fn asking_link_is_left_out() {
        let mut directory = Directory::default();
        directory.link_up(&up(1, 1, 0, false));
        let asking = up(1, 1, 0, false).link;
        assert_eq!(directory.pick_other(&identity(1), asking), None);
        directory.link_up(&up(1, 2, 0, false));
        assert_eq!(directory.pick_other(&identity(1), asking).unwrap().link.slot, 2);
    }

    #[test]
    fn successor_in_the_same_place_replaces_a_link_whose_end_was_lost() {
        let mut directory = Directory::default();
        directory.link_up(&up(1, 4, 0, false));
        assert_eq!(directory.link_up(&up(2, 4, 1, false)), Some(up(1, 4, 0, false)));
        assert!(!directory.is_linked(&identity(1)));
        assert_eq!(directory.link_down(up(1, 4, 0, false).link), None);
        assert!(directory.is_linked(&identity(2)));
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn link_that_has_moved_keeps_its_rank_and_leaves_its_place() {
        let mut directory = Directory::default();
        directory.link_up(&up(1, 4, 0, false));
        directory.link_up(&up(1, 5, 0, false));
        let old = up(1, 4, 0, false).link;
        directory.leave(old, true);
        // Its place has another link before anybody says that it has gone.
        assert_eq!(directory.link_up(&up(2, 4, 1, false)), None);
        let moved = LinkUp { link: LinkTag { core: CoreId(1), ..old }, ..up(1, 4, 0, false) };
        assert_eq!(directory.link_moved(old, &moved), None);
        assert_eq!(directory.get(old), None);
        let order: Vec<_> = directory.best_first(&identity(1)).map(|up| up.link).collect();
        assert_eq!(order, [up(1, 5, 0, false).link, moved.link]);
        assert!(directory.is_linked(&identity(2)));
        assert_eq!(directory.link_down(moved.link), Some(moved));
    }

    #[test]
    fn repeated_report_of_a_link_changes_nothing() {
        let mut directory = Directory::default();
        directory.link_up(&up(1, 4, 0, false));
        assert_eq!(directory.link_up(&up(1, 4, 0, false)), None);
        assert_eq!(directory.best_first(&identity(1)).count(), 1);
    }
}
