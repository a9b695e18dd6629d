//! TURN clients over TCP at their edges: time, want of memory, floods, messages in pieces.

use super::bench::Bench;
use crate::core::turn::{StreamLimits, TurnParts, TurnServer};
use crate::limits::{BLOCKS_RESERVED, TURN_WITHOUT_ALLOCATION};
use crate::port::CloseMode;
use crate::port::datagrams::UdpTier;
use crate::port::simulated::{PeerEnd, SocketId};
use crate::snapshot::TurnSnapshot;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::peer_policy::PeerPolicy;
use waystation_turn::attribute::AttributeType;
use waystation_turn::credentials::Credentials;
use waystation_turn::integrity::{Integrity, Key, PasswordAlgorithm};
use waystation_turn::message::{Class, Message, Method, TransactionId};
use waystation_turn::server::{RelayedRange, ServerConfig};
use waystation_turn::sharing::Shared;
use waystation_turn::stream::first_message;
use waystation_turn::writer::MessageWriter;
use zeroize::Zeroizing;

/// What a client takes before it reads, when it is to take everything.
const ROOMY_BYTES: usize = 1 << 20;
/// Enough orders of events to meet each.
const SEEDS: u64 = 16;
const REALM: &str = "example.org";

/// A core with a TURN server that is connected to, and so many blocks for streams.
fn bench(blocks: usize, seed: u64) -> Bench {
    let mut bench = Bench::new(1, BLOCKS_RESERVED + blocks, seed);
    let mut credentials = Credentials::new(REALM).unwrap();
    credentials.add_user("alice", b"wonderland").unwrap();
    let snapshot =
        TurnSnapshot { credentials: Arc::new(credentials), peers: Arc::new(PeerPolicy::nobody()) };
    let relayed = RelayedRange { ip: [127, 0, 0, 1].into(), ports: 20_000..=40_000 };
    let server = ServerConfig { allocations_max: 8, ..ServerConfig::new(vec![relayed]) };
    let shared = Arc::new(Shared::new(&server, 1, &[5; 32]).unwrap());
    let parts = TurnParts {
        sockets: Vec::new(),
        listeners: vec![TcpListener::bind("127.0.0.1:0").unwrap()],
        stream_limits: StreamLimits { streams_max: 8, streams_per_source_max: 8 },
        server,
        nonce_key: Zeroizing::new([5; 32]),
        shared,
        behind: Vec::new(),
        tier: UdpTier::Gso,
    };
    let core = &mut bench.cores[0];
    let turn = TurnServer::new(parts, &snapshot, core.frames.share(), &mut core.port).unwrap();
    core.turn = Some(Box::new(turn));
    bench
}

fn connect(bench: &mut Bench, capacity_bytes: usize) -> SocketId {
    let socket = bench.network.borrow_mut().connect(0, capacity_bytes);
    bench.settle();
    socket
}

fn request(method: Method, fill: impl Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut buffer = [0; 1024];
    let mut writer =
        MessageWriter::new(&mut buffer, Class::Request, method, TransactionId([3; 12]));
    fill(&mut writer);
    let end = writer.finish().unwrap();
    buffer[..end].to_vec()
}

fn binding() -> Vec<u8> {
    request(Method::BINDING, |_| {})
}

fn allocate(bench: &mut Bench, socket: SocketId) {
    let allocate = |fill: &dyn Fn(&mut MessageWriter<'_>)| {
        request(Method::ALLOCATE, |writer| {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            fill(writer);
        })
    };
    bench.send(socket, &allocate(&|_| {}));
    let challenge = bench.read_all(socket);
    let challenge = Message::parse(&challenge).unwrap();
    let nonce = challenge.attribute(AttributeType::NONCE).unwrap().to_vec();
    let key = Key::long_term(PasswordAlgorithm::Md5, "alice", REALM, b"wonderland");
    let sealed = allocate(&|writer| {
        writer
            .attribute(AttributeType::USERNAME, b"alice")
            .attribute(AttributeType::REALM, REALM.as_bytes())
            .attribute(AttributeType::NONCE, &nonce)
            .integrity(Integrity::Sha1, key.expose_secret());
    });
    bench.send(socket, &sealed);
    let answer = bench.read_all(socket);
    assert_eq!(Message::parse(&answer).unwrap().class(), Class::Success);
}

fn allocations(bench: &Bench) -> usize {
    bench.cores[0].turn.as_ref().unwrap().allocations_len()
}

/// Whole messages of a stream.
fn messages(mut stream: &[u8]) -> usize {
    let mut count = 0;
    while let Some(message) = first_message(stream).unwrap() {
        stream = &stream[message.len()..];
        count += 1;
    }
    assert!(stream.is_empty(), "nothing is cut");
    count
}

