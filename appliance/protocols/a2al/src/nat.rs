//! What other nodes say about the own address (specification §15), and echoes for theirs.
//!
//! Owns votes, the reachability probe under way, and who was sent how many echoes. Used by the node
//! alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::limits::{
    ECHO_SOURCES_MAX, ECHO_WINDOW_MS, ECHOES_PER_WINDOW, PROBE_RESULT_MS, PROBE_WAIT_MS,
    TOKEN_BYTES, VOTE_MS, VOTES_MAX, VOTES_NEEDED,
};
use crate::node_id::NodeId;
use crate::payload::NatType;
use crate::recent::RecentMap;
use crate::socket_address::is_public;
use crate::time::Millis;

/// Everything known about the own address.
#[derive(Debug)]
pub struct NatSense {
    votes: BTreeMap<NodeId, (SocketAddr, Millis)>,
    probe: Option<Probe>,
    reachable: Option<(bool, Millis)>,
    echoes: RecentMap<IpAddr, (Millis, u32)>,
}

#[derive(Debug)]
struct Probe {
    tokens: Vec<[u8; TOKEN_BYTES]>,
    until: Millis,
}

impl Default for NatSense {
    fn default() -> Self {
        Self {
            votes: BTreeMap::new(),
            probe: None,
            reachable: None,
            echoes: RecentMap::new(ECHO_SOURCES_MAX),
        }
    }
}

impl NatSense {
    /// A node says where it saw this one. Each has one vote.
    pub fn vote(&mut self, reporter: NodeId, observed: SocketAddr, now: Millis) {
        let is_known = self.votes.contains_key(&reporter);
        if !is_known && self.votes.len() >= VOTES_MAX {
            self.votes.retain(|_, (_, at)| now.since(*at) <= VOTE_MS);
            if self.votes.len() >= VOTES_MAX {
                return;
            }
        }
        self.votes.insert(reporter, (observed, now));
    }

    /// The address of a family that enough nodes agree on: three, or all while there are fewer.
    pub fn trusted(&self, is_ipv4: bool, now: Millis) -> Option<SocketAddr> {
        let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        self.live(is_ipv4, now).for_each(|at| *counts.entry(at).or_insert(0) += 1);
        let needed = self.live(is_ipv4, now).count().min(VOTES_NEEDED);
        let (address, votes) = counts.into_iter().max_by_key(|(_, votes)| *votes)?;
        (votes >= needed).then_some(address)
    }

    /// Begins a probe with tokens that were sent out.
    pub fn probe(&mut self, tokens: Vec<[u8; TOKEN_BYTES]>, now: Millis) {
        self.probe = Some(Probe { tokens, until: now.plus(PROBE_WAIT_MS) });
    }

