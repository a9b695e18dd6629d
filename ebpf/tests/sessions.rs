//! The table of sessions with the kernel's maps behind it: when it is full, when another process goes
//! on with it, and while packets are looked up in it.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};
use support::{bpf_mount::BpfMount, namespace::*};
use waystation_ebpf::{
    abi::{Port, Session, SessionKey, Settings, limits::SESSION_ENTRIES_MAX},
    forwarding::{LOOPBACK_INTERFACE, switch_on},
    pins::Pins,
    programs::Programs,
    tables::InsertError,
};
use waystation_proving::frame::udp;

/// `struct xdp_md`'s answer for a frame that leaves where it came in.
const XDP_TX: u32 = 3;
const ROUNDS: u32 = 2_000;

/// Keys one after the other, of both families in turn.
fn key(number: u32) -> SessionKey {
    let port = 9;
    let (source, local): (SocketAddr, SocketAddr) = if number.is_multiple_of(2) {
        let source = Ipv4Addr::from_bits(0x0a00_0000 | number);
        ((source, port).into(), (Ipv4Addr::new(198, 51, 100, 1), port).into())
    } else {
        let prefix = 0x2001_0db8_0000_0000_0000_0000_0000_0000;
        let source = Ipv6Addr::from_bits(prefix | u128::from(number));
        ((source, port).into(), (Ipv6Addr::from_bits(prefix | 1 << 64), port).into())
    };
    SessionKey::new(source, local, None)
}

#[test]
fn a_table_takes_its_entries_and_no_more_and_gives_back_each() {
    if !support::given_root() {
        return;
    }
    let mut programs = Programs::load(None).unwrap();
    let sessions = &mut programs.tables.sessions;
    for number in 0..SESSION_ENTRIES_MAX {
        sessions.insert(key(number), Session::steered(number)).unwrap();
    }
    let another = key(SESSION_ENTRIES_MAX);
    assert!(matches!(sessions.insert(another, Session::steered(1)), Err(InsertError::Full)));
    assert_eq!(sessions.find(&another).unwrap(), None);
    // What is there can be replaced all the same.
    for number in 0..200 {
        sessions.insert(key(number), Session::steered(number + 1)).unwrap();
    }
    let owners: BTreeSet<_> = sessions.iter().map(|(key, its)| (key, its.owner_cpu)).collect();
    let expected = (0..SESSION_ENTRIES_MAX).map(|at| (key(at), at + u32::from(at < 200)));
    assert!(owners == expected.collect(), "each key has its own session");
    assert!(sessions.remove(&key(7)).unwrap());
    sessions.insert(another, Session::steered(1)).unwrap();
    assert_eq!(sessions.find(&key(7)).unwrap(), None);
    assert_eq!(sessions.find(&another).unwrap().unwrap().owner_cpu, 1);
}

#[test]
fn who_goes_on_with_a_table_overwrites_none_of_its_sessions() {
    if !support::given_root() {
        return;
    }
    let mount = BpfMount::new();
    let pins = Pins::open(&mount.path().join("waystation")).unwrap();
    let mut first = Programs::load(Some(&pins)).unwrap();
    for number in 0..500 {
        first.tables.sessions.insert(key(number), Session::steered(number)).unwrap();
    }
    let mut next = Programs::load(Some(&pins)).unwrap();
    // Still the first one's, which changes it until it lets go.
    for number in (0..500_u32).step_by(5) {
        assert!(first.tables.sessions.remove(&key(number)).unwrap());
    }
    for number in 500..1000 {
        first.tables.sessions.insert(key(number), Session::steered(number)).unwrap();
    }
    drop(first);
    for number in 1000..2000 {
        next.tables.sessions.insert(key(number), Session::steered(number)).unwrap();
    }
    let found: BTreeSet<_> =
        next.tables.sessions.iter().map(|(key, its)| (key, its.owner_cpu)).collect();
    let left = (0..2000_u32).filter(|number| *number >= 500 || !number.is_multiple_of(5));
    assert!(found == left.map(|number| (key(number), number)).collect());
}

/// The interface that frames come in by, with a neighbour on each of two addresses.
fn interface() -> u32 {
    switch_on().unwrap();
    ip("link set lo up");
    ip("link add wan type veth peer name wan-peer");
    ip("link set wan-peer up");
    ip("link set wan up");
    ip("addr add 198.51.100.1/24 dev wan");
    for last in [7, 8] {
        ip(&format!(
            "neigh add 198.51.100.{last} lladdr 02:00:00:00:00:0{last} dev wan nud permanent"
        ));
    }
    index_of("wan")
}

#[test]
fn a_packet_sees_one_session_or_the_other_while_one_replaces_the_other() {
    if !support::given_root() {
        return;
    }
    let mount = BpfMount::new();
    let _namespace = Namespace::enter_new();
    let interface = interface();
    let pins = Pins::open(&mount.path().join("waystation")).unwrap();
    let (mut writing, mut running) =
        (Programs::load(Some(&pins)).unwrap(), Programs::load(Some(&pins)).unwrap());
    let settings = Settings { routing_interface: LOOPBACK_INTERFACE, ..Settings::default() };
    running.tables.settings.set(settings).unwrap();
    running.tables.ports.set(9..=9, Port::Session).unwrap();
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let own = address("198.51.100.1:9");
    running.tables.local_addresses.insert(own.ip(), &[Port::Session]).unwrap();
    let sender = "203.0.113.9:9000";
    let its = SessionKey::new(address(sender), own, None);
    let ways = [("198.51.100.7:1", "198.51.100.1:7"), ("198.51.100.8:2", "198.51.100.1:8")]
        .map(|(to, from)| Session::relayed(address(from), address(to), None, 0));
    let frame = udp(sender, "198.51.100.1:9", *b"either").frame();
    let whole = ways.map(|session| {
        writing.tables.sessions.insert(its, session).unwrap();
        let ran = running.run(&frame, interface, 1).unwrap();
        assert_eq!(ran.action, XDP_TX);
        ran.frame
    });
    assert_ne!(whole[0], whole[1]);

    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let ended = &ended;
        scope.spawn(move || {
            for round in 0..ROUNDS {
                let session = ways[round as usize % 2];
                writing.tables.sessions.insert(its, session).unwrap();
                // Others come and go around it.
                writing.tables.sessions.insert(key(round), Session::steered(1)).unwrap();
                assert!(writing.tables.sessions.remove(&key(round)).unwrap());
            }
            ended.store(true, Ordering::Relaxed);
        });
        while !ended.load(Ordering::Relaxed) {
            let ran = running.run(&frame, interface, 1).unwrap();
            assert_eq!(ran.action, XDP_TX, "it was found");
            assert!(whole.contains(&ran.frame), "it went to where neither session sends");
        }
    });
}
