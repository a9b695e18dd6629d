//! Where callers and registered nodes meet: registrations, idle sockets and reservations.
//!
//! Owned by the gateway on the management core; plain tables without queries, commands or a clock.
//! Every idle socket is in exactly one place, the pool of its registration or one reservation, and
//! every nonce belongs to exactly one registration or reservation. Whatever breaks that is a bug
//! here.

use super::limits::{GatewayLimits, LISTED_IDENTITIES_MAX, NONCE_DRAWS_MAX};
use crate::node::UnregisteredBecause;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use waystation_astral::gateway::{Visibility, nonce_is_distinguishable};
use waystation_astral::identity::Identity;
use waystation_relay::ids::{CoreId, SocketTag};

/// The tables.
#[derive(Debug, Default)]
pub(super) struct Rendezvous {
    registrations: BTreeMap<Identity, Registration>,
    registration_nonces: BTreeMap<u64, Identity>,
    public: BTreeSet<Identity>,
    /// Registrations without link and idle socket, by the time since when.
    dormant: BTreeSet<(u64, Identity)>,
    reservations: BTreeMap<u64, Reservation>,
    deadlines: BTreeSet<(u64, u64)>,
    reservations_of_caller: BTreeMap<Identity, usize>,
    /// By place in a core's table: a tag's successor in the same place replaces it.
    sockets: BTreeMap<Place, IdleSocket>,
    arrivals: u64,
    /// The identity that ended the last listing.
    listed_up_to: Option<Identity>,
    /// What nobody has been told yet: a few for each call.
    changes: Vec<RegistrationChange>,
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegistrationChange {
    /// It is new, or was brought back.
    Added { identity: Identity, is_public: bool },
    /// It has ended.
    Ended { identity: Identity, because: UnregisteredBecause },
}

type Place = (CoreId, u32);

#[derive(Debug)]
struct Registration {
    nonce: u64,
    is_public: bool,
    linked: bool,
    /// Unreserved idle sockets by order of arrival.
    pool: BTreeMap<u64, SocketTag>,
    /// Nonces of the reservations that hold the others.
    reserved: BTreeSet<u64>,
    dormant_since_ns: Option<u64>,
}

impl Registration {
    fn idle_sockets(&self) -> usize {
        self.pool.len() + self.reserved.len()
    }
}

#[derive(Debug)]
struct Reservation {
    caller: Identity,
    target: Identity,
    idle: SocketTag,
    deadline_ns: u64,
}

#[derive(Debug)]
struct IdleSocket {
    tag: SocketTag,
    registrant: Identity,
    arrival: u64,
    reserved_under: Option<u64>,
}

/// What became of a socket that presented a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presented {
    /// It waits in the pool of its registration.
    Kept,
    /// It waits in the pool, and this one had to go.
    KeptInsteadOf(SocketTag),
    /// There is no room for it.
    Surplus,
    /// It is a caller's: join it with this one, which nothing here knows any more.
    Join { idle: SocketTag, caller: Identity, target: Identity },
    /// The nonce is unknown, used or expired.
    Unknown,
    /// It presented its nonce before and is here already.
    Repeated,
}

/// Why there is no nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// The target is not registered, or has no unreserved idle socket.
    #[error("target not reachable")]
    NotReachable,
    /// No registration can be added, and none is dormant.
    #[error("too many registrations")]
    TooManyRegistrations,
    /// The caller, or all callers together, hold as many reservations as they may.
    #[error("too many reservations")]
    TooManyReservations,
    /// The source of randomness gave no usable nonce.
    #[error("no nonce available")]
    NoNonce,
}

/// One registration, for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistrationRow {
    /// The registered node.
    pub identity: Identity,
    /// Whether `node_list` shows it.
    pub is_public: bool,
    /// Whether it has a link to this node.
    pub linked: bool,
    /// Idle sockets that wait for a caller.
    pub idle_sockets: usize,
    /// Idle sockets under a reservation.
    pub reserved_sockets: usize,
}

