//! The dialing end of a link by hand, for what no good peer does: whoever holds one makes every
//! record and frame itself, on the calling thread. Nothing is answered, returned or flushed on its
//! own, but for what [`HandLink::receive`] says.
//!
//! For tests: a wait is as long as the transport's own timeouts allow.

use crate::error::{LinkFailure, PeerError, Step};
use crate::random;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use waystation_astral::brontide::{
    ACT_TWO_BYTES, Initiator, Opener, RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES, Sealer, TAG_BYTES,
};
use waystation_astral::frame::{Decoded, Frame, FrameDecoder, Profile};
use waystation_astral::identity::{Identity, SecretKey};
use waystation_astral::negotiation::{Dialer, Progress};

/// A frame that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    Ping { nonce: u64, pong: bool },
    Query { nonce: u64, window: u32, query: Vec<u8> },
    RelayQuery { caller: [u8; 33], target: [u8; 33], nonce: u64, window: u32, query: Vec<u8> },
    Read { nonce: u64, bytes: u32 },
    Response { nonce: u64, code: u8, window: u32 },
    Data { nonce: u64, payload: Vec<u8> },
    Migrate { nonce: u64 },
    Reset { nonce: u64 },
}

impl From<Frame<'_>> for Got {
    fn from(frame: Frame<'_>) -> Self {
        match frame {
            Frame::Ping { nonce, pong } => Self::Ping { nonce, pong },
            Frame::Query { nonce, window, query } => {
                Self::Query { nonce, window, query: query.to_vec() }
            }
            Frame::RelayQuery { caller, target, nonce, window, query } => Self::RelayQuery {
                caller: *caller,
                target: *target,
                nonce,
                window,
                query: query.to_vec(),
            },
            Frame::Read { nonce, bytes } => Self::Read { nonce, bytes },
            Frame::Response { nonce, code, window } => Self::Response { nonce, code, window },
            Frame::Data { nonce, payload } => Self::Data { nonce, payload: payload.to_vec() },
            Frame::Migrate { nonce } => Self::Migrate { nonce },
            Frame::Reset { nonce } => Self::Reset { nonce },
        }
    }
}

/// A link whose records and frames its holder makes.
pub struct HandLink<S> {
    /// The transport, for bytes that are no record.
    pub stream: S,
    /// The identity of this side.
    pub identity: Identity,
    sealer: Sealer,
    opener: Opener,
    decoder: FrameDecoder,
    profile: Profile,
    got: VecDeque<Got>,
}

impl<S> fmt::Debug for HandLink<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandLink")
            .field("identity", &self.identity)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

impl<S: Read + Write> HandLink<S> {
    /// Dials over a transport and negotiates.
    ///
    /// # Errors
    ///
    /// The handshake or the negotiation failed, or the transport did.
    pub fn dial(
        stream: S,
        key: &SecretKey,
        remote: &Identity,
        profile: Profile,
    ) -> Result<Self, PeerError> {
        let mut link = Self::shake(stream, key, remote, profile)?;
        let mut dialer = Dialer::fixed(profile);
        loop {
            let plaintext = link.receive_record()?;
            let mut reply = Vec::new();
            let progress = dialer.receive(&plaintext, &mut reply)?;
            if !reply.is_empty() {
                link.send_record(&reply)?;
            }
            if let Progress::Done(established) = progress {
                link.decode(&established.leftover)?;
                return Ok(link);
            }
        }
    }

    /// Makes the handshake and leaves the other side's greeting unread.
    ///
    /// # Errors
    ///
    /// The handshake failed, or the transport did.
    pub fn shake(
        mut stream: S,
        key: &SecretKey,
        remote: &Identity,
        profile: Profile,
    ) -> Result<Self, PeerError> {
        let io_error = |source| PeerError::from_read(Step::Handshake, source);
        let ephemeral = random::secret_key()?;
        let mut initiator = Initiator::new(key, remote, &ephemeral)?;
        stream.write_all(&initiator.act_one()?).map_err(io_error)?;
        let mut act_two = [0; ACT_TWO_BYTES];
        stream.read_exact(&mut act_two).map_err(io_error)?;
        let (act_three, transport) = initiator.act_two(&act_two)?;
        stream.write_all(&act_three).map_err(io_error)?;
        Ok(Self {
            stream,
            identity: key.identity(),
            sealer: transport.sealer,
            opener: transport.opener,
            decoder: FrameDecoder::new(profile),
            profile,
            got: VecDeque::new(),
        })
    }

