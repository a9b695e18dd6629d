//! Streams: what is sent arrives, in every mode, and ends as it was told to.

use crate::*;

pub(crate) fn every_byte_is_echoed<P: TestPort>() {
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

pub(crate) fn slow_reader_gets_all_segments_in_order<P: TestPort>() {
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

pub(crate) fn on_request_delivers_one_buffer_per_request<P: TestPort>() {
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

pub(crate) fn change_of_receive_mode_loses_nothing<P: TestPort>() {
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

pub(crate) fn graceful_close_delivers_everything_then_fin<P: TestPort>() {
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

pub(crate) fn graceful_close_of_an_idle_stream_is_a_fin<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    let (mut peer, ours) = connection();
    let key = rig.port.add_stream(ours, ReceiveMode::Continuous).unwrap();
    assert!(rig.quiet().is_empty());
    rig.finish(&[key], CloseMode::Graceful);
    assert_eq!(peer.read(&mut [0; 10]).unwrap(), 0);
}

pub(crate) fn lingering_stream_is_closed_when_its_peer_never_ends<P: TestPort>() {
    let mut rig = Rig::<P>::new();
    let (mut peer, ours) = connection();
    let key = rig.port.add_stream(ours, ReceiveMode::OnRequest).unwrap();
    peer.write_all(&[1; 5000]).unwrap();
    assert!(rig.quiet().is_empty());
    rig.finish(&[key], CloseMode::Graceful);
    assert_eq!(peer.read(&mut [0; 10]).unwrap(), 0);
}

pub(crate) fn reset_is_seen_as_reset<P: TestPort>() {
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

pub(crate) fn reset_overrides_a_graceful_close_that_is_stuck<P: TestPort>() {
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

pub(crate) fn detached_stream_goes_on_at_another_port<P: TestPort>() {
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

pub(crate) fn stream_detached_at_once_loses_nothing<P: TestPort>() {
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
