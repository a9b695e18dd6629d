//! TURN through the real process, on loopback as an ordinary user: a client and a peer that reach
//! each other through relayed addresses, what is counted and listed, and who is refused.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use rustix::process::Signal;
use std::fs;
use std::net::UdpSocket;
use std::time::Duration;
use support::appliance::PortName;
use support::turn::{BOB, CHANNEL, Turn, peer, receive, refused};
use support::{STEP, eventually};
use waystation_peer::{Relayed, TurnClient, TurnClientError};
use waystation_turn::attribute::AttributeType;

/// Long enough for something that must not come to come.
const NOTHING: Duration = Duration::from_millis(200);

/// Both ways, through a channel and without one, with payload of every length class.
fn exchange(client: &mut TurnClient) {
    let relayed = client.allocate().unwrap();
    let (socket, address) = peer();
    client.permit(address).unwrap();
    for length in [0, 1, 3, 160, 1200, 9000] {
        let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
        client.indicate(address, &payload).unwrap();
        assert_eq!(receive(&socket), (payload.clone(), relayed));
        socket.send_to(&payload, relayed).unwrap();
        let back = client.receive(STEP).unwrap();
        assert_eq!(back, Relayed { peer: Some(address), channel: None, payload });
    }
    client.bind(CHANNEL, address).unwrap();
    for length in [0, 1, 2, 3, 4, 1200, 20_000] {
        let payload: Vec<u8> = (0..length).map(|index| (index * 7) as u8).collect();
        client.send(CHANNEL, &payload).unwrap();
        assert_eq!(receive(&socket), (payload.clone(), relayed));
        socket.send_to(&payload, relayed).unwrap();
        let back = client.receive(STEP).unwrap();
        assert_eq!(back, Relayed { peer: None, channel: Some(CHANNEL), payload });
    }
}

/// Ends a client's allocation. A request that is sent again because its answer is late finds nothing
/// to end.
fn end(client: &mut TurnClient) {
    if let Err(error) = client.refresh(0) {
        assert_eq!(refused(Err::<(), _>(error)), 437);
    }
}

fn payload_passes_both_ways(port: PortName, cores: usize) {
    if !port.is_given() {
        return;
    }
    let turn = Turn::start(port, cores, &[]);
    let mut client = turn.client();
    assert_eq!(client.binding().unwrap().port(), client.local().unwrap().port());
    exchange(&mut client);
    turn.appliance.expect_total(&["turn_datagrams_to_peers"], 13);
    turn.appliance.expect_total(&["turn_datagrams_to_clients"], 13);
    turn.appliance.expect_total(&["turn_allocations_open"], 1);

    let document = turn.appliance.document("/v1/udp");
    let row = &document["udp"][0];
    assert_eq!(document["total"], 1, "{document}");
    assert_eq!((&row["kind"], &row["user"]), (&"turn".into(), &"alice".into()));
    assert_eq!(row["client"], client.local().unwrap().to_string());
    assert_eq!((&row["permissions"], &row["channels"]), (&1.into(), &1.into()));
    assert_eq!(row["datagrams_to_peers"], 13);
    assert_eq!(row["datagrams_to_client"], 13);

    client.refresh(0).unwrap();
    turn.appliance.expect_total(&["turn_allocations_open"], 0);
    turn.appliance.expect_total(&["udp_sockets_open"], cores as u64);
    assert_eq!(turn.appliance.document("/v1/udp")["total"], 0);
    assert_eq!(turn.appliance.document("/v1/drops")["events"], 0);
}

#[test]
fn payload_passes_both_ways_over_io_uring() {
    payload_passes_both_ways(PortName::IoUring, 1);
}

#[test]
fn payload_passes_both_ways_over_epoll() {
    payload_passes_both_ways(PortName::Epoll, 3);
}

#[test]
fn clients_on_several_cores_get_addresses_of_their_own() {
    let turn = Turn::start(PortName::Epoll, 3, &[]);
    let mut clients: Vec<_> = (0..24).map(|_| turn.client()).collect();
    let mut relayed: Vec<_> = clients.iter_mut().map(|client| client.allocate().unwrap()).collect();
    let rows = turn.appliance.document("/v1/udp");
    assert_eq!(rows["total"], 24);
    let (socket, address) = peer();
    for (index, client) in clients.iter_mut().enumerate() {
        client.bind(CHANNEL, address).unwrap();
        client.send(CHANNEL, &[index as u8]).unwrap();
        assert_eq!(receive(&socket), (vec![index as u8], relayed[index]));
    }
    relayed.sort_unstable();
    relayed.dedup();
    assert_eq!(relayed.len(), 24, "each its own");
    // The kernel spreads clients by their addresses; all on one core would be no accident.
    let cores = rows["udp"].as_array().unwrap().iter().map(|row| row["core"].as_u64().unwrap());
    assert!(cores.collect::<std::collections::BTreeSet<_>>().len() > 1);
}

