//! A core among those of two processes, one of which goes on where the other ends.
//!
//! Runs on the core's thread, at the management core's word. The new process's cores are made held:
//! they have every socket and serve none. The old process's cores leave connections and datagrams
//! in the sockets while the new ones take over what they are for; that ends with one of the two
//! letting go. Links and raw pipes of the old process are not paused.

use super::opaque::OpaqueSessions;
use super::turn::TurnServer;
use super::{CoreError, CoreParts, DataCore};
use crate::control::{Report, UdpHandOver, UdpTakeOver, UdpTaken};
use crate::port::Port;
use std::io;
use std::net::TcpListener;

/// Listeners that are not watched yet.
#[derive(Debug)]
pub(super) struct Held {
    links: Vec<TcpListener>,
    turn: Vec<TcpListener>,
}

impl<P: Port> DataCore<P> {
    /// A core that serves nobody before [`crate::control::Command::Begin`]. Must be called on the
    /// thread it will run on.
    ///
    /// # Errors
    /// As [`DataCore::new`].
    pub fn new_held(
        port: P,
        listeners: Vec<TcpListener>,
        mut parts: CoreParts,
    ) -> Result<Self, CoreError> {
        let turn = parts.turn.as_mut().map(|turn| std::mem::take(&mut turn.listeners));
        let mut core = Self::new(port, Vec::new(), parts)?;
        core.held = Some(Held { links: listeners, turn: turn.unwrap_or_default() });
        core.pause_udp();
        Ok(core)
    }

    /// Serves everybody from now on.
    pub(super) fn begin(&mut self) {
        let Some(Held { links, turn }) = self.held.take() else { return };
        let listening = || {
            for listener in links {
                self.port.add_listener(listener)?;
            }
            if let Some(server) = &mut self.turn {
                server.listen(turn, &mut self.port)?;
            }
            self.resume_udp()
        };
        let begun = listening();
        self.end_if_failed(begun);
    }

    /// Leaves connections and datagrams in their sockets, and tells all that another process needs
    /// to go on, once that is so.
    pub(super) fn begin_handing_over(&mut self) {
        self.port.stop_accepting();
        self.pause_udp();
        self.is_handing_over = true;
    }

    /// Tells as soon as nothing here waits for connections any more: the kernel wakes one who waits
    /// for each, and if that is one who then does not take it, nobody does.
    pub(super) fn go_on_handing_over(&mut self) {
        if !self.is_handing_over || self.port.is_accepting() {
            return;
        }
        self.is_handing_over = false;
        let told = || {
            let turn = self.turn.as_deref().map(TurnServer::hand_over).transpose()?;
            let opaque = self.opaque.as_deref().map(OpaqueSessions::hand_over).transpose()?;
            let (turn, opaque) = (turn.unwrap_or_default(), opaque.unwrap_or_default());
            Ok::<_, io::Error>(Box::new(UdpHandOver { turn, opaque }))
        };
        let result = told();
        self.fabric.report(Report::UdpHandedOver { core: self.fabric.core, result });
    }

    /// Nothing came of it: this process goes on, with one more descriptor of each listener.
    pub(super) fn go_on(&mut self, links: Vec<TcpListener>, turn: Vec<TcpListener>) {
        self.is_handing_over = false;
        self.held = Some(Held { links, turn });
        self.begin();
    }

    /// Another process has it all: what stays are TURN clients over TCP.
    pub(super) fn let_udp_go(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.let_go();
        }
        if let Some(opaque) = &mut self.opaque {
            opaque.let_go();
        }
        let resumed = self.resume_udp();
        self.end_if_failed(resumed);
    }

    /// Takes up what another process had, and serves none of it before it is told to begin.
    pub(super) fn take_udp_over(&mut self, from: UdpTakeOver) {
        let mut taken = UdpTaken::default();
        if let Some(turn) = &mut self.turn {
            taken.allocations_left = turn.take_over(from.turn);
        }
        if let Some(opaque) = &mut self.opaque {
            taken.opaque = opaque.take_over(from.opaque);
        }
        self.fabric.report(Report::UdpTaken { core: self.fabric.core, taken: Box::new(taken) });
    }

    fn pause_udp(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.pause();
        }
        if let Some(opaque) = &mut self.opaque {
            opaque.pause();
        }
    }

    fn resume_udp(&mut self) -> io::Result<()> {
        if let Some(turn) = &mut self.turn {
            turn.resume()?;
        }
        if let Some(opaque) = &mut self.opaque {
            opaque.resume()?;
        }
        Ok(())
    }

    /// A core that cannot watch its sockets is of no use to anybody.
    fn end_if_failed(&mut self, outcome: io::Result<()>) {
        if let Err(source) = outcome {
            self.failure = Some(CoreError::Datagrams { core: self.fabric.core, source });
            self.stopping = true;
        }
    }
}
