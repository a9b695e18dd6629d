//! What happens to a datagram.
//!
//! Runs on the data core that owns the table, for each datagram; takes no memory. The order of the
//! checks is the order of their cost: index, shape, rate, and only then what needs a hash.

use super::endpoint::{Endpoint, LocalPort, Tick};
use super::leg::{Candidate, Flags, LegPlace, Side};
use super::proof::{self, Claim, PROOF_BYTES};
use super::sessions::{Event, Evidence, Sessions};
use super::wireguard::{Message, PeerIndex, classify};
use crate::drop_reason::DropReason;
use crate::ids::UdpSessionTag;
use std::net::SocketAddr;

/// What to do with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send it on as it is.
    Forward {
        /// Of which session it is.
        session: UdpSessionTag,
        /// The leg it came from.
        from: Side,
        /// Where it goes.
        to: SocketAddr,
        /// The port of this machine that it leaves from.
        port: LocalPort,
    },
    /// Send this back, from the port it came to and to where it came from. It is as long as what
    /// came.
    Answer([u8; PROOF_BYTES]),
    /// Nothing; it is counted.
    Drop(DropReason),
}

impl Sessions {
    /// Takes a datagram that came to a port of this machine. One train of GRO is as many calls.
    pub fn receive(
        &mut self,
        now_ns: u64,
        port: LocalPort,
        source: SocketAddr,
        payload: &[u8],
        events: &mut impl FnMut(Event),
    ) -> Outcome {
        let Some(source) = Endpoint::new(source) else {
            return self.dropped(None, DropReason::UdpMalformed, payload);
        };
        if let Some((place, claim)) = self.named_leg(port, payload) {
            let came = Came { now_ns, source, place, payload };
            let outcome = self.check_proof(&came, claim, events);
            return outcome.unwrap_or_else(|reason| self.dropped(Some(place), reason, payload));
        }
        let known = self.find(port, source);
        let Some(place) = known.or_else(|| self.find_exclusive(port)) else {
            let is_shared = self.ports.contains_key(&port);
            let reason =
                if is_shared { DropReason::UdpUnproven } else { DropReason::UdpUnknownFlow };
            return self.dropped(None, reason, payload);
        };
        let came = Came { now_ns, source, place, payload };
        let outcome = match known {
            Some(_) => self.pass_known(&came, events),
            None => self.pass_stranger(&came, events),
        };
        outcome.unwrap_or_else(|reason| self.dropped(Some(place), reason, payload))
    }

    /// The leg of this port that a datagram claims to prove. What looks like a proof for a leg
    /// elsewhere is payload like any other.
    fn named_leg(&self, port: LocalPort, payload: &[u8]) -> Option<(LegPlace, Claim)> {
        let claim = proof::claim(payload)?;
        let slot = self.slot_of(claim.leg.session)?;
        let place = LegPlace::new(slot, claim.leg.side);
        let leg = self.leg(place);
        (leg.port == port && leg.flags.has(Flags::PROOF)).then_some((place, claim))
    }

    /// From the address of a leg.
    fn pass_known(
        &mut self,
        came: &Came<'_>,
        events: &mut impl FnMut(Event),
    ) -> Result<Outcome, DropReason> {
        let message = self.recognise(came)?;
        self.meter(came)?;
        self.leg_mut(came.place).heard = Tick::at(came.now_ns);
        let to = match message {
            None => self.leg(came.place.other()).address,
            Some(Message::Transport { receiver })
                if self.leg(came.place.other()).has_index(receiver) =>
            {
                self.follow_roaming(came.place.other(), came.now_ns, events);
                self.leg(came.place.other()).address
            }
            Some(message) => {
                self.check_mac1(came, message)?;
                self.route_handshake(came, message, true, events)?
            }
        };
        self.forward(came, to)
    }

