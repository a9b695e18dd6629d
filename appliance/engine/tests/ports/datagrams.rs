//! UDP sockets of a core: what arrives together, what leaves together, and that ports notice.

use super::{EMPTY_WAITS_MAX, TestPort, WAIT};
use arrayvec::ArrayVec;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::time::Duration;
use waystation_engine::port::PortLimits;
use waystation_engine::port::datagrams::{
    Burst, DatagramKey, Departure, Outgoing, Role, SendFailure, Sent, Sockets, UdpTier, bind,
};

const LIMITS: PortLimits =
    PortLimits { receive_buffers: 4, receive_buffer_bytes: 16 * 1024, streams: 4 };

pub(super) fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Sockets with one of them, and its address.
fn socket(address: SocketAddr) -> (Sockets, DatagramKey, SocketAddr) {
    let mut sockets = Sockets::new().unwrap();
    let socket = bind(address, Role::Listening).unwrap();
    let address = socket.local_addr().unwrap();
    let key = sockets.add(socket).unwrap();
    (sockets, key, address)
}

pub(super) fn departure(socket: DatagramKey, to: SocketAddr, payload: Range<usize>) -> Departure {
    let (from, head, padding_bytes, tag) = (None, ArrayVec::new(), 0, payload.start as u32);
    Departure { socket, to, from, head, payload, padding_bytes, unfragmented: false, tag }
}

pub(super) fn send(
    outgoing: &mut Outgoing,
    sockets: &mut Sockets,
    memory: &[u8],
) -> Vec<(u32, usize, Sent)> {
    let mut sent = Vec::new();
    outgoing.send(sockets, memory, |tag, bytes, what| sent.push((tag, bytes, what)));
    sent
}

pub(super) fn receive_each(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    socket.set_read_timeout(Some(WAIT * EMPTY_WAITS_MAX)).unwrap();
    let mut buffer = [0; 65_536];
    (0..count)
        .map(|_| {
            let bytes = socket.recv(&mut buffer).unwrap();
            buffer[..bytes].to_vec()
        })
        .collect()
}

/// Waits with a port until one of the sockets is ready.
fn wait_with<P: TestPort>(port: &mut P, sockets: &mut Sockets) -> DatagramKey {
    for _ in 0..EMPTY_WAITS_MAX {
        port.wait(Some(WAIT), &mut Vec::new()).unwrap();
        if port.take_datagrams_ready()
            && let Some(key) = sockets.next_ready()
        {
            return key;
        }
    }
    panic!("the port noticed nothing");
}

pub(super) fn what_comes_while_nobody_watches_waits_in_its_socket<P: TestPort>() {
    let mut port = P::make(LIMITS);
    let (mut sockets, key, address) = socket(any());
    let (mut burst, peer) = (Burst::new(), UdpSocket::bind(any()).unwrap());
    for round in 0..5_u8 {
        port.watch_datagrams(sockets.readiness().unwrap()).unwrap();
        peer.send_to(&[round; 10], address).unwrap();
        assert_eq!(wait_with(&mut port, &mut sockets), key);
        sockets.receive(key, &mut burst);
        assert_eq!(burst.len(), 1);
        port.unwatch_datagrams();
        peer.send_to(&[round; 10], address).unwrap();
        // One that is added meanwhile is heard of afterwards too.
        let second = bind(any(), Role::Relayed).unwrap();
        peer.send_to(&[round; 10], second.local_addr().unwrap()).unwrap();
        let second = sockets.add(second).unwrap();
        for _ in 0..3 {
            port.wait(Some(Duration::from_millis(1)), &mut Vec::new()).unwrap();
            assert!(!port.take_datagrams_ready(), "told of in round {round}");
        }
        port.watch_datagrams(sockets.readiness().unwrap()).unwrap();
        let ready = [wait_with(&mut port, &mut sockets), sockets.next_ready().unwrap()];
        assert!(ready.contains(&key) && ready.contains(&second), "{ready:?}");
        sockets.receive(key, &mut burst);
        assert_eq!(burst.len(), 1);
        sockets.close(second);
        port.unwatch_datagrams();
    }
    assert_eq!(port.datagram_watch_failures(), 0);
}

