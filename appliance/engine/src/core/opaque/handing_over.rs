//! The opaque sessions of a core, on their way to another process.
//!
//! Called on the core's thread when an upgrade is under way. The old process pauses: datagrams wait
//! in the sockets, which both processes have. The new one goes on with the sessions, or the old one
//! does if nothing came of it.

use super::ports::SocketsOfPort;
use super::{Carried, OpaqueSessions};
use crate::control::OpaqueTaken;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, UdpSocket};
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::udp::{LocalPort, SessionState, Settings};

/// One session, with what its core knows besides its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpaqueSessionState {
    pub session: SessionState,
    /// The addresses of ours that its ends send to, where the sockets are on all addresses.
    pub local: [Option<IpAddr>; 2],
    /// What was sent to each leg.
    pub datagrams: [u64; 2],
    /// The same in bytes of payload.
    pub bytes: [u64; 2],
}

/// What a core hands over of its opaque sessions, but for what it has told of already.
#[derive(Debug, Default)]
pub struct OpaqueHandOver {
    /// Sessions that have ended since they were told of.
    pub ended: Vec<UdpSessionTag>,
    /// Sessions that are new, or otherwise than they were told.
    pub sessions: Vec<OpaqueSessionState>,
    /// The sockets of each port, at most one of each family.
    pub sockets: Vec<(LocalPort, UdpSocket)>,
}

/// What a core takes over: the same, with what each session was opened with.
#[derive(Debug, Default)]
pub struct OpaqueTakeOver {
    pub ended: Vec<UdpSessionTag>,
    pub sessions: Vec<(OpaqueSessionState, Settings)>,
    pub sockets: Vec<(LocalPort, UdpSocket)>,
}

/// What another process has been told of: nothing at first.
#[derive(Debug, Default)]
pub(in crate::core) struct OpaqueTold {
    sessions: BTreeMap<UdpSessionTag, OpaqueSessionState>,
    pub(super) sockets: BTreeMap<LocalPort, SocketsOfPort>,
}

impl OpaqueSessions {
    /// Leaves datagrams where they are.
    pub(in crate::core) fn pause(&mut self) {
        self.is_paused = true;
        self.has_more = false;
    }

    /// Takes datagrams again.
    pub(in crate::core) fn resume(&mut self) {
        self.is_paused = false;
        self.has_more = !self.sockets.is_empty();
    }

    /// What another process needs to go on with all sessions, but for what it was told already.
    pub(in crate::core) fn tell(&self, told: &mut OpaqueTold) -> io::Result<OpaqueHandOver> {
        let mut before = std::mem::take(&mut told.sessions);
        let mut sessions = Vec::new();
        for session in self.sessions.states() {
            let carried = self.carried.get(session.slot as usize).copied().unwrap_or_default();
            let Carried { local, datagrams, bytes, .. } = carried;
            let state = OpaqueSessionState { session, local, datagrams, bytes };
            let tag = self.tag_of(&state);
            if before.remove(&tag).as_ref() != Some(&state) {
                sessions.push(state.clone());
            }
            told.sessions.insert(tag, state);
        }
        let ended = before.into_keys().collect();
        let sockets = self.ports.share(&self.sockets, &mut told.sockets)?;
        Ok(OpaqueHandOver { ended, sessions, sockets })
    }

    fn tag_of(&self, state: &OpaqueSessionState) -> UdpSessionTag {
        let SessionState { slot, generation, .. } = state.session;
        UdpSessionTag { core: self.core, slot, generation }
    }

    /// Forgets all sessions without a word: another process goes on with them.
    pub(in crate::core) fn let_go(&mut self) {
        let open: Vec<_> = self.sessions.listed_from(0).map(|listed| listed.session).collect();
        for session in open {
            let ports = self.forget(session);
            ports.into_iter().for_each(|ports| self.give_back(ports));
        }
        self.sweep_ns = None;
    }

    /// Forgets a session without a word. Returns its ports, which are open until they are given
    /// back.
    fn forget(&mut self, session: UdpSessionTag) -> Option<[LocalPort; 2]> {
        if !self.sessions.close(session, &mut |_closed| ()) {
            return None;
        }
        self.moves.forget(session.slot);
        self.paths.forget(session.slot);
        let carried = self.carried.get_mut(session.slot as usize).map(std::mem::take);
        Some(carried.unwrap_or_default().ports)
    }

    /// Goes on with what another process had, or has by now. Says which of these sessions there are
    /// now; the others cannot be here.
    pub(in crate::core) fn take_over(&mut self, from: OpaqueTakeOver) -> OpaqueTaken {
        let mut taken = OpaqueTaken::default();
        for session in from.ended {
            let ports = self.forget(session);
            ports.into_iter().for_each(|ports| self.give_back(ports));
            taken.ended.push(session);
        }
        self.ports.inherit(from.sockets);
        for (state, settings) in from.sessions {
            let tag = self.tag_of(&state);
            // Of one that was told before, the sockets are those it has.
            let before = self.forget(tag);
            match self.take_session(&state, settings) {
                Ok(session) => taken.sessions.push(session),
                Err(error) => taken.left.push((tag, error)),
            }
            before.into_iter().for_each(|ports| self.give_back(ports));
        }
        self.ports.inherit(Vec::new());
        taken
    }
}
