//! What a node answers, and what it meets with silence.

use std::net::SocketAddr;

use waystation_a2al::limits::{
    ANSWERS_TO_STRANGERS, DATAGRAM_BYTES_MAX, IMPOSTORS_PER_PLACE, SHARE_RECORDS_MIN, TTL_S_MAX,
};
use waystation_a2al::message::{self, Body, NodeInfo, Refusal, TransactionId};
use waystation_a2al::node::{DropReason, NodeConfig, fit};
use waystation_a2al::payload::{EndpointPayload, MailboxPayload, NatType, TopicPayload};
use waystation_a2al::rate::{Rate, Rates};
use waystation_a2al::record::{RecordType, SignedRecord, Unsigned, topic_key};
use waystation_a2al::store::StoreLimits;

use super::stage::{Peer, START_UNIX_S, STORED, Stage};
use super::vectors;

fn refused(refusal: Refusal) -> Body {
    Body::StoreResponse {
        stored: false,
        already_had: false,
        refusal: Some(refusal),
        pool: Vec::new(),
    }
}

fn mail(from: &Peer, to: &Peer, text: &[u8]) -> SignedRecord {
    let payload = MailboxPayload {
        recipient: to.key.address(),
        sender: from.key.address(),
        ephemeral_key: [1; 32],
        ciphertext: text.to_vec(),
        nonce: [2; 12],
    };
    from.record(0x80, &payload.encode(), 1)
}

#[test]
fn trimming_keeps_what_upstream_keeps_and_more_where_that_was_silent() {
    let observed = SocketAddr::from(([192, 0, 2, 1], 4121));
    let node = NodeInfo::new(Peer::new(1).key.address(), observed);
    let nodes = vec![node; 16];
    let size = |name: &str| {
        let records = vectors::group("records");
        let record = records.iter().find(|record| record["name"] == name).unwrap();
        usize::try_from(record["size"].as_u64().unwrap()).unwrap()
    };
    let endpoint = size("endpoint A seq 1");
    let ethereum = size("endpoint of an ethereum address signed by OP");
    let topic = size("topic A");
    assert_eq!(fit(observed, &nodes, &[endpoint]), (12, 1));
    assert_eq!(fit(observed, &nodes, &[endpoint; 3]), (7, 3));
    assert_eq!(fit(observed, &nodes, &[topic; 10]), (1, 4));
    assert_eq!(fit(observed, &nodes, &[ethereum]), (6, 1));
    assert_eq!(fit(observed, &nodes, &[ethereum; 2]), (1, 1));
    // Beside one node 984 bytes make 1 200; one more takes the node's place, and beyond that there
    // is no answer that has the record.
    assert_eq!(fit(observed, &nodes, &[984]), (1, 1));
    assert_eq!(fit(observed, &nodes, &[985]), (0, 1));
    assert_eq!(fit(observed, &nodes, &[1053]), (0, 1));
    assert_eq!(fit(observed, &nodes, &[1054]), (1, 0));
}

#[test]
fn records_are_kept_read_renewed_and_refused_as_they_should_be() {
    let mut stage = Stage::new(NodeConfig::default());
    let peer = Peer::new(1);
    stage.meet(&peer);
    let record = peer.record(5, b"one", 5);
    assert_eq!(stage.store(&peer, &record, None), STORED);
    let again = stage.store(&peer, &record, Some(peer.id()));
    assert!(matches!(again, Body::StoreResponse { stored: true, already_had: true, .. }));
    assert_eq!(stage.read(&peer, peer.id()), std::slice::from_ref(&record));
    let older = peer.record(5, b"older", 4);
    let stale = stage.store(&peer, &older, None);
    assert!(matches!(stale, Body::StoreResponse { stored: true, already_had: true, .. }));
    let newer = peer.record(5, b"newer", 6);
    assert_eq!(stage.store(&peer, &newer, None), STORED);
    assert_eq!(stage.read(&peer, peer.id()), [newer]);
    let stranger = Peer::new(2);
    assert_eq!(stage.store(&peer, &record, Some(stranger.id())), refused(Refusal::Record));
    let mut forged = record;
    forged.payload = b"two".to_vec();
    forged.sequence = 9;
    assert_eq!(stage.store(&peer, &forged, None), refused(Refusal::Record));
}