pub(super) fn datagrams_wake_the_port_again_and_again<P: TestPort>() {
    let mut port = P::make(LIMITS);
    let (mut sockets, key, address) = socket(any());
    port.watch_datagrams(sockets.readiness().unwrap()).unwrap();
    let mut burst = Burst::new();
    let peer = UdpSocket::bind(any()).unwrap();
    for round in 0..20_u8 {
        peer.send_to(&[round; 10], address).unwrap();
        assert_eq!(wait_with(&mut port, &mut sockets), key);
        sockets.receive(key, &mut burst);
        let arrival = burst.arrival(0).unwrap();
        assert_eq!(arrival.source, peer.local_addr().unwrap());
        assert_eq!(burst.memory()[arrival.place], [round; 10]);
        assert_eq!(sockets.next_ready(), None, "it is empty");
    }
    // Sockets that are added later are watched as well.
    let later = bind(any(), Role::Relayed).unwrap();
    let address = later.local_addr().unwrap();
    let later = sockets.add(later).unwrap();
    peer.send_to(b"later", address).unwrap();
    assert_eq!(wait_with(&mut port, &mut sockets), later);
}

#[test]
fn bursts_hold_many_senders() {
    let (mut sockets, key, address) = socket(any());
    let peers: Vec<_> = (0..10).map(|_| UdpSocket::bind(any()).unwrap()).collect();
    for (index, peer) in peers.iter().enumerate() {
        peer.send_to(&vec![7; index], address).unwrap();
    }
    let mut burst = Burst::new();
    sockets.receive(key, &mut burst);
    assert_eq!(burst.len(), 10);
    for (index, peer) in peers.iter().enumerate() {
        let arrival = burst.arrival(index).unwrap();
        assert_eq!(arrival.source, peer.local_addr().unwrap());
        assert_eq!(arrival.place.len(), index);
        assert_eq!(arrival.datagrams().count(), 1);
    }
    assert_eq!(burst.arrival(10), None);
    sockets.receive(key, &mut burst);
    assert!(burst.is_empty());
}

#[test]
fn a_train_arrives_as_one_message_and_leaves_as_one() {
    let (mut sending, from, _) = socket(any());
    let (mut receiving, key, address) = socket(any());
    let mut outgoing = Outgoing::new(UdpTier::Gso);
    let memory: Vec<u8> = (0..10_000).map(|index| (index % 251) as u8).collect();
    for start in (0..10_000).step_by(1_200) {
        let end = (start + 1_200).min(10_000);
        outgoing.queue(departure(from, address, start..end));
    }
    let before = sending.syscalls();
    let sent = send(&mut outgoing, &mut sending, &memory);
    assert_eq!((sent.len(), sending.syscalls() - before), (9, 1));
    assert!(sent.iter().all(|(_, _, what)| *what == Sent::InTrain));
    assert_eq!(outgoing.trains(), (1, 0));

    let mut burst = Burst::new();
    receiving.receive(key, &mut burst);
    // Kernels that do not keep trains together deliver the same datagrams one by one.
    let arrivals = (0..burst.len()).map(|index| burst.arrival(index).unwrap());
    let datagrams: Vec<_> = arrivals.flat_map(|arrival| arrival.datagrams()).collect();
    let lengths: Vec<_> = datagrams.iter().map(Range::len).collect();
    assert_eq!(lengths, [[1_200; 8].as_slice(), &[400]].concat());
    let bytes: Vec<u8> =
        datagrams.into_iter().flat_map(|place| burst.memory()[place].to_vec()).collect();
    assert_eq!(bytes, memory);
}

#[test]
fn heads_and_padding_go_around_the_payload_of_each_datagram_of_a_train() {
    let (mut sending, from, _) = socket(any());
    let peer = UdpSocket::bind(any()).unwrap();
    let to = peer.local_addr().unwrap();
    let mut outgoing = Outgoing::new(UdpTier::Gso);
    for index in 0..5_usize {
        let mut departure = departure(from, to, index * 10..index * 10 + 5);
        departure.head.try_extend_from_slice(&[0x40, index as u8]).unwrap();
        departure.padding_bytes = 3;
        outgoing.queue(departure);
    }
    let memory: Vec<u8> = (0..50).collect();
    assert_eq!(send(&mut outgoing, &mut sending, &memory).len(), 5);
    for (index, datagram) in receive_each(&peer, 5).into_iter().enumerate() {
        let first = index as u8 * 10;
        let payload = [first, first + 1, first + 2, first + 3, first + 4];
        assert_eq!(datagram, [&[0x40, index as u8], &payload[..], &[0; 3]].concat());
    }
}

#[test]
fn destinations_that_alternate_get_a_train_each_in_order() {
    let (mut sending, from, _) = socket(any());
    let peers = [UdpSocket::bind(any()).unwrap(), UdpSocket::bind(any()).unwrap()];
    let mut outgoing = Outgoing::new(UdpTier::Gso);
    for index in 0..20_usize {
        let to = peers[index % 2].local_addr().unwrap();
        outgoing.queue(departure(from, to, index..index + 1));
    }
    let memory: Vec<u8> = (0..20).collect();
    assert_eq!(send(&mut outgoing, &mut sending, &memory).len(), 20);
    assert_eq!(outgoing.trains().0, 2);
    for (parity, peer) in peers.iter().enumerate() {
        let wanted: Vec<_> = (0..10).map(|step| vec![(2 * step + parity) as u8]).collect();
        assert_eq!(receive_each(peer, 10), wanted);
    }
}

