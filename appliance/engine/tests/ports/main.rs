//! Both ports against real sockets on loopback: the same bodies, run over epoll and over io_uring.
//!
//! Nothing here asserts how long something takes. Waits are bounded so that a port that loses an
//! event fails instead of hanging.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

mod bounds;
mod datagram_errors;
mod datagrams;
mod streams;

use bounds::*;
use datagrams::{
    datagrams_wake_the_port_again_and_again, what_comes_while_nobody_watches_waits_in_its_socket,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use streams::*;
use waystation_engine::block::{BLOCK_BYTES, BlockPool};
use waystation_engine::port::arena::ReceiveBuffer;
use waystation_engine::port::epoll::EpollPort;
use waystation_engine::port::uring::{UringPort, probe};
use waystation_engine::port::waker::Waker;
use waystation_engine::port::{
    CloseMode, Event, ListenerKey, Port, PortKind, PortLimits, ReceiveMode, SEND_SEGMENTS_MAX,
    Segment, Segments, StreamKey,
};

const REQUIRE: &str = "WAYSTATION_TEST_REQUIRE";
const CHILD: &str = "WAYSTATION_TEST_PORTS_CHILD";
/// One wait of a rig, and how many of them may bring nothing before the test fails.
const WAIT: Duration = Duration::from_millis(500);
const EMPTY_WAITS_MAX: u32 = 60;
/// Longest wait of a peer, which then fails its thread.
const PEER_WAIT: Duration = Duration::from_secs(30);
/// Long enough for an event that should not come to come.
const SETTLE: Duration = Duration::from_millis(20);

trait TestPort: Port + Sized {
    fn make(limits: PortLimits) -> Self;
}

impl TestPort for EpollPort {
    fn make(limits: PortLimits) -> Self {
        Self::new(Waker::new().unwrap(), limits).unwrap()
    }
}

impl TestPort for UringPort {
    fn make(limits: PortLimits) -> Self {
        Self::new(Waker::new().unwrap(), limits).unwrap()
    }
}

/// Whether this machine has io_uring; a test that is required to run fails without it.
fn io_uring_is_there() -> bool {
    let Err(error) = probe() else { return true };
    let required = std::env::var(REQUIRE).is_ok_and(|value| value == "all");
    assert!(!required, "{REQUIRE}=all, but {error}");
    println!("skipped: needs io_uring, but {error}");
    false
}

macro_rules! on_both_ports {
    ($($test:ident),* $(,)?) => {
        mod epoll {
            $(#[test] fn $test() { super::$test::<super::EpollPort>() })*
        }
        mod io_uring {
            $(#[test] fn $test() {
                if super::io_uring_is_there() { super::$test::<super::UringPort>() }
            })*
        }
    };
}

on_both_ports!(
    every_byte_is_echoed,
    datagrams_wake_the_port_again_and_again,
    what_comes_while_nobody_watches_waits_in_its_socket,
    slow_reader_gets_all_segments_in_order,
    on_request_delivers_one_buffer_per_request,
    change_of_receive_mode_loses_nothing,
    graceful_close_delivers_everything_then_fin,
    graceful_close_of_an_idle_stream_is_a_fin,
    lingering_stream_is_closed_when_its_peer_never_ends,
    reset_is_seen_as_reset,
    reset_overrides_a_graceful_close_that_is_stuck,
    detached_stream_goes_on_at_another_port,
    stream_detached_at_once_loses_nothing,
    no_wake_up_is_lost,
    gathering_wait_returns_with_what_came_meanwhile,
    gathering_ends_with_the_timeout,
    exhausted_arena_loses_nothing,
    streams_with_nothing_to_do_let_the_core_sleep,
    operations_beyond_the_queues_are_not_lost,
    accept_failure_is_reported_and_accepting_goes_on,
    many_connections_are_accepted,
    stopped_listener_refuses,
    peer_reset_gives_segments_back,
    send_on_a_closing_stream_fails,
    empty_send_is_reported_by_a_later_wait,
    streams_beyond_the_limit_are_refused_with_a_reset,
    dropped_port_resets_its_streams,
    keys_are_reused_only_after_they_were_returned,
);

/// A port and what a data core has around it.
struct Rig<P> {
    port: P,
    pool: BlockPool,
    empty_waits: u32,
}

impl<P: TestPort> Rig<P> {
    fn new() -> Self {
        Self::with_limits(PortLimits::default())
    }

    fn with_limits(limits: PortLimits) -> Self {
        Self { port: P::make(limits), pool: BlockPool::new(1024), empty_waits: 0 }
    }

    fn small(receive_buffers: u16, receive_buffer_bytes: u32) -> Self {
        Self::with_limits(PortLimits { receive_buffers, receive_buffer_bytes, streams: 512 })
    }

    /// Waits once; fails the test when nothing came for too long.
    fn turn(&mut self) -> Vec<Event> {
        self.turn_within(WAIT)
    }

    fn turn_within(&mut self, wait: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        self.port.wait(Some(wait), &mut events).unwrap();
        self.empty_waits = if events.is_empty() { self.empty_waits + 1 } else { 0 };
        assert!(self.empty_waits < EMPTY_WAITS_MAX, "nothing happens any more");
        events
    }

    /// What comes although nothing should.
    fn quiet(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..3 {
            self.port.wait(Some(SETTLE), &mut events).unwrap();
        }
        events
    }

    /// Copies bytes into blocks of the pool.
    fn blocks(&mut self, bytes: &[u8]) -> impl Iterator<Item = Segment> {
        let mut segments = Vec::new();
        for piece in bytes.chunks(BLOCK_BYTES - 7) {
            let mut block = self.pool.take().unwrap();
            block[7..7 + piece.len()].copy_from_slice(piece);
            segments.push(Segment::Block { block, range: 7..7 + piece.len() });
        }
        segments.into_iter()
    }

    /// Returns what a send gave back to where it came from.
    fn recycle(&mut self, segments: Segments) {
        for segment in segments {
            match segment {
                Segment::Block { block, .. } => self.pool.give_back(block),
                Segment::Receive { buffer, .. } => self.port.release(buffer),
            }
        }
    }

    fn take(&mut self, buffer: ReceiveBuffer) -> Vec<u8> {
        let bytes = self.port.bytes_mut(&buffer).to_vec();
        assert_eq!(bytes.len(), buffer.len());
        self.port.release(buffer);
        bytes
    }

    /// Closes streams and waits until they are gone and everything is back.
    fn finish(mut self, streams: &[StreamKey], mode: CloseMode) {
        for stream in streams {
            self.port.close(*stream, mode);
        }
        let mut left = streams.len();
        while left > 0 {
            for event in self.turn() {
                match event {
                    Event::Closed { .. } => left -= 1,
                    Event::Sent { segments, .. } => self.recycle(segments),
                    other => panic!("after close: {other:?}"),
                }
            }
        }
        self.expect_whole();
    }

    fn expect_whole(&self) {
        let (all, with_port) = self.port.receive_buffers();
        assert_eq!(with_port, all, "receive buffers are missing");
        assert_eq!(self.pool.in_use(), 0, "blocks are missing");
    }
}

/// A connection: the peer's end and ours.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(PEER_WAIT)).unwrap();
    peer.set_write_timeout(Some(PEER_WAIT)).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (peer, ours)
}

