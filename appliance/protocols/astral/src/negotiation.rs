//! Link negotiation: what happens between act three and the first frame (spec §4, §16).
//!
//! Owns the greeting, the choice and the status in both encodings, and finding out which profile
//! the other side speaks, since the feature name never says. The engine calls it on data cores,
//! once per record until it is done; it keeps a bounded number of bytes and never waits. Timeouts
//! are the caller's; a caller that gives up closes as [`Farewell::RESET`] says, because a clean
//! close kills stock P4 nodes (spec §4.3).

mod acceptor;
mod dialer;
mod inbox;

pub use acceptor::Acceptor;
pub use dialer::Dialer;

use crate::frame::Profile;
use crate::limits::{
    DUAL_GREETING_BYTES, FEATURES_MAX, GREETING_BYTES_MAX, PEER_TEXT_BYTES_MAX, UNSETTLED_BYTES_MAX,
};
use crate::object::{self, ObjectError, type_names};

/// The one feature that every profile offers and chooses (spec §1, §4).
pub const FEATURE: &str = "mux2";

/// A raw greeting that offers [`FEATURE`] alone (spec §4.1).
const RAW_GREETING: &[u8] = b"\x00\x01\x04mux2";
/// A greeting of objects that offers [`FEATURE`] alone (spec §4.2).
const OBJECT_GREETING: &[u8] =
    b"\x06uint16\x00\x00\x00\x02\x00\x01\x07string8\x00\x00\x00\x05\x04mux2";
/// The raw choice of [`FEATURE`] (spec §4.1).
const RAW_CHOICE: &[u8] = b"\x04mux2";
/// The choice of [`FEATURE`] as an object (spec §4.2).
const OBJECT_CHOICE: &[u8] = b"\x07string8\x00\x00\x00\x05\x04mux2";

static DUAL_GREETING: [u8; DUAL_GREETING_BYTES] = build_dual_greeting();

/// Gives the greeting that both families read as a list with `mux2` in it and finish reading at
/// the same byte (spec §16.2).
pub fn dual_greeting() -> &'static [u8] {
    &DUAL_GREETING
}

/// A `uint16` object of value 1 with filler behind it, in the middle of which a raw reader finds
/// the feature, then the `string8` feature object.
const fn build_dual_greeting() -> [u8; DUAL_GREETING_BYTES] {
    const FILLER_BEFORE_BYTES: usize = 95;
    const FILLER_BEHIND_BYTES: usize = 1646;
    const PARTS: [&[u8]; 2] = [b"\x06uint16\x00\x00\x06\xd4\x00\x01", RAW_CHOICE];
    let mut greeting = [0; DUAL_GREETING_BYTES];
    let after_first = copy_at(&mut greeting, 0, PARTS[0]) + FILLER_BEFORE_BYTES;
    let after_second = copy_at(&mut greeting, after_first, PARTS[1]) + FILLER_BEHIND_BYTES;
    let end = copy_at(&mut greeting, after_second, OBJECT_CHOICE);
    assert!(end == DUAL_GREETING_BYTES);
    greeting
}

const fn copy_at(out: &mut [u8; DUAL_GREETING_BYTES], start: usize, part: &[u8]) -> usize {
    let mut index = 0;
    while index < part.len() {
        out[start + index] = part[index];
        index += 1;
    }
    start + part.len()
}

/// What a negotiation came to after some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    More,
    /// The link is up; what follows are frames.
    Done(Established),
}

/// A link that negotiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// The frames both sides speak.
    pub profile: Profile,
    /// The responder's random link id; P0 has none.
    pub link_id: Option<u64>,
    /// Frame bytes that came with or before the end of negotiation, to be decoded first.
    pub leftover: Vec<u8>,
}

/// How the two families encode a negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// P0 to P3: bare fields (spec §4.1).
    Raw,
    /// P4: typed objects (spec §4.2).
    Object,
}

impl Profile {
    const fn family(self) -> Family {
        match self {
            Self::P0 | Self::P2 => Family::Raw,
            Self::P4 => Family::Object,
        }
    }
}

