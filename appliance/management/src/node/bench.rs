//! What the tests of the node and of the gateway stand on: a node, a clock, a few peers.

use super::{Context, Node, NodeSettings};
use crate::gateway::GatewayLimits;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use waystation_astral::frame::Profile;
use waystation_astral::identity::{Identity, SecretKey};
use waystation_engine::control::{Command, LinkTotals, LinkUp, Network, Query, Report};
use waystation_proving::random::Random;
use waystation_relay::ids::{CoreId, LegTag, LinkTag, SocketTag};
use waystation_relay::quota::Quota;

/// Data cores that are asked for listings.
pub(crate) const CORES: usize = 2;
pub(crate) const SECOND_NS: u64 = 1_000_000_000;
/// 24 hours before the time in the worked trace of spec §11.4.
pub(crate) const UNIX_NOW_S: u64 = 1_760_961_600;
pub(crate) const GATEWAY: u16 = 0x21;
pub(crate) const A: u16 = 0x11;
pub(crate) const B: u16 = 0x22;
pub(crate) const OTHER: u16 = 0x33;

/// The identity whose private key repeats one byte, as in spec §18.1, or counts from there.
///
/// Made once per thread: the random sequences use the same few identities all the time.
pub(crate) fn identity(number: u16) -> Identity {
    thread_local! {
        static MADE: RefCell<BTreeMap<u16, Identity>> = const { RefCell::new(BTreeMap::new()) };
    }
    let make = || {
        let [high, low] = number.to_be_bytes();
        let mut scalar = [low; 32];
        scalar[1] ^= high;
        SecretKey::from_bytes(&scalar).unwrap().identity()
    };
    MADE.with_borrow_mut(|made| *made.entry(number).or_insert_with(make))
}

pub(crate) fn socket(core: u16, slot: u32) -> SocketTag {
    SocketTag { core: CoreId(core), slot, generation: 0 }
}

/// A gateway, a clock, and a source of randomness that may be scripted.
pub(crate) struct Bench {
    pub(crate) node: Node,
    pub(crate) now_ns: u64,
    pub(crate) scripted: VecDeque<u64>,
    pub(crate) drawn: Random,
    pub(crate) legs: u32,
    /// The accounts of those who have one.
    pub(crate) quotas: BTreeMap<Identity, Arc<Quota>>,
}

impl Bench {
    pub(crate) fn new(limits: GatewayLimits) -> Self {
        Self::with(NodeSettings { gateway: limits, ..NodeSettings::default() })
    }

    pub(crate) fn with(settings: NodeSettings) -> Self {
        Self {
            node: Node::new(identity(GATEWAY), CORES, settings),
            now_ns: SECOND_NS,
            scripted: VecDeque::new(),
            drawn: Random(1),
            legs: 0,
            quotas: BTreeMap::new(),
        }
    }

    pub(crate) fn tell(&mut self, report: &Report) -> Vec<Command> {
        let mut out = Vec::new();
        let (scripted, drawn) = (&mut self.scripted, &mut self.drawn);
        let quotas = &self.quotas;
        let mut random = || scripted.pop_front().unwrap_or_else(|| drawn.next());
        let mut context = Context {
            now_ns: self.now_ns,
            unix_now_s: UNIX_NOW_S,
            random: &mut random,
            quota_of: &mut |identity| quotas.get(identity).cloned(),
        };
        self.node.report(&mut context, report, &mut out);
        for (core, command) in &out {
            let is_for_all = matches!(command, Command::ReportListing { .. });
            assert!(is_for_all || Some(*core) == core_of(command), "{command:?}");
        }
        out.into_iter().map(|(_, command)| command).collect()
    }