/// Byte `position` of a stream that no other stream has.
fn byte_of(stream: u64, position: u64) -> u8 {
    let mixed = (position / 3 + stream * 7919).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 56) as u8 ^ position as u8
}

fn bytes_of(stream: u64, range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|position| byte_of(stream, position)).collect()
}

/// Checks arriving bytes against what the stream should carry.
struct Checker {
    stream: u64,
    position: u64,
}

impl Checker {
    fn new(stream: u64) -> Self {
        Self { stream, position: 0 }
    }

    fn check(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let expected = byte_of(self.stream, self.position);
            assert_eq!(*byte, expected, "stream {} at {}", self.stream, self.position);
            self.position += 1;
        }
    }

    /// Reads until the end of the stream, which must be a clean one.
    fn read_to_end(&mut self, peer: &mut impl Read, step: usize) {
        let mut bytes = vec![0; step];
        loop {
            match peer.read(&mut bytes).unwrap() {
                0 => return,
                count => self.check(&bytes[..count]),
            }
        }
    }
}

/// A small generator of shapes; the same every run.
struct Shapes(u64);

impl Shapes {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn write_in_pieces(mut peer: TcpStream, stream: u64, total: u64) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut shapes = Shapes(stream + 1);
        let mut position = 0;
        while position < total {
            let piece = (1 + shapes.below(30_000) as u64).min(total - position);
            peer.write_all(&bytes_of(stream, position..position + piece)).unwrap();
            position += piece;
        }
        peer.shutdown(Shutdown::Write).unwrap();
    })
}

/// Cuts a received buffer into segments: copies before, the buffer's middle, copies after.
fn cut<P: TestPort>(rig: &mut Rig<P>, shapes: &mut Shapes, buffer: ReceiveBuffer) -> Segments {
    let bytes = rig.port.bytes_mut(&buffer).to_vec();
    let mut cuts = vec![0, bytes.len()];
    for _ in 0..shapes.below(SEND_SEGMENTS_MAX) {
        cuts.push(shapes.below(bytes.len() + 1));
    }
    cuts.sort_unstable();
    let in_place = shapes.below(cuts.len());
    let mut buffer = Some(buffer);
    let mut segments = Segments::new();
    for (which, pair) in cuts.windows(2).enumerate() {
        let range = pair[0]..pair[1];
        match buffer.take_if(|_| which == in_place) {
            Some(buffer) => segments.push(Segment::Receive { buffer, range }),
            None => {
                let mut block = rig.pool.take().unwrap();
                block[..range.len()].copy_from_slice(&bytes[range.clone()]);
                segments.push(Segment::Block { block, range: 0..range.len() });
            }
        }
    }
    if let Some(buffer) = buffer {
        rig.port.release(buffer);
    }
    segments
}

/// Flags of a descriptor: whether it does not block, and whether it is closed on exec.
fn flags_of(stream: &TcpStream) -> (bool, bool) {
    let nonblocking = SockRef::from(stream).nonblocking().unwrap();
    let flags = rustix::io::fcntl_getfd(stream).unwrap();
    (nonblocking, flags.contains(rustix::io::FdFlags::CLOEXEC))
}

#[test]
fn probe_and_port_agree_on_any_thread() {
    let here = probe().is_ok();
    let there = thread::spawn(|| probe().is_ok()).join().unwrap();
    assert_eq!(here, there);
    let port = UringPort::new(Waker::new().unwrap(), PortLimits::default());
    assert_eq!(port.is_ok(), here);
}

#[test]
fn limits_that_no_port_can_have_are_refused() {
    for (receive_buffers, receive_buffer_bytes) in [(0, 1024), (4, 0)] {
        let limits = PortLimits { receive_buffers, receive_buffer_bytes, streams: 1 };
        let error = EpollPort::new(Waker::new().unwrap(), limits).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        UringPort::new(Waker::new().unwrap(), limits).unwrap_err();
    }
}
