//! Raw sockets at their edges: want of blocks, events in any order, ends of every kind.

use super::bench::{Bench, Known};
use super::{HANDSHAKE_TIMEOUT, IDLE_DEAD_AFTER, PIPE_IDLE_TIMEOUT, SEND_STALL_TIMEOUT};
use crate::control::{Command, Report};
use crate::port::CloseMode;
use crate::port::simulated::PeerEnd;
use std::time::Duration;
use waystation_astral::gateway::idle;
use waystation_relay::drop_reason::DropReason;

/// What a peer takes before it reads, when it is to take everything.
const ROOMY_BYTES: usize = 1 << 20;
/// As that, when it is to take next to nothing.
const TIGHT_BYTES: usize = 40;
/// Enough orders of events to meet each.
const SEEDS: u64 = 64;

#[test]
fn nonce_whose_early_bytes_find_no_block_is_told_of_under_its_own_name() {
    let mut bench = Bench::new(1, 1, 0);
    bench.present(0, ROOMY_BYTES, b"takes the block");
    let (_, nonce) = bench.show_nonce(0, ROOMY_BYTES, b"finds none");
    let told: Vec<_> = bench.reports.iter().rev().take(2).collect();
    let [
        Report::SocketClosed { socket: closed, reason, .. },
        Report::SocketPresented { socket: presented, nonce: shown, .. },
    ] = told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!((*shown, *reason), (nonce, Some(DropReason::BufferExhausted)));
    assert_eq!(presented, closed, "the nonce is credited to whoever comes to this place next");
}

#[test]
fn early_bytes_of_a_caller_are_given_back_when_its_node_finds_no_block() {
    let mut bench = Bench::new(1, 2, 0);
    let node = bench.idle(0, ROOMY_BYTES);
    let caller = bench.present(0, ROOMY_BYTES, b"early");
    bench.join(caller, node);
    bench.settle();
    let other = bench.present(0, ROOMY_BYTES, b"takes the last block");
    bench.send(node.socket, &[idle::HANDOFF_ACK, b"and more"].concat());
    bench.settle();
    assert_eq!(bench.ended(node.tag), Some(Some(DropReason::BufferExhausted)));
    assert_eq!(bench.ended(caller.tag), Some(None));
    close(&mut bench, other);
    bench.settle();
    bench.assert_nothing_is_left();
}

#[test]
fn pings_that_come_with_the_end_of_a_send_are_answered_behind_what_waits() {
    // A node takes a pong and a part of the next, which stays in flight, with others behind it or
    // alone.
    for (pings, seed) in [2, 4].into_iter().flat_map(|pings| (0..SEEDS).map(move |it| (pings, it)))
    {
        let mut bench = Bench::new(1, 16, seed);
        let node = bench.idle(0, TIGHT_BYTES);
        for _ in 0..pings {
            bench.send(node.socket, idle::PING);
            bench.settle();
        }
        // In one burst the send ends and more pings come, in either order.
        let mut pongs = bench.read(node.socket);
        bench.send(node.socket, &[idle::PING, idle::PING].concat());
        pongs.extend(bench.read_all(node.socket));
        assert_eq!(pongs, idle::PONG.repeat(pings + 2));
    }
}

#[test]
fn handoff_is_told_behind_the_pongs_that_wait() {
    for seed in 0..SEEDS {
        let mut bench = Bench::new(1, 16, seed);
        let node = bench.idle(0, TIGHT_BYTES);
        for _ in 0..3 {
            bench.send(node.socket, idle::PING);
            bench.settle();
        }
        let caller = bench.present(0, ROOMY_BYTES, b"");
        bench.join(caller, node);
        let heard = bench.read_all(node.socket);
        assert_eq!(heard, [&idle::PONG.repeat(3), idle::HANDOFF].concat());
    }
}

#[test]
fn handoff_that_was_not_sent_yet_cannot_be_acknowledged() {
    let mut bench = Bench::new(1, 16, 0);
    let node = bench.idle(0, TIGHT_BYTES);
    for _ in 0..3 {
        bench.send(node.socket, idle::PING);
        bench.settle();
    }
    let caller = bench.present(0, ROOMY_BYTES, b"for who was handed off to");
    bench.join(caller, node);
    bench.settle();
    bench.send(node.socket, idle::HANDOFF_ACK);
    bench.settle();
    assert_eq!(bench.ended(node.tag), Some(Some(DropReason::IdleProtocolViolation)));
    assert_eq!(bench.ended(caller.tag), Some(None));
}

