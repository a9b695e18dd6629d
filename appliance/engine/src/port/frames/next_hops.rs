//! Next hops of the machines that frames are sent to, as the kernel knows them.
//!
//! Owned by the sockets of one core. What the kernel has said holds for a while; which frames come
//! from where says nothing, since anybody may send frames in anybody's name. Frames do not tell the
//! kernel that a neighbour is still there, so a datagram now and then goes by an ordinary socket,
//! which has the kernel ask.

use super::netlink::{Interface, Netlink, Route};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;

/// Next hops that are remembered; a further one displaces another, which costs four system calls.
const NEXT_HOPS_MAX: usize = 2048;
/// Next hops that the kernel is asked for in one turn: what a turn may take longer for it. Datagrams of
/// further ones go by ordinary sockets.
const ASKED_PER_TURN_MAX: u32 = 32;
/// How long the kernel's word holds, in nanoseconds: a route or an interface that has changed is taken
/// up a second late.
pub(super) const FRESH_NS: u64 = 1_000_000_000;
/// How long it holds that there is no hop: an ordinary socket sends meanwhile, and the kernel finds
/// out.
const MISSING_FRESH_NS: u64 = 50_000_000;

/// Where frames go next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) interface: u32,
    pub(super) station: [u8; 6],
    /// The longest IP packet that is known to pass.
    pub(super) mtu_bytes: usize,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoHop {
    /// No route to another machine.
    #[error("no route to it")]
    Route,
    /// The kernel has yet to ask for its Ethernet address.
    #[error("its Ethernet address is not known")]
    Neighbour,
    /// The kernel is to hear of this one, to ask whether the neighbour is still there.
    #[error("the kernel is to look for it again")]
    Unconfirmed,
    /// The kernel has been asked about enough others in this turn.
    #[error("the kernel has been asked about enough others")]
    Unasked,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    from: IpAddr,
    to: IpAddr,
    hop: Result<Hop, NoHop>,
    until_ns: u64,
    /// The next datagram goes by way of the kernel.
    wants_kernel: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct NextHops {
    netlink: Netlink,
    /// By the hash of both addresses, whose key nobody can guess.
    known: Box<[Option<Known>]>,
    hashing: RandomState,
    asked_in_turn: u32,
}

impl NextHops {
    pub(super) fn new() -> io::Result<Self> {
        let netlink = Netlink::new()?;
        let known = vec![None; NEXT_HOPS_MAX].into();
        Ok(Self { netlink, known, hashing: RandomState::new(), asked_in_turn: 0 })
    }

    pub(super) fn syscalls(&self) -> u64 {
        self.netlink.syscalls()
    }

    /// What has become of an interface; none if it is gone, or no Ethernet any more.
    pub(super) fn interface(&mut self, index: u32) -> Option<Interface> {
        self.netlink.interface(index).ok()
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self) {
        self.asked_in_turn = 0;
    }

    /// The next hop of frames from an address of ours to another machine.
    pub(super) fn to(&mut self, from: IpAddr, to: IpAddr, now_ns: u64) -> Result<Hop, NoHop> {
        // A remainder of the table's length is a place in it.
        let place = (self.hashing.hash_one((from, to)) % NEXT_HOPS_MAX as u64) as usize;
        let slot = &mut self.known[place];
        let is_it = |it: &&mut Known| it.from == from && it.to == to && now_ns < it.until_ns;
        let known = match slot.as_mut().filter(is_it) {
            Some(known) => known,
            None if self.asked_in_turn == ASKED_PER_TURN_MAX => return Err(NoHop::Unasked),
            None => {
                self.asked_in_turn += 1;
                slot.insert(ask(&mut self.netlink, from, to, now_ns))
            }
        };
        if std::mem::take(&mut known.wants_kernel) {
            return Err(NoHop::Unconfirmed);
        }
        known.hop
    }
}

fn ask(netlink: &mut Netlink, from: IpAddr, to: IpAddr, now_ns: u64) -> Known {
    let mut wants_kernel = false;
    let hop = match netlink.route(from, to) {
        None => Err(NoHop::Route),
        Some(Route { interface, next, mtu_bytes }) => match netlink.neighbour(interface, next) {
            None => Err(NoHop::Neighbour),
            Some(neighbour) => {
                wants_kernel = !neighbour.is_confirmed;
                let (station, mtu_bytes) = (neighbour.station, mtu_bytes.unwrap_or(usize::MAX));
                Ok(Hop { interface, station, mtu_bytes })
            }
        },
    };
    let holds_ns = if hop.is_ok() { FRESH_NS } else { MISSING_FRESH_NS };
    Known { from, to, hop, until_ns: now_ns.saturating_add(holds_ns), wants_kernel }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_hop_is_asked_for_again_after_a_while() {
        let mut hops = NextHops::new().unwrap();
        let local = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(hops.to(local, local, 1), Err(NoHop::Route));
        let asked = hops.syscalls();
        assert_eq!(hops.to(local, local, MISSING_FRESH_NS), Err(NoHop::Route));
        assert_eq!(hops.syscalls(), asked);
        assert_eq!(hops.to(local, local, MISSING_FRESH_NS + 1), Err(NoHop::Route));
        assert!(hops.syscalls() > asked);
    }

    #[test]
    fn a_turn_asks_about_so_many_and_no_more() {
        let mut hops = NextHops::new().unwrap();
        let from = IpAddr::from([127, 0, 0, 1]);
        let to = |number: u32| IpAddr::from((0x7f00_0100 + number).to_be_bytes());
        for number in 0..ASKED_PER_TURN_MAX {
            assert_eq!(hops.to(from, to(number), 1), Err(NoHop::Route));
        }
        let asked = hops.syscalls();
        assert_eq!(hops.to(from, to(ASKED_PER_TURN_MAX), 1), Err(NoHop::Unasked));
        assert_eq!(hops.syscalls(), asked);
        hops.begin_turn();
        assert_eq!(hops.to(from, to(ASKED_PER_TURN_MAX), 1), Err(NoHop::Route));
    }
}
