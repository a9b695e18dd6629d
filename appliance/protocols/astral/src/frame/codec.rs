//! Frame bytes: opcode tables, type names and the encoder, for all three profiles.
//!
//! Called for every frame that leaves a link. It writes into the caller's buffer, never allocates
//! but in `encode_to_vec`, and refuses what a profile cannot say rather than truncating it.

use super::{Frame, FrameKind, Profile};
use crate::limits::{DATA_PAYLOAD_BYTES_MAX, QUERY_STRING_BYTES_MAX};

/// Opcode of a data frame in both raw profiles (spec §1, tables A and B).
pub(super) const DATA_OPCODE: u8 = 4;
/// Bytes of a data frame before its payload in P0 and P2: opcode, nonce, length.
const RAW_DATA_HEADER_BYTES: usize = 11;
/// The same in P4: type name with its length, payload length, nonce, length.
const OBJECT_DATA_HEADER_BYTES: usize = 32;
/// A P4 data frame's length-prefixed type name.
pub(super) const DATA_TYPE_TAG: [u8; 18] = *b"\x11nodes.frames.data";

/// Why a frame was not encoded; every cause is a mistake on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The profile's table has no such frame.
    #[error("{profile} has no {kind} frame")]
    NoSuchFrame {
        /// The link's profile.
        profile: Profile,
        /// What was to be sent.
        kind: FrameKind,
    },
    /// The query string or payload does not fit its 16-bit length.
    #[error("{kind} frame carries {bytes} bytes, more than its 16-bit length can say")]
    TooLong {
        /// What was to be sent.
        kind: FrameKind,
        /// Length of its string or payload.
        bytes: usize,
    },
    /// The output buffer is too small.
    #[error("{kind} frame needs {needed_bytes} bytes, the buffer has {room_bytes}")]
    NoRoom {
        /// What was to be sent.
        kind: FrameKind,
        /// Bytes of the whole frame or header.
        needed_bytes: usize,
        /// Bytes offered.
        room_bytes: usize,
    },
}

/// Gives the bytes of a data frame before its payload: 11 in the raw profiles, 32 in P4.
pub const fn data_header_bytes(profile: Profile) -> usize {
    match profile {
        Profile::P0 | Profile::P2 => RAW_DATA_HEADER_BYTES,
        Profile::P4 => OBJECT_DATA_HEADER_BYTES,
    }
}

/// Writes a data frame's header at the start of `out` and returns its bytes.
///
/// # Errors
/// [`EncodeError::NoRoom`] when `out` is shorter than [`data_header_bytes`].
#[inline]
pub fn write_data_header(
    profile: Profile,
    nonce: u64,
    payload_bytes: u16,
    out: &mut [u8],
) -> Result<usize, EncodeError> {
    let room_bytes = out.len();
    let no_room = EncodeError::NoRoom {
        kind: FrameKind::Data,
        needed_bytes: data_header_bytes(profile),
        room_bytes,
    };
    match profile {
        Profile::P0 | Profile::P2 => {
            let header: &mut [u8; RAW_DATA_HEADER_BYTES] = out.first_chunk_mut().ok_or(no_room)?;
            header[0] = DATA_OPCODE;
            header[1..9].copy_from_slice(&nonce.to_be_bytes());
            header[9..].copy_from_slice(&payload_bytes.to_be_bytes());
        }
        Profile::P4 => {
            let header: &mut [u8; OBJECT_DATA_HEADER_BYTES] =
                out.first_chunk_mut().ok_or(no_room)?;
            let object_bytes = u32::from(payload_bytes) + 10;
            header[..18].copy_from_slice(&DATA_TYPE_TAG);
            header[18..22].copy_from_slice(&object_bytes.to_be_bytes());
            header[22..30].copy_from_slice(&nonce.to_be_bytes());
            header[30..].copy_from_slice(&payload_bytes.to_be_bytes());
        }
    }
    Ok(data_header_bytes(profile))
}

impl FrameKind {
    /// Gives the opcode in a raw profile; `None` for P4 and for frames the profile lacks.
    pub(super) const fn opcode(self, profile: Profile) -> Option<u8> {
        match (profile, self) {
            (Profile::P0 | Profile::P2, Self::Ping) => Some(0),
            (Profile::P0 | Profile::P2, Self::Query) => Some(1),
            (Profile::P0, Self::Response) | (Profile::P2, Self::Read) => Some(2),
            (Profile::P0, Self::Read) | (Profile::P2, Self::Response) => Some(3),
            (Profile::P0 | Profile::P2, Self::Data) => Some(DATA_OPCODE),
            (Profile::P0, Self::Reset) | (Profile::P2, Self::Migrate) => Some(5),
            (Profile::P2, Self::Reset) => Some(6),
            (Profile::P4, _) | (_, Self::RelayQuery) | (Profile::P0, Self::Migrate) => None,
        }
    }

    /// Finds the frame of an opcode in P0's table A.
    pub(super) const fn from_opcode_p0(opcode: u8) -> Option<Self> {
        match opcode {
            0 => Some(Self::Ping),
            1 => Some(Self::Query),
            2 => Some(Self::Response),
            3 => Some(Self::Read),
            4 => Some(Self::Data),
            5 => Some(Self::Reset),
            _ => None,
        }
    }

    /// Finds the frame of an opcode in P2's table B.
    pub(super) const fn from_opcode_p2(opcode: u8) -> Option<Self> {
        match opcode {
            0 => Some(Self::Ping),
            1 => Some(Self::Query),
            2 => Some(Self::Read),
            3 => Some(Self::Response),
            4 => Some(Self::Data),
            5 => Some(Self::Migrate),
            6 => Some(Self::Reset),
            _ => None,
        }
    }

