//! One or two cores on simulated ports, and peers that do as a test says.

use super::{NONCE_FIRST_BYTE, START_NS, data_cores, snapshot};
use crate::clock;
use crate::control::{Command, Report};
use crate::core::DataCore;
use crate::management_end::ManagementEnd;
use crate::port::simulated::{Network, PeerEnd, SimulatedPort, SocketId};
use crate::port::{CloseMode, Port, PortLimits};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use waystation_astral::gateway::idle;
use waystation_proving::random::Random;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, SocketTag};

/// Turns of every core after which nothing is under way.
const SETTLED_TURNS: usize = 12;

pub(super) struct Bench {
    pub(super) network: Rc<RefCell<Network>>,
    pub(super) cores: Vec<DataCore<SimulatedPort>>,
    management: ManagementEnd,
    now_ns: u64,
    nonces: u64,
    /// What the cores have told, in order.
    pub(super) reports: Vec<Report>,
}

/// A connection and its name.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) socket: SocketId,
    pub(super) tag: SocketTag,
}

impl Bench {
    /// Cores with so many blocks each, and all the other memory they want. The seed decides about
    /// the order of events.
    pub(super) fn new(cores: usize, blocks: usize, seed: u64) -> Self {
        clock::simulated::set(START_NS);
        let network = Network::new().unwrap();
        network.borrow_mut().random = Random(seed);
        network.borrow_mut().eager = true;
        let limits = PortLimits { receive_buffers: 16, receive_buffer_bytes: 4096, streams: 64 };
        let (cores, management) =
            data_cores(cores, &network, limits, blocks, &Arc::new(snapshot(0)));
        Self { network, cores, management, now_ns: START_NS, nonces: 0, reports: Vec::new() }
    }

    // Cores

    /// One turn of every core.
    pub(super) fn turn(&mut self) {
        for core in 0..self.cores.len() {
            self.turn_of(core);
        }
    }

    pub(super) fn turn_of(&mut self, core: usize) {
        self.pass(Duration::from_micros(1));
        self.cores[core].turn().unwrap();
        while let Some(report) = self.management.next_report(CoreId(core as u16)) {
            self.reports.push(report);
        }
    }

    /// Turns until nothing goes on.
    pub(super) fn settle(&mut self) {
        (0..SETTLED_TURNS).for_each(|_| self.turn());
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now_ns += time.as_nanos() as u64;
        clock::simulated::set(self.now_ns);
    }

    /// Lets so much time pass, and what comes of it.
    pub(super) fn settle_after(&mut self, time: Duration) {
        self.pass(time);
        self.settle();
    }

    pub(super) fn command(&mut self, core: CoreId, command: Command) {
        self.management.send(core, command).unwrap();
    }

    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        self.cores.iter().map(|core| core.fabric.switch.drops().events(reason)).sum()
    }

    /// Why a socket ended, if it has.
    pub(super) fn ended(&self, socket: SocketTag) -> Option<Option<DropReason>> {
        self.reports.iter().find_map(|report| match *report {
            Report::SocketClosed { socket: closed, reason, .. } if closed == socket => Some(reason),
            _ => None,
        })
    }

    pub(super) fn assert_nothing_is_left(&self) {
        for core in &self.cores {
            assert_eq!((core.load(), core.blocks_in_use()), ((0, 0), 0));
            assert!(core.port.is_at_rest());
            let (total, free) = core.port.receive_buffers();
            assert_eq!(total, free);
        }
    }

    // Peers

    /// Connects and shows a nonce, with bytes behind it. `capacity_bytes` are taken from the core
    /// before they are read.
    pub(super) fn show_nonce(
        &mut self,
        core: usize,
        capacity_bytes: usize,
        early: &[u8],
    ) -> (SocketId, u64) {
        self.nonces += 1;
        let nonce = NONCE_FIRST_BYTE | self.nonces;
        let socket = self.network.borrow_mut().connect(core, capacity_bytes);
        self.send(socket, &[&nonce.to_be_bytes(), early].concat());
        self.settle();
        (socket, nonce)
    }

    /// As that, and finds out how the core calls it.
    pub(super) fn present(&mut self, core: usize, capacity_bytes: usize, early: &[u8]) -> Known {
        let (socket, nonce) = self.show_nonce(core, capacity_bytes, early);
        let tag = self.reports.iter().find_map(|report| match *report {
            Report::SocketPresented { socket, nonce: shown, .. } if shown == nonce => Some(socket),
            _ => None,
        });
        Known { socket, tag: tag.expect("a nonce that was told of") }
    }

    /// A registered node's idle connection.
    pub(super) fn idle(&mut self, core: usize, capacity_bytes: usize) -> Known {
        let node = self.present(core, capacity_bytes, b"");
        self.command(node.tag.core, Command::KeepIdle { socket: node.tag });
        self.settle();
        node
    }

    pub(super) fn join(&mut self, caller: Known, node: Known) {
        let command = Command::JoinSockets {
            caller: caller.tag,
            idle: node.tag,
            caller_quota: None,
            idle_quota: None,
        };
        self.command(caller.tag.core, command);
    }

    /// A pipe on the first core; both sides take so many bytes before they read.
    pub(super) fn pipe(&mut self, capacity_bytes: usize) -> (Known, Known) {
        let node = self.idle(0, capacity_bytes);
        let caller = self.present(0, capacity_bytes, b"");
        self.hand_off(caller, node);
        (caller, node)
    }

    /// Makes a pipe of two that have sent and heard nothing before.
    pub(super) fn hand_off(&mut self, caller: Known, node: Known) {
        self.join(caller, node);
        self.settle();
        assert_eq!(self.read(node.socket), idle::HANDOFF);
        self.send(node.socket, idle::HANDOFF_ACK);
        self.settle();
    }

    pub(super) fn send(&mut self, socket: SocketId, bytes: &[u8]) {
        self.network.borrow_mut().peer_sends(socket, bytes.iter().copied());
    }

    /// Reads what is there.
    pub(super) fn read(&mut self, socket: SocketId) -> Vec<u8> {
        self.network.borrow_mut().peer_reads(socket, usize::MAX)
    }

    /// Reads until nothing more comes.
    pub(super) fn read_all(&mut self, socket: SocketId) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            self.settle();
            let bytes = self.read(socket);
            if bytes.is_empty() {
                return all;
            }
            all.extend(bytes);
        }
    }

    pub(super) fn end(&mut self, socket: SocketId, end: PeerEnd) {
        self.network.borrow_mut().peer_ends(socket, end);
    }

    /// How a peer sees its connection end, if it has.
    pub(super) fn end_seen(&self, socket: SocketId) -> Option<CloseMode> {
        self.network.borrow().end_seen(socket)
    }
}