    /// From anywhere else, to a leg that is learned by handshakes.
    fn pass_stranger(
        &mut self,
        came: &Came<'_>,
        events: &mut impl FnMut(Event),
    ) -> Result<Outcome, DropReason> {
        if !self.leg(came.place).flags.has(Flags::HANDSHAKE) {
            return Err(DropReason::UdpUnproven);
        }
        let message = self.recognise(came)?.ok_or(DropReason::UdpUnproven)?;
        self.is_plausible(came, message)?;
        // Before the count of strangers: who does not know the public key cannot use it up.
        self.check_mac1(came, message)?;
        let denied = |_| DropReason::UdpAddressDenied;
        self.policy.check(came.source.ip()).map_err(denied)?;
        let cold = self.cold_at_mut(came.place.slot()).ok_or(DropReason::UdpUnknownFlow)?;
        if !cold.strangers.admits(came.now_ns) {
            return Err(DropReason::UdpStrangersOverRate);
        }
        self.meter(came)?;
        let to = match message {
            Message::Transport { .. } => {
                self.note_roaming(came, events);
                self.leg(came.place.other()).address
            }
            message => self.route_handshake(came, message, false, events)?,
        };
        self.forward(came, to)
    }

    /// Whether a stranger's packet can be from the end of its leg: it answers what the other end
    /// has asked, or names an index that only those on the path can know.
    fn is_plausible(&self, came: &Came<'_>, message: Message) -> Result<(), DropReason> {
        let other = self.leg(came.place.other());
        let is_plausible = match message {
            Message::Initiation { .. } => true,
            Message::Response { receiver, .. } => self.asked(came, receiver).is_some(),
            Message::CookieReply { .. } => return Err(DropReason::UdpUnproven),
            Message::Transport { receiver } => {
                if self.leg(came.place).address.is_none() {
                    return Err(DropReason::UdpUnproven);
                }
                other.has_index(receiver)
            }
        };
        is_plausible.then_some(()).ok_or(DropReason::UdpUnknownReceiver)
    }

    /// What a WireGuard session carries, `None` for others.
    fn recognise(&self, came: &Came<'_>) -> Result<Option<Message>, DropReason> {
        if !self.leg(came.place).flags.has(Flags::WIREGUARD) {
            return Ok(None);
        }
        classify(came.payload).map(Some).ok_or(DropReason::UdpNotWireguard)
    }

    fn meter(&mut self, came: &Came<'_>) -> Result<(), DropReason> {
        let hot = &mut self.hot[came.place.slot() as usize];
        let (side, payload_bytes) = (came.place.side(), came.payload.len());
        let is_admitted = !hot.legs[side.index()].flags.has(Flags::METERED)
            || hot.meter.admits(side, payload_bytes, came.now_ns);
        is_admitted.then_some(()).ok_or(DropReason::UdpRateExceeded)
    }

    /// Where a handshake message goes, or data to an index that is not known yet; learns from it.
    fn route_handshake(
        &mut self,
        came: &Came<'_>,
        message: Message,
        is_known: bool,
        events: &mut impl FnMut(Event),
    ) -> Result<Endpoint, DropReason> {
        let other = came.place.other();
        match message {
            Message::Initiation { sender } => {
                self.add_candidate(
                    came,
                    Candidate {
                        address: came.source,
                        index: sender,
                        is_initiation: true,
                        heard_ns: came.now_ns,
                    },
                );
                self.follow_roaming(other, came.now_ns, events);
                let newest = self.find_candidate(other, came.now_ns, |found| found.is_initiation);
                let address = self.leg(other).address;
                let newest = newest.map_or(Endpoint::NONE, |found| found.address);
                Ok(if address.is_none() { newest } else { address })
            }
            Message::Response { sender, receiver } => {
                let asked = self.asked(came, receiver).ok_or(DropReason::UdpUnknownReceiver)?;
                self.add_candidate(
                    came,
                    Candidate {
                        address: came.source,
                        index: sender,
                        is_initiation: false,
                        heard_ns: came.now_ns,
                    },
                );
                if is_known || self.is_first_of_both(other) {
                    self.confirm(other, &asked, came.now_ns, events);
                }
                Ok(self.address_for(other, &asked))
            }
            Message::CookieReply { receiver } => {
                let found = self.find_candidate(other, came.now_ns, |it| it.index == receiver);
                let asked = found.ok_or(DropReason::UdpUnknownReceiver)?;
                Ok(self.address_for(other, &asked))
            }
            Message::Transport { receiver } => {
                let found = self.find_candidate(other, came.now_ns, |it| it.index == receiver);
                if let Some(answered) = found.filter(|found| !found.is_initiation) {
                    self.confirm(other, &answered, came.now_ns, events);
                    return Ok(self.address_for(other, &answered));
                }
                // A session that is older than this table, or its end has yet to call itself
                // anything: what comes from a known address is given the benefit.
                let leg = self.leg(other);
                leg.has_no_index().then_some(leg.address).ok_or(DropReason::UdpUnknownReceiver)
            }
        }
    }

