//! The opaque sessions of a core, on their way to another process.
//!
//! Called on the core's thread when an upgrade is under way. The old process pauses: datagrams wait
//! in the sockets, which both processes have. The new one goes on with the sessions, or the old one
//! does if nothing came of it.

use super::{Carried, OpaqueSessions};
use crate::control::OpaqueTaken;
use std::io;
use std::net::{IpAddr, UdpSocket};
use waystation_relay::udp::{LocalPort, SessionState, Settings};

/// One session, with what its core knows besides its table.
#[derive(Debug)]
pub struct OpaqueSessionState {
    pub session: SessionState,
    /// The addresses of ours that its ends send to, where the sockets are on all addresses.
    pub local: [Option<IpAddr>; 2],
    /// What was sent to each leg.
    pub datagrams: [u64; 2],
    /// The same in bytes of payload.
    pub bytes: [u64; 2],
}

/// What a core hands over of its opaque sessions.
#[derive(Debug, Default)]
pub struct OpaqueHandOver {
    pub sessions: Vec<OpaqueSessionState>,
    /// The sockets of each port, at most one of each family.
    pub sockets: Vec<(LocalPort, UdpSocket)>,
}

/// What a core takes over: the same, with what each session was opened with.
#[derive(Debug, Default)]
pub struct OpaqueTakeOver {
    pub sessions: Vec<(OpaqueSessionState, Settings)>,
    pub sockets: Vec<(LocalPort, UdpSocket)>,
}

impl OpaqueSessions {
    /// Leaves datagrams where they are.
    pub(in crate::core) fn pause(&mut self) {
        self.is_paused = true;
        self.has_more = false;
        self.sockets.unwatch();
    }

    /// Takes datagrams again.
    pub(in crate::core) fn resume(&mut self) -> io::Result<()> {
        self.is_paused = false;
        self.has_more = !self.sockets.is_empty();
        self.sockets.watch()
    }

    /// What another process needs to go on with all sessions.
    pub(in crate::core) fn hand_over(&self) -> io::Result<OpaqueHandOver> {
        let sessions = self.sessions.states().map(|session| {
            let carried = self.carried.get(session.slot as usize).copied().unwrap_or_default();
            let Carried { local, datagrams, bytes, .. } = carried;
            OpaqueSessionState { session, local, datagrams, bytes }
        });
        Ok(OpaqueHandOver {
            sessions: sessions.collect(),
            sockets: self.ports.share(&self.sockets)?,
        })
    }

    /// Forgets all sessions without a word: another process goes on with them.
    pub(in crate::core) fn let_go(&mut self) {
        let open: Vec<_> = self.sessions.listed_from(0).map(|listed| listed.session).collect();
        for session in open {
            self.sessions.close(session, &mut |_closed| ());
            self.moves.forget(session.slot);
            self.paths.forget(session.slot);
            let carried = self.carried.get_mut(session.slot as usize).map(std::mem::take);
            self.give_back(carried.unwrap_or_default().ports);
        }
        self.sweep_ns = None;
    }

    /// Goes on with what another process had. Says which sessions there are now; the others cannot
    /// be here.
    pub(in crate::core) fn take_over(&mut self, from: OpaqueTakeOver) -> OpaqueTaken {
        let mut taken = OpaqueTaken::default();
        self.ports.inherit(from.sockets);
        for (state, settings) in from.sessions {
            let ports = [settings.legs[0].port, settings.legs[1].port];
            match self.take_session(&state, settings) {
                Ok(session) => taken.sessions.push(session),
                Err(error) => taken.left.push((ports, error)),
            }
        }
        self.ports.inherit(Vec::new());
        taken
    }
}
