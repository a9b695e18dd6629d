//! Sessions: one query's two-way stream with exact credit (spec §7). The state is fed by the link's
//! reader thread and used by any thread of the program; no lock is held while something blocks.

use crate::clock::{self, Deadline};
use crate::error::{LinkFailure, PeerError, SessionError, Step};
use crate::limits::{FIRST_DATA_DELAY, RESET_GRACE, WRITE_TIMEOUT};
use crate::link::{CreditReturn, LinkGuard};
use crate::outbox::Order;
use crate::transport::{Close, Duplex, Halves, ReadHalf};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use waystation_astral::frame::{Frame, Profile};

/// Where a session stands (spec §7.1).
#[derive(Clone, Debug)]
enum Phase {
    /// We asked; no response yet. A reset may come first (spec §19, traps 11 and 21).
    Asked {
        reset_seen: bool,
    },
    /// We were asked and have not answered.
    WasAsked,
    Open,
    /// We asked and were told no.
    Rejected {
        code: u8,
    },
    Ended(SessionError),
}

/// The state of one session, shared by the link's reader thread and the session's holders.
#[derive(Debug)]
pub(crate) struct SessionState {
    pub(crate) nonce: u64,
    inner: Mutex<Inner>,
    /// Bytes arrived, credit arrived, or the phase changed.
    readable: Condvar,
    writable: Condvar,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    received: VecDeque<u8>,
    /// Unread payload bytes per data frame; kept only when credit is returned per chunk.
    chunks: VecDeque<usize>,
    window_bytes: u64,
    /// What the other side may still send.
    receive_credit_bytes: u64,
    /// Consumed here and not yet returned as credit.
    owed_bytes: u64,
    send_credit_bytes: u64,
    credit_return: CreditReturn,
    /// No data before this moment (trap of spec §6.3).
    quiet_until: Option<Instant>,
    /// Queued for a wake-up at the end of the reader's turn.
    touched: bool,
}

/// What the reader has to do after it fed a frame to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    Nothing,
    /// Wake the holders at the end of the turn.
    Wake,
    /// Answer with a reset: the session is not open (spec §7.1).
    Reset,
    /// The other side broke its credit: reset and forget the session (spec §7.3).
    ResetAndForget,
}

impl SessionState {
    pub(crate) fn asking(nonce: u64, window_bytes: u32, credit_return: CreditReturn) -> Self {
        Self::new(nonce, Phase::Asked { reset_seen: false }, window_bytes, 0, credit_return)
    }

    pub(crate) fn asked(nonce: u64, send_credit: u32, credit_return: CreditReturn) -> Self {
        Self::new(nonce, Phase::WasAsked, 0, send_credit, credit_return)
    }

    fn new(
        nonce: u64,
        phase: Phase,
        window_bytes: u32,
        send_credit_bytes: u32,
        credit_return: CreditReturn,
    ) -> Self {
        let inner = Inner {
            phase,
            received: VecDeque::new(),
            chunks: VecDeque::new(),
            window_bytes: u64::from(window_bytes),
            receive_credit_bytes: u64::from(window_bytes),
            owed_bytes: 0,
            send_credit_bytes: u64::from(send_credit_bytes),
            credit_return,
            quiet_until: None,
            touched: false,
        };
        Self { nonce, inner: Mutex::new(inner), readable: Condvar::new(), writable: Condvar::new() }
    }

    /// Waits for the answer to our query.
    pub(crate) fn await_response(&self, timeout: Duration) -> Result<(), PeerError> {
        let mut deadline = Deadline::after(timeout);
        let mut in_grace = false;
        let mut inner = self.inner.lock();
        loop {
            match &inner.phase {
                Phase::Asked { reset_seen } => {
                    if *reset_seen && !in_grace {
                        in_grace = true;
                        deadline = Deadline::after(RESET_GRACE);
                    }
                }
                Phase::Rejected { code } => return Err(PeerError::Rejected { code: *code }),
                Phase::Ended(SessionError::LinkDown(failure)) => {
                    return Err(PeerError::LinkDown(Arc::clone(failure)));
                }
                Phase::Open | Phase::WasAsked | Phase::Ended(_) => return Ok(()),
            }
            if self.readable.wait_until(&mut inner, deadline.instant()).timed_out()
                && matches!(inner.phase, Phase::Asked { .. })
            {
                inner.phase = Phase::Ended(SessionError::ResetHere);
                return Err(if in_grace {
                    PeerError::ResetBeforeResponse
                } else {
                    PeerError::Timeout { step: Step::Query }
                });
            }
        }
    }