    /// The initiation of the other end that a response of this one is for.
    fn asked(&self, came: &Came<'_>, receiver: PeerIndex) -> Option<Candidate> {
        self.find_candidate(came.place.other(), came.now_ns, |found| {
            found.is_initiation && found.index == receiver
        })
    }

    fn check_mac1(&self, came: &Came<'_>, message: Message) -> Result<(), DropReason> {
        if !matches!(message, Message::Initiation { .. } | Message::Response { .. }) {
            return Ok(());
        }
        let cold = self.cold_at(came.place.slot()).ok_or(DropReason::UdpUnknownFlow)?;
        let receiver = &cold.legs[came.place.side().other().index()];
        let is_right = receiver.mac1.as_ref().is_none_or(|mac1| mac1.verifies(came.payload));
        is_right.then_some(()).ok_or(DropReason::UdpHandshakeRejected)
    }

    /// A datagram that names a leg and shows to know its secret: that is where the leg is.
    fn check_proof(
        &mut self,
        came: &Came<'_>,
        claim: Claim,
        events: &mut impl FnMut(Event),
    ) -> Result<Outcome, DropReason> {
        let place = came.place;
        let cold = self.cold_at_mut(place.slot()).ok_or(DropReason::UdpProofRejected)?;
        let leg = &mut cold.legs[place.side().index()];
        let is_fresh = leg.proven.is_none_or(|last| claim.counter > last);
        let secret =
            leg.secret.as_ref().filter(|_| is_fresh).ok_or(DropReason::UdpProofRejected)?;
        if !proof::is_proven(secret, came.payload) {
            return Err(DropReason::UdpProofRejected);
        }
        let answer = proof::answer(secret, &claim);
        leg.proven = Some(claim.counter);
        if self.leg(place).address == came.source {
            self.leg_mut(place).heard = Tick::at(came.now_ns);
            return Ok(Outcome::Answer(answer));
        }
        let denied = |_| DropReason::UdpAddressDenied;
        self.policy.check(came.source.ip()).map_err(denied)?;
        if self.find(self.leg(place).port, came.source).is_some() {
            return Err(DropReason::UdpAddressTaken);
        }
        self.rebind(place, came.source, Evidence::Proof, came.now_ns, events);
        Ok(Outcome::Answer(answer))
    }

    fn forward(&mut self, came: &Came<'_>, to: Endpoint) -> Result<Outcome, DropReason> {
        let to = to.address().ok_or(DropReason::UdpLegUnknown)?;
        self.leg_mut(came.place).count(came.payload.len());
        let port = self.leg(came.place.other()).port;
        let (session, from) = (self.tag(came.place.slot()), came.place.side());
        Ok(Outcome::Forward { session, from, to, port })
    }

    fn dropped(&mut self, place: Option<LegPlace>, reason: DropReason, payload: &[u8]) -> Outcome {
        self.drops.count(reason, payload.len());
        if let Some(cold) = place.and_then(|place| self.cold_at_mut(place.slot())) {
            cold.dropped += 1;
        }
        Outcome::Drop(reason)
    }
}

/// A datagram, and the leg that it came from or may be for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Came<'a> {
    pub(super) now_ns: u64,
    pub(super) source: Endpoint,
    pub(super) place: LegPlace,
    pub(super) payload: &'a [u8],
}
