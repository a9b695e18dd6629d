//! One server's allocations become another's, in another process.
//!
//! The one that has them tells what they are ([`Server::tell`]), and once more what has changed
//! since, so that little is left to say while clients wait. It goes on until the other has them;
//! then it lets them go ([`Server::let_go`]), or keeps them if nothing came of it. Only clients over
//! datagrams move: the others stay with their streams. Ports that are kept for a token do not: they
//! are for half a minute at most. Called on the data cores, twice for each upgrade.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::allocation::{Allocation, AllocationState};
use super::{Host, Server, quota_name};
use crate::attribute::Family;
use crate::ports::Ports;
use crate::transport::FiveTuple;

/// What a server has of its clients over datagrams that another one has not been told of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerChanges {
    /// Whose allocations have ended since they were told of.
    pub ended: Vec<FiveTuple>,
    /// Allocations that are new, or otherwise than they were told.
    pub allocations: Vec<AllocationState>,
    /// How many there are by now, these and those that are as they were told.
    pub all: usize,
}

impl ServerChanges {
    /// Every relayed address in it.
    pub fn relayed(&self) -> impl Iterator<Item = SocketAddr> {
        let allocated = self.allocations.iter().flat_map(|state| &state.relayed);
        allocated.map(|(address, _)| *address)
    }
}

/// What another server has been told of: nothing at first.
#[derive(Clone, Debug, Default)]
pub struct ServerTold {
    allocations: BTreeMap<FiveTuple, AllocationState>,
}

impl Server {
    /// What another server needs to go on with the clients over datagrams, but for what it was told
    /// already. It counts as told from then on.
    pub fn tell(&self, told: &mut ServerTold) -> ServerChanges {
        let mut changes = ServerChanges::default();
        for allocation in self.table.iter().filter(|allocation| moves(allocation)) {
            changes.all += 1;
            let before = told.allocations.get(&allocation.client);
            if before.is_none_or(|before| !allocation.is_as(before)) {
                let state = allocation.state();
                changes.allocations.push(state.clone());
                told.allocations.insert(state.client, state);
            }
        }
        if told.allocations.len() > changes.all {
            let is_there = |client: &FiveTuple| self.table.index_of_client(client).is_some();
            let clients = told.allocations.keys();
            changes.ended = clients.filter(|client| !is_there(client)).copied().collect();
            told.allocations.retain(|client, _| is_there(client));
        }
        changes
    }

    /// Forgets everything that [`Self::tell`] tells, because another server has it.
    pub fn let_go(&mut self, host: &mut dyn Host) {
        let moving = self.table.iter_from(0).filter(|(_, allocation)| moves(allocation));
        let places: Vec<usize> = moving.map(|(place, _)| place).collect();
        places.into_iter().for_each(|place| self.end(place, host));
    }

    /// Goes on with what another server had, whose relayed addresses the host can open: of those that
    /// are told again too. Returns how many allocations of the other one there is no place for, by
    /// this server's configuration.
    pub fn take_over(&mut self, changes: &ServerChanges, host: &mut dyn Host) -> usize {
        let again = changes.allocations.iter().map(|state| &state.client);
        for client in changes.ended.iter().chain(again) {
            if let Some(place) = self.table.index_of_client(client) {
                self.end(place, host);
            }
        }
        for state in &changes.allocations {
            // What cannot be is missing from the sum.
            let _taken = self.take_allocation(state, host);
        }
        let taken = self.table.iter().filter(|allocation| moves(allocation)).count();
        changes.all.saturating_sub(taken)
    }

    fn take_allocation(&mut self, state: &AllocationState, host: &mut dyn Host) -> Option<()> {
        let is_in_the_way = self.has_allocation(&state.client) || state.relayed.is_empty();
        if is_in_the_way || self.table.len() >= self.config.allocations_max {
            return None;
        }
        let addresses = state.relayed.iter().map(|(address, _)| *address);
        let opened = self.reopen(addresses, host)?;
        // It was within its user's quota when it was made.
        if self.shared.quotas.take(quota_name(&state.username), 1, u32::MAX).is_err() {
            opened.into_iter().for_each(|address| self.close(address, host));
            return None;
        }
        let id = self.table.next_id();
        let allocation = Allocation::of_state(id, state, host);
        self.table.insert(allocation);
        Some(())
    }

    /// Opens addresses that another server had open: all of them, or none.
    fn reopen(
        &mut self,
        addresses: impl Iterator<Item = SocketAddr>,
        host: &mut dyn Host,
    ) -> Option<Vec<SocketAddr>> {
        let mut opened = Vec::new();
        for address in addresses {
            let is_ours = self.ports_of(address).is_some_and(|ports| ports.claim(address));
            if is_ours && host.open_relayed(address) {
                opened.push(address);
                continue;
            }
            if is_ours && let Some(ports) = self.ports_of(address) {
                ports.release(address);
            }
            opened.into_iter().for_each(|address| self.close(address, host));
            return None;
        }
        Some(opened)
    }

    fn ports_of(&self, address: SocketAddr) -> Option<&Ports> {
        let family = Family::of(address.ip());
        self.ports.get(family.index())?.as_ref()
    }
}

/// Whether an allocation's client comes over datagrams.
fn moves(allocation: &Allocation) -> bool {
    !allocation.client.transport.is_stream()
}
