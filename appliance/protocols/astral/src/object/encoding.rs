//! The encodings that a session's objects may have, and the tokens that ask for them (spec §5.3).
//!
//! Called by the parser of operations for every query it accepts. It allocates nothing.

use super::ChannelForm;
use crate::frame::Profile;

/// How the objects of one direction of a session are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Binary until 2026‑01‑02: u16 length of type name and payload together.
    C1,
    /// Binary since then: u32 length of the payload alone.
    C2,
    /// One line of JSON for each object.
    Json,
    /// One line of text for each object: the value alone (P0).
    BareText,
    /// One line of text for each object: `#[type] ` and the value (`text+` of P0), or since 2026
    /// `#[type]:` and base64 where the type has no text form.
    Text,
    /// One line for each object: `#[type]:` and its payload in base64, output only.
    Base64,
    /// Canonical objects back to back, which only a reader that knows every type can take apart;
    /// output only.
    Canonical,
}

/// Says that no node of the peer's era has such an encoding, or none in this direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("encoding is not one that this node reads or writes")]
pub struct EncodingError;

impl Encoding {
    /// Gives what a peer of `profile` means when it names no encoding.
    pub const fn of_profile(profile: Profile) -> Self {
        match profile {
            Profile::P0 => Self::C1,
            Profile::P2 | Profile::P4 => Self::C2,
        }
    }

    /// Reads the value of an `out` argument of a peer of `profile`. `render` is refused: it is for
    /// terminals, and its colours are nobody's protocol.
    ///
    /// # Errors
    /// [`EncodingError`] for any token that the era of `profile` does not have.
    pub fn parse_output(token: &str, profile: Profile) -> Result<Self, EncodingError> {
        match (token, profile) {
            ("", _) | ("astral", Profile::P0) => Ok(Self::of_profile(profile)),
            ("bin", Profile::P2 | Profile::P4) => Ok(Self::C2),
            ("json", _) => Ok(Self::Json),
            ("text", Profile::P0) => Ok(Self::BareText),
            ("text+", Profile::P0) | ("text", Profile::P2 | Profile::P4) => Ok(Self::Text),
            ("base64", Profile::P2 | Profile::P4) => Ok(Self::Base64),
            ("canonical", Profile::P2 | Profile::P4) => Ok(Self::Canonical),
            _ => Err(EncodingError),
        }
    }

    /// Reads the value of an `in` argument of a peer of `profile`.
    ///
    /// # Errors
    /// As [`Self::parse_output`], and for the encodings that are for output only.
    pub fn parse_input(token: &str, profile: Profile) -> Result<Self, EncodingError> {
        match Self::parse_output(token, profile)? {
            Self::Base64 | Self::Canonical => Err(EncodingError),
            encoding => Ok(encoding),
        }
    }

    /// Gives the framing of the two binary encodings, which are those that this node reads.
    pub const fn channel_form(self) -> Option<ChannelForm> {
        match self {
            Self::C1 => Some(ChannelForm::C1),
            Self::C2 => Some(ChannelForm::C2),
            Self::Json | Self::BareText | Self::Text | Self::Base64 | Self::Canonical => None,
        }
    }
}
