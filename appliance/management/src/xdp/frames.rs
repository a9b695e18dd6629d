//! Sockets that whole frames of sessions are brought to (AF_XDP), for the tier `af_xdp` of TURN
//! and of opaque sessions.
//!
//! Opened once, on the thread that starts everything, while it has its privileges, and given to data
//! cores. What is kept here is a second descriptor of each, for the maps of a program that is put on
//! anew. Where something cannot be had, datagrams go by ordinary sockets, and a hint says why.

use crate::config::Config;
use std::os::fd::OwnedFd;
use waystation_ebpf::abi::limits::FRAME_SOCKETS_MAX;
use waystation_ebpf::abi::{FramePlace, Port};
use waystation_ebpf::interfaces;
use waystation_ebpf::tables::{MapError, Tables};
use waystation_engine::port::datagrams::UdpTier;
use waystation_engine::port::frames::{FrameError, FramePlace as Place, FrameSocket};
use waystation_relay::ids::CoreId;

/// A socket that a data core has, as the program has to know it.
#[derive(Debug)]
pub(super) struct KnownSocket {
    place: FramePlace,
    owner: u32,
    descriptor: OwnedFd,
}

/// Sockets for data cores, what the program has to know of them, and what could not be had.
#[derive(Debug, Default)]
pub(super) struct Opened {
    pub(super) given: Vec<(CoreId, FrameSocket)>,
    pub(super) known: Vec<KnownSocket>,
    pub(super) hints: Vec<String>,
}

/// Kinds of ports whose frames the configuration asks for.
pub(super) fn wanted(config: &Config) -> Vec<Port> {
    let mut kinds = Vec::new();
    if config.turn.is_enabled() && config.turn.tier == UdpTier::AfXdp {
        kinds.extend([Port::Turn, Port::Session]);
    }
    if config.udp.is_enabled() && config.udp.tier == UdpTier::AfXdp {
        kinds.push(Port::Opaque);
    }
    kinds
}

/// Opens one on each queue of some interfaces, for the cores in turn. `owners`: what the program knows
/// each core by.
pub(super) fn open(interfaces: &[&str], owners: &[u32]) -> Opened {
    let mut opened = Opened::default();
    if owners.len() > 1 && owners.contains(&u32::MAX) {
        opened.hints.push(
            "no frames are brought to data cores, which have no processors of their own to be told \
             apart by: engine.cpus"
                .to_owned(),
        );
        return opened;
    }
    for name in interfaces {
        let Some(interface) = interfaces::index_of(name) else { continue };
        for queue in 0.. {
            if opened.given.len() == FRAME_SOCKETS_MAX as usize {
                let hint = format!(
                    "queue {queue} of {name} and what follows has no AF_XDP socket: \
                    there are {FRAME_SOCKETS_MAX}"
                );
                opened.hints.push(hint);
                return opened;
            }
            let core = opened.given.len() % owners.len().max(1);
            match open_one(Place { interface, queue }, core, owners) {
                Ok((socket, known)) => {
                    // There are fewer cores than that.
                    opened.given.push((CoreId(core as u16), socket));
                    opened.known.push(known);
                }
                // There is at least one.
                Err(FrameError::NoQueue(_)) if queue > 0 => break,
                Err(error) => {
                    opened.hints.push(format!("no frames of {name}, queue {queue}: {error}"));
                    break;
                }
            }
        }
    }
    opened
}

fn open_one(
    place: Place,
    core: usize,
    owners: &[u32],
) -> Result<(FrameSocket, KnownSocket), FrameError> {
    let socket = FrameSocket::open(place)?;
    let descriptor = socket.descriptor().try_clone_to_owned().map_err(FrameError::Refused)?;
    let owner = owners.get(core).copied().unwrap_or(u32::MAX);
    let place = FramePlace { interface: place.interface, queue: place.queue };
    Ok((socket, KnownSocket { place, owner, descriptor }))
}

/// Tells the program of them, and of the kinds of ports that they are for.
pub(super) fn tell(
    known: &[KnownSocket],
    kinds: &[Port],
    tables: &mut Tables,
) -> Result<(), MapError> {
    for socket in known {
        let count = tables.frame_sockets.insert(socket.place, socket.owner, &socket.descriptor)?;
        tables.settings.set_frame_sockets(count, kinds)?;
    }
    Ok(())
}

/// Those on an interface: the queue of each, and whose it is.
pub(super) fn at(known: &[KnownSocket], interface: u32) -> Vec<(u32, u32)> {
    let here = known.iter().filter(|socket| socket.place.interface == interface);
    here.map(|socket| (socket.place.queue, socket.owner)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_that_cannot_be_told_apart_get_none() {
        let opened = open(&["lo"], &[u32::MAX, u32::MAX]);
        assert!(opened.given.is_empty() && opened.known.is_empty());
        assert!(opened.hints[0].contains("engine.cpus"), "{:?}", opened.hints);
    }

    #[test]
    fn an_interface_that_cannot_have_one_is_named() {
        // Loopback is no Ethernet, whatever the privileges.
        let opened = open(&["lo", "an-interface-that-is-not-there"], &[0]);
        assert!(opened.given.is_empty());
        assert_eq!(opened.hints.len(), 1);
        assert!(opened.hints[0].contains("no frames of lo"), "{:?}", opened.hints);
    }

    #[test]
    fn the_program_brings_no_frame_that_a_socket_has_no_room_for() {
        use waystation_ebpf::abi::limits::FRAME_PACKET_BYTES_MAX;
        use waystation_engine::port::frames::PACKET_BYTES_MAX;
        assert_eq!(usize::from(FRAME_PACKET_BYTES_MAX), PACKET_BYTES_MAX);
    }

    #[test]
    fn they_are_wanted_with_their_tier_and_for_what_there_is_only() {
        let mut config = Config::default();
        config.udp.addresses.clear();
        (config.turn.tier, config.udp.tier) = (UdpTier::AfXdp, UdpTier::AfXdp);
        assert_eq!(wanted(&config), []);
        config.turn.listen = vec!["127.0.0.1:3478".parse().unwrap()];
        assert_eq!(wanted(&config), [Port::Turn, Port::Session]);
        config.udp.addresses = vec!["127.0.0.1".parse().unwrap()];
        assert_eq!(wanted(&config), [Port::Turn, Port::Session, Port::Opaque]);
        config.turn.tier = UdpTier::Gso;
        assert_eq!(wanted(&config), [Port::Opaque]);
    }
}
