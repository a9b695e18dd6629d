//! Handshakes whose sends the kernel refuses.

use super::SECRET;
use super::bench::Bench;
use crate::control::Report;
use crate::port::CloseMode;
use rustix::io::Errno;
use waystation_astral::brontide::Initiator;
use waystation_astral::identity::SecretKey;
use waystation_relay::drop_reason::DropReason;

#[test]
fn refused_send_in_a_handshake_is_counted_as_what_it_is() {
    for (error, wanted) in [
        (Errno::NOBUFS, DropReason::SocketError),
        (Errno::PERM, DropReason::SocketError),
        (Errno::CONNRESET, DropReason::HandshakeAbandoned),
        (Errno::PIPE, DropReason::HandshakeAbandoned),
    ] {
        let mut bench = Bench::new(1, 16, 0);
        let socket = bench.network.borrow_mut().connect(0, 1 << 20);
        bench.network.borrow_mut().refusal = Some(error);
        bench.send(socket, &act_one());
        bench.settle();
        let told = bench.reports.iter().find_map(|report| match report {
            Report::HandshakeFailed { reason, .. } => Some(*reason),
            _ => None,
        });
        assert_eq!(told, Some(wanted), "{error}");
        let counted = [DropReason::SocketError, DropReason::HandshakeAbandoned]
            .map(|reason| bench.drops(reason));
        assert_eq!(
            counted,
            [DropReason::SocketError, DropReason::HandshakeAbandoned]
                .map(|reason| u64::from(reason == wanted)),
            "{error}"
        );
        assert_eq!(bench.end_seen(socket), Some(CloseMode::Reset), "{error}");
        bench.assert_nothing_is_left();
    }
}

fn act_one() -> Vec<u8> {
    let key = |byte| SecretKey::from_bytes(&[byte; 32]).unwrap();
    let gateway = SecretKey::from_bytes(&SECRET).unwrap().identity();
    let mut initiator = Initiator::new(&key(1), &gateway, &key(9)).unwrap();
    initiator.act_one().unwrap().to_vec()
}
