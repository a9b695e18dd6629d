//! A data core driven turn by turn on the test's own thread, and peers made by hand.
//!
//! Waits are counted in turns or bounded by the peers' read timeout, so that a byte that is lost
//! fails a test instead of hanging it.

#![allow(dead_code, reason = "every test program uses a part of it")]

pub(crate) mod opaque;
pub(crate) mod turn;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use waystation_astral::aead::AeadSuite;
use waystation_astral::brontide::{Initiator, Opener, Responder, Sealer};
use waystation_astral::frame::{Decoded, Frame, FrameDecoder, Profile};
use waystation_astral::identity::{Identity, SecretKey};
use waystation_astral::negotiation::{Acceptor, Dialer, Progress};
use waystation_engine::control::{Command, DialId, LinkTotals, LinkUp, Network, Query, Report};
use waystation_engine::core::{CoreLimits, CoreParts, DataCore, OpaqueSettings, TurnParts};
use waystation_engine::management_end::ManagementEnd;
use waystation_engine::mesh;
use waystation_engine::port::epoll::EpollPort;
use waystation_engine::port::uring::UringPort;
use waystation_engine::port::waker::Waker;
use waystation_engine::port::{Port, PortLimits, probe};
use waystation_engine::snapshot::{CoreSnapshot, ReloadableLimits};
use waystation_relay::access::Access;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::CoreId;

pub(crate) const WINDOW: u32 = 1 << 20;
pub(crate) const ROUTE: &[u8] = b"gateway.node_list";

// The core and its management

/// A core that has a TURN server, opaque sessions or neither, and its management core's end.
fn core_for_datagrams<P: Port>(
    port: impl FnOnce(Waker, PortLimits) -> P,
    snapshot: CoreSnapshot,
    turn: Option<TurnParts>,
    opaque: Option<OpaqueSettings>,
) -> (DataCore<P>, ManagementEnd) {
    let waker = Waker::new().unwrap();
    let mesh = mesh::connect(std::slice::from_ref(&waker)).pop().unwrap();
    let (management, mut ends) = ManagementEnd::new(vec![waker.clone()]).unwrap();
    let limits = PortLimits { receive_buffers: 4, receive_buffer_bytes: 65_536, streams: 4 };
    let parts = CoreParts {
        secret: secret(7),
        aead: AeadSuite::default(),
        limits: CoreLimits { window_bytes: 1 << 20, queue_bytes: 1 << 20, block_bytes: 4 << 20 },
        snapshot: Arc::new(snapshot),
        mesh,
        management: ends.pop().unwrap(),
        cpu: None,
        turn,
        opaque,
        frames: Vec::new(),
    };
    (DataCore::new(port(waker, limits), vec![], parts).unwrap(), management)
}

pub(crate) struct Bench<P> {
    pub(crate) core: DataCore<P>,
    pub(crate) management: ManagementEnd,
    pub(crate) address: SocketAddr,
    pub(crate) identity: Identity,
    pub(crate) ups: Vec<LinkUp>,
    pub(crate) queries: Vec<Query>,
    pub(crate) downs: usize,
    /// Why each link ended, and what had passed over it.
    pub(crate) ended: Vec<(Option<DropReason>, LinkTotals)>,
    /// Every other report, in order.
    pub(crate) others: Vec<Report>,
    epoch: u64,
    /// Counters of the last statistics report.
    pub(crate) counters: waystation_engine::statistics::CoreCounters,
}

impl<P: Port> Bench<P> {
    pub(crate) fn new(port: impl FnOnce(Waker, PortLimits) -> P) -> Self {
        Self::with_secret(secret(7), port)
    }

