//! The floor: a thread that receives datagrams in bursts and sends them on as they are, in trains
//! where they came in trains, by the calls that the appliance makes. No sessions, no framing.

use crate::load::processor;
use anyhow::{Result, anyhow};
use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use waystation_engine::port::datagrams::{Burst, Departure, Outgoing, Sockets, UdpTier};

/// How long it waits until it looks whether it is to end.
const STOP_CHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// See the module. Ends when dropped.
#[derive(Debug)]
pub struct DatagramForwarder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
    number: u32,
}

impl DatagramForwarder {
    /// Forwards what comes to each socket to the address beside it, on a processor if one is given.
    ///
    /// # Errors
    ///
    /// When the thread cannot be made or pinned.
    pub fn start(routes: Vec<(UdpSocket, SocketAddr)>, cpu: Option<usize>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (sender, ready) = mpsc::channel();
        let thread = thread::Builder::new().name("floor".to_owned()).spawn(move || {
            cpu.map_or(Ok(()), processor::pin)?;
            sender.send(processor::thread_number())?;
            forward(routes, &stopped)
        })?;
        match ready.recv() {
            Ok(number) => Ok(Self { stop, thread: Some(thread), number }),
            Err(mpsc::RecvError) => {
                Err(joined(thread).err().unwrap_or_else(|| anyhow!("no start")))
            }
        }
    }

    /// The thread's number, for its processor time.
    pub fn thread_number(&self) -> u32 {
        self.number
    }
}

impl Drop for DatagramForwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A failure has shown as lost datagrams already.
            let _ = joined(thread);
        }
    }
}

fn joined(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_panic| anyhow!("a floor thread panicked"))?
}

fn forward(routes: Vec<(UdpSocket, SocketAddr)>, stop: &AtomicBool) -> Result<()> {
    let mut sockets = Sockets::new()?;
    // By the slots of their sockets, which are numbered as they come.
    let mut destinations = Vec::new();
    for (socket, to) in routes {
        socket.set_nonblocking(true)?;
        sockets.add(socket)?;
        destinations.push(to);
    }
    let readiness = sockets.readiness()?;
    let (mut burst, mut outgoing) = (Burst::new(), Outgoing::new(UdpTier::Gso));
    while !stop.load(Ordering::Relaxed) {
        poll(&mut [PollFd::new(&readiness, PollFlags::IN)], Some(&STOP_CHECK))?;
        while let Some(socket) = sockets.next_ready() {
            sockets.receive(socket, &mut burst);
            let Some(&to) = destinations.get(socket.slot as usize) else { continue };
            let arrivals = (0..burst.len()).filter_map(|index| burst.arrival(index));
            for payload in arrivals.flat_map(|arrival| arrival.datagrams()) {
                let (from, head) = (None, ArrayVec::new());
                let (padding_bytes, unfragmented, tag) = (0, false, 0);
                outgoing.queue(Departure {
                    socket,
                    to,
                    from,
                    head,
                    payload,
                    padding_bytes,
                    unfragmented,
                    tag,
                });
            }
            // What is not taken is lost, and counted by who waits for it.
            outgoing.send(&mut sockets, burst.memory(), |_, _, _| ());
        }
    }
    Ok(())
}
