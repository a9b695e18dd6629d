//! A TURN server: allocations, permissions and channels of one data core (RFC 8656).
//!
//! Owns all of its state and no socket. A data core gives it each packet of a client
//! ([`Server::receive`]) and of a peer ([`Server::receive_from_peer`]), does what the outcome says,
//! and calls [`Server::expire`] when [`Server::next_deadline_ns`] has come. What it has to ask or
//! tell while it works goes through [`Host`]. Relaying payload allocates nothing; requests do, within
//! the limits of [`ServerConfig`]. It must never keep anything for a source that has not
//! authenticated itself.

mod allocation;
mod answer;
mod authentication;
mod config;
mod handing_over;
mod host;
mod relaying;
mod requests;
mod reservations;
mod table;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::attribute::ErrorCode;
use crate::credentials::{Credentials, quota_name};
use crate::discard::Discard;
use crate::limits::{
    ALLOCATIONS_PER_TIMER_CALL_MAX, ALLOCATIONS_RECHECKED_PER_TIMER_CALL_MAX, ANSWER_BYTES_MAX,
    CLIENT_HEAD_BYTES_MAX, NONCE_KEY_BYTES,
};
use crate::nonce::{Nonces, SecurityFeatures};
use crate::ports::Ports;
use crate::reply_limit::ReplyLimit;
use crate::sharing::Shared;
use crate::transport::FiveTuple;

pub use allocation::{AllocationId, AllocationState};
pub use config::{ConfigError, RelayedRange, ServerConfig};
pub use handing_over::{ServerChanges, ServerTold};
pub use host::{Change, Host, Path};
pub use relaying::IcmpError;
pub(crate) use reservations::Reservations;

use allocation::Allocation;
use reservations::Keeper;
use table::Table;

/// When something happens, read once per turn of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds of a clock that only goes forward: what lifetimes are counted with.
    pub monotonic_ns: u64,
    /// Seconds since the Unix epoch: what nonces and time-limited users are checked with.
    pub unix_s: u64,
}

/// What is to be done with a packet of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send the first bytes of the answer buffer to the client.
    Answer {
        /// How many.
        bytes: usize,
        /// The error that they say, if any.
        error: Option<ErrorCode>,
    },
    /// Send payload to a peer.
    Relay(ToPeer),
    /// Nothing.
    Discard(Discard),
}

/// Payload on its way to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToPeer {
    /// Whose payload.
    pub allocation: AllocationId,
    /// Where it is sent from.
    pub relayed: SocketAddr,
    /// Where it is sent to.
    pub peer: SocketAddr,
    /// Where it lies in the packet.
    pub payload: Range<usize>,
    /// Whether the datagram must not be fragmented (RFC 8656 §14).
    pub dont_fragment: bool,
}

/// What is put around a peer's payload on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToClient {
    /// Whose payload.
    pub allocation: AllocationId,
    /// Where it is sent to, and how.
    pub client: FiveTuple,
    /// Bytes before the payload.
    pub head: ArrayVec<u8, CLIENT_HEAD_BYTES_MAX>,
    /// Zeros behind the payload, at most 3.
    pub padding_bytes: usize,
}

/// An allocation as listings show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocationView<'a> {
    /// Its name.
    pub id: AllocationId,
    /// Whose it is.
    pub client: FiveTuple,
    /// The name its client authenticated with.
    pub username: &'a str,
    /// Its relayed addresses, of IPv4 and of IPv6.
    pub relayed: [Option<SocketAddr>; 2],
    /// How many peers may send to it.
    pub permissions: usize,
    /// How many channels it has.
    pub channels: usize,
    /// When it ends unless it is refreshed, in nanoseconds of [`Now::monotonic_ns`].
    pub ends_ns: Option<u64>,
}

/// How much a server holds in each of its tables, apart from those that never grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Allocations.
    pub allocations: usize,
    /// Ways to find them: by client, by relayed address and by time.
    pub look_ups: [usize; 3],
    /// Users whose allocations and reservations are counted, here or on another core.
    pub users: usize,
    /// Reservations of its clients, and the times at which they end.
    pub reservations: [usize; 2],
    /// Ports that are taken.
    pub ports: usize,
}

/// A TURN server.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    credentials: Arc<Credentials>,
    /// How often the credentials changed; keys that older ones gave are looked up again.
    credentials_epoch: u64,
    nonces: Nonces,
    reply_limit: ReplyLimit,
    /// Where clients are sent instead, of IPv4 and of IPv6.
    alternates: [Option<SocketAddr>; 2],
    ports: [Option<Ports>; 2],
    table: Table,
    /// The place from which peers are still to be judged by a new policy, if they are.
    recheck_from: Option<usize>,
    /// Reservations of its own clients.
    keeper: Keeper,
    /// What it has in common with other servers.
    shared: Arc<Shared>,
    /// Whether nobody new is taken in.
    refuses_allocations: bool,
}

