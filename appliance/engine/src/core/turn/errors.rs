//! What a core tells TURN clients of datagrams that did not reach their peers (RFC 8656 §11.5).
//!
//! Part of the TURN server, on its thread. The kernel keeps ICMP errors for relayed sockets whose
//! clients know what they are, and says at once which datagrams are too long to leave unfragmented;
//! both become Data indications with an ICMP attribute. Anybody can send ICMP in a router's name, so
//! a client is told of permitted peers only, and of few errors a second.

use super::hosting::Owner;
use super::{TurnServer, count_discard};
use crate::fabric::Fabric;
use crate::port::datagrams::{Cause, DatagramError, DatagramErrors, DatagramKey};
use std::net::SocketAddr;
use waystation_relay::drop_reason::DropReason;
use waystation_turn::server::{IcmpError, Now, ToClient};

impl TurnServer {
    /// Takes the errors that the kernel keeps for a relayed socket, and tells its client of what
    /// ICMP said. Returns the others: datagrams that were too long.
    pub(super) fn tell_icmp_errors(
        &mut self,
        key: DatagramKey,
        now: Now,
        fabric: &mut Fabric,
    ) -> DatagramErrors {
        let mut others = self.hosting.sockets.take_errors(key);
        others.retain(|error| {
            let Cause::Icmp { kind, code } = error.cause else { return true };
            let icmp = IcmpError { kind, code, mtu_bytes: error.mtu_bytes };
            self.tell_error(key, error.to, icmp, now, fabric);
            false
        });
        others
    }

    /// Tells clients of datagrams that were too long to leave unfragmented since the last call.
    pub(super) fn tell_too_long(&mut self, now: Now, fabric: &mut Fabric) {
        if !self.outgoing.has_too_long() {
            return;
        }
        let (mut at, mut lengths) = (None, DatagramErrors::new());
        for (key, to) in self.outgoing.take_too_long() {
            if !self.hosting.hears_errors(key) {
                continue;
            }
            if at.replace(key) != Some(key) {
                lengths = self.tell_icmp_errors(key, now, fabric);
            }
            self.tell_error(key, to, too_long(to, &lengths), now, fabric);
        }
    }

    fn tell_error(
        &mut self,
        key: DatagramKey,
        to: SocketAddr,
        icmp: IcmpError,
        now: Now,
        fabric: &mut Fabric,
    ) {
        let Some(Owner::Relayed(relayed)) = self.hosting.owner(key) else { return };
        let peer = self.hosting.known_as(to);
        match self.server.receive_icmp(now, relayed, peer, icmp) {
            Err(discard) => count_discard(fabric, discard, 0),
            Ok(to_client) if self.hosting.may_tell_error(to_client.allocation, now) => {
                self.send_indication(&to_client, fabric);
            }
            Ok(_) => fabric.count_drop(DropReason::TurnIcmpLimit, 0),
        }
    }

    /// Sends a client what is all head and no payload.
    fn send_indication(&mut self, to_client: &ToClient, fabric: &mut Fabric) {
        let client = to_client.client;
        let sent = if client.transport.is_stream() {
            self.push_to_stream(to_client, 0..0, fabric)
        } else {
            match self.listening_socket(client.server) {
                Some((socket, from)) => {
                    let sockets = &mut self.hosting.sockets;
                    let sent = sockets.send(socket, client.client, from, &to_client.head);
                    sent.map_err(super::reason_of_failure)
                }
                None => Err(DropReason::TurnNoAllocation),
            }
        };
        match sent {
            Ok(()) => fabric.statistics.counters.turn_icmp_errors_told += 1,
            Err(reason) => fabric.count_drop(reason, 0),
        }
    }
}

/// What a router would say of a datagram that is too long for the next link: "fragmentation needed"
/// of ICMP, "packet too big" of ICMPv6. 0 stands for a length that nobody knows.
fn too_long(to: SocketAddr, lengths: &[DatagramError]) -> IcmpError {
    let length = lengths.iter().find(|error| error.to.ip() == to.ip());
    let mtu_bytes = length.map_or(0, |error| error.mtu_bytes);
    let (kind, code) = if to.is_ipv4() { (3, 4) } else { (2, 0) };
    IcmpError { kind, code, mtu_bytes }
}
