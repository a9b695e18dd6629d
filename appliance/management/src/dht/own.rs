//! What the appliance publishes of itself: where the node is reached, and what else is offered here.
//!
//! Pure. The network has no record for relays, so they are named where an agent describes itself: in
//! the profile of the node's address (§5.8), and under topics that the operator names (§5.9). Both
//! have room for a map of anything, which here is
//! `{"turn": ["turn:IP:PORT"], "astral": ["tcp:IP:PORT"], "identity": "66 hex digits"}`. TURN
//! addresses in endpoint records are out of use (§5.7), and are not written.

use std::net::{IpAddr, SocketAddr};
use waystation_a2al::cbor::Writer;
use waystation_a2al::nat::NatSense;
use waystation_a2al::node_id::NodeId;
use waystation_a2al::payload::{PayloadError, ProfilePayload, TopicPayload};
use waystation_a2al::record::{RecordType, topic_key};
use waystation_a2al::socket_address::is_public;
use waystation_a2al::time::Millis;
use waystation_astral::identity::Identity;

/// What this appliance offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Services {
    /// What it calls itself.
    pub(super) name: String,
    /// Who it is on Astral links.
    pub(super) identity: Identity,
    /// Where it takes Astral links.
    pub(super) listen: Vec<SocketAddr>,
    /// Where it takes TURN clients.
    pub(super) turn_listen: Vec<SocketAddr>,
    /// Topics to be found under.
    pub(super) topics: Vec<String>,
}

/// A payload, and where it belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OwnPayload {
    pub(super) key: NodeId,
    pub(super) record_type: RecordType,
    pub(super) payload: Vec<u8>,
}

/// Where others reach the node: as the operator says, or at the addresses it listens on if others can
/// know those, or where other nodes see it.
pub(super) fn endpoints(
    advertise: &[SocketAddr],
    listen: impl Iterator<Item = SocketAddr>,
    allows_private: bool,
    nat: &NatSense,
    now: Millis,
) -> Vec<SocketAddr> {
    if !advertise.is_empty() {
        return advertise.to_vec();
    }
    let mut endpoints = Vec::new();
    for address in listen {
        let ip = address.ip().to_canonical();
        let is_known = !ip.is_unspecified() && (allows_private || is_public(ip));
        let found = if is_known { Some(address) } else { nat.trusted(address.is_ipv4(), now) };
        endpoints.extend(found.filter(|found| !endpoints.contains(found)));
    }
    endpoints
}

impl Services {
    /// The payloads to publish in the name of the node at `place`, which is reached at these
    /// addresses. None before it is known where.
    ///
    /// # Errors
    /// [`PayloadError::TooLong`] where names and addresses are too many for a record.
    pub(super) fn payloads(
        &self,
        place: NodeId,
        endpoints: &[SocketAddr],
    ) -> Result<Vec<OwnPayload>, PayloadError> {
        if endpoints.is_empty() {
            return Ok(Vec::new());
        }
        let known: Vec<IpAddr> = endpoints.iter().map(SocketAddr::ip).collect();
        let turn: Vec<String> =
            reached(&self.turn_listen, &known).map(|at| format!("turn:{at}")).collect();
        let astral: Vec<String> =
            reached(&self.listen, &known).map(|at| format!("tcp:{at}")).collect();
        if turn.is_empty() && astral.is_empty() {
            return Ok(Vec::new());
        }
        let offers = [("turn", turn.is_empty()), ("astral", astral.is_empty())];
        let protocols: Vec<String> = offers
            .iter()
            .filter(|(_, is_empty)| !is_empty)
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let meta = self.meta(&turn, &astral);
        let profile = ProfilePayload {
            name: self.name.clone(),
            brief: "a relay".to_owned(),
            protocols: protocols.clone(),
            meta: meta.clone(),
            ..ProfilePayload::default()
        };
        let (key, record_type) = (place, RecordType::PROFILE);
        let mut payloads = vec![OwnPayload { key, record_type, payload: profile.encode()? }];
        for topic in &self.topics {
            let payload = TopicPayload {
                topic: topic.clone(),
                name: self.name.clone(),
                protocols: Some(protocols.clone()),
                brief: "a relay".to_owned(),
                meta: meta.clone(),
                ..TopicPayload::default()
            };
            let (key, record_type) = (topic_key(topic), RecordType::TOPIC);
            payloads.push(OwnPayload { key, record_type, payload: payload.encode() });
        }
        Ok(payloads)
    }

    /// Keys in the order of their encoding: the shortest first.
    fn meta(&self, turn: &[String], astral: &[String]) -> Vec<u8> {
        let mut writer = Writer::default();
        let lists = [("turn", turn), ("astral", astral)];
        writer.map(1 + lists.iter().filter(|(_, list)| !list.is_empty()).count());
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            writer.text(name).array(list.len());
            for text in list {
                writer.text(text);
            }
        }
        writer.text("identity").text(&self.identity.to_string());
        writer.into_bytes()
    }
}