    /// The profile this side speaks.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Seals bytes into one record.
    ///
    /// # Errors
    ///
    /// [`PeerError::Seal`] for what no record can hold.
    pub fn seal(&mut self, plaintext: &[u8]) -> Result<Vec<u8>, PeerError> {
        let mut record = vec![0; RECORD_OVERHEAD_BYTES + plaintext.len()];
        let body = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + plaintext.len();
        if let Some(body) = record.get_mut(body) {
            body.copy_from_slice(plaintext);
        }
        self.sealer.seal_in_place(&mut record)?;
        Ok(record)
    }

    /// Sends bytes as one record.
    ///
    /// # Errors
    ///
    /// As [`Self::seal`], or the transport failed.
    pub fn send_record(&mut self, plaintext: &[u8]) -> Result<(), PeerError> {
        let record = self.seal(plaintext)?;
        self.stream
            .write_all(&record)
            .map_err(|source| PeerError::LinkDown(Arc::new(LinkFailure::Send(source))))
    }

    /// Sends a frame in a record of its own.
    ///
    /// # Errors
    ///
    /// As [`Self::send_record`]; [`PeerError::Encode`] for a frame this profile does not have.
    pub fn send(&mut self, frame: &Frame<'_>) -> Result<(), PeerError> {
        let bytes = self.encoded(frame)?;
        self.send_record(&bytes)
    }

    /// The bytes of a frame in this link's profile.
    ///
    /// # Errors
    ///
    /// [`PeerError::Encode`].
    pub fn encoded(&self, frame: &Frame<'_>) -> Result<Vec<u8>, PeerError> {
        let mut bytes = Vec::new();
        frame.encode_to_vec(self.profile, &mut bytes)?;
        Ok(bytes)
    }

    /// The next frame that is not a ping. Pings are answered, as everybody must.
    ///
    /// # Errors
    ///
    /// [`PeerError::LinkDown`] when the transport ended, timed out or carried something bad.
    pub fn receive(&mut self) -> Result<Got, PeerError> {
        loop {
            match self.receive_any()? {
                Got::Ping { nonce, pong: false } => {
                    self.send(&Frame::Ping { nonce, pong: true })?;
                }
                got => return Ok(got),
            }
        }
    }

    /// The next frame, whatever it is.
    ///
    /// # Errors
    ///
    /// As [`Self::receive`].
    pub fn receive_any(&mut self) -> Result<Got, PeerError> {
        loop {
            if let Some(got) = self.got.pop_front() {
                return Ok(got);
            }
            let plaintext = self.receive_record()?;
            self.decode(&plaintext)?;
        }
    }

    fn receive_record(&mut self) -> Result<Vec<u8>, PeerError> {
        let mut header = [0; RECORD_HEADER_BYTES];
        self.stream.read_exact(&mut header).map_err(receive_error)?;
        let body_bytes = self.opener.open_header(&header)?;
        let mut body = vec![0; body_bytes + TAG_BYTES];
        self.stream.read_exact(&mut body).map_err(receive_error)?;
        self.opener.open_body(&mut body)?;
        body.truncate(body_bytes);
        Ok(body)
    }

    fn decode(&mut self, plaintext: &[u8]) -> Result<(), PeerError> {
        let mut cursor = 0;
        let bad = |failure| PeerError::LinkDown(Arc::new(LinkFailure::Frame(failure)));
        while let Some(decoded) = self.decoder.next(plaintext, &mut cursor).map_err(bad)? {
            match decoded {
                Decoded::Data { nonce, offset, bytes, first, .. } => {
                    let piece = plaintext.get(offset..offset + bytes).unwrap_or_default();
                    match self.got.back_mut() {
                        Some(Got::Data { payload, .. }) if !first => {
                            payload.extend_from_slice(piece);
                        }
                        _ => self.got.push_back(Got::Data { nonce, payload: piece.to_vec() }),
                    }
                }
                Decoded::Frame(frame) => self.got.push_back(Got::from(frame)),
            }
        }
        Ok(())
    }
}

fn receive_error(source: io::Error) -> PeerError {
    PeerError::LinkDown(Arc::new(LinkFailure::Receive(source)))
}