    /// Opens a session that asked us. `false`: it has ended meanwhile.
    pub(crate) fn open_as_target(&self, window_bytes: u32) -> bool {
        let mut inner = self.inner.lock();
        if !matches!(inner.phase, Phase::WasAsked) {
            return false;
        }
        inner.phase = Phase::Open;
        inner.window_bytes = u64::from(window_bytes);
        inner.receive_credit_bytes = u64::from(window_bytes);
        true
    }

    /// Feeds a response. `true`: the session is over and can be forgotten.
    pub(crate) fn on_response(&self, code: u8, window: u32, profile: Profile) -> bool {
        let mut inner = self.inner.lock();
        let Phase::Asked { reset_seen } = inner.phase else { return false };
        inner.phase = match code {
            0 if reset_seen => Phase::Ended(SessionError::ResetByPeer),
            0 => Phase::Open,
            code => Phase::Rejected { code },
        };
        inner.send_credit_bytes += u64::from(window);
        if profile != Profile::P4 {
            inner.quiet_until = Some(clock::now() + FIRST_DATA_DELAY);
        }
        let over = !matches!(inner.phase, Phase::Open);
        drop(inner);
        self.wake();
        over
    }

    /// Feeds the start of a data frame of `frame_bytes` payload bytes.
    pub(crate) fn on_data_start(&self, frame_bytes: usize) -> Reaction {
        let mut inner = self.inner.lock();
        if !matches!(inner.phase, Phase::Open) {
            return Reaction::Reset;
        }
        let Some(left) = inner.receive_credit_bytes.checked_sub(frame_bytes as u64) else {
            inner.phase = Phase::Ended(SessionError::CreditExceeded);
            drop(inner);
            self.wake();
            return Reaction::ResetAndForget;
        };
        inner.receive_credit_bytes = left;
        if inner.credit_return == CreditReturn::PerChunk && frame_bytes > 0 {
            inner.chunks.push_back(frame_bytes);
        }
        Reaction::Nothing
    }

    /// Feeds a piece of a data frame whose start was taken.
    pub(crate) fn on_data(&self, piece: &[u8]) -> Reaction {
        let mut inner = self.inner.lock();
        if matches!(inner.phase, Phase::Ended(SessionError::ResetHere)) {
            return Reaction::Nothing;
        }
        inner.received.extend(piece);
        if std::mem::replace(&mut inner.touched, true) { Reaction::Nothing } else { Reaction::Wake }
    }

    /// Feeds a read frame. Stock checks no state (spec §7.1).
    pub(crate) fn on_read(&self, bytes: u32) -> Reaction {
        let mut inner = self.inner.lock();
        inner.send_credit_bytes += u64::from(bytes);
        if std::mem::replace(&mut inner.touched, true) { Reaction::Nothing } else { Reaction::Wake }
    }

    /// Feeds a reset. `true`: the session is over and can be forgotten; while a response is still
    /// awaited it is not.
    pub(crate) fn on_reset(&self) -> bool {
        let mut inner = self.inner.lock();
        let over = match &mut inner.phase {
            Phase::Asked { reset_seen } => {
                *reset_seen = true;
                false
            }
            Phase::WasAsked | Phase::Open => {
                inner.phase = Phase::Ended(SessionError::ResetByPeer);
                true
            }
            Phase::Rejected { .. } | Phase::Ended(_) => true,
        };
        drop(inner);
        self.wake();
        over
    }

    /// Ends the session because its link is down.
    pub(crate) fn on_link_down(&self, failure: &Arc<LinkFailure>) {
        let mut inner = self.inner.lock();
        if !matches!(inner.phase, Phase::Rejected { .. } | Phase::Ended(_)) {
            inner.phase = Phase::Ended(SessionError::LinkDown(Arc::clone(failure)));
        }
        drop(inner);
        self.wake();
    }

    /// Ends the session from this side. `true`: it was open, so a reset has to be sent.
    pub(crate) fn end_here(&self) -> bool {
        let mut inner = self.inner.lock();
        let was_open = matches!(inner.phase, Phase::Open);
        if !matches!(inner.phase, Phase::Ended(_)) {
            inner.phase = Phase::Ended(SessionError::ResetHere);
            inner.received = VecDeque::new();
        }
        drop(inner);
        self.wake();
        was_open
    }

    fn wake(&self) {
        self.readable.notify_all();
        self.writable.notify_all();
    }

    /// Wakes the holders after a turn of the reader.
    pub(crate) fn wake_touched(&self) {
        self.inner.lock().touched = false;
        self.wake();
    }

