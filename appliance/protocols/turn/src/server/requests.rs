//! Requests: who may make them, and what Refresh, CreatePermission and ChannelBind change.
//!
//! Part of the server. Everything here is for clients that authenticated themselves, but for
//! Binding, and the answers that tell strangers how to.

mod allocate;

use std::net::SocketAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::allocation::ends_ns;
use super::answer::{Answer, Body, Refusal};
use super::authentication::{Identity, Known, authenticate};
use super::{Host, Now, Outcome, Server};
use crate::attribute::{AttributeType, ErrorCode, Family, family, xor_address};
use crate::channel_data::ChannelNumber;
use crate::discard::Discard;
use crate::limits::{ANSWER_BYTES_MAX, ATTRIBUTES_MAX, UNKNOWN_ATTRIBUTES_MAX};
use crate::message::{Class, Message, Method};
use crate::transport::FiveTuple;

/// A request and where it comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) message: Message<'a>,
    pub(super) tuple: FiveTuple,
    pub(super) now: Now,
}

impl Server {
    /// Takes a STUN message of a client.
    pub(super) fn receive_message(
        &mut self,
        now: Now,
        tuple: &FiveTuple,
        packet: &[u8],
        answer: &mut [u8; ANSWER_BYTES_MAX],
        host: &mut dyn Host,
    ) -> Outcome {
        let Ok(message) = Message::parse(packet) else {
            return Outcome::Discard(Discard::Malformed);
        };
        match message.class() {
            Class::Request => {
                self.receive_request(&Request { message, tuple: *tuple, now }, answer, host)
            }
            Class::Indication => self.receive_indication(now, tuple, &message),
            Class::Success | Class::Error => Outcome::Discard(Discard::UnexpectedResponse),
        }
    }

    fn receive_request(
        &mut self,
        request: &Request<'_>,
        answer: &mut [u8; ANSWER_BYTES_MAX],
        host: &mut dyn Host,
    ) -> Outcome {
        let Request { message, tuple, now } = request;
        let method = message.method();
        if !is_served(method) {
            return Outcome::Discard(Discard::UnknownMethod);
        }
        let nonce = message.attribute(AttributeType::NONCE);
        let nonce_is_good =
            nonce.is_some_and(|nonce| self.nonces.is_good(nonce, tuple, now.unix_s));
        // A forged source would get an answer that is longer than what was asked in its name.
        let is_proven = nonce_is_good || tuple.transport.is_stream();
        if !is_proven && !self.reply_limit.take(&self.nonces, tuple.client.ip(), now.monotonic_ns) {
            return Outcome::Discard(Discard::ReplyLimit);
        }
        if method == Method::BINDING {
            let said = refuse_unknown(message, None).map(|()| Body::Mapped(tuple.client));
            return self.answer(message).write(&said, answer);
        }
        self.receive_turn_request(request, nonce_is_good, answer, host)
    }

    fn receive_turn_request(
        &mut self,
        request: &Request<'_>,
        nonce_is_good: bool,
        answer: &mut [u8; ANSWER_BYTES_MAX],
        host: &mut dyn Host,
    ) -> Outcome {
        let Request { message, tuple, now } = request;
        self.sweep_client(tuple, now.monotonic_ns, host);
        let credentials = Arc::clone(&self.credentials);
        let known = Known {
            credentials: &credentials,
            credentials_epoch: self.credentials_epoch,
            allocation: self.table.of_client(tuple),
            nonce_is_good,
        };
        let identity = match authenticate(request, &known) {
            Ok(identity) => identity,
            Err(ErrorCode::BadRequest) => {
                let said = Err(Refusal::Code(ErrorCode::BadRequest));
                return self.answer(message).write(&said, answer);
            }
            Err(code) => {
                let nonce = self.nonces.issue(tuple, now.unix_s);
                let said = Err(Refusal::Challenge(code, nonce));
                return self.answer(message).write(&said, answer);
            }
        };
        let said = self.serve(request, &identity, host);
        let mut sealed = self.answer(message);
        sealed.seal = Some((identity.seal, &identity.key));
        sealed.write(&said, answer)
    }