#[test]
fn a_stream_that_gets_no_allocation_ends_in_time() {
    let mut bench = bench(4, 0);
    let socket = connect(&mut bench, ROOMY_BYTES);
    bench.send(socket, &binding());
    assert_eq!(messages(&bench.read_all(socket)), 1);
    bench.settle_after(TURN_WITHOUT_ALLOCATION - Duration::from_secs(1));
    assert_eq!(bench.end_seen(socket), None);
    bench.settle_after(Duration::from_secs(1));
    assert_eq!(bench.end_seen(socket), Some(CloseMode::Graceful));
    assert_eq!(bench.drops(DropReason::TurnStreamIdle), 1);
    bench.end(socket, PeerEnd::Finished);
    bench.settle();
    bench.assert_nothing_is_left();
}

#[test]
fn a_stream_lives_as_long_as_its_allocation_and_a_little_longer() {
    let mut bench = bench(4, 0);
    let socket = connect(&mut bench, ROOMY_BYTES);
    allocate(&mut bench, socket);
    let lifetime = Duration::from_secs(600);
    for _ in 0..9 {
        bench.settle_after(lifetime / 10);
    }
    assert_eq!((allocations(&bench), bench.end_seen(socket)), (1, None));
    bench.settle_after(lifetime / 10);
    assert_eq!((allocations(&bench), bench.end_seen(socket)), (0, None));
    bench.settle_after(2 * TURN_WITHOUT_ALLOCATION);
    assert_eq!(bench.end_seen(socket), Some(CloseMode::Graceful));
    bench.end(socket, PeerEnd::Finished);
    bench.settle();
    bench.assert_nothing_is_left();
}

#[test]
fn the_end_of_a_stream_is_the_end_of_its_allocation() {
    for end in [PeerEnd::Finished, PeerEnd::Reset] {
        for seed in 0..SEEDS {
            let mut bench = bench(4, seed);
            let socket = connect(&mut bench, ROOMY_BYTES);
            allocate(&mut bench, socket);
            assert_eq!(allocations(&bench), 1);
            bench.end(socket, end);
            bench.settle();
            assert_eq!(allocations(&bench), 0);
            bench.assert_nothing_is_left();
        }
    }
}

#[test]
fn requests_are_answered_one_by_one_however_they_are_cut() {
    for seed in 0..SEEDS {
        let mut bench = bench(4, seed);
        let socket = connect(&mut bench, ROOMY_BYTES);
        bench.network.borrow_mut().eager = false;
        let requests = binding().repeat(100);
        for piece in requests.chunks(1 + seed as usize * 7) {
            bench.send(socket, piece);
            bench.turn();
        }
        let mut answers = Vec::new();
        for _ in 0..50 {
            answers.extend(bench.read_all(socket));
        }
        assert_eq!(messages(&answers), 100, "seed {seed}");
        bench.end(socket, PeerEnd::Reset);
        (0..50).for_each(|_| bench.settle());
        bench.assert_nothing_is_left();
    }
}

#[test]
fn a_client_that_asks_and_does_not_read_is_sent_away() {
    let mut bench = bench(8, 0);
    let socket = connect(&mut bench, 100);
    // As many as fill what waits and what is in flight twice over.
    for _ in 0..60 {
        bench.send(socket, &binding().repeat(200));
        bench.settle();
    }
    assert_eq!(bench.drops(DropReason::PeerNotReading), 1);
    assert_eq!(bench.end_seen(socket), Some(CloseMode::Reset));
    bench.assert_nothing_is_left();
}

#[test]
fn an_answer_that_finds_no_block_ends_its_stream() {
    let mut bench = bench(0, 0);
    let socket = connect(&mut bench, ROOMY_BYTES);
    bench.send(socket, &binding());
    bench.settle();
    assert_eq!(bench.drops(DropReason::BufferExhausted), 1);
    assert_eq!(bench.end_seen(socket), Some(CloseMode::Reset));
    bench.assert_nothing_is_left();
}

#[test]
fn a_flood_of_short_messages_takes_turns_with_others() {
    let mut bench = bench(4, 0);
    let (flooding, other) = (connect(&mut bench, ROOMY_BYTES), connect(&mut bench, ROOMY_BYTES));
    // A whole buffer of empty ChannelData, then a request of somebody else.
    bench.send(flooding, &[0x40, 0, 0, 0].repeat(1024));
    bench.send(other, &binding());
    (0..4).for_each(|_| bench.turn());
    assert_eq!(messages(&bench.read(other)), 1);
    assert!(bench.drops(DropReason::TurnNoAllocation) < 1024, "it is not through yet");
    (0..4).for_each(|_| bench.settle());
    assert_eq!(bench.drops(DropReason::TurnNoAllocation), 1024);
    for socket in [flooding, other] {
        bench.end(socket, PeerEnd::Finished);
    }
    bench.settle();
    bench.assert_nothing_is_left();
}

#[test]
fn streams_beyond_the_cap_are_closed_unread() {
    let mut bench = bench(4, 0);
    for _ in 0..8 {
        connect(&mut bench, ROOMY_BYTES);
    }
    assert_eq!(bench.drops(DropReason::TooManyConnections), 0);
    connect(&mut bench, ROOMY_BYTES);
    assert_eq!(bench.drops(DropReason::TooManyConnections), 1);
}