    /// Takes what is there for `buffer`; returns bytes taken and the credit to return now.
    fn take(&self, inner: &mut Inner, buffer: &mut [u8]) -> (usize, u32) {
        let per_chunk = inner.credit_return == CreditReturn::PerChunk;
        let chunk_bytes = match inner.chunks.front() {
            Some(bytes) if per_chunk => *bytes,
            _ => usize::MAX,
        };
        let wanted = buffer.len().min(chunk_bytes);
        let mut taken = 0;
        while let Some(room) = buffer.get_mut(taken..wanted).filter(|room| !room.is_empty()) {
            match inner.received.read(room) {
                Ok(0) | Err(_) => break,
                Ok(bytes) => taken += bytes,
            }
        }
        if per_chunk {
            match inner.chunks.front_mut() {
                Some(left) if *left > taken => *left -= taken,
                _ => drop(inner.chunks.pop_front()),
            }
        }
        inner.owed_bytes += taken as u64;
        let due = per_chunk || inner.owed_bytes >= (inner.window_bytes / 4).max(1);
        if !due || !matches!(inner.phase, Phase::Open) {
            return (taken, 0);
        }
        let credit = u32::try_from(inner.owed_bytes).unwrap_or(u32::MAX);
        inner.owed_bytes -= u64::from(credit);
        inner.receive_credit_bytes += u64::from(credit);
        (taken, credit)
    }

    /// Waits until `condition` turns true; `false` when the time is up before.
    fn wait(
        condvar: &Condvar,
        inner: &mut MutexGuard<'_, Inner>,
        deadline: Option<Deadline>,
    ) -> bool {
        match deadline {
            Some(deadline) => !condvar.wait_until(inner, deadline.instant()).timed_out(),
            None => {
                condvar.wait(inner);
                true
            }
        }
    }
}

/// What both halves of a session share; the last one dropped ends the session.
struct Ends {
    link: Arc<LinkGuard>,
    state: Arc<SessionState>,
}

impl Ends {
    fn reset(&self) {
        let was_open = self.state.end_here();
        self.link.shared.forget_session(&self.state);
        if was_open {
            self.link.shared.push(&Frame::Reset { nonce: self.state.nonce }, Order::Behind);
            self.link.shared.outbox.flush_elsewhere();
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.reset();
    }
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("nonce", &self.state.nonce).finish_non_exhaustive()
    }
}

impl Close for Ends {
    fn close(&self) {
        self.reset();
    }

    /// A session has one way to end, the reset (spec §7.2); there is nothing to choose.
    fn reset_on_close(&self, _reset: bool) -> io::Result<()> {
        Ok(())
    }
}

/// Resets a session from any thread; made by [`Session::resetter`].
#[derive(Clone, Debug)]
pub struct Resetter(Arc<Ends>);

impl Resetter {
    /// Ends the session in both directions (spec §7.2).
    pub fn reset(&self) {
        self.0.reset();
    }
}

/// One query's two-way stream. Blocking; dropping it resets it.
#[derive(Debug)]
pub struct Session {
    reader: SessionReader,
    writer: SessionWriter,
}

impl Session {
    pub(crate) fn new(link: Arc<LinkGuard>, state: Arc<SessionState>) -> Self {
        let ends = Arc::new(Ends { link, state });
        let reader = SessionReader { ends: Arc::clone(&ends), timeout: Mutex::new(None) };
        Self { reader, writer: SessionWriter { ends, timeout: None } }
    }

    /// The session's number on its link.
    pub fn nonce(&self) -> u64 {
        self.reader.ends.state.nonce
    }

    /// Takes the session apart; it lives until both halves are gone or one side resets it.
    pub fn split(self) -> (SessionReader, SessionWriter) {
        (self.reader, self.writer)
    }

    /// A value that can reset the session from another thread.
    pub fn resetter(&self) -> Resetter {
        Resetter(Arc::clone(&self.reader.ends))
    }

    /// Ends the session in both directions; what was written before is still sent (spec §7.2).
    pub fn reset(self) {
        self.reader.ends.reset();
    }

    /// Sets how long one read may wait; `None`, the initial value: as long as the link lives.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        *self.reader.timeout.lock() = timeout;
    }

    /// Sets how long one write may wait for credit; `None`, the initial value: as long as the link
    /// lives.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.writer.timeout = timeout;
    }

    /// Lays `bytes` down for sending without writing yet; see [`SessionWriter::write_deferred`].
    ///
    /// # Errors
    ///
    /// As [`Write::write`].
    pub fn write_deferred(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write_deferred(bytes)
    }
}

