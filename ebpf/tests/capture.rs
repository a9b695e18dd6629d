//! Samples of frames: of which verdicts, how many, and that a program without room for them has
//! nothing of it.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use support::{given_root, namespace::Namespace};
use waystation_ebpf::{
    abi::{Port, Settings, Verdict, limits::CAPTURED_BYTES_MAX},
    forwarding::LOOPBACK_INTERFACE,
    programs::{Capture, Programs},
};
use waystation_proving::frame::*;

const OURS: &str = "198.51.100.1:3478";
const STRANGER: &str = "198.51.100.7:5000";

fn bit(verdict: Verdict) -> u64 {
    1 << verdict.index()
}

fn loaded(capture: Capture) -> (Programs, Namespace) {
    let namespace = Namespace::enter_new();
    let built = std::env::var_os("WAYSTATION_BPF_OBJECT").map(|path| std::fs::read(path).unwrap());
    let mut programs = match &built {
        Some(object) => Programs::load_object(object, None, capture).unwrap(),
        None => Programs::load_with(None, capture).unwrap(),
    };
    programs.tables.ports.set(3478..=3478, Port::Turn).unwrap();
    programs
        .tables
        .local_addresses
        .insert("198.51.100.1".parse().unwrap(), &[Port::Turn, Port::Session])
        .unwrap();
    programs.tables.settings.set(Settings::default()).unwrap();
    (programs, namespace)
}

const RING: Capture = Capture::Ring { bytes: 64 << 10 };

#[test]
fn samples_are_of_the_wanted_verdicts_and_as_the_frames_came() {
    if !given_root() {
        return;
    }
    let (mut programs, _namespace) = loaded(RING);
    let wanted = bit(Verdict::PassStranger) | bit(Verdict::DropMartian);
    programs.tables.settings.capture(wanted, 1).unwrap();
    let short = udp(STRANGER, OURS, b"\0hello".to_vec()).frame();
    let long = udp(STRANGER, OURS, vec![7; 1000]).frame();
    let martian = udp("127.0.0.1:9", OURS, b"\0".to_vec()).frame();
    let foreign = udp(STRANGER, "198.51.100.1:53", b"\0".to_vec()).frame();
    for frame in [&short, &foreign, &long, &martian] {
        programs.run(frame, LOOPBACK_INTERFACE, 1).unwrap();
    }
    let mut taken = Vec::new();
    while let Some(sample) = programs.tables.captured.take() {
        taken.push(sample);
    }
    let verdicts: Vec<_> = taken.iter().map(|sample| sample.verdict).collect();
    assert_eq!(verdicts, [Verdict::PassStranger, Verdict::PassStranger, Verdict::DropMartian]);
    for (sample, frame) in taken.iter().zip([&short, &long, &martian]) {
        assert_eq!(sample.frame_bytes as usize, frame.len());
        assert_eq!(sample.frame, frame[..frame.len().min(CAPTURED_BYTES_MAX)]);
        assert_eq!(sample.interface, LOOPBACK_INTERFACE);
        assert!(sample.time_ns > 0);
    }
    assert_eq!(programs.tables.captured.lost().unwrap(), 0);

    // Other settings leave it as it is; without verdicts there is nothing more.
    programs.tables.settings.set(Settings::default()).unwrap();
    programs.run(&short, LOOPBACK_INTERFACE, 1).unwrap();
    assert!(programs.tables.captured.take().is_some());
    programs.tables.settings.capture(0, 0).unwrap();
    programs.run(&short, LOOPBACK_INTERFACE, 1).unwrap();
    assert!(programs.tables.captured.take().is_none());
}

#[test]
fn one_of_many_is_sampled_at_random_and_what_has_no_room_is_counted() {
    if !given_root() {
        return;
    }
    const RUNS: u32 = 100_000;
    let (mut programs, _namespace) = loaded(RING);
    let frame = udp(STRANGER, OURS, b"\0hello".to_vec()).frame();
    programs.tables.settings.capture(bit(Verdict::PassStranger), 1).unwrap();
    programs.run(&frame, LOOPBACK_INTERFACE, RUNS).unwrap();
    let mut taken = 0_u64;
    while programs.tables.captured.take().is_some() {
        taken += 1;
    }
    assert_eq!(taken + programs.tables.captured.lost().unwrap(), u64::from(RUNS));
    // A sample takes 288 bytes with what the kernel puts before it.
    assert!((1..=(64 << 10) / 288).contains(&taken), "{taken}");

    // Of 100 000 frames a thousandth is 100, give or take ten times the deviation.
    programs.tables.settings.capture(bit(Verdict::PassStranger), 1000).unwrap();
    programs.run(&frame, LOOPBACK_INTERFACE, RUNS).unwrap();
    let mut sampled = 0;
    while programs.tables.captured.take().is_some() {
        sampled += 1;
    }
    assert!((1..=200).contains(&sampled), "{sampled}");
}

#[test]
fn without_room_the_program_has_nothing_of_it() {
    if !given_root() {
        return;
    }
    let (mut without, _namespace) = loaded(Capture::Never);
    without.tables.settings.capture(u64::MAX, 1).unwrap();
    let frame = udp(STRANGER, OURS, b"\0hello".to_vec()).frame();
    without.run(&frame, LOOPBACK_INTERFACE, 1).unwrap();
    assert!(without.tables.captured.take().is_none());
    assert_eq!(without.tables.captured.lost().unwrap(), 0);
    let (with, _namespace) = loaded(RING);
    let instructions = |mut programs: Programs| {
        let id = programs.id().unwrap();
        let found = aya::programs::loaded_programs().flatten().find(|info| info.id() == id);
        found.unwrap().size_translated().unwrap()
    };
    let (without, with) = (instructions(without), instructions(with));
    assert!(without + 300 < with, "{without} bytes without, {with} with");
}
