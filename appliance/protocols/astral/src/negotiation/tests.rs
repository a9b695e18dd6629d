//! Tests of negotiation in both roles, against simulated and recorded peers.

mod accepting;
mod dialing;

use proptest::prelude::*;
use ring::digest::{SHA256, digest};

use super::*;
use crate::frame::{Decoded, Frame, FrameDecoder};
use crate::limits::PRELUDE_RANDOM_BYTES;
use crate::object::{ChannelForm, FieldReader, ObjectReader};

const LINK_ID: u64 = 0x1122_3344_5566_7788;
const PING_NONCE: u64 = 0x5050_5050_5050_5050;
/// `a1…a7`, `b2…b7`, `c2…c8` as in the vectors.
const RANDOM: [u8; PRELUDE_RANDOM_BYTES] = [
    0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xc2, 0xc3, 0xc4,
    0xc5, 0xc6, 0xc7, 0xc8,
];
const PRELUDE_LINK_ID: u64 = 0x00a1_a2a3_a4a5_a6a7;

fn vectors() -> serde_json::Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/astral-vectors.json");
    let mut vectors: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    vectors["negotiation"].take()
}

fn unhex(value: &serde_json::Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn encoded(profile: Profile, frames: &[Frame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode_to_vec(profile, &mut bytes).unwrap();
    }
    bytes
}

fn ping(nonce: u64, pong: bool) -> Frame<'static> {
    Frame::Ping { nonce, pong }
}

fn push_query() -> Frame<'static> {
    Frame::Query { nonce: 0x77, window: 4_194_304, query: b"objects.push?size=64" }
}

/// What a stock node may send before any answer: its first queries and a keepalive.
fn early_frames() -> [Frame<'static>; 3] {
    [push_query(), ping(0xee, false), Frame::Query { nonce: 0x78, window: 1, query: b".profile" }]
}

fn late_frames() -> [Frame<'static>; 2] {
    [Frame::Data { nonce: 0x79, payload: b"late" }, Frame::Reset { nonce: 0x79 }]
}

/// Either machine under test, for tests that are the same for both.
trait Machine {
    fn take(&mut self, plaintext: &[u8], reply: &mut Vec<u8>)
    -> Result<Progress, NegotiationError>;
}

impl Machine for Acceptor {
    fn take(
        &mut self,
        plaintext: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Progress, NegotiationError> {
        self.receive(plaintext, reply)
    }
}

impl Machine for Dialer {
    fn take(
        &mut self,
        plaintext: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Progress, NegotiationError> {
        self.receive(plaintext, reply)
    }
}

/// What came of a negotiation: `None` while it needs more. The leftover has the segments behind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    reply: Vec<u8>,
    result: Result<Option<Established>, NegotiationError>,
}

fn negotiate<'a>(
    machine: &mut impl Machine,
    segments: impl IntoIterator<Item = &'a [u8]>,
) -> Outcome {
    let mut reply = Vec::new();
    let mut link: Option<Established> = None;
    for segment in segments {
        if let Some(link) = &mut link {
            link.leftover.extend_from_slice(segment);
            continue;
        }
        match machine.take(segment, &mut reply) {
            Ok(Progress::More) => {}
            Ok(Progress::Done(established)) => {
                link = Some(established);
                let again = machine.take(segment, &mut Vec::new());
                assert_eq!(again, Err(NegotiationError::Ended));
            }
            Err(error) => {
                assert_eq!(machine.take(segment, &mut Vec::new()), Err(error.clone()));
                return Outcome { reply, result: Err(error) };
            }
        }
    }
    Outcome { reply, result: Ok(link) }
}

/// Negotiates with the same bytes whole, byte by byte, in hundreds and in every two-way split,
/// and gives the one outcome of all.
fn in_every_segmentation<M: Machine>(make: impl Fn() -> M, stream: &[u8]) -> Outcome {
    let outcome = negotiate(&mut make(), [stream]);
    for step in [1, 2, 100] {
        assert_eq!(negotiate(&mut make(), stream.chunks(step)), outcome, "chunks of {step}");
    }
    for split in 0..=stream.len() {
        let (front, back) = stream.split_at(split);
        assert_eq!(negotiate(&mut make(), [front, back]), outcome, "split at {split}");
    }
    outcome
}

fn up(profile: Profile, link_id: Option<u64>, leftover: Vec<u8>) -> Option<Established> {
    Some(Established { profile, link_id, leftover })
}

/// Reads a raw greeting as stock P0 and P2 do; gives the features and what is behind them.
fn read_raw_greeting(greeting: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut reader = FieldReader::new(greeting);
    let count = reader.u16().unwrap();
    let features = (0..count).map(|_| reader.s8().unwrap()).collect();
    (features, reader.rest())
}

/// Reads a greeting of objects as stock P4 does.
fn read_object_greeting(greeting: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut reader = ObjectReader::new(ChannelForm::C2, 2000);
    reader.push(greeting);
    let count = reader.next().unwrap().unwrap();
    assert_eq!(count.type_name, "uint16");
    let features = (0..FieldReader::new(&count.payload).u16().unwrap())
        .map(|_| {
            let feature = reader.next().unwrap().unwrap();
            assert_eq!(feature.type_name, "string8");
            FieldReader::new(&feature.payload).s8().unwrap().to_vec()
        })
        .collect();
    (features, reader.into_rest())
}

