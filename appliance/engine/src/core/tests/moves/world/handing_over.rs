//! All links go on with the cores of another process, or after all with their own.

use super::{CORES, World, new_cores, new_cores_with};
use crate::control::{Command, FrozenLinks, Report};
use crate::core::LinkState;
use crate::port::simulated::Network;
use std::collections::BTreeSet;
use std::net::TcpStream;
use waystation_relay::ids::{CoreId, LinkTag};

/// Rounds in which everything comes to stand still.
const FREEZING_ROUNDS_MAX: usize = 100;

type Told = Vec<(Box<LinkState>, TcpStream)>;

impl World {
    pub(super) fn hand_over(&mut self) {
        if !self.end_moves() {
            return;
        }
        self.freeze_once();
        self.hand_overs += 1;
        if self.hand_overs.is_multiple_of(3) {
            self.command_all(|_| Command::ThawLinks);
            self.reach("not handed over at once");
            return;
        }
        let Some(told) = self.stand_still() else {
            // A peer that is gone takes nothing; its link ends in its own time.
            self.command_all(|_| Command::ThawLinks);
            self.reach("not handed over");
            return;
        };
        if self.hand_overs % 3 == 1 {
            self.command_all(|_| Command::ThawLinks);
            self.reach("not handed over");
            return;
        }
        self.begin_elsewhere(told);
        self.reach("handed over");
    }

    /// Tells of all links to a process that has no room for sessions and must keep nothing of them.
    /// They go on here. Returns how many blocks those with sessions would take there.
    pub(in crate::core::tests::moves) fn be_refused(&mut self) -> usize {
        if !self.end_moves() {
            return 0;
        }
        let told = self.stand_still().unwrap_or_default();
        let (mut cores, management) = new_cores_with(&Network::new().unwrap(), 0);
        let mut blocks = 0;
        for (core, links) in told.into_iter().enumerate() {
            let refused = links.iter().filter(|(state, _)| state.sessions.sessions() > 0);
            blocks += refused.map(|(state, _)| state.blocks()).sum::<usize>();
            for command in [Command::TakeLinks { links }, Command::ForgetLinks] {
                management.send(CoreId(core as u16), command).unwrap();
                cores[core].turn().unwrap();
            }
            assert_eq!(cores[core].load(), (0, 0), "a session or connection is left");
            assert_eq!(cores[core].blocks_in_use(), 0, "blocks are left");
        }
        self.command_all(|_| Command::ThawLinks);
        blocks
    }

    /// A core that lets a link go to another one lets no others go. Returns whether none moves.
    fn end_moves(&mut self) -> bool {
        for _ in 0..FREEZING_ROUNDS_MAX {
            if !self.peers.iter().any(|peer| peer.moving) {
                break;
            }
            (0..CORES).for_each(|core| self.turn(core));
            (0..CORES).for_each(|core| _ = self.take_reports(core));
            (0..self.peers.len()).for_each(|peer| _ = self.read(peer, usize::MAX));
        }
        !self.peers.iter().any(|peer| peer.moving)
    }

    /// All links with what is to be told of them.
    fn stand_still(&mut self) -> Option<Vec<Told>> {
        self.network.borrow_mut().eager = true;
        let frozen = self.freeze();
        self.network.borrow_mut().eager = false;
        frozen.map(|frozen| self.tell(&frozen))
    }

    fn command_all(&mut self, mut command: impl FnMut(usize) -> Command) {
        for core in 0..CORES {
            self.management.send(CoreId(core as u16), command(core)).unwrap();
        }
    }

    /// Has all cores freeze, in some order and with anything between.
    fn freeze_once(&mut self) -> Vec<FrozenLinks> {
        self.command_all(|_| Command::FreezeLinks { round: 0 });
        let mut answers = Vec::new();
        while answers.len() < CORES {
            let core = self.below(CORES as u64) as usize;
            self.turn(core);
            while let Some(report) = self.management.next_report(CoreId(core as u16)) {
                match report {
                    Report::LinksFrozen(frozen) => answers.push(*frozen),
                    report => self.on_report(report),
                }
            }
            // Whoever waits for a verdict has it, and whoever is sent something reads.
            for (leg, session) in std::mem::take(&mut self.queries) {
                self.end(session, false);
                self.management.send(leg.core, Command::Reject { leg, code: 4 }).unwrap();
            }
            (0..self.peers.len()).for_each(|peer| _ = self.read(peer, usize::MAX));
        }
        answers
    }

