//! A session as one process tells another of it, which goes on with it.
//!
//! Values only, made on the data core that has the session and read on the one that takes it over,
//! once. A session keeps its tag, because tokens name it. Times are those of the machine's clock,
//! which both processes read. What a rate lets pass begins anew.

use super::endpoint::{Endpoint, Tick};
use super::leg::{Candidate, ColdLeg, Flags, HotLeg, LegPlace, Previous, Roaming, Side};
use super::proof::Secret;
use super::sessions::Sessions;
use super::settings::{Learning, OpenError, Settings};
use super::wireguard::PeerIndex;
use crate::address_policy::AddressPolicy;
use crate::ids::UdpSessionTag;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionState {
    /// Its place, and which session in that place.
    pub slot: u32,
    /// See [`Self::slot`].
    pub generation: u32,
    /// Its legs, A and B.
    pub legs: [LegState; 2],
    /// When it was opened, in nanoseconds.
    pub opened_ns: u64,
    dropped_packets: u64,
}

/// One leg of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegState {
    /// The port of this machine.
    pub port: u16,
    /// Where it is, if that is known.
    pub address: Option<SocketAddr>,
    heard_ns: u64,
    /// What its end is called by, the oldest first.
    indices: Vec<u32>,
    packets: u64,
    bytes: u64,
    secret: Option<[u8; 32]>,
    /// The counter of its last proof.
    proven: Option<u64>,
    /// Handshake messages that wait for the other end: from where, the index, whether it is an
    /// initiation, and when.
    candidates: Vec<(SocketAddr, u32, bool, u64)>,
    roaming: Option<(SocketAddr, u64)>,
    previous: Option<(SocketAddr, u64)>,
    is_contested: bool,
}

impl std::fmt::Debug for LegState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It may have a secret.
        let Self { port, address, .. } = self;
        write!(f, "LegState({port}, {address:?})")
    }
}

impl Drop for LegState {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl LegState {
    /// What its end proves itself with.
    pub fn secret(&self) -> Option<Secret> {
        self.secret.map(|bytes| Secret::new(*Zeroizing::new(bytes)))
    }
}

impl Sessions {
    /// Every session, in order of place.
    pub fn states(&self) -> impl Iterator<Item = SessionState> {
        (0..self.places()).filter_map(|slot| self.state_at(slot))
    }

    fn state_at(&self, slot: u32) -> Option<SessionState> {
        let cold = self.cold_at(slot)?;
        let legs = Side::BOTH.map(|side| {
            let leg = self.leg(LegPlace::new(slot, side));
            leg_state(leg, &cold.legs[side.index()])
        });
        let generation = self.leg(LegPlace::new(slot, Side::A)).generation;
        let (opened_ns, dropped_packets) = (cold.opened_ns, cold.dropped);
        Some(SessionState { slot, generation, legs, opened_ns, dropped_packets })
    }

    /// Goes on with a session that another process had, in the same place and with the same tag.
    /// The settings are what it was opened with, but for where its ends are.
    ///
    /// # Errors
    ///
    /// Why it cannot be; nothing has changed then.
    pub fn take_over(
        &mut self,
        mut settings: Settings,
        state: &SessionState,
    ) -> Result<UdpSessionTag, OpenError> {
        let slot = state.slot;
        if slot as usize >= self.sessions_max || self.cold_at(slot).is_some() {
            return Err(OpenError::TooManySessions);
        }
        for (leg, state) in settings.legs.iter_mut().zip(&state.legs) {
            set_first(&mut leg.learning, state.address, &self.policy);
        }
        let addresses = self.check(&settings)?;
        while self.places() <= slot {
            let place = self.add_place();
            self.free.push(place);
        }
        self.free.retain(|free| *free != slot);
        for side in Side::BOTH {
            self.leg_mut(LegPlace::new(slot, side)).generation = state.generation;
        }
        self.open_at(slot, settings, addresses, state.opened_ns);
        self.restore(slot, state);
        Ok(self.tag(slot))
    }

    fn restore(&mut self, slot: u32, state: &SessionState) {
        for (side, state) in Side::BOTH.into_iter().zip(&state.legs) {
            let hot = self.leg_mut(LegPlace::new(slot, side));
            hot.heard = Tick::at(state.heard_ns);
            (hot.packets, hot.bytes) = (state.packets, state.bytes);
            state.indices.iter().for_each(|index| _ = hot.add_index(PeerIndex(*index)));
        }
        let policy = Arc::clone(&self.policy);
        let Some(cold) = self.cold_at_mut(slot) else { return };
        cold.dropped = state.dropped_packets;
        let admitted = |address: SocketAddr| {
            Endpoint::new(address).filter(|address| policy.check(address.ip()).is_ok())
        };
        for (leg, state) in cold.legs.iter_mut().zip(&state.legs) {
            leg.proven = state.proven;
            leg.is_contested = state.is_contested;
            for &(address, index, is_initiation, heard_ns) in &state.candidates {
                if let Some(address) = admitted(address) {
                    let index = PeerIndex(index);
                    leg.candidates.add(Candidate { address, index, is_initiation, heard_ns });
                }
            }
            leg.roaming = state.roaming.and_then(|(address, heard_ns)| {
                Some(Roaming { address: admitted(address)?, heard_ns })
            });
            leg.previous = state.previous.and_then(|(address, until_ns)| {
                Some(Previous { address: admitted(address)?, until_ns })
            });
        }
        let is_roaming = [0, 1]
            .map(|side| self.cold_at(slot).is_some_and(|cold| cold.legs[side].roaming.is_some()));
        for (side, is_roaming) in Side::BOTH.into_iter().zip(is_roaming) {
            let flags = &mut self.leg_mut(LegPlace::new(slot, side)).flags;
            flags.set(Flags::ROAMING, is_roaming);
        }
    }
}

/// A learned leg is where it was, if it still may be there.
fn set_first(learning: &mut Learning, address: Option<SocketAddr>, policy: &AddressPolicy) {
    match learning {
        Learning::Fixed(_) => {}
        Learning::Proof { first, .. } | Learning::Handshake { first } => {
            *first = address.filter(|address| policy.check(address.ip()).is_ok());
        }
    }
}

fn leg_state(hot: &HotLeg, cold: &ColdLeg) -> LegState {
    let candidates = cold.candidates.iter().filter_map(|candidate| {
        let address = candidate.address.address()?;
        Some((address, candidate.index.0, candidate.is_initiation, candidate.heard_ns))
    });
    LegState {
        port: hot.port.0,
        address: hot.address.address(),
        heard_ns: hot.heard.ns(),
        indices: hot.indices().map(|index| index.0).collect(),
        packets: hot.packets,
        bytes: hot.bytes,
        secret: cold.secret.as_ref().map(|secret| *secret.expose()),
        proven: cold.proven,
        candidates: candidates.collect(),
        roaming: cold.roaming.and_then(|it| Some((it.address.address()?, it.heard_ns))),
        previous: cold.previous.and_then(|it| Some((it.address.address()?, it.until_ns))),
        is_contested: cold.is_contested,
    }
}