/// Everything a stock initiator sends: its choice, frames before it read anything behind the
/// status, its answers to our pings, and frames after them.
struct StockInitiator {
    profile: Profile,
    sent: Vec<u8>,
    link_id: Option<u64>,
    pongs: Vec<Vec<u8>>,
}

impl StockInitiator {
    fn greeted(profile: Profile, greeting: &[u8]) -> Self {
        let sent = match profile {
            Profile::P0 | Profile::P2 => {
                let (features, rest) = read_raw_greeting(greeting);
                assert!(features.contains(&b"mux2".as_slice()));
                assert!(rest.is_empty(), "{} bytes of greeting are left", rest.len());
                b"\x04mux2".to_vec()
            }
            Profile::P4 => {
                let (features, rest) = read_object_greeting(greeting);
                assert!(features.contains(&b"mux2".to_vec()));
                assert!(rest.is_empty(), "{} bytes of greeting are left", rest.len());
                b"\x07string8\x00\x00\x00\x05\x04mux2".to_vec()
            }
        };
        Self { profile, sent, link_id: None, pongs: Vec::new() }
    }

    /// Reads the status, the link id and the frames behind them, and answers the pings.
    fn answered(&mut self, answer: &[u8]) {
        let frames = match self.profile {
            Profile::P0 => answer.strip_prefix(&[0]).unwrap().to_vec(),
            Profile::P2 => {
                let mut reader = FieldReader::new(answer);
                assert_eq!(reader.u8(), Ok(0));
                self.link_id = Some(reader.u64().unwrap());
                reader.rest().to_vec()
            }
            Profile::P4 => {
                let mut reader = ObjectReader::new(ChannelForm::C2, 100);
                reader.push(answer);
                let status = reader.next().unwrap().unwrap();
                assert_eq!((status.type_name.as_str(), &status.payload[..]), ("uint8", &[0][..]));
                let link_id = reader.next().unwrap().unwrap();
                assert_eq!(link_id.type_name, "nonce64");
                self.link_id = Some(FieldReader::new(&link_id.payload).u64().unwrap());
                reader.into_rest()
            }
        };
        let mut decoder = FrameDecoder::new(self.profile);
        let mut cursor = 0;
        while let Some(decoded) = decoder.next(&frames, &mut cursor).unwrap() {
            match decoded {
                Decoded::Frame(Frame::Ping { nonce, pong: false }) => {
                    self.pongs.push(encoded(self.profile, &[ping(nonce, true)]));
                }
                Decoded::Frame(Frame::Reset { .. }) => {}
                other => panic!("a stock node would act on {other:?}"),
            }
        }
        assert!(decoder.at_boundary());
    }
}

fn close() -> Farewell {
    Farewell { bytes: Vec::new(), reset: false }
}

fn refused_by<M: Machine>(make: impl Fn() -> M, stream: &[u8]) -> (NegotiationError, Farewell) {
    let outcome = in_every_segmentation(make, stream);
    let Err(error) = outcome.result else { panic!("{}: {outcome:?}", stream.escape_ascii()) };
    let farewell = error.farewell();
    (error, farewell)
}

#[test]
fn dual_greeting_is_that_of_the_specification() {
    let vector = &vectors()["dual_greeting"];
    assert_eq!(dual_greeting(), unhex(&vector["hex"]));
    assert_eq!(dual_greeting().len(), 1776);
    let hash = "7b5f5459b58906441b2547e1bf82e894ecb79ece052ecf923acc8ac94c06f061";
    assert_eq!(hex::encode(digest(&SHA256, dual_greeting())), hash);
    assert_eq!(vector["sha256"], hash);
}

#[test]
fn both_families_read_the_dual_greeting_to_the_same_byte() {
    let (features, rest) = read_raw_greeting(dual_greeting());
    assert_eq!(features.len(), 1653);
    assert_eq!(features.iter().filter(|feature| **feature == b"mux2").count(), 1);
    assert!(rest.is_empty());
    assert_eq!(read_object_greeting(dual_greeting()), (vec![b"mux2".to_vec()], Vec::new()));
}