#[test]
fn datagrams_that_are_too_long_together_are_no_train() {
    let (mut sending, from, _) = socket(any());
    let peer = UdpSocket::bind(any()).unwrap();
    let to = peer.local_addr().unwrap();
    let mut outgoing = Outgoing::new(UdpTier::Gso);
    let memory = vec![9; 40_000];
    outgoing.queue(departure(from, to, 0..40_000));
    outgoing.queue(departure(from, to, 0..40_000));
    let sent = send(&mut outgoing, &mut sending, &memory);
    assert!(sent.iter().all(|(_, bytes, what)| (*bytes, *what) == (40_000, Sent::Plainly)));
    assert_eq!(outgoing.trains(), (0, 0));
    assert_eq!(receive_each(&peer, 2), [memory.clone(), memory]);
}

#[test]
fn datagrams_leave_from_the_address_that_is_asked_for() {
    let (mut sockets, key, bound) = socket(SocketAddr::from(([0, 0, 0, 0], 0)));
    let peer = UdpSocket::bind(any()).unwrap();
    let (port, to) = (bound.port(), peer.local_addr().unwrap());
    peer.send_to(b"hello", (IpAddr::from([127, 0, 0, 9]), port)).unwrap();
    let mut burst = Burst::new();
    sockets.receive(key, &mut burst);
    let arrival = burst.arrival(0).unwrap();
    assert_eq!(arrival.local, Some(IpAddr::from([127, 0, 0, 9])));

    sockets.send(key, to, arrival.local, b"now").unwrap();
    let mut outgoing = Outgoing::new(UdpTier::Gso);
    for _ in 0..2 {
        outgoing.queue(Departure { from: arrival.local, ..departure(key, to, 0..5) });
    }
    send(&mut outgoing, &mut sockets, b"later");
    for _ in 0..3 {
        let (_, from) = peer.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(from, SocketAddr::from(([127, 0, 0, 9], port)));
    }
}

#[test]
fn nobody_at_the_other_end_does_not_end_a_socket() {
    let (mut sockets, key, address) = socket(any());
    let nobody = UdpSocket::bind(any()).unwrap().local_addr().unwrap();
    let mut outgoing = Outgoing::new(UdpTier::Plain);
    for _ in 0..20 {
        outgoing.queue(departure(key, nobody, 0..1));
    }
    let sent = send(&mut outgoing, &mut sockets, b"x");
    assert_eq!(sent.len(), 20);
    UdpSocket::bind(any()).unwrap().send_to(b"alive", address).unwrap();
    let mut burst = Burst::new();
    sockets.receive(key, &mut burst);
    assert_eq!(burst.len(), 1);
}

#[test]
fn what_is_queued_for_a_closed_socket_is_lost_and_never_leaves_from_its_successor() {
    let (mut sockets, key, _) = socket(any());
    let peer = UdpSocket::bind(any()).unwrap();
    let to = peer.local_addr().unwrap();
    let mut outgoing = Outgoing::new(UdpTier::Gso);
    outgoing.queue(departure(key, to, 0..1));
    sockets.close(key);
    let successor = sockets.add(bind(any(), Role::Relayed).unwrap()).unwrap();
    assert_eq!(successor.slot, key.slot);
    let sent = send(&mut outgoing, &mut sockets, b"x");
    assert_eq!(sent, [(0, 1, Sent::Not(SendFailure::Closed))]);
}

#[test]
fn datagrams_that_cannot_be_sent_do_not_stop_those_behind_them() {
    let (mut sockets, key, _) = socket(any());
    let peer = UdpSocket::bind(any()).unwrap();
    let to = peer.local_addr().unwrap();
    // A datagram to port 0 goes nowhere, and one of 65 508 bytes fits no packet.
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let memory = vec![5; 65_508];
    let mut outgoing = Outgoing::new(UdpTier::Gso);
    outgoing.queue(departure(key, nowhere, 0..1));
    outgoing.queue(departure(key, to, 0..65_508));
    outgoing.queue(departure(key, to, 1..2));
    let mut sent = send(&mut outgoing, &mut sockets, &memory);
    sent.sort_unstable_by_key(|(tag, bytes, _)| (*tag, *bytes));
    let what: Vec<_> = sent.into_iter().map(|(_, _, what)| what).collect();
    let lost = |failure| Sent::Not(failure);
    assert_eq!(what, [lost(SendFailure::Unreachable), lost(SendFailure::TooLong), Sent::Plainly]);
    assert_eq!(receive_each(&peer, 1), [[5]]);
}
