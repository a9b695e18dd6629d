//! A flood on the socket of the DHT: how much of it is let in, that all of it is counted, and that
//! data cores go on. On loopback, and as root behind the XDP program, which drops most of it before
//! the kernel has anything to do with it. How fast things go is for `dht-flood` among the benches.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where and shows why; it looks at the clock, and pauses"
)]

mod support;

use serde_json::Value;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::measure::{Pair, disturbed, measure};
use support::process::is_root;
use support::streets::{CLIENT, Streets, WAN};
use support::{eventually_within, given};
use waystation_a2al::keys::SigningKey;
use waystation_a2al::message::{self, Body, Parsed, TransactionId};

/// Sources of the flood on loopback.
const SOURCES: u8 = 16;
/// Pings of each source that differ.
const PINGS: u64 = 32;
const FLOODED: Duration = Duration::from_secs(3);
/// Datagrams of a flood at least, however long that takes a busy machine: each ping six times from
/// everybody, of which three are answered at most.
const DATAGRAMS_MIN: u64 = 6 * SOURCES as u64 * PINGS;
/// Datagrams in a row before others may run: a flood does not wait, but other tests do.
const BURST: usize = 512;
const PAUSE: Duration = Duration::from_millis(5);
/// Drops of the kernel are looked at every 5 s, and others have the processors meanwhile.
const COUNTED: Duration = Duration::from_secs(90);
/// What a network (/24) of strangers is answered: 100 at once and 20 a second; and what this node asks
/// in its turn: 50 and 10. Three seconds of that, and as long again for a machine that is busy.
const ANSWERS_MAX: u64 = 100 + 50 + 20 * 30;

/// Somebody who says the same few things all the time.
struct Flooder {
    socket: UdpSocket,
    packets: Vec<Vec<u8>>,
}

impl Flooder {
    fn new(socket: UdpSocket, seed: u8, to: SocketAddr) -> Self {
        socket.connect(to).unwrap();
        let key = SigningKey::from_seed(&[seed; 32]).unwrap();
        let ping = Body::Ping { address: key.address() };
        let packet = |number: u64| {
            let mut transaction = [0; 20];
            transaction[..8].copy_from_slice(&number.to_be_bytes());
            message::encode(&key, TransactionId(transaction), &ping)
        };
        Self { socket, packets: (0..PINGS).map(packet).collect() }
    }

    /// Sends everything it has; gives back how many of it the kernel took.
    fn flood(&self) -> usize {
        self.packets.iter().filter(|packet| self.socket.send(packet).is_ok()).count()
    }
}

/// Floods until it is told to stop and enough was sent.
fn flood(flooders: &[Flooder], sent: &AtomicU64, stop: &AtomicBool) {
    let mut since_pause = 0;
    while !stop.load(Ordering::Relaxed) || sent.load(Ordering::Relaxed) < DATAGRAMS_MIN {
        for flooder in flooders {
            let taken = flooder.flood();
            sent.fetch_add(taken as u64, Ordering::Relaxed);
            since_pause += taken;
        }
        if since_pause >= BURST {
            since_pause = 0;
            thread::sleep(PAUSE);
        }
    }
}

fn is_answered(socket: &UdpSocket, seed: u8, to: SocketAddr) -> bool {
    let key = SigningKey::from_seed(&[seed; 32]).unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let mut transaction = [0; 20];
    transaction[..16].copy_from_slice(&now.to_be_bytes());
    let ping = Body::Ping { address: key.address() };
    socket.send_to(&message::encode(&key, TransactionId(transaction), &ping), to).unwrap();
    let mut buffer = [0; 2048];
    while let Ok(length) = socket.recv(&mut buffer) {
        let message = Parsed::parse(&buffer[..length]).unwrap().verify().unwrap();
        if matches!(message.body, Body::Pong { .. }) && message.transaction.0 == transaction {
            return true;
        }
    }
    false
}

fn bound(to: [u8; 4]) -> UdpSocket {
    UdpSocket::bind(SocketAddr::from((to, 0))).unwrap()
}

