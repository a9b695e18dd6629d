//! The cheapest forwarding there is: read what has come, hand it to whoever works on it, write it.
//!
//! Used on one thread by [`super::calibrate`] and by comparisons with the floor, never on a data
//! core: it waits for a socket that takes no more.

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// One read: the size below which forwarding costs several times more.
const READ_BYTES: usize = 64 * 1024;
/// Events taken in one wait.
const EVENTS_MAX: usize = 256;

/// Forwards between the two connections of each pair, both ways.
pub struct Forwarder {
    epoll: OwnedFd,
    /// The two of a pair are neighbours.
    connections: Vec<TcpStream>,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder").field("connections", &self.connections).finish_non_exhaustive()
    }
}

impl Forwarder {
    /// A forwarder between the connections of each pair.
    ///
    /// # Errors
    /// The kernel's refusal to watch them.
    pub fn new(pairs: Vec<(TcpStream, TcpStream)>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let connections: Vec<_> = pairs.into_iter().flat_map(|(near, far)| [near, far]).collect();
        for (number, connection) in (0..).zip(&connections) {
            connection.set_nonblocking(true)?;
            epoll::add(&epoll, connection, EventData::new_u64(number), EventFlags::IN)?;
        }
        let events = Vec::with_capacity(EVENTS_MAX);
        Ok(Self { epoll, connections, events, buffer: vec![0; READ_BYTES] })
    }

    /// Waits at most so long and forwards what has come; `work` hears from which connection (the
    /// first of the first pair is 0) and how many bytes before they are written. Returns how many
    /// there were altogether. A connection that has ended ends the other's direction.
    ///
    /// # Errors
    /// Those of the sockets and of `work`.
    pub fn turn<E: From<io::Error>>(
        &mut self,
        timeout: Duration,
        work: &mut dyn FnMut(usize, usize) -> Result<(), E>,
    ) -> Result<usize, E> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let mut forwarded = 0;
        for event in &self.events {
            let number = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            let (Some(from), Some(to)) =
                (self.connections.get(number), self.connections.get(number ^ 1))
            else {
                continue;
            };
            match forward_once(from, to, &mut self.buffer, &mut |bytes| work(number, bytes))? {
                Some(bytes) => forwarded += bytes,
                None => {
                    epoll::delete(&self.epoll, from).map_err(io::Error::from)?;
                    // The other end may be gone already.
                    let _ = to.shutdown(Shutdown::Write);
                }
            }
        }
        Ok(forwarded)
    }
}

/// One read, and its bytes written; how many, nothing when the connection has ended.
fn forward_once<E: From<io::Error>>(
    mut from: &TcpStream,
    mut to: &TcpStream,
    buffer: &mut [u8],
    work: &mut dyn FnMut(usize) -> Result<(), E>,
) -> Result<Option<usize>, E> {
    let bytes = match from.read(buffer) {
        Ok(0) => return Ok(None),
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(0)),
        Err(error) => return Err(error.into()),
    };
    work(bytes)?;
    let mut rest = buffer.get(..bytes).unwrap_or_default();
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_writable(to)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(bytes))
}

fn wait_writable(connection: &TcpStream) -> io::Result<()> {
    poll(&mut [PollFd::new(connection, PollFlags::OUT)], None)?;
    Ok(())
}
