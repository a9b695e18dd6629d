//! The responder's side of a negotiation: it speaks first, and blind (spec §16.2).

use super::inbox::{Inbox, measure_unsettled, starts_object};
use super::{
    Established, FEATURE, Family, NegotiationError, OBJECT_GREETING, Progress, RAW_GREETING,
    dual_greeting,
};
use crate::frame::Profile;
use crate::limits::{PRELUDE_BYTES, PRELUDE_RANDOM_BYTES, UNSETTLED_BYTES_MAX};
use crate::object::{self, FieldReader, type_names};

/// Objects by which an answer to the dual greeting shows that it is not raw.
const OBJECT_ANSWERS: [&str; 5] = [
    type_names::STRING8,
    type_names::ERROR_MESSAGE,
    type_names::UINT8,
    type_names::UINT16,
    type_names::NONCE64,
];

/// Negotiates as responder, from after act three to the first frame.
#[derive(Debug)]
pub struct Acceptor {
    link_id: u64,
    manner: Manner,
    stage: Stage,
    inbox: Inbox,
}

#[derive(Debug)]
enum Manner {
    Discovering(Prelude),
    Fixed(Profile),
}

#[derive(Debug)]
enum Stage {
    Choice,
    /// The raw family's choice was accepted; that many bytes are whole frames without a pong of
    /// the prelude.
    Unsettled {
        scanned_bytes: usize,
    },
    Over(NegotiationError),
}

impl Acceptor {
    /// Starts with the dual greeting, for a peer of any profile.
    ///
    /// `link_id` names a P4 link; a P2 link is named by the prelude, which is made of
    /// `prelude_random`, so both must come from a secure source. The first random byte's highest
    /// bit is set, which keeps the prelude's three ping nonces apart.
    pub fn new(link_id: u64, prelude_random: [u8; PRELUDE_RANDOM_BYTES]) -> Self {
        Self {
            link_id,
            manner: Manner::Discovering(Prelude::new(&prelude_random)),
            stage: Stage::Choice,
            inbox: Inbox::default(),
        }
    }

    /// Starts with the plain greeting of one profile; no prelude, and `link_id` names the link
    /// unless it is P0.
    pub fn fixed(profile: Profile, link_id: u64) -> Self {
        Self {
            link_id,
            manner: Manner::Fixed(profile),
            stage: Stage::Choice,
            inbox: Inbox::default(),
        }
    }

