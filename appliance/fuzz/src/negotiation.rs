//! Negotiation from both sides: the same end in every segmentation, bounded words, and no second
//! life after an end.

use waystation_astral::frame::Profile;
use waystation_astral::limits::PRELUDE_RANDOM_BYTES;
use waystation_astral::negotiation::{Acceptor, Dialer, Established, NegotiationError, Progress};

use crate::segments::segmentations;

/// The link id, and the nonce of the dialer's ping, so that seeds can hold what answers them.
const NONCE: u64 = 0x0123_4567_89ab_cdef;
/// The random part of the acceptor's prelude.
const PRELUDE_RANDOM: [u8; PRELUDE_RANDOM_BYTES] = [0xa1; PRELUDE_RANDOM_BYTES];
/// Most bytes that one side says in answer to whatever it hears: status and prelude, or choice and
/// ping, take half of it.
const REPLY_BYTES_MAX: usize = 64;
/// Most bytes of a farewell: an error object of one short sentence.
const FAREWELL_BYTES_MAX: usize = 64;

/// Sends the input to acceptors of every kind.
pub fn negotiation_accept(input: &[u8]) {
    explore(input, || Side::Acceptor(Acceptor::new(NONCE, PRELUDE_RANDOM)));
    for profile in Profile::ALL {
        explore(input, || Side::Acceptor(Acceptor::fixed(profile, NONCE)));
    }
}

/// Sends the input to dialers of every kind.
pub fn negotiation_dial(input: &[u8]) {
    explore(input, || Side::Dialer(Dialer::new(NONCE)));
    for profile in Profile::ALL {
        explore(input, || Side::Dialer(Dialer::fixed(profile)));
    }
}

enum Side {
    Acceptor(Acceptor),
    Dialer(Dialer),
}

impl Side {
    fn receive(&mut self, bytes: &[u8], reply: &mut Vec<u8>) -> Result<Progress, NegotiationError> {
        match self {
            Self::Acceptor(acceptor) => acceptor.receive(bytes, reply),
            Self::Dialer(dialer) => dialer.receive(bytes, reply),
        }
    }
}

/// How a negotiation went.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    reply: Vec<u8>,
    end: Result<Option<Established>, NegotiationError>,
}

fn explore(input: &[u8], start: impl Fn() -> Side) {
    let mut outcomes =
        segmentations(input).map(|segments| negotiate(start(), &segments)).into_iter();
    let whole = outcomes.next().expect("the input in one piece");
    for other in outcomes {
        assert_eq!(other, whole, "a segmentation changes the outcome");
    }
    assert!(whole.reply.len() <= REPLY_BYTES_MAX);
    match &whole.end {
        Ok(Some(established)) => assert!(established.leftover.len() <= input.len()),
        Ok(None) => {}
        Err(error) => assert!(error.farewell().bytes.len() <= FAREWELL_BYTES_MAX),
    }
}

fn negotiate(mut side: Side, segments: &[&[u8]]) -> Outcome {
    let mut reply = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        match side.receive(segment, &mut reply) {
            Ok(Progress::More) => {}
            Ok(Progress::Done(mut established)) => {
                let again = side.receive(b"\x00", &mut Vec::new());
                assert_eq!(again, Err(NegotiationError::Ended), "a link is negotiated once");
                // What comes behind the end are frames, whichever piece they came in.
                established.leftover.extend(segments[index + 1..].concat());
                return Outcome { reply, end: Ok(Some(established)) };
            }
            Err(error) => {
                let again = side.receive(b"\x00", &mut Vec::new());
                assert_eq!(again.as_ref(), Err(&error), "a failed negotiation goes on");
                return Outcome { reply, end: Err(error) };
            }
        }
    }
    Outcome { reply, end: Ok(None) }
}
