//! Random requests, payload and time, held against a model that keeps everything in plain maps.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use waystation_turn::attribute::{AttributeType, Family};
use waystation_turn::message::Method;
use waystation_turn::server::Outcome;

use world::{Client, SECOND_NS, World, channel_data, config, credentials, tuple};

const CLIENTS: usize = 4;
const PERMISSIONS_MAX: usize = 4;
const CHANNELS_MAX: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Allocate { client: usize, families: u8 },
    Refresh { client: usize, lifetime_s: Option<u32>, family: Option<Family> },
    Permit { client: usize, peers: Vec<SocketAddr> },
    Bind { client: usize, number: u16, peer: SocketAddr },
    Send { client: usize, peer: SocketAddr },
    Channel { client: usize, number: u16 },
    FromPeer { client: usize, peer: SocketAddr },
    Disconnect { client: usize },
    Admit { peer: SocketAddr, is_admitted: bool },
    Pass { seconds: u64, with_timer: bool },
}

fn peer() -> impl Strategy<Value = SocketAddr> {
    (0..5_u8, 1..3_u16).prop_map(|(host, port)| match host {
        4 => SocketAddr::new("2001:db8::99".parse().unwrap(), port),
        host => SocketAddr::from(([203, 0, 113, host], port)),
    })
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS;
    let number = || 0x4000..0x4004_u16;
    let lifetime_s = prop_oneof![Just(None), Just(Some(0)), (0..5000_u32).prop_map(Some)];
    let family = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Family::Ipv4)),
        1 => Just(Some(Family::Ipv6)),
    ];
    prop_oneof![
        4 => (client(), 1..4_u8).prop_map(|(client, families)| Step::Allocate { client, families }),
        1 => (client(), lifetime_s, family).prop_map(|(client, lifetime_s, family)| {
            Step::Refresh { client, lifetime_s, family }
        }),
        4 => (client(), vec(peer(), 1..4))
            .prop_map(|(client, peers)| Step::Permit { client, peers }),
        4 => (client(), number(), peer())
            .prop_map(|(client, number, peer)| Step::Bind { client, number, peer }),
        3 => (client(), peer()).prop_map(|(client, peer)| Step::Send { client, peer }),
        3 => (client(), number()).prop_map(|(client, number)| Step::Channel { client, number }),
        3 => (client(), peer()).prop_map(|(client, peer)| Step::FromPeer { client, peer }),
        1 => client().prop_map(|client| Step::Disconnect { client }),
        1 => (peer(), any::<bool>())
            .prop_map(|(peer, is_admitted)| Step::Admit { peer, is_admitted }),
        4 => (prop_oneof![1..20_u64, 250..350_u64, 550..650_u64], any::<bool>())
            .prop_map(|(seconds, with_timer)| Step::Pass { seconds, with_timer }),
    ]
}

/// An allocation as the model has it: whatever it has, until when.
#[derive(Debug, Default)]
struct Modelled {
    relayed: BTreeMap<Family, (SocketAddr, u64)>,
    permissions: BTreeMap<IpAddr, u64>,
    channels: BTreeMap<u16, (SocketAddr, u64)>,
}

impl Modelled {
    /// Leaves out what has ended.
    fn drop_ended(&mut self, now_ns: u64) {
        self.relayed.retain(|_, (_, ends_ns)| now_ns < *ends_ns);
        let relayed = &self.relayed;
        let has_address = |ip: IpAddr| relayed.contains_key(&Family::of(ip));
        self.permissions.retain(|ip, ends_ns| now_ns < *ends_ns && has_address(*ip));
        self.channels.retain(|_, (peer, ends_ns)| now_ns < *ends_ns && has_address(peer.ip()));
    }
}

struct Model {
    world: World,
    clients: Vec<Client>,
    allocations: BTreeMap<usize, Modelled>,
    refused: BTreeSet<IpAddr>,
}

