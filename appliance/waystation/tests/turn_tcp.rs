//! TURN over TCP through the real process, on loopback as an ordinary user: clients whose messages
//! come in pieces, who do not read, who leave, and who are no TURN clients at all.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use support::appliance::PortName;
use support::turn::{ALICE, BOB, CHANNEL, Turn, peer, peer_at, receive, refused};
use support::{STEP, eventually, given};
use waystation_peer::{Relayed, TurnClient};
use waystation_turn::attribute::AttributeType;

/// A connection of whoever it may be.
fn connect(turn: &Turn) -> TcpStream {
    let stream = TcpStream::connect(turn.tcp).unwrap();
    stream.set_read_timeout(Some(STEP)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Whether the other side has ended a connection, cleanly or not.
fn is_ended(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Both ways, through a channel and without one. Lengths that are no multiple of 4 are padded.
fn exchange(client: &mut TurnClient, ip: &str, lengths: &[usize]) {
    // Without one asked for, it is of IPv4 (RFC 8656 §7.2).
    let family = if ip.contains(':') { 2 } else { 1 };
    let relayed = client.allocate_with(|writer| {
        writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
    });
    let relayed = relayed.unwrap();
    let (socket, address) = peer_at(ip);
    client.permit(address).unwrap();
    for &length in lengths {
        let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
        client.indicate(address, &payload).unwrap();
        assert_eq!(receive(&socket), (payload.clone(), relayed));
        socket.send_to(&payload, relayed).unwrap();
        let back = client.receive(STEP).unwrap();
        assert_eq!(back, Relayed { peer: Some(address), channel: None, payload });
    }
    client.bind(CHANNEL, address).unwrap();
    for &length in lengths {
        let payload: Vec<u8> = (0..length).map(|index| (index * 7) as u8).collect();
        client.send(CHANNEL, &payload).unwrap();
        assert_eq!(receive(&socket), (payload.clone(), relayed));
        socket.send_to(&payload, relayed).unwrap();
        let back = client.receive(STEP).unwrap();
        assert_eq!(back, Relayed { peer: None, channel: Some(CHANNEL), payload });
    }
}

fn payload_passes_both_ways(port: PortName, cores: usize) {
    if !port.is_given() {
        return;
    }
    let turn = Turn::start(port, cores, &[]);
    let mut client = turn.client_over_tcp();
    assert_eq!(client.binding().unwrap(), client.local().unwrap());
    exchange(&mut client, "127.0.0.1", &[0, 1, 2, 3, 4, 1200, 9000, 65_000]);
    turn.appliance.expect_total(&["turn_datagrams_to_peers"], 16);
    turn.appliance.expect_total(&["turn_datagrams_to_clients"], 16);

    let document = turn.appliance.document("/v1/udp");
    let row = &document["udp"][0];
    assert_eq!(document["total"], 1, "{document}");
    assert_eq!((&row["transport"], &row["user"]), (&"tcp".into(), &"alice".into()));
    assert_eq!(row["client"], client.local().unwrap().to_string());
    assert_eq!(row["datagrams_to_client"], 16);
    turn.appliance.expect_total(&["turn_streams_open"], 1);

    // The allocation goes with its connection.
    drop(client);
    turn.appliance.expect_total(&["turn_allocations_open"], 0);
    turn.appliance.expect_total(&["turn_streams_open"], 0);
    turn.appliance.expect_total(&["udp_sockets_open"], cores as u64);
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
fn payload_passes_both_ways_over_ipv6() {
    if !given(TcpListener::bind("[::1]:0").is_ok(), "IPv6 on loopback") {
        return;
    }
    let turn = Turn::start_at("[::1]", PortName::Epoll, 1, &["allow_peers = [\"::1/128\"]"]);
    exchange(&mut turn.client_over_tcp(), "::1", &[0, 5, 1200]);
}

/// Passes on each byte by itself, both ways, until either side ends.
fn trickle(mut from: TcpStream, mut to: TcpStream) {
    to.set_nodelay(true).unwrap();
    let mut buffer = [0; 1];
    while matches!(from.read(&mut buffer), Ok(1)) && to.write_all(&buffer).is_ok() {}
    let _ = to.shutdown(Shutdown::Both);
}

fn messages_may_come_byte_by_byte(port: PortName) {
    if !port.is_given() {
        return;
    }
    let turn = Turn::start(port, 1, &[]);
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = between.local_addr().unwrap();
    let server = turn.tcp;
    let trickling = thread::spawn(move || {
        let (client, _) = between.accept().unwrap();
        let server = TcpStream::connect(server).unwrap();
        let (back, forth) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let answers = thread::spawn(move || trickle(forth, back));
        trickle(client, server);
        answers.join().unwrap();
    });
    let mut client = TurnClient::over_tcp(address, ALICE).unwrap();
    exchange(&mut client, "127.0.0.1", &[0, 1, 3, 160, 1000]);
    drop(client);
    trickling.join().unwrap();
    turn.appliance.expect_total(&["turn_allocations_open"], 0);
    assert_eq!(turn.appliance.document("/v1/drops")["events"], 0);
}

#[test]
fn messages_may_come_byte_by_byte_over_io_uring() {
    messages_may_come_byte_by_byte(PortName::IoUring);
}

#[test]
fn messages_may_come_byte_by_byte_over_epoll() {
    messages_may_come_byte_by_byte(PortName::Epoll);
}

#[test]
fn a_client_over_tcp_reaches_one_over_udp_and_one_over_tcp() {
    let turn = Turn::start(PortName::Epoll, 2, &[]);
    let mut alice = turn.client_over_tcp();
    let to_alice = alice.allocate().unwrap();
    let over_udp = TurnClient::over_udp(turn.udp, BOB).unwrap();
    let over_tcp = TurnClient::over_tcp(turn.tcp, BOB).unwrap();
    for (channel, mut bob) in (CHANNEL..).zip([over_udp, over_tcp]) {
        let to_bob = bob.allocate().unwrap();
        alice.bind(channel, to_bob).unwrap();
        bob.permit(to_alice).unwrap();
        alice.send(channel, b"hello").unwrap();
        let heard = bob.receive(STEP).unwrap();
        assert_eq!((heard.peer, &heard.payload[..]), (Some(to_alice), &b"hello"[..]));
        bob.indicate(to_alice, b"and back").unwrap();
        assert_eq!(alice.receive(STEP).unwrap().payload, b"and back");
    }
}

#[test]
fn many_messages_in_one_piece_are_all_relayed_in_order() {
    let turn = Turn::start(PortName::Epoll, 1, &[]);
    let mut client = turn.client_over_tcp();
    client.allocate().unwrap();
    let (socket, address) = peer();
    client.bind(CHANNEL, address).unwrap();
    // More than one stream may have done for it in a turn; the peer's socket holds so many.
    for index in 0..150_u8 {
        client.send(CHANNEL, &[index; 7]).unwrap();
    }
    for index in 0..150_u8 {
        assert_eq!(receive(&socket).0, [index; 7]);
    }
}

/// Sends to a client that does not read until payload is lost.
fn flood(turn: &Turn, socket: &UdpSocket, relayed: SocketAddr) {
    let lost = || turn.appliance.drops().get("turn_client_not_reading").copied().unwrap_or(0);
    eventually("the client's stream is full", || {
        for _ in 0..200 {
            let _ = socket.send_to(&[7; 9000], relayed);
        }
        (lost() > 0).then_some(())
    });
}

#[test]
fn a_client_that_does_not_read_loses_payload_but_keeps_its_answers() {
    let turn = Turn::start(PortName::Epoll, 1, &[]);
    let (mut slow, mut other) = (turn.client_over_tcp(), turn.client_over_tcp());
    let (to_slow, to_other) = (slow.allocate().unwrap(), other.allocate().unwrap());
    let (socket, address) = peer();
    slow.bind(CHANNEL, address).unwrap();
    other.bind(CHANNEL, address).unwrap();
    flood(&turn, &socket, to_slow);

    // Nobody else has to wait for it.
    socket.send_to(b"to the other", to_other).unwrap();
    assert_eq!(other.receive(STEP).unwrap().payload, b"to the other");
    // Behind what it had not read is its answer, and payload passes again.
    slow.refresh(600).unwrap();
    eventually("payload passes again", || {
        socket.send_to(b"after", to_slow).unwrap();
        let relayed = slow.receive(STEP).unwrap();
        (relayed.payload == b"after").then_some(())
    });
    drop(slow);
    turn.appliance.expect_total(&["turn_allocations_open"], 1);
}

#[test]
fn a_client_that_does_not_read_and_is_killed_leaves_nothing_behind() {
    for port in [PortName::Epoll, PortName::IoUring] {
        if !port.is_given() {
            continue;
        }
        let turn = Turn::start(port, 1, &[]);
        let mut slow = turn.client_over_tcp();
        let relayed = slow.allocate().unwrap();
        let (socket, address) = peer();
        slow.permit(address).unwrap();
        flood(&turn, &socket, relayed);
        // With bytes unread the kernel resets the connection.
        drop(slow);
        turn.appliance.expect_total(&["turn_allocations_open"], 0);
        turn.appliance.expect_total(&["turn_streams_open"], 0);
        eventually("no block is kept", || {
            let counters = turn.appliance.status()["cores"][0]["counters"].clone();
            let free = counters["blocks_free"].as_u64().unwrap();
            (counters["blocks_total"] == free).then_some(())
        });
    }
}

#[test]
fn what_is_no_turn_is_closed_for_a_reason_that_is_counted() {
    let turn = Turn::start(PortName::Epoll, 1, &[]);
    let cases: [(&str, &[u8]); 3] = [
        ("turn_stream_unframed", &[0xff; 40]),
        ("turn_stream_oversize", b"GET / HTTP/1.1\r\n\r\n"),
        // A length that is no multiple of 4.
        ("turn_stream_unframed", &[0, 1, 0, 3]),
    ];
    for (index, (reason, bytes)) in cases.into_iter().enumerate() {
        let mut stream = connect(&turn);
        stream.write_all(bytes).unwrap();
        assert!(is_ended(&mut stream), "{reason}");
        let count = if index == 2 { 2 } else { 1 };
        eventually(reason, || (turn.appliance.drops()[reason] == count).then_some(()));
    }
    let mut torn = connect(&turn);
    torn.write_all(&[0, 1, 0, 0, 0x21]).unwrap();
    torn.shutdown(Shutdown::Write).unwrap();
    assert!(is_ended(&mut torn));
    turn.expect_drop("turn_stream_torn");
    turn.appliance.expect_total(&["turn_streams_open"], 0);
    turn.client_over_tcp().allocate().unwrap();
}

#[test]
fn connections_of_one_address_are_bounded() {
    let turn = Turn::start(PortName::Epoll, 1, &["streams_per_address_max = 2"]);
    let mut clients = [turn.client_over_tcp(), turn.client_over_tcp()];
    for client in &mut clients {
        client.allocate().unwrap();
    }
    assert!(is_ended(&mut connect(&turn)));
    turn.expect_drop("turn_streams_per_source");
    let [one, _other] = clients;
    drop(one);
    turn.appliance.expect_total(&["turn_streams_open"], 1);
    turn.client_over_tcp().allocate().unwrap();
}

#[test]
fn wrong_passwords_and_oversteps_are_refused_as_over_udp() {
    let turn = Turn::start(PortName::Epoll, 1, &["allocations_per_user_max = 1"]);
    let mut mallory = TurnClient::over_tcp(turn.tcp, ("alice", "guess")).unwrap();
    assert_eq!(refused(mallory.allocate()), 401);
    let mut alice = turn.client_over_tcp();
    alice.allocate().unwrap();
    assert_eq!(refused(turn.client_over_tcp().allocate()), 486);
    // ChannelData of a client without an allocation goes nowhere, and its stream lives on.
    let mut bob = TurnClient::over_tcp(turn.tcp, BOB).unwrap();
    bob.send(CHANNEL, b"psst").unwrap();
    turn.expect_drop("turn_no_allocation");
    bob.allocate().unwrap();
}
