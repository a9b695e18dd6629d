//! The keys of `[hub]`; a part of the table of keys.

use super::Config;
use super::keys::{Key, key, live};
use super::rule::Rule;

pub(super) const ENABLED: Key<Config> = key(
    "hub",
    "enabled",
    "flag",
    Rule::Flag { at: |config| &mut config.hub.enabled },
    "Whether there is a hub where there is an address for it.",
);
pub(super) const LISTEN: Key<Config> = key(
    "hub",
    "listen",
    "ADDRESS:PORT",
    Rule::AddressesOrNone { at: |config| &mut config.hub.listen },
    "Addresses to take connections on, over TCP. Empty: those of dht.listen, if there is a node of \
    the DHT; agents look for a hub there, at the same port. An IPv6 address takes IPv6 alone.",
);
pub(super) const CONNECTIONS_MAX: Key<Config> = live(
    "hub",
    "connections_max",
    "connections",
    Rule::Count { min: 1, max: 65_536, at: |config| &mut config.hub.connections_max },
    "Connections at a time. Each has a descriptor, and up to 150 KiB.",
);
pub(super) const CONNECTIONS_PER_SOURCE_MAX: Key<Config> = live(
    "hub",
    "connections_per_source_max",
    "connections per source",
    Rule::Count { min: 1, max: 65_536, at: |config| &mut config.hub.connections_per_source_max },
    "Those of one source, which is an IPv4 address or a /56 of IPv6. Where a proxy stands before \
    the hub, all come from that.",
);
pub(super) const REGISTRATIONS_MAX: Key<Config> = live(
    "hub",
    "registrations_max",
    "names",
    Rule::Count { min: 1, max: 1_000_000, at: |config| &mut config.hub.registrations_max },
    "Names of agents registered at a time.",
);
pub(super) const REGISTRATIONS_PER_CONNECTION_MAX: Key<Config> = live(
    "hub",
    "registrations_per_connection_max",
    "names per connection",
    Rule::Count {
        min: 1,
        max: 65_536,
        at: |config| &mut config.hub.registrations_per_connection_max,
    },
    "Those of one connection.",
);
pub(super) const REGISTRATIONS_PER_SOURCE_MAX: Key<Config> = live(
    "hub",
    "registrations_per_source_max",
    "names per source",
    Rule::Count {
        min: 1,
        max: 1_000_000,
        at: |config| &mut config.hub.registrations_per_source_max,
    },
    "Those of one source.",
);
pub(super) const ROOMS_MAX: Key<Config> = live(
    "hub",
    "rooms_max",
    "rooms",
    Rule::Count { min: 1, max: 65_536, at: |config| &mut config.hub.rooms_max },
    "Rooms in which two parties are, or one waits for the other.",
);
pub(super) const WAITING_PER_SOURCE_MAX: Key<Config> = live(
    "hub",
    "waiting_per_source_max",
    "rooms per source",
    Rule::Count { min: 1, max: 65_536, at: |config| &mut config.hub.waiting_per_source_max },
    "Rooms in which one source waits.",
);
