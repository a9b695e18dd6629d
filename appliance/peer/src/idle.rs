//! Idle connections of a registered node (spec §11.2): plain TCP to the gateway's socket, kept
//! alive by the gateway's pings, turned into a pipe by its hand-off. A pool runs one thread per
//! connection and hands the pipes out.

use crate::clock::{self, Deadline};
use crate::error::{PeerError, Step};
use crate::gateway::Registration;
use crate::limits::{
    CONNECT_TIMEOUT, IDLE_BACKOFF, IDLE_BACKOFF_MAX, IDLE_DEAD_AFTER, IDLE_DIAL_FAILURES_MAX,
    IDLE_POOL_CONNECTIONS_MAX, IDLE_WRITE_TIMEOUT,
};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use waystation_astral::gateway::idle::{HANDOFF_ACK, IdleDecoder, IdleMessage, PONG};
use waystation_astral::gateway::nonce_object;

/// One idle connection.
#[derive(Debug)]
pub struct IdleSocket {
    stream: TcpStream,
    decoder: IdleDecoder,
}

impl IdleSocket {
    /// Dials the gateway's socket and presents the registration's nonce: as eight raw bytes, as
    /// stock registered nodes do, or as an object, which stock gateways expect.
    ///
    /// # Errors
    ///
    /// [`PeerError::Connect`] or [`PeerError::Io`].
    pub fn open(address: SocketAddr, nonce: u64, raw: bool) -> Result<Self, PeerError> {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
            .map_err(|source| PeerError::Connect { address, source })?;
        let presented = if raw {
            stream.write_all(&nonce.to_be_bytes())
        } else {
            stream.write_all(&nonce_object(nonce))
        };
        presented
            .and_then(|()| stream.set_nodelay(true))
            .and_then(|()| stream.set_write_timeout(Some(IDLE_WRITE_TIMEOUT)))
            .map_err(|source| PeerError::Io { step: Step::Idle, source })?;
        Ok(Self { stream, decoder: IdleDecoder::new() })
    }

    /// Answers pings until the gateway hands the connection off, acknowledges, and returns it as
    /// the pipe. Reads message by message, so that not one byte of the pipe is taken.
    ///
    /// # Errors
    ///
    /// [`PeerError::Ended`] when the gateway closed it, [`PeerError::Timeout`] after 60 s without a
    /// byte, [`PeerError::Idle`] or [`PeerError::IdleOrder`] for anything but the protocol.
    pub fn wait_handoff(mut self) -> Result<TcpStream, PeerError> {
        let io_error = |source| PeerError::from_read(Step::Idle, source);
        self.stream.set_read_timeout(Some(IDLE_DEAD_AFTER)).map_err(io_error)?;
        // Longer than any message and shorter than a message and an act of a handshake.
        let mut buffer = [0; 64];
        loop {
            let bytes = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(PeerError::Ended { step: Step::Idle }),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_error(error)),
            };
            let received = buffer.get(..bytes).unwrap_or_default();
            let mut cursor = 0;
            while let Some(message) = self.decoder.next(received, &mut cursor)? {
                match message {
                    IdleMessage::Ping => self.stream.write_all(PONG).map_err(io_error)?,
                    // This side never pings: whoever answers nothing asked is harmless.
                    IdleMessage::Pong => {}
                    // The gateway sends nothing between its hand-off and the acknowledgement.
                    IdleMessage::Handoff if cursor == received.len() => {
                        self.stream.write_all(HANDOFF_ACK).map_err(io_error)?;
                        self.stream.set_read_timeout(None).map_err(io_error)?;
                        self.stream.set_write_timeout(None).map_err(io_error)?;
                        return Ok(self.stream);
                    }
                    IdleMessage::Handoff | IdleMessage::HandoffAck => {
                        return Err(PeerError::IdleOrder);
                    }
                }
            }
        }
    }
}

/// Keeps a number of idle connections at a gateway and hands out the pipes they become.
///
/// Unlike a stock node it tops up as soon as a connection was handed off, not when the pipe ends,
/// so that any number of pipes can live at a time. Dropping the pool closes what still idles.
pub struct IdlePool {
    shared: Arc<PoolShared>,
}

impl fmt::Debug for IdlePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdlePool").field("registration", &self.shared.registration).finish()
    }
}

struct PoolShared {
    registration: Registration,
    raw: bool,
    state: Mutex<PoolState>,
    changed: Condvar,
}

#[derive(Default)]
struct PoolState {
    pipes: VecDeque<TcpStream>,
    /// What idles now, by slot, so that dropping the pool can end it.
    idling: HashMap<usize, TcpStream>,
    live_slots: usize,
    closed: bool,
    last_error: Option<PeerError>,
}

