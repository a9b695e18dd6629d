//! Both ports against real sockets on loopback: the same bodies, run over epoll and over io_uring.
//!
//! Nothing here asserts how long something takes. Waits are bounded so that a port that loses an
//! event fails instead of hanging.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

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

fn every_byte_is_echoed<P: TestPort>() {
    const STREAMS: u64 = 24;
    const BYTES: u64 = 400_000;
    let mut rig = Rig::<P>::small(16, 16 * 1024);
    let mut shapes = Shapes(99);
    let mut queues: HashMap<StreamKey, (VecDeque<Segments>, bool)> = HashMap::new();
    let mut peers = Vec::new();
    for stream in 0..STREAMS {
        let (mut peer, ours) = connection();
        peers.push(write_in_pieces(peer.try_clone().unwrap(), stream, BYTES));
        peers.push(thread::spawn(move || {
            let mut checker = Checker::new(stream);
            checker.read_to_end(&mut peer, 10_000);
            assert_eq!(checker.position, BYTES);
        }));
        let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
        queues.insert(key, (VecDeque::new(), false));
    }
    while !queues.is_empty() {
        for event in rig.turn() {
            match event {
                Event::Received { stream, buffer } => {
                    let segments = cut(&mut rig, &mut shapes, buffer);
                    queues.get_mut(&stream).unwrap().0.push_back(segments);
                }
                Event::Sent { segments, result, .. } => {
                    result.unwrap();
                    rig.recycle(segments);
                }
                Event::EndOfStream { stream } => queues.get_mut(&stream).unwrap().1 = true,
                Event::Closed { stream } => drop(queues.remove(&stream)),
                other => panic!("{other:?}"),
            }
        }
        for (key, (queue, ended)) in &mut queues {
            if rig.port.is_sending(*key) {
                continue;
            }
            if let Some(segments) = queue.pop_front() {
                rig.port.send(*key, segments);
            } else if *ended {
                rig.port.close(*key, CloseMode::Graceful);
            }
        }
    }
    peers.into_iter().for_each(|peer| peer.join().unwrap());
    rig.expect_whole();
}

fn slow_reader_gets_all_segments_in_order<P: TestPort>() {
    const SENDS: u64 = 12;
    let mut rig = Rig::<P>::new();
    let (mut peer, ours) = connection();
    SockRef::from(&peer).set_recv_buffer_size(32 * 1024).unwrap();
    SockRef::from(&ours).set_send_buffer_size(32 * 1024).unwrap();
    let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    let bytes = (BLOCK_BYTES - 7) as u64 * SEND_SEGMENTS_MAX as u64;
    let (go, started) = mpsc::channel::<()>();
    let reader = thread::spawn(move || {
        started.recv().unwrap();
        let mut checker = Checker::new(5);
        checker.read_to_end(&mut peer, 3001);
        assert_eq!(checker.position, SENDS * bytes);
    });
    for round in 0..SENDS {
        let content = bytes_of(5, round * bytes..(round + 1) * bytes);
        let segments: Segments = rig.blocks(&content).collect();
        assert_eq!(segments.len(), SEND_SEGMENTS_MAX);
        rig.port.send(key, segments);
        assert!(rig.port.is_sending(key));
        if round == 0 {
            // Half a megabyte into buffers of a few kilobytes: the rest must wait in the port.
            assert!(rig.quiet().is_empty());
            go.send(()).unwrap();
        }
        while rig.port.is_sending(key) {
            for event in rig.turn() {
                let Event::Sent { stream, segments, result } = event else {
                    panic!("{event:?}");
                };
                assert_eq!((stream, segments.len()), (key, SEND_SEGMENTS_MAX));
                result.unwrap();
                rig.recycle(segments);
            }
        }
    }
    rig.finish(&[key], CloseMode::Graceful);
    reader.join().unwrap();
}

