//! Runs of data frames: a record's plaintext that holds one session's payload and nothing else.
//!
//! Called on data cores, once per record that is long enough. Such a record can leave on another
//! link as it is, with another nonce in its headers. It never allocates, looks at no payload and
//! never panics on any input.

use super::Profile;
use super::codec::{data_header_bytes, write_data_header};

/// Whole data frames of one session, each with payload, encoded as [`write_data_header`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRun {
    /// The session's name.
    pub nonce: u64,
    /// How many frames there are, at least one.
    pub frames: u32,
    /// Bytes of payload in all of them.
    pub payload_bytes: usize,
}

impl DataRun {
    /// Reads plaintext that begins at a frame's boundary. `None` if it is anything but such a run:
    /// then the decoder has to say what it is.
    pub fn read(profile: Profile, plaintext: &[u8]) -> Option<Self> {
        let (nonce, first_bytes) = read_header(profile, plaintext)?;
        let mut run = Self { nonce, frames: 0, payload_bytes: 0 };
        let mut rest = plaintext;
        let mut payload_bytes = first_bytes;
        loop {
            rest = rest.get(data_header_bytes(profile) + payload_bytes..)?;
            run.frames += 1;
            run.payload_bytes += payload_bytes;
            if rest.is_empty() {
                return Some(run);
            }
            let (nonce, next_bytes) = read_header(profile, rest)?;
            if nonce != run.nonce {
                return None;
            }
            payload_bytes = next_bytes;
        }
    }

    /// Gives every frame of a run another session's name; `plaintext` is what [`Self::read`] read
    /// for this profile.
    pub fn rename(profile: Profile, plaintext: &mut [u8], nonce: u64) {
        let mut rest = plaintext;
        while let Some((_, payload_bytes)) = read_header(profile, rest) {
            let Ok(length) = u16::try_from(payload_bytes) else { return };
            let Ok(header_bytes) = write_data_header(profile, nonce, length, rest) else { return };
            rest = rest.get_mut(header_bytes + payload_bytes..).unwrap_or_default();
        }
    }
}

/// Nonce and payload length of the data frame that begins here, if it is one that we would have
/// encoded so and it is not empty.
#[inline]
fn read_header(profile: Profile, bytes: &[u8]) -> Option<(u64, usize)> {
    let header_bytes = data_header_bytes(profile);
    let header = bytes.get(..header_bytes)?;
    let (rest, length) = header.split_last_chunk()?;
    let (_, nonce) = rest.split_last_chunk()?;
    let (nonce, length) = (u64::from_be_bytes(*nonce), u16::from_be_bytes(*length));
    // Comparing with what we would write leaves the tables of frames to the codec.
    let mut expected = [0; HEADER_BYTES_MAX];
    let expected = expected.get_mut(..header_bytes)?;
    write_data_header(profile, nonce, length, expected).ok()?;
    (length > 0 && *expected == *header).then_some((nonce, usize::from(length)))
}

/// Bytes of the longest data header, that of P4.
const HEADER_BYTES_MAX: usize = data_header_bytes(Profile::P4);

#[cfg(test)]
mod tests {
    use super::super::{Decoded, Frame, FrameDecoder};
    use super::*;
    use proptest::prelude::*;

    fn encode(profile: Profile, frames: &[(u64, usize)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, (nonce, payload_bytes)) in frames.iter().enumerate() {
            let payload = vec![number as u8; *payload_bytes];
            let frame = Frame::Data { nonce: *nonce, payload: &payload };
            frame.encode_to_vec(profile, &mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn one_session_s_frames_are_a_run_and_leave_under_another_name() {
        for profile in Profile::ALL {
            let lengths = [1, 1_024, 65_000, 7];
            let mut bytes = encode(profile, &lengths.map(|length| (5, length)));
            let run = DataRun::read(profile, &bytes).unwrap();
            assert_eq!(run, DataRun { nonce: 5, frames: 4, payload_bytes: 66_032 });
            DataRun::rename(profile, &mut bytes, 6);
            assert_eq!(bytes, encode(profile, &lengths.map(|length| (6, length))));
        }
    }

    #[test]
    fn anything_else_is_no_run() {
        for profile in Profile::ALL {
            let whole = encode(profile, &[(5, 100), (5, 100)]);
            assert_eq!(DataRun::read(profile, &[]), None);
            assert_eq!(DataRun::read(profile, &whole[..whole.len() - 1]), None, "cut");
            assert_eq!(DataRun::read(profile, &whole[1..]), None, "within a frame");
            assert_eq!(DataRun::read(profile, &encode(profile, &[(5, 9), (6, 9)])), None);
            assert_eq!(DataRun::read(profile, &encode(profile, &[(5, 9), (5, 0)])), None);
            let mut with_credit = whole.clone();
            let credit = Frame::Read { nonce: 5, bytes: 1 };
            credit.encode_to_vec(profile, &mut with_credit).unwrap();
            assert_eq!(DataRun::read(profile, &with_credit), None);
        }
        // Surplus bytes behind the payload, which only an object has room for (spec §5.3).
        let mut surplus = encode(Profile::P4, &[(5, 100)]);
        surplus[21] += 1;
        surplus.push(0);
        assert_eq!(DataRun::read(Profile::P4, &surplus), None);
    }

    proptest! {
        #[test]
        fn run_is_what_the_decoder_would_have_found(
            profile in prop::sample::select(Profile::ALL.as_slice()),
            frames in prop::collection::vec((3_u64..5, 0_usize..40), 0..6),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2),
            cut in 0_usize..3,
        ) {
            let mut bytes = encode(profile, &frames);
            bytes.truncate(bytes.len().saturating_sub(cut));
            for (place, value) in flips {
                if !bytes.is_empty() {
                    let place = place.index(bytes.len());
                    bytes[place] = value;
                }
            }
            if let Some(run) = DataRun::read(profile, &bytes) {
                let mut decoder = FrameDecoder::new(profile);
                let (mut cursor, mut found) = (0, DataRun { frames: 0, payload_bytes: 0, ..run });
                while let Some(decoded) = decoder.next(&bytes, &mut cursor).unwrap() {
                    let Decoded::Data { nonce, bytes, first, remaining, .. } = decoded else {
                        panic!("{decoded:?}");
                    };
                    prop_assert!(nonce == run.nonce && first && remaining == 0);
                    found.frames += 1;
                    found.payload_bytes += bytes;
                }
                prop_assert!(decoder.at_boundary());
                prop_assert_eq!(found, run);
            }
        }
    }
}