impl Server {
    /// A server without allocations that is the only one of its users. The key makes its nonces; it
    /// has to be random.
    ///
    /// # Errors
    ///
    /// If the configuration breaks a limit or contradicts itself.
    pub fn new(
        config: ServerConfig,
        credentials: Arc<Credentials>,
        nonce_key: &[u8; NONCE_KEY_BYTES],
    ) -> Result<Self, ConfigError> {
        let shared = Arc::new(Shared::new(&config, 1, nonce_key)?);
        Self::sharing(config, credentials, nonce_key, shared)
    }

    /// One of several servers that share an address, each with ports of its own. They share the key
    /// of their nonces too.
    ///
    /// # Errors
    ///
    /// If the configuration breaks a limit, contradicts itself, or names ports that are not shared.
    pub fn sharing(
        config: ServerConfig,
        credentials: Arc<Credentials>,
        nonce_key: &[u8; NONCE_KEY_BYTES],
        shared: Arc<Shared>,
    ) -> Result<Self, ConfigError> {
        let ports = config.share_of(&shared.taken)?;
        let nonces = Nonces::new(nonce_key, features(&credentials), config.nonce_lifetime_s);
        let reply_limit =
            ReplyLimit::new(config.stranger_replies_per_s, config.stranger_replies_burst);
        Ok(Self {
            table: Table::new(config.allocations_max),
            recheck_from: None,
            config,
            credentials,
            credentials_epoch: 0,
            nonces,
            reply_limit,
            alternates: [None; 2],
            ports,
            keeper: Keeper::default(),
            shared,
            refuses_allocations: false,
        })
    }

    /// Answers every further Allocate with 508 (Insufficient Capacity). Allocations that are there
    /// are refreshed and relayed for as before.
    pub fn refuse_allocations(&mut self) {
        self.refuses_allocations = true;
    }

    /// Takes a packet of a client, whole: a datagram, or a message cut out of a stream by
    /// [`crate::stream`]. An answer is written into `answer`.
    pub fn receive(
        &mut self,
        now: Now,
        tuple: &FiveTuple,
        packet: &[u8],
        answer: &mut [u8; ANSWER_BYTES_MAX],
        host: &mut dyn Host,
    ) -> Outcome {
        match packet.first() {
            Some(first) if crate::channel_data::is_channel_data(*first) => {
                self.receive_channel_data(now, tuple, packet)
            }
            Some(first) if first & 0xc0 == 0 => {
                self.receive_message(now, tuple, packet, answer, host)
            }
            Some(_) | None => Outcome::Discard(Discard::NotTurn),
        }
    }

