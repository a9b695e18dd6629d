//! Whoever sends more than its share of a turn waits, in order, while others are served.

use crate::support::{Bench, Heard, Peer, ROUTE, WINDOW, finish, on_every_port, pattern, secret};
use std::thread::JoinHandle;
use waystation_astral::frame::{Frame, Profile};
use waystation_engine::port::Port;

/// Pings in one record: more than two shares of a turn.
const PINGS: u64 = 2_000;
const RECORDS: u64 = 12;

fn link<P: Port>(bench: &mut Bench<P>, key: u8) -> Peer {
    let (address, gateway, up) = (bench.address, bench.identity, bench.ups.len());
    let dialing =
        std::thread::spawn(move || Peer::dial(address, gateway, &secret(key), Profile::P4));
    let peer = finish(bench, dialing);
    bench.turn_until("the link", |bench| bench.ups.len() > up);
    peer
}

fn pings(first: u64, count: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for nonce in first..first + count {
        Frame::Ping { nonce, pong: false }.encode_to_vec(Profile::P4, &mut bytes).unwrap();
    }
    bytes
}

/// Reads pongs until the last of so many, and checks that each came, in order.
fn take_pongs(peer: &mut Peer, count: u64) {
    let mut next = 0;
    peer.read_until(|heard, _| {
        if let Heard::Frame(Frame::Ping { nonce, pong: true }) = heard {
            assert_eq!(nonce, next);
            next += 1;
        }
        next == count
    });
}

/// Sends records of pings on a thread of its own, and then whatever `after` sends.
fn flood(
    mut peer: Peer,
    records: u64,
    after: impl FnOnce(&mut Peer) + Send + 'static,
) -> JoinHandle<Peer> {
    std::thread::spawn(move || {
        (0..records).for_each(|record| peer.send(&pings(record * PINGS, PINGS)));
        after(&mut peer);
        peer
    })
}

fn serves_others_between<P: Port>(bench: &mut Bench<P>) {
    /// Turns within which a frame that has arrived is looked at: one to find it, one to report it.
    const TURNS_MAX: usize = 4;
    let (flooding, mut other) = (link(bench, 0x51), link(bench, 0x52));
    bench.refresh_counters();
    let before = bench.counters.frames_in;
    let flooding = flood(flooding, RECORDS, |peer| take_pongs(peer, RECORDS * PINGS));
    while bench.counters.frames_in == before {
        bench.refresh_counters();
    }
    other.send_frame(&Frame::Query { nonce: 5, window: WINDOW, query: ROUTE });
    let mut turns = 0;
    while bench.queries.is_empty() {
        bench.turn_at_once();
        turns += 1;
        assert!(turns <= TURNS_MAX, "the query waits behind a flood");
    }
    bench.refresh_counters();
    let done = bench.counters.frames_in - before;
    assert!(done < RECORDS * PINGS, "{done} frames in {turns} turns: nothing had to wait");
    drop((finish(bench, flooding), other));
    bench.assert_everything_came_back();
}

#[test]
fn flood_of_one_link_lets_others_have_their_turn() {
    on_every_port(serves_others_between, serves_others_between);
}

fn ends_behind_its_input<P: Port>(bench: &mut Bench<P>) {
    let flooding = flood(link(bench, 0x51), RECORDS, |peer| {
        peer.send_frame(&Frame::Query { nonce: 5, window: WINDOW, query: ROUTE });
        peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
        // What has not gone out by the end of the link is not sent any more.
        peer.read_to_the_end().1.unwrap();
    });
    finish(bench, flooding);
    bench.turn_until("the end of the link", |bench| bench.downs > 0);
    assert_eq!(bench.queries.len(), 1, "the last frame counts as much as the first");
    let (reason, totals) = &bench.ended[0];
    assert_eq!(*reason, None);
    assert_eq!(totals.frames_in, RECORDS * PINGS + 1);
    bench.assert_everything_came_back();
}

#[test]
fn end_of_a_link_comes_behind_all_it_has_sent() {
    on_every_port(ends_behind_its_input, ends_behind_its_input);
}

fn forgets_what_waits<P: Port>(bench: &mut Bench<P>) {
    let peer = link(bench, 0x51);
    let flooding = std::thread::spawn(move || {
        let mut peer = peer;
        (0..RECORDS).for_each(|record| peer.send(&pings(record * PINGS, PINGS)));
        // A tag that does not verify, behind frames that wait.
        std::io::Write::write_all(&mut peer.stream, &[7; 64]).unwrap();
        peer.read_to_the_end()
    });
    // Unread pongs make a reset of the end.
    let _ended = finish(bench, flooding);
    bench.turn_until("the end of the link", |bench| bench.downs > 0);
    bench.assert_everything_came_back();
}

