//! How a session of one peer moves from one of its links to another.

use super::*;
use crate::node::limits::{MIGRATION_TIMEOUT_NS, MIGRATIONS_PER_PEER_MAX};
use waystation_astral::object::{AnswerWriter, Encoding};
use waystation_astral::objects::{MigrateSignal, Migration};
use waystation_relay::ids::LegTag;
use waystation_relay::leg::MigrationStep;

const SESSION: LegTag = LegTag { core: CoreId(0), slot: 5_000, generation: 3 };

fn query(bench: &mut Bench, link_id: u64) -> (LegTag, Vec<Command>) {
    let text = format!("nodes.migrate_session?link_id={link_id:016x}&session_id=00000000000000ab");
    let query = bench.query(A, link(A, 0), &text);
    bench.ask_as(query)
}

/// A node to which A has two links, of ids 1 and 2.
fn two_links() -> Bench {
    let mut bench = Bench::with(NodeSettings::default());
    for (slot, link_id) in [(0, 1), (1, 2)] {
        let up = LinkUp { link_id, ..bench.up(A, link(A, slot), false) };
        bench.tell(&Report::LinkUp(up));
    }
    bench
}

fn bytes_of(signal: Migration, window_bytes: u32) -> Vec<u8> {
    let mut writer = AnswerWriter::new(Encoding::C2);
    writer.write(&MigrateSignal { signal, window_bytes }).unwrap();
    writer.into_bytes()
}

fn say(bench: &mut Bench, leg: LegTag, bytes: &[u8]) -> Vec<Command> {
    bench.tell(&Report::Input { leg, bytes: bytes.into() })
}

fn step(bench: &mut Bench, operation: LegTag, step: MigrationStep) -> Vec<Command> {
    bench.tell(&Report::Migration { operation, step })
}

/// A migration whose session waits for both markers.
fn switched(bench: &mut Bench) -> LegTag {
    let (leg, commands) = query(bench, 2);
    assert!(matches!(commands[..], [Command::Accept { .. }]), "{commands:?}");
    let commands = say(bench, leg, &bytes_of(Migration::Ready, 777));
    let [Command::BeginMigration { operation, from, to, nonce: 0xab, peer_window: 777 }] =
        &commands[..]
    else {
        panic!("{commands:?}")
    };
    assert_eq!((*operation, &from[..], *to), (leg, &[link(A, 0)][..], link(A, 1)));
    let begun = MigrationStep::Begun { leg: SESSION, window_bytes: 999 };
    let commands = step(bench, leg, begun);
    assert_written(&commands, leg, &bytes_of(Migration::Switched, 999), false);
    leg
}

fn assert_written(commands: &[Command], leg: LegTag, wanted: &[u8], ends: bool) {
    let [.., Command::Write { leg: to, bytes, end }] = commands else { panic!("{commands:?}") };
    assert_eq!((*to, hex::encode(bytes), *end), (leg, hex::encode(wanted), ends));
}

fn assert_lost(commands: &[Command], leg: LegTag) {
    let [Command::CloseSession { leg: SESSION, reason: DropReason::MigrationFailed }, rest @ ..] =
        commands
    else {
        panic!("{commands:?}")
    };
    let [Command::Write { leg: to, bytes, end: true }] = rest else { panic!("{rest:?}") };
    assert_eq!(*to, leg);
    assert!(bytes.starts_with(b"\x0derror_message"), "{}", hex::encode(bytes));
}

#[test]
fn session_moves_when_both_markers_and_the_peers_word_are_there_in_any_order() {
    for resume_first in [true, false] {
        let mut bench = two_links();
        let leg = switched(&mut bench);
        let resume = bytes_of(Migration::Resume, 0);
        let commands = if resume_first {
            assert!(say(&mut bench, leg, &resume).is_empty());
            step(&mut bench, leg, MigrationStep::Arrived)
        } else {
            assert!(step(&mut bench, leg, MigrationStep::Arrived).is_empty());
            say(&mut bench, leg, &resume)
        };
        let [Command::ResumeMigrated { leg: SESSION }, ..] = commands[..] else {
            panic!("{commands:?}")
        };
        assert_written(&commands, leg, &bytes_of(Migration::Done, 0), true);
        assert_eq!(bench.node.query_counts().migrated_total, 1);
        assert!(bench.tell(&Report::SessionEnded { leg }).is_empty());
        bench.tick(bench.now_ns + MIGRATION_TIMEOUT_NS);
    }
}