impl Model {
    fn new() -> Self {
        let mut config = config();
        config.permissions_max = PERMISSIONS_MAX;
        config.channels_max = CHANNELS_MAX;
        config.stranger_replies_per_s = 1_000_000;
        config.stranger_replies_burst = 1_000_000;
        let client = |index: usize| {
            let port = 1000 + u16::try_from(index).unwrap();
            let (name, password) = [("alice", "wonderland"), ("bob", "builder")][index % 2];
            Client::new(tuple(port), name, password.as_bytes())
        };
        Self {
            world: World::with(config, credentials()),
            clients: (0..CLIENTS).map(client).collect(),
            allocations: BTreeMap::new(),
            refused: BTreeSet::new(),
        }
    }

    fn now_ns(&self) -> u64 {
        self.world.now.monotonic_ns
    }

    fn ends_ns(&self, seconds: u64) -> u64 {
        self.now_ns() + seconds * SECOND_NS
    }

    fn drop_ended(&mut self) {
        let now_ns = self.now_ns();
        self.allocations.values_mut().for_each(|allocation| allocation.drop_ended(now_ns));
        self.allocations.retain(|_, allocation| !allocation.relayed.is_empty());
    }

    fn step(&mut self, step: &Step) {
        self.drop_ended();
        match step {
            Step::Allocate { client, families } => self.allocate(*client, *families),
            Step::Refresh { client, lifetime_s, family } => {
                self.refresh(*client, *lifetime_s, *family);
            }
            Step::Permit { client, peers } => self.permit(*client, peers),
            Step::Bind { client, number, peer } => self.bind(*client, *number, *peer),
            Step::Send { client, peer } => self.send(*client, *peer),
            Step::Channel { client, number } => self.channel(*client, *number),
            Step::FromPeer { client, peer } => self.receive_from_peer(*client, *peer),
            Step::Disconnect { client } => {
                let tuple = self.clients[*client].tuple;
                self.world.server.disconnected(&tuple, &mut self.world.host);
                self.allocations.remove(client);
            }
            Step::Admit { peer, is_admitted } => self.admit(peer.ip(), *is_admitted),
            Step::Pass { seconds, with_timer: true } => self.world.pass_s(*seconds),
            Step::Pass { seconds, with_timer: false } => self.world.skip_s(*seconds),
        }
    }

    fn allocate(&mut self, client: usize, families: u8) {
        let kind = [
            AttributeType::REQUESTED_ADDRESS_FAMILY,
            AttributeType::REQUESTED_ADDRESS_FAMILY,
            AttributeType::ADDITIONAL_ADDRESS_FAMILY,
        ][usize::from(families - 1)];
        let family = families.min(2);
        let reply = self.clients[client].allocate_with(&mut self.world, |writer| {
            writer.attribute(kind, &[family, 0, 0, 0]);
        });
        if self.allocations.contains_key(&client) {
            assert_eq!(reply.error(), Some(437));
            return;
        }
        reply.expect_success();
        let ends_ns = self.ends_ns(600);
        let with_end = |address: SocketAddr| (Family::of(address.ip()), (address, ends_ns));
        let relayed: BTreeMap<_, _> = reply.relayed().into_iter().map(with_end).collect();
        assert_eq!(relayed.len(), if families == 3 { 2 } else { 1 });
        self.allocations.insert(client, Modelled { relayed, ..Modelled::default() });
    }

