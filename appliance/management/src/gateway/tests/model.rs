//! Random sequences of reports against a model that keeps everything in flat lists.
//! `WAYSTATION_MODEL_SEQUENCES` says how many to run.

use super::*;
use std::collections::BTreeSet;
use waystation_proving::model::{SEED_VARIABLE, Seed, number};
use waystation_proving::random::Random;

const SEQUENCES: u64 = 10_000;
const OPERATIONS: u32 = 40;
/// Nodes 1 to 6; this node itself is 0x21.
const NODES: u16 = 6;
const KEEP_NS: u64 = 100_000_000_000;
const TIMEOUT_NS: u64 = 30_000_000_000;
const IDLE_MAX: usize = 3;

/// Few of everything, so that every limit is met.
fn limits() -> GatewayLimits {
    GatewayLimits {
        registrations_max: 4,
        idle_per_registration_max: IDLE_MAX,
        reservations_max: 4,
        reservations_per_caller_max: 2,
        reservation_timeout_ns: TIMEOUT_NS,
        registration_keep_ns: KEEP_NS,
        recent_queries_max: 1000,
        ..GatewayLimits::default()
    }
}

fn node(random: &mut Random) -> u16 {
    1 + u16::try_from(random.below(u64::from(NODES))).unwrap()
}

struct ModelRegistration {
    node: u16,
    nonce: u64,
    is_public: bool,
    dormant_since_ns: Option<u64>,
}

/// An idle socket, in order of arrival.
struct ModelIdle {
    tag: SocketTag,
    node: u16,
    reserved_under: Option<u64>,
}

struct ModelReservation {
    nonce: u64,
    caller: u16,
    target: u16,
    deadline_ns: u64,
}

/// Where a socket has got to; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whereabouts {
    Idle,
    Joined,
    Closed,
}

