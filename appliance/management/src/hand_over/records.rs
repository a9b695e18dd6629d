//! An opaque session with what it was opened for, as one process tells another of it.

use crate::config::{UdpEnd, UdpProtocol};
use crate::opaque::Wish;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use waystation_engine::core::OpaqueSessionState;
use waystation_relay::udp::wireguard::PublicKey;
use waystation_relay::udp::{RateLimit, SessionState};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionRecord {
    state: SessionState,
    local: [Option<IpAddr>; 2],
    datagrams: [u64; 2],
    bytes: [u64; 2],
    name: Option<Box<str>>,
    /// As the configuration writes them.
    ends: [String; 2],
    /// The ports that were asked for.
    wanted_ports: [Option<u16>; 2],
    is_wireguard: bool,
    public_keys: [Option<[u8; 32]>; 2],
    packets_per_s: Option<NonZeroU32>,
    bytes_per_s: Option<NonZeroU64>,
    idle_limit_ns: u64,
}

impl SessionRecord {
    pub(crate) fn new(state: OpaqueSessionState, wish: &Wish) -> Self {
        let OpaqueSessionState { session: state, local, datagrams, bytes } = state;
        Self {
            state,
            local,
            datagrams,
            bytes,
            name: wish.name.clone(),
            ends: wish.ends.map(|end| end.to_string()),
            wanted_ports: wish.ports,
            is_wireguard: wish.protocol == UdpProtocol::Wireguard,
            public_keys: wish.public_keys.map(|key| key.map(|PublicKey(bytes)| bytes)),
            packets_per_s: wish.rate.packets_per_s,
            bytes_per_s: wish.rate.bytes_per_s,
            idle_limit_ns: wish.idle_limit_ns,
        }
    }

    /// Its place, and which session in that place.
    pub(crate) fn place(&self) -> (u32, u32) {
        (self.state.slot, self.state.generation)
    }

    /// The session, and what it was opened for. Absent: an end is none.
    pub(crate) fn read(self) -> Option<(OpaqueSessionState, Wish)> {
        let [a, b] = &self.ends;
        let ends: [UdpEnd; 2] = [a.parse().ok()?, b.parse().ok()?];
        let protocol = if self.is_wireguard { UdpProtocol::Wireguard } else { UdpProtocol::Opaque };
        let wish = Wish {
            name: self.name,
            ends,
            ports: self.wanted_ports,
            protocol,
            public_keys: self.public_keys.map(|key| key.map(PublicKey)),
            rate: RateLimit { packets_per_s: self.packets_per_s, bytes_per_s: self.bytes_per_s },
            idle_limit_ns: self.idle_limit_ns,
        };
        let Self { state: session, local, datagrams, bytes, .. } = self;
        Some((OpaqueSessionState { session, local, datagrams, bytes }, wish))
    }
}