    pub(crate) fn with_secret(
        secret: SecretKey,
        port: impl FnOnce(Waker, PortLimits) -> P,
    ) -> Self {
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
            aead: AeadSuite::default(),
            limits: CoreLimits {
                window_bytes: WINDOW,
                queue_bytes: 64 << 20,
                block_bytes: 16 << 20,
            },
            snapshot: Arc::new(snapshot(0)),
            mesh,
            management: ends.pop().unwrap(),
            cpu: None,
            turn: None,
            opaque: None,
            frames: Vec::new(),
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
            ended: Vec::new(),
            others: Vec::new(),
            epoch: 0,
            counters: Default::default(),
        }
    }

    pub(crate) fn turn(&mut self) {
        self.core.turn().unwrap();
        while let Some(report) = self.management.next_report(CoreId(0)) {
            match report {
                Report::LinkUp(up) => self.ups.push(up),
                Report::LinkDown { reason, totals, .. } => {
                    self.downs += 1;
                    self.ended.push((reason, totals));
                }
                Report::Query(query) => self.queries.push(query),
                Report::Statistics(block) => self.counters = block.counters.clone(),
                other => self.others.push(other),
            }
        }
    }

    /// As [`Self::turn`], without waiting for anything to happen.
    pub(crate) fn turn_at_once(&mut self) {
        self.core.port().waker().wake();
        self.turn();
    }

    /// What every dial came to that has failed so far; forgets them.
    pub(crate) fn failed_dials(&mut self) -> Vec<(DialId, DropReason)> {
        let mut failed = Vec::new();
        self.others.retain(|report| match *report {
            Report::DialFailed { dial, reason } => {
                failed.push((dial, reason));
                false
            }
            _ => true,
        });
        failed
    }

    /// Gives the core a snapshot and waits until it has taken it up.
    pub(crate) fn adopt(&mut self, change: impl FnOnce(&mut CoreSnapshot)) {
        self.epoch += 1;
        let mut snapshot = snapshot(self.epoch);
        change(&mut snapshot);
        self.command(Command::Adopt { snapshot: Arc::new(snapshot) });
        let wanted = self.epoch;
        self.turn_until("the snapshot", |bench| {
            bench
                .others
                .iter()
                .any(|report| matches!(report, Report::Adopted { epoch, .. } if *epoch == wanted))
        });
    }

    /// Dials a peer that listens at `address`.
    pub(crate) fn dial(&mut self, dial: u64, address: SocketAddr, identity: Identity) {
        let stream = TcpStream::connect(address).unwrap();
        let (dial, network) = (DialId(dial), Network::Tcp);
        self.command(Command::Initiate { dial, stream, identity, network });
    }

    pub(crate) fn turn_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..2_000_000 {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("never came: {what}");
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.management.send(CoreId(0), command).unwrap();
    }

    /// Joins the peer that has asked to the link of `target`.
    pub(crate) fn offer_to(&mut self, target: Identity) {
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

    pub(crate) fn refresh_counters(&mut self) {
        self.counters = Default::default();
        self.command(Command::ReportStatistics { recycled: None, closes_interval: false });
        self.turn_until("statistics", |bench| bench.counters.turns > 0);
    }

    pub(crate) fn assert_everything_came_back(&mut self) {
        self.turn_until("the end of all connections", |bench| bench.core.load() == (0, 0));
        self.turn_until("all buffers and blocks", |bench| {
            let (total, free) = bench.core.port().receive_buffers();
            total == free && bench.core.blocks_in_use() == 0
        });
    }
}

/// The limits every core starts with: none that a test runs into by accident.
pub(crate) fn snapshot(epoch: u64) -> CoreSnapshot {
    let long = Duration::from_secs(600);
    let limits = ReloadableLimits {
        sessions_per_link: 1000,
        sessions: 1000,
        query_timeout: Duration::from_secs(60),
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
        link_idle_timeout: None,
    };
    CoreSnapshot { epoch, access: Access::Everyone, limits, turn: None, udp_peers: Arc::default() }
}

/// Runs a test on every port this machine has.
pub(crate) fn on_every_port(
    epoll: impl FnOnce(&mut Bench<EpollPort>),
    uring: impl FnOnce(&mut Bench<UringPort>),
) {
    epoll(&mut Bench::new(|waker, limits| EpollPort::new(waker, limits).unwrap()));
    if io_uring_is_there() {
        uring(&mut Bench::new(|waker, limits| UringPort::new(waker, limits).unwrap()));
    }
}

