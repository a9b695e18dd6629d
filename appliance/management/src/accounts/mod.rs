//! One account for each identity: what it may use, what it uses, and what it has used so far.
//!
//! Owned by the management core and used on its thread only; the [`Quota`] inside an account is
//! shared with the data cores. Fed from reports. Accounts of identities with links are always here,
//! bounded by the caps on links; of the others the ones seen last are kept, and what the rest have
//! used is in one sum. It must never give two quotas to one identity while one is in use.

mod profiles;
mod settings;
#[cfg(test)]
mod tests;

pub use settings::{AccountSettings, IdentityLimits};

use crate::clock::Moment;
use crate::limits::ACCOUNTS_EVICTION_TRIES_MAX;
use profiles::Profiles;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use waystation_astral::identity::Identity;
use waystation_engine::control::{LinkTotals, LinkUp, Network};
use waystation_relay::ids::{LinkTag, SocketTag};
use waystation_relay::quota::Quota;

/// Every network, in the order of the counters.
pub const NETWORKS: [Network; 3] = [Network::Tcp, Network::Tor, Network::Gateway];

/// What somebody has used, of what has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub links: u64,
    /// Payload of data frames: from the peer, and to it.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub frames_in: u64,
    pub frames_out: u64,
    /// The ages of the links, summed up.
    pub link_time_ns: u64,
    /// Ends of raw pipes.
    pub pipes: u64,
    pub pipe_bytes_in: u64,
    pub pipe_bytes_out: u64,
}

impl Used {
    /// Adds what a link has carried.
    pub fn add_link(&mut self, totals: &LinkTotals) {
        self.links += 1;
        self.bytes_in += totals.bytes_in;
        self.bytes_out += totals.bytes_out;
        self.frames_in += totals.frames_in;
        self.frames_out += totals.frames_out;
        self.link_time_ns = self.link_time_ns.saturating_add(totals.age_ns);
    }

    /// Adds what somebody else has used.
    pub fn add(&mut self, other: &Self) {
        self.links += other.links;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.frames_in += other.frames_in;
        self.frames_out += other.frames_out;
        self.link_time_ns = self.link_time_ns.saturating_add(other.link_time_ns);
        self.pipes += other.pipes;
        self.pipe_bytes_in += other.pipe_bytes_in;
        self.pipe_bytes_out += other.pipe_bytes_out;
    }
}

/// Why a link that has come up is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkRefusal {
    #[error("its identity has {max} links (limits.links_per_identity_max)")]
    Identity { max: usize },
    #[error(
        "its identity has {max} {} links (limits.links_per_identity_and_network_max)",
        .network.name()
    )]
    IdentityAndNetwork { network: Network, max: usize },
    #[error("there are {max} {0} links (limits.{0}_links_max)", .network.name())]
    Network { network: Network, max: usize },
}

impl LinkRefusal {
    /// The name in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity { .. } => "links_per_identity_max",
            Self::IdentityAndNetwork { .. } => "links_per_identity_and_network_max",
            Self::Network { network: Network::Tcp, .. } => "tcp_links_max",
            Self::Network { network: Network::Tor, .. } => "tor_links_max",
            Self::Network { network: Network::Gateway, .. } => "gw_links_max",
        }
    }
}

/// One identity's. Thousands of them are kept, so it is all in one piece but for the quota.
#[derive(Debug)]
pub struct Account {
    quota: Arc<Quota>,
    /// Open links by network.
    links: [u32; NETWORKS.len()],
    /// Those of links it has or had.
    profiles: Profiles,
    used: Used,
    refused_links: u64,
    first_seen: Moment,
    last_seen: Moment,
}

impl Account {
    /// Open links over all networks.
    pub fn links(&self) -> usize {
        NETWORKS.into_iter().map(|network| self.links_of(network)).sum()
    }

    /// Open links over one network.
    pub fn links_of(&self, network: Network) -> usize {
        self.links.get(place_of(network)).map_or(0, |links| *links as usize)
    }

    /// Sessions now, asked for or offered.
    pub fn sessions(&self) -> usize {
        self.quota.sessions()
    }

    /// Names of the profiles that its links have spoken, in order.
    pub fn profiles(&self) -> impl Iterator<Item = &'static str> {
        self.profiles.names()
    }

    /// What it has used, open links not included.
    pub fn used(&self) -> &Used {
        &self.used
    }

    /// Links closed because they were too many.
    pub fn refused_links(&self) -> u64 {
        self.refused_links
    }

    /// When it was first heard of.
    pub fn first_seen(&self) -> Moment {
        self.first_seen
    }

    /// When a link or pipe of it last began or ended. With a link it is here now.
    pub fn last_seen(&self) -> Moment {
        self.last_seen
    }
}

#[derive(Debug)]
struct OpenLink {
    /// It is about to change cores, so its place may have another before it is known to have gone.
    leaves: bool,
    identity: Identity,
    network: Network,
}

