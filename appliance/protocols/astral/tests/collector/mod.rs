//! Feeds a frame decoder in segments and keeps what it finds, checking the account of data pieces.

use std::path::PathBuf;

use serde_json::Value;
use waystation_astral::frame::{Decoded, Frame, FrameDecoder, FrameError, Profile};

/// Reads the committed copy of the specification's vectors.
pub(crate) fn vectors() -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/astral-vectors.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A frame that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnedFrame {
    canonical: Vec<u8>,
}

impl OwnedFrame {
    fn new(frame: &Frame<'_>) -> Self {
        let mut canonical = Vec::new();
        frame.encode_to_vec(Profile::P4, &mut canonical).unwrap();
        Self { canonical }
    }

    /// Encodes the frame for `profile`.
    pub(crate) fn encoded(&self, profile: Profile) -> Vec<u8> {
        self.with(|frame| {
            let mut encoded = vec![0xee; frame.encoded_bytes(profile).unwrap()];
            assert_eq!(frame.encode(profile, &mut encoded), Ok(encoded.len()));
            encoded
        })
    }

    /// Writes the frame as the vectors file does, without what it abbreviates.
    pub(crate) fn text(&self) -> String {
        self.with(|frame| match frame {
            Frame::Ping { nonce, pong } => format!("ping {nonce:016x} pong={pong}"),
            Frame::Query { nonce, window, query } => {
                format!("query {nonce:016x} buf={window} \"{}\"", query.escape_ascii())
            }
            Frame::RelayQuery { caller, target, nonce, window, query } => format!(
                "relay_query {nonce:016x} buf={window} \"{}\" caller={} target={}",
                query.escape_ascii(),
                hex::encode(&caller[..4]),
                hex::encode(&target[..4]),
            ),
            Frame::Read { nonce, bytes } => format!("read {nonce:016x} {bytes}"),
            Frame::Response { nonce, code, window } => {
                format!("response {nonce:016x} code={code} buf={window}")
            }
            Frame::Data { nonce, payload } => format!("data {nonce:016x} len={}", payload.len()),
            Frame::Migrate { nonce } => format!("migrate {nonce:016x}"),
            Frame::Reset { nonce } => format!("reset {nonce:016x}"),
        })
    }

    fn with<T>(&self, look: impl FnOnce(&Frame<'_>) -> T) -> T {
        let payload;
        let mut decoder = FrameDecoder::new(Profile::P4);
        let frame = match decoder.next(&self.canonical, &mut 0).unwrap().unwrap() {
            Decoded::Frame(frame) => frame,
            Decoded::Data { nonce, offset, bytes, .. } => {
                payload = &self.canonical[offset..offset + bytes];
                Frame::Data { nonce, payload }
            }
        };
        look(&frame)
    }
}

/// A decoder with what it found.
pub(crate) struct FrameCollector {
    decoder: FrameDecoder,
    frames: Vec<OwnedFrame>,
    cut_payload: Option<Vec<u8>>,
}

impl FrameCollector {
    pub(crate) fn new(profile: Profile) -> Self {
        Self { decoder: FrameDecoder::new(profile), frames: Vec::new(), cut_payload: None }
    }

    /// Decodes one input to its end.
    pub(crate) fn push(&mut self, input: &[u8]) -> Result<(), FrameError> {
        let mut cursor = 0;
        loop {
            let before = cursor;
            let Some(decoded) = self.decoder.next(input, &mut cursor)? else {
                assert_eq!(cursor, input.len(), "everything is consumed before more is asked for");
                return Ok(());
            };
            assert!(before <= cursor && cursor <= input.len());
            match decoded {
                Decoded::Frame(frame) => {
                    assert_eq!(self.cut_payload, None, "a frame inside another's payload");
                    self.frames.push(OwnedFrame::new(&frame));
                }
                Decoded::Data { nonce, offset, bytes, first, frame_bytes, remaining } => {
                    assert_eq!(first, self.cut_payload.is_none());
                    assert!(bytes > 0 || frame_bytes == 0, "an empty piece of a frame");
                    let mut payload = self.cut_payload.take().unwrap_or_default();
                    payload.extend_from_slice(&input[offset..offset + bytes]);
                    assert_eq!(payload.len() + remaining, frame_bytes);
                    if remaining > 0 {
                        assert_eq!(cursor, input.len());
                        self.cut_payload = Some(payload);
                    } else {
                        self.frames
                            .push(OwnedFrame::new(&Frame::Data { nonce, payload: &payload }));
                    }
                }
            }
        }
    }

    pub(crate) fn at_boundary(&self) -> bool {
        self.decoder.at_boundary()
    }

    /// Gives the frames found since the last time.
    pub(crate) fn take_frames(&mut self) -> Vec<OwnedFrame> {
        std::mem::take(&mut self.frames)
    }
}
