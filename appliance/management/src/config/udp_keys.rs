//! The keys of `[udp]`; a part of the table of keys.

use super::Config;
use super::keys::{Key, key, live};
use super::rule::{Rule, UDP_TIERS};
use crate::limits::PEER_BLOCKS_MAX;
use std::time::Duration;
use waystation_relay::limits::UDP_SESSIONS_MAX;

pub(super) const ADDRESSES: Key<Config> = key(
    "udp",
    "addresses",
    "ADDRESS",
    Rule::IpAddresses { at: |config| &mut config.udp.addresses },
    "Addresses of this machine that the ports of sessions are on, one of IPv4, one of IPv6, or \
        both. 0.0.0.0 and :: take all there are. Empty: there are no sessions.",
);
pub(super) const PORT_MIN: Key<Config> = key(
    "udp",
    "port_min",
    "port",
    Rule::Count { min: 1024, max: 65_535, at: |config| &mut config.udp.port_min },
    "The lowest port of sessions. Those opened by command get free ones of the range; a \
        [[udp.session]] names its own. Lower ones would need a privilege that is given up before.",
);
pub(super) const PORT_MAX: Key<Config> = key(
    "udp",
    "port_max",
    "port",
    Rule::Count { min: 1024, max: 65_535, at: |config| &mut config.udp.port_max },
    "The highest.",
);
pub(super) const SESSIONS_MAX: Key<Config> = key(
    "udp",
    "sessions_max",
    "sessions per core",
    Rule::Count { min: 1, max: UDP_SESSIONS_MAX, at: |config| &mut config.udp.sessions_max },
    "Opaque sessions of one data core, each with a descriptor for each leg and address.",
);
pub(super) const IDLE: Key<Config> = live(
    "udp",
    "idle",
    "duration",
    Rule::Span {
        min: Duration::from_secs(60),
        max: Duration::from_secs(7 * 24 * 3600),
        at: |config| &mut config.udp.idle,
    },
    "How long nothing may pass before a session that was opened by command ends, unless the \
        command says otherwise. A [[udp.session]] begins anew when nothing has passed for a week.",
);
pub(super) const ALLOW_PEERS: Key<Config> = live(
    "udp",
    "allow_peers",
    "blocks",
    Rule::Blocks { entries_max: PEER_BLOCKS_MAX, at: |config| &mut config.udp.allow_peers },
    "Blocks of addresses that ends may have besides those of the public network: exactly these \
        private, shared or loopback ones. Ends that a reload takes back are sent to no more.",
);
pub(super) const DENY_PEERS: Key<Config> = live(
    "udp",
    "deny_peers",
    "blocks",
    Rule::Blocks { entries_max: PEER_BLOCKS_MAX, at: |config| &mut config.udp.deny_peers },
    "Blocks of addresses that ends may not have, though the public network or allow_peers holds \
        them.",
);
pub(super) const TIER: Key<Config> = key(
    "udp",
    "tier",
    "name",
    Rule::Tier { tiers: &UDP_TIERS, at: |config| &mut config.udp.tier },
    "The best way datagrams may be sent, as turn.tier. With af_xdp the XDP program relays no \
        session by itself, and brings those of ends that are known to their cores.",
);
