//! Sessions on which peers deliver objects to us: `objects.push` of both generations (spec §12.1).
//!
//! Owned by the node on the management thread. Of all objects only one has a meaning here, the
//! address under which a peer that we dialed sees us; any other is answered with `false`. Bytes,
//! sessions and time are bounded, and a session that ends leaves nothing behind.

use crate::node::limits::{
    DELIVERIES_MAX, DELIVERIES_PER_PEER_MAX, DELIVERY_BYTES_MAX, DELIVERY_TIMEOUT_NS,
};
use std::collections::{BTreeMap, BTreeSet};
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_astral::object::{AnswerWriter, ChannelForm, Encoding, peek_object, type_names};
use waystation_astral::objects::{Boolean, ObservedEndpoint};
use waystation_engine::control::Command;
use waystation_relay::ids::{CoreId, LegTag};

/// How a delivery is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// One canonical object of so many bytes, answered with one byte.
    Sized { bytes: u32 },
    /// Objects one after another, each answered with a `bool`.
    Channel { input: ChannelForm, output: Encoding },
}

#[derive(Debug)]
struct Session {
    peer: Identity,
    delivery: Delivery,
    gathered: Vec<u8>,
    deadline_ns: u64,
}

/// The sessions.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    sessions: BTreeMap<LegTag, Session>,
    deadlines: BTreeSet<(u64, LegTag)>,
}

/// Says whether the object of a peer that sees us there is of use.
pub(crate) type Judge<'a> = dyn FnMut(Identity, &Endpoint) -> bool + 'a;

impl Deliveries {
    /// Begins one, and gives how many bytes its peer may send; `None` when there is no room.
    pub(crate) fn begin(
        &mut self,
        now_ns: u64,
        leg: LegTag,
        peer: Identity,
        delivery: Delivery,
    ) -> Option<u32> {
        let of_peer = self.sessions.values().filter(|session| session.peer == peer).count();
        if of_peer >= DELIVERIES_PER_PEER_MAX || self.sessions.len() >= DELIVERIES_MAX {
            return None;
        }
        let deadline_ns = now_ns.saturating_add(DELIVERY_TIMEOUT_NS);
        self.deadlines.insert((deadline_ns, leg));
        let session = Session { peer, delivery, gathered: Vec::new(), deadline_ns };
        self.sessions.insert(leg, session);
        Some(match delivery {
            Delivery::Sized { bytes } => bytes,
            Delivery::Channel { .. } => DELIVERY_BYTES_MAX,
        })
    }

    /// Takes in bytes, and answers the objects that are whole.
    pub(crate) fn input(
        &mut self,
        leg: LegTag,
        bytes: &[u8],
        judge: &mut Judge<'_>,
        out: &mut Vec<(CoreId, Command)>,
    ) {
        let Some(session) = self.sessions.get_mut(&leg) else { return };
        session.gathered.extend_from_slice(bytes);
        let (answer, end) = session.answer(judge);
        if end {
            self.forget(leg);
        }
        if end || !answer.is_empty() {
            out.push((leg.core, Command::Write { leg, bytes: answer.into(), end }));
        }
    }

    /// Forgets a session that has ended.
    pub(crate) fn forget(&mut self, leg: LegTag) {
        if let Some(session) = self.sessions.remove(&leg) {
            self.deadlines.remove(&(session.deadline_ns, leg));
        }
    }

    /// Ends those that have taken too long.
    pub(crate) fn expire(&mut self, now_ns: u64, out: &mut Vec<(CoreId, Command)>) {
        while let Some((deadline_ns, leg)) = self.deadlines.first().copied()
            && deadline_ns <= now_ns
        {
            self.forget(leg);
            out.push((leg.core, Command::Write { leg, bytes: Box::default(), end: true }));
        }
    }

    /// When [`Self::expire`] next has something to do.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline_ns, _)| *deadline_ns)
    }

    /// Sessions open.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }
}

impl Session {
    /// What to say to what has come, and whether that is the last of it.
    fn answer(&mut self, judge: &mut Judge<'_>) -> (Vec<u8>, bool) {
        match self.delivery {
            Delivery::Sized { bytes } if self.gathered.len() < bytes as usize => {
                (Vec::new(), false)
            }
            Delivery::Sized { bytes } => {
                let body = self.gathered.get(..bytes as usize).unwrap_or_default();
                let is_useful = ObservedEndpoint::decode_push_body(body)
                    .is_ok_and(|observed| judge(self.peer, &observed.endpoint));
                (vec![u8::from(is_useful)], true)
            }
            Delivery::Channel { input, output } => self.answer_objects(input, output, judge),
        }
    }

    fn answer_objects(
        &mut self,
        input: ChannelForm,
        output: Encoding,
        judge: &mut Judge<'_>,
    ) -> (Vec<u8>, bool) {
        let mut writer = AnswerWriter::new(output);
        let mut rest = &self.gathered[..];
        let ends = loop {
            match peek_object(input, rest, DELIVERY_BYTES_MAX as usize) {
                Ok(Some(object)) => {
                    let is_useful = object.type_name == type_names::OBSERVED_ENDPOINT
                        && ObservedEndpoint::decode(object.payload)
                            .is_ok_and(|observed| judge(self.peer, &observed.endpoint));
                    rest = rest.get(object.bytes..).unwrap_or_default();
                    if writer.write(&Boolean(is_useful)).is_err() {
                        break true;
                    }
                }
                Ok(None) => break false,
                // Nothing behind it can be read (spec §5.3).
                Err(_) => break true,
            }
        };
        self.gathered = rest.to_vec();
        (writer.into_bytes(), ends)
    }
}
