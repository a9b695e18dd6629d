//! The frame decoder: finds frames in a link's plaintext, whatever its segmentation.
//!
//! One per link, called on the link's data core for every record it opens. Whole frames are read
//! straight from the input; only what an input's end cuts goes to a fixed carry, and cut query
//! strings to a bounded heap buffer that the next call frees. Data payloads are never copied: they
//! are reported as ranges of the input. It never panics and never waits for more bytes than
//! [`crate::limits::FRAME_PAYLOAD_BYTES_MAX`].

mod state;

use core::fmt;

pub use state::DecoderState;

use super::codec::{DATA_OPCODE, DATA_TYPE_TAG};
use super::{Frame, FrameKind, Profile};
use crate::limits::{FRAME_HEAD_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX, FRAME_TYPE_NAME_BYTES_MAX};

/// What the decoder found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Any whole frame but data; its string borrows from the input or from the decoder.
    Frame(Frame<'a>),
    /// A piece of a data frame's payload, `input[offset..offset + bytes]`. Pieces come in order,
    /// and a piece is empty only when its whole frame is.
    Data {
        /// The session's name.
        nonce: u64,
        /// Where in the current input the piece starts.
        offset: usize,
        /// Length of the piece.
        bytes: usize,
        /// Whether this is the frame's first piece.
        first: bool,
        /// Length of the frame's whole payload, the same in every piece.
        frame_bytes: usize,
        /// Payload bytes still to come after this piece.
        remaining: usize,
    },
}

/// The bytes of a P4 type name that arrived, as far as any known name is long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TypeName {
    announced_bytes: u8,
    kept_bytes: u8,
    bytes: [u8; FRAME_TYPE_NAME_BYTES_MAX],
}

impl TypeName {
    fn new(announced_bytes: u8, arrived: &[u8]) -> Self {
        let mut bytes = [0; FRAME_TYPE_NAME_BYTES_MAX];
        let wanted = arrived.iter().take(usize::from(announced_bytes));
        let mut kept_bytes = 0;
        for (to, from) in bytes.iter_mut().zip(wanted) {
            *to = *from;
            kept_bytes += 1;
        }
        Self { announced_bytes, kept_bytes, bytes }
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.bytes.get(..usize::from(self.kept_bytes)).unwrap_or_default();
        write!(formatter, "\"{}\" ({} bytes)", kept.escape_ascii(), self.announced_bytes)
    }
}

impl fmt::Debug for TypeName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TypeName({self})")
    }
}

/// Why the peer's bytes are not frames; the link must be closed without a message (spec §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A raw opcode outside the profile's table.
    #[error("{profile} has no frame with opcode {opcode}")]
    UnknownOpcode {
        /// The link's profile.
        profile: Profile,
        /// What arrived.
        opcode: u8,
    },
    /// A P4 object that is not a frame.
    #[error("no frame has the type name {0}")]
    UnknownType(TypeName),
    /// A P4 payload that ends before the frame's fields do.
    #[error("{kind} payload of {payload_bytes} bytes is short of {needed_bytes}")]
    PayloadTooShort {
        /// The frame.
        kind: FrameKind,
        /// The announced length.
        payload_bytes: u32,
        /// What its fields take.
        needed_bytes: u32,
    },
    /// A P4 payload longer than any frame's.
    #[error("{kind} payload of {payload_bytes} bytes is over the {FRAME_PAYLOAD_BYTES_MAX} limit")]
    PayloadTooLong {
        /// The frame.
        kind: FrameKind,
        /// The announced length.
        payload_bytes: u32,
    },
}

/// Decodes one direction of one link.
pub struct FrameDecoder {
    profile: Profile,
    state: State,
    carry: [u8; FRAME_HEAD_BYTES_MAX],
    carried_bytes: usize,
    /// A cut query: caller and target first when relayed, then the string.
    query: Vec<u8>,
}

