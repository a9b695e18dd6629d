//! Sessions of the node itself on a running core: input handed up, queries of its own, queries in
//! somebody else's name, and pace.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it skips"
)]

mod support;

use std::thread::JoinHandle;
use support::{Bench, Heard, Peer, WINDOW, finish, on_every_port, pattern, secret};
use waystation_astral::frame::{Frame, Profile};
use waystation_engine::control::{AskId, Command, Report};
use waystation_engine::management_end::REPORT_RING_ENTRIES;
use waystation_engine::port::Port;
use waystation_relay::ids::{CoreId, LegTag};
use waystation_relay::quota::{Quota, QuotaLimits};
use waystation_relay::switch::Relayed;

const PUSH: &[u8] = b"objects.push";

/// A linked peer; `part` runs on a thread of its own.
fn with_peer<P: Port, T: Send + 'static>(
    bench: &Bench<P>,
    byte: u8,
    part: impl FnOnce(&mut Peer) -> T + Send + 'static,
) -> JoinHandle<(Peer, T)> {
    let (address, gateway) = (bench.address, bench.identity);
    std::thread::spawn(move || {
        let mut peer = Peer::dial(address, gateway, &secret(byte), Profile::P4);
        let result = part(&mut peer);
        (peer, result)
    })
}

fn input(bench: &Bench<impl Port>, of: LegTag) -> Vec<u8> {
    let input = bench.others.iter().filter_map(|report| match report {
        Report::Input { leg, bytes } if *leg == of => Some(bytes.to_vec()),
        _ => None,
    });
    input.collect::<Vec<_>>().concat()
}

fn ends(bench: &Bench<impl Port>, of: LegTag) -> usize {
    let ended = |report: &&Report| matches!(report, Report::SessionEnded { leg } if *leg == of);
    bench.others.iter().filter(ended).count()
}

fn takes_input_and_answers<P: Port>(bench: &mut Bench<P>) {
    let asking = with_peer(bench, 0x21, |peer| {
        peer.send_frame(&Frame::Query { nonce: 5, window: WINDOW, query: PUSH });
        peer.read_until(|heard, out| {
            assert!(matches!(heard, Heard::Frame(Frame::Response { code: 0, .. })), "{heard:?}");
            let data = Frame::Data { nonce: 5, payload: b"pushed" };
            data.encode_to_vec(Profile::P4, out).unwrap();
            true
        });
        let mut got = Vec::new();
        peer.read_until(|heard, _| match heard {
            Heard::Payload(5, payload) => {
                got.extend_from_slice(payload);
                false
            }
            heard => {
                assert!(matches!(heard, Heard::Frame(Frame::Reset { nonce: 5 })), "{heard:?}");
                true
            }
        });
        got
    });
    bench.turn_until("a query", |bench| !bench.queries.is_empty());
    let leg = bench.queries.remove(0).leg;
    bench.command(Command::Accept { leg, input_max_bytes: 100 });
    bench.turn_until("input", |bench| input(bench, leg) == b"pushed");
    bench.command(Command::Write { leg, bytes: b"ack".as_slice().into(), end: false });
    bench.command(Command::Write { leg, bytes: b", done".as_slice().into(), end: true });
    let (peer, got) = finish(bench, asking);
    assert_eq!(got, b"ack, done");
    bench.turn_until("the end", |bench| ends(bench, leg) == 1);
    drop(peer);
    bench.assert_everything_came_back();
    assert_eq!(ends(bench, leg), 1);
}

#[test]
fn accepted_query_hands_its_input_up_and_ends_behind_what_was_written() {
    on_every_port(takes_input_and_answers, takes_input_and_answers);
}

