//! The initiator's side of a negotiation: it listens first (spec §16.1).

use super::inbox::{Inbox, measure_unsettled, starts_object};
use super::{Established, FEATURE, Family, NegotiationError, OBJECT_CHOICE, Progress, RAW_CHOICE};
use crate::frame::{Frame, Profile};
use crate::limits::{FEATURES_MAX, GREETING_BYTES_MAX, UNSETTLED_BYTES_MAX};
use crate::object::{FieldReader, type_names};

/// Objects by which a responder's first bytes show that they are not raw.
const OBJECT_OPENINGS: [&str; 2] = [type_names::UINT16, type_names::ERROR_MESSAGE];
/// Where a raw peer's frames start when it has no link id, and when it has one (spec §16.1).
const FRAME_OFFSETS: [(usize, Profile); 2] = [(0, Profile::P0), (8, Profile::P2)];

/// Negotiates as initiator, from after act three to the first frame.
#[derive(Debug)]
pub struct Dialer {
    manner: Manner,
    stage: Stage,
    greeting_bytes: usize,
    inbox: Inbox,
}

#[derive(Clone, Copy, Debug)]
enum Manner {
    Discovering { ping_nonce: u64 },
    Fixed(Profile),
}

#[derive(Clone, Debug)]
enum Stage {
    Opening,
    Count(Family),
    Features {
        family: Family,
        left: u16,
        offered: bool,
    },
    Status(Family),
    LinkId(Profile),
    /// For each of [`FRAME_OFFSETS`], how many bytes are whole frames without the pong; `None`
    /// once the bytes contradict it.
    Unsettled([Option<usize>; 2]),
    Over(NegotiationError),
}

/// What one step came to.
enum Step {
    Wait,
    Next(Stage),
    Done(Established),
}

impl Dialer {
    /// Starts for a peer of any profile. `ping_nonce` names the ping that tells P0 from P2 and
    /// must be unpredictable to the peer's callers.
    pub fn new(ping_nonce: u64) -> Self {
        Self::starting(Manner::Discovering { ping_nonce }, Stage::Opening)
    }

    /// Starts for a peer of one profile, with a plain greeting or the dual one.
    pub fn fixed(profile: Profile) -> Self {
        Self::starting(Manner::Fixed(profile), Stage::Count(profile.family()))
    }

    fn starting(manner: Manner, stage: Stage) -> Self {
        Self { manner, stage, greeting_bytes: 0, inbox: Inbox::default() }
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
        loop {
            match self.step(reply) {
                Ok(Step::Wait) => return Ok(Progress::More),
                Ok(Step::Next(stage)) => self.stage = stage,
                Ok(Step::Done(established)) => {
                    self.stage = Stage::Over(NegotiationError::Ended);
                    return Ok(Progress::Done(established));
                }
                Err(error) => {
                    self.inbox = Inbox::default();
                    self.stage = Stage::Over(error.clone());
                    return Err(error);
                }
            }
        }
    }

    fn step(&mut self, reply: &mut Vec<u8>) -> Result<Step, NegotiationError> {
        match self.stage.clone() {
            Stage::Opening => Ok(self.read_opening()),
            Stage::Count(family) => self.read_count(family),
            Stage::Features { family, left: 0, offered } => {
                if !offered {
                    return Err(NegotiationError::FeatureMissing { family });
                }
                reply.extend_from_slice(match family {
                    Family::Raw => RAW_CHOICE,
                    Family::Object => OBJECT_CHOICE,
                });
                Ok(Step::Next(Stage::Status(family)))
            }
            Stage::Features { family, left, offered } => {
                self.read_feature(family, left - 1, offered)
            }
            Stage::Status(family) => self.read_status(family, reply),
            Stage::LinkId(profile) => self.read_link_id(profile),
            Stage::Unsettled(scanned) => self.settle(scanned),
            Stage::Over(error) => Err(error),
        }
    }

    fn read_opening(&self) -> Step {
        let rest = self.inbox.rest();
        let objects = if rest.is_empty() { None } else { starts_object(rest, &OBJECT_OPENINGS) };
        match objects {
            None => Step::Wait,
            Some(true) => Step::Next(Stage::Count(Family::Object)),
            Some(false) => Step::Next(Stage::Count(Family::Raw)),
        }
    }

    fn read_count(&mut self, family: Family) -> Result<Step, NegotiationError> {
        let before_bytes = self.inbox.rest().len();
        let count = match family {
            Family::Raw => self.inbox.take_array().map(u16::from_be_bytes),
            Family::Object => self.take_value(type_names::UINT16, |value| value.u16().ok())?,
        };
        let Some(count) = count else { return Ok(Step::Wait) };
        if usize::from(count) > FEATURES_MAX {
            return Err(NegotiationError::TooManyFeatures { family, count });
        }
        self.count_greeting(family, before_bytes)?;
        Ok(Step::Next(Stage::Features { family, left: count, offered: false }))
    }

