//! The messages of a hand-over, as JSON.
//!
//! Values only. What comes is from a process of the same user, and is checked all the same: counts
//! against descriptors, addresses by whoever opens them.

use super::SessionRecord;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use waystation_engine::control::UdpPaused;
use waystation_engine::core::LinkState;
use waystation_turn::server::ServerChanges;
use zeroize::Zeroize;

/// One message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    Ask(Ask),
    Offer(Offer),
    Refusal(String),
    Ready,
    Links(LinksMessage),
    LinksComplete,
    LinksTaken {
        /// Whether the next process can go on with all of them. Otherwise it has none.
        all: bool,
    },
    Core(Box<CoreMessage>),
    /// All there is has been told, and is served on.
    Told,
    Prepared,
    Complete {
        /// How long the thread that tells was ready to run, and another one ran, since it was asked.
        processor_waited_ns: u64,
    },
    Taken,
    Yours,
}

impl Message {
    /// What it is, for whoever did not expect it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ask(_) => "ask",
            Self::Offer(_) => "offer",
            Self::Refusal(_) => "refusal",
            Self::Ready => "ready",
            Self::Links(_) => "links",
            Self::LinksComplete => "links_complete",
            Self::LinksTaken { .. } => "links_taken",
            Self::Core(_) => "core",
            Self::Told => "told",
            Self::Prepared => "prepared",
            Self::Complete { .. } => "complete",
            Self::Taken => "taken",
            Self::Yours => "yours",
        }
    }
}

/// What the next process says of itself. A later version may say more.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) version: u32,
    /// The program's version, for the log.
    pub(crate) program: String,
    pub(crate) identity: String,
    pub(crate) cores: usize,
    /// How long this process is to go on with what it keeps.
    pub(crate) drain_ms: u64,
}

/// What is listened with; the descriptors are in the order of the groups.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Offer {
    pub(crate) program: String,
    pub(crate) groups: Vec<SocketGroup>,
    /// What the TURN server's nonces are made with.
    pub(crate) nonce_key: Option<[u8; 32]>,
    /// Whether a service manager waits for signs of life.
    pub(crate) is_watched: bool,
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer").field("groups", &self.groups).finish_non_exhaustive()
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.nonce_key.zeroize();
    }
}

/// The sockets of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SocketGroup {
    pub(crate) role: Role,
    /// The address as the configuration has it.
    pub(crate) wanted: SocketAddr,
    /// One for each core, or one alone.
    pub(crate) sockets: usize,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Links,
    TurnUdp,
    TurnTcp,
    Metrics,
    Dht,
    Hub,
}

/// Some of the links of one core, with a descriptor for each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinksMessage {
    pub(crate) core: u16,
    pub(crate) links: Vec<LinkState>,
}

/// What one core has over UDP, but for what it has told already. Descriptors: those of the relayed
/// addresses, then those of the sessions' ports.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CoreMessage {
    pub(crate) core: u16,
    /// Since when its datagrams wait, if they do.
    pub(crate) paused: Option<UdpPaused>,
    pub(crate) turn: ServerChanges,
    pub(crate) relayed: Vec<SocketAddr>,
    /// Places and generations of sessions that are no more.
    pub(crate) ended_sessions: Vec<(u32, u32)>,
    pub(crate) sessions: Vec<SessionRecord>,
    pub(crate) session_ports: Vec<u16>,
}