    /// The earliest time at which [`Server::expire`] has something to do.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let recheck_ns = self.recheck_from.map(|_| 0);
        let reservation_ns = self.keeper.next_deadline_ns();
        let wake_ns = self.table.next_wake_ns();
        wake_ns.into_iter().chain(reservation_ns).chain(recheck_ns).min()
    }

    /// Ends what has come to its end. One call looks at a bounded number of allocations, so
    /// whoever calls it asks for the next deadline again.
    pub fn expire(&mut self, now_ns: u64, host: &mut dyn Host) {
        self.go_on_rechecking(host);
        for _ in 0..ALLOCATIONS_PER_TIMER_CALL_MAX {
            let Some(index) = self.table.due(now_ns) else {
                break;
            };
            self.sweep(index, now_ns, host);
        }
        for _ in 0..ALLOCATIONS_PER_TIMER_CALL_MAX {
            let all = &self.shared.reservations;
            let Some(kept) = self.keeper.pop_expired(all, now_ns) else {
                break;
            };
            self.shared.quotas.release(&kept.user, 1);
            self.release(kept.address);
        }
    }

    /// Whether a client has an allocation.
    pub fn has_allocation(&self, tuple: &FiveTuple) -> bool {
        self.table.index_of_client(tuple).is_some()
    }

    /// Ends the allocation of a client whose connection has ended.
    pub fn disconnected(&mut self, tuple: &FiveTuple, host: &mut dyn Host) {
        if let Some(index) = self.table.index_of_client(tuple) {
            self.end(index, host);
        }
    }

    /// From now on, other credentials hold. Allocations live on, but a client that they do not know
    /// any more can no longer refresh its own.
    pub fn set_credentials(&mut self, credentials: Arc<Credentials>) {
        self.nonces.set_features(features(&credentials));
        self.credentials = credentials;
        self.credentials_epoch += 1;
    }

    /// From now on, clients that want an allocation are sent to another server, each to the one of
    /// its own address family; with none of that family they are refused for want of capacity.
    /// Without any, they are served here again.
    pub fn set_alternates(&mut self, ipv4: Option<SocketAddr>, ipv6: Option<SocketAddr>) {
        self.alternates = [ipv4, ipv6];
    }

    /// Begins to take back permissions and channels of peers that the host no longer admits. It goes
    /// through all of them, a part with each [`Self::expire`], so it is for changes of policy; until
    /// it is done, [`Self::next_deadline_ns`] has come.
    pub fn recheck_peers(&mut self) {
        self.recheck_from = Some(0);
    }

    fn go_on_rechecking(&mut self, host: &mut dyn Host) {
        for _ in 0..ALLOCATIONS_RECHECKED_PER_TIMER_CALL_MAX {
            let Some(first) = self.recheck_from else { return };
            let place = self.table.place_from(first);
            self.recheck_from = place.map(|place| place + 1);
            if let Some(allocation) = place.and_then(|place| self.table.get_mut(place)) {
                allocation.revoke_peers(host);
            }
        }
    }

    /// How many allocations there are.
    pub fn allocations_len(&self) -> usize {
        self.table.len()
    }

    /// What it holds: nothing of anybody who has not authenticated itself.
    pub fn entries(&self) -> Entries {
        Entries {
            ports: self.ports.iter().flatten().map(Ports::taken).sum(),
            reservations: self.keeper.lens(&self.shared.reservations),
            users: self.shared.quotas.users(),
            ..self.table.entries()
        }
    }

    /// Every allocation, for listings.
    pub fn allocations(&self) -> impl Iterator<Item = AllocationView<'_>> {
        self.table.iter().map(Allocation::view)
    }

    /// The allocations from a place on, each with its place, for listings made a part at a time.
    pub fn allocations_from(
        &self,
        first: usize,
    ) -> impl Iterator<Item = (usize, AllocationView<'_>)> {
        self.table.iter_from(first).map(|(place, allocation)| (place, allocation.view()))
    }

    /// Every bound channel, and whether its peer's packets are passed as well: what a tier that was
    /// attached late has to know, and what the sum of all changes comes to.
    pub fn paths(&self) -> impl Iterator<Item = (Path, bool)> {
        self.table.iter().flat_map(Allocation::paths)
    }

    /// The same of one allocation, by its place.
    pub fn paths_of(&self, place: usize) -> impl Iterator<Item = (Path, bool)> {
        self.table.get(place).into_iter().flat_map(Allocation::paths)
    }

    /// How many channels one allocation may have.
    pub fn channels_max(&self) -> usize {
        self.config.channels_max
    }

    /// Ends whatever of an allocation has come to its end, and the allocation if nothing is left.
    fn sweep(&mut self, index: usize, now_ns: u64, host: &mut dyn Host) {
        let Some(allocation) = self.table.get_mut(index) else {
            return;
        };
        let ended = allocation.sweep(now_ns, host);
        let is_empty = allocation.is_empty();
        self.close_all(&ended, host);
        if is_empty {
            self.remove(index);
        } else {
            self.table.reschedule(index);
        }
    }

    fn end(&mut self, index: usize, host: &mut dyn Host) {
        let Some(allocation) = self.table.get_mut(index) else {
            return;
        };
        let ended = allocation.end_all(host);
        self.close_all(&ended, host);
        self.remove(index);
    }

    fn remove(&mut self, index: usize) {
        if let Some(allocation) = self.table.remove(index) {
            self.shared.quotas.release(quota_name(allocation.username()), 1);
        }
    }

    fn close_all(&mut self, ended: &[Option<SocketAddr>; 2], host: &mut dyn Host) {
        for address in ended.iter().flatten() {
            self.table.forget_relayed(*address);
            self.close(*address, host);
        }
    }

    /// Gives a relayed address back, once nobody has it open.
    fn close(&mut self, address: SocketAddr, host: &mut dyn Host) {
        host.close_relayed(address);
        self.release(address);
    }

    fn release(&mut self, address: SocketAddr) {
        let family = crate::attribute::Family::of(address.ip());
        if let Some(Some(ports)) = self.ports.get(family.index()) {
            ports.release(address);
        }
    }
}

/// What nonces say about a server with such credentials.
fn features(credentials: &Credentials) -> SecurityFeatures {
    SecurityFeatures {
        password_algorithms: true,
        username_anonymity: credentials.knows_userhashes(),
    }
}
