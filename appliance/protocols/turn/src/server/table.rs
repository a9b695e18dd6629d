//! Every allocation of a server, and the ways to find one: by client, by relayed address, by time.
//!
//! Owned by the server. The two maps are the tables that other tiers mirror; look-ups allocate
//! nothing, and the maps have room for every allocation from the start.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use slab::Slab;

use super::Entries;
use super::allocation::{Allocation, AllocationId};
use crate::transport::FiveTuple;

#[derive(Debug)]
pub(super) struct Table {
    allocations: Slab<Scheduled>,
    by_client: HashMap<FiveTuple, usize>,
    by_relayed: HashMap<SocketAddr, usize>,
    /// When to look at each allocation: exactly one entry for each.
    wakes: BTreeSet<(u64, usize)>,
    generation: u32,
    /// What was found last in each map. Packets come in runs of the same client or peer, and a
    /// comparison costs a fraction of a hash.
    last_client: Cell<Option<(FiveTuple, usize)>>,
    last_relayed: Cell<Option<(SocketAddr, usize)>>,
}

#[derive(Debug)]
struct Scheduled {
    allocation: Allocation,
    wake_ns: u64,
}

impl Table {
    pub(super) fn new(allocations_max: usize) -> Self {
        Self {
            allocations: Slab::with_capacity(allocations_max),
            by_client: HashMap::with_capacity(allocations_max),
            by_relayed: HashMap::with_capacity(2 * allocations_max),
            wakes: BTreeSet::new(),
            generation: 0,
            last_client: Cell::new(None),
            last_relayed: Cell::new(None),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.allocations.len()
    }

    pub(super) fn entries(&self) -> Entries {
        Entries {
            allocations: self.allocations.len(),
            look_ups: [self.by_client.len(), self.by_relayed.len(), self.wakes.len()],
            ..Entries::default()
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Allocation> {
        self.allocations.iter().map(|(_, scheduled)| &scheduled.allocation)
    }

    pub(super) fn iter_from(&self, first: usize) -> impl Iterator<Item = (usize, &Allocation)> {
        // Places in front are not even looked at: a listing goes on here once for each part.
        let places = first..self.allocations.capacity();
        places.filter_map(|place| Some((place, self.get(place)?)))
    }

    /// The first place from one on that has an allocation.
    pub(super) fn place_from(&self, first: usize) -> Option<usize> {
        self.iter_from(first).next().map(|(place, _)| place)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Allocation> {
        self.allocations.get(index).map(|scheduled| &scheduled.allocation)
    }

    /// For changes; whoever makes something end earlier reschedules.
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Allocation> {
        self.allocations.get_mut(index).map(|scheduled| &mut scheduled.allocation)
    }

    pub(super) fn index_of_client(&self, client: &FiveTuple) -> Option<usize> {
        if let Some((last, index)) = self.last_client.get()
            && last == *client
        {
            return Some(index);
        }
        let index = self.by_client.get(client).copied()?;
        self.last_client.set(Some((*client, index)));
        Some(index)
    }

    pub(super) fn of_client(&self, client: &FiveTuple) -> Option<&Allocation> {
        self.get(self.index_of_client(client)?)
    }

    pub(super) fn of_relayed(&self, relayed: SocketAddr) -> Option<&Allocation> {
        if let Some((last, index)) = self.last_relayed.get()
            && last == relayed
        {
            return self.get(index);
        }
        let index = *self.by_relayed.get(&relayed)?;
        self.last_relayed.set(Some((relayed, index)));
        self.get(index)
    }

    /// The name of the allocation that is inserted next.
    pub(super) fn next_id(&mut self) -> AllocationId {
        self.generation = self.generation.wrapping_add(1);
        // The configuration keeps the number of allocations below 2^32.
        let index = u32::try_from(self.allocations.vacant_key()).unwrap_or(u32::MAX);
        AllocationId { index, generation: self.generation }
    }

    pub(super) fn insert(&mut self, allocation: Allocation) {
        let wake_ns = allocation.wake_ns();
        let (client, relayed) = (allocation.client, allocation.view().relayed);
        let index = self.allocations.insert(Scheduled { allocation, wake_ns });
        self.by_client.insert(client, index);
        for address in relayed.into_iter().flatten() {
            self.by_relayed.insert(address, index);
        }
        self.wakes.insert((wake_ns, index));
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<Allocation> {
        let Scheduled { allocation, wake_ns } = self.allocations.try_remove(index)?;
        self.wakes.remove(&(wake_ns, index));
        self.by_client.remove(&allocation.client);
        self.last_client.set(None);
        Some(allocation)
    }

    pub(super) fn forget_relayed(&mut self, address: SocketAddr) {
        self.by_relayed.remove(&address);
        self.last_relayed.set(None);
    }

    // --- time -----------------------------------------------------------------------------------

    pub(super) fn next_wake_ns(&self) -> Option<u64> {
        self.wakes.first().map(|(wake_ns, _)| *wake_ns)
    }

    /// An allocation of which something has come to its end.
    pub(super) fn due(&self, now_ns: u64) -> Option<usize> {
        self.wakes.first().filter(|(wake_ns, _)| *wake_ns <= now_ns).map(|(_, index)| *index)
    }

    /// Looks at an allocation when its first part ends.
    pub(super) fn reschedule(&mut self, index: usize) {
        let Some(scheduled) = self.allocations.get_mut(index) else {
            return;
        };
        let wake_ns = scheduled.allocation.wake_ns();
        self.wakes.remove(&(scheduled.wake_ns, index));
        self.wakes.insert((wake_ns, index));
        scheduled.wake_ns = wake_ns;
    }
}