#[test]
fn a_reserved_port_is_had_on_whichever_core_its_token_comes_to() {
    let turn = Turn::start(PortName::Epoll, 3, &[]);
    let mut clients = Vec::new();
    for _ in 0..12 {
        let (mut first, mut second) = (turn.client(), turn.client());
        let (even, token) = first.allocate_pair().unwrap();
        let odd = second.allocate_with(|writer| {
            writer.attribute(AttributeType::RESERVATION_TOKEN, &token);
        });
        assert_eq!((even.port() % 2, odd.unwrap().port()), (0, even.port() + 1));
        clients.push((first, second));
    }
    turn.appliance.expect_total(&["turn_allocations_open"], 24);
    // The pairs that both came to one core are not all of them.
    let rows = turn.appliance.document("/v1/udp");
    let cores: std::collections::BTreeMap<_, _> = rows["udp"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["client"].clone().to_string(), row["core"].clone()))
        .collect();
    let core_of = |client: &TurnClient| &cores[&format!("\"{}\"", client.local().unwrap())];
    assert!(clients.iter().any(|(first, second)| core_of(first) != core_of(second)));
    // Payload passes at such a port, and it can be had again.
    let (_, second) = &mut clients[0];
    let (socket, address) = peer();
    second.bind(CHANNEL, address).unwrap();
    second.send(CHANNEL, b"rtcp").unwrap();
    assert_eq!(receive(&socket).0, b"rtcp");
    for client in clients.iter_mut().flat_map(|(first, second)| [first, second]) {
        end(client);
    }
    turn.appliance.expect_total(&["turn_allocations_open"], 0);
}

#[test]
fn two_clients_reach_each_other_through_their_relayed_addresses() {
    // Nothing is opened: the relayed addresses are the machine's, and only their ports are peers.
    let turn = Turn::start_at("127.0.0.1", PortName::Epoll, 2, &[]);
    let mut alice = turn.client();
    let mut bob = TurnClient::over_udp(turn.udp, BOB).unwrap();
    let (to_alice, to_bob) = (alice.allocate().unwrap(), bob.allocate().unwrap());
    alice.bind(CHANNEL, to_bob).unwrap();
    bob.permit(to_alice).unwrap();
    alice.send(CHANNEL, b"hello").unwrap();
    let heard = bob.receive(STEP).unwrap();
    assert_eq!((heard.peer, &heard.payload[..]), (Some(to_alice), &b"hello"[..]));
    bob.indicate(to_alice, b"and back").unwrap();
    assert_eq!(alice.receive(STEP).unwrap().payload, b"and back");

    // Another program's port on the same address is none.
    let (socket, address) = loop {
        let (socket, address) = peer();
        if address.port() < 49_152 {
            break (socket, address);
        }
    };
    alice.bind(CHANNEL + 1, address).unwrap();
    alice.send(CHANNEL + 1, b"psst").unwrap();
    eventually("it is counted", || (turn.appliance.drops()["turn_peer_denied"] == 1).then_some(()));
    socket.set_read_timeout(Some(NOTHING)).unwrap();
    assert!(socket.recv_from(&mut [0; 16]).is_err());
}

#[test]
fn peers_that_the_policy_denies_are_refused_and_strangers_payload_is_dropped() {
    let turn = Turn::start(PortName::Epoll, 1, &["deny_peers = [\"127.0.0.7/32\"]"]);
    let mut client = turn.client();
    let relayed = client.allocate().unwrap();
    for denied in ["127.0.0.7:9", "10.0.0.1:9", "169.254.169.254:80", "224.0.0.1:9", "0.0.0.0:9"] {
        assert_eq!(refused(client.permit(denied.parse().unwrap())), 403, "{denied}");
    }
    let (socket, _) = peer();
    socket.send_to(b"let me in", relayed).unwrap();
    eventually("the stranger is counted", || {
        (turn.appliance.drops()["turn_no_permission"] == 1).then_some(())
    });
    assert!(matches!(client.receive(NOTHING), Err(TurnClientError::NothingCame(_))));
}

#[test]
fn wrong_passwords_and_unknown_users_get_nothing() {
    let turn = Turn::start(PortName::Epoll, 1, &["allocations_per_user_max = 2"]);
    for user in [("alice", "guess"), ("mallory", "wonderland")] {
        let mut client = TurnClient::over_udp(turn.udp, user).unwrap();
        assert_eq!(refused(client.allocate()), 401);
    }
    assert_eq!(turn.appliance.document("/v1/udp")["total"], 0);
    let mut clients: Vec<_> = (0..3).map(|_| turn.client()).collect();
    clients[0].allocate().unwrap();
    clients[1].allocate().unwrap();
    assert_eq!(refused(clients[2].allocate()), 486);
    let six = |writer: &mut waystation_turn::writer::MessageWriter<'_>| {
        writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    };
    let mut bob = TurnClient::over_udp(turn.udp, BOB).unwrap();
    assert_eq!(refused(bob.allocate_with(six)), 440, "no IPv6 address is configured");
}

