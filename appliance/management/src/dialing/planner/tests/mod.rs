//! Conversations with the planner: a world with a clock, links and data cores that do as they are
//! told.

mod gateways;
mod model;
mod races;

use super::*;
use crate::dialing::FailureKind;
use std::net::SocketAddr;
use std::time::Duration;
use waystation_astral::frame::Profile;
use waystation_astral::identity::SecretKey;
use waystation_engine::control::{LinkTotals, LinkUp, Report};
use waystation_relay::drop_reason::DropReason;

pub(super) const SECOND_NS: u64 = 1_000_000_000;

pub(super) fn identity(number: u8) -> Identity {
    let mut scalar = [0; 32];
    scalar[31] = number;
    SecretKey::from_bytes(&scalar).unwrap().identity()
}

/// This node's own.
pub(super) fn own() -> Identity {
    identity(200)
}

pub(super) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

pub(super) fn tcp(port: u16) -> Endpoint {
    Endpoint::Tcp(address(port))
}

pub(super) fn through(gateway: u8, target: u8) -> Endpoint {
    Endpoint::Gateway { gateway: identity(gateway), target: identity(target) }
}

pub(super) fn peer(number: u8, endpoints: &[Endpoint]) -> DialPeer {
    DialPeer { identity: identity(number), endpoints: endpoints.to_vec() }
}

pub(super) struct World {
    pub(super) planner: Planner,
    pub(super) directory: Directory,
    pub(super) now_ns: u64,
    /// What every draw gives: the whole pause.
    pub(super) random: u64,
    /// What the planner wanted since they were last taken.
    pub(super) actions: Vec<Action>,
    slots: u32,
    requests: u64,
}

impl World {
    pub(super) fn new(peers: &[DialPeer]) -> Self {
        Self::with(DialSettings { peers: peers.to_vec(), ..DialSettings::default() })
    }

    pub(super) fn with(settings: DialSettings) -> Self {
        let mut world = Self {
            planner: Planner::new(own(), 2),
            directory: Directory::default(),
            now_ns: SECOND_NS,
            random: u64::MAX,
            actions: Vec::new(),
            slots: 0,
            requests: 0,
        };
        world.set(settings);
        world
    }

    pub(super) fn call<T>(
        &mut self,
        call: impl FnOnce(&mut Planner, &mut Surroundings<'_>) -> T,
    ) -> T {
        let random = self.random;
        let mut around = Surroundings {
            now_ns: self.now_ns,
            directory: &self.directory,
            random: &mut || random,
            actions: &mut self.actions,
        };
        call(&mut self.planner, &mut around)
    }

    pub(super) fn set(&mut self, settings: DialSettings) {
        self.call(|planner, around| planner.set_settings(around, settings));
    }

    pub(super) fn keep(&mut self, peers: &[DialPeer]) {
        let settings = DialSettings { peers: peers.to_vec(), ..self.planner.settings().clone() };
        self.set(settings);
    }

    pub(super) fn request(&mut self, endpoint: Endpoint, target: Identity) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.call(|planner, around| planner.request(around, request, endpoint, target));
        request
    }

    pub(super) fn report(&mut self, report: &Report) {
        match report {
            Report::LinkUp(up) => {
                self.directory.link_up(up);
            }
            Report::LinkDown { link, .. } => {
                self.directory.link_down(*link);
            }
            _ => {}
        }
        self.call(|planner, around| planner.report(around, report));
    }

    /// Lets time pass, with everything that becomes due on the way.
    pub(super) fn pass(&mut self, time_ns: u64) {
        let until_ns = self.now_ns + time_ns;
        while let Some(due_ns) = self.planner.next_deadline_ns().filter(|due| *due <= until_ns) {
            self.now_ns = self.now_ns.max(due_ns);
            self.call(|planner, around| planner.tick(around));
        }
        self.now_ns = until_ns;
        self.call(|planner, around| planner.tick(around));
    }

    /// The connections that are to be made since the last look, or given up.
    pub(super) fn connects(&mut self) -> Vec<(DialId, Route)> {
        let mut connects = Vec::new();
        self.actions.retain(|action| match action {
            Action::Connect { dial, route } => {
                connects.push((*dial, route.clone()));
                false
            }
            _ => true,
        });
        connects
    }

