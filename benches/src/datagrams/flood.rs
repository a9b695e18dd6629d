//! A flood: datagrams that nobody asked for, each from another address.
//!
//! Sent by the generator's thread between whatever else it does, as fast as it can up to a rate.
//! Nobody answers it, and it receives nothing.

use anyhow::Result;
use arrayvec::ArrayVec;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use waystation_engine::port::datagrams::{
    DatagramKey, Departure, Outgoing, SEND_MESSAGES_MAX, Sent, Sockets, UdpTier,
};

/// Bytes of a datagram of it: short, so that there are many, and no STUN.
const DATAGRAM_BYTES: usize = 32;
/// Addresses it comes from, in a prefix of 8 bits: each comes round once in so many.
const SOURCES: u32 = 1 << 24;
/// Makes a walk over all sources out of counting: an odd number (Weyl's sequence).
const STEP: u32 = 0x9e_3779;

/// See the module.
#[derive(Debug)]
pub struct Flood {
    sockets: Sockets,
    socket: DatagramKey,
    outgoing: Outgoing,
    to: SocketAddr,
    per_second: u64,
    /// Since when its rate is kept, and how many were tried since then.
    began_ns: Option<u64>,
    tried: u64,
    /// Place in the walk over all sources.
    next_source: u32,
    /// Those that left, since it was made.
    sent: u64,
}

impl Flood {
    /// From a socket on all addresses of a namespace where those of 10.0.0.0/8 are local.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the socket.
    pub fn new(socket: UdpSocket, to: SocketAddr, per_second: u64) -> Result<Self> {
        socket.set_nonblocking(true)?;
        let mut sockets = Sockets::new()?;
        let socket = sockets.add(socket)?;
        let outgoing = Outgoing::new(UdpTier::Plain);
        let (began_ns, tried, next_source, sent) = (None, 0, 0, 0);
        Ok(Self { sockets, socket, outgoing, to, per_second, began_ns, tried, next_source, sent })
    }

    /// Datagrams that have left so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends what is due, up to one call's worth. What it is a tenth of a second behind with is not due
    /// any more.
    pub fn send(&mut self, now_ns: u64) {
        let began_ns = *self.began_ns.get_or_insert(now_ns);
        let due = now_ns.saturating_sub(began_ns) * self.per_second / 1_000_000_000;
        let behind = due.saturating_sub(self.tried);
        if behind > self.per_second / 10 {
            (self.began_ns, self.tried) = (Some(now_ns), 0);
        }
        for _ in 0..behind.min(SEND_MESSAGES_MAX as u64) {
            let number = self.next_source;
            self.next_source = (number + 1) % SOURCES;
            self.tried += 1;
            self.outgoing.queue(Departure {
                socket: self.socket,
                to: self.to,
                from: Some(source(number)),
                head: ArrayVec::new(),
                payload: 0..DATAGRAM_BYTES,
                padding_bytes: 0,
                unfragmented: false,
                tag: 0,
            });
        }
        let memory = [0xff; DATAGRAM_BYTES];
        let sent = &mut self.sent;
        self.outgoing.send(&mut self.sockets, &memory, |_, _, outcome| {
            *sent += u64::from(!matches!(outcome, Sent::Not(_)));
        });
    }
}

/// One of the addresses of 10.0.0.0/8, far from the one before.
fn source(number: u32) -> IpAddr {
    let [_, a, b, c] = (number.wrapping_mul(STEP) % SOURCES).to_be_bytes();
    Ipv4Addr::new(10, a, b, c).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn sources_do_not_come_round_early() {
        let sources: BTreeSet<_> = (0..100_000).map(source).collect();
        assert_eq!(sources.len(), 100_000);
        assert!(sources.iter().all(|ip| matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10)));
    }
}