#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
enum State {
    /// Between frames, with nothing carried.
    Boundary,
    /// Inside a frame's head, the beginning of which is in the carry.
    Head,
    /// Inside a data frame's payload.
    Payload(Payload),
    /// Inside a cut query's string.
    QueryString(QueryString),
    /// A cut query was handed out, `query` is to be freed; then so many surplus bytes.
    QueryDelivered { surplus: usize },
    /// Inside surplus payload bytes, which are skipped (spec §5.3).
    Surplus { remaining: usize },
    /// The peer broke the format; there is no way to find the next frame.
    #[serde(skip)]
    Failed(FrameError),
}

#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Payload {
    nonce: u64,
    frame_bytes: usize,
    remaining: usize,
    surplus: usize,
    first: bool,
}

impl Payload {
    const fn new(nonce: u64, frame_bytes: usize, surplus: usize) -> Self {
        Self { nonce, frame_bytes, remaining: frame_bytes, surplus, first: true }
    }
}

#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
struct QueryString {
    relayed: bool,
    nonce: u64,
    window: u32,
    remaining: usize,
    surplus: usize,
}

impl fmt::Debug for FrameDecoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FrameDecoder")
            .field("profile", &self.profile)
            .field("at_boundary", &self.at_boundary())
            .finish_non_exhaustive()
    }
}

impl FrameDecoder {
    /// Starts between two frames.
    pub const fn new(profile: Profile) -> Self {
        Self {
            profile,
            state: State::Boundary,
            carry: [0; FRAME_HEAD_BYTES_MAX],
            carried_bytes: 0,
            query: Vec::new(),
        }
    }

    /// Gives the profile whose frames are decoded.
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// Tells whether the stream may end here, that is on a frame boundary.
    pub const fn at_boundary(&self) -> bool {
        matches!(self.state, State::Boundary | State::QueryDelivered { surplus: 0 })
    }

