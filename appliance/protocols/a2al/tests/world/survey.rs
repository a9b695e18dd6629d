//! Look-ups of what lives, and what came of them.

use std::fmt;

use waystation_a2al::limits::QUERY_MS_MAX;
use waystation_a2al::query::QueryId;
use waystation_a2al::time::Millis;

use super::World;

/// Milliseconds that a node is there before its look-ups count, and look-ups of its record.
const SETTLED_MS: u64 = 120_000;
/// Milliseconds after which the answer to a look-up is looked at: it has ended by then.
const JUDGED_MS: u64 = QUERY_MS_MAX + 2_000;

/// A look-up under way.
#[derive(Debug)]
struct Pending {
    asker: usize,
    publisher: usize,
    query: Option<QueryId>,
    asked_at: Millis,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Survey {
    pending: Vec<Pending>,
    /// Look-ups whose asker and publisher lived until they had ended.
    pub(crate) asked: usize,
    pub(crate) found: usize,
    /// Of those, look-ups of what the asker had in its own store.
    own: usize,
    /// Of the others that were found, nodes one after another that led there.
    hops: Vec<usize>,
    took_ms: Vec<u64>,
}

impl Survey {
    /// Has any node look for the endpoint record of any other, both of which have been there for two
    /// minutes; while the network is split, or has not healed, of another of its side.
    pub(crate) fn ask(&mut self, world: &mut World, of_one_side: bool) {
        let settled: Vec<usize> = world
            .honest()
            .into_iter()
            .filter(|number| world.age_ms(*number) >= SETTLED_MS)
            .collect();
        if settled.len() < 2 {
            return;
        }
        let mut pick = || settled[world.random.below(settled.len())];
        let (asker, publisher) = (pick(), pick());
        if asker == publisher || of_one_side && asker % 2 != publisher % 2 {
            return;
        }
        let Some(key) = world.node(publisher).map(|node| node.id()) else {
            return;
        };
        let query = world.look_up(asker, key);
        self.pending.push(Pending { asker, publisher, query, asked_at: world.now });
    }

    /// Looks at what came of those that have ended.
    pub(crate) fn judge(&mut self, world: &mut World) {
        let now = world.now;
        let is_over = |pending: &mut Pending| now.since(pending.asked_at) >= JUDGED_MS;
        for Pending { asker, publisher, query, .. } in self.pending.extract_if(.., is_over) {
            let found = query.and_then(|query| world.take_found(asker, query));
            let Some(record) = world.node(publisher).map(|node| node.address()) else {
                continue;
            };
            let is_cut = world.weather.is_split && asker % 2 != publisher % 2;
            if world.node(asker).is_none() || is_cut {
                continue;
            }
            self.asked += 1;
            let Some(found) = found.filter(|found| !found.records.is_empty()) else {
                continue;
            };
            // What is found was signed by its publisher, whatever liars passed on.
            for found in &found.records {
                assert_eq!(found.address, record);
                assert!(found.verify_by(&mut *world.scheme.verifier()).is_ok());
            }
            self.found += 1;
            if found.calls == 0 {
                self.own += 1;
            } else {
                self.hops.push(found.hops);
                self.took_ms.push(found.took_ms);
            }
        }
    }

    /// Half of those that asked others needed no more hops.
    pub(crate) fn median_hops(&self) -> usize {
        of_hundred(&self.hops, 50)
    }

    /// Look-ups of a thousand that brought the record.
    pub(crate) fn found_of_thousand(&self) -> usize {
        self.found * 1000 / self.asked.max(1)
    }
}

impl fmt::Debug for Survey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, found, own, .. } = self;
        write!(formatter, "{found} of {asked} found ({own} in the own store), hops ")?;
        let hops = [50, 99, 100].map(|share| of_hundred(&self.hops, share));
        let took_ms = [50, 99].map(|share| of_hundred(&self.took_ms, share));
        write!(formatter, "{hops:?} (median, 99 %, most), ms {took_ms:?} (median, 99 %)")
    }
}

/// The value that so many of a hundred do not exceed.
fn of_hundred<T: Copy + Default + Ord>(values: &[T], share: usize) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() * share).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}
