//! Mutated packets through the program in the kernel and through the classifier: the same verdict,
//! action and bytes for every one.
//!
//! `WAYSTATION_XDP_PACKETS` says how many; a million is what a release is held to.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};
use support::world::*;
use waystation_ebpf::{
    abi::Verdict,
    classifier::{Known, Route},
};
use waystation_proving::frame::*;

/// Packets without the variable: enough to meet every verdict in two seconds without optimisation.
const PACKETS: u64 = 20_000;

/// Numbers that a seed makes.
struct Dice {
    rng: TestRng,
}

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.next_u64() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn byte(&mut self) -> u8 {
        self.rng.next_u64().to_le_bytes()[0]
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Addresses that sessions are made of, by family.
const SOURCES_V4: &[&str] =
    &["198.51.100.7", "198.51.100.9", "203.0.113.7", "10.7.0.7", "198.51.100.50", "127.0.0.1"];
const SOURCES_V6: &[&str] =
    &["2001:db8:1::7", "2001:db8:2::7", "2001:db8:7::7", "2001:db8:1::50", "::1"];
const LOCALS_V4: &[&str] =
    &["198.51.100.1", "203.0.113.1", "10.7.0.1", "192.0.2.1", "198.51.100.2"];
const LOCALS_V6: &[&str] = &["2001:db8:1::1", "2001:db8:2::1", "2001:db8:1::2"];
const TARGETS_V4: &[&str] = &[
    "198.51.100.7",
    "198.51.100.9",
    "203.0.113.7",
    "10.7.0.7",
    "192.0.2.7",
    "198.51.100.66",
    "172.16.0.1",
];
const TARGETS_V6: &[&str] =
    &["2001:db8:1::7", "2001:db8:2::7", "2001:db8:7::7", "2001:db8:1::66", "2001:db8:9::1"];
const PORTS: &[u16] = &[TURN, FIRST, FIRST + 1, 50];
/// What the ends of WireGuard sessions are called by.
const INDICES: [[u8; 4]; 4] = [[1, 2, 3, 4], [5, 6, 7, 8], [5, 6, 7, 9], [5, 6, 7, 9]];

fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn source_port(dice: &mut Dice) -> u16 {
    dice.pick(&[4000, 4001])
}

/// A world full of sessions over few addresses, so that most packets meet one.
fn populate(stage: &mut Stage, dice: &mut Dice) {
    stage.deny("198.51.100.48", 28);
    stage.deny("2001:db8:1::50", 128);
    for _ in 0..600 {
        let (source, local) = ends(dice);
        let channel = dice.one_in(2).then(|| channel_number(dice));
        let known = if dice.one_in(5) {
            Known::Steered
        } else {
            let (from, to) = if dice.one_in(2) {
                (dice.pick(LOCALS_V4), dice.pick(TARGETS_V4))
            } else {
                (dice.pick(LOCALS_V6), dice.pick(TARGETS_V6))
            };
            Known::Relayed {
                from: socket(&at(from, dice.pick(PORTS))),
                to: socket(&at(to, source_port(dice))),
                channel: dice.one_in(2).then(|| channel_number(dice)),
                is_over_rate: dice.one_in(16),
                transport_for: dice.one_in(4).then(|| INDICES.map(u32::from_ne_bytes)),
            }
        };
        stage.know(&source, &local, channel, known);
    }
}

fn ends(dice: &mut Dice) -> (String, String) {
    let (sources, locals) =
        if dice.one_in(2) { (SOURCES_V4, LOCALS_V4) } else { (SOURCES_V6, LOCALS_V6) };
    let source = at(dice.pick(sources), source_port(dice));
    let local = at(dice.pick(locals), dice.pick(PORTS));
    (source, local)
}

fn channel_number(dice: &mut Dice) -> u16 {
    dice.pick(&[0x4000, 0x4001, 0x4fff, 0x5000, 0x7fff])
}

/// A datagram that is right in every field.
fn datagram(dice: &mut Dice, known: &[Route]) -> Udp {
    let (mut source, mut local) = ends(dice);
    let mut number = dice.one_in(2).then(|| channel_number(dice));
    if !dice.one_in(3) {
        let route = dice.pick(known);
        (source, local, number) = (route.0.to_string(), route.1.to_string(), route.2);
    }
    let bytes = match dice.below(16) {
        0 => 0,
        1 => 1300 + dice.below(120),
        _ => dice.below(64),
    };
    let mut payload: Vec<u8> = (0..bytes).map(|_| dice.byte()).collect();
    if dice.one_in(2) {
        // WireGuard's data, or nearly.
        let head = [dice.pick(&[[4, 0, 0, 0], [4, 0, 0, 0], [1, 0, 0, 0]]), dice.pick(&INDICES)];
        payload.splice(..payload.len().min(8), head.concat());
    }
    if let Some(number) = number {
        payload = channel(number, &payload);
    }
    Udp {
        hop_limit: dice.pick(&[64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 255, 255, 2, 2, 1, 0]),
        traffic_class: dice.byte(),
        identification: u16::from(dice.byte()) << 4,
        fragment: dice.pick(&[0x4000, 0x4000, 0, 0x4000]),
        has_checksum: !dice.one_in(8),
        vlan: dice.one_in(6).then(|| dice.pick(&[VLAN, VLAN, VLAN | 0x2000, 9])),
        ..udp(&source, &local, payload)
    }
}

/// Changes a frame in up to three of the ways that frames are wrong.
fn mutate(dice: &mut Dice, udp: &Udp, frame: &mut Vec<u8>) {
    if dice.one_in(2) {
        return;
    }
    for _ in 0..=dice.below(3) {
        let bytes = frame.len();
        match dice.below(12) {
            0 => frame.truncate(14 + dice.below(bytes - 13)),
            1 => frame.extend((0..=dice.byte() % 40).map(|_| 0xa5)),
            2 => {
                let at = dice.below(bytes.min(80));
                frame[at] ^= 1 << dice.below(8);
            }
            3 => {
                let at = dice.below(bytes.min(80));
                frame[at] = dice.byte();
            }
            // Lengths, by a little.
            4 => {
                let length = dice.pick(&[udp.ip_at() + 3, udp.ip_at() + 5, udp.udp_at() + 5]);
                if let Some(byte) = frame.get_mut(length) {
                    *byte = byte.wrapping_add(dice.byte() % 3).wrapping_sub(1);
                }
            }
            // The channel's header.
            5 => {
                let at = udp.udp_at() + 8 + dice.below(4);
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= 1 << dice.below(4);
                }
            }
            6 => frame.resize(bytes.max(60), 0),
            // A checksum that its sender leaves to the card.
            8 => leave_checksum(udp, frame),
            7 => {
                let at = udp.ip_at() + if udp.to.is_ipv4() { 9 } else { 6 };
                if let Some(byte) = frame.get_mut(at) {
                    *byte = dice.pick(&[0, 1, 6, 17, 43, 44, 50, 58, 60, 135]);
                }
            }
            _ => {}
        }
    }
    // A right header checksum lets a mutation reach what is behind that check.
    if udp.to.is_ipv4() && frame.len() >= udp.ip_at() + 20 && dice.one_in(2) {
        mend_header(frame, udp.ip_at());
    }
}