    fn answer<'a>(&'a self, request: &'a Message<'a>) -> Answer<'a> {
        let software = self.config.software.as_deref();
        Answer { request, realm: self.credentials.realm(), software, seal: None }
    }

    /// Ends what is over of a client's allocation, should the timer be late.
    fn sweep_client(&mut self, tuple: &FiveTuple, now_ns: u64, host: &mut dyn Host) {
        if let Some(index) = self.table.index_of_client(tuple)
            && self.table.get(index).is_some_and(|allocation| allocation.wake_ns() <= now_ns)
        {
            self.sweep(index, now_ns, host);
        }
    }

    fn serve(
        &mut self,
        request: &Request<'_>,
        identity: &Identity,
        host: &mut dyn Host,
    ) -> Result<Body, Refusal> {
        let Request { message, tuple, .. } = request;
        let method = message.method();
        let unsupported = (!self.config.dont_fragment).then_some(AttributeType::DONT_FRAGMENT);
        refuse_unknown(message, unsupported)?;
        if method == Method::ALLOCATE {
            return self.allocate(request, identity, host);
        }
        let index = self.table.index_of_client(tuple).ok_or(ErrorCode::AllocationMismatch)?;
        let allocation = self.table.get_mut(index).ok_or(ErrorCode::AllocationMismatch)?;
        if allocation.username() != &*identity.username {
            return Err(ErrorCode::WrongCredentials.into());
        }
        // The key it shows is the one that the credentials of today give it.
        allocation.owner = identity.owner(self.credentials_epoch);
        match method {
            Method::REFRESH => self.refresh(request, index, host),
            Method::CREATE_PERMISSION => self.create_permission(request, index, host),
            _ => self.bind_channel(request, index, host),
        }
    }

    /// RFC 8656 §8.2.
    fn refresh(
        &mut self,
        request: &Request<'_>,
        index: usize,
        host: &mut dyn Host,
    ) -> Result<Body, Refusal> {
        let Request { message, now, .. } = request;
        let asked_s = lifetime_s(message)?;
        let family = match message.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY) {
            None => None,
            Some(value) => Some(family(value).ok_or(ErrorCode::BadRequest)?),
        };
        let lifetime_s = if asked_s == Some(0) { 0 } else { self.granted_s(asked_s) };
        let allocation = self.table.get_mut(index).ok_or(ErrorCode::AllocationMismatch)?;
        if family.is_some_and(|family| !allocation.has_family(family)) {
            return Err(ErrorCode::PeerAddressFamilyMismatch.into());
        }
        allocation.refresh(family, ends_ns(now.monotonic_ns, lifetime_s));
        if lifetime_s == 0 {
            self.sweep(index, now.monotonic_ns, host);
        } else {
            self.table.reschedule(index);
        }
        Ok(Body::Refreshed { lifetime_s })
    }

    /// RFC 8656 §10.2. Either all peers get their permission, or none.
    fn create_permission(
        &mut self,
        request: &Request<'_>,
        index: usize,
        host: &mut dyn Host,
    ) -> Result<Body, Refusal> {
        let Request { message, now, .. } = request;
        let permissions_max = self.config.permissions_max;
        let mut peers = ArrayVec::<SocketAddr, ATTRIBUTES_MAX>::new();
        let attributes = message.attributes();
        for attribute in attributes.filter(|found| found.kind == AttributeType::XOR_PEER_ADDRESS) {
            let peer = xor_address(attribute.value, message.transaction());
            let peer = peer.ok_or(ErrorCode::BadRequest)?;
            if peers.iter().all(|other| other.ip() != peer.ip()) {
                peers.push(peer);
            }
        }
        if peers.is_empty() {
            return Err(ErrorCode::BadRequest.into());
        }
        for peer in &peers {
            self.check_peer(index, *peer, host)?;
        }
        let allocation = self.table.get_mut(index).ok_or(ErrorCode::AllocationMismatch)?;
        let added = peers.iter().filter(|peer| !allocation.has_permission(peer.ip())).count();
        if allocation.permissions_len() + added > permissions_max {
            return Err(ErrorCode::InsufficientCapacity.into());
        }
        peers.iter().for_each(|peer| allocation.permit(peer.ip(), now.monotonic_ns, host));
        self.table.reschedule(index);
        Ok(Body::Done)
    }

    /// RFC 8656 §12.2.
    fn bind_channel(
        &mut self,
        request: &Request<'_>,
        index: usize,
        host: &mut dyn Host,
    ) -> Result<Body, Refusal> {
        let Request { message, now, .. } = request;
        let (permissions_max, channels_max) =
            (self.config.permissions_max, self.config.channels_max);
        let now_ns = now.monotonic_ns;
        let number = match message.attribute(AttributeType::CHANNEL_NUMBER) {
            Some(&[n0, n1, _, _]) => ChannelNumber::new(u16::from_be_bytes([n0, n1])),
            Some(_) | None => None,
        };
        let number = number.ok_or(ErrorCode::BadRequest)?;
        let peer = message.attribute(AttributeType::XOR_PEER_ADDRESS);
        let peer = peer.and_then(|value| xor_address(value, message.transaction()));
        let peer = peer.filter(|peer| peer.port() != 0).ok_or(ErrorCode::BadRequest)?;
        let allocation = self.table.get(index).ok_or(ErrorCode::AllocationMismatch)?;
        let (bound_peer, bound_number) =
            (allocation.peer_of(number, now_ns), allocation.channel_of(peer, now_ns));
        if bound_peer.is_some_and(|bound| bound != peer)
            || bound_number.is_some_and(|bound| bound != number)
        {
            return Err(ErrorCode::BadRequest.into());
        }
        self.check_peer(index, peer, host)?;
        let allocation = self.table.get_mut(index).ok_or(ErrorCode::AllocationMismatch)?;
        let channels = allocation.channels_len() + usize::from(bound_peer.is_none());
        let permissions =
            allocation.permissions_len() + usize::from(!allocation.has_permission(peer.ip()));
        if channels > channels_max || permissions > permissions_max {
            return Err(ErrorCode::InsufficientCapacity.into());
        }
        allocation.permit(peer.ip(), now_ns, host);
        allocation.bind(number, peer, now_ns, host);
        self.table.reschedule(index);
        Ok(Body::Done)
    }

    /// Whether an allocation may have to do with a peer.
    fn check_peer(
        &self,
        index: usize,
        peer: SocketAddr,
        host: &mut dyn Host,
    ) -> Result<(), ErrorCode> {
        let allocation = self.table.get(index).ok_or(ErrorCode::AllocationMismatch)?;
        if !allocation.has_family(Family::of(peer.ip())) {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        let is_admitted = host.admits_peer(allocation.username(), peer.ip());
        is_admitted.then_some(()).ok_or(ErrorCode::Forbidden)
    }

    /// How long an allocation lasts whose client asked for so long (RFC 8656 §7.2).
    fn granted_s(&self, asked_s: Option<u32>) -> u32 {
        let default_s = self.config.lifetime_default_s;
        asked_s.unwrap_or(default_s).min(self.config.lifetime_max_s).max(default_s)
    }
}