    /// Decodes the next item of `input` from `*cursor` on and advances `*cursor` behind it;
    /// `None` when everything is consumed and more is needed.
    ///
    /// # Errors
    /// [`FrameError`] at the first byte that cannot belong to a frame, and the same at every later
    /// call.
    #[inline]
    pub fn next<'a>(
        &'a mut self,
        input: &'a [u8],
        cursor: &mut usize,
    ) -> Result<Option<Decoded<'a>>, FrameError> {
        if matches!(self.state, State::Boundary) {
            self.next_at_boundary(input, cursor)
        } else {
            self.next_inside(input, cursor)
        }
    }

    #[inline]
    fn next_at_boundary<'a>(
        &mut self,
        input: &'a [u8],
        cursor: &mut usize,
    ) -> Result<Option<Decoded<'a>>, FrameError> {
        let rest = input.get(*cursor..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        match read_head(self.profile, rest) {
            Ok(Head::Data { nonce, frame_bytes, head_bytes, surplus }) => {
                *cursor += head_bytes;
                let payload = Payload::new(nonce, frame_bytes, surplus);
                Ok(self.payload_piece(payload, input.len(), cursor))
            }
            Ok(Head::Fixed { frame, head_bytes, surplus }) => {
                *cursor += head_bytes;
                self.end_frame(surplus, input.len(), cursor);
                Ok(Some(Decoded::Frame(frame)))
            }
            Ok(Head::Query(head)) => Ok(self.whole_query(&head, input, cursor)),
            Ok(Head::Cut { .. }) => {
                self.state = State::Head;
                self.carry_more(rest.len(), input, cursor);
                Ok(None)
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Goes on inside a frame that an earlier input began.
    #[inline(never)]
    fn next_inside<'a>(
        &'a mut self,
        input: &'a [u8],
        cursor: &mut usize,
    ) -> Result<Option<Decoded<'a>>, FrameError> {
        loop {
            match self.state {
                State::Failed(error) => return Err(error),
                State::Boundary => return self.next_at_boundary(input, cursor),
                State::Payload(payload) => {
                    return Ok(self.payload_piece(payload, input.len(), cursor));
                }
                State::QueryDelivered { surplus } => {
                    self.query = Vec::new();
                    self.end_frame(surplus, input.len(), cursor);
                }
                State::Surplus { remaining } => {
                    self.end_frame(remaining, input.len(), cursor);
                    if matches!(self.state, State::Surplus { .. }) {
                        return Ok(None);
                    }
                }
                State::QueryString(string) => {
                    let string = self.extend_query(string, input, cursor);
                    if string.remaining > 0 {
                        return Ok(None);
                    }
                    return Ok(self.deliver_query(string, input.len(), cursor));
                }
                State::Head => match self.extend_head(input, cursor)? {
                    HeadProgress::More => return Ok(None),
                    HeadProgress::Inside => {}
                    HeadProgress::Whole(frame) => return Ok(Some(Decoded::Frame(frame))),
                },
            }
        }
    }

    /// Fills the carry to what the head needs, field by field, so that nothing behind the head is
    /// copied.
    fn extend_head(
        &mut self,
        input: &[u8],
        cursor: &mut usize,
    ) -> Result<HeadProgress, FrameError> {
        loop {
            let carried = self.carry.get(..self.carried_bytes).unwrap_or_default();
            match read_head(self.profile, carried) {
                Err(error) => return Err(self.fail(error)),
                Ok(Head::Cut { .. }) if *cursor >= input.len() => return Ok(HeadProgress::More),
                Ok(Head::Cut { wanted_bytes }) => {
                    let missing_bytes = wanted_bytes.saturating_sub(self.carried_bytes);
                    self.carry_more(missing_bytes, input, cursor);
                }
                Ok(Head::Fixed { frame, surplus, .. }) => {
                    self.end_frame(surplus, input.len(), cursor);
                    return Ok(HeadProgress::Whole(frame));
                }
                Ok(Head::Data { nonce, frame_bytes, surplus, .. }) => {
                    self.state = State::Payload(Payload::new(nonce, frame_bytes, surplus));
                    return Ok(HeadProgress::Inside);
                }
                Ok(Head::Query(head)) => {
                    self.state = State::QueryString(begin_query(&mut self.query, &head));
                    return Ok(HeadProgress::Inside);
                }
            }
        }
    }

    /// Copies at most `bytes` of the input to the carry.
    fn carry_more(&mut self, bytes: usize, input: &[u8], cursor: &mut usize) {
        let from = input.get(*cursor..).unwrap_or_default();
        let to = self.carry.get_mut(self.carried_bytes..).unwrap_or_default();
        let taken_bytes = bytes.min(from.len()).min(to.len());
        for (to, from) in to.iter_mut().zip(from).take(taken_bytes) {
            *to = *from;
        }
        self.carried_bytes += taken_bytes;
        *cursor += taken_bytes;
    }

    /// Reports as much of a payload as the input holds.
    #[inline]
    fn payload_piece(
        &mut self,
        payload: Payload,
        input_bytes: usize,
        cursor: &mut usize,
    ) -> Option<Decoded<'static>> {
        let Payload { nonce, frame_bytes, first, .. } = payload;
        let offset = *cursor;
        let bytes = payload.remaining.min(input_bytes.saturating_sub(offset));
        let remaining = payload.remaining - bytes;
        if remaining == 0 {
            *cursor += bytes;
            self.end_frame(payload.surplus, input_bytes, cursor);
        } else if bytes == 0 {
            self.state = State::Payload(payload);
            return None;
        } else {
            *cursor += bytes;
            self.state = State::Payload(Payload { remaining, first: false, ..payload });
        }
        Some(Decoded::Data { nonce, offset, bytes, first, frame_bytes, remaining })
    }

    /// Hands out a query that the input holds whole, or begins to collect it.
    fn whole_query<'a>(
        &mut self,
        head: &QueryHead<'a>,
        input: &'a [u8],
        cursor: &mut usize,
    ) -> Option<Decoded<'a>> {
        *cursor += head.head_bytes;
        let end = *cursor + head.query_bytes;
        if let Some(query) = input.get(*cursor..end) {
            *cursor = end;
            self.end_frame(head.surplus, input.len(), cursor);
            return Some(Decoded::Frame(query_frame(head.relay, head.nonce, head.window, query)));
        }
        let string = begin_query(&mut self.query, head);
        self.extend_query(string, input, cursor);
        None
    }

    /// Moves what the input has of a query's string to the collected part.
    fn extend_query(
        &mut self,
        string: QueryString,
        input: &[u8],
        cursor: &mut usize,
    ) -> QueryString {
        let rest = input.get(*cursor..).unwrap_or_default();
        let arrived = rest.get(..string.remaining).unwrap_or(rest);
        self.query.extend_from_slice(arrived);
        *cursor += arrived.len();
        let string = QueryString { remaining: string.remaining - arrived.len(), ..string };
        self.state = State::QueryString(string);
        string
    }

    /// Hands out a collected query; its buffer lives until the next call.
    fn deliver_query(
        &mut self,
        string: QueryString,
        input_bytes: usize,
        cursor: &mut usize,
    ) -> Option<Decoded<'_>> {
        let QueryString { relayed, nonce, window, .. } = string;
        self.end_frame(string.surplus, input_bytes, cursor);
        let surplus = match self.state {
            State::Surplus { remaining } => remaining,
            _ => 0,
        };
        self.state = State::QueryDelivered { surplus };
        let collected = self.query.as_slice();
        if !relayed {
            return Some(Decoded::Frame(query_frame(None, nonce, window, collected)));
        }
        let (caller, rest) = collected.split_first_chunk()?;
        let (target, query) = rest.split_first_chunk()?;
        Some(Decoded::Frame(query_frame(Some((caller, target)), nonce, window, query)))
    }

    /// Ends a frame: skips its surplus bytes as far as the input has them.
    #[inline]
    fn end_frame(&mut self, surplus: usize, input_bytes: usize, cursor: &mut usize) {
        let skipped_bytes = surplus.min(input_bytes.saturating_sub(*cursor));
        *cursor += skipped_bytes;
        self.carried_bytes = 0;
        self.state = match surplus - skipped_bytes {
            0 => State::Boundary,
            remaining => State::Surplus { remaining },
        };
    }

    #[cold]
    fn fail(&mut self, error: FrameError) -> FrameError {
        self.state = State::Failed(error);
        self.query = Vec::new();
        error
    }
}