impl Read for Session {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl Write for Session {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Duplex for Session {
    /// For an inner link: its writes are bounded in time, because the other end of a link always
    /// reads.
    fn into_halves(self) -> io::Result<Halves> {
        let closer: Arc<dyn Close> = Arc::clone(&self.reader.ends) as Arc<dyn Close>;
        let (reader, mut writer) = self.split();
        writer.timeout = Some(WRITE_TIMEOUT);
        Ok(Halves { reader: Box::new(reader), writer: Box::new(writer), closer })
    }
}

/// The reading half of a session. Bytes received before a reset are all delivered, then comes the
/// end of the stream; when this side reset it or the link died, an error.
#[derive(Debug)]
pub struct SessionReader {
    ends: Arc<Ends>,
    timeout: Mutex<Option<Duration>>,
}

impl Read for SessionReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let state = &self.ends.state;
        let mut deadline = None;
        let mut inner = state.inner.lock();
        while inner.received.is_empty() {
            match &inner.phase {
                Phase::Ended(SessionError::ResetByPeer) => return Ok(0),
                Phase::Ended(error) => return Err(error.clone().into()),
                Phase::Asked { .. } | Phase::WasAsked | Phase::Open | Phase::Rejected { .. } => {}
            }
            if deadline.is_none() {
                deadline = self.timeout.lock().map(Deadline::after);
            }
            if !SessionState::wait(&state.readable, &mut inner, deadline)
                && inner.received.is_empty()
                && matches!(inner.phase, Phase::Open)
            {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let (taken, credit) = state.take(&mut inner, buffer);
        drop(inner);
        if credit > 0 {
            let link = &self.ends.link.shared;
            link.push(&Frame::Read { nonce: state.nonce, bytes: credit }, Order::MayOvertake);
            link.flush();
        }
        Ok(taken)
    }
}

impl ReadHalf for SessionReader {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        *self.timeout.lock() = timeout;
        Ok(())
    }
}

/// The writing half of a session. Every accepted byte is covered by credit.
#[derive(Debug)]
pub struct SessionWriter {
    ends: Arc<Ends>,
    timeout: Option<Duration>,
}

impl SessionWriter {
    /// Lays one data frame down and leaves sending to the next write or flush of any session of the
    /// link; many frames then share records and one write. Waits for credit, after sending what
    /// lies there. Returns the bytes taken: as many as credit and a frame allow.
    ///
    /// # Errors
    ///
    /// [`SessionError`] inside the error when the session or its link is over; `TimedOut` when no
    /// credit came in time.
    pub fn write_deferred(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let link = &self.ends.link.shared;
        let granted = self.take_credit(bytes.len().min(link.data_bytes_max))?;
        let frame = bytes.get(..granted).unwrap_or(bytes);
        link.push_data(self.ends.state.nonce, frame);
        Ok(granted)
    }

    /// As [`SessionWriter::write_deferred`] for all of `bytes`, in as many frames as it takes.
    ///
    /// # Errors
    ///
    /// As [`SessionWriter::write_deferred`].
    pub fn write_all_deferred(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.write_deferred(bytes)?;
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    fn take_credit(&self, wanted: usize) -> io::Result<usize> {
        let state = &self.ends.state;
        let mut deadline = None;
        let mut inner = state.inner.lock();
        loop {
            match &inner.phase {
                Phase::Open => {}
                Phase::Ended(error) => return Err(error.clone().into()),
                Phase::Asked { .. } | Phase::WasAsked | Phase::Rejected { .. } => {
                    return Err(io::ErrorKind::NotConnected.into());
                }
            }
            if let Some(quiet_until) = inner.quiet_until {
                if clock::now() >= quiet_until {
                    inner.quiet_until = None;
                } else {
                    state.writable.wait_until(&mut inner, quiet_until);
                }
                continue;
            }
            if inner.send_credit_bytes > 0 {
                let granted =
                    usize::try_from(inner.send_credit_bytes).unwrap_or(usize::MAX).min(wanted);
                inner.send_credit_bytes -= granted as u64;
                return Ok(granted);
            }
            MutexGuard::unlocked(&mut inner, || self.ends.link.shared.flush());
            if inner.send_credit_bytes > 0 || !matches!(inner.phase, Phase::Open) {
                continue;
            }
            if deadline.is_none() {
                deadline = self.timeout.map(Deadline::after);
            }
            if !SessionState::wait(&state.writable, &mut inner, deadline)
                && inner.send_credit_bytes == 0
            {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Write for SessionWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.write_deferred(bytes)?;
        self.ends.link.shared.flush();
        Ok(taken)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all_deferred(bytes)?;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.ends.link.shared.flush();
        Ok(())
    }
}
