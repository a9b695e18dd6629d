//! Where a decoder is, as one process tells another of it, which goes on with the link.
//!
//! Made on the data core that has the link and read on the one that takes it over, once. What is
//! read is within the decoder's own bounds, or refused.

use serde::{Deserialize, Serialize};

use super::{FrameDecoder, State};
use crate::frame::Profile;
use crate::hexadecimal::HexadecimalBytes;
use crate::limits::{FRAME_HEAD_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX, IDENTITY_BYTES};

/// See the module.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderState {
    place: State,
    /// The beginning of a cut head.
    carried: HexadecimalBytes,
    /// What has come of a cut query.
    query: HexadecimalBytes,
}

impl std::fmt::Debug for DecoderState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("DecoderState")
            .field("carried", &self.carried)
            .field("query", &self.query)
            .finish_non_exhaustive()
    }
}

impl FrameDecoder {
    /// Whether another process could go on decoding: the peer has kept to the format.
    pub fn is_whole(&self) -> bool {
        !matches!(self.state, State::Failed(_))
    }

    /// What another process needs to go on decoding. `None`: the peer has broken the format.
    pub fn state(&self) -> Option<DecoderState> {
        let (place, query) = match self.state {
            State::Failed(_) => return None,
            // The query has been dealt with; only what is behind it is left to skip.
            State::QueryDelivered { surplus: 0 } => (State::Boundary, &[][..]),
            State::QueryDelivered { surplus } => (State::Surplus { remaining: surplus }, &[][..]),
            place => (place, self.query.as_slice()),
        };
        let carried = self.carry.get(..self.carried_bytes)?;
        Some(DecoderState {
            place,
            carried: HexadecimalBytes(carried.to_vec()),
            query: HexadecimalBytes(query.to_vec()),
        })
    }

    /// Goes on decoding. `None`: no decoder is ever there.
    pub fn from_state(profile: Profile, state: &DecoderState) -> Option<Self> {
        let DecoderState { place, carried, query } = state;
        let payload_bytes_max = usize::try_from(FRAME_PAYLOAD_BYTES_MAX).ok()?;
        let is_within = match *place {
            State::Boundary | State::Head => true,
            State::Payload(payload) => {
                payload.remaining <= payload.frame_bytes
                    && payload.frame_bytes <= payload_bytes_max
                    && payload.surplus <= payload_bytes_max
            }
            State::QueryString(string) => {
                let collected = query.len().saturating_add(string.remaining);
                (!string.relayed || query.len() >= 2 * IDENTITY_BYTES)
                    && collected <= payload_bytes_max
                    && string.surplus <= payload_bytes_max
            }
            State::Surplus { remaining } => remaining <= payload_bytes_max,
            State::QueryDelivered { .. } | State::Failed(_) => false,
        };
        let collects = matches!(place, State::QueryString(_));
        if !is_within || carried.len() > FRAME_HEAD_BYTES_MAX || (!collects && !query.is_empty()) {
            return None;
        }
        let mut decoder = Self::new(profile);
        decoder.carry.get_mut(..carried.len())?.copy_from_slice(&carried.0);
        decoder.carried_bytes = carried.len();
        decoder.state = *place;
        decoder.query = query.0.clone();
        Some(decoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Decoded, Frame};
    use proptest::prelude::*;

    /// Frames as they were found, with payloads put together.
    fn decode(profile: Profile, stream: &[u8], cuts: &[usize], hand_over: bool) -> Vec<String> {
        let mut decoder = FrameDecoder::new(profile);
        let (mut found, mut payload, mut rest, mut cuts) =
            (Vec::new(), Vec::new(), stream, cuts.iter().cycle());
        while !rest.is_empty() {
            let (input, behind) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            let mut cursor = 0;
            while let Some(decoded) = decoder.next(input, &mut cursor).unwrap() {
                match decoded {
                    Decoded::Frame(frame) => found.push(format!("{frame:?}")),
                    Decoded::Data { nonce, offset, bytes, remaining, .. } => {
                        payload.extend_from_slice(&input[offset..offset + bytes]);
                        if remaining == 0 {
                            found.push(format!("{nonce}: {payload:?}"));
                            payload.clear();
                        }
                    }
                }
            }
            if hand_over {
                let text = serde_json::to_string(&decoder.state().unwrap()).unwrap();
                let state = serde_json::from_str(&text).unwrap();
                decoder = FrameDecoder::from_state(profile, &state).unwrap();
            }
            rest = behind;
        }
        found
    }

    fn frames(texts: &[(u8, Vec<u8>)], profile: Profile) -> Vec<u8> {
        let mut stream = Vec::new();
        let identity = [2; 33];
        for (number, (kind, bytes)) in texts.iter().enumerate() {
            let nonce = number as u64;
            let frame = match kind % 5 {
                0 => Frame::Query { nonce, window: 9, query: bytes },
                1 if profile == Profile::P4 => Frame::RelayQuery {
                    caller: &identity,
                    target: &identity,
                    nonce,
                    window: 3,
                    query: bytes,
                },
                2 => Frame::Ping { nonce, pong: true },
                3 => Frame::Read { nonce, bytes: 77 },
                _ => Frame::Data { nonce, payload: bytes },
            };
            frame.encode_to_vec(profile, &mut stream).unwrap();
        }
        stream
    }

    proptest! {
        #[test]
        fn decoder_handed_over_behind_every_input_finds_the_same_frames(
            texts in prop::collection::vec(
                (any::<u8>(), prop::collection::vec(any::<u8>(), 0..200)), 1..20
            ),
            cuts in prop::collection::vec(1_usize..90, 1..20)
        ) {
            for profile in Profile::ALL {
                let stream = frames(&texts, profile);
                let whole = decode(profile, &stream, &cuts, false);
                prop_assert_eq!(whole.len(), texts.len());
                prop_assert_eq!(decode(profile, &stream, &cuts, true), whole);
            }
        }
    }

    #[test]
    fn decoder_of_a_broken_stream_is_not_handed_over() {
        let mut decoder = FrameDecoder::new(Profile::P0);
        decoder.next(&[255, 255], &mut 0).unwrap_err();
        assert!(decoder.state().is_none() && !decoder.is_whole());
    }

    #[test]
    fn state_beyond_the_decoder_s_bounds_is_refused() {
        for place in [
            r#"{"Surplus":{"remaining":9999999}}"#,
            r#"{"QueryString":{"relayed":true,"nonce":1,"window":1,"remaining":1,"surplus":0}}"#,
            r#"{"QueryDelivered":{"surplus":1}}"#,
        ] {
            let text = format!(r#"{{"place":{place},"carried":"","query":""}}"#);
            let state = serde_json::from_str(&text).unwrap();
            assert!(FrameDecoder::from_state(Profile::P4, &state).is_none(), "{place}");
        }
    }
}