/// Why a negotiation failed; each is the peer's doing but [`NegotiationError::Ended`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// The greeting announces more features than we read.
    #[error("peer announces {count} features, more than {FEATURES_MAX}")]
    TooManyFeatures {
        /// Its encoding.
        family: Family,
        /// The announced number.
        count: u16,
    },
    /// The greeting is longer than we read.
    #[error("peer's greeting is longer than {GREETING_BYTES_MAX} bytes")]
    GreetingTooLong {
        /// Its encoding.
        family: Family,
    },
    /// The greeting does not offer `mux2`.
    #[error("peer does not offer {FEATURE}")]
    FeatureMissing {
        /// Its encoding.
        family: Family,
    },
    /// The initiator chose something that we did not offer.
    #[error("peer chose something other than {FEATURE}")]
    ChoiceRefused {
        /// Its encoding.
        family: Family,
    },
    /// The responder refused our choice.
    #[error("peer refused {FEATURE} with status {status}")]
    StatusRefused {
        /// Its encoding.
        family: Family,
        /// What it sent instead of 0.
        status: u8,
    },
    /// The peer sent an `error_message` object.
    #[error("peer refused the link: {text:?}")]
    PeerRefused {
        /// Its text, cut to a bound.
        text: String,
    },
    /// An object was malformed or too long.
    #[error("malformed negotiation object")]
    Object(#[from] ObjectError),
    /// An object of another type than the one awaited.
    #[error("another object than the awaited {awaited}")]
    UnexpectedObject {
        /// The awaited type.
        awaited: &'static str,
    },
    /// An object whose payload ends inside its value.
    #[error("{awaited} object ends inside its value")]
    ValueTooShort {
        /// The awaited type.
        awaited: &'static str,
    },
    /// Before the pong that settles the profile only pings and queries may arrive.
    #[error("opcode {opcode} before the profile was settled")]
    UnexpectedFrame {
        /// What arrived.
        opcode: u8,
    },
    /// Neither P0 nor P2 explains the bytes behind the status.
    #[error("bytes behind the status fit neither P0 nor P2")]
    NoProfileFits,
    /// The pong that settles the profile did not come in time.
    #[error("no answer to the first ping within {UNSETTLED_BYTES_MAX} bytes")]
    UnsettledTooLong,
    /// The negotiation was over before these bytes; the caller's mistake.
    #[error("negotiation is over")]
    Ended,
}

impl NegotiationError {
    /// Tells what to send before closing, and how to close so that no stock peer is harmed
    /// (spec §4.3).
    pub fn farewell(&self) -> Farewell {
        match self {
            Self::FeatureMissing { family: Family::Object } => {
                Farewell::refusal("mux2 is required")
            }
            Self::ChoiceRefused { family: Family::Object } => {
                Farewell { bytes: object::built(type_names::UINT8, &[1]), reset: false }
            }
            Self::ChoiceRefused { family: Family::Raw } => {
                Farewell { bytes: vec![1], reset: false }
            }
            Self::FeatureMissing { family: Family::Raw }
            | Self::TooManyFeatures { family: Family::Raw, .. }
            | Self::GreetingTooLong { family: Family::Raw }
            | Self::StatusRefused { family: Family::Raw, .. }
            | Self::UnexpectedFrame { .. }
            | Self::NoProfileFits
            | Self::UnsettledTooLong => Farewell { bytes: Vec::new(), reset: false },
            Self::TooManyFeatures { family: Family::Object, .. }
            | Self::GreetingTooLong { family: Family::Object }
            | Self::StatusRefused { family: Family::Object, .. }
            | Self::PeerRefused { .. }
            | Self::Object(_)
            | Self::UnexpectedObject { .. }
            | Self::ValueTooShort { .. }
            | Self::Ended => Farewell::RESET,
        }
    }
}

/// How to part from a peer before its link is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// Plaintext to seal and flush before closing; may be empty.
    pub bytes: Vec<u8>,
    /// Whether to reset the TCP connection instead of ending it.
    pub reset: bool,
}

impl Farewell {
    /// Resets the connection without a word; right at any moment and for every peer.
    pub const RESET: Self = Self { bytes: Vec::new(), reset: true };

    /// Refuses with an `error_message`: as responder in place of the greeting, as initiator in
    /// place of the choice. Raw peers read a cut greeting.
    pub fn refusal(text: &str) -> Self {
        Self { bytes: object::error_message(text), reset: false }
    }
}

fn peer_refused(payload: &[u8]) -> NegotiationError {
    let text = object::FieldReader::new(payload).s16().unwrap_or_default();
    let text = text.get(..PEER_TEXT_BYTES_MAX).unwrap_or(text);
    NegotiationError::PeerRefused { text: String::from_utf8_lossy(text).into_owned() }
}

#[cfg(test)]
mod tests;
