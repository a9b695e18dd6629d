//! Whom a node believes, and what it tells others.

use std::net::SocketAddr;

use waystation_a2al::message::{Body, NodeInfo};
use waystation_a2al::network_size::estimate;
use waystation_a2al::node::{DropReason, Event, NodeConfig, NodeRefusal};
use waystation_a2al::payload::EndpointPayload;
use waystation_a2al::peers::{Health, PeerBook, backoff_ms};
use waystation_a2al::record::RecordType;
use waystation_a2al::time::Millis;

use super::stage::{Peer, Stage};
use super::vectors;

fn listed(stage: &mut Stage, asker: &Peer, target: &Peer) -> Vec<NodeInfo> {
    let (answer, _) = stage.ask(asker, &Body::FindNode { target: target.id() });
    let Some(Body::FindNodeResponse { nodes: Some(nodes), .. }) = answer else {
        panic!("no answer: {answer:?}")
    };
    nodes
}

fn is_listed(stage: &mut Stage, asker: &Peer, target: &Peer) -> bool {
    listed(stage, asker, target).iter().any(|node| node.node_id == target.id())
}

#[test]
fn a_peer_is_listed_once_it_has_answered() {
    let mut stage = Stage::new(NodeConfig::default());
    let (asker, peer) = (Peer::new(1), Peer::new(2));
    stage.meet(&asker);
    let (_, others) = stage.ask(&peer, &peer.ping());
    assert!(!is_listed(&mut stage, &asker, &peer));
    stage.answer_pings(&peer, &others);
    assert!(is_listed(&mut stage, &asker, &peer));
    let own = stage.node.id();
    assert!(listed(&mut stage, &asker, &peer).iter().all(|node| node.node_id != own));
}

#[test]
fn a_replayed_request_moves_nobody_and_a_peer_that_moved_is_found() {
    let mut stage = Stage::new(NodeConfig::default());
    let (asker, peer) = (Peer::new(1), Peer::new(2));
    stage.meet(&asker);
    stage.meet(&peer);
    let thief = SocketAddr::from(([31, 9, 9, 9], 666));
    let (_, others) = stage.ask(&peer.moved(thief), &peer.ping());
    let is_at = |stage: &mut Stage, at: SocketAddr| {
        let nodes = listed(stage, &asker, &peer);
        nodes.iter().any(|node| node.node_id == peer.id() && node.socket_address() == at)
    };
    assert!(is_at(&mut stage, peer.at), "no answer came from there");
    stage.answer_pings(&peer.moved(thief), &others);
    assert!(is_at(&mut stage, thief), "now it did");
}

