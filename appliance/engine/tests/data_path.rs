//! A data core driven turn by turn on the test's own thread, with real sockets and hand-made peers:
//! what it allocates, what it gives back, and that every byte arrives.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it skips"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use waystation_astral::brontide::{Initiator, Opener, Sealer};
use waystation_astral::frame::{Decoded, Frame, FrameDecoder, Profile};
use waystation_astral::identity::{Identity, SecretKey};
use waystation_astral::negotiation::{Dialer, Progress};
use waystation_engine::control::{Command, LinkUp, Query, Report};
use waystation_engine::core::{CoreLimits, CoreParts, DataCore};
use waystation_engine::management_end::ManagementEnd;
use waystation_engine::mesh;
use waystation_engine::port::epoll::EpollPort;
use waystation_engine::port::uring::UringPort;
use waystation_engine::port::waker::Waker;
use waystation_engine::port::{Port, PortLimits, probe};
use waystation_relay::ids::CoreId;
use waystation_relay::switch::SwitchLimits;

const WINDOW: u32 = 1 << 20;
const ROUTE: &[u8] = b"gateway.node_list";

// Counting allocations of one thread

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local
// cell that needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

// The core and its management

struct Bench<P> {
    core: DataCore<P>,
    management: ManagementEnd,
    address: SocketAddr,
    identity: Identity,
    ups: Vec<LinkUp>,
    queries: Vec<Query>,
    downs: usize,
    /// Counters of the last statistics report.
    counters: waystation_engine::statistics::CoreCounters,
}

impl<P: Port> Bench<P> {
    fn new(port: impl FnOnce(Waker, PortLimits) -> P) -> Self {
        let secret = SecretKey::from_bytes(&[7; 32]).unwrap();
        let identity = secret.identity();
        let waker = Waker::new().unwrap();
        let mesh = mesh::connect(std::slice::from_ref(&waker)).pop().unwrap();
        let (management, mut ends) = ManagementEnd::new(vec![waker.clone()]).unwrap();
        let limits = PortLimits { receive_buffers: 32, receive_buffer_bytes: 65_536, streams: 64 };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let parts = CoreParts {
            secret,
            limits: core_limits(),
            mesh,
            management: ends.pop().unwrap(),
            cpu: None,
        };
        let core = DataCore::new(port(waker, limits), vec![listener], parts).unwrap();
        Self {
            core,
            management,
            address,
            identity,
            ups: Vec::new(),
            queries: Vec::new(),
            downs: 0,
            counters: Default::default(),
        }
    }

    fn turn(&mut self) {
        self.core.turn().unwrap();
        while let Some(report) = self.management.next_report(CoreId(0)) {
            match report {
                Report::LinkUp(up) => self.ups.push(up),
                Report::LinkDown { .. } => self.downs += 1,
                Report::Query(query) => self.queries.push(query),
                Report::Statistics(block) => self.counters = block.counters.clone(),
                _ => {}
            }
        }
    }

    fn turn_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..2_000_000 {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("never came: {what}");
    }

    fn command(&mut self, command: Command) {
        self.management.send(CoreId(0), command).unwrap();
    }

    /// Joins the peer that has asked to the link of `target`.
    fn offer_to(&mut self, target: Identity) {
        self.turn_until("a query", |bench| !bench.queries.is_empty());
        let query = self.queries.remove(0);
        let up = self.ups.iter().find(|up| up.identity == target).unwrap();
        let (caller, target) = (query.leg, up.link);
        self.command(Command::Offer {
            caller,
            target,
            query: ROUTE.into(),
            relayed: None,
            pace: None,
        });
    }

    fn refresh_counters(&mut self) {
        self.counters = Default::default();
        self.command(Command::ReportStatistics { recycled: None });
        self.turn_until("statistics", |bench| bench.counters.turns > 0);
    }

    fn assert_everything_came_back(&mut self) {
        self.turn_until("the end of all connections", |bench| bench.core.load() == (0, 0));
        self.turn_until("all buffers and blocks", |bench| {
            let (total, free) = bench.core.port().receive_buffers();
            total == free && bench.core.blocks_in_use() == 0
        });
    }
}

fn core_limits() -> CoreLimits {
    let long = Duration::from_secs(600);
    CoreLimits {
        switch: SwitchLimits {
            window_bytes: WINDOW,
            sessions_per_link: 1000,
            sessions: 1000,
            queue_bytes: 64 << 20,
            query_timeout_ns: 60_000_000_000,
        },
        block_bytes: 16 << 20,
        links: 100,
        half_open: 100,
        sockets: 100,
        handshake_timeout: long,
        ping_interval: long,
        ping_timeout: long,
        send_stall_timeout: long,
        idle_ping_interval: long,
        idle_dead_after: long,
        pipe_idle_timeout: long,
    }
}