#[test]
fn caller_that_ends_on_its_way_to_another_core_does_not_keep_its_node() {
    let mut ended = 0;
    for seed in 0..SEEDS {
        let mut bench = Bench::new(2, 16, seed);
        let node = bench.idle(1, ROOMY_BYTES);
        let caller = bench.present(0, ROOMY_BYTES, b"early");
        // Now its stream is not always free by the time it is told to end.
        bench.network.borrow_mut().eager = false;
        bench.join(caller, node);
        bench.turn_of(0);
        close(&mut bench, caller);
        bench.turn_of(0);
        bench.network.borrow_mut().eager = true;
        bench.settle();
        if bench.ended(caller.tag).is_some() {
            ended += 1;
            let freed = bench.reports.iter().any(|report| match report {
                Report::JoinFailed { idle } => *idle == node.tag,
                _ => false,
            });
            assert!(freed, "its node waits for it for ever");
        }
    }
    assert!(ended > 0, "it was always too late");
}

// Ends of pipes

#[test]
fn end_of_one_side_ends_the_other_alike_and_leaves_nothing() {
    for (end, seen, reason) in [
        (PeerEnd::Finished, CloseMode::Graceful, None),
        (PeerEnd::Closed, CloseMode::Graceful, None),
        (PeerEnd::Reset, CloseMode::Reset, Some(DropReason::PipeReset)),
    ] {
        let mut bench = Bench::new(1, 16, 0);
        let (caller, node) = bench.pipe(ROOMY_BYTES);
        bench.end(caller.socket, end);
        bench.settle();
        assert_eq!(bench.end_seen(node.socket), Some(seen));
        assert_eq!(bench.ended(caller.tag), Some(reason));
        bench.assert_nothing_is_left();
    }
}

#[test]
fn what_was_taken_from_both_sides_goes_out_before_a_pipe_ends() {
    let mut bench = Bench::new(1, 16, 0);
    let (caller, node) = bench.pipe(TIGHT_BYTES);
    bench.send(node.socket, &[2; 12_000]);
    bench.send(caller.socket, &[1; 5_000]);
    bench.end(caller.socket, PeerEnd::Finished);
    assert_read(&mut bench, node, 1, 5_000);
    let got = bench.read_all(caller.socket);
    let (taken, sent) = totals(&bench, node);
    assert_eq!((taken, sent), (got.len() as u64, 5_000), "bytes that were taken did not go out");
    assert!(taken > 2 * 4096, "nothing waited");
    assert_eq!((bench.ended(caller.tag), bench.ended(node.tag)), (Some(None), Some(None)));
    let ends = [caller, node].map(|side| bench.end_seen(side.socket));
    assert_eq!(ends, [Some(CloseMode::Graceful); 2]);
    bench.assert_nothing_is_left();
}

#[test]
fn end_of_a_side_that_takes_nothing_more_does_not_cut_off_what_it_sent() {
    let mut bench = Bench::new(1, 16, 0);
    let (caller, node) = bench.pipe(TIGHT_BYTES);
    bench.send(node.socket, &[2; 12_000]);
    bench.send(caller.socket, &[1; 5_000]);
    bench.end(caller.socket, PeerEnd::Finished);
    bench.settle();
    // What is on its way to it from here on is answered with a reset.
    bench.end(caller.socket, PeerEnd::Closed);
    assert_read(&mut bench, node, 1, 5_000);
    assert_eq!(bench.end_seen(node.socket), Some(CloseMode::Graceful));
    let reasons = [caller, node].map(|side| bench.ended(side.tag));
    assert!(reasons.contains(&Some(Some(DropReason::PipeReset))), "{reasons:?}");
    bench.assert_nothing_is_left();
}