fn waits_with_credit<P: Port>(bench: &mut Bench<P>) {
    const FRAME_BYTES: u64 = 64;
    let asking = with_peer(bench, 0x21, |peer| {
        peer.send_frame(&Frame::Query { nonce: 5, window: 0, query: PUSH });
        peer.read_until(|heard, _| matches!(heard, Heard::Frame(Frame::Response { .. })));
        peer.credit = u64::from(WINDOW);
        // The whole window, in more frames than there is room for in the ring of reports.
        peer.give(5, u64::from(WINDOW), FRAME_BYTES as usize, 64);
    });
    bench.turn_until("a query", |bench| !bench.queries.is_empty());
    let leg = bench.queries.remove(0).leg;
    bench.command(Command::Accept { leg, input_max_bytes: 2 * WINDOW });
    // Nobody takes a report until the core has read everything.
    let mut read = 0;
    while read < 2000 {
        bench.core.port().waker().wake();
        bench.core.turn().unwrap();
        read = if asking.is_finished() { read + 1 } else { 0 };
    }
    let waiting = std::iter::from_fn(|| bench.management.next_report(CoreId(0)));
    bench.others.extend(waiting);
    assert_eq!(bench.others.len(), REPORT_RING_ENTRIES);
    let (mut peer, ()) = finish(bench, asking);
    bench.turn_until("all input", |bench| input(bench, leg).len() == WINDOW as usize);
    let expected: Vec<u8> = (0..u64::from(WINDOW)).map(pattern).collect();
    assert!(input(bench, leg) == expected, "input in another order");
    // With the last of it all credit is back.
    let reading = std::thread::spawn(move || {
        peer.send_frame(&Frame::Ping { nonce: 1, pong: false });
        peer.read_until(|heard, _| matches!(heard, Heard::Frame(Frame::Ping { pong: true, .. })));
        peer
    });
    let peer = finish(bench, reading);
    assert_eq!(peer.credit, u64::from(WINDOW), "credit that never came back");
    drop(peer);
    bench.assert_everything_came_back();
    assert_eq!(ends(bench, leg), 1);
}

#[test]
fn input_waits_for_room_in_the_ring_of_reports_and_its_credit_with_it() {
    on_every_port(waits_with_credit, waits_with_credit);
}

fn asks_a_peer<P: Port>(bench: &mut Bench<P>) {
    let answering = with_peer(bench, 0x21, |peer| {
        let nonce = peer.accept(100);
        let data = Frame::Data { nonce, payload: b"{\"yes\":1}" };
        peer.send_frame(&data);
        peer.send_frame(&Frame::Reset { nonce });
    });
    bench.turn_until("a link", |bench| bench.ups.len() == 1);
    let link = bench.ups[0].link;
    let ask =
        |ask, link| Command::Ask { ask: AskId(ask), link, query: PUSH.into(), input_max_bytes: 50 };
    bench.command(ask(1, link));
    let mut gone = link;
    gone.generation += 1;
    bench.command(ask(2, gone));
    let (peer, ()) = finish(bench, answering);
    bench.turn_until("the end", |bench| {
        bench.others.iter().any(|report| matches!(report, Report::SessionEnded { .. }))
    });
    let mut answers = Vec::new();
    let mut session = None;
    for report in &bench.others {
        if let Report::Asked { ask, leg, code } = report {
            answers.push((ask.0, *code));
            session = session.or((*code == 0).then_some(*leg));
        }
    }
    answers.sort_unstable();
    assert_eq!(answers, [(1, 0), (2, 1)]);
    assert_eq!(input(bench, session.unwrap()), b"{\"yes\":1}");
    assert_eq!(ends(bench, session.unwrap()), 1);
    drop(peer);
    bench.assert_everything_came_back();
}

#[test]
fn query_of_our_own_is_answered_once_with_or_without_a_link() {
    on_every_port(asks_a_peer, asks_a_peer);
}

