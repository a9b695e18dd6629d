//! Raw pipes: what they carry, what is told of them, and how a quota slows their senders down.

use crate::support::{Bench, finish, on_every_port};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use waystation_astral::gateway::idle;
use waystation_engine::clock;
use waystation_engine::control::{Command, Report};
use waystation_engine::port::Port;
use waystation_relay::ids::SocketTag;
use waystation_relay::quota::{Quota, QuotaLimits};

/// What comes with the caller's nonce, before there is a pipe.
const EARLY: &[u8] = b"in the same segment";

/// Connects and shows a nonce, with bytes behind it.
fn present<P: Port>(bench: &mut Bench<P>, nonce: u64, early: &[u8]) -> (TcpStream, SocketTag) {
    let mut stream = TcpStream::connect(bench.address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let shown = [&nonce.to_be_bytes(), early].concat();
    stream.write_all(&shown).unwrap();
    let mut socket = None;
    bench.turn_until("the nonce", |bench| {
        socket = bench.others.iter().find_map(|report| match *report {
            Report::SocketPresented { socket, nonce: shown, .. } if shown == nonce => Some(socket),
            _ => None,
        });
        socket.is_some()
    });
    (stream, socket.unwrap())
}

/// A pipe from a caller to a registered node, each with its quota.
fn pipe<P: Port>(
    bench: &mut Bench<P>,
    caller_quota: Option<Arc<Quota>>,
    idle_quota: Option<Arc<Quota>>,
) -> ((TcpStream, SocketTag), (TcpStream, SocketTag)) {
    let (mut node, idle) = present(bench, 0x1100_0000_0000_0001, b"");
    bench.command(Command::KeepIdle { socket: idle });
    let (caller, calling) = present(bench, 0x1100_0000_0000_0002, EARLY);
    bench.command(Command::JoinSockets { caller: calling, idle, caller_quota, idle_quota });
    let acknowledging = std::thread::spawn(move || {
        let mut handoff = vec![0; idle::HANDOFF.len()];
        node.read_exact(&mut handoff).unwrap();
        assert_eq!(handoff, idle::HANDOFF);
        node.write_all(idle::HANDOFF_ACK).unwrap();
        let mut early = vec![0; EARLY.len()];
        node.read_exact(&mut early).unwrap();
        assert_eq!(early, EARLY);
        node
    });
    let node = finish(bench, acknowledging);
    ((caller, calling), (node, idle))
}

/// Sends so many bytes from the first stream to the second, which tells how long it took.
fn send<P: Port>(
    bench: &mut Bench<P>,
    (mut from, mut to): (TcpStream, TcpStream),
    bytes: usize,
) -> (u64, TcpStream, TcpStream) {
    let sending = std::thread::spawn(move || {
        from.write_all(&vec![7; bytes]).unwrap();
        from
    });
    let taking = std::thread::spawn(move || {
        let (started_ns, mut got, mut piece) = (clock::now_ns(), 0, vec![0; 1 << 16]);
        while got < bytes {
            let count = to.read(&mut piece).unwrap();
            assert_ne!(count, 0, "the pipe ended after {got} bytes");
            got += count;
        }
        (clock::now_ns() - started_ns, to)
    });
    let (took_ns, to) = finish(bench, taking);
    (took_ns, finish(bench, sending), to)
}

/// Both ends of the pipe as the core told of them: bytes in and out of each.
fn totals<P: Port>(bench: &Bench<P>, socket: SocketTag) -> Option<(u64, u64)> {
    bench.others.iter().find_map(|report| match *report {
        Report::SocketClosed { socket: closed, bytes_in, bytes_out, age_ns, .. }
            if closed == socket =>
        {
            assert!(age_ns > 0);
            Some((bytes_in, bytes_out))
        }
        _ => None,
    })
}

fn tells_totals<P: Port>(bench: &mut Bench<P>) {
    let ((caller, calling), (node, idle)) = pipe(bench, None, None);
    let (_, caller, node) = send(bench, (caller, node), 300_000);
    let (_, node, caller) = send(bench, (node, caller), 70_000);
    drop((caller, node));
    bench.turn_until("both ends", |bench| {
        totals(bench, calling).is_some() && totals(bench, idle).is_some()
    });
    let sent = 300_000 + EARLY.len() as u64;
    assert_eq!(totals(bench, calling), Some((sent, 70_000)));
    assert_eq!(totals(bench, idle), Some((70_000, sent)));
    bench.assert_everything_came_back();
}

#[test]
fn pipe_that_ends_tells_what_passed_with_the_bytes_that_came_early() {
    on_every_port(tells_totals, tells_totals);
}

/// Bytes per second, and for how many seconds they are sent.
const RATE: u64 = 1 << 20;
const SECONDS: u64 = 5;

fn holds_the_rate<P: Port>(bench: &mut Bench<P>) {
    let limits = QuotaLimits { sessions: 1, bytes_per_s: Some(RATE), burst_bytes: 64 * 1024 };
    let slow = Quota::new(limits);
    let ((caller, _), (node, _)) = pipe(bench, Some(slow), None);
    let (took_ns, caller, node) = send(bench, (caller, node), (RATE * SECONDS) as usize);
    let seconds = took_ns as f64 / 1e9;
    println!("{SECONDS} MiB at 1 MiB/s took {seconds:.3} s");
    let expected = SECONDS as f64;
    assert!((expected * 0.95..expected * 1.05).contains(&seconds), "{seconds} s");
    // The other direction has no quota.
    let (took_ns, node, caller) = send(bench, (node, caller), (RATE * SECONDS) as usize);
    assert!(took_ns < SECONDS * 1_000_000_000 / 2, "{took_ns} ns without a quota");
    drop((caller, node));
    bench.assert_everything_came_back();
}

#[test]
fn side_of_a_pipe_with_a_quota_sends_at_its_rate_and_the_other_at_its_own() {
    on_every_port(holds_the_rate, holds_the_rate);
}