    /// The only connection since the last look, which goes to this port.
    pub(super) fn connect_to(&mut self, port: u16) -> DialId {
        match &self.connects()[..] {
            [(dial, Route::Tcp { address: to })] if *to == address(port) => *dial,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn abandoned(&mut self) -> Vec<DialId> {
        let mut abandoned = Vec::new();
        self.actions.retain(|action| match action {
            Action::Abandon { dial } => {
                abandoned.push(*dial);
                false
            }
            _ => true,
        });
        abandoned
    }

    pub(super) fn commands(&mut self) -> Vec<(CoreId, Command)> {
        let (commands, rest) = std::mem::take(&mut self.actions)
            .into_iter()
            .partition(|action| matches!(action, Action::Command { .. }));
        self.actions = rest;
        commands
            .into_iter()
            .map(|action| match action {
                Action::Command { core, command } => (core, command),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// The links that are to be closed as surplus since the last look; no other commands.
    pub(super) fn closed(&mut self) -> Vec<LinkTag> {
        self.commands()
            .into_iter()
            .map(|(core, command)| match command {
                Command::CloseLink { link, reason: DropReason::SurplusLink } => {
                    assert_eq!(core, link.core);
                    link
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }

    pub(super) fn answers(&mut self) -> Vec<(RequestId, Result<LinkTag, DialError>)> {
        let mut answers = Vec::new();
        self.actions.retain(|action| match action {
            Action::Answer { request, outcome } => {
                answers.push((*request, outcome.clone()));
                false
            }
            _ => true,
        });
        answers
    }

    pub(super) fn connected(&mut self, dial: DialId) -> Option<Handover> {
        self.call(|planner, around| planner.connect_ended(around, dial, Ok(())))
    }

    pub(super) fn refuse(&mut self, dial: DialId) {
        let refused = DialCause::Connect(std::io::ErrorKind::ConnectionRefused);
        let nobody = self.call(|planner, around| planner.connect_ended(around, dial, Err(refused)));
        assert_eq!(nobody, None);
    }

    pub(super) fn fail(&mut self, dial: DialId) {
        self.report(&Report::DialFailed { dial, reason: DropReason::HandshakeTimeout });
    }

    pub(super) fn link(&mut self, number: u8, core: CoreId, dial: Option<DialId>) -> LinkTag {
        self.link_of(number, core, dial, Profile::P4, address(7))
    }

    pub(super) fn link_of(
        &mut self,
        number: u8,
        core: CoreId,
        dial: Option<DialId>,
        profile: Profile,
        remote: SocketAddr,
    ) -> LinkTag {
        self.slots += 1;
        let link = LinkTag { core, slot: self.slots, generation: 0 };
        self.report(&Report::LinkUp(LinkUp {
            link,
            identity: identity(number),
            profile,
            link_id: 7,
            remote,
            local: address(8),
            inner: false,
            network: Network::Tcp,
            dial,
        }));
        link
    }

    /// Hands a connection over and makes it a link.
    pub(super) fn complete(&mut self, dial: DialId) -> LinkTag {
        let handover = self.connected(dial).unwrap();
        let number = (1..=u8::MAX).find(|number| identity(*number) == handover.identity).unwrap();
        self.link(number, handover.core, Some(dial))
    }

    pub(super) fn down(&mut self, link: LinkTag, age_ns: u64) {
        let identity = self.directory.get(link).unwrap().identity;
        let totals = LinkTotals { age_ns, ..LinkTotals::default() };
        self.report(&Report::LinkDown { link, identity, reason: None, totals });
    }

    pub(super) fn state(&self, number: u8) -> PeerState {
        self.row(number).state
    }

    pub(super) fn row(&self, number: u8) -> PeerRow {
        let mut rows = self.planner.rows(&self.directory);
        rows.find(|row| row.identity == identity(number)).unwrap()
    }

    /// Every dial has one outcome or is under way.
    pub(super) fn check_counts(&self) {
        let counts = self.planner.counts();
        let ended = counts.succeeded_total
            + counts.failed()
            + counts.cancelled_total
            + counts.surplus_total;
        assert_eq!(counts.started_total, ended + counts.active as u64, "{counts:?}");
        assert!(counts.active <= self.planner.settings().dials_max);
        assert_eq!(
            counts.failed() - counts.failed_total(FailureKind::Link),
            counts.drops.events(DropReason::ConnectFailed)
        );
    }
}

/// With these peers, few dials at a time.
pub(super) fn few_at_a_time(dials_max: usize, peers: &[DialPeer]) -> DialSettings {
    DialSettings {
        peers: peers.to_vec(),
        dials_max,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(8),
        ..DialSettings::default()
    }
}