fn passes_names_on<P: Port>(bench: &mut Bench<P>) {
    let (one, two) = (secret(0x31).identity(), secret(0x32).identity());
    let own = bench.identity;
    let bad = [7; 33];
    let asking = with_peer(bench, 0x21, move |peer| {
        let me = secret(0x21).identity();
        let [me, own, one, two] = [me, own, one, two].map(|identity| *identity.as_bytes());
        let names = [(me, own), (one, two), (me, two), (one, own), (bad, two), (me, bad)];
        for (nonce, (caller, target)) in (1..).zip(names) {
            let (window, query) = (WINDOW, PUSH);
            let (caller, target) = (&caller, &target);
            peer.send_frame(&Frame::RelayQuery { caller, target, nonce, window, query });
        }
        let mut refused = Vec::new();
        peer.read_until(|heard, _| {
            let Heard::Frame(Frame::Response { nonce, code: 1, .. }) = heard else {
                panic!("{heard:?}")
            };
            refused.push(nonce);
            refused.len() == 2
        });
        refused
    });
    let (peer, refused) = finish(bench, asking);
    assert_eq!(refused, [5, 6], "only names that are none are refused on the spot");
    bench.turn_until("four queries", |bench| bench.queries.len() == 4);
    let relayed: Vec<_> = bench.queries.iter().map(|query| query.relayed).collect();
    let me = secret(0x21).identity();
    let named = |caller, target| Some(Relayed { caller, target });
    assert_eq!(relayed, [None, named(one, two), named(me, two), named(one, own)]);
    let answering = with_peer(bench, 0x22, move |peer| {
        peer.read_until(|heard, _| match heard {
            Heard::Frame(Frame::RelayQuery { caller, target, query, .. }) => {
                assert_eq!((caller, target), (one.as_bytes(), two.as_bytes()));
                assert_eq!(query, PUSH);
                true
            }
            heard => panic!("{heard:?}"),
        });
    });
    bench.turn_until("two links", |bench| bench.ups.len() == 2);
    let (caller, target) = (bench.queries[1].leg, bench.ups[1].link);
    let relayed = bench.queries[1].relayed;
    let query = PUSH.into();
    bench.command(Command::Offer { caller, target, query, relayed, pace: None });
    drop((finish(bench, answering), peer));
    bench.assert_everything_came_back();
}

#[test]
fn relayed_query_is_reported_with_its_names_and_passed_on_with_them() {
    on_every_port(passes_names_on, passes_names_on);
}

fn keeps_the_pace<P: Port>(bench: &mut Bench<P>) {
    const RATE: u64 = 4 << 20;
    const TOTAL: u64 = 2 << 20;
    let asking = with_peer(bench, 0x21, |peer| {
        peer.ask(5, WINDOW);
        peer.give(5, TOTAL, 8192, 4);
    });
    let taking = with_peer(bench, 0x22, |peer| {
        peer.accept(WINDOW);
        peer.take(TOTAL);
    });
    bench.turn_until("two links and a query", |bench| {
        bench.ups.len() == 2 && !bench.queries.is_empty()
    });
    let target = bench.ups.iter().find(|up| up.identity == secret(0x22).identity()).unwrap().link;
    let caller = bench.queries.remove(0).leg;
    let quota =
        Quota::new(QuotaLimits { sessions: 9, bytes_per_s: Some(RATE), burst_bytes: 65_536 });
    let pace = Some(quota);
    let start_ns = waystation_engine::clock::now_ns();
    bench.command(Command::Offer { caller, target, query: PUSH.into(), relayed: None, pace });
    let taker = finish(bench, taking);
    let took_ns = waystation_engine::clock::now_ns() - start_ns;
    let least_ns = (TOTAL - 100_000) * 1_000_000_000 / RATE;
    assert!(took_ns >= least_ns, "{TOTAL} bytes in {took_ns} ns");
    // What a loaded machine adds is not for this test to say.
    assert!(took_ns < 20 * least_ns, "{TOTAL} bytes took {took_ns} ns");
    drop((finish(bench, asking), taker));
    bench.assert_everything_came_back();
}

#[test]
fn paced_session_passes_no_faster_than_its_quota() {
    on_every_port(keeps_the_pace, keeps_the_pace);
}