/// What of a registration is worth keeping over a restart: with it, idle connections that a stock
/// node dials again with its old nonce are welcome (spec §11.2, trap b).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SavedRegistration {
    /// The registered node.
    pub identity: Identity,
    /// The nonce its idle connections present. Whoever knows it can answer for the node's socket
    /// path, though not for its key.
    pub nonce: u64,
    /// Whether `node_list` shows it.
    pub is_public: bool,
}

impl std::fmt::Debug for SavedRegistration {
    /// Leaves the nonce out, which lets its holder pose as the node's idle connection.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedRegistration")
            .field("identity", &self.identity)
            .field("is_public", &self.is_public)
            .finish_non_exhaustive()
    }
}

impl Rendezvous {
    /// Registers a node or updates its visibility, and gives the nonce for its idle sockets: the
    /// same one as long as the registration lives.
    ///
    /// A full table gives up the registration that has been dormant for longest, so that identities
    /// that come, register and leave cannot keep others out.
    ///
    /// # Errors
    /// [`Refusal::TooManyRegistrations`] and [`Refusal::NoNonce`].
    pub(super) fn register(
        &mut self,
        limits: &GatewayLimits,
        now_ns: u64,
        identity: Identity,
        visibility: Visibility,
        linked: bool,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<u64, Refusal> {
        let is_public = matches!(visibility, Visibility::Public);
        if let Some(registration) = self.registrations.get_mut(&identity) {
            registration.is_public = is_public;
            let nonce = registration.nonce;
            self.list(identity, is_public);
            return Ok(nonce);
        }
        let nonce = self.fresh_nonce(random)?;
        if self.registrations.len() >= limits.registrations_max {
            let room = limits.registrations_max > 0 && self.drop_longest_dormant();
            if !room {
                return Err(Refusal::TooManyRegistrations);
            }
        }
        self.insert_registration(now_ns, SavedRegistration { identity, nonce, is_public }, linked);
        Ok(nonce)
    }

    /// Brings back a registration of an earlier run. `false` if it clashes or there is no room.
    pub(super) fn restore(
        &mut self,
        limits: &GatewayLimits,
        now_ns: u64,
        saved: SavedRegistration,
        linked: bool,
    ) -> bool {
        let fits = self.registrations.len() < limits.registrations_max
            && !self.registrations.contains_key(&saved.identity)
            && !saved.identity.is_anyone()
            && self.nonce_is_free(saved.nonce);
        if fits {
            self.insert_registration(now_ns, saved, linked);
        }
        fits
    }

    /// Ends a registration, its reservations with it, and gives its idle sockets to be closed.
    /// `None`: not registered.
    pub(super) fn unregister(&mut self, identity: &Identity) -> Option<Vec<SocketTag>> {
        let registration = self.registrations.get(identity)?;
        let mut sockets: Vec<_> = registration.pool.values().copied().collect();
        let reserved: Vec<_> = registration.reserved.iter().copied().collect();
        for nonce in reserved {
            sockets.extend(self.remove_reservation(nonce).map(|reservation| reservation.idle));
        }
        for socket in &sockets {
            self.sockets.remove(&place_of(*socket));
        }
        self.remove_registration(identity, UnregisteredBecause::Asked);
        Some(sockets)
    }

    /// Reserves the target's oldest idle socket for a caller under a fresh nonce.
    ///
    /// # Errors
    /// [`Refusal::NotReachable`], [`Refusal::TooManyReservations`] and [`Refusal::NoNonce`].
    pub(super) fn reserve(
        &mut self,
        limits: &GatewayLimits,
        now_ns: u64,
        caller: Identity,
        target: Identity,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<u64, Refusal> {
        if self.registrations.get(&target).is_none_or(|registration| registration.pool.is_empty()) {
            return Err(Refusal::NotReachable);
        }
        let held = self.reservations_of_caller.get(&caller).copied().unwrap_or_default();
        if held >= limits.reservations_per_caller_max
            || self.reservations.len() >= limits.reservations_max
        {
            return Err(Refusal::TooManyReservations);
        }
        let nonce = self.fresh_nonce(random)?;
        let idle = self.take_from_pool(&target, nonce).ok_or(Refusal::NotReachable)?;
        let deadline_ns = now_ns.saturating_add(limits.reservation_timeout_ns);
        self.reservations.insert(nonce, Reservation { caller, target, idle, deadline_ns });
        self.deadlines.insert((deadline_ns, nonce));
        *self.reservations_of_caller.entry(caller).or_default() += 1;
        Ok(nonce)
    }

    /// Takes in a socket that presented a nonce.
    pub(super) fn present(
        &mut self,
        limits: &GatewayLimits,
        now_ns: u64,
        socket: SocketTag,
        nonce: u64,
    ) -> Presented {
        if let Some(earlier) = self.sockets.get(&place_of(socket)) {
            if earlier.tag == socket {
                return Presented::Repeated;
            }
            // Its end was never reported, but its place would not have a new tenant otherwise.
            let lost = earlier.tag;
            self.closed(now_ns, lost);
        }
        if let Some(reservation) = self.remove_reservation(nonce) {
            self.sockets.remove(&place_of(reservation.idle));
            self.note_dormancy(now_ns, reservation.target);
            let Reservation { idle, caller, target, .. } = reservation;
            return Presented::Join { idle, caller, target };
        }
        match self.registration_nonces.get(&nonce) {
            Some(registrant) => self.keep(limits, now_ns, socket, *registrant),
            None => Presented::Unknown,
        }
    }

    /// Forgets a socket that has ended. If it was reserved, the target's oldest unreserved one
    /// takes its place; if there is none the reservation is void.
    pub(super) fn closed(&mut self, now_ns: u64, socket: SocketTag) {
        let place = place_of(socket);
        if self.sockets.get(&place).is_none_or(|idle| idle.tag != socket) {
            return;
        }
        let Some(idle) = self.sockets.remove(&place) else { return };
        match idle.reserved_under {
            None => {
                if let Some(registration) = self.registrations.get_mut(&idle.registrant) {
                    registration.pool.remove(&idle.arrival);
                }
            }
            Some(nonce) => match self.take_from_pool(&idle.registrant, nonce) {
                Some(substitute) => {
                    if let Some(reservation) = self.reservations.get_mut(&nonce) {
                        reservation.idle = substitute;
                    }
                }
                None => {
                    self.remove_reservation(nonce);
                }
            },
        }
        self.note_dormancy(now_ns, idle.registrant);
    }

    /// Notes whether a node has a link.
    pub(super) fn set_linked(&mut self, now_ns: u64, identity: Identity, linked: bool) {
        if let Some(registration) = self.registrations.get_mut(&identity) {
            registration.linked = linked;
            self.note_dormancy(now_ns, identity);
        }
    }

    /// Ends what is due: reservations, whose idle sockets return to their pools, and dormant
    /// registrations. Gives how many of each.
    pub(super) fn expire(&mut self, limits: &GatewayLimits, now_ns: u64) -> (u64, u64) {
        let mut ended = (0, 0);
        while let Some((deadline_ns, nonce)) = self.deadlines.first().copied()
            && deadline_ns <= now_ns
        {
            let Some(reservation) = self.remove_reservation(nonce) else { break };
            self.return_to_pool(reservation.idle);
            ended.0 += 1;
        }
        while let Some((since_ns, identity)) = self.dormant.first().copied()
            && since_ns.saturating_add(limits.registration_keep_ns) <= now_ns
        {
            self.remove_registration(&identity, UnregisteredBecause::Expired);
            ended.1 += 1;
        }
        ended
    }

    /// When [`Self::expire`] next has something to do.
    pub(super) fn next_deadline_ns(&self, limits: &GatewayLimits) -> Option<u64> {
        let reservation = self.deadlines.first().map(|(deadline_ns, _)| *deadline_ns);
        let registration = self
            .dormant
            .first()
            .map(|(since_ns, _)| since_ns.saturating_add(limits.registration_keep_ns));
        reservation.into_iter().chain(registration).min()
    }

    /// Public registrations in order of identity, at most so many as one answer holds, going on
    /// after the last listing and around.
    pub(super) fn next_listing(&mut self) -> Vec<Identity> {
        let after = match self.listed_up_to {
            Some(identity) if self.public.len() > LISTED_IDENTITIES_MAX => {
                Bound::Excluded(identity)
            }
            _ => Bound::Unbounded,
        };
        let rest = self.public.range((after, Bound::Unbounded));
        let around = self.public.iter();
        let listing: Vec<_> = rest
            .chain(around)
            .take(self.public.len().min(LISTED_IDENTITIES_MAX))
            .copied()
            .collect();
        self.listed_up_to = listing.last().copied();
        listing
    }

    /// All registrations, in order of identity.
    pub(super) fn rows(&self) -> impl Iterator<Item = RegistrationRow> {
        self.registrations.iter().map(|(identity, registration)| RegistrationRow {
            identity: *identity,
            is_public: registration.is_public,
            linked: registration.linked,
            idle_sockets: registration.pool.len(),
            reserved_sockets: registration.reserved.len(),
        })
    }

    /// All registrations, as [`Self::restore`] takes them.
    pub(super) fn saved(&self) -> impl Iterator<Item = SavedRegistration> {
        self.registrations.iter().map(|(identity, registration)| SavedRegistration {
            identity: *identity,
            nonce: registration.nonce,
            is_public: registration.is_public,
        })
    }

    /// Takes what became of registrations since the last call.
    pub(super) fn take_changes(&mut self) -> impl Iterator<Item = RegistrationChange> {
        self.changes.drain(..)
    }

    /// Registrations, public ones among them, idle sockets including reserved ones, reservations.
    pub(super) fn sizes(&self) -> [usize; 4] {
        [self.registrations.len(), self.public.len(), self.sockets.len(), self.reservations.len()]
    }

    fn insert_registration(&mut self, now_ns: u64, saved: SavedRegistration, linked: bool) {
        let SavedRegistration { identity, nonce, is_public } = saved;
        self.registration_nonces.insert(nonce, identity);
        self.registrations.insert(
            identity,
            Registration {
                nonce,
                is_public,
                linked,
                pool: BTreeMap::new(),
                reserved: BTreeSet::new(),
                dormant_since_ns: None,
            },
        );
        self.list(identity, is_public);
        self.note_dormancy(now_ns, identity);
        self.changes.push(RegistrationChange::Added { identity, is_public });
    }

    /// Removes a registration that has no idle sockets left, or whose sockets are being closed.
    fn remove_registration(&mut self, identity: &Identity, because: UnregisteredBecause) {
        let Some(registration) = self.registrations.remove(identity) else { return };
        self.changes.push(RegistrationChange::Ended { identity: *identity, because });
        self.registration_nonces.remove(&registration.nonce);
        self.public.remove(identity);
        if let Some(since_ns) = registration.dormant_since_ns {
            self.dormant.remove(&(since_ns, *identity));
        }
    }

    fn drop_longest_dormant(&mut self) -> bool {
        let Some((_, identity)) = self.dormant.first().copied() else { return false };
        self.remove_registration(&identity, UnregisteredBecause::Displaced);
        true
    }

    fn list(&mut self, identity: Identity, is_public: bool) {
        if is_public {
            self.public.insert(identity);
        } else {
            self.public.remove(&identity);
        }
    }

    fn note_dormancy(&mut self, now_ns: u64, identity: Identity) {
        let Some(registration) = self.registrations.get_mut(&identity) else { return };
        let is_dormant = !registration.linked && registration.idle_sockets() == 0;
        match (is_dormant, registration.dormant_since_ns) {
            (true, None) => {
                registration.dormant_since_ns = Some(now_ns);
                self.dormant.insert((now_ns, identity));
            }
            (false, Some(since_ns)) => {
                registration.dormant_since_ns = None;
                self.dormant.remove(&(since_ns, identity));
            }
            _ => {}
        }
    }

    /// Puts a socket into its registration's pool. Over the limit the one that has waited there
    /// longest goes: after a change of network or a sleep that one is dead and does not know it
    /// yet, and a live one that is closed is dialed again without delay (spec §11.2, trap b).
    fn keep(
        &mut self,
        limits: &GatewayLimits,
        now_ns: u64,
        socket: SocketTag,
        registrant: Identity,
    ) -> Presented {
        let Some(registration) = self.registrations.get_mut(&registrant) else {
            return Presented::Unknown;
        };
        let arrival = self.arrivals;
        self.arrivals += 1;
        registration.pool.insert(arrival, socket);
        let idle = IdleSocket { tag: socket, registrant, arrival, reserved_under: None };
        self.sockets.insert(place_of(socket), idle);
        let surplus = match registration.idle_sockets() > limits.idle_per_registration_max {
            true => registration.pool.pop_first().map(|(_, surplus)| surplus),
            false => None,
        };
        if let Some(surplus) = surplus {
            self.sockets.remove(&place_of(surplus));
        }
        self.note_dormancy(now_ns, registrant);
        match surplus {
            None => Presented::Kept,
            Some(surplus) if surplus == socket => Presented::Surplus,
            Some(surplus) => Presented::KeptInsteadOf(surplus),
        }
    }

    /// Moves a registration's oldest unreserved socket under a reservation's nonce.
    fn take_from_pool(&mut self, registrant: &Identity, nonce: u64) -> Option<SocketTag> {
        let registration = self.registrations.get_mut(registrant)?;
        let (_, socket) = registration.pool.pop_first()?;
        registration.reserved.insert(nonce);
        if let Some(idle) = self.sockets.get_mut(&place_of(socket)) {
            idle.reserved_under = Some(nonce);
        }
        Some(socket)
    }

    /// The reverse, after the reservation has been removed. The socket keeps its seniority.
    fn return_to_pool(&mut self, socket: SocketTag) {
        let Some(idle) = self.sockets.get_mut(&place_of(socket)) else { return };
        idle.reserved_under = None;
        if let Some(registration) = self.registrations.get_mut(&idle.registrant) {
            registration.pool.insert(idle.arrival, socket);
        }
    }

    /// Removes a reservation everywhere but in `sockets`: its idle socket is the caller's business.
    fn remove_reservation(&mut self, nonce: u64) -> Option<Reservation> {
        let reservation = self.reservations.remove(&nonce)?;
        self.deadlines.remove(&(reservation.deadline_ns, nonce));
        if let Some(registration) = self.registrations.get_mut(&reservation.target) {
            registration.reserved.remove(&nonce);
        }
        if let Some(held) = self.reservations_of_caller.get_mut(&reservation.caller) {
            *held -= 1;
            if *held == 0 {
                self.reservations_of_caller.remove(&reservation.caller);
            }
        }
        Some(reservation)
    }

    fn fresh_nonce(&self, random: &mut dyn FnMut() -> u64) -> Result<u64, Refusal> {
        (0..NONCE_DRAWS_MAX)
            .map(|_| random())
            .find(|nonce| self.nonce_is_free(*nonce))
            .ok_or(Refusal::NoNonce)
    }

    fn nonce_is_free(&self, nonce: u64) -> bool {
        nonce_is_distinguishable(nonce)
            && !self.registration_nonces.contains_key(&nonce)
            && !self.reservations.contains_key(&nonce)
    }
}

fn place_of(socket: SocketTag) -> Place {
    (socket.core, socket.slot)
}

#[cfg(test)]
mod tests {
    use super::super::limits::{IDLE_SOCKET_BYTES, REGISTRATION_BYTES, RESERVATION_BYTES};
    use super::*;

    #[test]
    fn entry_sizes_in_the_limits_cover_the_tables() {
        let registration = size_of::<(Identity, Registration)>()
            + size_of::<(u64, Identity)>() * 2
            + size_of::<Identity>();
        // The two small trees of a registration: one leaf of up to 11 entries each.
        let small_trees = 11 * size_of::<(u64, SocketTag)>() + 11 * size_of::<u64>() + 64;
        assert!(2 * registration + small_trees <= 2 * REGISTRATION_BYTES);
        assert!(size_of::<(Place, IdleSocket)>() <= IDLE_SOCKET_BYTES);
        let reservation = size_of::<(u64, Reservation)>()
            + size_of::<(u64, u64)>()
            + size_of::<(Identity, usize)>();
        assert!(reservation <= RESERVATION_BYTES);
    }
}