/// Runs a test on every port this machine has.
fn on_every_port(
    epoll: impl FnOnce(&mut Bench<EpollPort>),
    uring: impl FnOnce(&mut Bench<UringPort>),
) {
    epoll(&mut Bench::new(|waker, limits| EpollPort::new(waker, limits).unwrap()));
    match probe::probe() {
        Ok(()) => uring(&mut Bench::new(|waker, limits| UringPort::new(waker, limits).unwrap())),
        Err(error) if std::env::var_os("WAYSTATION_TEST_REQUIRE").is_none() => {
            println!("skipped: needs io_uring: {error}");
        }
        Err(error) => panic!("{error}"),
    }
}

// A peer made by hand

struct Peer {
    stream: TcpStream,
    sealer: Sealer,
    opener: Opener,
    profile: Profile,
    decoder: FrameDecoder,
    credit: u64,
}

impl Peer {
    fn dial(address: SocketAddr, gateway: Identity, secret: &SecretKey, profile: Profile) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        let ephemeral = SecretKey::from_bytes(&[9; 32]).unwrap();
        let mut initiator = Initiator::new(secret, &gateway, &ephemeral).unwrap();
        (&stream).write_all(&initiator.act_one().unwrap()).unwrap();
        let mut act_two = [0; 50];
        (&stream).read_exact(&mut act_two).unwrap();
        let (act_three, transport) = initiator.act_two(&act_two).unwrap();
        (&stream).write_all(&act_three).unwrap();
        let mut peer = Self {
            stream,
            sealer: transport.sealer,
            opener: transport.opener,
            profile,
            decoder: FrameDecoder::new(profile),
            credit: 0,
        };
        let mut dialer = Dialer::fixed(profile);
        loop {
            let (record, mut reply) = (peer.record(), Vec::new());
            let progress = dialer.receive(&record, &mut reply).unwrap();
            if !reply.is_empty() {
                peer.send(&reply);
            }
            if let Progress::Done(established) = progress {
                let leftover = established.leftover;
                peer.answer_pings(&leftover);
                return peer;
            }
        }
    }

    fn record(&mut self) -> Vec<u8> {
        let mut header = [0; 18];
        self.stream.read_exact(&mut header).unwrap();
        let bytes = self.opener.open_header(&header).unwrap();
        let mut body = vec![0; bytes + 16];
        self.stream.read_exact(&mut body).unwrap();
        self.opener.open_body(&mut body).unwrap();
        body.truncate(bytes);
        body
    }

    fn send(&mut self, plaintext: &[u8]) {
        let mut record = vec![0; plaintext.len() + 34];
        record[18..18 + plaintext.len()].copy_from_slice(plaintext);
        self.sealer.seal_in_place(&mut record).unwrap();
        self.stream.write_all(&record).unwrap();
    }

    fn send_frame(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode_to_vec(self.profile, &mut bytes).unwrap();
        self.send(&bytes);
    }

    fn answer_pings(&mut self, plaintext: &[u8]) {
        let (mut cursor, mut pongs) = (0, Vec::new());
        while let Some(decoded) = self.decoder.next(plaintext, &mut cursor).unwrap() {
            if let Decoded::Frame(Frame::Ping { nonce, pong: false }) = decoded {
                pongs.push(nonce);
            }
        }
        for nonce in pongs {
            self.send_frame(&Frame::Ping { nonce, pong: true });
        }
    }

    /// Reads records and hands every frame on until `each` says it is enough. Pings are answered.
    fn read_until(&mut self, mut each: impl FnMut(Heard<'_>, &mut Vec<u8>) -> bool) {
        let mut out = Vec::new();
        let mut enough = false;
        while !enough {
            let record = self.record();
            let mut cursor = 0;
            while let Some(decoded) = self.decoder.next(&record, &mut cursor).unwrap() {
                match decoded {
                    Decoded::Frame(Frame::Ping { nonce, pong: false }) => {
                        let pong = Frame::Ping { nonce, pong: true };
                        pong.encode_to_vec(self.profile, &mut out).unwrap();
                    }
                    Decoded::Frame(Frame::Read { bytes, .. }) => self.credit += u64::from(bytes),
                    Decoded::Frame(frame) => enough |= each(Heard::Frame(frame), &mut out),
                    Decoded::Data { nonce, offset, bytes, .. } => {
                        let payload = &record[offset..offset + bytes];
                        enough |= each(Heard::Payload(nonce, payload), &mut out);
                    }
                }
            }
            if !out.is_empty() {
                self.send(&out);
                out.clear();
            }
        }
    }

    /// Asks, and waits until the query is accepted.
    fn ask(&mut self, nonce: u64, window: u32) {
        self.send_frame(&Frame::Query { nonce, window, query: ROUTE });
        let mut credit = 0;
        self.read_until(|heard, _| match heard {
            Heard::Frame(Frame::Response { code: 0, window, .. }) => {
                credit = u64::from(window);
                true
            }
            heard => panic!("{heard:?}"),
        });
        self.credit += credit;
    }

    /// Accepts the next query and returns its nonce.
    fn accept(&mut self, window: u32) -> u64 {
        let mut asked = 0;
        self.read_until(|heard, _| {
            let Heard::Frame(Frame::Query { nonce, .. }) = heard else { panic!("{heard:?}") };
            asked = nonce;
            true
        });
        self.send_frame(&Frame::Response { nonce: asked, code: 0, window });
        asked
    }

    /// Reads payload until `total` bytes have come, giving credit back, and checks every byte.
    fn take(&mut self, total: u64) {
        let (profile, mut got) = (self.profile, 0);
        self.read_until(|heard, out| {
            let Heard::Payload(nonce, payload) = heard else { panic!("{heard:?}") };
            for &byte in payload {
                assert_eq!(byte, pattern(got), "at byte {got}");
                got += 1;
            }
            let read = Frame::Read { nonce, bytes: payload.len() as u32 };
            read.encode_to_vec(profile, out).unwrap();
            got >= total
        });
        assert_eq!(got, total);
    }

    /// Sends `total` bytes in data frames of `frame_bytes`, `frames` to a record, within credit.
    fn give(&mut self, nonce: u64, total: u64, frame_bytes: usize, frames: usize) {
        let mut sent = 0;
        let mut record = Vec::new();
        while sent < total {
            record.clear();
            for _ in 0..frames {
                let bytes = (total - sent).min(frame_bytes as u64);
                let payload: Vec<u8> = (sent..sent + bytes).map(pattern).collect();
                let frame = Frame::Data { nonce, payload: &payload };
                frame.encode_to_vec(self.profile, &mut record).unwrap();
                sent += bytes;
                self.credit = self.credit.checked_sub(bytes).expect("credit was waited for");
            }
            self.send(&record);
            while self.credit < (frame_bytes * frames) as u64 && sent < total {
                let record = self.record();
                let mut cursor = 0;
                while let Some(decoded) = self.decoder.next(&record, &mut cursor).unwrap() {
                    if let Decoded::Frame(Frame::Read { bytes, .. }) = decoded {
                        self.credit += u64::from(bytes);
                    }
                }
            }
        }
    }
}