/// Puts the sum of the pseudo-header in place of the checksum.
fn leave_checksum(udp: &Udp, frame: &mut [u8]) {
    let (at, addresses) = (udp.udp_at(), if udp.to.is_ipv4() { 8 } else { 32 });
    let Some(bytes) = frame.get(at - addresses..at + 8) else { return };
    let mut pseudo = bytes[..addresses].to_vec();
    pseudo.extend([0, 17, bytes[addresses + 4], bytes[addresses + 5]]);
    frame[at + 6..at + 8].copy_from_slice(&internet_sum(&pseudo).to_be_bytes());
}

#[test]
fn program_and_classifier_agree_on_mutated_packets() {
    if !support::given_root() {
        return;
    }
    let packets =
        std::env::var("WAYSTATION_XDP_PACKETS").map_or(PACKETS, |text| text.parse().unwrap());
    let mut dice = Dice { rng: TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]) };
    let mut stage = Stage::new();
    populate(&mut stage, &mut dice);
    let known: Vec<Route> = stage.world.sessions.keys().copied().collect();
    let mut expected = vec![0_u64; Verdict::ALL.len()];
    let before = stage.counts();
    for packet in 0..packets {
        let udp = datagram(&mut dice, &known);
        let mut frame = udp.frame();
        mutate(&mut dice, &udp, &mut frame);
        let decision = stage.classify(&frame);
        let ran = stage.programs.run(&frame, stage.world.ingress, 1).unwrap();
        let context =
            || format!("packet {packet}, {}: {}", decision.verdict.name(), hex::encode(&frame));
        assert_eq!(ran.action, action_of(decision.verdict), "{}", context());
        if ran.frame != decision.frame {
            assert_eq!(hex::encode(&ran.frame), hex::encode(&decision.frame), "{}", context());
        }
        expected[usize::try_from(decision.verdict.index()).unwrap()] += 1;
        if packet % 4096 == 0 || packet + 1 == packets {
            let counted: Vec<u64> =
                stage.counts().iter().zip(&before).map(|(after, before)| after - before).collect();
            for ((verdict, counted), expected) in Verdict::ALL.iter().zip(counted).zip(&expected) {
                assert_eq!(counted, *expected, "{} after packet {packet}", verdict.name());
            }
        }
    }
    let met = expected.iter().filter(|count| **count > 0).count();
    println!("{packets} packets, {met} verdicts:");
    for (verdict, count) in Verdict::ALL.iter().zip(&expected) {
        println!("  {count:>8}  {}", verdict.name());
    }
    // All but those that take time, another switch, or a driver without headroom.
    assert!(met >= Verdict::ALL.len() - 6, "only {met} verdicts met");
}