#[test]
fn ended_side_that_does_not_read_keeps_the_other_waiting_for_a_while_only() {
    let mut bench = Bench::new(1, 16, 0);
    let (caller, node) = bench.pipe(TIGHT_BYTES);
    bench.send(node.socket, &[2; 12_000]);
    bench.settle();
    bench.end(caller.socket, PeerEnd::Finished);
    bench.settle();
    assert_eq!(bench.end_seen(node.socket), None);
    bench.settle_after(SEND_STALL_TIMEOUT + Duration::from_secs(1));
    assert_eq!(bench.end_seen(node.socket), Some(CloseMode::Graceful));
    let reasons = [caller, node].map(|side| bench.ended(side.tag));
    assert_eq!(reasons, [Some(Some(DropReason::PeerNotReading)), Some(None)]);
    bench.settle_after(SEND_STALL_TIMEOUT + Duration::from_secs(1));
    bench.assert_nothing_is_left();
}

#[test]
fn closed_stream_whose_peer_does_not_read_is_reset_in_the_end() {
    let mut bench = Bench::new(1, 16, 0);
    let (caller, node) = bench.pipe(TIGHT_BYTES);
    bench.send(caller.socket, &[1; 5_000]);
    bench.settle();
    close(&mut bench, node);
    bench.settle();
    bench.settle_after(SEND_STALL_TIMEOUT - Duration::from_secs(1));
    assert!(!bench.cores[0].port.is_at_rest(), "it may still read");
    assert_eq!(bench.drops(DropReason::PeerNotReading), 0);
    bench.settle_after(Duration::from_secs(2));
    assert_eq!(bench.drops(DropReason::PeerNotReading), 1);
    bench.assert_nothing_is_left();
}

#[test]
fn closed_stream_whose_peer_reads_in_time_gets_everything() {
    let mut bench = Bench::new(1, 16, 0);
    let (caller, node) = bench.pipe(TIGHT_BYTES);
    bench.send(caller.socket, &[1; 4_096]);
    bench.settle();
    close(&mut bench, node);
    bench.settle();
    bench.settle_after(SEND_STALL_TIMEOUT - Duration::from_secs(1));
    assert_read(&mut bench, node, 1, 4_096);
    assert_eq!(bench.end_seen(node.socket), Some(CloseMode::Graceful));
    // Whoever has its place in the port by then is not meant.
    let (other, _) = bench.pipe(ROOMY_BYTES);
    bench.settle_after(Duration::from_secs(2));
    assert_eq!(bench.ended(other.tag), None);
    assert_eq!(bench.drops(DropReason::PeerNotReading), 0);
}

// Timers

#[test]
fn deadline_that_is_moved_again_and_again_leaves_one_timer() {
    let mut bench = Bench::new(1, 16, 0);
    let node = bench.idle(0, ROOMY_BYTES);
    // By then the next thing to happen to it is a ping, which is later than the handoff's deadline.
    bench.settle_after(HANDSHAKE_TIMEOUT + Duration::from_secs(1));
    let caller = bench.present(0, ROOMY_BYTES, b"");
    bench.hand_off(caller, node);
    // Longer than every deadline that either had before.
    bench.settle_after(IDLE_DEAD_AFTER);
    assert_eq!(bench.cores[0].wheel.len(), 2);
    for _ in 0..10 {
        bench.send(caller.socket, b"still here");
        bench.settle_after(PIPE_IDLE_TIMEOUT / 2);
        assert_eq!(bench.read(node.socket), b"still here");
        assert_eq!(bench.cores[0].wheel.len(), 2);
    }
    close(&mut bench, caller);
    bench.settle_after(2 * PIPE_IDLE_TIMEOUT);
    assert_eq!(bench.cores[0].wheel.len(), 0);
}

fn close(bench: &mut Bench, side: Known) {
    let reason = DropReason::SessionClosedByOperator;
    bench.command(side.tag.core, Command::CloseSocket { socket: side.tag, reason });
}

/// Reads to the end: so many bytes of this value.
fn assert_read(bench: &mut Bench, side: Known, value: u8, count: usize) {
    let bytes = bench.read_all(side.socket);
    assert_eq!(bytes.len(), count);
    assert!(bytes.iter().all(|byte| *byte == value));
}

/// Bytes that came from one side of a pipe, and went there.
fn totals(bench: &Bench, side: Known) -> (u64, u64) {
    let mut reports = bench.reports.iter();
    let told = reports.find_map(|report| match *report {
        Report::SocketClosed { socket, bytes_in, bytes_out, .. } if socket == side.tag => {
            Some((bytes_in, bytes_out))
        }
        _ => None,
    });
    told.expect("a pipe that has ended")
}
