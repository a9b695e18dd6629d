//! The node's UDP sockets, one for each address.
//!
//! Used by the driver alone, on the management thread. Nothing here blocks: what cannot be sent at
//! once is dropped and counted, as the network would.

use super::limits::RECEIVED_BYTES_MAX;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::task::Poll;
use tokio::net::UdpSocket;
use waystation_a2al::node::Outgoing;

/// Which of the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketIndex(usize);

/// See the module.
#[derive(Debug)]
pub(super) struct Sockets {
    sockets: Vec<(UdpSocket, SocketAddr)>,
    /// Where the next look for something to receive begins, so that no socket starves.
    next: usize,
    /// Datagrams that the kernel would not take.
    pub(super) unsent: u64,
}

impl Sockets {
    /// Takes sockets that are bound and do not block.
    pub(super) fn of(sockets: Vec<std::net::UdpSocket>) -> io::Result<Self> {
        let watched = |socket| {
            let socket = UdpSocket::from_std(socket)?;
            let bound = socket.local_addr()?;
            Ok((socket, bound))
        };
        let sockets = sockets.into_iter().map(watched).collect::<io::Result<_>>()?;
        Ok(Self { sockets, next: 0, unsent: 0 })
    }

    /// Where they listen, with the ports that the kernel gave.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.sockets.iter().map(|(_, address)| *address)
    }

    /// The kernel's numbers of them, as its tables name sockets.
    pub(super) fn inodes(&self) -> Vec<u64> {
        let stat = |(socket, _): &(UdpSocket, SocketAddr)| rustix::fs::fstat(socket.as_fd()).ok();
        self.sockets.iter().filter_map(stat).map(|stat| stat.st_ino).collect()
    }

    /// Waits until one of them has something. May be dropped at any time without loss.
    pub(super) async fn readable(&self) -> SocketIndex {
        poll_fn(|context| {
            let count = self.sockets.len();
            for place in (0..count).map(|offset| (self.next + offset) % count) {
                let socket = self.sockets.get(place).map(|(socket, _)| socket);
                // An error is told when it is received from.
                if socket.is_some_and(|socket| socket.poll_recv_ready(context).is_ready()) {
                    return Poll::Ready(SocketIndex(place));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next datagram of a socket; none when there is none at the moment.
    pub(super) fn receive<'b>(
        &mut self,
        from: SocketIndex,
        buffer: &'b mut [u8; RECEIVED_BYTES_MAX],
    ) -> Option<(&'b [u8], SocketAddr)> {
        self.next = from.0 + 1;
        let (socket, _) = self.sockets.get(from.0)?;
        loop {
            match socket.try_recv_from(buffer) {
                Ok((length, source)) => return Some((buffer.get(..length)?, source)),
                // What the kernel tells of an earlier send to somebody who is not there.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return None,
            }
        }
    }

    /// Sends from the socket that a datagram came to, or else from the first one of the family.
    pub(super) fn send(&mut self, outgoing: &Outgoing, beside: Option<SocketIndex>) {
        let is_ipv4 = outgoing.to.is_ipv4();
        let fits = |(_, address): &&(UdpSocket, SocketAddr)| address.is_ipv4() == is_ipv4;
        let beside = beside.and_then(|index| self.sockets.get(index.0)).filter(fits);
        let socket = beside.or_else(|| self.sockets.iter().find(fits));
        let sent = socket.map(|(socket, _)| socket.try_send_to(&outgoing.bytes, outgoing.to));
        if !matches!(sent, Some(Ok(_))) {
            self.unsent += 1;
        }
    }
}
