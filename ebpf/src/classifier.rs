//! What the program decides and writes, said a second time in plain terms, to compare it with.
//!
//! Shares no code with the program: packets are taken apart by slices and built anew with checksums
//! over every byte, tables are ordinary collections. Used by tests and to explain what would become
//! of a packet, never to carry traffic. Time stands still in it: a rate is either not used up yet or used up for good.

mod packet;

use crate::abi::Verdict;
use packet::{Checksum, Datagram, Parsed};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// Whose packets: source, our address, and the channel they are framed with, if any.
pub type Route = (SocketAddr, SocketAddr, Option<u16>);

/// What is known when a frame arrives.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Ports of a TURN server.
    pub turn_ports: BTreeSet<u16>,
    /// Ports of relayed transport addresses and opaque sessions.
    pub session_ports: BTreeSet<u16>,
    /// Our addresses that the TURN server is on.
    pub turn_local: BTreeSet<IpAddr>,
    /// Our addresses that sessions are on.
    pub session_local: BTreeSet<IpAddr>,
    /// Denied prefixes and their lengths.
    pub denied: Vec<(IpAddr, u8)>,
    /// VLANs and the interface of each.
    pub vlans: Vec<(u16, u32)>,
    /// Sessions and clients.
    pub sessions: BTreeMap<Route, Known>,
    /// The interface frames come in by.
    pub ingress: u32,
    /// Interfaces that may be used to leave by.
    pub egress: BTreeSet<u32>,
    /// What a routing look-up for each target gives. A target without one has no route.
    pub hops: BTreeMap<IpAddr, Hop>,
}

/// What becomes of known packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// They go to user space.
    Steered,
    /// They are relayed.
    Relayed {
        /// Where they leave from.
        from: SocketAddr,
        /// Where they go.
        to: SocketAddr,
        /// The channel they are framed with, if any.
        channel: Option<u16>,
        /// The session's rate is used up.
        is_over_rate: bool,
        /// Only WireGuard's data for somebody who is called by one of these is relayed.
        transport_for: Option<[u32; 4]>,
    },
}

/// The next hop towards a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// It can be sent to.
    Known {
        /// The interface it is on.
        interface: u32,
        /// Its Ethernet address.
        station: [u8; 6],
        /// Ours on that interface.
        own_station: [u8; 6],
        /// The largest IP packet on the way.
        mtu_bytes: u16,
    },
    /// Its Ethernet address is not known yet.
    Unresolved {
        /// The largest IP packet on the way, which is looked at first.
        mtu_bytes: u16,
    },
}

/// What is to become of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// Decides about a frame.
pub fn decide(world: &World, frame: &[u8]) -> Decision {
    match judge(world, frame) {
        Ok((verdict, frame)) => Decision { verdict, frame },
        Err(verdict) => Decision { verdict, frame: frame.to_vec() },
    }
}

/// Whose packet a frame holds, with the channel it is framed with, if any; nothing if it holds none
/// that is whole and for one of our ports.
pub fn route(world: &World, frame: &[u8]) -> Option<Route> {
    let told: Vec<u16> = world.vlans.iter().map(|(id, _)| *id).collect();
    let is_ours = |port| world.turn_ports.contains(&port) || world.session_ports.contains(&port);
    let Parsed { datagram, fault, .. } = packet::parse(frame, &told, is_ours).ok()?;
    if fault.is_some() {
        return None;
    }
    let channel = framing(world, &datagram).ok().and_then(|(channel, _)| channel);
    Some((datagram.source, datagram.local, channel))
}

fn judge(world: &World, frame: &[u8]) -> Result<(Verdict, Vec<u8>), Verdict> {
    let told: Vec<u16> = world.vlans.iter().map(|(id, _)| *id).collect();
    let is_ours = |port| world.turn_ports.contains(&port) || world.session_ports.contains(&port);
    let parsed = packet::parse(frame, &told, is_ours)?;
    let Parsed { datagram, .. } = &parsed;
    let refused = |verdict| {
        let is_turn = world.turn_ports.contains(&datagram.local.port());
        let local = if is_turn { &world.turn_local } else { &world.session_local };
        if local.contains(&datagram.local.ip()) { verdict } else { Verdict::PassForeign }
    };
    if let Some(fault) = parsed.fault {
        return Err(refused(fault));
    }
    if world.denied.iter().any(|prefix| is_within(datagram.source.ip(), *prefix)) {
        return Err(refused(Verdict::DropDenied));
    }
    let (channel, payload) = match framing(world, datagram) {
        Ok(framing) => framing,
        Err(verdict) if verdict.is_drop() => return Err(refused(verdict)),
        Err(verdict) => return Err(verdict),
    };
    let known = |channel| world.sessions.get(&(datagram.source, datagram.local, channel));
    match known(channel) {
        Some(Known::Relayed { from, to, channel, is_over_rate, transport_for }) => {
            if transport_for.is_some_and(|indices| !is_transport(datagram.payload, &indices)) {
                return Err(Verdict::PassNotTransport);
            }
            if datagram.hop_limit <= 1 {
                return Err(Verdict::DropHopLimit);
            }
            if *is_over_rate {
                return Err(Verdict::DropSessionOverRate);
            }
            relay(world, &parsed, payload, (*from, *to, *channel))
        }
        Some(Known::Steered) => Err(Verdict::Steered),
        None if channel.is_some() && known(None).is_some() => match known(None) {
            Some(_) => Err(Verdict::Steered),
            None => Err(Verdict::PassStranger),
        },
        None => Err(refused(Verdict::PassStranger)),
    }
}