/// The accounts of all identities.
#[derive(Debug)]
pub struct Accounts {
    settings: AccountSettings,
    accounts: BTreeMap<Identity, Account>,
    /// Those without links, by when they were last seen.
    resting: BTreeSet<(u64, Identity)>,
    /// Links that were admitted, in order of their places in the cores' tables.
    open: BTreeMap<LinkTag, OpenLink>,
    networks: [usize; NETWORKS.len()],
    /// Whose raw pipes are open, the caller's and the idle side's, by the idle socket: the caller's
    /// gets another tag when it moves to the idle one's core. The cores' caps on sockets bound it.
    pipes: BTreeMap<SocketTag, [Identity; 2]>,
    /// What identities that are no longer here had used.
    others: Used,
    evicted: u64,
    refused_links: u64,
}

impl Accounts {
    /// No accounts.
    pub fn new(settings: AccountSettings) -> Self {
        Self {
            settings,
            accounts: BTreeMap::new(),
            resting: BTreeSet::new(),
            open: BTreeMap::new(),
            networks: [0; NETWORKS.len()],
            pipes: BTreeMap::new(),
            others: Used::default(),
            evicted: 0,
            refused_links: 0,
        }
    }

    /// Takes up other limits at once, those of quotas in use included. What exceeds them stays, but
    /// for accounts of identities without a link.
    pub fn set(&mut self, settings: AccountSettings) {
        self.settings = settings;
        for (identity, account) in &self.accounts {
            account.quota.set_limits(self.settings.of(identity).quota);
        }
        self.evict();
    }

    /// What an identity may use.
    pub fn limits_of(&self, identity: &Identity) -> IdentityLimits {
        self.settings.of(identity)
    }

    /// Whether an identity may register at the gateway.
    pub fn may_register(&self, identity: &Identity) -> bool {
        self.settings.of(identity).registrations > 0
    }

    /// The quota that an identity's sessions and bytes count against.
    pub fn quota_of(&mut self, now: Moment, identity: &Identity) -> Arc<Quota> {
        let quota = Arc::clone(&self.account(now, identity).quota);
        self.evict();
        quota
    }

    /// Admits a link that has come up, with its quota, or says why it is one too many.
    ///
    /// # Errors
    /// See [`LinkRefusal`]; the link is not counted then.
    pub fn link_up(&mut self, now: Moment, up: &LinkUp) -> Result<Arc<Quota>, LinkRefusal> {
        // A core reuses a place only after its link has ended, or left.
        let first = LinkTag { generation: 0, ..up.link };
        let last = LinkTag { generation: u32::MAX, ..up.link };
        let mut there = self.open.range(first..=last);
        let before = there.find(|(_, open)| !open.leaves).map(|(tag, _)| *tag);
        if let Some(replaced) = before.and_then(|tag| self.open.remove(&tag)) {
            self.end(now, &replaced, &LinkTotals::default());
        }
        let refusal = self.refusal(now, up);
        let account = self.account(now, &up.identity);
        account.profiles.insert(up.profile);
        let quota = Arc::clone(&account.quota);
        if let Some(refusal) = refusal {
            account.refused_links += 1;
            self.refused_links += 1;
            self.evict();
            return Err(refusal);
        }
        let place_of_network = place_of(up.network);
        let rested = (account.last_seen.monotonic_ns, up.identity);
        account.last_seen = now;
        if let Some(links) = account.links.get_mut(place_of_network) {
            *links += 1;
        }
        self.resting.remove(&rested);
        if let Some(links) = self.networks.get_mut(place_of_network) {
            *links += 1;
        }
        let open = OpenLink { leaves: false, identity: up.identity, network: up.network };
        self.open.insert(up.link, open);
        Ok(quota)
    }

    /// Enters what a link has carried. A link that was refused or is unknown is not entered.
    pub fn link_down(&mut self, now: Moment, link: LinkTag, totals: &LinkTotals) {
        if let Some(open) = self.open.remove(&link) {
            self.end(now, &open, totals);
        }
    }

    /// A link is about to change cores, or stays after all.
    pub fn leave(&mut self, link: LinkTag, leaves: bool) {
        if let Some(open) = self.open.get_mut(&link) {
            open.leaves = leaves;
        }
    }

    /// A link has another tag now.
    pub fn link_moved(&mut self, from: LinkTag, to: LinkTag) {
        if let Some(open) = self.open.remove(&from) {
            self.open.insert(to, OpenLink { leaves: false, ..open });
        }
    }

    /// Notes who is joined by a raw pipe: the caller, and the node whose idle socket it is.
    pub fn joined(&mut self, idle: SocketTag, caller: Identity, target: Identity) {
        self.pipes.insert(idle, [caller, target]);
    }

    /// Forgets a pipe that did not come about.
    pub fn join_failed(&mut self, idle: SocketTag) {
        self.pipes.remove(&idle);
    }

