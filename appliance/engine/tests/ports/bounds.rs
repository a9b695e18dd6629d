//! Bounds and wake-ups: what happens when buffers, queues, descriptors or streams run out.

use crate::*;

/// Longer than a peer on this machine needs for a few writes, however busy the machine is.
const GATHER: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "a test that looks at how long a wait lasted")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

pub(crate) fn gathering_wait_returns_with_what_came_meanwhile<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    if !rig.port.can_gather() {
        println!("skipped: needs a kernel that can make a wait last");
        return;
    }
    let (mut peer, ours) = connection();
    let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    // The receive is in flight before there is anything to receive.
    assert!(rig.quiet().is_empty());
    rig.port.wait_at_least(GATHER);
    let began = now();
    let writing = thread::spawn(move || {
        for piece in 0..8 {
            peer.write_all(&bytes_of(1, 100 * piece..100 * (piece + 1))).unwrap();
        }
        peer
    });
    let events = rig.turn_within(4 * GATHER);
    assert!(began.elapsed() >= GATHER / 2, "it returned with the first piece");
    let mut checker = Checker::new(1);
    for event in events {
        let Event::Received { buffer, .. } = event else { panic!("{event:?}") };
        checker.check(&rig.take(buffer));
    }
    assert_eq!(checker.position, 800, "one wait brings all pieces");
    rig.port.wait_at_least(Duration::ZERO);
    drop(writing.join().unwrap());
    rig.finish(&[key], CloseMode::Reset);
}

pub(crate) fn gathering_ends_with_the_timeout<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    rig.port.wait_at_least(PEER_WAIT);
    let began = now();
    let mut events = Vec::new();
    rig.port.wait(Some(SETTLE), &mut events).unwrap();
    rig.port.wait(Some(Duration::ZERO), &mut events).unwrap();
    assert!(events.is_empty());
    assert!(began.elapsed() < PEER_WAIT, "the timeout did not end it");
}

pub(crate) fn no_wake_up_is_lost<P: TestPort>() {
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

pub(crate) fn exhausted_arena_loses_nothing<P: TestPort>() {
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

pub(crate) fn streams_with_nothing_to_do_let_the_core_sleep<P: TestPort>() {
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
pub(crate) fn operations_beyond_the_queues_are_not_lost<P: TestPort>() {
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
pub(crate) fn accept_failure_is_reported_and_accepting_goes_on<P: TestPort>() {
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

pub(crate) fn accept_with_few_descriptors<P: TestPort>() {
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

pub(crate) fn many_connections_are_accepted<P: TestPort>() {
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
    // By both ends, since two listeners may be connected to from the same port.
    let mut peers: HashMap<(usize, SocketAddr), TcpStream> = HashMap::new();
    let mut left = PEERS;
    let mut connected = 0;
    while left > 0 {
        // In bursts within the backlog of a listener.
        while connected < PEERS && peers.len() < 50 {
            let peer = TcpStream::connect(addresses[connected % 2]).unwrap();
            peers.insert((connected % 2, peer.local_addr().unwrap()), peer);
            connected += 1;
        }
        for event in rig.turn() {
            let Event::Accepted { listener, stream, remote } = event else {
                panic!("{event:?}");
            };
            assert_eq!(stream.peer_addr().unwrap(), remote);
            let peer = peers.remove(&(usize::from(listener.0), remote));
            assert!(peer.is_some(), "nobody has connected to this listener from {remote}");
            assert_eq!(flags_of(&stream), (true, true), "non-blocking and close-on-exec");
            left -= 1;
        }
    }
}

pub(crate) fn stopped_listener_refuses<P: TestPort>() {
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

pub(crate) fn peer_reset_gives_segments_back<P: TestPort>() {
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

pub(crate) fn send_on_a_closing_stream_fails<P: TestPort>() {
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

pub(crate) fn empty_send_is_reported_by_a_later_wait<P: TestPort>() {
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

pub(crate) fn streams_beyond_the_limit_are_refused_with_a_reset<P: TestPort>() {
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

pub(crate) fn dropped_port_resets_its_streams<P: TestPort>() {
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

pub(crate) fn keys_are_reused_only_after_they_were_returned<P: TestPort>() {
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
