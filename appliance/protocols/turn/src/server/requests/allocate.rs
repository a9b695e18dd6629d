//! Allocate: what a client asks for, and the addresses it gets (RFC 8656 §7.2).
//!
//! Part of the server. Checks come in the order of the RFC, and nothing is opened before all of them
//! have passed.

use std::net::SocketAddr;
use std::sync::Arc;

use super::super::allocation::{Allocation, ends_ns};
use super::super::answer::{Allocated, Body, Refusal};
use super::super::authentication::Identity;
use super::super::reservations::Token;
use super::super::{Host, Server};
use super::{Request, lifetime_s};
use crate::attribute::{AttributeType, ErrorCode, Family, family};
use crate::credentials::quota_name;
use crate::limits::{PORT_DRAWS, RESERVATION_TOKEN_BYTES, TOKEN_DRAWS};
use crate::message::Message;
use crate::ports::Wanted;
use crate::quotas::QuotaError;
use crate::sharing::Shared;

/// The protocol number of UDP, the only one that peers are reached with.
const UDP: u8 = 17;
/// The bit of EVEN-PORT that asks for the next port as well (RFC 8656 §18.7).
const RESERVE_NEXT: u8 = 0x80;

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    addresses: Addresses,
    port: Wanted,
    lifetime_s: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addresses {
    One(Family),
    /// IPv4, and IPv6 if it can be had.
    Both,
    Reserved(Token),
}

/// Addresses that were opened for a client.
#[derive(Clone, Copy, Debug, Default)]
struct Opened {
    relayed: [Option<SocketAddr>; 2],
    /// The one that is kept for later.
    kept: Option<SocketAddr>,
    failed: Option<(Family, ErrorCode)>,
}

impl Asked {
    /// How many more allocations and reservations its user has then. A reservation that becomes an
    /// allocation is counted already.
    fn holders(&self) -> u32 {
        match (self.addresses, self.port) {
            (Addresses::Reserved(_), _) => 0,
            (_, Wanted::Pair) => 2,
            (_, Wanted::Any | Wanted::Even) => 1,
        }
    }
}

impl Server {
    pub(super) fn allocate(
        &mut self,
        request: &Request<'_>,
        identity: &Identity,
        host: &mut dyn Host,
    ) -> Result<Body, Refusal> {
        let Request { message, tuple, .. } = request;
        if let Some(allocation) = self.table.of_client(tuple) {
            // The answer to this very request may have been lost.
            let is_same = allocation.transaction == message.transaction()
                && allocation.username() == &*identity.username;
            let again = is_same.then_some(Body::Allocated(allocation.told));
            return again.ok_or_else(|| ErrorCode::AllocationMismatch.into());
        }
        let asked = self.asked(message)?;
        // Counted first, because other cores may be counting the same user.
        let (user, wanted) = (quota_name(&identity.username), asked.holders());
        let shared = Arc::clone(&self.shared);
        let users_max = self.config.allocations_per_user_max;
        shared.quotas.take(user, wanted, users_max).map_err(|error| match error {
            QuotaError::Reached => ErrorCode::AllocationQuotaReached,
            QuotaError::Full => ErrorCode::InsufficientCapacity,
        })?;
        let made = self.make(request, identity, &asked, host);
        if made.is_err() {
            shared.quotas.release(user, wanted);
        }
        made
    }

    /// Makes an allocation that is counted already.
    fn make(
        &mut self,
        request: &Request<'_>,
        identity: &Identity,
        asked: &Asked,
        host: &mut dyn Host,
    ) -> Result<Body, Refusal> {
        let Request { tuple, now, .. } = request;
        let user = quota_name(&identity.username);
        self.check_room(asked)?;
        self.check_alternate(request)?;
        let opened = match asked.addresses {
            Addresses::Reserved(token) => self.claim(&token, user, now.monotonic_ns, host)?,
            Addresses::One(family) => self.open(&[family], asked.port, host)?,
            Addresses::Both => self.open(&[Family::Ipv4, Family::Ipv6], asked.port, host)?,
        };
        let token = match opened.kept {
            None => None,
            Some(kept) => match self.keep(kept, user, now.monotonic_ns, host) {
                Some(token) => Some(token),
                None => {
                    self.release(kept);
                    opened.relayed.iter().flatten().for_each(|opened| self.close(*opened, host));
                    return Err(ErrorCode::InsufficientCapacity.into());
                }
            },
        };
        let told = Allocated {
            relayed: opened.relayed,
            mapped: tuple.client,
            lifetime_s: self.granted_s(asked.lifetime_s),
            token,
            failed: opened.failed,
        };
        self.insert(request, identity, told, host);
        Ok(Body::Allocated(told))
    }