/// The gateway under test beside what it should have become.
struct Run {
    bench: Bench,
    random: Random,
    registrations: Vec<ModelRegistration>,
    idle: Vec<ModelIdle>,
    reservations: Vec<ModelReservation>,
    links: BTreeSet<(u16, LinkTag)>,
    whereabouts: BTreeMap<SocketTag, Whereabouts>,
    answered: BTreeMap<LegTag, u32>,
    /// Every nonce ever given out: none may be given out for something else.
    nonces: BTreeSet<u64>,
    slots: u32,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            bench: Bench::new(limits()),
            random: Random(seed),
            registrations: Vec::new(),
            idle: Vec::new(),
            reservations: Vec::new(),
            links: BTreeSet::new(),
            whereabouts: BTreeMap::new(),
            answered: BTreeMap::new(),
            nonces: BTreeSet::new(),
            slots: 0,
        }
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..=1 => self.register(),
            2 => self.unregister(),
            3..=5 => self.connect(),
            6..=8 => self.present_registration(),
            9..=10 => self.present_reservation(),
            11 => self.present_anything(),
            12 => self.close(),
            13 => self.toggle_link(),
            14 => self.pass_time(),
            _ => self.route_or_noise(),
        }
        self.compare();
    }

    /// Asks and checks that exactly one command answers the query; gives it and the others.
    fn ask(&mut self, node: u16, text: &str) -> (Command, Vec<Command>) {
        let query = self.bench.query(node, link(node, 0), text);
        let (leg, commands) = self.bench.ask_as(query);
        let (mut answers, others): (Vec<_>, Vec<_>) =
            commands.into_iter().partition(|command| leg_of(command).is_some());
        assert_eq!(answers.len(), 1, "{text}: {answers:?}");
        let answer = answers.remove(0);
        assert_eq!(leg_of(&answer), Some(leg));
        *self.answered.entry(leg).or_default() += 1;
        (answer, others)
    }

    fn register(&mut self) {
        let node = node(&mut self.random);
        let is_public = self.random.below(2) == 0;
        let visibility = if is_public { "public" } else { "private" };
        let text = format!("gateway.node_register?visibility={visibility}");
        let (answer, others) = self.ask(node, &text);
        assert!(others.is_empty());
        if let Some(registration) = self.registrations.iter_mut().find(|known| known.node == node) {
            assert_eq!(nonce_of(&answer), registration.nonce);
            registration.is_public = is_public;
            return;
        }
        if self.registrations.len() >= limits().registrations_max {
            let longest = self
                .registrations
                .iter()
                .filter_map(|known| Some((known.dormant_since_ns?, identity(known.node))))
                .min();
            let Some((_, dormant)) = longest else {
                assert_eq!(bytes_of(&answer), object::error_message("too many registrations"));
                return;
            };
            self.registrations.retain(|known| identity(known.node) != dormant);
        }
        let nonce = nonce_of(&answer);
        assert!(self.nonces.insert(nonce) && gateway::nonce_is_distinguishable(nonce));
        let fresh = ModelRegistration { node, nonce, is_public, dormant_since_ns: None };
        self.registrations.push(fresh);
    }

    fn unregister(&mut self) {
        let node = node(&mut self.random);
        let (answer, others) = self.ask(node, "gateway.node_unregister");
        if !self.registrations.iter().any(|known| known.node == node) {
            assert_eq!(bytes_of(&answer), object::error_message("node not registered"));
            assert!(others.is_empty());
            return;
        }
        assert_eq!(bytes_of(&answer), object::ack());
        let mut closed: Vec<_> = others.iter().map(closed_socket).collect();
        let mut wanted: Vec<_> =
            self.idle.iter().filter(|idle| idle.node == node).map(|idle| idle.tag).collect();
        closed.sort();
        wanted.sort();
        assert_eq!(closed, wanted);
        for socket in wanted {
            self.moved(socket, Some(Whereabouts::Idle), Whereabouts::Closed);
        }
        self.registrations.retain(|known| known.node != node);
        self.idle.retain(|idle| idle.node != node);
        self.reservations.retain(|reservation| reservation.target != node);
    }

    fn connect(&mut self) {
        let (caller, target) = (node(&mut self.random), node(&mut self.random));
        let text = format!("gateway.node_connect?target={}", identity(target));
        let (answer, others) = self.ask(caller, &text);
        assert!(others.is_empty());
        let free =
            self.idle.iter_mut().find(|idle| idle.node == target && idle.reserved_under.is_none());
        let Some(oldest) = free else {
            assert_eq!(bytes_of(&answer), object::error_message("target not reachable"));
            return;
        };
        let held = self.reservations.iter().filter(|held| held.caller == caller).count();
        let limits = limits();
        if held >= limits.reservations_per_caller_max
            || self.reservations.len() >= limits.reservations_max
        {
            assert_eq!(bytes_of(&answer), object::error_message("too many reservations"));
            return;
        }
        let nonce = nonce_of(&answer);
        assert!(self.nonces.insert(nonce) && gateway::nonce_is_distinguishable(nonce));
        oldest.reserved_under = Some(nonce);
        let deadline_ns = self.bench.now_ns + TIMEOUT_NS;
        self.reservations.push(ModelReservation { nonce, caller, target, deadline_ns });
    }

    fn present_registration(&mut self) {
        let nonces: Vec<_> = self.registrations.iter().map(|known| known.nonce).collect();
        if let Some(nonce) = self.random.of(&nonces) {
            self.present(nonce);
        }
    }

    fn present_reservation(&mut self) {
        let nonces: Vec<_> = self.reservations.iter().map(|held| held.nonce).collect();
        if let Some(nonce) = self.random.of(&nonces) {
            self.present(nonce);
        }
    }

    /// Any nonce ever given out, or one that never was.
    fn present_anything(&mut self) {
        let nonces: Vec<_> = self.nonces.iter().copied().chain([1]).collect();
        if let Some(nonce) = self.random.of(&nonces) {
            self.present(nonce);
        }
    }

    fn present(&mut self, nonce: u64) {
        self.slots += 1;
        let core = node(&mut self.random);
        let presented = socket(core, self.slots);
        let commands = self.bench.present(presented, nonce);
        if let Some(known) = self.registrations.iter().find(|known| known.nonce == nonce) {
            let node = known.node;
            self.keep(node, presented, &commands);
        } else if self.reservations.iter().any(|held| held.nonce == nonce) {
            self.reservations.retain(|held| held.nonce != nonce);
            let place = self.idle.iter().position(|idle| idle.reserved_under == Some(nonce));
            let reserved = self.idle.remove(place.unwrap()).tag;
            assert!(
                matches!(&commands[..], [Command::JoinSockets { caller, idle, .. }]
                    if *caller == presented && *idle == reserved),
                "{commands:?}"
            );
            self.moved(reserved, Some(Whereabouts::Idle), Whereabouts::Joined);
            self.moved(presented, None, Whereabouts::Joined);
        } else {
            assert_eq!(commands.iter().map(closed_socket).collect::<Vec<_>>(), [presented]);
            self.moved(presented, None, Whereabouts::Closed);
        }
    }

    fn keep(&mut self, node: u16, presented: SocketTag, commands: &[Command]) {
        self.idle.push(ModelIdle { tag: presented, node, reserved_under: None });
        let of_node = self.idle.iter().filter(|idle| idle.node == node).count();
        let surplus = (of_node > IDLE_MAX).then(|| {
            let is_free = |idle: &ModelIdle| idle.node == node && idle.reserved_under.is_none();
            let place = self.idle.iter().position(is_free).unwrap();
            self.idle.remove(place).tag
        });
        let closed: Vec<_> = commands
            .iter()
            .filter(|command| !matches!(command, Command::KeepIdle { .. }))
            .map(closed_socket)
            .collect();
        assert_eq!(closed, surplus.into_iter().collect::<Vec<_>>());
        if surplus == Some(presented) {
            assert_eq!(commands.len(), 1);
            self.moved(presented, None, Whereabouts::Closed);
            return;
        }
        assert!(matches!(commands, [Command::KeepIdle { socket }, ..] if *socket == presented));
        self.moved(presented, None, Whereabouts::Idle);
        if let Some(surplus) = surplus {
            self.moved(surplus, Some(Whereabouts::Idle), Whereabouts::Closed);
        }
    }

    /// Any socket ends: one the gateway holds, or one that it has let go of.
    fn close(&mut self) {
        let sockets: Vec<_> = self.whereabouts.keys().copied().collect();
        let Some(socket) = self.random.of(&sockets) else { return };
        self.bench.close(socket);
        self.whereabouts.insert(socket, Whereabouts::Closed);
        let Some(place) = self.idle.iter().position(|idle| idle.tag == socket) else { return };
        let ended = self.idle.remove(place);
        if let Some(nonce) = ended.reserved_under {
            let substitute = self
                .idle
                .iter_mut()
                .find(|idle| idle.node == ended.node && idle.reserved_under.is_none());
            match substitute {
                Some(substitute) => substitute.reserved_under = Some(nonce),
                None => self.reservations.retain(|held| held.nonce != nonce),
            }
        }
    }

    fn toggle_link(&mut self) {
        let node = node(&mut self.random);
        let toggled = link(node, u32::from(self.random.below(2) == 0));
        if self.links.remove(&(node, toggled)) {
            self.bench.unlink(node, toggled);
        } else {
            self.bench.link(node, toggled, false);
            self.links.insert((node, toggled));
        }
    }

    fn pass_time(&mut self) {
        let passed_ns = match self.random.below(4) {
            0 => 1,
            1 => TIMEOUT_NS / 2,
            2 => TIMEOUT_NS,
            _ => self.bench.node.next_deadline_ns().map_or(KEEP_NS, |due_ns| {
                // Nothing may be left over from the past.
                due_ns.checked_sub(self.bench.now_ns).unwrap()
            }),
        };
        self.bench.now_ns += passed_ns;
        let now_ns = self.bench.now_ns;
        self.bench.tick(now_ns);
        self.reservations.retain(|held| held.deadline_ns > now_ns);
        let alive: BTreeSet<_> = self.reservations.iter().map(|held| held.nonce).collect();
        for idle in &mut self.idle {
            idle.reserved_under = idle.reserved_under.filter(|nonce| alive.contains(nonce));
        }
        self.registrations.retain(|known| {
            known.dormant_since_ns.is_none_or(|since_ns| since_ns + KEEP_NS > now_ns)
        });
    }

    fn route_or_noise(&mut self) {
        let (caller, target) = (node(&mut self.random), node(&mut self.random));
        match self.random.below(3) {
            0 => {
                let (answer, _) = self.ask(caller, "nodes.close_link?id=1");
                assert!(matches!(answer, Command::Reject { code: 1, .. }));
            }
            1 => self.list(caller),
            _ => {
                let text = format!("gateway.node_route?target={}", identity(target));
                let (answer, _) = self.ask(caller, &text);
                let asking = link(caller, 0);
                let is_linked =
                    self.links.iter().any(|(node, link)| *node == target && *link != asking);
                match answer {
                    Command::Offer { target: to, .. } => {
                        assert!(self.links.contains(&(target, to)) && to != asking);
                    }
                    Command::Reject { code: 1, .. } => assert!(!is_linked),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn list(&mut self, caller: u16) {
        let (answer, _) = self.ask(caller, "gateway.node_list");
        let public: BTreeSet<_> = self
            .registrations
            .iter()
            .filter(|known| known.is_public)
            .map(|known| identity(known.node))
            .collect();
        let objects = public.iter().map(object::identity).chain([object::eos()]);
        assert_eq!(bytes_of(&answer), objects.flatten().collect::<Vec<_>>());
    }

    /// Moves a socket on, and checks that it was where it should have been: `None` is a socket
    /// that has only just presented its nonce.
    fn moved(&mut self, socket: SocketTag, from: Option<Whereabouts>, to: Whereabouts) {
        assert_eq!(self.whereabouts.insert(socket, to), from, "{socket}");
    }

    /// Brings the model's dormancy up to date and compares everything visible.
    fn compare(&mut self) {
        let now_ns = self.bench.now_ns;
        for known in &mut self.registrations {
            let linked = self.links.iter().any(|(node, _)| *node == known.node);
            let idle = self.idle.iter().any(|idle| idle.node == known.node);
            known.dormant_since_ns = match linked || idle {
                true => None,
                false => known.dormant_since_ns.or(Some(now_ns)),
            };
        }
        let mut wanted: Vec<_> = self.registrations.iter().map(|known| self.row(known)).collect();
        wanted.sort_by_key(|row| row.identity);
        let gateway = &self.bench.node;
        assert_eq!(gateway.registrations().collect::<Vec<_>>(), wanted);
        let counts = gateway.counts();
        assert_eq!(counts.reservations, self.reservations.len());
        assert_eq!(counts.idle_sockets, self.idle.len());
        assert_eq!(counts.links, self.links.len());
        let held = self.whereabouts.values().filter(|place| **place == Whereabouts::Idle).count();
        assert_eq!(counts.idle_sockets, held);
        let reservations = self.reservations.iter().map(|held| held.deadline_ns);
        let dormant = self.registrations.iter().filter_map(|known| known.dormant_since_ns);
        let due_ns = reservations.chain(dormant.map(|since_ns| since_ns + KEEP_NS)).min();
        assert_eq!(gateway.next_deadline_ns(), due_ns);
        assert!(self.answered.values().all(|answers| *answers == 1));
    }

    fn row(&self, known: &ModelRegistration) -> RegistrationRow {
        let sockets = |reserved: bool| {
            let is_counted = |idle: &&ModelIdle| {
                idle.node == known.node && idle.reserved_under.is_some() == reserved
            };
            self.idle.iter().filter(is_counted).count()
        };
        RegistrationRow {
            identity: identity(known.node),
            is_public: known.is_public,
            linked: self.links.iter().any(|(node, _)| *node == known.node),
            idle_sockets: sockets(false),
            reserved_sockets: sockets(true),
        }
    }
}

fn leg_of(command: &Command) -> Option<LegTag> {
    match command {
        Command::Reject { leg, .. }
        | Command::Answer { leg, .. }
        | Command::Forget { leg }
        | Command::Offer { caller: leg, .. }
        | Command::TerminateInside { leg } => Some(*leg),
        _ => None,
    }
}

fn closed_socket(command: &Command) -> SocketTag {
    let Command::CloseSocket { socket, .. } = command else { panic!("{command:?}") };
    *socket
}

/// Runs one sequence; returns what it reached.
fn run(seed: u64) -> [u64; 4] {
    let _seed = Seed(seed);
    let mut run = Run::new(seed);
    for _ in 0..OPERATIONS {
        run.step();
    }
    let counts = run.bench.node.counts();
    [
        counts.joins_total,
        counts.reservations_expired_total,
        counts.registrations_expired_total,
        counts.refusals.events(DropReason::ManagementBusy),
    ]
}

#[test]
fn sockets_nonces_and_answers_are_conserved_in_every_sequence() {
    if let Some(seed) = number(SEED_VARIABLE) {
        run(seed);
        return;
    }
    let mut reached = [0_u64; 4];
    let sequences = number("WAYSTATION_MODEL_SEQUENCES").unwrap_or(SEQUENCES);
    for seed in 0..sequences {
        for (sum, count) in reached.iter_mut().zip(run(seed)) {
            *sum += count;
        }
    }
    println!("{sequences} sequences reached {reached:?}");
    let enough = sequences / 100;
    assert!(reached.iter().all(|events| *events >= enough), "{reached:?}: hardly tested");
}