/// Runs our dialer against our acceptor over a wire that delivers `step` bytes at a time, with the
/// dialer's side answering pings once its link is up.
fn dial_ourselves(
    mut dialer: Dialer,
    mut acceptor: Acceptor,
    step: usize,
) -> (Established, Established) {
    let mut to_dialer = acceptor.greeting().to_vec();
    let mut to_acceptor = Vec::new();
    let mut dialed = None;
    let mut accepted = None;
    while dialed.is_none() || accepted.is_none() {
        assert!(!to_dialer.is_empty() || !to_acceptor.is_empty(), "both wait for the other");
        for segment in std::mem::take(&mut to_dialer).chunks(step) {
            if dialed.is_some() {
                panic!("nothing follows in this exchange before both are up");
            }
            if let Progress::Done(link) = dialer.receive(segment, &mut to_acceptor).unwrap() {
                dialed = Some(link);
            }
        }
        if let Some(link) = &dialed {
            let mut decoder = FrameDecoder::new(link.profile);
            let mut cursor = 0;
            while let Some(decoded) = decoder.next(&link.leftover, &mut cursor).unwrap() {
                if let Decoded::Frame(Frame::Ping { nonce, pong: false }) = decoded {
                    ping(nonce, true).encode_to_vec(link.profile, &mut to_acceptor).unwrap();
                }
            }
        }
        for segment in std::mem::take(&mut to_acceptor).chunks(step) {
            match &mut accepted {
                None => {
                    if let Progress::Done(link) = acceptor.receive(segment, &mut to_dialer).unwrap()
                    {
                        accepted = Some(link);
                    }
                }
                Some(link) => link.leftover.extend_from_slice(segment),
            }
        }
    }
    (dialed.unwrap(), accepted.unwrap())
}

#[test]
fn dialer_and_acceptor_agree() {
    // Whole, so that what the acceptor sends behind its status reaches the dialer with it.
    let step = 4000;
    let dual = || Acceptor::new(LINK_ID, RANDOM);
    let (dialed, accepted) = dial_ourselves(Dialer::new(PING_NONCE), dual(), step);
    assert_eq!(Some(&dialed), up(Profile::P4, Some(LINK_ID), Vec::new()).as_ref());
    assert_eq!(dialed, accepted);

    for profile in Profile::ALL {
        let (dialed, accepted) = dial_ourselves(Dialer::fixed(profile), dual(), step);
        let link_id = match profile {
            Profile::P0 => None,
            Profile::P2 => Some(PRELUDE_LINK_ID),
            Profile::P4 => Some(LINK_ID),
        };
        assert_eq!((dialed.profile, dialed.link_id), (profile, link_id));
        assert_eq!((accepted.profile, accepted.link_id), (profile, link_id));

        let fixed = Acceptor::fixed(profile, LINK_ID);
        let (dialed, accepted) = dial_ourselves(Dialer::fixed(profile), fixed, 1);
        assert_eq!(dialed, accepted);
    }
    let fixed = Acceptor::fixed(Profile::P4, LINK_ID);
    let (dialed, accepted) = dial_ourselves(Dialer::new(PING_NONCE), fixed, 1);
    assert_eq!(dialed, accepted);
}

#[test]
fn frames_before_the_pong_are_bounded_on_both_sides() {
    let longest = vec![b'x'; 65_535];
    let query = Frame::Query { nonce: 1, window: 1, query: &longest };
    let query = encoded(Profile::P0, &[query]);
    let mut acceptor = Acceptor::new(LINK_ID, RANDOM);
    let mut dialer = Dialer::new(PING_NONCE);
    let mut reply = Vec::new();
    assert_eq!(acceptor.receive(RAW_CHOICE, &mut reply), Ok(Progress::More));
    assert_eq!(dialer.receive(b"\x00\x01\x04mux2\x00", &mut reply), Ok(Progress::More));
    assert_eq!(acceptor.receive(&query, &mut reply), Ok(Progress::More));
    assert_eq!(dialer.receive(&query, &mut reply), Ok(Progress::More));
    let too_long = NegotiationError::UnsettledTooLong;
    assert_eq!(too_long.farewell(), close());
    assert_eq!(acceptor.receive(&query, &mut reply), Err(too_long.clone()));
    assert_eq!(dialer.receive(&query, &mut reply), Err(too_long));
}

proptest! {
    #[test]
    fn any_bytes_end_alike_in_any_segments(
        bytes in proptest::collection::vec(0..10_u8, 0..120),
        opening in 0..6_usize,
        cut in any::<proptest::sample::Index>(),
        step in 1..40_usize,
    ) {
        let openings =
            [&b""[..], RAW_GREETING, OBJECT_GREETING, RAW_CHOICE, OBJECT_CHOICE, dual_greeting()];
        let mut stream = openings[opening].to_vec();
        stream.truncate(cut.index(stream.len() + 1));
        stream.extend_from_slice(&bytes);
        let makers: [fn() -> Acceptor; 3] = [
            || Acceptor::new(LINK_ID, RANDOM),
            || Acceptor::fixed(Profile::P2, LINK_ID),
            || Acceptor::fixed(Profile::P4, LINK_ID),
        ];
        for make in makers {
            let whole = negotiate(&mut make(), [&stream[..]]);
            prop_assert_eq!(negotiate(&mut make(), stream.chunks(step)), whole);
        }
        let makers: [fn() -> Dialer; 4] = [
            || Dialer::new(PING_NONCE),
            || Dialer::fixed(Profile::P0),
            || Dialer::fixed(Profile::P2),
            || Dialer::fixed(Profile::P4),
        ];
        for make in makers {
            let whole = negotiate(&mut make(), [&stream[..]]);
            prop_assert_eq!(negotiate(&mut make(), stream.chunks(step)), whole);
        }
    }
}
