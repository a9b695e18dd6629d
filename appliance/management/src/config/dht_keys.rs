//! The keys of `[dht]`; a part of the table of keys.

use super::Config;
use super::keys::{Key, key, live};
use super::rule::Rule;
use crate::dht::limits::{TOPIC_BYTES_MAX, TOPICS_MAX};
use crate::units::ByteSize;
use std::time::Duration;

pub(super) const ENABLED: Key<Config> = key(
    "dht",
    "enabled",
    "flag",
    Rule::Flag { at: |config| &mut config.dht.enabled },
    "Whether there is a node. It needs an address to listen on.",
);
pub(super) const LISTEN: Key<Config> = key(
    "dht",
    "listen",
    "ADDRESS:PORT",
    Rule::AddressesOrNone { at: |config| &mut config.dht.listen },
    "Addresses that other nodes send to, over UDP; the port for it is 4121. An IPv6 address takes \
    IPv6 alone.",
);
pub(super) const BOOTSTRAP: Key<Config> = live(
    "dht",
    "bootstrap",
    "ADDRESS:PORT",
    Rule::AddressesOrNone { at: |config| &mut config.dht.bootstrap },
    "Nodes that are asked for others as long as none is known. Empty: the node waits to be found, \
    and dials nobody.",
);
pub(super) const ADVERTISE: Key<Config> = key(
    "dht",
    "advertise",
    "ADDRESS:PORT",
    Rule::AddressesOrNone { at: |config| &mut config.dht.advertise },
    "Where others reach this node. Empty: at the addresses of listen that are public, or where \
    other nodes say that they see it.",
);
pub(super) const KEY_FILE: Key<Config> = key(
    "dht",
    "key_file",
    "path",
    Rule::FilePath { at: |config| &mut config.dht.key_file },
    "The node's key, 64 hex digits; made at the first start. Empty: dht_key in the state directory.",
);
pub(super) const SNAPSHOT_FILE: Key<Config> = key(
    "dht",
    "snapshot_file",
    "path",
    Rule::FilePath { at: |config| &mut config.dht.snapshot_file },
    "What the node keeps over a restart. A file beside it, with the ending .seen, says when nodes \
    were met. Empty: dht_snapshot in the state directory.",
);
pub(super) const SNAPSHOT_INTERVAL: Key<Config> = key(
    "dht",
    "snapshot_interval",
    "duration",
    Rule::Span {
        min: Duration::from_secs(10),
        max: Duration::from_secs(24 * 3600),
        at: |config| &mut config.dht.snapshot_interval,
    },
    "How often it is written, besides when the program ends.",
);
pub(super) const PUBLISH_SERVICES: Key<Config> = live(
    "dht",
    "publish_services",
    "flag",
    Rule::Flag { at: |config| &mut config.dht.publish_services },
    "Whether the DHT is told of this relay: its name, and where it takes Astral links and TURN \
    clients. Where the node itself is reached is published in any case.",
);
pub(super) const TOPICS: Key<Config> = live(
    "dht",
    "topics",
    "texts",
    Rule::Texts {
        max_bytes: TOPIC_BYTES_MAX,
        entries_max: TOPICS_MAX,
        at: |config| &mut config.dht.topics,
    },
    "Topics under which this relay can be found, if publish_services is set.",
);
pub(super) const DIVERSE: Key<Config> = key(
    "dht",
    "diverse",
    "flag",
    Rule::Flag { at: |config| &mut config.dht.diverse },
    "Whether few nodes of one network (/24, /48) are taken in, so that nobody with many addresses \
    can surround this node. Off only where all nodes are in one network.",
);
pub(super) const ALLOW_PRIVATE: Key<Config> = key(
    "dht",
    "allow_private",
    "flag",
    Rule::Flag { at: |config| &mut config.dht.allow_private },
    "Whether nodes at addresses that are not public are taken in, and such an address of listen \
    is published. Only for networks of one's own.",
);
pub(super) const KEYS_MAX: Key<Config> = key(
    "dht",
    "keys_max",
    "keys",
    Rule::Count { min: 1024, max: 5_000_000, at: |config| &mut config.dht.keys_max },
    "Keys under which records are kept for others. Beyond it, those go that nobody has read for \
    longest.",
);
pub(super) const RECORD_MEMORY: Key<Config> = key(
    "dht",
    "record_memory",
    "bytes",
    Rule::Size {
        min: ByteSize::from_mib(1),
        max: ByteSize::from_gib(64),
        at: |config| &mut config.dht.record_memory,
    },
    "Memory of these records, with what it takes to find them.",
);
pub(super) const BEACON: Key<Config> = key(
    "dht",
    "beacon",
    "flag",
    Rule::Flag { at: |config| &mut config.dht.beacon },
    "Whether this is a beacon, which is sent every record of the network: its table is left to \
    those who come by themselves, it looks for no nodes, takes more from one address, and its \
    store is larger: keys_max and record_memory that have their defaults count as 5000000 and 5GiB.",
);
pub(super) const MAIL_POOL: Key<Config> = key(
    "dht",
    "mail_pool",
    "flag",
    Rule::Flag { at: |config| &mut config.dht.mail_pool },
    "Whether publishers are told which mail waits for them, as v0.3 does. Those before v0.3 cannot \
    read such an answer, and take this node for dead.",
);
pub(super) const STRANGER_RATE: Key<Config> = key(
    "dht",
    "stranger_rate",
    "messages/s",
    Rule::Count { min: 10, max: 1_000_000, at: |config| &mut config.dht.stranger_rate },
    "Messages that are verified of all senders together that have not proved to be where they say, \
    and as many questions over the hub; each takes up to 0.1 ms. What is over is dropped before it \
    costs that, however many addresses it is from.",
);