fn on_request_delivers_one_buffer_per_request<P: TestPort>() {
    const BYTES: u64 = 50_000;
    let mut rig = Rig::<P>::small(8, 4096);
    let (peer, ours) = connection();
    let key = rig.port.add_stream(ours, ReceiveMode::OnRequest).unwrap();
    write_in_pieces(peer.try_clone().unwrap(), 3, BYTES).join().unwrap();
    assert!(rig.quiet().is_empty());
    let mut checker = Checker::new(3);
    loop {
        rig.port.receive_once(key);
        rig.port.receive_once(key);
        let mut events = Vec::new();
        while events.is_empty() {
            events = rig.turn();
        }
        if checker.position < 20_000 {
            events.extend(rig.quiet());
        }
        assert_eq!(events.len(), 1, "{events:?}");
        match events.pop().unwrap() {
            Event::Received { stream, buffer } => {
                assert_eq!(stream, key);
                checker.check(&rig.take(buffer));
            }
            Event::EndOfStream { stream } => {
                assert_eq!(stream, key);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(checker.position, BYTES);
    // A stream that is over must not keep the core awake or tell it again.
    drop(peer);
    rig.port.receive_once(key);
    assert!(rig.quiet().is_empty());
    rig.finish(&[key], CloseMode::Graceful);
}

fn change_of_receive_mode_loses_nothing<P: TestPort>() {
    const BYTES: u64 = 2_000_000;
    let mut rig = Rig::<P>::small(8, 4096);
    let (peer, ours) = connection();
    let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    let writer = write_in_pieces(peer.try_clone().unwrap(), 11, BYTES);
    let mut checker = Checker::new(11);
    let mut shapes = Shapes(4);
    let mut ended = false;
    while !ended {
        match shapes.below(3) {
            0 => rig.port.set_receive_mode(key, ReceiveMode::Continuous),
            1 => rig.port.set_receive_mode(key, ReceiveMode::OnRequest),
            _ => {}
        }
        rig.port.receive_once(key);
        for event in rig.turn() {
            match event {
                Event::Received { buffer, .. } => checker.check(&rig.take(buffer)),
                Event::EndOfStream { .. } => ended = true,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(checker.position, BYTES);
    writer.join().unwrap();
    rig.finish(&[key], CloseMode::Graceful);
}

fn graceful_close_delivers_everything_then_fin<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    let (mut peer, ours) = connection();
    SockRef::from(&peer).set_recv_buffer_size(32 * 1024).unwrap();
    let key = rig.port.add_stream(ours, ReceiveMode::OnRequest).unwrap();
    // Bytes nobody will read, before and after the close: they must not turn it into a reset.
    peer.write_all(&[1; 5000]).unwrap();
    let content = bytes_of(8, 0..500_000);
    let segments: Segments = rig.blocks(&content).collect();
    rig.port.send(key, segments);
    rig.port.close(key, CloseMode::Graceful);
    let reader = thread::spawn(move || {
        let mut checker = Checker::new(8);
        let mut first = [0; 1000];
        peer.read_exact(&mut first).unwrap();
        checker.check(&first);
        peer.write_all(&[2; 5000]).unwrap();
        checker.read_to_end(&mut peer, 997);
        assert_eq!(checker.position, 500_000);
    });
    let mut sent = false;
    let mut closed = false;
    while !closed {
        for event in rig.turn() {
            match event {
                Event::Sent { segments, result, .. } => {
                    result.unwrap();
                    rig.recycle(segments);
                    sent = true;
                }
                Event::Closed { stream } => {
                    assert_eq!(stream, key);
                    closed = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(sent);
    reader.join().unwrap();
    rig.expect_whole();
}

fn graceful_close_of_an_idle_stream_is_a_fin<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    let (mut peer, ours) = connection();
    let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    assert!(rig.quiet().is_empty());
    rig.finish(&[key], CloseMode::Graceful);
    assert_eq!(peer.read(&mut [0; 10]).unwrap(), 0);
}

fn lingering_stream_is_closed_when_its_peer_never_ends<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    let (mut peer, ours) = connection();
    let key = rig.port.add_stream(ours, ReceiveMode::OnRequest).unwrap();
    peer.write_all(&[1; 5000]).unwrap();
    assert!(rig.quiet().is_empty());
    rig.finish(&[key], CloseMode::Graceful);
    assert_eq!(peer.read(&mut [0; 10]).unwrap(), 0);
}

fn reset_is_seen_as_reset<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    for in_flight in [false, true] {
        let (mut peer, ours) = connection();
        SockRef::from(&ours).set_send_buffer_size(16 * 1024).unwrap();
        let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
        let mut returned = 0;
        if in_flight {
            let segments: Segments = rig.blocks(&bytes_of(1, 0..500_000)).collect();
            returned = segments.len();
            rig.port.send(key, segments);
            assert!(rig.quiet().is_empty());
        }
        rig.port.close(key, CloseMode::Reset);
        let mut closed = false;
        while !closed {
            for event in rig.turn() {
                match event {
                    Event::Sent { segments, result, .. } => {
                        result.unwrap_err();
                        returned -= segments.len();
                        rig.recycle(segments);
                    }
                    Event::Closed { .. } => closed = true,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(returned, 0);
        let mut bytes = Vec::new();
        let error = peer.read_to_end(&mut bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    rig.expect_whole();
}

fn reset_overrides_a_graceful_close_that_is_stuck<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    let (mut peer, ours) = connection();
    SockRef::from(&ours).set_send_buffer_size(16 * 1024).unwrap();
    let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    let segments: Segments = rig.blocks(&bytes_of(1, 0..500_000)).collect();
    rig.port.send(key, segments);
    rig.port.close(key, CloseMode::Graceful);
    assert!(rig.quiet().is_empty());
    assert!(rig.port.is_sending(key));
    rig.finish(&[key], CloseMode::Reset);
    let error = peer.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn detached_stream_goes_on_at_another_port<P: TestPort>() {
    const BYTES: u64 = 3_000_000;
    let mut rigs = [Rig::<P>::small(8, 4096), Rig::<P>::small(8, 4096)];
    let (mut peer, ours) = connection();
    let writer = write_in_pieces(peer.try_clone().unwrap(), 21, BYTES);
    let reader = thread::spawn(move || {
        let mut checker = Checker::new(22);
        checker.read_to_end(&mut peer, 5000);
        checker.position
    });
    let mut received = Checker::new(21);
    let mut sent = 0;
    let mut detaches = 0;
    let mut owner = 0;
    let mut key = rigs[owner].port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    let mut ended = false;
    let mut detaching = false;
    while !ended || detaching {
        let rig = &mut rigs[owner];
        if !rig.port.is_sending(key) && !detaching {
            let content = bytes_of(22, sent..sent + 2000);
            sent += 2000;
            let segments: Segments = rig.blocks(&content).collect();
            rig.port.send(key, segments);
        }
        for event in rigs[owner].turn() {
            match event {
                Event::Received { buffer, .. } => {
                    assert!(!buffer.is_empty());
                    received.check(&rigs[owner].take(buffer));
                    if received.position.is_multiple_of(5) && !detaching {
                        rigs[owner].port.detach(key);
                        detaching = true;
                    }
                }
                Event::Sent { segments, result, .. } => {
                    result.unwrap();
                    rigs[owner].recycle(segments);
                }
                Event::EndOfStream { .. } => ended = true,
                Event::Detached { stream, socket } => {
                    assert_eq!(stream, key);
                    rigs[owner].expect_whole();
                    owner = 1 - owner;
                    let mode = ReceiveMode::Continuous;
                    key = rigs[owner].port.add_stream(socket, mode).unwrap();
                    detaching = false;
                    detaches += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(detaches > 1, "the test moved the stream too seldom");
    assert_eq!(received.position, BYTES);
    writer.join().unwrap();
    let [one, other] = rigs;
    let (with, without) = if owner == 0 { (one, other) } else { (other, one) };
    without.expect_whole();
    with.finish(&[key], CloseMode::Graceful);
    assert_eq!(reader.join().unwrap(), sent);
}

fn stream_detached_at_once_loses_nothing<P: TestPort>() {
    const BYTES: u64 = 20_000;
    for mode in [ReceiveMode::Continuous, ReceiveMode::OnRequest] {
        let mut rig = Rig::<P>::small(4, 2048);
        let (peer, ours) = connection();
        write_in_pieces(peer, 31, BYTES).join().unwrap();
        let mut checker = Checker::new(31);
        // With bytes waiting, the receive is likely to be under way as the stream is detached.
        let mut key = rig.port.add_stream(ours, mode).unwrap();
        rig.port.receive_once(key);
        rig.port.detach(key);
        let mut ended = false;
        while !ended {
            for event in rig.turn() {
                match event {
                    Event::Received { buffer, .. } => checker.check(&rig.take(buffer)),
                    Event::EndOfStream { .. } => ended = true,
                    Event::Detached { socket, .. } => {
                        key = rig.port.add_stream(socket, ReceiveMode::Continuous).unwrap();
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(checker.position, BYTES);
        rig.finish(&[key], CloseMode::Graceful);
    }
}

fn no_wake_up_is_lost<P: TestPort>() {
    const ROUNDS: u64 = 10_000;
    let (done, finished) = mpsc::channel();
    // On a thread of its own, so that a lost wake-up fails this one instead of hanging it.
    thread::spawn(move || {
        let mut rig = Rig::<P>::new();
        let waker = rig.port.waker();
        let put = Arc::new(AtomicU64::new(0));
        let seen = Arc::new(AtomicU64::new(0));
        let other = thread::spawn({
            let (put, seen) = (Arc::clone(&put), Arc::clone(&seen));
            move || {
                for round in 1..=ROUNDS {
                    put.store(round, Ordering::Relaxed);
                    waker.wake();
                    // Every other time the owner is left alone with several wake-ups.
                    while round % 2 == 0 && seen.load(Ordering::Relaxed) < round {
                        thread::yield_now();
                    }
                }
            }
        });
        let mut events = Vec::new();
        while seen.load(Ordering::Relaxed) < ROUNDS {
            rig.port.wait(None, &mut events).unwrap();
            seen.store(put.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        other.join().unwrap();
        assert!(events.is_empty());
        done.send(()).unwrap();
    });
    finished.recv_timeout(Duration::from_secs(120)).expect("a wake-up was lost");
}

fn exhausted_arena_loses_nothing<P: TestPort>() {
    const STREAMS: u64 = 40;
    const BYTES: u64 = 50_000;
    let mut rig = Rig::<P>::small(4, 2048);
    let mut writers = Vec::new();
    let mut checkers = HashMap::new();
    for stream in 0..STREAMS {
        let (peer, ours) = connection();
        writers.push(write_in_pieces(peer, stream, BYTES));
        let mode = match stream % 2 {
            0 => ReceiveMode::Continuous,
            _ => ReceiveMode::OnRequest,
        };
        let key = rig.port.add_stream(ours, mode).unwrap();
        rig.port.receive_once(key);
        checkers.insert(key, Checker::new(stream));
    }
    let mut held = Vec::new();
    let mut ended = 0;
    while ended < STREAMS || !held.is_empty() {
        // Every buffer is held until there is none left, or nothing more to fill one with.
        let (_, with_port) = rig.port.receive_buffers();
        assert_eq!(with_port + held.len(), 4);
        let events = rig.turn_within(if held.is_empty() { WAIT } else { SETTLE });
        let empty = events.is_empty();
        for event in events {
            match event {
                Event::Received { stream, buffer } => held.push((stream, buffer)),
                Event::EndOfStream { .. } => ended += 1,
                other => panic!("{other:?}"),
            }
        }
        let (_, with_port) = rig.port.receive_buffers();
        if with_port == 0 {
            let mut events = Vec::new();
            rig.port.wait(Some(Duration::ZERO), &mut events).unwrap();
            for event in events {
                let Event::EndOfStream { .. } = event else { panic!("{event:?}") };
                ended += 1;
            }
        }
        if with_port == 0 || empty {
            for (stream, buffer) in held.drain(..) {
                let bytes = rig.take(buffer);
                checkers.get_mut(&stream).unwrap().check(&bytes);
                rig.port.receive_once(stream);
            }
        }
    }
    assert!(checkers.values().all(|checker| checker.position == BYTES));
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let keys: Vec<_> = checkers.into_keys().collect();
    rig.finish(&keys, CloseMode::Graceful);
}

fn streams_with_nothing_to_do_let_the_core_sleep<P: TestPort>() {
    /// Waits that may return early: a few for each stream, where a busy loop has thousands.
    const RETURNS_MAX: u32 = 50;
    let mut rig = Rig::<P>::small(4, 64);
    let mut held: Vec<ReceiveBuffer> = Vec::new();
    // One that was asked once and has more than was asked for.
    let (mut peer, ours) = connection();
    peer.write_all(&[7; 1000]).unwrap();
    let mut keys = vec![rig.port.add_stream(ours, ReceiveMode::OnRequest).unwrap()];
    let mut peers = vec![peer];
    rig.port.receive_once(keys[0]);
    while held.is_empty() {
        for event in rig.turn() {
            let Event::Received { buffer, .. } = event else { panic!("{event:?}") };
            held.push(buffer);
        }
    }
    for number in 0..8 {
        let (mut peer, ours) = connection();
        let mode = match number % 2 {
            0 => ReceiveMode::Continuous,
            _ => ReceiveMode::OnRequest,
        };
        keys.push(rig.port.add_stream(ours, mode).unwrap());
        match number / 2 {
            // Ended, reset, and twice bytes that nobody wants or for which there is no buffer.
            0 => peer.shutdown(Shutdown::Write).unwrap(),
            1 => SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap(),
            _ => peer.write_all(&[7; 1000]).unwrap(),
        }
        if number / 2 != 1 {
            peers.push(peer);
        }
    }
    for event in rig.quiet() {
        if let Event::Received { buffer, .. } = event {
            held.push(buffer);
        }
    }
    assert_eq!(held.len(), 4);
    let waker = rig.port.waker();
    let (late, arrived) = mpsc::channel();
    let other = thread::spawn(move || {
        arrived.recv_timeout(SETTLE * 5).unwrap_err();
        waker.wake();
    });
    let mut events = Vec::new();
    let mut returns = 0;
    while !other.is_finished() {
        rig.port.wait(Some(WAIT), &mut events).unwrap();
        returns += 1;
        assert!(returns < RETURNS_MAX, "{events:?}");
    }
    other.join().unwrap();
    drop::<mpsc::Sender<()>>(late);
    held.into_iter().for_each(|buffer| rig.port.release(buffer));
    rig.finish(&keys, CloseMode::Reset);
}

/// 400 streams that all send at once fill a submission queue of 512 entries, and 10 buffers for
/// each a completion queue of 2048.
fn operations_beyond_the_queues_are_not_lost<P: TestPort>() {
    const STREAMS: u64 = 400;
    const BYTES: u64 = 5000;
    let limits = getrlimit(Resource::Nofile);
    let more = limits.maximum.unwrap_or(8192).min(8192).max(limits.current.unwrap_or(0));
    setrlimit(Resource::Nofile, Rlimit { current: Some(more), maximum: limits.maximum }).unwrap();
    let mut rig = Rig::<P>::small(4096, 512);
    let mut peers = Vec::new();
    let mut checkers = HashMap::new();
    for stream in 0..STREAMS {
        let (mut peer, ours) = connection();
        peer.write_all(&bytes_of(stream, 0..BYTES)).unwrap();
        peers.push(peer);
        let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
        let segments: Segments = rig.blocks(&bytes_of(stream + STREAMS, 0..100)).collect();
        rig.port.send(key, segments);
        checkers.insert(key, Checker::new(stream));
    }
    let mut sent = 0;
    let mut held = Vec::new();
    while sent < STREAMS || checkers.values().any(|checker| checker.position < BYTES) {
        for event in rig.turn() {
            match event {
                Event::Received { stream, buffer } => {
                    let bytes = rig.port.bytes_mut(&buffer);
                    checkers.get_mut(&stream).unwrap().check(bytes);
                    held.push(buffer);
                }
                Event::Sent { segments, result, .. } => {
                    result.unwrap();
                    rig.recycle(segments);
                    sent += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    held.into_iter().for_each(|buffer| rig.port.release(buffer));
    for (stream, mut peer) in (STREAMS..).zip(peers) {
        let mut bytes = [0; 100];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[..], bytes_of(stream, 0..100));
    }
    let keys: Vec<_> = checkers.into_keys().collect();
    rig.finish(&keys, CloseMode::Reset);
}

/// Limits of descriptors belong to the process, so this runs in a child.
fn accept_failure_is_reported_and_accepting_goes_on<P: TestPort>() {
    let module = match P::make(PortLimits::default()).kind() {
        PortKind::Epoll => "epoll",
        PortKind::IoUring => "io_uring",
    };
    if std::env::var(CHILD).as_deref() == Ok(module) {
        accept_with_few_descriptors::<P>();
        return;
    }
    let test = format!("{module}::accept_failure_is_reported_and_accepting_goes_on");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env(CHILD, module)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

fn accept_with_few_descriptors<P: TestPort>() {
    const PEERS: usize = 4;
    let mut rig = Rig::<P>::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peers: Vec<_> = (0..PEERS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let before = getrlimit(Resource::Nofile);
    let next = std::os::fd::AsRawFd::as_raw_fd(&listener.try_clone().unwrap()) as u64;
    let few = Rlimit { current: Some(next), maximum: before.maximum };
    setrlimit(Resource::Nofile, few).unwrap();
    let key = rig.port.add_listener(listener).unwrap();
    let mut failed = false;
    while !failed {
        for event in rig.turn() {
            let Event::AcceptFailed { listener, error } = event else { panic!("{event:?}") };
            assert_eq!((listener, error.raw_os_error()), (key, Some(24)));
            failed = true;
        }
    }
    setrlimit(Resource::Nofile, before).unwrap();
    let mut accepted = Vec::new();
    while accepted.len() < PEERS {
        for event in rig.turn() {
            match event {
                Event::Accepted { stream, .. } => accepted.push(stream),
                Event::AcceptFailed { error, .. } => assert_eq!(error.raw_os_error(), Some(24)),
                other => panic!("{other:?}"),
            }
        }
    }
    drop(peers);
}

fn many_connections_are_accepted<P: TestPort>() {
    const PEERS: usize = 200;
    let mut rig = Rig::<P>::new();
    let mut addresses = Vec::new();
    for number in 0..2 {
        let listener = TcpListener::bind("[::1]:0")
            .or_else(|_no_ipv6| TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        addresses.push(listener.local_addr().unwrap());
        assert_eq!(rig.port.add_listener(listener).unwrap(), ListenerKey(number));
    }
    let mut peers: HashMap<SocketAddr, (usize, TcpStream)> = HashMap::new();
    let mut left = PEERS;
    let mut connected = 0;
    while left > 0 {
        // In bursts within the backlog of a listener.
        while connected < PEERS && peers.len() < 50 {
            let peer = TcpStream::connect(addresses[connected % 2]).unwrap();
            peers.insert(peer.local_addr().unwrap(), (connected % 2, peer));
            connected += 1;
        }
        for event in rig.turn() {
            let Event::Accepted { listener, stream, remote } = event else {
                panic!("{event:?}");
            };
            assert_eq!(stream.peer_addr().unwrap(), remote);
            let (expected, _peer) = peers.remove(&remote).unwrap();
            assert_eq!(usize::from(listener.0), expected);
            assert_eq!(flags_of(&stream), (true, true), "non-blocking and close-on-exec");
            left -= 1;
        }
    }
}

fn stopped_listener_refuses<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    rig.port.add_listener(listener).unwrap();
    assert!(rig.quiet().is_empty());
    rig.port.stop_accepting();
    assert!(rig.quiet().is_empty());
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    // Keys go on counting.
    let another = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(rig.port.add_listener(another).unwrap(), ListenerKey(1));
}

fn peer_reset_gives_segments_back<P: TestPort>() {
    const STREAMS: usize = 6;
    let mut rig = Rig::<P>::new();
    let mut peers = Vec::new();
    let mut keys = Vec::new();
    for _ in 0..STREAMS {
        let (mut peer, ours) = connection();
        SockRef::from(&ours).set_send_buffer_size(16 * 1024).unwrap();
        SockRef::from(&peer).set_recv_buffer_size(4096).unwrap();
        peer.write_all(&[9; 100]).unwrap();
        peers.push(peer);
        keys.push(rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap());
    }
    let mut returned = 0;
    let mut sent = 0;
    let mut failures = 0;
    while returned < STREAMS || failures < STREAMS {
        for event in rig.turn() {
            match event {
                Event::Received { stream, buffer } => {
                    let content = bytes_of(1, 0..400_000);
                    let mut segments: Segments = rig.blocks(&content).collect();
                    let range = 10..buffer.len();
                    segments.push(Segment::Receive { buffer, range });
                    rig.port.send(stream, segments);
                    sent += 1;
                }
                Event::Sent { segments, result, .. } => {
                    result.unwrap_err();
                    assert_eq!(segments.len(), 8);
                    rig.recycle(segments);
                    returned += 1;
                }
                Event::ReceiveFailed { .. } => failures += 1,
                other => panic!("{other:?}"),
            }
        }
        if sent == STREAMS {
            for peer in peers.drain(..) {
                SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
    }
    let mut left = STREAMS;
    keys.iter().for_each(|key| rig.port.close(*key, CloseMode::Reset));
    while left > 0 {
        for event in rig.turn() {
            if let Event::Closed { .. } = event {
                left -= 1;
            }
        }
    }
    rig.expect_whole();
}

fn send_on_a_closing_stream_fails<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    let (_peer, ours) = connection();
    let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    rig.port.close(key, CloseMode::Graceful);
    let segments: Segments = rig.blocks(&[1, 2, 3]).collect();
    rig.port.send(key, segments);
    let mut refused = 0;
    let mut closed = 0;
    while refused + closed < 2 {
        for event in rig.turn() {
            match event {
                Event::Sent { segments, result, .. } => {
                    assert_eq!(result.unwrap_err().kind(), ErrorKind::NotConnected);
                    rig.recycle(segments);
                    refused += 1;
                }
                Event::Closed { .. } => closed += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((refused, closed), (1, 1));
    rig.expect_whole();
}

fn empty_send_is_reported_by_a_later_wait<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    let (_peer, ours) = connection();
    let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    rig.port.send(key, Segments::new());
    assert!(rig.port.is_sending(key));
    let mut events = rig.turn();
    while events.is_empty() {
        events = rig.turn();
    }
    assert!(matches!(&events[..], [Event::Sent { result: Ok(()), .. }]), "{events:?}");
    assert!(!rig.port.is_sending(key));
    rig.finish(&[key], CloseMode::Graceful);
}

fn streams_beyond_the_limit_are_refused_with_a_reset<P: TestPort>() {
    let limits = PortLimits { receive_buffers: 4, receive_buffer_bytes: 1024, streams: 1 };
    let mut rig = Rig::<P>::with_limits(limits);
    let (_first, ours) = connection();
    let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    let (mut second, ours) = connection();
    let error = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let error = second.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    rig.finish(&[key], CloseMode::Reset);
}

fn dropped_port_resets_its_streams<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    rig.port.add_listener(listener).unwrap();
    let mut peers = Vec::new();
    for number in 0..6 {
        let (peer, ours) = connection();
        SockRef::from(&ours).set_send_buffer_size(16 * 1024).unwrap();
        let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
        if number % 2 == 0 {
            let segments: Segments = rig.blocks(&bytes_of(1, 0..500_000)).collect();
            rig.port.send(key, segments);
        }
        if number % 3 == 0 {
            rig.port.detach(key);
        }
        peers.push(peer);
    }
    assert!(rig.quiet().iter().all(|event| matches!(event, Event::Detached { .. })));
    drop(rig);
    for (number, mut peer) in peers.into_iter().enumerate() {
        let result = peer.read_to_end(&mut Vec::new());
        // The one stream that was detached with nothing in flight was ours to close.
        if number != 3 {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionReset, "{number}");
        }
    }
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

fn keys_are_reused_only_after_they_were_returned<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    let (_peer, ours) = connection();
    let first = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    rig.port.close(first, CloseMode::Reset);
    let (_peer, ours) = connection();
    let second = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    assert_ne!(first, second);
    let mut events = Vec::new();
    while events.is_empty() {
        events = rig.turn();
    }
    assert!(matches!(&events[..], [Event::Closed { stream }] if *stream == first));
    let (mut peer, ours) = connection();
    let third = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    assert_eq!(first, third);
    // The new user of the key gets its own bytes and nothing of the old one's.
    peer.write_all(b"new").unwrap();
    let mut events = Vec::new();
    while events.is_empty() {
        events = rig.turn();
    }
    let [Event::Received { stream, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(*stream, third);
    let Some(Event::Received { buffer, .. }) = events.pop() else { return };
    assert_eq!(rig.take(buffer), b"new");
    rig.finish(&[second, third], CloseMode::Reset);
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