    fn freeze(&mut self) -> Option<Vec<FrozenLinks>> {
        let (mut before, mut is_quiet) = (None, false);
        for _ in 0..FREEZING_ROUNDS_MAX {
            let answers = self.freeze_once();
            let sum = |of: fn(&FrozenLinks) -> u64| answers.iter().map(of).sum::<u64>();
            let totals = (sum(|it| it.batches_sent), sum(|it| it.batches_received));
            is_quiet = totals.0 == totals.1 && before == Some(totals);
            if is_quiet && answers.iter().all(|answer| answer.busy == 0) {
                return Some(answers);
            }
            before = Some(totals);
        }
        assert!(is_quiet, "cores do not come to an end with each other");
        assert!(
            self.peers.iter().any(|peer| !peer.alive && peer.tag.is_some()),
            "links never stand"
        );
        None
    }

    /// Has all cores tell of all their links, which are in one piece with those they are joined to.
    fn tell(&mut self, frozen: &[FrozenLinks]) -> Vec<Told> {
        let links = |core: usize| frozen.iter().filter(move |it| it.core.index() == core);
        let links = |core| links(core).flat_map(|it| it.links.iter());
        let all: BTreeSet<(CoreId, u32)> =
            (0..CORES).flat_map(links).map(|it| (it.link.core, it.link.slot)).collect();
        let joined: BTreeSet<_> =
            (0..CORES).flat_map(links).flat_map(|it| it.joined.iter().copied()).collect();
        assert!(joined.is_subset(&all), "{joined:?} of {all:?}");
        let wanted: Vec<Vec<LinkTag>> =
            (0..CORES).map(|core| links(core).map(|it| it.link).collect()).collect();
        let count = self.cores.iter().map(|core| core.links).sum::<usize>();
        assert_eq!(wanted.iter().map(Vec::len).sum::<usize>(), count, "a link cannot go");
        self.command_all(|core| Command::TellLinks { links: wanted[core].clone() });
        let mut all_told = Vec::new();
        for core in 0..CORES {
            self.turn(core);
            while let Some(report) = self.management.next_report(CoreId(core as u16)) {
                match report {
                    Report::LinksTold { result, .. } => all_told.push(result.unwrap()),
                    report => self.on_report(report),
                }
            }
        }
        assert_eq!(all_told.len(), CORES);
        all_told
    }

    fn begin_elsewhere(&mut self, told: Vec<Told>) {
        let (cores, management) = new_cores(&self.network);
        let old = (
            std::mem::replace(&mut self.cores, cores),
            std::mem::replace(&mut self.management, management),
        );
        for (core, links) in told.into_iter().enumerate() {
            let read_again = links.into_iter().map(|(state, socket)| {
                let text = serde_json::to_string(&state).unwrap();
                let state: Box<LinkState> = serde_json::from_str(&text).unwrap();
                let peer = self.peer_of(state.tag(CoreId(core as u16))).expect("nobody's link");
                self.network.borrow_mut().pass_on(self.peers[peer].socket, &socket);
                (state, socket)
            });
            let links = read_again.collect();
            self.management.send(CoreId(core as u16), Command::TakeLinks { links }).unwrap();
        }
        let (mut old_cores, old_management) = old;
        for (core, entry) in old_cores.iter_mut().enumerate() {
            let sealed_in_place = entry.fabric.statistics.counters.records_sealed_in_place;
            *self.reached.entry("sealed in place").or_default() += sealed_in_place;
            old_management.send(CoreId(core as u16), Command::ForgetLinks).unwrap();
            entry.turn().unwrap();
        }
        // Blocks that crossed are on their way back.
        old_cores.iter_mut().for_each(|core| core.turn().unwrap());
        // What is left of links that have ended before goes on without them.
        for core in old_cores.iter().filter(|core| core.closing.is_empty()) {
            assert_eq!(core.load(), (0, 0), "a session or connection is left");
            assert_eq!((core.blocks_in_use(), core.queued_bytes()), (0, 0), "memory is left");
            let (total, free) = crate::port::Port::receive_buffers(core.port());
            assert_eq!(total, free, "a receive buffer is left");
        }
        let mut taken = 0;
        for core in 0..CORES {
            self.turn(core);
            while let Some(report) = self.management.next_report(CoreId(core as u16)) {
                match report {
                    Report::LinksTaken { result, .. } => {
                        result.unwrap();
                        taken += 1;
                    }
                    report => self.on_report(report),
                }
            }
        }
        assert_eq!(taken, CORES);
        self.command_all(|_| Command::ThawLinks);
    }
}
