//! The management core's part: what it is told and what it decides.

use super::peers::{Ended, Peer, Role};
use super::world::World;
use crate::control::{Command, Report};
use crate::port::simulated::Place;
use std::sync::Arc;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, SocketTag};
use waystation_relay::quota::Quota;

/// What the management core knows about a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has not presented a nonce.
    Unknown,
    /// It waits for a verdict.
    Presented,
    /// It is a node's, and free.
    Idle,
    /// It was told to become part of a pipe, and is not looked after any more.
    Joined,
    /// It was told to end.
    Refused,
    /// It has ended.
    Ended,
}

impl World {
    pub(super) fn management_acts(&mut self) {
        if self.one_in(30) {
            if !self.calm && !self.peers.is_empty() {
                let peer = self.below(self.peers.len() as u64) as usize;
                self.close_by_hand(peer);
            }
            return;
        }
        let waiting: Vec<_> = (0..self.peers.len())
            .filter(|&peer| self.peers[peer].standing == Standing::Presented)
            .collect();
        if waiting.is_empty() {
            return;
        }
        let peer = self.of(&waiting);
        match self.peers[peer].role {
            _ if self.one_in(15) => {
                let reasons = [DropReason::TooManyConnections, DropReason::SocketNonceUnknown];
                let reason = self.of(&reasons);
                self.close_socket(peer, reason);
                self.reach("dismissed");
            }
            Role::Node => {
                let socket = self.tag(peer);
                self.peers[peer].standing = Standing::Idle;
                self.command(socket.core.index(), Command::KeepIdle { socket });
            }
            _ => self.join(peer),
        }
    }

    pub(super) fn close_by_hand(&mut self, peer: usize) {
        let known = matches!(
            self.peers[peer].standing,
            Standing::Presented | Standing::Idle | Standing::Joined
        );
        if known {
            self.close_socket(peer, DropReason::SessionClosedByOperator);
        }
    }

    fn close_socket(&mut self, peer: usize, reason: DropReason) {
        let socket = self.tag(peer);
        self.peers[peer].standing = Standing::Refused;
        self.command(socket.core.index(), Command::CloseSocket { socket, reason });
    }

    /// Joins a caller to a node that is free as far as is known.
    fn join(&mut self, caller: usize) {
        let free: Vec<_> = (0..self.peers.len())
            .filter(|&peer| self.peers[peer].standing == Standing::Idle)
            .collect();
        if free.is_empty() {
            return;
        }
        let node = self.of(&free);
        let mut idle = self.tag(node);
        if self.one_in(40) {
            // A core that does not exist stands for one whose ring of sockets is full.
            idle.core = CoreId(7);
        } else {
            self.peers[node].standing = Standing::Joined;
            self.peers[node].partner = Some(caller);
            self.peers[caller].partner = Some(node);
        }
        self.peers[caller].standing = Standing::Joined;
        let socket = self.tag(caller);
        let command = Command::JoinSockets {
            caller: socket,
            idle,
            caller_quota: self.pace(caller),
            idle_quota: self.pace(node),
        };
        self.command(socket.core.index(), command);
    }

    fn pace(&mut self, peer: usize) -> Option<Arc<Quota>> {
        let rate = self.below(2 * self.rates.len() as u64) as usize;
        let quota = self.rates.get(rate).map(|rate| Arc::clone(&rate.quota));
        self.peers[peer].rate = quota.is_some().then_some(rate);
        quota
    }

    fn tag(&self, peer: usize) -> SocketTag {
        *self.peers[peer].tags.last().expect("a socket that presented its nonce")
    }