#[derive(Debug)]
enum Heard<'a> {
    Frame(Frame<'a>),
    Payload(u64, &'a [u8]),
}

fn pattern(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn secret(byte: u8) -> SecretKey {
    SecretKey::from_bytes(&[byte; 32]).unwrap()
}

/// Links two peers from other threads while the core turns here, and joins a session from the
/// first to the second.
fn join<P: Port>(
    bench: &mut Bench<P>,
    profiles: (Profile, Profile),
    target_window: u32,
) -> (Peer, Peer, u64, u64) {
    let (address, gateway) = (bench.address, bench.identity);
    let dial = move |byte, profile| {
        std::thread::spawn(move || Peer::dial(address, gateway, &secret(byte), profile))
    };
    let mut a = finish(bench, dial(0x21, profiles.0));
    let mut b = finish(bench, dial(0x22, profiles.1));
    bench.turn_until("two links", |bench| bench.ups.len() == 2);
    let asking = std::thread::spawn(move || {
        a.ask(77, WINDOW);
        a
    });
    bench.offer_to(secret(0x22).identity());
    let accepting = std::thread::spawn(move || {
        let nonce = b.accept(target_window);
        (b, nonce)
    });
    let (b, nonce) = finish(bench, accepting);
    (finish(bench, asking), b, 77, nonce)
}

/// Turns the core until a peer's thread is done.
fn finish<P: Port, T>(bench: &mut Bench<P>, thread: JoinHandle<T>) -> T {
    bench.turn_until("the peer's part", |_| thread.is_finished());
    thread.join().unwrap()
}

// Tests

fn forwards_without_allocating<P: Port>(bench: &mut Bench<P>) {
    const FRAME_BYTES: usize = 64;
    const FRAMES: u64 = 1_000_000;
    // The target gives no credit at first, so that the whole window is queued once: after that
    // every pool is as large as this traffic can make it.
    let (mut a, mut b, at_a, at_b) = join(bench, (Profile::P4, Profile::P4), 0);
    let total = u64::from(WINDOW) + FRAMES * FRAME_BYTES as u64;
    let giving = std::thread::spawn(move || {
        a.give(at_a, total, FRAME_BYTES, 64);
        a
    });
    bench.turn_until("a full window", |bench| {
        bench.core.queued_bytes() >= WINDOW as usize - 64 * FRAME_BYTES
    });
    let done = Arc::new(AtomicBool::new(false));
    let taken = Arc::clone(&done);
    let taking = std::thread::spawn(move || {
        b.send_frame(&Frame::Read { nonce: at_b, bytes: WINDOW });
        b.take(total);
        taken.store(true, Ordering::SeqCst);
        b
    });
    bench.refresh_counters();
    let start = bench.counters.frames_in;
    while bench.counters.frames_in - start < FRAMES / 10 {
        for _ in 0..50 {
            bench.turn();
        }
        bench.refresh_counters();
    }
    let warm = bench.counters.frames_in;
    let before = allocations();
    while !done.load(Ordering::SeqCst) {
        bench.core.turn().unwrap();
    }
    let allocated = allocations() - before;
    bench.refresh_counters();
    let frames = bench.counters.frames_in - warm;
    assert!(frames > FRAMES / 2, "only {frames} frames were left to count over");
    assert_eq!(allocated, 0, "allocations over {frames} frames");
    drop((finish(bench, giving), finish(bench, taking)));
    bench.assert_everything_came_back();
}

#[test]
fn warm_core_forwards_a_million_frames_without_an_allocation() {
    on_every_port(forwards_without_allocating, forwards_without_allocating);
}

fn seals_in_place<P: Port>(bench: &mut Bench<P>) {
    let profiles = [Profile::P0, Profile::P2, Profile::P4];
    for from in profiles {
        for to in profiles {
            bench.ups.clear();
            let (mut a, mut b, to_b, _) = join(bench, (from, to), WINDOW);
            bench.refresh_counters();
            let before = bench.counters.records_sealed_in_place;
            let total = 4 << 20;
            let giving = std::thread::spawn(move || {
                a.give(to_b, total, 60_000, 1);
                a
            });
            let taking = std::thread::spawn(move || {
                b.take(total);
                b
            });
            drop((finish(bench, taking), finish(bench, giving)));
            bench.refresh_counters();
            let in_place = bench.counters.records_sealed_in_place - before;
            println!("{from} to {to}: {in_place} of 70 frames sealed in place");
            bench.assert_everything_came_back();
        }
    }
    bench.refresh_counters();
    assert!(bench.counters.records_sealed_in_place > 0, "no frame was sealed in place");
}

#[test]
fn large_frames_are_sealed_in_the_buffer_they_arrived_in_and_arrive_whole() {
    on_every_port(seals_in_place, seals_in_place);
}

fn returns_everything<P: Port>(bench: &mut Bench<P>) {
    for round in 0..10 {
        bench.ups.clear();
        let (mut a, mut b, to_b, to_a) = join(bench, (Profile::P4, Profile::P0), WINDOW);
        let giving = std::thread::spawn(move || {
            // As much as the window allows, so that some of it is queued when the peer dies.
            a.give(to_b, u64::from(WINDOW) / 2, 8192, 4);
            a
        });
        let dies = round % 2 == 0;
        let taking = std::thread::spawn(move || {
            b.give(to_a, 0, 1, 1);
            if dies {
                socket2::SockRef::from(&b.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            b
        });
        let a = finish(bench, giving);
        let b = finish(bench, taking);
        let downs = bench.downs;
        if dies {
            drop(b);
            bench.turn_until("the end of b's link", |bench| bench.downs > downs);
            let (sessions, connections) = bench.core.load();
            assert_eq!((sessions, connections), (0, 1), "only the dead peer's session ends");
            drop(a);
        } else {
            drop(a);
            bench.turn_until("the end of a's link", |bench| bench.downs > downs);
            drop(b);
        }
        bench.assert_everything_came_back();
    }
}

#[test]
fn killed_peer_costs_its_own_sessions_and_no_buffer() {
    on_every_port(returns_everything, returns_everything);
}