impl IdlePool {
    /// Starts `connections` (at most [`IDLE_POOL_CONNECTIONS_MAX`]) idle connections.
    ///
    /// # Errors
    ///
    /// [`PeerError::Io`] when a thread cannot be started.
    pub fn start(
        registration: Registration,
        connections: usize,
        raw: bool,
    ) -> Result<Self, PeerError> {
        let shared = Arc::new(PoolShared {
            registration,
            raw,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let pool = Self { shared: Arc::clone(&shared) };
        for slot in 0..connections.min(IDLE_POOL_CONNECTIONS_MAX) {
            let shared = Arc::clone(&shared);
            shared.state.lock().live_slots += 1;
            thread::Builder::new()
                .name("peer-idle".to_owned())
                .spawn(move || shared.run_slot(slot))
                .map_err(|source| PeerError::Io { step: Step::Thread, source })?;
        }
        Ok(pool)
    }

    /// Connections that idle now.
    pub fn idling(&self) -> usize {
        self.shared.state.lock().idling.len()
    }

    /// Waits until `connections` connections idle at the gateway.
    ///
    /// # Errors
    ///
    /// As [`IdlePool::accept`].
    pub fn wait_idling(&self, connections: usize, timeout: Duration) -> Result<(), PeerError> {
        self.wait(timeout, |state| (state.idling.len() >= connections).then_some(()))
    }

    /// Waits for the next pipe.
    ///
    /// # Errors
    ///
    /// [`PeerError::Timeout`]; when every slot gave up, what the last one failed with.
    pub fn accept(&self, timeout: Duration) -> Result<TcpStream, PeerError> {
        self.wait(timeout, |state| state.pipes.pop_front())
    }

    fn wait<T>(
        &self,
        timeout: Duration,
        mut condition: impl FnMut(&mut PoolState) -> Option<T>,
    ) -> Result<T, PeerError> {
        let deadline = Deadline::after(timeout);
        let mut state = self.shared.state.lock();
        loop {
            if let Some(value) = condition(&mut state) {
                return Ok(value);
            }
            if state.live_slots == 0 {
                return Err(state.last_error.take().unwrap_or(PeerError::PoolExhausted));
            }
            if deadline.remaining().is_none() {
                return Err(PeerError::Timeout { step: Step::Idle });
            }
            self.shared.changed.wait_until(&mut state, deadline.instant());
        }
    }
}

impl Drop for IdlePool {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        for stream in state.idling.values() {
            // The only failure is that the connection is gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }
}

impl PoolShared {
    /// One slot's thread: dial, idle, hand out, again; three failed dials in a row end it.
    fn run_slot(&self, slot: usize) {
        let mut failures = 0;
        let mut backoff = IDLE_BACKOFF;
        while failures < IDLE_DIAL_FAILURES_MAX {
            let outcome = self.idle_once(slot);
            let error = match outcome {
                Ok(()) => {
                    (failures, backoff) = (0, IDLE_BACKOFF);
                    continue;
                }
                Err(error) => error,
            };
            failures = if matches!(error, PeerError::Connect { .. }) { failures + 1 } else { 0 };
            let mut state = self.state.lock();
            state.last_error = Some(error);
            if self.pause(&mut state, backoff) {
                break;
            }
            backoff = (backoff * 2).min(IDLE_BACKOFF_MAX);
        }
        self.state.lock().live_slots -= 1;
        self.changed.notify_all();
    }

    /// Waits before the next dial, so that a gateway that refuses is not hammered (trap b of spec
    /// §11.2). `true`: the pool was closed.
    fn pause(&self, state: &mut parking_lot::MutexGuard<'_, PoolState>, pause: Duration) -> bool {
        let until = clock::now() + pause;
        while !state.closed && !self.changed.wait_until(state, until).timed_out() {}
        state.closed
    }

    fn idle_once(&self, slot: usize) -> Result<(), PeerError> {
        let Registration { socket, nonce } = self.registration;
        let idle = IdleSocket::open(socket, nonce, self.raw)?;
        let twin =
            idle.stream.try_clone().map_err(|source| PeerError::Io { step: Step::Idle, source })?;
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(PeerError::PoolExhausted);
            }
            state.idling.insert(slot, twin);
            self.changed.notify_all();
        }
        let outcome = idle.wait_handoff();
        let mut state = self.state.lock();
        state.idling.remove(&slot);
        state.pipes.push_back(outcome?);
        self.changed.notify_all();
        Ok(())
    }
}
