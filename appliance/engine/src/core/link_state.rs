//! A link as one process tells another of it, which goes on with it.
//!
//! Values only, made on the data core that has the link and read on the one that takes it over,
//! once (decision 27). It holds the keys of the link: it goes over a socket between processes of
//! one user and nowhere else, shows no key in `Debug`, and keys are erased when it is dropped.

use super::connection::{Connection, Ended, LinkInput};
use super::ingress::Share;
use super::limiting::Presence;
use super::moving::ReceivedBytes;
use crate::block::{BLOCK_BYTES, BlockPool};
use crate::control::{LinkUp, Network};
use crate::fabric::LinkSide;
use crate::output::{LinkOutput, OutputState};
use crate::record_reader::{ReaderState, RecordReader};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use waystation_astral::aead::AeadSuite;
use waystation_astral::frame::{DecoderState, FrameDecoder, Profile};
use waystation_astral::hexadecimal::HexadecimalBytes;
use waystation_relay::ids::{CoreId, LegTag, LinkTag};
use waystation_relay::switch::SessionsState;

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkState {
    pub(super) slot: u32,
    pub(super) generation: u32,
    remote: SocketAddr,
    local: SocketAddr,
    accepted_ns: u64,
    network: Network,
    pub(super) profile: Profile,
    /// In hexadecimal digits.
    identity: String,
    link_id: u64,
    reader: ReaderState,
    decoder: DecoderState,
    output: OutputState,
    /// What is left of a record that is open.
    open: HexadecimalBytes,
    /// What was received behind that and what the reader has.
    raw: HexadecimalBytes,
    /// Whether its stream has ended, and if so cleanly.
    ended: Option<bool>,
    received_ns: u64,
    active_ns: u64,
    had_sessions: bool,
    /// Nonce and time of a ping that waits for its pong.
    ping: Option<(u64, u64)>,
    ping_round_trip_ns: u64,
    prelude_pongs: u8,
    frames_in: u64,
    payload_bytes_in: u64,
    pub(super) sessions: SessionsState,
}

/// The parts that a core makes of it.
pub(super) struct LinkParts {
    pub(super) connection: Connection,
    pub(super) input: Box<LinkInput>,
    pub(super) side: LinkSide,
    pub(super) received: ReceivedBytes,
}

impl LinkState {
    /// `None`: its peer has broken the protocol, or sealing has failed.
    pub(super) fn new(
        tag: LinkTag,
        connection: &Connection,
        (input, output): (&LinkInput, OutputState),
        received: ReceivedBytes,
        sessions: SessionsState,
    ) -> Option<Self> {
        let ReceivedBytes { open, raw, ended, .. } = received;
        Some(Self {
            slot: tag.slot,
            generation: tag.generation,
            remote: connection.remote,
            local: connection.local,
            accepted_ns: connection.accepted_ns,
            network: connection.network,
            profile: input.profile,
            identity: input.identity.to_string(),
            link_id: input.link_id,
            reader: input.reader.state()?,
            decoder: input.decoder.state()?,
            output,
            open: HexadecimalBytes(open),
            raw: HexadecimalBytes(raw),
            ended: ended.map(|ended| ended == Ended::Cleanly),
            received_ns: input.received_ns,
            active_ns: input.active_ns,
            had_sessions: input.had_sessions,
            ping: input.ping,
            ping_round_trip_ns: input.ping_round_trip_ns,
            prelude_pongs: input.prelude_pongs,
            frames_in: input.frames_in,
            payload_bytes_in: input.payload_bytes_in,
            sessions,
        })
    }

    /// The tag that it has on this core.
    pub fn tag(&self, core: CoreId) -> LinkTag {
        LinkTag { core, slot: self.slot, generation: self.generation }
    }

    /// Each leg of this core that passes on what the peer of another link sends, with that link's
    /// core and its place there: that peer's quota paces it.
    pub fn senders(&self, core: CoreId) -> impl Iterator<Item = (LegTag, (CoreId, u32))> {
        self.sessions.senders(core)
    }

    /// Bytes of JSON that it takes, about.
    pub fn written_bytes(&self) -> usize {
        let bytes = self.open.len() + self.raw.len() + self.output.bytes();
        2 * bytes + self.sessions.written_bytes_max()
    }

    /// Blocks that its bytes take.
    pub(super) fn blocks(&self) -> usize {
        let received: usize =
            [&self.open, &self.raw].iter().map(|it| it.len().div_ceil(BLOCK_BYTES)).sum();
        received + self.output.blocks() + usize::from(self.reader.needs_block())
    }

    /// What a core goes on with, under that tag. The pool must have blocks. `None`: it is no link.
    pub(super) fn parts(
        &self,
        tag: LinkTag,
        suite: AeadSuite,
        pool: &mut BlockPool,
    ) -> Option<LinkParts> {
        let profile = self.profile;
        let identity = self.identity.parse().ok()?;
        // A record is opened into one block.
        if self.open.len() > BLOCK_BYTES {
            return None;
        }
        let decoder = FrameDecoder::from_state(profile, &self.decoder)?;
        let mut output = LinkOutput::from_state(suite, profile, &self.output, pool)?;
        let Some(reader) = RecordReader::from_state(suite, &self.reader, pool) else {
            output.discard(pool, drop);
            return None;
        };
        let mut connection =
            Connection::new(None, self.remote, self.local, self.accepted_ns, u64::MAX);
        connection.network = self.network;
        let input = Box::new(LinkInput {
            reader,
            decoder,
            profile,
            identity,
            link_id: self.link_id,
            received_ns: self.received_ns,
            active_ns: self.active_ns,
            had_sessions: self.had_sessions,
            keep: false,
            ping: self.ping,
            ping_round_trip_ns: self.ping_round_trip_ns,
            prelude_pongs: self.prelude_pongs,
            frames_in: self.frames_in,
            payload_bytes_in: self.payload_bytes_in,
            share: Share::default(),
            presence: Presence::default(),
        });
        let facts = LinkUp {
            link: tag,
            identity,
            profile,
            link_id: self.link_id,
            remote: self.remote,
            local: self.local,
            inner: false,
            network: self.network,
            dial: None,
        };
        let side = LinkSide { output, facts: Some(facts), inside: None };
        let ended = self.ended.map(|clean| if clean { Ended::Cleanly } else { Ended::ByError });
        let (open, raw) = (self.open.0.clone(), self.raw.0.clone());
        let received = ReceivedBytes { open, body: Vec::new(), raw, ended };
        Some(LinkParts { connection, input, side, received })
    }
}
