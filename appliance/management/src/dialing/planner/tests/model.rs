//! Random worlds: whatever happens in whatever order, dials are bounded, each has one outcome, and
//! nobody is dialed who should not be.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use waystation_astral::gateway::socket_object;

/// One thing that happens; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Event {
    Pass { milliseconds: u64 },
    Connect { which: usize, well: bool },
    Link { which: usize, well: bool },
    Inbound { number: u8 },
    Down { which: usize, old: bool },
    Asked { which: usize, code: u8, well: bool },
    Configure { peers: u8, dials_max: usize },
    Request { number: u8, gateway: bool },
}

fn event() -> impl Strategy<Value = Event> {
    let which = 0..64_usize;
    prop_oneof![
        3 => (1..5000_u64).prop_map(|milliseconds| Event::Pass { milliseconds }),
        4 => (which.clone(), any::<bool>()).prop_map(|(which, well)| Event::Connect { which, well }),
        4 => (which.clone(), any::<bool>()).prop_map(|(which, well)| Event::Link { which, well }),
        1 => (1..7_u8).prop_map(|number| Event::Inbound { number }),
        2 => (which.clone(), any::<bool>()).prop_map(|(which, old)| Event::Down { which, old }),
        2 => (which, 0..3_u8, any::<bool>())
            .prop_map(|(which, code, well)| Event::Asked { which, code, well }),
        1 => (any::<u8>(), 1..9_usize)
            .prop_map(|(peers, dials_max)| Event::Configure { peers, dials_max }),
        1 => (1..7_u8, any::<bool>()).prop_map(|(number, gateway)| Event::Request { number, gateway }),
    ]
}

/// What data cores and tasks have in their hands.
struct Model {
    world: World,
    connecting: Vec<DialId>,
    handed: Vec<(DialId, CoreId, u8)>,
    asks: Vec<AskId>,
    links: Vec<LinkTag>,
    wanted: BTreeSet<u8>,
    by_hand: BTreeSet<u8>,
    waiting: BTreeSet<RequestId>,
    legs: u32,
}

/// Six peers; the last two are reached through the first.
fn endpoints(number: u8) -> Vec<Endpoint> {
    match number {
        5 => vec![through(1, 5), tcp(50)],
        6 => vec![through(1, 6)],
        _ => (0..number).map(|n| tcp(u16::from(number) * 10 + u16::from(n))).collect(),
    }
}

impl Model {
    fn new() -> Self {
        Self {
            world: World::new(&[]),
            connecting: Vec::new(),
            handed: Vec::new(),
            asks: Vec::new(),
            links: Vec::new(),
            wanted: BTreeSet::new(),
            by_hand: BTreeSet::new(),
            waiting: BTreeSet::new(),
            legs: 0,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Pass { milliseconds } => self.world.pass(milliseconds * 1_000_000),
            Event::Connect { which, well } => self.connect(which, well),
            Event::Link { which, well } => self.end_handed(which, well),
            Event::Inbound { number } => {
                let link = self.world.link(number, CoreId(1), None);
                self.links.push(link);
            }
            Event::Down { which, old } => {
                if !self.links.is_empty() {
                    let link = self.links.swap_remove(which % self.links.len());
                    self.world.down(link, if old { 3600 * SECOND_NS } else { 1 });
                }
            }
            Event::Asked { which, code, well } => self.answer(which, code, well),
            Event::Configure { peers, dials_max } => self.configure(peers, dials_max),
            Event::Request { number, gateway } => {
                self.by_hand.insert(number);
                let endpoint = if gateway { through(1, number) } else { tcp(u16::from(number)) };
                let request = self.world.request(endpoint, identity(number));
                self.waiting.insert(request);
            }
        }
        self.look();
    }

    fn connect(&mut self, which: usize, well: bool) {
        if self.connecting.is_empty() {
            return;
        }
        let dial = self.connecting.swap_remove(which % self.connecting.len());
        if !well {
            self.world.refuse(dial);
            return;
        }
        let handover = self.world.connected(dial).unwrap();
        let number = (1..7).find(|number| identity(*number) == handover.identity).unwrap();
        self.handed.push((dial, handover.core, number));
    }