#[test]
fn hearsay_fills_no_table_and_lies_are_not_even_asked() {
    let mut stage =
        Stage::new(NodeConfig { bootstrap: vec![Peer::new(1).at], ..NodeConfig::default() });
    let (seed, friend) = (Peer::new(1), Peer::new(2));
    stage.pass(1);
    let sent = stage.sent();
    assert!(matches!(sent[0].1.body, Body::Ping { .. }));
    stage.answer_pings(&seed, &sent);
    assert!(
        matches!(stage.node.take_event(), Some(Event::Joined { node, .. }) if node == seed.id())
    );
    let sent = stage.sent();
    let [(to, question)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((*to, &question.body), (seed.at, &Body::FindNode { target: stage.node.id() }));
    let info = |peer: &Peer, at| NodeInfo::new(peer.key.address(), at);
    let mut unbound = info(&Peer::new(3), Peer::new(3).at);
    unbound.node_id.0[0] ^= 1;
    let nodes = vec![
        info(&friend, friend.at),
        unbound,
        info(&Peer::new(4), SocketAddr::from(([127, 0, 0, 1], 1))),
        info(&Peer::new(5), SocketAddr::from(([10, 0, 0, 1], 4121))),
        info(&Peer::new(6), SocketAddr::from(([31, 6, 0, 1], 0))),
        info(&Peer::new(7), SocketAddr::from(([224, 0, 0, 1], 4121))),
    ];
    let question = question.clone();
    let answer = Body::FindNodeResponse { nodes: Some(nodes), observed: seed.at };
    stage.reply(&seed, &question, &answer);
    stage.pass(10_000);
    let asked: Vec<SocketAddr> = stage.sent().iter().map(|(to, _)| *to).collect();
    assert!(asked.contains(&friend.at), "{asked:?}");
    assert!(asked.iter().all(|to| *to == friend.at || *to == seed.at), "{asked:?}");
    assert_eq!(stage.node.table().len(), 1, "the friend has not answered");
    let refused = |reason| stage.node.statistics().nodes_refused(reason);
    assert_eq!((refused(NodeRefusal::Unbound), refused(NodeRefusal::Unusable)), (1, 4));
}

#[test]
fn a_full_bucket_holds_up_nobody() {
    let mut stage = Stage::new(NodeConfig::default());
    let own = stage.node.id();
    let far = (1..)
        .map(Peer::new)
        .filter(|peer| own.bucket_index(&peer.id()) == Some(0))
        .take(18)
        .collect::<Vec<_>>();
    for peer in &far[..16] {
        stage.meet(peer);
        stage.pass(10);
    }
    assert_eq!(stage.node.table().len(), 16);
    stage.pass(61_000);
    stage.sent();
    // The newcomer is answered at once, and whoever was silent longest is asked meanwhile.
    let newcomer = &far[16];
    let (_, others) = stage.ask(newcomer, &newcomer.ping());
    stage.answer_pings(newcomer, &others);
    let sent = stage.sent();
    let [(to, challenge)] = &sent[..] else { panic!("one challenge: {sent:?}") };
    assert_eq!(*to, far[0].at);
    assert!(matches!(challenge.body, Body::Ping { .. }));
    let other = &far[17];
    assert!(stage.ask(other, &other.ping()).0.is_some());
    // It does not answer, twice; the newcomer is asked and takes the place.
    stage.pass(4_100);
    let sent = stage.sent();
    assert!(stage.node.table().find(&far[0].id()).is_none());
    stage.answer_pings(newcomer, &sent);
    assert!(stage.node.table().find(&newcomer.id()).is_some());
    assert_eq!(stage.node.table().len(), 16);
}

#[test]
fn an_answer_of_somebody_else_does_not_count() {
    let mut stage = Stage::new(NodeConfig::default());
    let (peer, impostor) = (Peer::new(1), Peer::new(2));
    stage.meet(&peer);
    let key = Peer::new(9).id();
    let query = stage.node.find_records(key, RecordType::ENDPOINT, stage.now).unwrap();
    let sent = stage.sent();
    let [(to, question)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(*to, peer.at);
    let question = question.clone();
    let answer =
        |records| Body::FindValueResponse { nodes: None, record: None, observed: peer.at, records };
    stage.reply(&impostor.moved(peer.at), &question, &answer(Vec::new()));
    assert_eq!(stage.node.statistics().dropped(DropReason::ForeignAnswer), 1);
    assert!(stage.node.take_event().is_none(), "the look-up goes on");
    // Records of another type, of another place, or forged, are not what was asked for.
    let publisher = Peer::new(9);
    let other_type = publisher.record(5, b"", 1);
    let other_place = Peer::new(8).record(1, &EndpointPayload::default().encode(), 1);
    let wanted = publisher.record(1, &EndpointPayload::default().encode(), 7);
    let mut forged = wanted.clone();
    forged.sequence = 8;
    stage.reply(&peer, &question, &answer(vec![other_type, other_place, forged, wanted.clone()]));
    let Some(Event::Found { query: ended, found }) = stage.node.take_event() else { panic!() };
    assert_eq!(ended, query);
    assert_eq!(found.records, [wanted]);
}

#[test]
fn one_network_cannot_fill_the_table() {
    let mut stage = Stage::new(NodeConfig::default());
    for number in 1..=60 {
        let at = SocketAddr::from(([31, 1, 1, 1], 1000 + number));
        let peer = Peer::new(number).moved(at);
        stage.meet(&peer);
        stage.pass(200);
    }
    assert!(stage.node.table().len() <= 10, "{}", stage.node.table().len());
    let refused = stage.node.statistics().nodes_refused(NodeRefusal::Crowded);
    assert!(refused >= 50, "{refused} of 60 are too many of one network, and are counted");
    let mut open = Stage::new(NodeConfig { is_diverse: false, ..NodeConfig::default() });
    for number in 1..=20 {
        open.meet(&Peer::new(number).moved(SocketAddr::from(([31, 1, 1, 1], 1000 + number))));
        open.pass(200);
    }
    assert_eq!(open.node.table().len(), 20);
    assert_eq!(open.node.statistics().nodes_refused(NodeRefusal::Crowded), 0);
}

#[test]
fn failures_back_off_as_the_vectors_say_and_an_outage_is_nobodys_fault() {
    for case in vectors::group("backoff") {
        let failures = u32::try_from(case["consecutive_failures"].as_u64().unwrap()).unwrap();
        assert_eq!(backoff_ms(failures), case["backoff_seconds"].as_u64().unwrap() * 1000);
    }
    let mut book = PeerBook::default();
    let peer = Peer::new(1);
    book.succeeded(peer.id(), peer.at, Some(20), Millis(0));
    assert_eq!(book.health(&peer.id()), Health::Good);
    book.failed(peer.id(), peer.at, Millis(1000));
    assert_eq!(book.health(&peer.id()), Health::Good);
    assert!(!book.may_ask(&peer.id(), Millis(1000)));
    book.failed(peer.id(), peer.at, Millis(2000));
    assert_eq!(book.health(&peer.id()), Health::Bad);
    assert!(book.may_ask(&peer.id(), Millis(2000 + 60_000)));
    // Nobody answers any more: that is this node's own network.
    let others: Vec<Peer> = (2..=9).map(Peer::new).collect();
    for other in &others {
        book.failed(other.id(), other.at, Millis(46_001));
        book.failed(other.id(), other.at, Millis(46_002));
    }
    assert!(book.is_offline(Millis(46_001)));
    book.succeeded(others[0].id(), others[0].at, None, Millis(50_000));
    assert!(others.iter().all(|other| book.may_ask(&other.id(), Millis(50_000))));
    assert_eq!(book.health(&peer.id()), Health::Good, "what was before is forgiven too");
}

#[test]
fn a_network_size_is_guessed_as_the_vectors_say_and_never_overflows() {
    for case in vectors::group("network_size") {
        let buckets = case["verified_nodes_per_bucket"].as_object().unwrap();
        let mut buckets: Vec<(usize, usize)> = buckets
            .iter()
            .map(|(bucket, nodes)| {
                let nodes = usize::try_from(nodes.as_u64().unwrap()).unwrap();
                (bucket.parse().unwrap(), nodes)
            })
            .collect();
        buckets.sort_unstable();
        let guess = estimate(&buckets);
        assert_eq!(guess.nodes, case["estimate"].as_u64().unwrap(), "{case}");
        let confidence = guess.buckets as f64 / 5.0;
        assert!((confidence - case["confidence"].as_f64().unwrap()).abs() < 0.01, "{case}");
    }
    assert_eq!(estimate(&[(255, 16)]).nodes, u64::MAX);
}

#[test]
fn meetings_are_kept_in_a_file_of_lines() {
    let mut stage = Stage::new(NodeConfig::default());
    stage.meet(&Peer::new(1));
    let text = stage.node.seen().format(stage.now.unix);
    assert_eq!(text, format!("{} {}\n", Peer::new(1).id(), stage.now.unix.0));
    let mut other = Stage::new(NodeConfig::default());
    let line = vectors::group("seen_peers_file")[0]["line"].as_str().unwrap().to_owned();
    let text = format!("# comment\n\nnot a line\n{text}{line}");
    other.node.seen_mut().load(&text, stage.now.unix);
    assert_eq!(other.node.seen().within(3600, stage.now.unix), 1, "the other one is too old");
}

#[test]
fn hubs_are_nodes_that_are_open_or_have_a_global_address() {
    for case in vectors::group("hub_capable") {
        let endpoints = case["endpoints"].as_array().unwrap().iter();
        let payload = EndpointPayload {
            endpoints: Some(
                endpoints.map(|endpoint| endpoint.as_str().unwrap().to_owned()).collect(),
            ),
            nat: waystation_a2al::payload::NatType(
                u8::try_from(case["nat"].as_u64().unwrap()).unwrap(),
            ),
            ..EndpointPayload::default()
        };
        assert_eq!(payload.may_be_hub(), case["capable"].as_bool().unwrap(), "{case}");
    }
}

#[test]
fn hosts_names_in_records_are_not_looked_up() {
    let payload = EndpointPayload {
        endpoints: Some(vec![
            "quic://example.org:4121".to_owned(),
            "udp://192.0.2.1:4121".to_owned(),
            "quic://192.0.2.1:4121".to_owned(),
            "quic://[2001:db8::1]:4121".to_owned(),
        ]),
        ..EndpointPayload::default()
    };
    assert_eq!(payload.addresses().count(), 2);
}

#[test]
fn the_own_record_outranks_what_the_network_has_of_an_earlier_life() {
    let peer = Peer::new(1);
    let mut stage = Stage::new(NodeConfig {
        bootstrap: vec![peer.at],
        endpoints: vec![SocketAddr::from(([31, 0, 0, 1], 4121))],
        ..NodeConfig::default()
    });
    stage.pass(1);
    let mut first_sequence = None;
    for _ in 0..40 {
        for (to, message) in stage.sent() {
            assert_eq!(to, peer.at);
            let own = waystation_a2al::keys::SigningKey::from_seed(&[0xaa; 32]).unwrap();
            let answer = match &message.body {
                Body::Ping { .. } => Body::Pong { address: peer.key.address(), observed: to },
                Body::FindNode { .. } => Body::FindNodeResponse { nodes: None, observed: to },
                Body::Store { record, .. } => {
                    let sequence = *first_sequence.get_or_insert(record.sequence);
                    let already_had = record.sequence == sequence;
                    Body::StoreResponse {
                        stored: true,
                        already_had,
                        refusal: None,
                        pool: Vec::new(),
                    }
                }
                Body::FindValue { .. } => {
                    let sequence = first_sequence.unwrap() + 1000;
                    let record = waystation_a2al::record::Unsigned {
                        address: own.address(),
                        record_type: RecordType::ENDPOINT,
                        payload: EndpointPayload::default().encode(),
                        sequence,
                        timestamp: stage.now.unix.0,
                        ttl_s: 3600,
                        delegation: Vec::new(),
                    };
                    Body::FindValueResponse {
                        nodes: None,
                        record: None,
                        observed: to,
                        records: vec![record.sign(&own)],
                    }
                }
                Body::NatProbeRequest { .. } => continue,
                other => panic!("unexpected: {other:?}"),
            };
            stage.reply(&peer, &message, &answer);
        }
        stage.pass(1_000);
    }
    assert_eq!(stage.node.sequence(), first_sequence.unwrap() + 1001);
    assert!(stage.node.published().all(|published| published.active() == 1));
}
