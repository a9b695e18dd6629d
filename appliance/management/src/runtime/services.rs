//! What is served on the management thread besides the stats socket: the DHT's node and the
//! signalling hub. They begin when this process serves, which may be when another one has let go.

use super::{ManagementCore, RuntimeError};
use crate::dht::{Dht, DhtFiles, DhtSettings};
use crate::hub::SignalHub;
use crate::hub::limits::QUESTIONS_WAITING_MAX;
use std::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;

/// What they are made of.
#[derive(Debug)]
pub(super) struct Services {
    /// What the hub listens with; none: there is no hub.
    pub(super) hub: Vec<TcpListener>,
    /// The node's files and sockets, if there is to be one.
    pub(super) dht: Option<(DhtFiles, Vec<UdpSocket>)>,
}

impl ManagementCore {
    /// Begins what there is to begin, once.
    ///
    /// # Errors
    /// Why one of them cannot be.
    pub(super) fn begin_services(&mut self) -> Result<(), RuntimeError> {
        let Some(Services { hub, dht }) = self.services.take() else { return Ok(()) };
        let (asks, questions) = mpsc::channel(QUESTIONS_WAITING_MAX);
        if !hub.is_empty() {
            let node = dht.is_some().then_some(asks);
            let started = SignalHub::start(hub, self.config.hub.limits(), node);
            self.hub = Some(started.map_err(RuntimeError::Start)?);
        }
        if let Some((files, sockets)) = dht {
            let (listen, turn_listen) = (&self.extra.listen, &self.extra.turn_listen.udp);
            let identity = self.extra.identity;
            let settings = DhtSettings::of(&self.config, files, identity, listen, turn_listen);
            self.dht = Some(Dht::start(settings, sockets, questions)?);
        }
        Ok(())
    }
}