    /// What is asked for, if it can be asked for (RFC 8656 §7.2, steps 3 to 9).
    fn asked(&self, message: &Message<'_>) -> Result<Asked, ErrorCode> {
        match message.attribute(AttributeType::REQUESTED_TRANSPORT) {
            Some(&[UDP, _, _, _]) => {}
            Some(&[_, _, _, _]) => return Err(ErrorCode::UnsupportedTransportProtocol),
            Some(_) | None => return Err(ErrorCode::BadRequest),
        }
        let even_port = message.attribute(AttributeType::EVEN_PORT);
        let port = match even_port {
            None => Wanted::Any,
            Some(&[bits]) if bits & RESERVE_NEXT == 0 => Wanted::Even,
            Some(&[_]) => Wanted::Pair,
            Some(_) => return Err(ErrorCode::BadRequest),
        };
        let addresses = self.asked_addresses(message, port)?;
        Ok(Asked { addresses, port, lifetime_s: lifetime_s(message)? })
    }

    fn asked_addresses(&self, message: &Message<'_>, port: Wanted) -> Result<Addresses, ErrorCode> {
        let token = message.attribute(AttributeType::RESERVATION_TOKEN);
        let requested = message.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY);
        let additional = message.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY);
        if let Some(token) = token {
            let is_alone = requested.is_none() && additional.is_none() && port == Wanted::Any;
            let token = token.try_into().ok().filter(|_| is_alone);
            return token.map(Addresses::Reserved).ok_or(ErrorCode::BadRequest);
        }
        if requested.is_some() && additional.is_some() {
            return Err(ErrorCode::BadRequest);
        }
        let wanted = match requested {
            None => Family::Ipv4,
            Some(&[number, _, _, _]) => {
                Family::from_number(number).ok_or(ErrorCode::AddressFamilyNotSupported)?
            }
            Some(_) => return Err(ErrorCode::BadRequest),
        };
        if !self.has_addresses(wanted) {
            return Err(ErrorCode::AddressFamilyNotSupported);
        }
        match additional {
            None => Ok(Addresses::One(wanted)),
            Some(value) if family(value) == Some(Family::Ipv6) && port != Wanted::Pair => {
                Ok(Addresses::Both)
            }
            Some(_) => Err(ErrorCode::BadRequest),
        }
    }

    /// Whether there is room for one more allocation.
    fn check_room(&mut self, asked: &Asked) -> Result<(), ErrorCode> {
        let is_full = self.refuses_allocations
            || self.table.len() >= self.config.allocations_max
            || asked.port == Wanted::Pair && self.keeper.is_full(&self.shared.reservations);
        if is_full { Err(ErrorCode::InsufficientCapacity) } else { Ok(()) }
    }

    /// Whether the client is to be served here (RFC 8489 §10).
    fn check_alternate(&self, request: &Request<'_>) -> Result<(), Refusal> {
        if self.alternates == [None; 2] {
            return Ok(());
        }
        let family = Family::of(request.tuple.client.ip());
        match self.alternates.get(family.index()) {
            Some(Some(alternate)) => Err(Refusal::Alternate(*alternate)),
            Some(None) | None => Err(ErrorCode::InsufficientCapacity.into()),
        }
    }

    /// Opens an address of each family, or of one with the reason why the other one failed.
    fn open(
        &mut self,
        families: &[Family],
        port: Wanted,
        host: &mut dyn Host,
    ) -> Result<Opened, ErrorCode> {
        let mut opened = Opened::default();
        for family in families {
            match self.open_one(*family, port, host) {
                Some(address) => {
                    if let Some(place) = opened.relayed.get_mut(family.index()) {
                        *place = Some(address);
                    }
                }
                None if self.has_addresses(*family) => {
                    opened.failed = Some((*family, ErrorCode::InsufficientCapacity));
                }
                None => opened.failed = Some((*family, ErrorCode::AddressFamilyNotSupported)),
            }
        }
        if port == Wanted::Pair {
            opened.kept = opened
                .relayed
                .iter()
                .flatten()
                .next()
                .and_then(|first| self.ports_mut(Family::of(first.ip()))?.take_next(*first));
        }
        if opened.relayed == [None; 2] {
            return Err(ErrorCode::InsufficientCapacity);
        }
        Ok(opened)
    }

    fn open_one(
        &mut self,
        family: Family,
        port: Wanted,
        host: &mut dyn Host,
    ) -> Option<SocketAddr> {
        let mut random = [0; 2 * PORT_DRAWS];
        host.fill_random(&mut random);
        let mut draws = [0; PORT_DRAWS];
        for (draw, bytes) in draws.iter_mut().zip(random.as_chunks().0) {
            *draw = u16::from_be_bytes(*bytes);
        }
        self.ports_mut(family)?.take(port, draws, |address| {
            if !host.open_relayed(address) {
                return false;
            }
            if port != Wanted::Pair {
                return true;
            }
            // A pair ends below the last port, so the next one exists. Whoever comes for it opens it
            // on its own core; until then it is only seen to that no other program has it.
            let next = SocketAddr::new(address.ip(), address.port() + 1);
            let both = host.open_relayed(next);
            host.close_relayed(if both { next } else { address });
            both
        })
    }

    /// Keeps a port for the client to come again.
    fn keep(
        &mut self,
        address: SocketAddr,
        user: &str,
        now_ns: u64,
        host: &mut dyn Host,
    ) -> Option<Token> {
        let mut random = [0; RESERVATION_TOKEN_BYTES * TOKEN_DRAWS];
        host.fill_random(&mut random);
        let mut draws = [0; TOKEN_DRAWS];
        for (draw, bytes) in draws.iter_mut().zip(random.as_chunks().0) {
            *draw = u64::from_be_bytes(*bytes);
        }
        let Shared { reservations, quotas, .. } = &*self.shared;
        self.keeper.keep(reservations, draws, address, (user, quotas.hash(user)), now_ns)
    }

    /// Opens the address that a token stands for, whichever core has kept it.
    fn claim(
        &mut self,
        token: &Token,
        user: &str,
        now_ns: u64,
        host: &mut dyn Host,
    ) -> Result<Opened, ErrorCode> {
        let Shared { reservations, quotas, .. } = &*self.shared;
        let claimed = reservations.claim(token, quotas.hash(user), now_ns);
        let address = claimed.ok_or(ErrorCode::InsufficientCapacity)?;
        self.keeper.forget(token);
        if !host.open_relayed(address) {
            // Another program was faster, and the reservation is used up all the same.
            quotas.release(user, 1);
            self.release(address);
            return Err(ErrorCode::InsufficientCapacity);
        }
        let mut opened = Opened::default();
        if let Some(place) = opened.relayed.get_mut(Family::of(address.ip()).index()) {
            *place = Some(address);
        }
        Ok(opened)
    }

    fn insert(
        &mut self,
        request: &Request<'_>,
        identity: &Identity,
        told: Allocated,
        host: &mut dyn Host,
    ) {
        let Request { message, tuple, now } = request;
        let owner = identity.owner(self.credentials_epoch);
        let id = self.table.next_id();
        let answered = (message.transaction(), told);
        let mut allocation = Allocation::new(id, *tuple, owner, hears_icmp(message), answered);
        for address in told.relayed.iter().flatten() {
            allocation.add_relayed(*address, ends_ns(now.monotonic_ns, told.lifetime_s), host);
        }
        self.table.insert(allocation);
    }

    fn has_addresses(&self, family: Family) -> bool {
        matches!(self.ports.get(family.index()), Some(Some(_)))
    }

    fn ports_mut(&mut self, family: Family) -> Option<&mut crate::ports::Ports> {
        self.ports.get_mut(family.index())?.as_mut()
    }
}

/// Whether a client is told of ICMP errors about its datagrams. It then gets Data indications without
/// payload, which came with RFC 8656 and which clients of RFC 5766 take for broken ones; pion's stops
/// at the first. So it has to show that it is a newer one, by a password algorithm of RFC 8489, or
/// that it wants to know how long a datagram may be.
fn hears_icmp(message: &Message<'_>) -> bool {
    [AttributeType::PASSWORD_ALGORITHM, AttributeType::DONT_FRAGMENT]
        .into_iter()
        .any(|kind| message.attribute(kind).is_some())
}