    fn refresh(&mut self, client: usize, lifetime_s: Option<u32>, family: Option<Family>) {
        let reply = self.clients[client].request(&mut self.world, Method::REFRESH, |writer| {
            if let Some(lifetime_s) = lifetime_s {
                writer.number(AttributeType::LIFETIME, lifetime_s);
            }
            if let Some(family) = family {
                let value = [family.number(), 0, 0, 0];
                writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &value);
            }
        });
        let granted_s = match lifetime_s {
            Some(0) => 0,
            asked => asked.unwrap_or(600).clamp(600, 3600),
        };
        let end_ns = self.ends_ns(granted_s.into());
        let Some(allocation) = self.allocations.get_mut(&client) else {
            assert_eq!(reply.error(), Some(437));
            return;
        };
        if family.is_some_and(|family| !allocation.relayed.contains_key(&family)) {
            assert_eq!(reply.error(), Some(443));
            return;
        }
        assert_eq!(reply.lifetime_s(), Some(granted_s));
        let concerned = allocation.relayed.iter_mut();
        for (_, (_, ends_ns)) in concerned.filter(|(found, _)| family.is_none_or(|f| f == **found))
        {
            *ends_ns = end_ns;
        }
        self.drop_ended();
    }

    /// The error that a request about a peer has to get, if any.
    fn peer_error(&self, client: usize, peer: SocketAddr) -> Option<u16> {
        let Some(allocation) = self.allocations.get(&client) else {
            return Some(437);
        };
        if !allocation.relayed.contains_key(&Family::of(peer.ip())) {
            return Some(443);
        }
        self.refused.contains(&peer.ip()).then_some(403)
    }

    fn permit(&mut self, client: usize, peers: &[SocketAddr]) {
        let reply = self.clients[client].permit(&mut self.world, peers);
        let mut seen = BTreeSet::new();
        let first_of_ip = peers.iter().filter(|peer| seen.insert(peer.ip()));
        let error = first_of_ip.into_iter().find_map(|peer| self.peer_error(client, *peer));
        if error.is_some() {
            assert_eq!(reply.error(), error);
            return;
        }
        let ends_ns = self.ends_ns(300);
        let allocation = self.allocations.get_mut(&client).unwrap();
        let old = allocation.permissions.keys().copied();
        if old.chain(peers.iter().map(SocketAddr::ip)).collect::<BTreeSet<_>>().len()
            > PERMISSIONS_MAX
        {
            assert_eq!(reply.error(), Some(508));
            return;
        }
        reply.expect_success();
        allocation.permissions.extend(peers.iter().map(|peer| (peer.ip(), ends_ns)));
    }

    fn bind(&mut self, client: usize, number: u16, peer: SocketAddr) {
        let reply = self.clients[client].bind(&mut self.world, number, peer);
        let (permission_ends_ns, channel_ends_ns) = (self.ends_ns(300), self.ends_ns(600));
        let is_taken = self.allocations.get(&client).is_some_and(|allocation| {
            let mut channels = allocation.channels.iter();
            channels.any(|(other, (bound, _))| (*other == number) != (*bound == peer))
        });
        let error = if is_taken { Some(400) } else { self.peer_error(client, peer) };
        if error.is_some() {
            assert_eq!(reply.error(), error);
            return;
        }
        let allocation = self.allocations.get_mut(&client).unwrap();
        let is_new = !allocation.channels.contains_key(&number);
        let is_new_peer = !allocation.permissions.contains_key(&peer.ip());
        if allocation.channels.len() + usize::from(is_new) > CHANNELS_MAX
            || allocation.permissions.len() + usize::from(is_new_peer) > PERMISSIONS_MAX
        {
            assert_eq!(reply.error(), Some(508));
            return;
        }
        reply.expect_success();
        allocation.permissions.insert(peer.ip(), permission_ends_ns);
        allocation.channels.insert(number, (peer, channel_ends_ns));
    }

    fn send(&mut self, client: usize, peer: SocketAddr) {
        let packet = self.clients[client].indication(peer, b"payload");
        let outcome = self.world.receive(&self.clients[client].tuple, &packet);
        let allocation = self.allocations.get(&client);
        let from = allocation
            .filter(|allocation| allocation.permissions.contains_key(&peer.ip()))
            .map(|allocation| allocation.relayed[&Family::of(peer.ip())].0);
        assert_eq!(relayed(&outcome), from.map(|from| (from, peer)));
    }

    fn channel(&mut self, client: usize, number: u16) {
        let packet = channel_data(number, b"payload");
        let outcome = self.world.receive(&self.clients[client].tuple, &packet);
        let allocation = self.allocations.get(&client);
        let bound = allocation.and_then(|allocation| {
            let (peer, _) = allocation.channels.get(&number)?;
            Some((allocation.relayed[&Family::of(peer.ip())].0, *peer))
        });
        assert_eq!(relayed(&outcome), bound);
    }

    fn receive_from_peer(&mut self, client: usize, peer: SocketAddr) {
        let Some(allocation) = self.allocations.get(&client) else {
            return;
        };
        let Some((relayed, _)) = allocation.relayed.get(&Family::of(peer.ip())) else {
            return;
        };
        let received = self.world.server.receive_from_peer(self.world.now, *relayed, peer, 7);
        if !allocation.permissions.contains_key(&peer.ip()) {
            assert!(received.is_err());
            return;
        }
        let received = received.unwrap();
        assert_eq!(received.client, self.clients[client].tuple);
        let channel = allocation.channels.iter().find(|(_, (bound, _))| *bound == peer);
        match channel {
            Some((number, _)) => assert_eq!(&received.head[..2], &number.to_be_bytes()),
            None => assert!(received.head.len() > 4),
        }
    }

    fn admit(&mut self, ip: IpAddr, is_admitted: bool) {
        if is_admitted {
            self.refused.remove(&ip);
        } else {
            self.refused.insert(ip);
            for allocation in self.allocations.values_mut() {
                allocation.permissions.remove(&ip);
                allocation.channels.retain(|_, (peer, _)| peer.ip() != ip);
            }
        }
        self.world.host.refused = self.refused.clone();
        self.world.server.recheck_peers();
        self.world.pass_s(0);
    }

    /// Once the timer has run, the server has exactly what the model has, and has told of it.
    fn check(&mut self) {
        self.world.pass_s(0);
        self.drop_ended();
        let World { server, host, .. } = &self.world;
        assert_eq!(server.allocations_len(), self.allocations.len());
        let relayed: BTreeSet<_> = self
            .allocations
            .values()
            .flat_map(|allocation| allocation.relayed.values().map(|(address, _)| *address))
            .collect();
        assert_eq!((&host.open, &host.allocated), (&relayed, &relayed));
        let permitted: BTreeSet<_> = self
            .allocations
            .values()
            .flat_map(|allocation| {
                let permissions = allocation.permissions.keys();
                permissions.map(|ip| (allocation.relayed[&Family::of(*ip)].0, *ip))
            })
            .collect();
        assert_eq!(host.permitted, permitted);
        let listed: BTreeMap<_, _> = server.paths().map(|(path, goes)| (path, !goes)).collect();
        assert_eq!(host.paths, listed);
        let bound: BTreeSet<_> = self
            .allocations
            .iter()
            .flat_map(|(client, allocation)| {
                let client = self.clients[*client].tuple;
                let channels = allocation.channels.iter();
                channels.map(move |(number, (peer, _))| (client, *number, *peer))
            })
            .collect();
        let told: BTreeSet<_> =
            listed.keys().map(|path| (path.client, path.channel.number(), path.peer)).collect();
        assert_eq!(told, bound);
    }
}

fn relayed(outcome: &Outcome) -> Option<(SocketAddr, SocketAddr)> {
    match outcome {
        Outcome::Relay(to_peer) => Some((to_peer.relayed, to_peer.peer)),
        Outcome::Answer { .. } => panic!("payload is answered"),
        Outcome::Discard(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_server_does_what_plain_maps_do(steps in vec(step(), 1..120), check_every in 1..8_usize) {
        let mut model = Model::new();
        for (index, step) in steps.iter().enumerate() {
            model.step(step);
            if index % check_every == 0 {
                model.check();
            }
        }
        model.world.pass_s(3600);
        model.check();
        prop_assert_eq!(model.world.server.allocations_len(), 0);
        prop_assert_eq!(model.world.server.next_deadline_ns(), None);
    }
}