#[test]
fn flood_that_ends_in_a_bad_record_leaves_nothing_behind() {
    on_every_port(forgets_what_waits, forgets_what_waits);
}

/// Bulk that is sealed where it arrived, with floods in the same buffers and records.
fn keeps_order<P: Port>(bench: &mut Bench<P>) {
    const FRAME_BYTES: u64 = 26 * 1024;
    const ROUNDS: u64 = 30;
    const PINGS_EACH: u64 = 1_100;
    let (mut caller, mut target) = (link(bench, 0x51), link(bench, 0x52));
    let up = bench.ups[1].clone();
    let taking = std::thread::spawn(move || {
        target.accept(WINDOW);
        target.take(ROUNDS * FRAME_BYTES);
        target
    });
    caller.send_frame(&Frame::Query { nonce: 5, window: WINDOW, query: ROUTE });
    bench.offer_to(up.identity);
    let giving = std::thread::spawn(move || {
        caller.read_until(|heard, _| matches!(heard, Heard::Frame(Frame::Response { .. })));
        for round in 0..ROUNDS {
            let from = round * FRAME_BYTES;
            let payload: Vec<u8> = (from..from + FRAME_BYTES).map(pattern).collect();
            let mut record = Vec::new();
            Frame::Data { nonce: 5, payload: &payload }
                .encode_to_vec(Profile::P4, &mut record)
                .unwrap();
            let floods = pings(round * PINGS_EACH, PINGS_EACH);
            if round % 2 == 0 {
                caller.send(&record);
                caller.send(&floods);
            } else {
                record.extend(&floods[..]);
                record.chunks(60_000).for_each(|chunk| caller.send(chunk));
            }
        }
        take_pongs(&mut caller, ROUNDS * PINGS_EACH);
        caller
    });
    let (caller, target) = (finish(bench, giving), finish(bench, taking));
    drop((caller, target));
    bench.assert_everything_came_back();
}

#[test]
fn payload_and_floods_in_one_buffer_arrive_whole_and_in_order() {
    on_every_port(keeps_order, keeps_order);
}

/// A payload is sealed for its receiver before the sender turns out to break the rules.
fn sends_what_was_sealed<P: Port>(bench: &mut Bench<P>) {
    const FRAME_BYTES: u64 = 26 * 1024;
    let (mut caller, mut target) = (link(bench, 0x51), link(bench, 0x52));
    let up = bench.ups[1].clone();
    let taking = std::thread::spawn(move || {
        target.accept(WINDOW);
        let mut received = Vec::new();
        target.read_until(|heard, _| match heard {
            Heard::Payload(_, payload) => {
                received.extend_from_slice(payload);
                false
            }
            heard => {
                assert!(matches!(heard, Heard::Frame(Frame::Reset { .. })), "{heard:?}");
                true
            }
        });
        // Records behind it can be opened, too.
        target.send_frame(&Frame::Ping { nonce: 1, pong: false });
        target.read_until(|heard, _| matches!(heard, Heard::Frame(Frame::Ping { pong: true, .. })));
        received
    });
    caller.send_frame(&Frame::Query { nonce: 5, window: WINDOW, query: ROUTE });
    bench.offer_to(up.identity);
    let giving = std::thread::spawn(move || {
        caller.read_until(|heard, _| matches!(heard, Heard::Frame(Frame::Response { .. })));
        let payload: Vec<u8> = (0..FRAME_BYTES).map(pattern).collect();
        let mut frame = Vec::new();
        Frame::Data { nonce: 5, payload: &payload }.encode_to_vec(Profile::P4, &mut frame).unwrap();
        let mut bytes = vec![0; frame.len() + 34];
        bytes[18..18 + frame.len()].copy_from_slice(&frame);
        caller.sealer.seal_in_place(&mut bytes).unwrap();
        bytes.extend([7; 64]);
        std::io::Write::write_all(&mut caller.stream, &bytes).unwrap();
        caller.read_to_the_end()
    });
    let _ended = finish(bench, giving);
    let received = finish(bench, taking);
    assert!(received.into_iter().eq((0..FRAME_BYTES).map(pattern)), "other bytes arrived");
    bench.assert_everything_came_back();
}

#[test]
fn payload_in_front_of_a_bad_record_still_arrives() {
    on_every_port(sends_what_was_sealed, sends_what_was_sealed);
}
