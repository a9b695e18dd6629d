//! The program on real interfaces: three network namespaces, native and generic, a restart, and
//! what is left afterwards.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::{fs, net::UdpSocket, process::Command};
use support::{
    bpf_mount::BpfMount,
    namespace::{Namespace, ip},
    streets::{ALICE, ARRIVES_WITHIN, BOB, FOR_ALICE, FOR_BOB, Streets, connect, deliver, send},
};
use waystation_ebpf::{
    abi::{SessionKey, Verdict},
    attach::{AttachError, Attachment, Mode, Wanted},
    pins::{Pins, PinsError},
    programs::Programs,
};

/// The program on an interface, passing everything: what a veth needs at the other end to take in
/// frames that were sent by a program.
fn passing(interface: &str) -> (Programs, Attachment) {
    let mut programs = Programs::load(None).unwrap();
    let attachment = Attachment::new(&mut programs, interface, Wanted::Native, None).unwrap();
    (programs, attachment)
}

fn has_program(interface: &str) -> bool {
    let output = Command::new("ip").args(["link", "show", "dev", interface]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().contains("xdp")
}

fn count(programs: &Programs, verdict: Verdict) -> u64 {
    programs.tables.counters.of(verdict).unwrap().packets
}

#[test]
fn a_session_is_relayed_once_user_space_has_made_the_neighbour_known() {
    if !support::given_root() {
        return;
    }
    let streets = Streets::new();
    let _homes = [0, 1].map(|user| streets.at_home(user, || passing("eth0")));
    let mut programs = Programs::load(None).unwrap();
    connect(&mut programs);
    let user_space = UdpSocket::bind(FOR_BOB).unwrap();
    let onward = UdpSocket::bind(FOR_ALICE).unwrap();
    let wan = Attachment::new(&mut programs, "wan", Wanted::Native, None).unwrap();
    let lan = Attachment::new(&mut programs, "lan", Wanted::Native, None).unwrap();
    assert_eq!((wan.mode, lan.mode), (Mode::Native, Mode::Native));

    // Nobody has asked for Bob's station yet: the datagram comes to user space as it was sent.
    send(&streets.alice, b"first", FOR_BOB);
    user_space.set_read_timeout(Some(ARRIVES_WITHIN)).unwrap();
    let mut buffer = [0; 64];
    let (bytes, from) = user_space.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..bytes], from.to_string()), (&b"first"[..], ALICE.to_owned()));
    assert!(count(&programs, Verdict::PassNoNeighbour) >= 1);
    assert_eq!(count(&programs, Verdict::RelayedOn), 0);

    // User space relays it, and the kernel learns the station with that.
    deliver(&onward, BOB, &streets.bob, b"first", FOR_ALICE);
    deliver(&streets.alice, FOR_BOB, &streets.bob, b"second", FOR_ALICE);
    assert!(count(&programs, Verdict::RelayedOn) >= 1);
    deliver(&streets.bob, FOR_ALICE, &streets.alice, b"and back", FOR_BOB);
    let key = SessionKey::new(BOB.parse().unwrap(), FOR_ALICE.parse().unwrap(), None);
    let session = programs.tables.sessions.find(&key).unwrap().unwrap();
    assert!(session.packets >= 1 && session.bytes >= 28 + 8, "{session:?}");

    wan.detach().unwrap();
    drop(lan);
    assert!(!has_program("wan") && !has_program("lan"));
}

#[test]
fn generic_mode_relays_too() {
    if !support::given_root() {
        return;
    }
    let streets = Streets::new();
    let _homes = [0, 1].map(|user| streets.at_home(user, || passing("eth0")));
    let mut programs = Programs::load(None).unwrap();
    connect(&mut programs);
    let onward = UdpSocket::bind(FOR_ALICE).unwrap();
    let back = UdpSocket::bind(FOR_BOB).unwrap();
    deliver(&onward, BOB, &streets.bob, b"hello", FOR_ALICE);
    deliver(&back, ALICE, &streets.alice, b"hello", FOR_BOB);
    let attached = ["wan", "lan"]
        .map(|interface| Attachment::new(&mut programs, interface, Wanted::Generic, None).unwrap());
    assert!(attached.iter().all(|attachment| attachment.mode == Mode::Generic));
    deliver(&streets.alice, FOR_BOB, &streets.bob, b"generic", FOR_ALICE);
    deliver(&streets.bob, FOR_ALICE, &streets.alice, b"and back", FOR_BOB);
    assert!(count(&programs, Verdict::RelayedOn) >= 2);
}