    /// Enters what a raw pipe has carried, when its idle side has ended: bytes from that side, and
    /// to it.
    pub fn socket_closed(&mut self, now: Moment, socket: SocketTag, bytes: [u64; 2]) {
        let Some([caller, target]) = self.pipes.remove(&socket) else { return };
        let [from_target, to_target] = bytes;
        for (identity, [bytes_in, bytes_out]) in
            [(caller, [to_target, from_target]), (target, [from_target, to_target])]
        {
            let account = self.account(now, &identity);
            account.used.pipes += 1;
            account.used.pipe_bytes_in += bytes_in;
            account.used.pipe_bytes_out += bytes_out;
            self.see(now, &identity);
        }
        self.evict();
    }

    /// At most so many identities with an account: those with links first, then the others, and
    /// within each those first who were seen last.
    pub fn latest(&self, max: usize) -> Vec<Identity> {
        let linked: BTreeSet<_> = self.open.values().map(|open| open.identity).collect();
        let mut latest: Vec<_> = linked.into_iter().collect();
        let seen_ns = |identity: &Identity| Some(self.get(identity)?.last_seen.monotonic_ns);
        latest.sort_by_key(|identity| std::cmp::Reverse(seen_ns(identity)));
        latest.extend(self.resting.iter().rev().take(max).map(|(_, identity)| *identity));
        latest.truncate(max);
        latest
    }

    /// One account.
    pub fn get(&self, identity: &Identity) -> Option<&Account> {
        self.accounts.get(identity)
    }

    /// How many accounts there are.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// What those have used whose accounts are gone, and how many of them there were.
    pub fn others(&self) -> (&Used, u64) {
        (&self.others, self.evicted)
    }

    /// Links closed because they were too many, since the start.
    pub fn refused_links(&self) -> u64 {
        self.refused_links
    }

    /// Open links of a network over all cores.
    pub fn links_of(&self, network: Network) -> usize {
        self.networks.get(place_of(network)).copied().unwrap_or_default()
    }

    fn refusal(&mut self, now: Moment, up: &LinkUp) -> Option<LinkRefusal> {
        let limits = self.settings.of(&up.identity);
        let network = up.network;
        let network_max = self.settings.network_max(network);
        let network_links = self.links_of(network);
        let account = self.account(now, &up.identity);
        if account.links() >= limits.links {
            return Some(LinkRefusal::Identity { max: limits.links });
        }
        if account.links_of(network) >= limits.links_per_network {
            let max = limits.links_per_network;
            return Some(LinkRefusal::IdentityAndNetwork { network, max });
        }
        (network_links >= network_max).then_some(LinkRefusal::Network { network, max: network_max })
    }

    fn end(&mut self, now: Moment, open: &OpenLink, totals: &LinkTotals) {
        let place = place_of(open.network);
        if let Some(links) = self.networks.get_mut(place) {
            *links = links.saturating_sub(1);
        }
        let Some(account) = self.accounts.get_mut(&open.identity) else { return };
        if let Some(links) = account.links.get_mut(place) {
            *links = links.saturating_sub(1);
        }
        account.used.add_link(totals);
        self.see(now, &open.identity);
        self.evict();
    }

    /// The account of an identity, a new one if need be.
    fn account(&mut self, now: Moment, identity: &Identity) -> &mut Account {
        let (settings, resting) = (&self.settings, &mut self.resting);
        self.accounts.entry(*identity).or_insert_with(|| {
            resting.insert((now.monotonic_ns, *identity));
            Account {
                quota: Quota::new(settings.of(identity).quota),
                links: [0; NETWORKS.len()],
                profiles: Profiles::default(),
                used: Used::default(),
                refused_links: 0,
                first_seen: now,
                last_seen: now,
            }
        })
    }

    /// Notes that something of an identity began or ended just now.
    fn see(&mut self, now: Moment, identity: &Identity) {
        let Some(account) = self.accounts.get_mut(identity) else { return };
        self.resting.remove(&(account.last_seen.monotonic_ns, *identity));
        account.last_seen = now;
        if account.links() == 0 {
            self.resting.insert((now.monotonic_ns, *identity));
        }
    }

    /// Gives up the accounts of those without links who were last seen longest ago, as far as
    /// there are too many. One whose quota is still in use, by a pipe or a session that is just
    /// ending, is passed over; after some of those the oldest goes in any case.
    fn evict(&mut self) {
        while self.resting.len() > self.settings.kept_max() {
            let oldest = self.resting.iter().take(ACCOUNTS_EVICTION_TRIES_MAX);
            let unused = |identity: &Identity| {
                let account = self.accounts.get(identity);
                account.is_none_or(|account| Arc::strong_count(&account.quota) == 1)
            };
            let free = oldest.clone().find(|(_, identity)| unused(identity));
            let Some(&(seen_ns, identity)) = free.or_else(|| self.resting.first()) else { return };
            self.resting.remove(&(seen_ns, identity));
            if let Some(account) = self.accounts.remove(&identity) {
                self.others.add(&account.used);
                self.evicted += 1;
            }
        }
    }
}

fn place_of(network: Network) -> usize {
    match network {
        Network::Tcp => 0,
        Network::Tor => 1,
        Network::Gateway => 2,
    }
}