    /// Says whether an echo with this token is waited for.
    pub fn expects(&self, token: &[u8; TOKEN_BYTES]) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.tokens.contains(token))
    }

    /// An echo came, from anywhere.
    pub fn echoed(&mut self, token: [u8; TOKEN_BYTES], now: Millis) -> bool {
        let is_ours = self.probe.as_ref().is_some_and(|probe| probe.tokens.contains(&token));
        if is_ours {
            self.reachable = Some((true, now));
            self.probe = None;
        }
        is_ours
    }

    /// Ends a probe that nobody answered.
    pub fn tick(&mut self, now: Millis) {
        if self.probe.take_if(|probe| probe.until <= now).is_some() {
            self.reachable = Some((false, now));
        }
    }

    /// What to publish (§15.3).
    pub fn nat_type(&self, now: Millis) -> NatType {
        if self.is_symmetric(now) {
            return NatType::SYMMETRIC;
        }
        if self.live(true, now).count() == 0 {
            return NatType::UNKNOWN;
        }
        match self.reachable {
            Some((is_reachable, at)) if now.since(at) <= PROBE_RESULT_MS => {
                if is_reachable {
                    NatType::OPEN
                } else {
                    NatType::RESTRICTED
                }
            }
            _ => NatType::UNKNOWN,
        }
    }

    /// Says whether an echo may be sent: to a public address, which is where the request came from,
    /// and not too often. Everything else is met with silence (§15.2).
    pub fn may_echo(&mut self, claimed: SocketAddr, source: SocketAddr, now: Millis) -> bool {
        let ip = source.ip().to_canonical();
        if claimed.ip().to_canonical() != ip || !is_public(ip) || claimed.port() == 0 {
            return false;
        }
        let window = self.echoes.entry(ip, || (now, 0));
        if now.since(window.0) >= ECHO_WINDOW_MS {
            *window = (now, 0);
        }
        window.1 = window.1.saturating_add(1);
        window.1 <= ECHOES_PER_WINDOW
    }

    /// Two ports under one address, each seen by two nodes.
    fn is_symmetric(&self, now: Millis) -> bool {
        let Some(trusted) = self.trusted(true, now) else {
            return false;
        };
        let mut ports: BTreeMap<u16, usize> = BTreeMap::new();
        let of_ip = self.live(true, now).filter(|at| at.ip() == trusted.ip());
        of_ip.for_each(|at| *ports.entry(at.port()).or_insert(0) += 1);
        ports.values().filter(|votes| **votes >= 2).count() >= 2
    }

    fn live(&self, is_ipv4: bool, now: Millis) -> impl Iterator<Item = SocketAddr> {
        let votes = self.votes.values().filter(move |(_, at)| now.since(*at) <= VOTE_MS);
        votes.map(|(observed, _)| *observed).filter(move |at| at.is_ipv4() == is_ipv4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reporter(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn at(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, last], port))
    }

    #[test]
    fn an_address_is_trusted_when_three_agree_or_all_of_fewer() {
        let mut sense = NatSense::default();
        assert_eq!(sense.trusted(true, Millis(0)), None);
        sense.vote(reporter(1), at(1, 4121), Millis(0));
        assert_eq!(sense.trusted(true, Millis(0)), Some(at(1, 4121)));
        sense.vote(reporter(2), at(2, 4121), Millis(0));
        sense.vote(reporter(3), at(3, 4121), Millis(0));
        assert_eq!(sense.trusted(true, Millis(0)), None);
        for number in 4..6 {
            sense.vote(reporter(number), at(1, 4121), Millis(0));
        }
        assert_eq!(sense.trusted(true, Millis(0)), Some(at(1, 4121)));
        assert_eq!(sense.trusted(true, Millis(VOTE_MS + 1)), None);
    }

    #[test]
    fn one_node_has_one_vote() {
        let mut sense = NatSense::default();
        for port in 1..100 {
            sense.vote(reporter(1), at(9, port), Millis(0));
        }
        sense.vote(reporter(2), at(1, 4121), Millis(0));
        sense.vote(reporter(3), at(1, 4121), Millis(0));
        assert_eq!(sense.live(true, Millis(0)).count(), 3);
    }

    #[test]
    fn two_ports_that_two_nodes_see_each_are_a_symmetric_translation() {
        let mut sense = NatSense::default();
        for (number, port) in [(1, 1000), (2, 1000), (3, 1000), (4, 2000), (5, 2000)] {
            sense.vote(reporter(number), at(1, port), Millis(0));
        }
        assert_eq!(sense.nat_type(Millis(0)), NatType::SYMMETRIC);
    }

    #[test]
    fn a_probe_tells_open_from_restricted_until_it_is_old() {
        let mut sense = NatSense::default();
        sense.vote(reporter(1), at(1, 4121), Millis(0));
        assert_eq!(sense.nat_type(Millis(0)), NatType::UNKNOWN);
        sense.probe(vec![[1; 8]], Millis(0));
        assert!(!sense.echoed([2; 8], Millis(1)));
        assert!(sense.echoed([1; 8], Millis(1)));
        assert_eq!(sense.nat_type(Millis(2)), NatType::OPEN);
        sense.probe(vec![[3; 8]], Millis(10));
        sense.tick(Millis(10 + PROBE_WAIT_MS));
        assert_eq!(sense.nat_type(Millis(10 + PROBE_WAIT_MS)), NatType::RESTRICTED);
    }

    #[test]
    fn echoes_go_to_the_source_alone_and_three_in_ten_seconds() {
        let mut sense = NatSense::default();
        let echoes = (0..5).filter(|_| sense.may_echo(at(1, 7), at(1, 9), Millis(0)));
        assert_eq!(echoes.count(), 3);
        assert!(sense.may_echo(at(1, 7), at(1, 9), Millis(ECHO_WINDOW_MS)));
        assert!(!sense.may_echo(at(2, 7), at(3, 7), Millis(0)));
        let private = SocketAddr::from(([10, 0, 0, 1], 7));
        assert!(!sense.may_echo(private, private, Millis(0)));
    }
}