pub(crate) fn io_uring_is_there() -> bool {
    match probe::probe() {
        Ok(()) => true,
        Err(error) if std::env::var_os("WAYSTATION_TEST_REQUIRE").is_none() => {
            println!("skipped: needs io_uring: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

// A peer made by hand

pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) profile: Profile,
    pub(crate) decoder: FrameDecoder,
    pub(crate) credit: u64,
}

impl Peer {
    /// The initiator's side of a handshake; negotiation is still to come.
    pub(crate) fn knock(
        address: SocketAddr,
        gateway: Identity,
        secret: &SecretKey,
        profile: Profile,
    ) -> Self {
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
        Self {
            stream,
            sealer: transport.sealer,
            opener: transport.opener,
            profile,
            decoder: FrameDecoder::new(profile),
            credit: 0,
        }
    }

    pub(crate) fn dial(
        address: SocketAddr,
        gateway: Identity,
        secret: &SecretKey,
        profile: Profile,
    ) -> Self {
        let mut peer = Self::knock(address, gateway, secret, profile);
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

    /// The responder's side of a handshake on the next connection; negotiation is still to come.
    pub(crate) fn shake_hands(
        listener: &TcpListener,
        secret: &SecretKey,
        profile: Profile,
    ) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut responder = Responder::new(secret, &self::secret(8)).unwrap();
        let mut act_one = [0; 50];
        (&stream).read_exact(&mut act_one).unwrap();
        (&stream).write_all(&responder.act_one(&act_one).unwrap()).unwrap();
        let mut act_three = [0; 66];
        (&stream).read_exact(&mut act_three).unwrap();
        let (_, transport) = responder.act_three(&act_three).unwrap();
        Self {
            stream,
            sealer: transport.sealer,
            opener: transport.opener,
            profile,
            decoder: FrameDecoder::new(profile),
            credit: 0,
        }
    }

    /// The responder's side of the negotiation.
    pub(crate) fn greet(&mut self, link_id: u64) {
        let mut acceptor = Acceptor::fixed(self.profile, link_id);
        self.send(acceptor.greeting());
        loop {
            let (record, mut reply) = (self.record(), Vec::new());
            let progress = acceptor.receive(&record, &mut reply).unwrap();
            if !reply.is_empty() {
                self.send(&reply);
            }
            if let Progress::Done(established) = progress {
                assert_eq!(established.leftover, b"");
                return;
            }
        }
    }

    /// Reads whatever still comes and says how it ended.
    pub(crate) fn read_to_the_end(&mut self) -> (Vec<u8>, std::io::Result<()>) {
        let mut plaintext = Vec::new();
        loop {
            let mut header = [0; 18];
            match self.stream.read(&mut header[..1]) {
                Ok(0) => return (plaintext, Ok(())),
                Ok(_) => {}
                Err(error) => return (plaintext, Err(error)),
            }
            self.stream.read_exact(&mut header[1..]).unwrap();
            let bytes = self.opener.open_header(&header).unwrap();
            let mut body = vec![0; bytes + 16];
            self.stream.read_exact(&mut body).unwrap();
            self.opener.open_body(&mut body).unwrap();
            plaintext.extend_from_slice(&body[..bytes]);
        }
    }

    pub(crate) fn record(&mut self) -> Vec<u8> {
        let mut header = [0; 18];
        self.stream.read_exact(&mut header).unwrap();
        let bytes = self.opener.open_header(&header).unwrap();
        let mut body = vec![0; bytes + 16];
        self.stream.read_exact(&mut body).unwrap();
        self.opener.open_body(&mut body).unwrap();
        body.truncate(bytes);
        body
    }

    pub(crate) fn send(&mut self, plaintext: &[u8]) {
        let mut record = vec![0; plaintext.len() + 34];
        record[18..18 + plaintext.len()].copy_from_slice(plaintext);
        self.sealer.seal_in_place(&mut record).unwrap();
        self.stream.write_all(&record).unwrap();
    }

    pub(crate) fn send_frame(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode_to_vec(self.profile, &mut bytes).unwrap();
        self.send(&bytes);
    }

    pub(crate) fn answer_pings(&mut self, plaintext: &[u8]) {
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
    pub(crate) fn read_until(&mut self, mut each: impl FnMut(Heard<'_>, &mut Vec<u8>) -> bool) {
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
    pub(crate) fn ask(&mut self, nonce: u64, window: u32) {
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
    pub(crate) fn accept(&mut self, window: u32) -> u64 {
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
    pub(crate) fn take(&mut self, total: u64) {
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
    pub(crate) fn give(&mut self, nonce: u64, total: u64, frame_bytes: usize, frames: usize) {
        self.give_in_shapes(nonce, total, &[(frame_bytes, frames)]);
    }

    /// The same in records of these shapes in turn.
    pub(crate) fn give_in_shapes(&mut self, nonce: u64, total: u64, shapes: &[(usize, usize)]) {
        let mut sent = 0;
        let mut record = Vec::new();
        for &(frame_bytes, frames) in shapes.iter().cycle() {
            if sent == total {
                return;
            }
            while self.credit < (frame_bytes * frames) as u64 {
                self.take_credit();
            }
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
        }
    }

    /// Reads a record and keeps the credit in it.
    fn take_credit(&mut self) {
        let record = self.record();
        let mut cursor = 0;
        while let Some(decoded) = self.decoder.next(&record, &mut cursor).unwrap() {
            if let Decoded::Frame(Frame::Read { bytes, .. }) = decoded {
                self.credit += u64::from(bytes);
            }
        }
    }
}

#[derive(Debug)]
pub(crate) enum Heard<'a> {
    Frame(Frame<'a>),
    Payload(u64, &'a [u8]),
}

pub(crate) fn pattern(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

pub(crate) fn secret(byte: u8) -> SecretKey {
    SecretKey::from_bytes(&[byte; 32]).unwrap()
}

/// Turns the core until a peer's thread is done.
pub(crate) fn finish<P: Port, T>(bench: &mut Bench<P>, thread: JoinHandle<T>) -> T {
    bench.turn_until("the peer's part", |_| thread.is_finished());
    thread.join().unwrap()
}