enum HeadProgress {
    More,
    Inside,
    Whole(Frame<'static>),
}

/// Everything of a frame before the bytes whose number it announces.
enum Head<'a> {
    /// The head goes on behind these bytes: at least `wanted_bytes` are needed to say more.
    Cut {
        wanted_bytes: usize,
    },
    Fixed {
        frame: Frame<'static>,
        head_bytes: usize,
        surplus: usize,
    },
    Data {
        nonce: u64,
        frame_bytes: usize,
        head_bytes: usize,
        surplus: usize,
    },
    Query(QueryHead<'a>),
}

type CallerAndTarget<'a> = (&'a [u8; 33], &'a [u8; 33]);

struct QueryHead<'a> {
    relay: Option<CallerAndTarget<'a>>,
    nonce: u64,
    window: u32,
    query_bytes: usize,
    head_bytes: usize,
    surplus: usize,
}

#[inline]
fn read_head(profile: Profile, bytes: &[u8]) -> Result<Head<'_>, FrameError> {
    match profile {
        Profile::P0 | Profile::P2 => read_raw_head(profile, bytes),
        Profile::P4 => read_object_head(bytes),
    }
}

#[inline]
fn read_raw_head(profile: Profile, bytes: &[u8]) -> Result<Head<'_>, FrameError> {
    let Some((&opcode, payload)) = bytes.split_first() else {
        return Ok(Head::Cut { wanted_bytes: 1 });
    };
    if opcode == DATA_OPCODE {
        return read_payload(FrameKind::Data, payload, 1, None);
    }
    let kind = match profile {
        Profile::P0 => FrameKind::from_opcode_p0(opcode),
        Profile::P2 => FrameKind::from_opcode_p2(opcode),
        Profile::P4 => None,
    };
    let Some(kind) = kind else {
        return Err(FrameError::UnknownOpcode { profile, opcode });
    };
    read_payload(kind, payload, 1, None)
}

