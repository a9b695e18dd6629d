//! Who has how much of the store, so that whoever has most makes room first (specification §17.4).
//!
//! A record is charged to the network that brought it and to the key that signed it: identities cost
//! nothing, and addresses cost little, but who has few of one is told by it. A source that has proved
//! nothing may be forged, so that all of these are charged as one network. When the store is full,
//! the largest share of either kind loses what it brought longest ago; so a flood from few networks,
//! or of few signers, turns over itself, and records of everybody else stay. Shares of a few records
//! are all alike: among them goes what was touched longest ago, which is the store's to say.
//!
//! Every record has a place in two lists, one of its carrier and one of its signer, in the order in
//! which they came. All work is constant but for a look into a short ordered set. Used by the store
//! alone.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use crate::keys::PublicKey;
use crate::limits::SHARE_RECORDS_MIN;
use crate::node_id::NodeId;
use crate::prefix::Prefix;

/// No place.
const NONE: u32 = u32::MAX;

/// Who brought a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// This node publishes it. It is charged to nobody, and there are few.
    Own,
    /// Nobody who is known: it was found by a look-up of this node, or kept over a restart. It is
    /// charged to its signer.
    Unknown,
    /// Somebody who has not proved to be where the message came from. It is charged to all of those
    /// together, as nobody else may be charged for what was forged in their name.
    Stranger,
    /// Somebody who has proved to be in a network.
    Network(Prefix),
}

/// Who is charged for having brought a record.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Carrier {
    Network(Prefix),
    Strangers,
}

/// The place of a record in the lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place(u32);

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Holder {
    Carrier(Carrier),
    Signer([u8; 32]),
}

/// Which of its lists a place is seen in.
#[derive(Clone, Copy, Debug)]
enum List {
    Carrier,
    Signer,
}

#[derive(Clone, Copy, Debug)]
struct Neighbours {
    before: u32,
    after: u32,
}

#[derive(Clone, Debug)]
struct Link {
    key: NodeId,
    /// By carrier, and by signer.
    neighbours: [Neighbours; 2],
}

#[derive(Clone, Copy, Debug)]
struct Share {
    records: u32,
    oldest: u32,
    newest: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shares {
    links: Vec<Link>,
    free: Vec<u32>,
    carriers: HashMap<Carrier, Share>,
    signers: HashMap<PublicKey, Share>,
    /// Holders of more than [`SHARE_RECORDS_MIN`], by how many that are.
    large: BTreeSet<(u32, Holder)>,
}

impl Origin {
    /// Who is charged besides the signer.
    pub(super) fn carrier(self) -> Option<Carrier> {
        match self {
            Self::Network(network) => Some(Carrier::Network(network)),
            Self::Stranger => Some(Carrier::Strangers),
            Self::Own | Self::Unknown => None,
        }
    }
}

impl Shares {
    /// Records charged to a signer.
    pub(super) fn of_signer(&self, signer: &PublicKey) -> usize {
        self.signers.get(signer).map_or(0, |share| share.records as usize)
    }

    /// Charges a record under a key. None for what is charged to nobody.
    pub(super) fn add(&mut self, key: NodeId, origin: Origin, signer: PublicKey) -> Option<Place> {
        if origin == Origin::Own {
            return None;
        }
        let lonely = Neighbours { before: NONE, after: NONE };
        let link = Link { key, neighbours: [lonely; 2] };
        let place = self.store_link(link)?;
        if let Some(carrier) = origin.carrier() {
            let share = append(&mut self.links, &mut self.carriers, carrier, place, List::Carrier);
            rank(&mut self.large, share.records - 1, share.records, Holder::Carrier(carrier));
        }
        let share = append(&mut self.links, &mut self.signers, signer, place, List::Signer);
        rank(&mut self.large, share.records - 1, share.records, Holder::Signer(signer.0));
        Some(Place(place))
    }

    /// Takes back what was charged.
    pub(super) fn remove(&mut self, place: Place, origin: Origin, signer: PublicKey) {
        let Place(place) = place;
        if let Some(carrier) = origin.carrier() {
            let left = unlink(&mut self.links, &mut self.carriers, carrier, place, List::Carrier);
            rank(&mut self.large, left + 1, left, Holder::Carrier(carrier));
        }
        let left = unlink(&mut self.links, &mut self.signers, signer, place, List::Signer);
        rank(&mut self.large, left + 1, left, Holder::Signer(signer.0));
        self.free.push(place);
    }

    /// The record that makes room first, if a share is so large that it has to: the one that came
    /// first of the largest.
    pub(super) fn first_to_go(&self) -> Option<(NodeId, Place)> {
        let (_, holder) = self.large.last()?;
        let share = match holder {
            Holder::Carrier(carrier) => self.carriers.get(carrier),
            Holder::Signer(signer) => self.signers.get(&PublicKey(*signer)),
        };
        let oldest = share?.oldest;
        let link = self.links.get(oldest as usize)?;
        Some((link.key, Place(oldest)))
    }

