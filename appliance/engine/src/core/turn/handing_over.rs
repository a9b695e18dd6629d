//! The TURN server of a core, on its way to another process.
//!
//! Called on the core's thread when an upgrade is under way. The old process pauses: datagrams wait
//! in the sockets, which both processes have. The new one goes on with the allocations, or the old
//! one does if nothing came of it. Clients over TCP are served all the while, and stay.

use super::TurnServer;
use crate::port::{ListenerKey, Port};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use waystation_turn::server::{ServerChanges, ServerTold};

/// What the server of a core hands over, but for what it has told of already.
#[derive(Debug, Default)]
pub struct TurnHandOver {
    pub changes: ServerChanges,
    /// The relayed addresses in it, as peers know them, and their sockets.
    pub sockets: Vec<(SocketAddr, UdpSocket)>,
}

impl TurnServer {
    /// Leaves datagrams where they are.
    pub(in crate::core) fn pause(&mut self) {
        self.is_paused = true;
        self.has_more = false;
    }

    /// Takes datagrams again.
    pub(in crate::core) fn resume(&mut self) {
        self.is_paused = false;
        self.has_more = true;
    }

    /// What another process needs to go on with the clients over datagrams, but for what it was
    /// told already.
    pub(in crate::core) fn tell(&self, told: &mut ServerTold) -> io::Result<TurnHandOver> {
        let changes = self.server.tell(told);
        let mut sockets = Vec::new();
        for address in changes.relayed() {
            if let Some(socket) = self.hosting.share(address)? {
                sockets.push((address, socket));
            }
        }
        Ok(TurnHandOver { changes, sockets })
    }

    /// Forgets what another process has taken over, and the sockets that clients send to.
    pub(in crate::core) fn let_go(&mut self) {
        self.server.let_go(&mut self.hosting);
        for listener in self.listeners.drain(..) {
            self.hosting.sockets.close(listener.key);
        }
    }

    /// Goes on with what another process had. Returns how much there is no place for.
    pub(in crate::core) fn take_over(&mut self, from: TurnHandOver) -> usize {
        self.hosting.inherit(from.sockets);
        let left = self.server.take_over(&from.changes, &mut self.hosting);
        self.hosting.inherit(Vec::new());
        if !from.changes.allocations.is_empty() {
            // The policy may be another one.
            self.server.recheck_peers();
        }
        left
    }

    /// Accepts on further listeners.
    pub(in crate::core) fn listen(
        &mut self,
        listeners: Vec<TcpListener>,
        port: &mut impl Port,
    ) -> io::Result<()> {
        let keys = listeners.into_iter().map(|listener| port.add_listener(listener));
        let keys: Vec<ListenerKey> = keys.collect::<io::Result<_>>()?;
        self.streams.listen_on(&keys);
        Ok(())
    }
}