#[test]
fn a_record_that_would_live_for_months_is_refused_as_policy() {
    let mut stage = Stage::new(NodeConfig::default());
    let peer = Peer::new(1);
    stage.meet(&peer);
    let record = Unsigned {
        address: peer.key.address(),
        record_type: RecordType(5),
        payload: Vec::new(),
        sequence: 1,
        timestamp: START_UNIX_S,
        ttl_s: TTL_S_MAX + 1,
        delegation: Vec::new(),
    };
    let record = record.sign(&peer.key);
    assert_eq!(stage.store(&peer, &record, None), refused(Refusal::Policy));
}

#[test]
fn a_stored_record_is_pushed_once_also_when_its_key_was_left_out() {
    let mut stage = Stage::new(NodeConfig::default());
    let (reader, writer) = (Peer::new(1), Peer::new(2));
    stage.meet(&reader);
    stage.meet(&writer);
    stage.store(&writer, &writer.record(5, b"", 1), None);
    let subscription =
        Body::FindValue { target: writer.id(), record_type: RecordType(5), subscribe: true };
    assert!(stage.ask(&reader, &subscription).0.is_some());
    let newer = Box::new(writer.record(5, b"", 2));
    let store = Body::Store { record: newer.clone(), key: None };
    let (_, others) = stage.ask(&writer, &store);
    let [(to, push)] = &others[..] else { panic!("one push: {others:?}") };
    assert_eq!(*to, reader.at);
    assert_eq!(push.body, Body::Push { key: writer.id(), record: newer.clone() });
    // A renewing acknowledgement keeps the subscription for one more.
    let message_id = newer.record_id();
    let acknowledgement =
        |subscribe| Body::PushAcknowledgement { key: writer.id(), message_id, subscribe };
    stage.reply(&reader, push, &acknowledgement(true));
    let third = Body::Store { record: Box::new(writer.record(5, b"", 3)), key: None };
    let (_, others) = stage.ask(&writer, &third);
    stage.reply(&reader, &others[0].1, &acknowledgement(false));
    let fourth = Body::Store { record: Box::new(writer.record(5, b"", 4)), key: None };
    assert!(stage.ask(&writer, &fourth).1.is_empty());
}

#[test]
fn a_push_to_this_node_is_acknowledged_and_not_asked_for_again() {
    let mut stage = Stage::new(NodeConfig::default());
    let (peer, recipient) = (Peer::new(1), Peer::new(2));
    let record = mail(&peer, &recipient, b"hello");
    let push = Body::Push { key: recipient.id(), record: Box::new(record.clone()) };
    let (answer, _) = stage.ask(&peer, &push);
    let message_id = record.record_id();
    let expected = Body::PushAcknowledgement { key: recipient.id(), message_id, subscribe: false };
    assert_eq!(answer, Some(expected));
    assert!(stage.node.store().is_empty());
}

#[test]
fn topics_and_mail_stand_under_their_own_keys_alone() {
    let mut stage = Stage::new(NodeConfig::default());
    let (peer, recipient) = (Peer::new(1), Peer::new(2));
    stage.meet(&peer);
    let payload = TopicPayload { topic: "ai/test".to_owned(), ..TopicPayload::default() };
    let topic = peer.record(0x10, &payload.encode(), 1);
    assert_eq!(stage.store(&peer, &topic, Some(topic_key("ai/test"))), STORED);
    assert_eq!(stage.store(&peer, &topic, Some(topic_key("other"))), refused(Refusal::Record));
    assert_eq!(stage.store(&peer, &topic, None), refused(Refusal::Record));
    let letter = mail(&peer, &recipient, b"hello");
    assert_eq!(stage.store(&peer, &letter, Some(recipient.id())), STORED);
    assert_eq!(stage.store(&peer, &letter, Some(peer.id())), refused(Refusal::Record));
}