fn is_served(method: Method) -> bool {
    [
        Method::BINDING,
        Method::ALLOCATE,
        Method::REFRESH,
        Method::CREATE_PERMISSION,
        Method::CHANNEL_BIND,
    ]
    .contains(&method)
}

/// The seconds of a LIFETIME attribute, if there is one.
fn lifetime_s(message: &Message<'_>) -> Result<Option<u32>, ErrorCode> {
    match message.attribute(AttributeType::LIFETIME) {
        None => Ok(None),
        Some(value) => match value.try_into() {
            Ok(seconds) => Ok(Some(u32::from_be_bytes(seconds))),
            Err(_) => Err(ErrorCode::BadRequest),
        },
    }
}

/// Refuses a request with attributes that have to be known and are not (RFC 8489 §6.3.1).
fn refuse_unknown(
    message: &Message<'_>,
    unsupported: Option<AttributeType>,
) -> Result<(), Refusal> {
    let mut unknown = ArrayVec::<AttributeType, UNKNOWN_ATTRIBUTES_MAX>::new();
    for attribute in message.attributes() {
        if is_unknown(attribute.kind, unsupported)
            && !unknown.contains(&attribute.kind)
            && !unknown.is_full()
        {
            unknown.push(attribute.kind);
        }
    }
    if unknown.is_empty() { Ok(()) } else { Err(Refusal::Unknown(unknown)) }
}

/// Whether an attribute has to be known and is not.
pub(super) fn is_unknown(kind: AttributeType, unsupported: Option<AttributeType>) -> bool {
    kind.is_required() && (!kind.is_known() || unsupported == Some(kind))
}