/// Addresses as others know them: those that are public or known, and for a wildcard the known
/// addresses of its family with its port.
fn reached<'a>(
    listen: &'a [SocketAddr],
    known: &'a [IpAddr],
) -> impl Iterator<Item = SocketAddr> + 'a {
    let mut reached: Vec<SocketAddr> = Vec::new();
    for address in listen {
        let ip = address.ip().to_canonical();
        let of_family = |known: &&IpAddr| known.is_ipv4() == address.is_ipv4();
        let found: Vec<IpAddr> = if ip.is_unspecified() {
            known.iter().filter(of_family).copied().collect()
        } else {
            // The node may listen elsewhere, so a public address need not be one of the node's.
            Some(ip).filter(|ip| known.contains(ip) || is_public(*ip)).into_iter().collect()
        };
        for at in found.into_iter().map(|ip| SocketAddr::new(ip, address.port())) {
            if !reached.contains(&at) {
                reached.push(at);
            }
        }
    }
    reached.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_a2al::address::Address;
    use waystation_a2al::cbor::Reader;

    fn services(topics: &[&str]) -> Services {
        Services {
            name: "box".to_owned(),
            identity: crate::fixtures::PEER.parse().unwrap(),
            listen: vec!["0.0.0.0:1791".parse().unwrap(), "[::1]:1791".parse().unwrap()],
            turn_listen: vec!["198.51.100.7:3478".parse().unwrap()],
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        }
    }

    fn at() -> Vec<SocketAddr> {
        vec!["198.51.100.7:4121".parse().unwrap()]
    }

    const PLACE: NodeId = NodeId([3; 32]);

    #[test]
    fn profile_and_topics_name_turn_and_astral_as_others_reach_them() {
        let payloads = services(&["relay", "turn"]).payloads(PLACE, &at()).unwrap();
        assert_eq!(payloads.len(), 3);
        assert_eq!((payloads[0].key, payloads[0].record_type), (PLACE, RecordType::PROFILE));
        let profile = ProfilePayload::decode(&payloads[0].payload).unwrap();
        assert_eq!(profile.protocols, ["turn", "astral"]);
        let text = String::from_utf8_lossy(&profile.meta);
        assert!(text.contains("turn:198.51.100.7:3478"), "{text}");
        assert!(text.contains("tcp:198.51.100.7:1791"), "{text}");
        assert!(text.contains(crate::fixtures::PEER) && !text.contains("::1"), "{text}");
        let mut reader = Reader::new(&profile.meta);
        reader.skip_unknown().unwrap();
        reader.end().unwrap();
        let topic = TopicPayload::decode(&payloads[2].payload).unwrap();
        assert_eq!((topic.topic.as_str(), payloads[2].key), ("turn", topic_key("turn")));
        assert!(payloads.iter().all(|own| own.payload.len() <= 512));
    }

    #[test]
    fn public_addresses_are_named_also_where_the_node_has_others() {
        let known: Vec<IpAddr> = vec!["203.0.113.4".parse().unwrap()];
        let listen = ["198.51.100.7:1", "10.0.0.1:1", "203.0.113.4:2", "0.0.0.0:2", "[::]:2"];
        let listen = listen.map(|text| text.parse().unwrap());
        let named: Vec<_> = reached(&listen, &known).map(|at| at.to_string()).collect();
        assert_eq!(named, ["198.51.100.7:1", "203.0.113.4:2"]);
    }

    #[test]
    fn nothing_is_offered_before_an_address_is_known() {
        assert_eq!(services(&["relay"]).payloads(PLACE, &[]), Ok(Vec::new()));
    }

    #[test]
    fn endpoints_are_those_of_the_operator_or_of_the_sockets_or_of_other_nodes() {
        let mut nat = NatSense::default();
        let now = Millis(1_000);
        let wildcard: Vec<SocketAddr> = vec!["0.0.0.0:4121".parse().unwrap()];
        let look = |advertise: &[SocketAddr], nat: &NatSense, listen: &[SocketAddr], private| {
            endpoints(advertise, listen.iter().copied(), private, nat, now)
        };
        assert_eq!(look(&at(), &nat, &wildcard, false), at());
        assert_eq!(look(&[], &nat, &at(), false), at());
        assert_eq!(look(&[], &nat, &wildcard, false), []);
        let private: Vec<SocketAddr> = vec!["127.0.0.1:9".parse().unwrap()];
        assert_eq!(look(&[], &nat, &private, false), []);
        assert_eq!(look(&[], &nat, &private, true), private);
        let seen = "203.0.113.9:4121".parse().unwrap();
        for reporter in 0..3 {
            nat.vote(Address([reporter; 21]).node_id(), seen, now);
        }
        assert_eq!(look(&[], &nat, &wildcard, false), [seen]);
    }
}
