//! `mux2` frames: their fields, their bytes in the three profiles, and the decoder.
//!
//! Owns the frame tables of spec §1 and §6. The relay and the engine call it on data cores, once
//! per frame; the peer client calls it on its own thread. It never allocates on the data path,
//! never looks at sessions, and never panics on any input.

mod codec;
mod decoder;
mod run;

use core::fmt;
use core::str::FromStr;

pub use codec::{EncodeError, data_header_bytes, write_data_header};
pub use decoder::{Decoded, DecoderState, FrameDecoder, FrameError, TypeName};
pub use run::DataRun;

use serde::{Deserialize, Serialize};

/// A generation of the link's wire format (spec §1); the feature name never tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Raw negotiation without a link id, opcode table A (2024‑07‑23 to 2025‑10‑29).
    P0,
    /// Raw negotiation with a link id, opcode table B (2025‑11‑05 to 2026‑05‑06).
    P2,
    /// Typed objects for negotiation and frames (2026‑05‑09 to today, tag `v0-alpha1`).
    P4,
}

impl Profile {
    /// Every profile, oldest first.
    pub const ALL: [Self; 3] = [Self::P0, Self::P2, Self::P4];

    /// Names the profile as configuration and metrics write it: `p0`, `p2` or `p4`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P0 => "p0",
            Self::P2 => "p2",
            Self::P4 => "p4",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The text named no profile; the names are `p0`, `p2` and `p4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a profile: expected p0, p2 or p4")]
pub struct ProfileNameError;

impl FromStr for Profile {
    type Err = ProfileNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.name().eq_ignore_ascii_case(text))
            .ok_or(ProfileNameError)
    }
}

/// What a frame is, apart from its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrameKind {
    /// A ping or its pong.
    Ping,
    /// The opening of a session.
    Query,
    /// The opening of a session on behalf of somebody else (P4).
    RelayQuery,
    /// Credit for the other side.
    Read,
    /// The answer to a query.
    Response,
    /// Payload of a session.
    Data,
    /// A session's move to another link (P2, P4).
    Migrate,
    /// The end of a session.
    Reset,
}

impl FrameKind {
    /// Every kind of frame.
    pub const ALL: [Self; 8] = [
        Self::Ping,
        Self::Query,
        Self::RelayQuery,
        Self::Read,
        Self::Response,
        Self::Data,
        Self::Migrate,
        Self::Reset,
    ];

    /// Gives the P4 object type name (spec §1).
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Ping => "nodes.frames.ping",
            Self::Query => "nodes.frames.query",
            Self::RelayQuery => "nodes.frames.relay_query",
            Self::Read => "nodes.frames.read",
            Self::Response => "nodes.frames.response",
            Self::Data => "nodes.frames.data",
            Self::Migrate => "nodes.frames.migrate",
            Self::Reset => "nodes.frames.reset",
        }
    }

    /// Names the kind as counters and messages write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Query => "query",
            Self::RelayQuery => "relay_query",
            Self::Read => "read",
            Self::Response => "response",
            Self::Data => "data",
            Self::Migrate => "migrate",
            Self::Reset => "reset",
        }
    }

    /// Payload bytes before the string or payload that the frame may carry (spec §6.1).
    pub(crate) const fn fixed_payload_bytes(self) -> usize {
        match self {
            Self::Ping => 9,
            Self::Query => 14,
            Self::RelayQuery => 80,
            Self::Read => 12,
            Self::Response => 13,
            Self::Data => 10,
            Self::Migrate | Self::Reset => 8,
        }
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One frame of a link (spec §6.1); `nonce` names the session in everything but a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Asks for a pong, or is one.
    Ping {
        /// Names the ping; its pong repeats it.
        nonce: u64,
        /// Whether this is the answer. Any non-zero byte reads as true.
        pong: bool,
    },
    /// Opens a session.
    Query {
        /// The session's name, never 0 when we choose it.
        nonce: u64,
        /// The sender's receive window, in bytes.
        window: u32,
        /// The query string, at most 65 535 bytes, not necessarily UTF-8.
        query: &'a [u8],
    },
    /// Opens a session for `caller` towards `target` (P4 only, spec §10.3).
    RelayQuery {
        /// The identity on whose behalf the query is made, not checked to be a curve point.
        caller: &'a [u8; 33],
        /// The identity that the query is for, not checked to be a curve point.
        target: &'a [u8; 33],
        /// The session's name.
        nonce: u64,
        /// The sender's receive window, in bytes.
        window: u32,
        /// The query string, at most 65 535 bytes, not necessarily UTF-8.
        query: &'a [u8],
    },
    /// Returns credit.
    Read {
        /// The session's name.
        nonce: u64,
        /// How many more bytes the other side may send.
        bytes: u32,
    },
    /// Answers a query.
    Response {
        /// The session's name.
        nonce: u64,
        /// 0 accepts; everything else rejects (spec §8.4).
        code: u8,
        /// The responder's receive window in bytes; meaningful with code 0 only.
        window: u32,
    },
    /// Carries bytes of a session.
    Data {
        /// The session's name.
        nonce: u64,
        /// At most 65 535 bytes.
        payload: &'a [u8],
    },
    /// Moves a session to another link (P2, P4).
    Migrate {
        /// The session's name.
        nonce: u64,
    },
    /// Ends a session in both directions.
    Reset {
        /// The session's name.
        nonce: u64,
    },
}

impl Frame<'_> {
    /// Tells what the frame is.
    pub const fn kind(&self) -> FrameKind {
        match self {
            Self::Ping { .. } => FrameKind::Ping,
            Self::Query { .. } => FrameKind::Query,
            Self::RelayQuery { .. } => FrameKind::RelayQuery,
            Self::Read { .. } => FrameKind::Read,
            Self::Response { .. } => FrameKind::Response,
            Self::Data { .. } => FrameKind::Data,
            Self::Migrate { .. } => FrameKind::Migrate,
            Self::Reset { .. } => FrameKind::Reset,
        }
    }

    /// Gives the nonce, of the session or of the ping.
    pub const fn nonce(&self) -> u64 {
        match *self {
            Self::Ping { nonce, .. }
            | Self::Query { nonce, .. }
            | Self::RelayQuery { nonce, .. }
            | Self::Read { nonce, .. }
            | Self::Response { nonce, .. }
            | Self::Data { nonce, .. }
            | Self::Migrate { nonce }
            | Self::Reset { nonce } => nonce,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_names_round_trip_and_others_are_refused() {
        for profile in Profile::ALL {
            assert_eq!(profile.name().parse(), Ok(profile));
            assert_eq!(profile.to_string(), profile.name());
        }
        assert_eq!("P4".parse(), Ok(Profile::P4));
        assert_eq!("p1".parse::<Profile>(), Err(ProfileNameError));
        assert_eq!("".parse::<Profile>(), Err(ProfileNameError));
    }
}
