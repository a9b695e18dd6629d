//! UDP sockets of a core: what they are told of datagrams that did not arrive or could not leave.

use super::datagrams::{any, departure, receive_each, send};
use super::{EMPTY_WAITS_MAX, WAIT};
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc;
use waystation_engine::port::datagrams::{
    Cause, DatagramError, DatagramKey, Departure, ERRORS_PER_CALL_MAX, Outgoing, Role, SendFailure,
    Sent, Sockets, UdpTier, bind,
};

/// A socket that hears errors.
fn hearing(address: SocketAddr) -> (Sockets, DatagramKey) {
    let mut sockets = Sockets::new().unwrap();
    let key = sockets.add(bind(address, Role::Relayed).unwrap()).unwrap();
    sockets.hear_errors(key).unwrap();
    (sockets, key)
}

/// An address whose port nobody has: on an address of loopback that is this process's and line's.
fn closed(line: u32) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 100 + (high & 0x1f), low, (line % 250) as u8 + 1], 9))
}

/// Sends to a closed port until there are errors, and takes them: all programs of a machine share
/// what its kernel says in ICMP messages in a second.
fn provoke(sockets: &mut Sockets, key: DatagramKey, to: SocketAddr) -> Vec<DatagramError> {
    let (_kept, pause) = mpsc::channel::<()>();
    for _ in 0..EMPTY_WAITS_MAX {
        sockets.send(key, to, None, b"is anybody there?").unwrap();
        if sockets.next_ready() == Some(key) && sockets.has_errors() {
            return sockets.take_errors(key).to_vec();
        }
        let _ = pause.recv_timeout(WAIT);
    }
    panic!("no error came");
}

#[test]
fn errors_about_datagrams_are_taken_one_by_one() {
    let (mut sockets, key) = hearing(any());
    let to = closed(line!());
    let port_unreachable = Cause::Icmp { kind: 3, code: 3 };
    let expected = DatagramError { to, cause: port_unreachable, mtu_bytes: 0 };
    let mut errors = provoke(&mut sockets, key, to);
    // Where one was late, another datagram was sent, and there are two.
    while sockets.next_ready().is_some() {
        let late = sockets.take_errors(key);
        assert!(!late.is_empty(), "ready with nothing to take");
        errors.extend(late);
    }
    assert!(errors.iter().all(|error| *error == expected), "{errors:?}");
}

#[test]
fn a_call_takes_a_bounded_number_and_the_socket_stays_ready() {
    let (mut sockets, key) = hearing(any());
    let to = closed(line!());
    for _ in 0..ERRORS_PER_CALL_MAX + 3 {
        sockets.send(key, to, None, b"?").unwrap();
    }
    let first = provoke(&mut sockets, key, to);
    assert!(first.len() <= ERRORS_PER_CALL_MAX, "{}", first.len());
    while let Some(ready) = sockets.next_ready() {
        assert_eq!((ready, sockets.has_errors()), (key, true));
        assert!(!sockets.take_errors(key).is_empty());
    }
    assert!(sockets.take_errors(key).is_empty(), "all were taken");
}

#[test]
fn errors_of_earlier_datagrams_cost_no_later_one() {
    let (mut sockets, key) = hearing(any());
    let peer = UdpSocket::bind(any()).unwrap();
    let (open, gone) = (peer.local_addr().unwrap(), closed(line!()));
    let mut outgoing = Outgoing::new(UdpTier::Gso);
    let memory: Vec<u8> = (0..40).collect();
    for round in 0..4 {
        for to in [gone, open, gone, open] {
            outgoing.queue(departure(key, to, round * 10..round * 10 + 10));
        }
        let sent = send(&mut outgoing, &mut sockets, &memory);
        assert!(sent.iter().all(|(_, _, what)| !matches!(what, Sent::Not(_))), "{sent:?}");
        let expected = vec![memory[round * 10..round * 10 + 10].to_vec(); 2];
        assert_eq!(receive_each(&peer, 2), expected);
        sockets.send(key, open, None, b"at once").unwrap();
        assert_eq!(receive_each(&peer, 1), [b"at once".to_vec()]);
    }
    assert!(!provoke(&mut sockets, key, gone).is_empty());
    assert_eq!(outgoing.tier_of(gone.ip()), UdpTier::Gso);
}

#[test]
fn a_socket_that_hears_no_errors_has_none() {
    let mut sockets = Sockets::new().unwrap();
    let key = sockets.add(bind(any(), Role::Relayed).unwrap()).unwrap();
    sockets.send(key, closed(line!()), None, b"?").unwrap();
    assert_eq!(sockets.next_ready(), None);
    assert!(sockets.take_errors(key).is_empty());
}

/// Loopback takes packets of 65 536 bytes; an IPv6 packet with this payload is longer.
const LONG_BYTES: usize = 65_500;

#[test]
fn what_is_too_long_to_leave_unfragmented_does_not_and_everything_else_does() {
    let Ok(peer) = UdpSocket::bind("[::1]:0") else {
        println!("skipped: needs IPv6 on loopback");
        return;
    };
    let to = peer.local_addr().unwrap();
    let (mut sockets, key) = hearing("[::1]:0".parse().unwrap());
    let mut outgoing = Outgoing::new(UdpTier::Gso);
    let memory = vec![7; LONG_BYTES];
    let whole = |payload| Departure { unfragmented: true, ..departure(key, to, payload) };
    outgoing.queue(departure(key, to, 0..LONG_BYTES));
    outgoing.queue(whole(0..LONG_BYTES));
    outgoing.queue(whole(0..LONG_BYTES));
    outgoing.queue(whole(0..100));
    outgoing.queue(departure(key, to, 0..LONG_BYTES));
    let sent: Vec<_> = send(&mut outgoing, &mut sockets, &memory);
    let sent: Vec<_> = sent.into_iter().map(|(_, _, what)| what).collect();
    let lost = Sent::Not(SendFailure::TooLong);
    assert_eq!(sent, [Sent::Plainly, lost, lost, Sent::Plainly, Sent::Plainly]);
    // Each destination once, and then no more.
    assert_eq!(outgoing.take_too_long()[..], [(key, to)]);
    assert!(outgoing.take_too_long().is_empty());
    let lengths: Vec<_> = receive_each(&peer, 3).iter().map(Vec::len).collect();
    assert_eq!(lengths, [LONG_BYTES, 100, LONG_BYTES]);
    assert_eq!((sockets.next_ready(), sockets.has_errors()), (Some(key), true));
    let told = sockets.take_errors(key);
    assert!(told.iter().all(|error| error.cause == Cause::TooLong), "{told:?}");
    assert!(told.iter().all(|error| (error.to.ip(), error.mtu_bytes) == (to.ip(), 65_536)));
}
