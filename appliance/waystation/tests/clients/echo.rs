//! A peer that sends back what it gets, on an even port and on the one above it.

use crate::scene::{End, Family, Scene};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How soon it notices that it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Ports that are tried until both of a pair are free.
const TRIES_MAX: usize = 1000;

/// See the module. Ends when dropped.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    pub(crate) fn start(scene: &Scene, end: End, family: Family) -> Self {
        let address = scene.address(end, family);
        let sockets = scene.at(end, move || pair(address));
        let address = sockets[0].local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let threads = sockets.map(|socket| {
            let over = Arc::clone(&is_over);
            std::thread::spawn(move || answer(&socket, &over))
        });
        Self { address, is_over, threads: threads.into() }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn pair(address: IpAddr) -> [UdpSocket; 2] {
    for _ in 0..TRIES_MAX {
        let first = UdpSocket::bind((address, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        if port.is_multiple_of(2)
            && let Ok(second) = UdpSocket::bind((address, port + 1))
        {
            return [first, second];
        }
    }
    panic!("no pair of free ports at {address}");
}

fn answer(socket: &UdpSocket, is_over: &AtomicBool) {
    socket.set_read_timeout(Some(LOOK_EVERY)).unwrap();
    let mut datagram = [0; 65_536];
    while !is_over.load(Ordering::Relaxed) {
        if let Ok((bytes, from)) = socket.recv_from(&mut datagram) {
            // A full socket loses a datagram, as a wire does.
            let _ = socket.send_to(&datagram[..bytes], from);
        }
    }
}
