//! What a faster tier needs to carry a session, and what it tells back.
//!
//! Used on the data core that owns the table, between datagrams. Whoever mirrors sessions elsewhere
//! asks for an [`Offer`] whenever an event names the session, and says when it may be carried there.
//! Nothing here moves a packet or knows of maps.

use super::LocalPort;
use super::endpoint::Tick;
use super::leg::{Flags, LegPlace, Side};
use super::sessions::Sessions;
use super::tier::WhyNot;
use super::wireguard::PeerIndex;
use crate::ids::UdpSessionTag;
use crate::limits::WIREGUARD_INDICES_MAX;
use std::net::SocketAddr;

/// What a faster tier has to know of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its legs, A and B.
    pub legs: [OfferedLeg; 2],
    /// A faster tier must pass no more than transport data for the indices of the leg it goes to:
    /// handshakes are what new addresses are learned from.
    pub is_wireguard: bool,
    /// The rate of payload in each direction.
    pub pace: Option<Pace>,
    /// Why it must not be carried there now, whatever else is well.
    pub against: Option<WhyNot>,
}

/// One leg of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferedLeg {
    /// The port of this machine.
    pub port: LocalPort,
    /// Where its end is, if that is known.
    pub address: Option<SocketAddr>,
    /// What its end is called by; places that are not needed repeat one that is.
    pub indices: Option<[PeerIndex; WIREGUARD_INDICES_MAX]>,
}

/// A rate of bytes as time that they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The time of 1024 bytes, in nanoseconds.
    pub kib_ns: u32,
    /// How far ahead of its rate a direction may be, in nanoseconds.
    pub burst_ns: u64,
}

impl Sessions {
    /// Tells of changes that only a faster tier has to know ([`super::Event::Changed`]), or does so
    /// no longer.
    pub fn watch(&mut self, session: UdpSessionTag, is_watched: bool) {
        self.flag(session, Flags::WATCHED, is_watched);
    }

    /// Says whether a faster tier may carry the session at this moment, so that silence is not
    /// taken for an end that has gone while its packets are only counted late.
    pub fn set_offloaded(&mut self, session: UdpSessionTag, is_offloaded: bool) {
        self.flag(session, Flags::OFFLOADED, is_offloaded);
    }

    fn flag(&mut self, session: UdpSessionTag, flag: u8, is_set: bool) {
        let Some(slot) = self.slot_of(session) else { return };
        for side in Side::BOTH {
            self.leg_mut(LegPlace::new(slot, side)).flags.set(flag, is_set);
        }
    }

    /// What a faster tier has to know. `None`: there is no such session.
    pub fn offer(&self, session: UdpSessionTag) -> Option<Offer> {
        let slot = self.slot_of(session)?;
        let hot = self.hot.get(slot as usize)?;
        let legs = hot.legs.each_ref().map(|leg| OfferedLeg {
            port: leg.port,
            address: leg.address.address(),
            indices: leg.known_indices(),
        });
        let is_wireguard = hot.legs[0].flags.has(Flags::WIREGUARD);
        let against = if legs.iter().any(|leg| leg.address.is_none()) {
            Some(WhyNot::LegUnknown)
        } else if hot.meter.counts_packets() {
            Some(WhyNot::PacketRate)
        } else if is_wireguard && legs.iter().any(|leg| leg.indices.is_none()) {
            Some(WhyNot::NoHandshake)
        } else if hot.legs.iter().any(|leg| leg.flags.has(Flags::ROAMING)) {
            Some(WhyNot::Roaming)
        } else {
            None
        };
        let pace = hot.meter.byte_pace().map(|(kib_ns, burst_ns)| Pace {
            kib_ns: u32::try_from(kib_ns).unwrap_or(u32::MAX),
            burst_ns,
        });
        Some(Offer { legs, is_wireguard, pace, against })
    }

    /// Adds what a faster tier has carried from a leg's address since the last call, and when the
    /// last of it came. `false`: there is no such session.
    pub fn note_offloaded(
        &mut self,
        session: UdpSessionTag,
        side: Side,
        heard_ns: u64,
        packets: u64,
        bytes: u64,
    ) -> bool {
        let Some(slot) = self.slot_of(session) else {
            return false;
        };
        if packets > 0 {
            let leg = self.leg_mut(LegPlace::new(slot, side));
            leg.heard = leg.heard.max(Tick::at(heard_ns));
            leg.packets += packets;
            leg.bytes += bytes;
        }
        true
    }

    /// Adds what a faster tier has dropped of a session for its rate.
    pub fn note_offloaded_drops(&mut self, session: UdpSessionTag, datagrams: u64) {
        let Some(slot) = self.slot_of(session) else { return };
        if let Some(cold) = self.cold_at_mut(slot) {
            cold.dropped += datagrams;
        }
    }
}