    /// Gives the bytes to send first, unprompted.
    pub fn greeting(&self) -> &'static [u8] {
        match self.manner {
            Manner::Discovering(_) => dual_greeting(),
            Manner::Fixed(Profile::P0 | Profile::P2) => RAW_GREETING,
            Manner::Fixed(Profile::P4) => OBJECT_GREETING,
        }
    }

    /// Takes bytes of the peer, in any segmentation, and appends what is to be sent to `reply`.
    ///
    /// # Errors
    /// [`NegotiationError`], whose farewell is all that may still be sent; the same at every later
    /// call, and [`NegotiationError::Ended`] after success.
    pub fn receive(
        &mut self,
        plaintext: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Progress, NegotiationError> {
        if let Stage::Over(error) = &self.stage {
            return Err(error.clone());
        }
        self.inbox.push(plaintext);
        let result = self.step(reply);
        match &result {
            Ok(Progress::More) => {}
            Ok(Progress::Done(_)) => self.stage = Stage::Over(NegotiationError::Ended),
            Err(error) => {
                self.inbox = Inbox::default();
                self.stage = Stage::Over(error.clone());
            }
        }
        result
    }

    fn step(&mut self, reply: &mut Vec<u8>) -> Result<Progress, NegotiationError> {
        if matches!(self.stage, Stage::Choice) {
            let family = match self.manner {
                Manner::Fixed(profile) => Some(profile.family()),
                Manner::Discovering(_) => match self.inbox.rest() {
                    [] => None,
                    rest => starts_object(rest, &OBJECT_ANSWERS)
                        .map(|objects| if objects { Family::Object } else { Family::Raw }),
                },
            };
            return match family {
                None => Ok(Progress::More),
                Some(Family::Object) => self.object_choice(reply),
                Some(Family::Raw) => self.raw_choice(reply),
            };
        }
        self.settle()
    }

    fn object_choice(&mut self, reply: &mut Vec<u8>) -> Result<Progress, NegotiationError> {
        let awaited = type_names::STRING8;
        let Some(payload) = self.inbox.take_object(awaited)? else { return Ok(Progress::More) };
        let Ok(choice) = FieldReader::new(&payload).s8() else {
            return Err(NegotiationError::ValueTooShort { awaited });
        };
        if choice != FEATURE.as_bytes() {
            return Err(NegotiationError::ChoiceRefused { family: Family::Object });
        }
        reply.extend_from_slice(&object::built(type_names::UINT8, &[0]));
        reply.extend_from_slice(&object::nonce64(self.link_id));
        Ok(self.established(Profile::P4, Some(self.link_id)))
    }

    fn raw_choice(&mut self, reply: &mut Vec<u8>) -> Result<Progress, NegotiationError> {
        let Some(choice) = self.inbox.take_s8() else { return Ok(Progress::More) };
        if choice != FEATURE.as_bytes() {
            return Err(NegotiationError::ChoiceRefused { family: Family::Raw });
        }
        reply.push(0);
        match &self.manner {
            Manner::Fixed(Profile::P2) => {
                reply.extend_from_slice(&self.link_id.to_be_bytes());
                Ok(self.established(Profile::P2, Some(self.link_id)))
            }
            Manner::Fixed(profile) => Ok(self.established(*profile, None)),
            Manner::Discovering(prelude) => {
                reply.extend_from_slice(&prelude.bytes);
                self.stage = Stage::Unsettled { scanned_bytes: 0 };
                self.settle()
            }
        }
    }

    /// Looks for the prelude's first pong among the whole frames that arrived.
    fn settle(&mut self) -> Result<Progress, NegotiationError> {
        let (Stage::Unsettled { scanned_bytes }, Manner::Discovering(prelude)) =
            (&mut self.stage, &self.manner)
        else {
            return Err(NegotiationError::Ended);
        };
        loop {
            let rest = self.inbox.rest();
            let unscanned = rest.get(*scanned_bytes..).unwrap_or_default();
            let frame = match measure_unsettled(unscanned) {
                Ok(Some(frame)) => frame,
                Ok(None) if rest.len() > UNSETTLED_BYTES_MAX => {
                    return Err(NegotiationError::UnsettledTooLong);
                }
                Ok(None) => return Ok(Progress::More),
                Err(opcode) => return Err(NegotiationError::UnexpectedFrame { opcode }),
            };
            let Some((profile, link_id)) = frame.pong.and_then(|nonce| prelude.meaning(nonce))
            else {
                *scanned_bytes += frame.bytes;
                continue;
            };
            let pong = *scanned_bytes..*scanned_bytes + frame.bytes;
            let leftover = self.inbox.drain_without(0, pong);
            return Ok(Progress::Done(Established { profile, link_id, leftover }));
        }
    }

    fn established(&mut self, profile: Profile, link_id: Option<u64>) -> Progress {
        Progress::Done(Established { profile, link_id, leftover: self.inbox.drain() })
    }
}

/// Bytes that P0 reads as a ping and two resets, and P1–P3 as the link id and two pings
/// (spec §16.2): `00 a1…a7 | 00 00 05 b2…b7 00 | 00 05 c2…c8 00`.
#[derive(Debug)]
struct Prelude {
    bytes: [u8; PRELUDE_BYTES],
}

impl Prelude {
    fn new(random: &[u8; PRELUDE_RANDOM_BYTES]) -> Self {
        let [a1, a2, a3, a4, a5, a6, a7, b2, b3, b4, b5, b6, b7, c2, c3, c4, c5, c6, c7, c8] =
            *random;
        let a1 = a1 | 0x80;
        let bytes = [
            0, a1, a2, a3, a4, a5, a6, a7, // link id, or opcode and most of a nonce
            0, 0, 5, b2, b3, b4, b5, b6, b7, 0, // the nonce's end and a reset, or a ping
            0, 5, c2, c3, c4, c5, c6, c7, c8, 0, // a second reset, or a second ping
        ];
        Self { bytes }
    }

    /// Tells which profile answers a ping of `nonce`, with its link id.
    fn meaning(&self, nonce: u64) -> Option<(Profile, Option<u64>)> {
        if self.nonce_at(1) == Some(nonce) {
            return Some((Profile::P0, None));
        }
        if self.nonce_at(9) == Some(nonce) || self.nonce_at(19) == Some(nonce) {
            return Some((Profile::P2, self.nonce_at(0)));
        }
        None
    }

    fn nonce_at(&self, offset: usize) -> Option<u64> {
        let nonce = self.bytes.get(offset..)?.first_chunk()?;
        Some(u64::from_be_bytes(*nonce))
    }
}