#[test]
fn waiting_mail_is_told_only_where_the_operator_wants_it() {
    let (peer, writer) = (Peer::new(1), Peer::new(2));
    for sends_pool in [false, true] {
        let mut stage = Stage::new(NodeConfig { sends_pool, ..NodeConfig::default() });
        stage.meet(&peer);
        let letter = mail(&writer, &peer, b"hello");
        assert_eq!(stage.store(&writer, &letter, Some(peer.id())), STORED);
        let answer = stage.store(&peer, &peer.record(5, b"", 1), None);
        let Body::StoreResponse { stored: true, pool, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(pool.len(), usize::from(sends_pool));
        assert!(pool.iter().all(|entry| entry.ids == [letter.record_id()]));
    }
}

#[test]
fn a_foreign_copy_is_hidden_after_two_minutes_and_a_hosted_agent_is_not() {
    let mut stage = Stage::new(NodeConfig::default());
    let (daemon, agent, other) = (Peer::new(1), Peer::new(2), Peer::new(3));
    stage.meet(&daemon);
    let payload = EndpointPayload {
        endpoints: Some(vec![format!("quic://{}", daemon.at)]),
        nat: NatType::OPEN,
        ..EndpointPayload::default()
    };
    let hosted = agent.record(1, &payload.encode(), 1);
    assert_eq!(stage.store(&daemon, &hosted, None), STORED);
    let foreign = other.record(5, b"", 1);
    assert_eq!(stage.store(&daemon, &foreign, None), STORED);
    stage.pass(119_000);
    assert_eq!(stage.read(&daemon, other.id()), std::slice::from_ref(&foreign));
    stage.pass(3_000);
    assert_eq!(stage.read(&daemon, other.id()), []);
    assert_eq!(stage.read(&daemon, agent.id()), [hosted]);
    // Its publisher brings it itself, and it is shown again.
    stage.meet(&other);
    let again = stage.store(&other, &foreign, None);
    assert!(matches!(again, Body::StoreResponse { already_had: true, .. }));
    assert_eq!(stage.read(&daemon, other.id()), [foreign]);
}

#[test]
fn a_publisher_that_answers_is_taken_at_its_word() {
    let mut stage = Stage::new(NodeConfig::default());
    let (carrier, agent, daemon) = (Peer::new(1), Peer::new(2), Peer::new(3));
    stage.meet(&carrier);
    let payload = EndpointPayload {
        endpoints: Some(vec![format!("quic://{}", daemon.at)]),
        nat: NatType::OPEN,
        ..EndpointPayload::default()
    };
    let record = agent.record(1, &payload.encode(), 1);
    let store = Body::Store { record: Box::new(record.clone()), key: None };
    let (_, others) = stage.ask(&carrier, &store);
    let (to, question) = &others[0];
    assert_eq!((*to, &question.body), (daemon.at, &Body::FindNode { target: agent.id() }));
    let answer = Body::FindNodeResponse { nodes: None, observed: daemon.at };
    stage.reply(&daemon, question, &answer);
    stage.pass(200_000);
    assert_eq!(stage.read(&carrier, agent.id()), [record]);
}

#[test]
fn a_record_that_fits_only_without_nodes_is_answered_without_nodes() {
    let mut stage = Stage::new(NodeConfig::default());
    let peer = Peer::new(1);
    stage.meet(&peer);
    let record = peer.record(6, &[7; 877], u64::MAX >> 1);
    assert_eq!(stage.store(&peer, &record, Some(peer.id())), STORED);
    let other = Peer::new(2);
    stage.meet(&other);
    let question =
        Body::FindValue { target: peer.id(), record_type: RecordType::ANY, subscribe: false };
    let (answer, _) = stage.ask(&other, &question);
    let Some(Body::FindValueResponse { nodes, records, .. }) = answer else { panic!() };
    assert_eq!((nodes, records), (Some(Vec::new()), vec![record]));
}

#[test]
fn everybody_gets_a_share_of_a_crowded_key() {
    let mut stage = Stage::new(NodeConfig::default());
    let peers: Vec<Peer> = (1..=20).map(Peer::new).collect();
    stage.meet(&peers[0]);
    let payload = TopicPayload {
        topic: "crowd".to_owned(),
        brief: "x".repeat(140),
        name: "y".repeat(200),
        ..TopicPayload::default()
    };
    for peer in &peers {
        let record = peer.record(0x10, &payload.encode(), 1);
        assert_eq!(stage.store(peer, &record, Some(topic_key("crowd"))), STORED);
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let records = stage.read(&peers[0], topic_key("crowd"));
        assert!(!records.is_empty() && records.len() < 4);
        seen.extend(records.iter().map(|record| record.address));
        stage.pass(20);
    }
    assert_eq!(seen.len(), peers.len());
}

#[test]
fn a_stranger_gets_little_and_what_many_strangers_get_is_bounded() {
    let mut stage = Stage::new(NodeConfig::default());
    (1..=12).for_each(|number| stage.meet(&Peer::new(number)));
    let question = Body::FindNode { target: stage.node.id() };
    let stranger = Peer::new(100);
    let answer = stage.ask(&stranger, &question).0.unwrap();
    let Body::FindNodeResponse { nodes: Some(nodes), .. } = &answer else { panic!() };
    assert_eq!(nodes.len(), 4);
    let mut answers = 0;
    for port in 1..=400 {
        let forged = stranger.moved(SocketAddr::from(([30, 100, 0, 200], port)));
        answers += usize::from(stage.ask(&forged, &question).0.is_some());
    }
    assert!(answers <= 100, "{answers}");
    assert!(stage.node.statistics().dropped(DropReason::RateOfStrangers) >= 300);
    let known = stage.ask(&Peer::new(1), &question).0.unwrap();
    let Body::FindNodeResponse { nodes: Some(nodes), .. } = &known else { panic!() };
    assert!(nodes.len() >= 8, "who is known does not suffer");
}

#[test]
fn what_is_malformed_repeated_or_unasked_leaves_no_trace() {
    let mut stage = Stage::new(NodeConfig::default());
    let peer = Peer::new(1);
    let answer = Body::Pong { address: peer.key.address(), observed: peer.at };
    let long = Body::Store { record: Box::new(peer.record(5, &[0; 1000], 1)), key: None };
    for (body, reason) in [(answer, DropReason::Unsolicited), (long, DropReason::Oversized)] {
        assert!(stage.ask(&peer, &body).0.is_none());
        assert_eq!(stage.node.statistics().dropped(reason), 1, "{reason:?}");
    }
    let foreign = Body::Ping { address: Peer::new(2).key.address() };
    assert!(stage.ask(&peer, &foreign).0.is_none());
    assert_eq!(stage.node.statistics().dropped(DropReason::ForeignAddress), 1);
    let packet = message::encode(&peer.key, TransactionId([1; 20]), &peer.ping());
    let mut changed = packet.clone();
    for bit in 0..packet.len() * 8 {
        changed[bit / 8] ^= 1 << (bit % 8);
        stage.receive(&changed, peer.at);
        changed[bit / 8] ^= 1 << (bit % 8);
        stage.pass(10);
    }
    assert_eq!(stage.node.statistics().verified, 0);
    assert!(stage.sent().is_empty() && stage.node.table().is_empty());
    // Strangers of that network have used up what is looked at of them.
    stage.pass(5_000);
    for _ in 0..10 {
        stage.receive(&packet, peer.at);
    }
    let pongs =
        stage.sent().iter().filter(|(_, sent)| matches!(sent.body, Body::Pong { .. })).count();
    assert_eq!(pongs, 3, "once, and twice again");
    assert_eq!(stage.node.statistics().dropped(DropReason::Repeated), 7);
}

#[test]
fn a_flood_from_one_address_is_dropped_before_it_is_verified() {
    let mut stage = Stage::new(NodeConfig::default());
    let peer = Peer::new(1);
    for _ in 0..20_000 {
        stage.receive(&[0xa4; DATAGRAM_BYTES_MAX], peer.at);
    }
    let statistics = stage.node.statistics();
    assert_eq!(statistics.dropped(DropReason::RateOfAddress), 20_000 - 400);
    assert_eq!(statistics.dropped(DropReason::Malformed), 400);
}

#[test]
fn what_strangers_cost_is_bounded_however_many_addresses_they_have() {
    let strangers = Rate { per_s: 50, burst: 100 };
    let rates = Rates { strangers, ..Rates::MEMBER };
    let mut stage = Stage::new(NodeConfig { rates, ..NodeConfig::default() });
    let contact = Peer::new(1);
    stage.meet(&contact);
    stage.pass(1_000);
    let before = stage.node.statistics().verified;
    let once_more = message::encode(&contact.key, TransactionId([3; 20]), &contact.ping());
    let address = |number: u32| {
        let [_, high, middle, low] = (number + 1).to_be_bytes();
        SocketAddr::from(([60 + high, middle, low, 1], 4121))
    };
    // Each address sends one message in its life; half of them are forgeries.
    for number in 0..5_000_u32 {
        let mut transaction = [0; 20];
        transaction[..4].copy_from_slice(&number.to_be_bytes());
        let mut packet = message::encode(&contact.key, TransactionId(transaction), &contact.ping());
        if number % 2 == 0 {
            let last = packet.len() - 1;
            packet[last] ^= 1;
        }
        stage.receive(&packet, address(number));
    }
    let statistics = stage.node.statistics();
    let verified = statistics.verified - before;
    let forgeries = statistics.dropped(DropReason::Signature);
    assert_eq!(verified + forgeries, u64::from(strangers.burst), "signatures looked at");
    let over = statistics.dropped(DropReason::RateOfAllStrangers);
    assert_eq!(over, 5_000 - u64::from(strangers.burst));
    // Who has proved to be where it says is heard all the same, and so is what is waited for.
    stage.sent();
    assert!(stage.ask(&contact, &contact.ping()).0.is_some());
    stage.receive(&once_more, contact.at);
    assert_eq!(stage.node.statistics().verified, before + verified + 2);
    // A second later there is room for others.
    stage.pass(1_000);
    let newcomer = Peer::new(2);
    assert!(stage.ask(&newcomer, &newcomer.ping()).0.is_some());
}

#[test]
fn what_is_forged_in_the_names_of_contacts_costs_no_more_than_what_strangers_send() {
    let strangers = Rate { per_s: 50, burst: 100 };
    let rates = Rates { strangers, ..Rates::MEMBER };
    let mut stage = Stage::new(NodeConfig { rates, ..NodeConfig::default() });
    let contacts: Vec<Peer> = (1..=10).map(Peer::new).collect();
    contacts.iter().for_each(|contact| stage.meet(contact));
    stage.pass(1_000);
    stage.sent();
    let forger = Peer::new(99);
    let before = stage.node.statistics().verified;
    for number in 0..3_000_u32 {
        let mut transaction = [0; 20];
        transaction[..4].copy_from_slice(&number.to_be_bytes());
        // One half holds, as the forger's own.
        let mut packet = message::encode(&forger.key, TransactionId(transaction), &forger.ping());
        if number % 2 == 0 {
            let last = packet.len() - 1;
            packet[last] ^= 1;
        }
        stage.receive(&packet, contacts[number as usize % 9].at);
    }
    let statistics = stage.node.statistics();
    let looked_at = statistics.verified - before + statistics.dropped(DropReason::Signature);
    let allowed = 9 * u64::from(IMPOSTORS_PER_PLACE) + u64::from(strangers.burst);
    assert_eq!(looked_at, allowed, "signatures looked at");
    let over = statistics.dropped(DropReason::RateOfDoubted);
    assert_eq!(over + looked_at, 3_000);
    // A contact in whose name nothing was forged is heard as before, and so is a stranger.
    stage.sent();
    assert!(stage.ask(&contacts[9], &contacts[9].ping()).0.is_some());
    let newcomer = Peer::new(50);
    assert!(stage.ask(&newcomer, &newcomer.ping()).0.is_some());
    // Another one is asked who it is once it is heard; its answer clears its name.
    stage.pass(20_000);
    stage.sent();
    stage.meet(&contacts[0]);
    for number in 0..2 * strangers.per_s {
        let mut transaction = [7; 20];
        transaction[..4].copy_from_slice(&number.to_be_bytes());
        let packet = message::encode(&forger.key, TransactionId(transaction), &forger.ping());
        stage.receive(&packet, contacts[1].at);
    }
    assert!(stage.node.statistics().dropped(DropReason::RateOfDoubted) > over, "all is used up");
    assert!(stage.ask(&contacts[0], &contacts[0].ping()).0.is_some());
}

#[test]
fn one_network_of_strangers_is_verified_as_often_as_it_is_answered() {
    let mut stage = Stage::new(NodeConfig::default());
    let stranger = Peer::new(1);
    for number in 0..2_000_u32 {
        let mut transaction = [0; 20];
        transaction[..4].copy_from_slice(&number.to_be_bytes());
        let packet = message::encode(&stranger.key, TransactionId(transaction), &stranger.ping());
        let [_, _, high, low] = number.to_be_bytes();
        stage.receive(&packet, SocketAddr::from(([60, 0, 0, low], 4121 + u16::from(high))));
    }
    let statistics = stage.node.statistics();
    assert_eq!(statistics.verified, u64::from(ANSWERS_TO_STRANGERS.burst));
    let over = statistics.dropped(DropReason::RateOfStrangers);
    assert_eq!(over, 2_000 - u64::from(ANSWERS_TO_STRANGERS.burst));
}

#[test]
fn live_records_of_a_full_store_survive_stores_from_one_network() {
    let store = StoreLimits { keys_max: 200, bytes_max: 1 << 24 };
    let config = NodeConfig { store, is_diverse: false, ..NodeConfig::default() };
    let mut stage = Stage::new(config);
    let publishers: Vec<Peer> = (1..=200).map(Peer::new).collect();
    for publisher in &publishers {
        stage.meet(publisher);
        assert_eq!(stage.store(publisher, &publisher.record(5, b"live", 1), None), STORED);
    }
    // Ten addresses of one network, all of which answer, with a new key and port for each record.
    let mut stored = 0;
    for number in 0..600_u16 {
        let at = SocketAddr::from(([60, 0, 0, (number % 10) as u8], 4121 + number));
        let flooder = Peer { at, ..Peer::new(1_000 + number) };
        stage.meet(&flooder);
        let answer = stage.store(&flooder, &flooder.record(5, b"flood", 1), None);
        stored += usize::from(answer == STORED);
        stage.pass(200);
    }
    assert!(stored > 300, "{stored}");
    let live = publishers.iter().filter(|publisher| has_live(&stage, publisher)).count();
    assert!(live + SHARE_RECORDS_MIN as usize + 1 >= publishers.len(), "{live} are left");
}

fn has_live(stage: &Stage, publisher: &Peer) -> bool {
    let kept = stage.node.store().peek(&publisher.id(), RecordType(5), stage.now);
    kept.is_some_and(|record| record.payload == b"live")
}

/// Fills a store with live records, each of a publisher in a network of its own, and then sends it
/// records of new keys from addresses at which nobody answers. Gives back how many of those were kept.
fn forge(stage: &mut Stage, publishers: &[Peer], from: impl Fn(u16) -> SocketAddr) -> usize {
    for publisher in publishers {
        stage.meet(publisher);
        assert_eq!(stage.store(publisher, &publisher.record(5, b"live", 1), None), STORED);
    }
    let mut stored = 0;
    for number in 0..600_u16 {
        let forger = Peer { at: from(number), ..Peer::new(1_000 + number) };
        let record = Box::new(forger.record(5, b"forged", 1));
        let answer = stage.ask(&forger, &Body::Store { record, key: None }).0;
        stored += usize::from(answer == Some(STORED));
        stage.pass(100);
    }
    stored
}

#[test]
fn what_is_forged_in_the_name_of_a_network_does_not_drive_out_its_records() {
    let store = StoreLimits { keys_max: 200, bytes_max: 1 << 24 };
    let mut stage = Stage::new(NodeConfig { store, ..NodeConfig::default() });
    let publishers: Vec<Peer> = (1..=200).map(Peer::new).collect();
    let victim = &publishers[199];
    let stored = forge(&mut stage, &publishers, |number| match victim.at {
        SocketAddr::V4(at) => {
            let [first, second, third, _] = at.ip().octets();
            SocketAddr::from(([first, second, third, 2 + (number % 200) as u8], 4121))
        }
        SocketAddr::V6(_) => unreachable!("peers are at IPv4 addresses"),
    });
    assert!(stored > 300, "{stored}");
    assert!(has_live(&stage, victim));
    let live = publishers.iter().filter(|publisher| has_live(&stage, publisher)).count();
    assert!(live + SHARE_RECORDS_MIN as usize + 1 >= publishers.len(), "{live} are left");
}

#[test]
fn live_records_of_a_full_store_survive_stores_that_are_forged_in_many_names() {
    let store = StoreLimits { keys_max: 200, bytes_max: 1 << 24 };
    let mut stage = Stage::new(NodeConfig { store, ..NodeConfig::default() });
    let publishers: Vec<Peer> = (1..=200).map(Peer::new).collect();
    let stored = forge(&mut stage, &publishers, |number| {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([60, high, low, 1], 4121))
    });
    assert!(stored > 300, "{stored}");
    let live = publishers.iter().filter(|publisher| has_live(&stage, publisher)).count();
    assert!(live + SHARE_RECORDS_MIN as usize + 1 >= publishers.len(), "{live} are left");
}