#[test]
fn a_quota_holds_for_all_cores_together() {
    let turn = Turn::start(PortName::Epoll, 3, &["allocations_per_user_max = 4"]);
    let mut of_alice: Vec<_> = (0..24).map(|_| turn.client()).collect();
    for (index, client) in of_alice.iter_mut().enumerate() {
        let allocated = client.allocate();
        if index < 4 {
            allocated.unwrap();
        } else {
            assert_eq!(refused(allocated), 486, "client {index}");
        }
    }
    turn.appliance.expect_total(&["turn_allocations_open"], 4);
    // Another user has its own, and what ends on one core is free on each.
    let of_bob = || TurnClient::over_udp(turn.udp, BOB).unwrap();
    let mut first: Vec<_> = (0..4).map(|_| of_bob()).collect();
    first.iter_mut().for_each(|client| assert!(client.allocate().is_ok()));
    for client in &mut first {
        end(client);
    }
    let mut later: Vec<_> = (0..4).map(|_| of_bob()).collect();
    later.iter_mut().for_each(|client| assert!(client.allocate().is_ok()));
    assert_eq!(refused(of_bob().allocate()), 486);
    turn.appliance.expect_total(&["turn_allocations_open"], 8);
}

#[test]
fn reload_takes_back_permissions_and_users() {
    let turn = Turn::start(PortName::Epoll, 1, &[]);
    let mut client = turn.client();
    client.allocate().unwrap();
    let (socket, address) = peer();
    client.bind(CHANNEL, address).unwrap();
    client.send(CHANNEL, b"before").unwrap();
    assert_eq!(receive(&socket).0, b"before");

    let file = turn.appliance.directory.path().join("waystation.toml");
    let text = fs::read_to_string(&file).unwrap();
    let denied = text.replace("[turn]\n", "[turn]\ndeny_peers = [\"127.0.0.0/8\"]\n");
    assert_ne!(text, denied);
    fs::write(&file, denied).unwrap();
    fs::write(turn.files.path().join("users"), "bob:builder\n").unwrap();
    turn.appliance.process.signal(Signal::HUP);
    eventually("the reload is over", || {
        turn.appliance.process.log().contains("reloaded the configuration").then_some(())
    });
    assert_eq!(refused(client.permit(address)), 401, "alice is unknown");
    client.send(CHANNEL, b"after").unwrap();
    eventually("the channel is gone", || {
        (turn.appliance.drops()["turn_no_channel"] == 1).then_some(())
    });
    TurnClient::over_udp(turn.udp, BOB).unwrap().allocate().unwrap();
}

/// What the appliance does not read at once comes to it in one burst.
fn burst_leaves_in(tier: &str, port: PortName) -> serde_json::Value {
    let turn = Turn::start(port, 1, &[&format!("tier = \"{tier}\"")]);
    let mut client = turn.client();
    client.allocate().unwrap();
    let (socket, address) = peer();
    client.bind(CHANNEL, address).unwrap();
    turn.appliance.process.pause();
    for index in 0..12_u8 {
        client.send(CHANNEL, &[index; 500]).unwrap();
    }
    turn.appliance.process.signal(Signal::CONT);
    for index in 0..12 {
        assert_eq!(receive(&socket).0, [index; 500], "in order, and whole");
    }
    turn.appliance.expect_total(&["turn_datagrams_to_peers"], 12);
    let row = turn.appliance.document("/v1/udp")["udp"][0].clone();
    assert_eq!(row["tier"], tier);
    row
}

#[test]
fn datagrams_that_came_together_leave_in_a_train() {
    for port in [PortName::Epoll, PortName::IoUring] {
        if port.is_given() {
            assert_eq!(burst_leaves_in("gso", port)["datagrams_in_trains"], 12);
        }
    }
}

#[test]
fn tier_plain_sends_no_trains() {
    assert_eq!(burst_leaves_in("plain", PortName::Epoll)["datagrams_in_trains"], 0);
}

#[test]
fn garbage_is_counted_and_leaves_nothing_behind() {
    let turn = Turn::start(PortName::Epoll, 1, &[]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let cases: [(&str, &[u8]); 4] = [
        ("turn_not_turn", &[0xff; 40]),
        ("turn_malformed", &[0, 1, 0, 0]),
        ("turn_no_allocation", &[0x40, 0, 0, 1, 7, 0, 0, 0]),
        ("turn_bad_channel_data", &[0x40, 0, 0, 9, 7]),
    ];
    for (reason, packet) in cases {
        socket.send_to(packet, turn.udp).unwrap();
        eventually(reason, || (turn.appliance.drops()[reason] == 1).then_some(()));
    }
    turn.appliance.expect_total(&["turn_allocations_open"], 0);
    turn.client().allocate().unwrap();
}