    /// Finds the frame of a P4 type name, by length first.
    pub(super) fn from_type_name(name: &[u8]) -> Option<Self> {
        match name.len() {
            17 => match name {
                b"nodes.frames.data" => Some(Self::Data),
                b"nodes.frames.read" => Some(Self::Read),
                b"nodes.frames.ping" => Some(Self::Ping),
                _ => None,
            },
            18 => match name {
                b"nodes.frames.query" => Some(Self::Query),
                b"nodes.frames.reset" => Some(Self::Reset),
                _ => None,
            },
            20 => (name == b"nodes.frames.migrate").then_some(Self::Migrate),
            21 => (name == b"nodes.frames.response").then_some(Self::Response),
            24 => (name == b"nodes.frames.relay_query").then_some(Self::RelayQuery),
            _ => None,
        }
    }
}

impl Frame<'_> {
    /// Gives the whole frame's bytes on the stream.
    ///
    /// # Errors
    /// Refuses frames the profile lacks and strings or payloads over 65 535 bytes.
    pub fn encoded_bytes(&self, profile: Profile) -> Result<usize, EncodeError> {
        let kind = self.kind();
        let (tail, tail_bytes_max) = match self {
            Frame::Query { query, .. } | Frame::RelayQuery { query, .. } => {
                (*query, QUERY_STRING_BYTES_MAX)
            }
            Frame::Data { payload, .. } => (*payload, DATA_PAYLOAD_BYTES_MAX),
            Frame::Ping { .. }
            | Frame::Read { .. }
            | Frame::Response { .. }
            | Frame::Migrate { .. }
            | Frame::Reset { .. } => (&[][..], 0),
        };
        if tail.len() > tail_bytes_max {
            return Err(EncodeError::TooLong { kind, bytes: tail.len() });
        }
        let tag_bytes = match profile {
            Profile::P4 => 1 + kind.type_name().len() + 4,
            Profile::P0 | Profile::P2 if kind.opcode(profile).is_some() => 1,
            Profile::P0 | Profile::P2 => return Err(EncodeError::NoSuchFrame { profile, kind }),
        };
        Ok(tag_bytes + kind.fixed_payload_bytes() + tail.len())
    }

    /// Writes the frame at the start of `out` and returns its bytes; on error `out` is untouched.
    ///
    /// # Errors
    /// As [`Frame::encoded_bytes`], and [`EncodeError::NoRoom`].
    pub fn encode(&self, profile: Profile, out: &mut [u8]) -> Result<usize, EncodeError> {
        let kind = self.kind();
        let needed_bytes = self.encoded_bytes(profile)?;
        let room_bytes = out.len();
        let Some(room) = out.get_mut(..needed_bytes) else {
            return Err(EncodeError::NoRoom { kind, needed_bytes, room_bytes });
        };
        let mut writer = Writer { room, complete: true };
        if let Some(opcode) = kind.opcode(profile) {
            writer.put(&[opcode]);
        } else {
            let name = kind.type_name();
            let tag_bytes = 1 + name.len() + 4;
            writer.put(&[name.len() as u8]);
            writer.put(name.as_bytes());
            writer.put(&((needed_bytes - tag_bytes) as u32).to_be_bytes());
        }
        self.put_payload(&mut writer);
        debug_assert!(writer.complete && writer.room.is_empty(), "frame sizes disagree");
        Ok(needed_bytes)
    }

    /// Appends the frame to `out`.
    ///
    /// # Errors
    /// As [`Frame::encoded_bytes`]; `out` is then unchanged.
    pub fn encode_to_vec(&self, profile: Profile, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.resize(start + self.encoded_bytes(profile)?, 0);
        let room = out.get_mut(start..).unwrap_or_default();
        self.encode(profile, room)?;
        Ok(())
    }

    fn put_payload(&self, writer: &mut Writer<'_>) {
        match *self {
            Frame::Ping { nonce, pong } => {
                writer.put(&nonce.to_be_bytes());
                writer.put(&[u8::from(pong)]);
            }
            Frame::Query { nonce, window, query } => writer.put_query(nonce, window, query),
            Frame::RelayQuery { caller, target, nonce, window, query } => {
                writer.put(caller);
                writer.put(target);
                writer.put_query(nonce, window, query);
            }
            Frame::Read { nonce, bytes } => {
                writer.put(&nonce.to_be_bytes());
                writer.put(&bytes.to_be_bytes());
            }
            Frame::Response { nonce, code, window } => {
                writer.put(&nonce.to_be_bytes());
                writer.put(&[code]);
                writer.put(&window.to_be_bytes());
            }
            Frame::Data { nonce, payload } => {
                writer.put(&nonce.to_be_bytes());
                writer.put(&(payload.len() as u16).to_be_bytes());
                writer.put(payload);
            }
            Frame::Migrate { nonce } | Frame::Reset { nonce } => writer.put(&nonce.to_be_bytes()),
        }
    }
}

/// Fills a slice whose length was computed beforehand, from front to back.
struct Writer<'a> {
    room: &'a mut [u8],
    complete: bool,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let room = core::mem::take(&mut self.room);
        let Some((front, rest)) = room.split_at_mut_checked(bytes.len()) else {
            self.complete = false;
            return;
        };
        front.copy_from_slice(bytes);
        self.room = rest;
    }

    fn put_query(&mut self, nonce: u64, window: u32, query: &[u8]) {
        self.put(&nonce.to_be_bytes());
        self.put(&window.to_be_bytes());
        self.put(&(query.len() as u16).to_be_bytes());
        self.put(query);
    }
}