#[test]
fn a_restart_keeps_the_program_and_its_sessions_and_a_stop_leaves_nothing() {
    if !support::given_root() {
        return;
    }
    let mount = BpfMount::new();
    let streets = Streets::new();
    let _homes = [0, 1].map(|user| streets.at_home(user, || passing("eth0")));
    let base = mount.path().join("waystation");
    let pins = Pins::open(&base).unwrap();
    let start = || {
        let mut programs = Programs::load(Some(&pins)).unwrap();
        let attached = ["wan", "lan"].map(|interface| {
            Attachment::new(&mut programs, interface, Wanted::default(), Some(&pins)).unwrap()
        });
        (programs, attached)
    };
    {
        let (mut programs, attached) = start();
        assert!(attached.iter().all(|attachment| attachment.mode == Mode::Native));
        connect(&mut programs);
        let onward = UdpSocket::bind(FOR_ALICE).unwrap();
        deliver(&onward, BOB, &streets.bob, b"hello", FOR_ALICE);
        deliver(&streets.alice, FOR_BOB, &streets.bob, b"before", FOR_ALICE);
    }
    // The process is gone, killed for all the kernel knows.
    assert!(has_program("wan") && has_program("lan"));
    deliver(&streets.alice, FOR_BOB, &streets.bob, b"meanwhile", FOR_ALICE);

    let (mut programs, attached) = start();
    assert!(attached.iter().all(|attachment| attachment.mode == Mode::TakenOver));
    let known: Vec<_> = programs.tables.sessions.iter().map(|(key, _)| key).collect();
    assert_eq!(known.len(), 2);
    let relayed = count(&programs, Verdict::RelayedOn);
    assert!(relayed >= 2);
    // Sessions are the same ones; what else is configured is the new process's to say.
    connect(&mut programs);
    deliver(&streets.alice, FOR_BOB, &streets.bob, b"afterwards", FOR_ALICE);
    assert!(count(&programs, Verdict::RelayedOn) > relayed);
    assert_eq!(pins.interfaces().unwrap().len(), 2);

    for attachment in attached {
        attachment.detach().unwrap();
    }
    pins.remove().unwrap();
    assert!(!has_program("wan") && !has_program("lan"));
    assert!(!base.exists());
}

#[test]
fn a_pinned_link_of_an_interface_that_was_made_anew_is_replaced() {
    if !support::given_root() {
        return;
    }
    let mount = BpfMount::new();
    let _namespace = Namespace::enter_new();
    let pins = Pins::open(&mount.path().join("waystation")).unwrap();
    let mut programs = Programs::load(Some(&pins)).unwrap();
    let mut attach = || {
        ip("link add wan type veth peer name other");
        Attachment::new(&mut programs, "wan", Wanted::Native, Some(&pins)).unwrap()
    };
    assert_eq!(attach().mode, Mode::Native);
    ip("link del wan");
    let again = attach();
    assert_eq!(again.mode, Mode::Native);
    assert!(has_program("wan"));
    again.detach().unwrap();
    assert!(!has_program("wan"));
}

#[test]
fn what_a_version_with_another_layout_kept_makes_room() {
    if !support::given_root() {
        return;
    }
    let mount = BpfMount::new();
    let _namespace = Namespace::enter_new();
    ip("link add wan type veth peer name other");
    let base = mount.path().join("waystation");
    let pins = Pins::open(&base).unwrap();
    assert!(pins.let_go().is_empty());
    {
        let mut programs = Programs::load(Some(&pins)).unwrap();
        Attachment::new(&mut programs, "wan", Wanted::Native, Some(&pins)).unwrap();
    }
    // As if a version long ago had left it.
    let (now, before) = (pins.link("wan"), base.join("layout-1"));
    fs::rename(now.parent().unwrap(), &before).unwrap();
    assert!(has_program("wan"));

    let pins = Pins::open(&base).unwrap();
    assert_eq!(pins.let_go(), std::slice::from_ref(&before));
    assert!(!before.exists());
    let mut programs = Programs::load(Some(&pins)).unwrap();
    let attached = Attachment::new(&mut programs, "wan", Wanted::Native, Some(&pins)).unwrap();
    assert_eq!(attached.mode, Mode::Native);
    assert!(Pins::open(&base).unwrap().let_go().is_empty(), "its own pins are kept");
    attached.detach().unwrap();
    pins.remove().unwrap();
    assert!(!has_program("wan") && !base.exists());
}

#[test]
fn another_program_is_left_alone() {
    if !support::given_root() {
        return;
    }
    let _namespace = Namespace::enter_new();
    ip("link add wan type veth peer name other");
    let (_theirs, attached) = passing("wan");
    let mut ours = Programs::load(None).unwrap();
    for wanted in [Wanted::Native, Wanted::NativeOrGeneric, Wanted::Generic] {
        let refused = Attachment::new(&mut ours, "wan", wanted, None).unwrap_err();
        assert!(matches!(refused, AttachError::Occupied { .. }), "{wanted:?}: {refused}");
        assert!(refused.to_string().contains("ip link set dev wan xdp off"));
    }
    assert!(has_program("wan"));
    attached.detach().unwrap();
    assert!(!has_program("wan"));
    let refused = Attachment::new(&mut ours, "nowhere", Wanted::Native, None).unwrap_err();
    assert_eq!(refused.to_string(), "there is no network interface nowhere");
}

#[test]
fn a_driver_without_native_mode_gets_the_generic_one_if_that_is_wanted() {
    if !support::given_root() {
        return;
    }
    let _namespace = Namespace::enter_new();
    let mut programs = Programs::load(None).unwrap();
    let refused = Attachment::new(&mut programs, "lo", Wanted::Native, None).unwrap_err();
    assert!(matches!(refused, AttachError::NoNativeMode { .. }), "{refused}");
    let generic = Attachment::new(&mut programs, "lo", Wanted::NativeOrGeneric, None).unwrap();
    assert_eq!(generic.mode, Mode::Generic);
    assert!(generic.native_refusal.is_some());
}

#[test]
fn pins_outside_a_bpf_file_system_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refused = Pins::open(&directory.path().join("waystation")).unwrap_err();
    assert!(matches!(refused, PinsError::NotBpf { .. }));
    assert!(refused.to_string().contains("mount -t bpf bpf /sys/fs/bpf"));
}