#[test]
fn echoes_prove_the_claimed_port_and_nothing_else() {
    let mut stage = Stage::new(NodeConfig::default());
    let peer = Peer::new(1);
    let claimed = SocketAddr::new(peer.at.ip(), 999);
    let probe = |claimed| Body::NatProbeRequest { token: [5; 8], claimed };
    for echoes in [1, 1, 1, 0] {
        let (_, others) = stage.ask(&peer, &probe(claimed));
        let echo = Body::NatProbeEcho { token: [5; 8] };
        let sent = others.iter().filter(|(to, sent)| *to == claimed && sent.body == echo);
        assert_eq!(sent.count(), echoes);
    }
    stage.pass(11_000);
    let elsewhere = Peer::new(2).at;
    let (_, others) = stage.ask(&peer, &probe(elsewhere));
    assert!(others.iter().all(|(to, _)| *to != elsewhere));
}

#[test]
fn a_question_over_a_stream_is_answered_and_changes_nothing() {
    let mut stage = Stage::new(NodeConfig::default());
    let (asker, transaction) = (Peer::new(1), TransactionId([9; 20]));
    let over_tcp = SocketAddr::from(([203, 0, 113, 5], 50_123));
    let mut ask = |body: &Body| -> Result<Body, DropReason> {
        let request = message::encode(&asker.key, transaction, body);
        let answer = stage.node.answer_over_stream(&request, over_tcp, stage.now)?;
        let answer = message::Parsed::parse(&answer).unwrap().verify().unwrap();
        assert_eq!((answer.transaction, answer.sender_id), (transaction, stage.node.id()));
        assert_eq!(stage.node.table().len(), 0);
        assert!(stage.node.take_datagram().is_none());
        Ok(answer.body)
    };
    let place = asker.id();
    match ask(&asker.ping()).unwrap() {
        Body::Pong { observed, .. } => assert_eq!(observed, over_tcp),
        other => panic!("{other:?}"),
    }
    match ask(&Body::FindNode { target: place }).unwrap() {
        Body::FindNodeResponse { observed, .. } => assert_eq!(observed, over_tcp),
        other => panic!("{other:?}"),
    }
    let record_type = RecordType::ENDPOINT;
    let question = Body::FindValue { target: place, record_type, subscribe: true };
    match ask(&question).unwrap() {
        Body::FindValueResponse { observed, .. } => assert_eq!(observed, over_tcp),
        other => panic!("{other:?}"),
    }
    let record = Box::new(asker.record(0x02, &[0xa0], 1));
    let refused = ask(&Body::Store { record, key: None }).unwrap_err();
    assert_eq!(refused, DropReason::Unsolicited);
    let at = stage.now;
    assert_eq!(
        stage.node.answer_over_stream(b"junk", over_tcp, at),
        Err(DropReason::OtherProtocol)
    );
    assert_eq!(stage.node.store().len(), 0);
    assert_eq!(stage.node.statistics().dropped(DropReason::Unsolicited), 1);
}