    fn read_feature(
        &mut self,
        family: Family,
        left: u16,
        offered: bool,
    ) -> Result<Step, NegotiationError> {
        let before_bytes = self.inbox.rest().len();
        let is_ours = match family {
            Family::Raw => self.inbox.take_s8().map(|feature| feature == FEATURE.as_bytes()),
            Family::Object => self.take_value(type_names::STRING8, |value| {
                value.s8().ok().map(|feature| feature == FEATURE.as_bytes())
            })?,
        };
        let Some(is_ours) = is_ours else { return Ok(Step::Wait) };
        self.count_greeting(family, before_bytes)?;
        Ok(Step::Next(Stage::Features { family, left, offered: offered || is_ours }))
    }

    fn read_status(
        &mut self,
        family: Family,
        reply: &mut Vec<u8>,
    ) -> Result<Step, NegotiationError> {
        let status = match family {
            Family::Raw => self.inbox.take_array().map(|[status]: [u8; 1]| status),
            Family::Object => self.take_value(type_names::UINT8, |value| value.u8().ok())?,
        };
        let Some(status) = status else { return Ok(Step::Wait) };
        if status != 0 {
            return Err(NegotiationError::StatusRefused { family, status });
        }
        Ok(match (family, self.manner) {
            (Family::Object, _) => Step::Next(Stage::LinkId(Profile::P4)),
            (Family::Raw, Manner::Fixed(Profile::P0)) => self.established(Profile::P0, None),
            (Family::Raw, Manner::Fixed(profile)) => Step::Next(Stage::LinkId(profile)),
            (Family::Raw, Manner::Discovering { ping_nonce }) => {
                let ping = Frame::Ping { nonce: ping_nonce, pong: false };
                // A ping always encodes, and in the same bytes for every raw profile.
                let encoded = ping.encode_to_vec(Profile::P0, reply);
                debug_assert_eq!(encoded, Ok(()));
                Step::Next(Stage::Unsettled([Some(0); 2]))
            }
        })
    }

    fn read_link_id(&mut self, profile: Profile) -> Result<Step, NegotiationError> {
        let link_id = match profile.family() {
            Family::Raw => self.inbox.take_array().map(u64::from_be_bytes),
            Family::Object => self.take_value(type_names::NONCE64, |value| value.u64().ok())?,
        };
        Ok(match link_id {
            None => Step::Wait,
            Some(link_id) => self.established(profile, Some(link_id)),
        })
    }

    /// Looks for our ping's pong as P0 and as P2 would place it.
    fn settle(&mut self, mut scanned: [Option<usize>; 2]) -> Result<Step, NegotiationError> {
        let ping_nonce = match self.manner {
            Manner::Discovering { ping_nonce } => ping_nonce,
            Manner::Fixed(_) => return Err(NegotiationError::Ended),
        };
        for (scanned, (offset, profile)) in scanned.iter_mut().zip(FRAME_OFFSETS) {
            let rest = self.inbox.rest();
            let frames = rest.get(offset..).unwrap_or_default();
            while let Some(scanned_bytes) = *scanned {
                match measure_unsettled(frames.get(scanned_bytes..).unwrap_or_default()) {
                    Err(_) => *scanned = None,
                    Ok(None) => break,
                    Ok(Some(frame)) if frame.pong == Some(ping_nonce) => {
                        let link_id = match profile {
                            Profile::P0 => None,
                            Profile::P2 | Profile::P4 => {
                                rest.first_chunk().copied().map(u64::from_be_bytes)
                            }
                        };
                        let pong = scanned_bytes..scanned_bytes + frame.bytes;
                        let leftover = self.inbox.drain_without(offset, pong);
                        return Ok(Step::Done(Established { profile, link_id, leftover }));
                    }
                    Ok(Some(frame)) => *scanned = Some(scanned_bytes + frame.bytes),
                }
            }
        }
        if scanned == [None; 2] {
            return Err(NegotiationError::NoProfileFits);
        }
        if self.inbox.rest().len() > UNSETTLED_BYTES_MAX {
            return Err(NegotiationError::UnsettledTooLong);
        }
        self.stage = Stage::Unsettled(scanned);
        Ok(Step::Wait)
    }

    fn take_value<T>(
        &mut self,
        awaited: &'static str,
        read: impl FnOnce(&mut FieldReader<'_>) -> Option<T>,
    ) -> Result<Option<T>, NegotiationError> {
        let Some(payload) = self.inbox.take_object(awaited)? else { return Ok(None) };
        match read(&mut FieldReader::new(&payload)) {
            Some(value) => Ok(Some(value)),
            None => Err(NegotiationError::ValueTooShort { awaited }),
        }
    }

    /// Adds what a step took, given the bytes that waited before it, to the greeting's length.
    fn count_greeting(
        &mut self,
        family: Family,
        before_bytes: usize,
    ) -> Result<(), NegotiationError> {
        self.greeting_bytes += before_bytes - self.inbox.rest().len();
        if self.greeting_bytes > GREETING_BYTES_MAX {
            return Err(NegotiationError::GreetingTooLong { family });
        }
        Ok(())
    }

    fn established(&mut self, profile: Profile, link_id: Option<u64>) -> Step {
        Step::Done(Established { profile, link_id, leftover: self.inbox.drain() })
    }
}