    fn end_handed(&mut self, which: usize, well: bool) {
        if self.handed.is_empty() {
            return;
        }
        let (dial, core, number) = self.handed.swap_remove(which % self.handed.len());
        if well {
            let link = self.world.link(number, core, Some(dial));
            self.links.push(link);
        } else {
            self.world.fail(dial);
        }
    }

    fn answer(&mut self, which: usize, code: u8, well: bool) {
        if self.asks.is_empty() {
            return;
        }
        let ask = self.asks.swap_remove(which % self.asks.len());
        self.legs += 1;
        let leg = LegTag { core: CoreId(1), slot: self.legs, generation: 0 };
        self.world.report(&Report::Asked { ask, leg, code });
        if code == 0 && well {
            let bytes = socket_object(&tcp(7), 0x2233_4455_6677_8899).into();
            self.world.report(&Report::Input { leg, bytes });
        }
        if code == 0 {
            self.world.report(&Report::SessionEnded { leg });
        }
    }

    fn configure(&mut self, peers: u8, dials_max: usize) {
        self.wanted = (1..7).filter(|number| peers & (1 << number) != 0).collect();
        let peers: Vec<DialPeer> =
            self.wanted.iter().map(|number| peer(*number, &endpoints(*number))).collect();
        // A lowered bound does not end what is under way.
        let least = self.world.planner.counts().active;
        self.world.set(few_at_a_time(dials_max.max(least), &peers));
    }

    /// Takes up what the planner wants, and checks that it may.
    fn look(&mut self) {
        for (dial, _) in self.world.connects() {
            let target = self.world.planner.dials.get(&dial).map(|dial| dial.target);
            let may = |number: &&u8| target.is_none_or(|target| identity(**number) == target);
            assert!(self.wanted.iter().chain(&self.by_hand).any(|number| may(&number)));
            self.connecting.push(dial);
        }
        for dial in self.world.abandoned() {
            self.connecting.retain(|connecting| *connecting != dial);
        }
        for (core, command) in self.world.commands() {
            match command {
                Command::CloseLink { link, reason } => {
                    assert_eq!(reason, DropReason::SurplusLink);
                    let up = self.world.directory.get(link).unwrap();
                    assert!(up.dial.is_some(), "a link that the peer made is closed");
                    let others = self.world.directory.best_first(&up.identity);
                    let left = others.filter(|other| other.link != link).count();
                    let wanted = self.wanted.iter().any(|number| identity(*number) == up.identity);
                    assert!(left > 0 || !wanted, "the last link to a peer is closed");
                    self.links.retain(|open| *open != link);
                    self.world.down(link, 1);
                }
                Command::Ask { ask, .. } => self.asks.push(ask),
                Command::InitiateInside { dial, identity: whom, .. } => {
                    let number = (1..7).find(|number| identity(*number) == whom).unwrap();
                    self.handed.push((dial, core, number));
                }
                Command::Write { end: true, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        for (request, _) in self.world.answers() {
            assert!(self.waiting.remove(&request), "answered twice");
        }
        if !self.world.actions.is_empty() {
            self.look();
        }
        self.world.check_counts();
        assert_eq!(self.connecting.len(), self.world.planner.connecting());
    }

    /// Lets every handshake and connection fail, until nothing is under way.
    fn run_down(&mut self) {
        self.configure(0, 8);
        self.look();
        for _ in 0..1000 {
            self.happen(Event::Connect { which: 0, well: false });
            self.happen(Event::Link { which: 0, well: false });
            self.happen(Event::Asked { which: 0, code: 1, well: false });
            self.happen(Event::Pass { milliseconds: 1000 });
        }
        assert_eq!(self.world.planner.counts().active, 0);
        assert!(self.waiting.is_empty(), "never answered: {:?}", self.waiting);
        let planner = &self.world.planner;
        assert!(planner.races.is_empty() && planner.turns.is_empty());
        assert!(planner.asks.is_empty() && planner.legs.is_empty());
        assert_eq!((planner.requests, planner.due_ns), (0, None));
        assert_eq!(planner.load.iter().sum::<usize>(), self.world.directory.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_dial_has_one_outcome_and_nothing_is_left_behind(
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut model = Model::new();
        model.configure(0b0111_1110, 8);
        model.look();
        for event in events {
            model.happen(event);
        }
        model.run_down();
    }
}