#[inline]
fn read_object_head(bytes: &[u8]) -> Result<Head<'_>, FrameError> {
    if let Some((tag, rest)) = bytes.split_first_chunk()
        && *tag == DATA_TYPE_TAG
        && let Some((payload_bytes, payload)) = split_u32(rest)
    {
        check_payload_bytes(FrameKind::Data, payload_bytes)?;
        return read_payload(FrameKind::Data, payload, tag.len() + 4, Some(payload_bytes));
    }
    read_named_head(bytes)
}

fn read_named_head(bytes: &[u8]) -> Result<Head<'_>, FrameError> {
    let Some((&name_bytes, after)) = bytes.split_first() else {
        return Ok(Head::Cut { wanted_bytes: 1 });
    };
    let tag_bytes = 1 + usize::from(name_bytes);
    let Some((name, after)) = after.split_at_checked(usize::from(name_bytes)) else {
        if is_type_name_start(usize::from(name_bytes), after) {
            return Ok(Head::Cut { wanted_bytes: tag_bytes });
        }
        return Err(FrameError::UnknownType(TypeName::new(name_bytes, after)));
    };
    let Some(kind) = FrameKind::from_type_name(name) else {
        return Err(FrameError::UnknownType(TypeName::new(name_bytes, name)));
    };
    let Some((payload_bytes, payload)) = split_u32(after) else {
        return Ok(Head::Cut { wanted_bytes: tag_bytes + 4 });
    };
    check_payload_bytes(kind, payload_bytes)?;
    read_payload(kind, payload, tag_bytes + 4, Some(payload_bytes))
}

#[cold]
fn is_type_name_start(name_bytes: usize, start: &[u8]) -> bool {
    FrameKind::ALL
        .iter()
        .map(|kind| kind.type_name().as_bytes())
        .any(|name| name.len() == name_bytes && name.starts_with(start))
}

/// Refuses a P4 payload length as soon as it is known.
#[inline]
fn check_payload_bytes(kind: FrameKind, payload_bytes: u32) -> Result<(), FrameError> {
    let needed_bytes = kind.fixed_payload_bytes() as u32;
    if payload_bytes < needed_bytes {
        return Err(FrameError::PayloadTooShort { kind, payload_bytes, needed_bytes });
    }
    if payload_bytes > FRAME_PAYLOAD_BYTES_MAX {
        return Err(FrameError::PayloadTooLong { kind, payload_bytes });
    }
    Ok(())
}

/// Reads a payload's fixed fields; `payload_bytes` is the announced length where there is one.
#[inline]
fn read_payload(
    kind: FrameKind,
    payload: &[u8],
    tag_bytes: usize,
    payload_bytes: Option<u32>,
) -> Result<Head<'_>, FrameError> {
    let head_bytes = tag_bytes + kind.fixed_payload_bytes();
    let Some(fields) = read_fields(kind, payload) else {
        return Ok(Head::Cut { wanted_bytes: head_bytes });
    };
    let tail_bytes = match &fields {
        Fields::Fixed(_) => 0,
        Fields::Data { payload_bytes, .. } => *payload_bytes,
        Fields::Query { query_bytes, .. } => *query_bytes,
    };
    let needed_bytes = kind.fixed_payload_bytes() as u32 + u32::from(tail_bytes);
    let announced_bytes = payload_bytes.unwrap_or(needed_bytes);
    let Some(surplus) = announced_bytes.checked_sub(needed_bytes) else {
        return Err(FrameError::PayloadTooShort {
            kind,
            payload_bytes: announced_bytes,
            needed_bytes,
        });
    };
    let surplus = surplus as usize;
    Ok(match fields {
        Fields::Fixed(frame) => Head::Fixed { frame, head_bytes, surplus },
        Fields::Data { nonce, payload_bytes } => {
            Head::Data { nonce, frame_bytes: usize::from(payload_bytes), head_bytes, surplus }
        }
        Fields::Query { relay, nonce, window, query_bytes } => Head::Query(QueryHead {
            relay,
            nonce,
            window,
            query_bytes: usize::from(query_bytes),
            head_bytes,
            surplus,
        }),
    })
}