#[test]
fn signal_may_come_in_any_pieces() {
    let mut bench = two_links();
    let (leg, _) = query(&mut bench, 2);
    let bytes = bytes_of(Migration::Ready, 777);
    let (last, first) = bytes.split_last().unwrap();
    for byte in first {
        assert!(say(&mut bench, leg, &[*byte]).is_empty());
    }
    assert!(matches!(say(&mut bench, leg, &[*last])[..], [Command::BeginMigration { .. }]));
}

#[test]
fn unknown_link_and_earlier_forms_are_rejected_at_once() {
    let mut bench = two_links();
    let (_, commands) = query(&mut bench, 3);
    assert!(matches!(commands[..], [Command::Reject { code: 1, .. }]), "{commands:?}");
    let text = "nodes.migrate_session?stream_id=2&session_id=ab";
    let raw = Query { profile: Profile::P2, ..bench.query(A, link(A, 0), text) };
    let (_, commands) = bench.ask_as(raw);
    assert!(matches!(commands[..], [Command::Reject { code: 1, .. }]), "{commands:?}");
    assert_eq!(bench.node.counts().refusals.events(DropReason::MigrationRefused), 2);
}

#[test]
fn link_of_somebody_else_is_no_place_to_move_to() {
    let mut bench = two_links();
    let up = LinkUp { link_id: 9, ..bench.up(B, link(B, 0), false) };
    bench.tell(&Report::LinkUp(up));
    let (_, commands) = query(&mut bench, 9);
    assert!(matches!(commands[..], [Command::Reject { code: 1, .. }]), "{commands:?}");
}

#[test]
fn core_that_cannot_move_a_session_leaves_it_and_the_peer_is_told() {
    let mut bench = two_links();
    let (leg, _) = query(&mut bench, 2);
    say(&mut bench, leg, &bytes_of(Migration::Ready, 777));
    let commands = step(&mut bench, leg, MigrationStep::Refused);
    let [Command::Write { bytes, end: true, .. }] = &commands[..] else { panic!("{commands:?}") };
    assert!(bytes.starts_with(b"\x0derror_message"), "{}", hex::encode(bytes));
}

#[test]
fn peer_that_stops_half_way_loses_the_session() {
    let mut bench = two_links();
    let leg = switched(&mut bench);
    assert_lost(&say(&mut bench, leg, &bytes_of(Migration::Ready, 1)), leg);
    let leg = switched(&mut bench);
    assert_lost(&say(&mut bench, leg, b"\x03ack\0\0\0\0"), leg);
    let leg = switched(&mut bench);
    assert_lost(&step(&mut bench, leg, MigrationStep::Ended), leg);
    let leg = switched(&mut bench);
    let commands = bench.tell(&Report::SessionEnded { leg });
    assert!(matches!(commands[..], [Command::CloseSession { leg: SESSION, .. }]), "{commands:?}");
    let leg = switched(&mut bench);
    bench.now_ns += MIGRATION_TIMEOUT_NS;
    let mut out = Vec::new();
    bench.node.tick(bench.now_ns, &mut out);
    let commands: Vec<_> = out.into_iter().map(|(_, command)| command).collect();
    assert_lost(&commands, leg);
}

#[test]
fn core_that_begins_when_the_peer_has_gone_closes_the_session() {
    let mut bench = two_links();
    let (leg, _) = query(&mut bench, 2);
    say(&mut bench, leg, &bytes_of(Migration::Ready, 777));
    assert!(bench.tell(&Report::SessionEnded { leg }).is_empty());
    let begun = MigrationStep::Begun { leg: SESSION, window_bytes: 999 };
    let commands = step(&mut bench, leg, begun);
    assert!(matches!(commands[..], [Command::CloseSession { leg: SESSION, .. }]), "{commands:?}");
}

#[test]
fn migrations_of_one_peer_are_bounded() {
    let mut bench = two_links();
    for _ in 0..MIGRATIONS_PER_PEER_MAX {
        let (_, commands) = query(&mut bench, 2);
        assert!(matches!(commands[..], [Command::Accept { .. }]), "{commands:?}");
    }
    let (_, commands) = query(&mut bench, 2);
    assert!(matches!(commands[..], [Command::Reject { code: 1, .. }]), "{commands:?}");
}