    /// Takes what a core has to tell. Returns whether there was anything.
    pub(super) fn take_reports(&mut self, core: usize) -> bool {
        let mut some = false;
        while let Some(report) = self.management.next_report(CoreId(core as u16)) {
            some = true;
            self.on_report(report);
        }
        some
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::SocketPresented { socket, nonce, .. } => self.on_presented(socket, nonce),
            Report::SocketClosed { socket, reason, bytes_in, bytes_out, .. } => {
                self.note_told(reason);
                self.on_closed(socket, Ended { reason, bytes_in, bytes_out });
            }
            Report::JoinFailed { idle } => {
                self.reach("join failed");
                let close =
                    Command::CloseSocket { socket: idle, reason: DropReason::HandoffTimeout };
                self.command(idle.core.index(), close);
            }
            Report::HandshakeFailed { reason, .. } => self.note_told(Some(reason)),
            Report::Adopted { epoch, .. } => assert_eq!(epoch, self.epoch),
            other => panic!("{other:?}"),
        }
    }

    fn note_told(&mut self, reason: Option<DropReason>) {
        if let Some(reason) = reason {
            *self.told.entry(reason.name()).or_default() += 1;
        }
    }

    fn on_presented(&mut self, socket: SocketTag, nonce: u64) {
        let peer = self.peers.iter_mut().find(|peer| peer.nonce == nonce).expect("a known nonce");
        assert_eq!(peer.standing, Standing::Unknown, "a nonce is presented twice");
        assert!(peer.has_presented(), "a nonce that was not sent");
        if peer.tags.is_empty() {
            peer.tags.push(socket);
        }
        assert_eq!(peer.tags, [socket]);
        peer.standing = Standing::Presented;
    }

    fn on_closed(&mut self, socket: SocketTag, ended: Ended) {
        let peer = self.peer_of_tag(socket).unwrap_or_else(|| self.traveller_to(socket));
        let peer = &mut self.peers[peer];
        assert_eq!(peer.tags.last(), Some(&socket), "an end under an old name");
        assert!(peer.ended.is_none(), "a second end");
        assert_ne!(peer.standing, Standing::Unknown, "an end before its nonce");
        peer.ended = Some(ended);
        peer.standing = Standing::Ended;
    }

    /// A caller that came to another core and ended there within one turn.
    fn traveller_to(&mut self, socket: SocketTag) -> usize {
        let network = self.network.borrow();
        let arrived = |peer: &Peer| {
            let from = peer.tags.last().is_some_and(|tag| tag.core != socket.core);
            peer.travels && from && network.place(peer.socket) != Place::Core
        };
        let peer = self.peers.iter().position(arrived).unwrap_or_else(|| {
            panic!(
                "{socket} is nobody: {:?}",
                self.peers
                    .iter()
                    .map(|p| (
                        p.role,
                        p.standing,
                        p.tags.clone(),
                        p.travels,
                        network.place(p.socket)
                    ))
                    .collect::<Vec<_>>()
            )
        });
        self.peers[peer].travels = false;
        self.peers[peer].tags.push(socket);
        peer
    }

    /// Notes which sockets a core has, under which names, and which have left it.
    pub(super) fn follow_sockets(&mut self, core: usize) {
        let port = self.cores[core].port();
        let streams: Vec<_> = port.streams().map(|(key, socket, _)| (key, socket)).collect();
        for (key, socket) in streams {
            let data_core = &self.cores[core];
            let Some(slot) = data_core.slot_of(key) else { continue };
            let Some(connection) = data_core.connections.at(slot) else { continue };
            if !connection.phase.is_socket() {
                continue;
            }
            let tag = data_core.socket_tag(slot);
            let peer = self.peers.iter_mut().find(|peer| peer.socket == socket);
            let peer = peer.expect("a peer's socket");
            if peer.tags.contains(&tag) {
                continue;
            }
            assert!(peer.tags.is_empty() || peer.travels, "{socket:?} has two names");
            peer.tags.push(tag);
            if std::mem::take(&mut peer.travels) {
                self.reach("caller came from another core");
            }
        }
        let network = self.network.borrow();
        for peer in &mut self.peers {
            let here = peer.tags.last().is_some_and(|tag| tag.core.index() == core);
            peer.travels |= here && network.place(peer.socket) == Place::Core;
        }
    }
}