/// The fields of fixed length.
enum Fields<'a> {
    Fixed(Frame<'static>),
    Data { nonce: u64, payload_bytes: u16 },
    Query { relay: Option<CallerAndTarget<'a>>, nonce: u64, window: u32, query_bytes: u16 },
}

/// Reads them in the order of spec §6.1; `None` when `payload` ends inside them.
#[inline]
fn read_fields(kind: FrameKind, payload: &[u8]) -> Option<Fields<'_>> {
    if kind == FrameKind::RelayQuery {
        let (caller, rest) = payload.split_first_chunk()?;
        let (target, rest) = rest.split_first_chunk()?;
        return read_query_fields(Some((caller, target)), rest);
    }
    if kind == FrameKind::Query {
        return read_query_fields(None, payload);
    }
    let (nonce, rest) = split_u64(payload)?;
    Some(match kind {
        FrameKind::Data => Fields::Data { nonce, payload_bytes: split_u16(rest)?.0 },
        FrameKind::Read => Fields::Fixed(Frame::Read { nonce, bytes: split_u32(rest)?.0 }),
        FrameKind::Ping => Fields::Fixed(Frame::Ping { nonce, pong: *rest.first()? != 0 }),
        FrameKind::Response => {
            let (&code, rest) = rest.split_first()?;
            Fields::Fixed(Frame::Response { nonce, code, window: split_u32(rest)?.0 })
        }
        FrameKind::Migrate => Fields::Fixed(Frame::Migrate { nonce }),
        FrameKind::Reset => Fields::Fixed(Frame::Reset { nonce }),
        FrameKind::Query | FrameKind::RelayQuery => return read_query_fields(None, payload),
    })
}

fn read_query_fields<'a>(
    relay: Option<CallerAndTarget<'a>>,
    fields: &'a [u8],
) -> Option<Fields<'a>> {
    let (nonce, rest) = split_u64(fields)?;
    let (window, rest) = split_u32(rest)?;
    let (query_bytes, _) = split_u16(rest)?;
    Some(Fields::Query { relay, nonce, window, query_bytes })
}

#[inline]
fn split_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes.split_first_chunk().map(|(field, rest)| (u64::from_be_bytes(*field), rest))
}

#[inline]
fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes.split_first_chunk().map(|(field, rest)| (u32::from_be_bytes(*field), rest))
}

#[inline]
fn split_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    bytes.split_first_chunk().map(|(field, rest)| (u16::from_be_bytes(*field), rest))
}

/// Starts collecting a cut query. The buffer grows as bytes arrive, not as they are announced.
fn begin_query(collected: &mut Vec<u8>, head: &QueryHead<'_>) -> QueryString {
    collected.clear();
    if let Some((caller, target)) = head.relay {
        collected.extend_from_slice(caller);
        collected.extend_from_slice(target);
    }
    QueryString {
        relayed: head.relay.is_some(),
        nonce: head.nonce,
        window: head.window,
        remaining: head.query_bytes,
        surplus: head.surplus,
    }
}

fn query_frame<'a>(
    relay: Option<CallerAndTarget<'a>>,
    nonce: u64,
    window: u32,
    query: &'a [u8],
) -> Frame<'a> {
    match relay {
        Some((caller, target)) => Frame::RelayQuery { caller, target, nonce, window, query },
        None => Frame::Query { nonce, window, query },
    }
}