fn at(appliance: &Appliance) -> SocketAddr {
    appliance.document("/v1/dht")["listen"][0].as_str().unwrap().parse().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn settings(listen: &str) -> Settings {
    Settings::new(PortName::Epoll, 1)
        .with("dht", "enabled = true")
        .with("dht", &format!("listen = [\"{listen}\"]"))
        .with("dht", "allow_private = true")
        .with("hub", "enabled = false")
}

#[test]
fn a_flood_of_the_dht_is_bounded_and_counted_and_data_cores_go_on() {
    let appliance = Appliance::start(&settings("127.0.0.1:0"));
    let node = at(&appliance);
    let mut pairs = [Pair::new(&appliance)];
    let flooders: Vec<_> =
        (1..=SOURCES).map(|last| Flooder::new(bound([127, 0, 8, last]), last, node)).collect();
    let sent = AtomicU64::new(0);
    let waits = disturbed(|stop| flood(&flooders, &sent, stop), || measure(&mut pairs, FLOODED));
    // Every message was compared with what came back.
    assert!(waits.messages > 10, "{waits:?}");
    let sent = sent.into_inner();
    println!(
        "{sent} datagrams of a flood, while data went {} times there and back",
        waits.messages
    );
    let document = eventually_within("every datagram of the flood is counted", COUNTED, || {
        let document = appliance.document("/v1/dht");
        let counted =
            number(&document["received"]) + number(&document["drops"]["receive_buffer_full"]);
        (counted == sent).then_some(document)
    });
    let (stats, drops) = (&document["stats"], &document["drops"]);
    let drop = |reason: &str| number(&drops[reason]);
    // What was received is either genuine or dropped before it was verified; of strangers of one
    // network as much is verified as is answered.
    let verified = number(&stats["rx_packets_verified"]);
    let reasons =
        ["rate_of_address", "repeated", "rate_of_strangers", "rate_of_all_strangers"].map(drop);
    let unread: u64 = reasons.iter().sum();
    assert_eq!(number(&document["received"]), verified + unread, "{document}");
    assert!(drop("rate_of_strangers") > 0, "{document}");
    assert!(verified <= ANSWERS_MAX, "{document}");
    assert!(number(&stats["tx_packets"]) <= ANSWERS_MAX, "{document}");
    assert_eq!(number(&stats["total_peers"]), 0, "nobody has proved to be anywhere");
    let published = document["published"].as_array().unwrap().len() as u64;
    assert_eq!(number(&document["store"]["records"]), published, "its own alone");
    let other = bound([127, 0, 9, 1]);
    other.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    eventually_within("others are answered", COUNTED, || {
        is_answered(&other, 99, node).then_some(())
    });
    assert_eq!(appliance.status()["readiness"]["state"], "ready");
}

#[test]
fn behind_the_xdp_program_a_flood_ends_before_the_kernels_stack() {
    if !given(is_root(), "root") {
        return;
    }
    let streets = Streets::new();
    let settings = settings(&format!("{WAN}:4121"))
        .with("xdp", "mode = \"native\"")
        .with("xdp", "stranger_rate = 20");
    let appliance = Appliance::start(&settings);
    let node = at(&appliance);
    let xdp = || appliance.document("/v1/xdp");
    assert_eq!(xdp()["state"], "on", "the DHT alone is reason enough: {}", xdp());
    let frames = |verdict: &str| {
        let document = xdp();
        let mut rows = document["verdicts"].as_array().unwrap().iter();
        rows.find(|row| row["verdict"] == verdict).map_or(0, |row| number(&row["frames"]))
    };
    let socket = streets.at_client(|| UdpSocket::bind((CLIENT, 0))).unwrap();
    let flooder = Flooder::new(socket, 1, node);
    let mut pairs = [Pair::new(&appliance)];
    let sent = AtomicU64::new(0);
    let waits = disturbed(
        |stop| flood(std::slice::from_ref(&flooder), &sent, stop),
        || measure(&mut pairs, FLOODED),
    );
    assert!(waits.messages > 10, "{waits:?}");
    let sent = sent.into_inner();
    let (dropped, passed) = eventually_within("the flood is counted", COUNTED, || {
        let counted = (frames("drop_stranger_over_rate"), frames("pass_stranger"));
        (counted.0 + counted.1 >= sent).then_some(counted)
    });
    println!("of {sent} datagrams {dropped} were dropped by the program and {passed} were let in");
    assert!(dropped > passed, "{dropped} dropped, {passed} let in, of {sent}");
    let reasons = appliance.drops();
    assert!(reasons["udp_source_over_rate"] >= dropped, "{reasons:?}");
    eventually_within("the node has seen what was let in, and no more", COUNTED, || {
        let document = appliance.document("/v1/dht");
        let seen =
            number(&document["received"]) + number(&document["drops"]["receive_buffer_full"]);
        assert!(seen <= passed, "{seen} of {passed}: {document}");
        (seen == passed).then_some(())
    });
    // From another street nothing has come, and whoever is there is answered.
    let peer = streets.peer();
    peer.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    eventually_within("others are answered", COUNTED, || is_answered(&peer, 2, node).then_some(()));
}