/// The channel of a datagram, and what it carries.
fn framing<'a>(world: &World, datagram: &Datagram<'a>) -> Result<(Option<u16>, &'a [u8]), Verdict> {
    let payload = datagram.payload;
    if !world.turn_ports.contains(&datagram.local.port()) {
        return Ok((None, payload));
    }
    let Some((&[high, low, long, short], rest)) = payload.split_first_chunk::<4>() else {
        return Ok((None, payload));
    };
    let number = u16::from_be_bytes([high, low]);
    if !(0x4000..0x8000).contains(&number) {
        return Ok((None, payload));
    }
    let bytes = usize::from(u16::from_be_bytes([long, short]));
    match rest.len().cmp(&bytes) {
        std::cmp::Ordering::Less => Err(Verdict::DropMalformed),
        std::cmp::Ordering::Equal => Ok((Some(number), rest)),
        std::cmp::Ordering::Greater => Err(Verdict::PassChannelPadding),
    }
}

fn relay(
    world: &World,
    parsed: &Parsed<'_>,
    payload: &[u8],
    (from, to, channel): Route,
) -> Result<(Verdict, Vec<u8>), Verdict> {
    let mut carried = Vec::with_capacity(payload.len() + 4);
    if let Some(number) = channel {
        carried.extend(number.to_be_bytes());
        carried.extend(u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
    }
    carried.extend(payload);
    let header_bytes = if to.is_ipv4() { 20 } else { 40 };
    let ip_bytes = header_bytes + 8 + carried.len();
    if ip_bytes > 65_535 {
        return Err(Verdict::PassOversize);
    }
    match parsed.datagram.checksum {
        Checksum::None if to.is_ipv6() => return Err(Verdict::PassNoChecksum),
        Checksum::Unfinished => return Err(Verdict::PassUnfinishedChecksum),
        Checksum::None | Checksum::Off(_) => {}
    }
    let hop = world.hops.get(&to.ip()).ok_or(Verdict::PassNoRoute)?;
    let (Hop::Known { mtu_bytes, .. } | Hop::Unresolved { mtu_bytes }) = *hop;
    if ip_bytes > usize::from(mtu_bytes) {
        return Err(Verdict::PassOversize);
    }
    let Hop::Known { interface, station, own_station, .. } = *hop else {
        return Err(Verdict::PassNoNeighbour);
    };
    let came_by = match parsed.tag {
        None => world.ingress,
        Some(tag) => world
            .vlans
            .iter()
            .find(|(id, _)| u16::from_be_bytes([tag[2], tag[3]]) & 0xfff == *id)
            .map_or(0, |(_, interface)| *interface),
    };
    let verdict = if interface == came_by {
        Verdict::RelayedBack
    } else if parsed.tag.is_none() && world.egress.contains(&interface) {
        Verdict::RelayedOn
    } else {
        return Err(Verdict::PassNoEgress);
    };
    let frame = packet::build(parsed, (station, own_station), from, to, &carried);
    Ok((verdict, frame))
}

/// Whether this is WireGuard's data for an end that is called by one of the numbers.
fn is_transport(payload: &[u8], indices: &[u32; 4]) -> bool {
    let Some((head, _)) = payload.split_first_chunk::<8>() else { return false };
    let receiver = &head[4..];
    payload.len() >= 32
        && head[..4] == [4, 0, 0, 0]
        && indices.iter().any(|index| receiver == index.to_ne_bytes())
}

fn is_within(address: IpAddr, (prefix, bits): (IpAddr, u8)) -> bool {
    let (address, prefix) = match (address, prefix) {
        (IpAddr::V4(address), IpAddr::V4(prefix)) => {
            (u128::from(u32::from(address)) << 96, u128::from(u32::from(prefix)) << 96)
        }
        (IpAddr::V6(address), IpAddr::V6(prefix)) => (u128::from(address), u128::from(prefix)),
        _ => return false,
    };
    let shift = 128 - u32::from(bits);
    address.checked_shr(shift) == prefix.checked_shr(shift)
}