    fn store_link(&mut self, link: Link) -> Option<u32> {
        if let Some(place) = self.free.pop() {
            self.links[place as usize] = link;
            return Some(place);
        }
        let place = u32::try_from(self.links.len()).ok().filter(|place| *place != NONE)?;
        if self.links.len() == self.links.capacity() {
            // Twice as much, as a list takes by itself, would be megabytes that nobody uses.
            self.links.reserve_exact(self.links.len() / 8 + 64);
        }
        self.links.push(link);
        Some(place)
    }
}

/// Puts a place at the end of a holder's list.
fn append<K: Copy + Eq + Hash>(
    links: &mut [Link],
    shares: &mut HashMap<K, Share>,
    holder: K,
    place: u32,
    list: List,
) -> Share {
    let empty = Share { records: 0, oldest: NONE, newest: NONE };
    let share = shares.entry(holder).or_insert(empty);
    if let Some(newest) = links.get_mut(share.newest as usize) {
        newest.neighbours[list as usize].after = place;
        links[place as usize].neighbours[list as usize].before = share.newest;
    } else {
        share.oldest = place;
    }
    share.newest = place;
    share.records += 1;
    *share
}

/// Takes a place out of a holder's list, and gives back how many are left in it.
fn unlink<K: Copy + Eq + Hash>(
    links: &mut [Link],
    shares: &mut HashMap<K, Share>,
    holder: K,
    place: u32,
    list: List,
) -> u32 {
    let Some(share) = shares.get_mut(&holder) else { return 0 };
    let Neighbours { before, after } = links[place as usize].neighbours[list as usize];
    match links.get_mut(before as usize) {
        Some(before) => before.neighbours[list as usize].after = after,
        None => share.oldest = after,
    }
    match links.get_mut(after as usize) {
        Some(after) => after.neighbours[list as usize].before = before,
        None => share.newest = before,
    }
    share.records -= 1;
    let left = share.records;
    if left == 0 {
        shares.remove(&holder);
    }
    left
}

/// Keeps the order of large holders when one of them has had so many records and has so many now.
fn rank(large: &mut BTreeSet<(u32, Holder)>, before: u32, now: u32, holder: Holder) {
    if before > SHARE_RECORDS_MIN {
        large.remove(&(before, holder));
    }
    if now > SHARE_RECORDS_MIN {
        large.insert((now, holder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn signer(number: u16) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        PublicKey(bytes)
    }

    fn network(number: u8) -> Origin {
        Origin::Network(Prefix::V4([number, 0, 0]))
    }

    #[test]
    fn nobody_with_few_records_makes_room_for_others() {
        let mut shares = Shares::default();
        for number in 0..1000 {
            let of_network = (number / SHARE_RECORDS_MIN as u16) as u8;
            shares.add(key(1), network(of_network), signer(number)).unwrap();
        }
        assert_eq!(shares.first_to_go(), None);
    }

    #[test]
    fn the_largest_share_goes_first_in_the_order_in_which_it_came() {
        let mut shares = Shares::default();
        let mut places = Vec::new();
        for number in 0..200 {
            let of_network = if number % 2 == 0 { 1 } else { 2 + (number % 100) as u8 };
            places.push(shares.add(key(number as u8), network(of_network), signer(number)));
        }
        for number in (0..200).step_by(2).take(100 - SHARE_RECORDS_MIN as usize) {
            let (at, place) = shares.first_to_go().unwrap();
            assert_eq!((at, Some(place)), (key(number as u8), places[number as usize]));
            shares.remove(place, network(1), signer(number));
        }
        assert_eq!(shares.first_to_go(), None);
    }

    #[test]
    fn a_signer_from_everywhere_is_one_holder_and_all_is_given_back() {
        let mut shares = Shares::default();
        let count = 3 * SHARE_RECORDS_MIN as u16;
        let places: Vec<_> = (0..count)
            .map(|number| (number, shares.add(key(1), network(number as u8), signer(7)).unwrap()))
            .collect();
        assert_eq!(shares.of_signer(&signer(7)), usize::from(count));
        assert_eq!(shares.first_to_go(), Some((key(1), places[0].1)));
        // From the middle, from the end, and then the rest.
        let (even, odd): (Vec<_>, Vec<_>) = places.into_iter().partition(|(at, _)| at % 2 == 0);
        for (number, place) in odd.into_iter().chain(even.into_iter().rev()) {
            shares.remove(place, network(number as u8), signer(7));
        }
        assert!(shares.carriers.is_empty() && shares.signers.is_empty() && shares.large.is_empty());
        assert_eq!(shares.free.len(), shares.links.len());
        assert_eq!(shares.add(key(1), Origin::Own, signer(1)), None);
        assert_eq!(shares.of_signer(&signer(1)), 0);
    }
}
