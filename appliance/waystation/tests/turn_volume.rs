//! Many TURN allocations at a time through the real process: how many there are, what each costs, and
//! that they are there to be used and gone when they end.
//!
//! Ordinary runs are scaled down to what an unoptimised build does in seconds;
//! `WAYSTATION_TEST_LONG=1` or `WAYSTATION_TEST_REQUIRE=all` asks for the whole.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use support::appliance::PortName;
use support::turn::{ALICE, CHANNEL, Turn, peer, receive, refused};
use waystation_peer::TurnClient;

const WHOLE: usize = 10_000;
const SCALED_DOWN: usize = 1_000;
/// What one may cost besides its sockets, which are the kernel's.
const BYTES_EACH_MAX: usize = 2048;
/// Allocations that come first, with what a program takes once.
const WARM_UP: usize = 200;

/// An address of loopback for each client, so that none is a stranger who asks too often and no two
/// are the same, whatever ports the kernel gives.
fn address(client: usize) -> IpAddr {
    let [low, high] = u16::try_from(client).unwrap().to_le_bytes();
    Ipv4Addr::new(127, 2, high, low).into()
}

fn client(turn: &Turn, number: usize) -> TurnClient {
    TurnClient::over_udp_from((address(number), 0).into(), turn.udp, ALICE).unwrap()
}

/// The address that is relayed from: this process's own, so that its ports are nobody else's.
fn relay_address() -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + (high & 0x1f), low, 3)
}

/// Bytes of memory that are in use by a process.
fn resident_bytes(turn: &Turn) -> usize {
    let path = format!("/proc/{}/status", turn.appliance.process.id());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn many_allocations_are_held_at_little_cost_each_and_all_of_them_work() {
    let long = std::env::var_os("WAYSTATION_TEST_LONG").is_some_and(|value| value == "1");
    let count = if long || support::required() { WHOLE } else { SCALED_DOWN };
    let relay = relay_address();
    let lines = [
        format!("relay_addresses = [\"{relay}\"]"),
        format!("allocations_max = {}", count + WARM_UP),
        format!("allocations_per_user_max = {}", count + WARM_UP + 1),
        "port_min = 40000".to_owned(),
        "allow_peers = [\"127.0.0.0/8\"]".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let turn = Turn::start_at("127.0.0.1", PortName::Epoll, 1, &lines);
    let allocate = |number: usize| -> SocketAddr { client(&turn, number).allocate().unwrap() };
    let mut first = client(&turn, 0);
    let from = first.allocate().unwrap();
    (1..WARM_UP).for_each(|number| assert_eq!(allocate(number).ip(), IpAddr::V4(relay)));
    let before = resident_bytes(&turn);
    let mut relayed: Vec<_> = (WARM_UP..WARM_UP + count).map(allocate).collect();
    let each = resident_bytes(&turn).saturating_sub(before) / count;
    println!("{count} allocations, {each} bytes each");
    assert!(each <= BYTES_EACH_MAX, "{each} bytes each");

    turn.appliance.expect_total(&["turn_allocations_open"], (count + WARM_UP) as u64);
    turn.appliance.expect_total(&["turn_allocations_opened"], (count + WARM_UP) as u64);
    assert_eq!(turn.appliance.document("/v1/udp?limit=1")["total"], count + WARM_UP);
    relayed.sort_unstable();
    relayed.dedup();
    assert_eq!(relayed.len(), count, "each its own");

    // One more than there may be is refused, those that are there work, and one that ends makes room.
    let mut late = client(&turn, count + WARM_UP);
    assert_eq!(refused(late.allocate()), 508);
    let (socket, address) = peer();
    first.bind(CHANNEL, address).unwrap();
    first.send(CHANNEL, b"among many").unwrap();
    assert_eq!(receive(&socket), (b"among many".to_vec(), from));
    first.refresh(0).unwrap();
    late.allocate().unwrap();
    turn.appliance.expect_total(&["turn_allocations_opened"], (count + WARM_UP + 1) as u64);
}