    /// Lets time-outs happen, which need no commands here.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        let mut out = Vec::new();
        self.node.tick(now_ns, &mut out);
        assert!(out.is_empty(), "{out:?}");
    }

    pub(crate) fn up(&self, who: u16, link: LinkTag, inner: bool) -> LinkUp {
        LinkUp {
            link,
            identity: identity(who),
            profile: Profile::P4,
            link_id: 1,
            remote: "203.0.113.7:41000".parse().unwrap(),
            local: local_of(link),
            inner,
            network: Network::Tcp,
            dial: None,
        }
    }

    pub(crate) fn link(&mut self, who: u16, link: LinkTag, inner: bool) {
        let up = self.up(who, link, inner);
        assert!(self.tell(&Report::LinkUp(up)).is_empty());
    }

    pub(crate) fn unlink(&mut self, who: u16, link: LinkTag) {
        let report = Report::LinkDown {
            link,
            identity: identity(who),
            reason: None,
            totals: LinkTotals::default(),
        };
        assert!(self.tell(&report).is_empty());
    }

    /// A query on a link; gives the leg and everything that came of it.
    pub(crate) fn ask_as(&mut self, query: Query) -> (LegTag, Vec<Command>) {
        let leg = query.leg;
        (leg, self.tell(&Report::Query(query)))
    }

    pub(crate) fn query(&mut self, who: u16, link: LinkTag, text: &str) -> Query {
        self.legs += 1;
        Query {
            leg: LegTag { core: link.core, slot: self.legs, generation: 0 },
            link,
            caller: identity(who),
            profile: Profile::P4,
            nonce: u64::from(self.legs),
            query: text.as_bytes().into(),
            local: local_of(link),
            inner: false,
            relayed: None,
        }
    }

    /// A P4 query on the caller's usual link that causes exactly one command.
    pub(crate) fn ask(&mut self, who: u16, text: &str) -> Command {
        let query = self.query(who, link_of(who), text);
        one(self.ask_as(query).1)
    }

    pub(crate) fn register(&mut self, who: u16) -> u64 {
        nonce_of(&self.ask(who, "gateway.node_register?visibility=public"))
    }

    pub(crate) fn connect(&mut self, who: u16, target: u16) -> Command {
        self.ask(who, &format!("gateway.node_connect?target={}", identity(target)))
    }

    pub(crate) fn present(&mut self, socket: SocketTag, nonce: u64) -> Vec<Command> {
        let remote = "203.0.113.8:50000".parse().unwrap();
        self.tell(&Report::SocketPresented { socket, remote, nonce })
    }

    pub(crate) fn close(&mut self, socket: SocketTag) {
        assert!(
            self.tell(&Report::SocketClosed {
                socket,
                reason: None,
                bytes_in: 0,
                bytes_out: 0,
                age_ns: 0
            })
            .is_empty()
        );
    }

    /// A registered node with links and so many idle sockets, in slots from 1 on; gives its nonce.
    pub(crate) fn registered(&mut self, who: u16, idle_sockets: u32) -> u64 {
        self.link(who, link_of(who), false);
        let nonce = self.register(who);
        for slot in 1..=idle_sockets {
            assert_kept(&self.present(socket(who, slot), nonce), socket(who, slot));
        }
        nonce
    }
}

pub(crate) fn bench() -> Bench {
    Bench::new(GatewayLimits::default())
}

/// Every identity's links live on a core of their own, so that a command to a wrong core shows.
pub(crate) fn link_of(who: u16) -> LinkTag {
    link(who, 0)
}

pub(crate) fn link(core: u16, slot: u32) -> LinkTag {
    LinkTag { core: CoreId(core), slot, generation: 0 }
}

pub(crate) fn local_of(link: LinkTag) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 9], 1795 + u16::try_from(link.slot).unwrap()))
}

pub(crate) fn core_of(command: &Command) -> Option<CoreId> {
    match command {
        Command::Reject { leg, .. }
        | Command::Answer { leg, .. }
        | Command::Forget { leg }
        | Command::Pace { leg, .. }
        | Command::Accept { leg, .. }
        | Command::Write { leg, .. }
        | Command::CloseSession { leg, .. }
        | Command::TerminateInside { leg } => Some(leg.core),
        Command::Ask { link, .. } | Command::CloseLink { link, .. } => Some(link.core),
        Command::Offer { target, .. } => Some(target.core),
        Command::KeepIdle { socket } | Command::CloseSocket { socket, .. } => Some(socket.core),
        Command::JoinSockets { caller, .. } => Some(caller.core),
        Command::ResumeMigrated { leg } => Some(leg.core),
        Command::BeginMigration { to, .. } => Some(to.core),
        _ => None,
    }
}

pub(crate) fn one(mut commands: Vec<Command>) -> Command {
    assert_eq!(commands.len(), 1, "{commands:?}");
    commands.remove(0)
}

pub(crate) fn bytes_of(command: &Command) -> &[u8] {
    let Command::Answer { bytes, .. } = command else { panic!("{command:?}") };
    bytes
}

/// The nonce of a `mod.gateway.socket` object: its last 8 bytes.
pub(crate) fn nonce_of(command: &Command) -> u64 {
    let bytes = bytes_of(command);
    assert!(bytes.starts_with(b"\x12mod.gateway.socket"), "{}", hex::encode(bytes));
    u64::from_be_bytes(*bytes.last_chunk().unwrap())
}

pub(crate) fn assert_kept(commands: &[Command], kept: SocketTag) {
    assert!(matches!(commands, [Command::KeepIdle { socket }] if *socket == kept), "{commands:?}");
}
