//! A link as a program uses it: dial or accept, ask, be asked, ping, close. Two threads serve each
//! link: one reads and dispatches and never writes, one writes what the first leaves to it.

use crate::clock;
use crate::error::{LinkFailure, PeerError, SessionError, Step};
use crate::establish::{self, Established};
use crate::limits::{
    CONNECT_TIMEOUT, ESTABLISH_TIMEOUT, INBOUND_QUERIES_MAX, PINGS_MAX, QUERY_TIMEOUT,
    SESSION_WINDOW_BYTES, SESSIONS_MAX, STOCK_DATA_BYTES_MAX,
};
use crate::outbox::{Order, Outbox, SentStatistics};
use crate::random;
use crate::reader::Reader;
use crate::session::{Session, SessionState};
use crate::transport::{Close, Duplex};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use waystation_astral::aead::AeadSuite;
use waystation_astral::brontide::RECORD_PLAINTEXT_MAX_BYTES;
use waystation_astral::frame::{Frame, Profile};
use waystation_astral::identity::{Identity, SecretKey};

/// How frames are laid into records and records into writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Many frames in a record, one write per batch.
    Coalesced,
    /// As stock nodes send: one record per field, header and body of a record in separate writes,
    /// at most 8 192 bytes of payload per data frame (spec §3.3, §6.1).
    Stock,
}

/// How consumed bytes are given back as credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreditReturn {
    /// One read frame per quarter of the window.
    Coalesced,
    /// One read frame per consumed chunk of at most one data frame, as stock does (spec §7.3).
    PerChunk,
}

/// How a link behaves.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// The profile to speak. `None`: as dialer, find out (spec §16.1); as acceptor, find out with
    /// the dual greeting (spec §16.2).
    pub profile: Option<Profile>,
    /// What seals and opens this side's records; the other side cannot tell.
    pub aead: AeadSuite,
    pub style: Style,
    pub credit_return: CreditReturn,
    /// Receive window of the sessions this side asks for, in bytes.
    pub window_bytes: u32,
    /// Most plaintext bytes in one record, 64 to 65 535.
    pub record_bytes_max: usize,
    /// Inbound queries that may wait for [`Link::accept`]; with 0 every one is rejected at once.
    pub inbound_queries_max: usize,
    /// Whether the other side may ask in somebody else's name, as a relay does. Otherwise such
    /// queries are rejected (advice of spec §10.3).
    pub trusts_relay: bool,
    pub connect_timeout: Duration,
    pub establish_timeout: Duration,
    pub query_timeout: Duration,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            profile: None,
            aead: AeadSuite::default(),
            style: Style::Coalesced,
            credit_return: CreditReturn::Coalesced,
            window_bytes: SESSION_WINDOW_BYTES,
            record_bytes_max: RECORD_PLAINTEXT_MAX_BYTES,
            inbound_queries_max: INBOUND_QUERIES_MAX,
            trusts_relay: false,
            connect_timeout: CONNECT_TIMEOUT,
            establish_timeout: ESTABLISH_TIMEOUT,
            query_timeout: QUERY_TIMEOUT,
        }
    }
}

impl LinkOptions {
    /// The defaults with one fixed profile.
    pub fn with_profile(profile: Profile) -> Self {
        Self { profile: Some(profile), ..Self::default() }
    }

    /// One fixed profile in everything as a stock node does it.
    pub fn stock(profile: Profile) -> Self {
        Self {
            profile: Some(profile),
            style: Style::Stock,
            credit_return: CreditReturn::PerChunk,
            ..Self::default()
        }
    }
}

/// What the threads of one link share.
pub(crate) struct LinkShared {
    pub(crate) profile: Profile,
    pub(crate) local: Identity,
    pub(crate) remote: Identity,
    pub(crate) outbox: Outbox,
    /// Most payload bytes of one data frame in this link's style.
    pub(crate) data_bytes_max: usize,
    credit_return: CreditReturn,
    inbound_queries_max: usize,
    pub(crate) trusts_relay: bool,
    closer: Arc<dyn Close>,
    sessions: Mutex<HashMap<u64, Arc<SessionState>>>,
    inbound: Mutex<VecDeque<Inbound>>,
    inbound_arrived: Condvar,
    /// Own pings: `None` until the pong is here, then its arrival.
    pings: Mutex<HashMap<u64, Option<Instant>>>,
    pong_arrived: Condvar,
    down: OnceLock<Arc<LinkFailure>>,
}

/// An inbound query as the reader leaves it.
#[derive(Debug)]
struct Inbound {
    state: Arc<SessionState>,
    caller: Identity,
    target: Identity,
    query: Vec<u8>,
}

impl fmt::Debug for LinkShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("profile", &self.profile)
            .field("remote", &self.remote)
            .field("down", &self.down.get())
            .finish_non_exhaustive()
    }
}

impl LinkShared {
    /// Lays a control frame down; a failure takes the link down.
    pub(crate) fn push(&self, frame: &Frame<'_>, order: Order) {
        if let Err(failure) = self.outbox.push_control(frame, order) {
            self.fail(failure);
        }
    }

    /// Lays a data frame down; a failure takes the link down.
    pub(crate) fn push_data(&self, nonce: u64, payload: &[u8]) {
        if let Err(failure) = self.outbox.push_data(nonce, payload) {
            self.fail(failure);
        }
    }

    /// Writes what lies in the outbox; a failure takes the link down.
    pub(crate) fn flush(&self) {
        if let Err(failure) = self.outbox.flush() {
            self.fail(failure);
        }
    }

    /// Takes the link down: the first reason stays, everybody who waits wakes up.
    pub(crate) fn fail(&self, failure: LinkFailure) {
        let failure = self.down.get_or_init(|| Arc::new(failure));
        self.closer.close();
        self.outbox.close();
        let sessions = std::mem::take(&mut *self.sessions.lock());
        for state in sessions.values() {
            state.on_link_down(failure);
        }
        // Taking the locks makes sure that nobody is between looking and waiting.
        self.inbound.lock().clear();
        self.inbound_arrived.notify_all();
        drop(self.pings.lock());
        self.pong_arrived.notify_all();
    }

    fn close(&self) {
        if self.down.get().is_none() {
            let written = self.outbox.flush_all();
            self.fail(written.err().unwrap_or(LinkFailure::ClosedHere));
        }
    }

    fn check_up(&self) -> Result<(), PeerError> {
        match self.down.get() {
            Some(failure) => Err(PeerError::LinkDown(Arc::clone(failure))),
            None => Ok(()),
        }
    }

    /// The session a frame names, if it is known.
    pub(crate) fn session(&self, nonce: u64) -> Option<Arc<SessionState>> {
        self.sessions.lock().get(&nonce).map(Arc::clone)
    }

    /// Forgets a session that is over.
    pub(crate) fn forget_session(&self, state: &Arc<SessionState>) {
        let mut sessions = self.sessions.lock();
        if sessions.get(&state.nonce).is_some_and(|known| Arc::ptr_eq(known, state)) {
            sessions.remove(&state.nonce);
        }
    }

    /// Feeds an inbound query. A known nonce is ignored silently (spec §7.1); what cannot be queued
    /// is rejected with code 1.
    pub(crate) fn on_query(
        &self,
        nonce: u64,
        window: u32,
        caller: Identity,
        target: Identity,
        query: &[u8],
    ) {
        let mut sessions = self.sessions.lock();
        if sessions.contains_key(&nonce) {
            return;
        }
        let mut inbound = self.inbound.lock();
        if inbound.len() >= self.inbound_queries_max || sessions.len() >= SESSIONS_MAX {
            drop((sessions, inbound));
            return self.reject(nonce, REJECTED);
        }
        let state = Arc::new(SessionState::asked(nonce, window, self.credit_return));
        sessions.insert(nonce, Arc::clone(&state));
        inbound.push_back(Inbound { state, caller, target, query: query.to_vec() });
        self.inbound_arrived.notify_one();
    }

    /// Lays down a rejecting response.
    pub(crate) fn reject(&self, nonce: u64, code: u8) {
        let code = if code == 0 { REJECTED } else { code };
        self.push(&Frame::Response { nonce, code, window: 0 }, Order::MayOvertake);
    }

    /// Feeds a pong; unknown ones are ignored (spec §7.4).
    pub(crate) fn on_pong(&self, nonce: u64) {
        if let Some(arrival) = self.pings.lock().get_mut(&nonce) {
            *arrival = Some(clock::now());
            self.pong_arrived.notify_all();
        }
    }
}

/// The default rejection code (spec §8.4).
pub const REJECTED: u8 = 1;

/// Closes the link when the last holder is gone. The link's own threads hold only what it guards.
#[derive(Debug)]
pub(crate) struct LinkGuard {
    pub(crate) shared: Arc<LinkShared>,
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// An authenticated link to another node. Clones are the same link; it is closed by
/// [`Link::close`], or when the last clone, session and inbound query of it is gone.
#[derive(Clone, Debug)]
pub struct Link {
    pub(crate) guard: Arc<LinkGuard>,
    window_bytes: u32,
    query_timeout: Duration,
    link_id: Option<u64>,
}

impl Link {
    /// Dials `address` over TCP and becomes a link to `remote` that speaks `profile`.
    ///
    /// # Errors
    ///
    /// Connecting, handshake or negotiation failed or took too long.
    pub fn dial(
        address: SocketAddr,
        key: &SecretKey,
        remote: &Identity,
        profile: Profile,
    ) -> Result<Self, PeerError> {
        Self::dial_with(address, key, remote, &LinkOptions::with_profile(profile))
    }

    /// As [`Link::dial`], with all options.
    ///
    /// # Errors
    ///
    /// As [`Link::dial`].
    pub fn dial_with(
        address: SocketAddr,
        key: &SecretKey,
        remote: &Identity,
        options: &LinkOptions,
    ) -> Result<Self, PeerError> {
        let stream = TcpStream::connect_timeout(&address, options.connect_timeout)
            .map_err(|source| PeerError::Connect { address, source })?;
        Self::dial_over(stream, key, remote, options)
    }

    /// Becomes the initiator of a link over any transport: a connection, or a session or gateway
    /// pipe for an inner link.
    ///
    /// # Errors
    ///
    /// As [`Link::dial`].
    pub fn dial_over(
        transport: impl Duplex,
        key: &SecretKey,
        remote: &Identity,
        options: &LinkOptions,
    ) -> Result<Self, PeerError> {
        let established = establish::dial(transport, key, remote, options)?;
        Self::start(established, key, options)
    }

    /// Becomes the responder of a link over any transport.
    ///
    /// # Errors
    ///
    /// As [`Link::dial`].
    pub fn accept_over(
        transport: impl Duplex,
        key: &SecretKey,
        options: &LinkOptions,
    ) -> Result<Self, PeerError> {
        let established = establish::accept(transport, key, options)?;
        Self::start(established, key, options)
    }

    fn start(
        established: Established,
        key: &SecretKey,
        options: &LinkOptions,
    ) -> Result<Self, PeerError> {
        let Established { profile, link_id, remote, records, sealer, writer, closer, leftover } =
            established;
        let record_bytes_max = options.record_bytes_max.clamp(64, RECORD_PLAINTEXT_MAX_BYTES);
        let outbox = Outbox::new(profile, options.style, record_bytes_max, sealer, writer);
        let data_bytes_max = match options.style {
            Style::Coalesced => outbox.payload_bytes_max(),
            Style::Stock => STOCK_DATA_BYTES_MAX,
        };
        let shared = Arc::new(LinkShared {
            profile,
            local: key.identity(),
            remote,
            outbox,
            data_bytes_max,
            credit_return: options.credit_return,
            inbound_queries_max: options.inbound_queries_max,
            trusts_relay: options.trusts_relay,
            closer,
            sessions: Mutex::default(),
            inbound: Mutex::default(),
            inbound_arrived: Condvar::new(),
            pings: Mutex::default(),
            pong_arrived: Condvar::new(),
            down: OnceLock::new(),
        });
        // From here on dropping the guard closes the link, also when a thread cannot be started.
        let guard = Arc::new(LinkGuard { shared: Arc::clone(&shared) });
        let reader = Reader::new(Arc::clone(&shared), records, leftover);
        spawn("peer-read", move || reader.run())?;
        spawn("peer-write", move || {
            if let Err(failure) = shared.outbox.run_writer() {
                shared.fail(failure);
            }
        })?;
        Ok(Self {
            guard,
            window_bytes: options.window_bytes,
            query_timeout: options.query_timeout,
            link_id,
        })
    }

    fn shared(&self) -> &LinkShared {
        &self.guard.shared
    }

    /// Receive window of the sessions this side asks for.
    pub(crate) fn window_bytes(&self) -> u32 {
        self.window_bytes
    }

    /// How long the other side may take to answer a query.
    pub(crate) fn query_timeout(&self) -> Duration {
        self.query_timeout
    }

    /// The profile the link speaks.
    pub fn profile(&self) -> Profile {
        self.shared().profile
    }

    /// The identity of the other side.
    pub fn remote(&self) -> Identity {
        self.shared().remote
    }

    /// The identity of this side.
    pub fn local(&self) -> Identity {
        self.shared().local
    }

    /// The link's number, chosen by the responder; P0 has none (spec §4.1).
    pub fn link_id(&self) -> Option<u64> {
        self.link_id
    }

    /// What the link has sent so far.
    pub fn sent(&self) -> SentStatistics {
        self.shared().outbox.statistics()
    }

    /// Why the link is down, if it is.
    pub fn failure(&self) -> Option<Arc<LinkFailure>> {
        self.shared().down.get().map(Arc::clone)
    }

    /// Asks the other side; the session is open when this returns.
    ///
    /// # Errors
    ///
    /// [`PeerError::Rejected`] with the other side's code, [`PeerError::ResetBeforeResponse`],
    /// [`PeerError::Timeout`] after the link's query timeout, [`PeerError::LinkDown`].
    pub fn query(&self, query: &str) -> Result<Session, PeerError> {
        self.query_within(query, self.query_timeout)
    }

    /// As [`Link::query`], with another timeout.
    ///
    /// # Errors
    ///
    /// As [`Link::query`].
    pub fn query_within(&self, query: &str, timeout: Duration) -> Result<Session, PeerError> {
        let nonce = random::nonce()?;
        let window = self.window_bytes;
        self.ask(&Frame::Query { nonce, window, query: query.as_bytes() }, timeout)
    }

    /// Sends a frame that asks for a session, and waits for the answer.
    pub(crate) fn ask(&self, frame: &Frame<'_>, timeout: Duration) -> Result<Session, PeerError> {
        let shared = self.shared();
        shared.check_up()?;
        let nonce = frame.nonce();
        let state = Arc::new(SessionState::asking(nonce, self.window_bytes, shared.credit_return));
        // Encoding errors are the caller's (too long a string), not the link's.
        frame.encoded_bytes(shared.profile)?;
        {
            let mut sessions = shared.sessions.lock();
            if sessions.len() >= SESSIONS_MAX {
                return Err(PeerError::SessionsFull(sessions.len()));
            }
            sessions.insert(nonce, Arc::clone(&state));
        }
        if let Err(error) = shared.check_up() {
            shared.forget_session(&state);
            return Err(error);
        }
        shared.push(frame, Order::MayOvertake);
        shared.flush();
        match state.await_response(timeout) {
            Ok(()) => Ok(Session::new(Arc::clone(&self.guard), state)),
            Err(error) => {
                shared.forget_session(&state);
                // P0 callers give up silently; late P2 and P4 responders drop the work (spec §7.1).
                if matches!(error, PeerError::Timeout { .. }) && shared.profile != Profile::P0 {
                    shared.push(&Frame::Reset { nonce }, Order::Behind);
                    shared.flush();
                }
                Err(error)
            }
        }
    }

    /// Waits for the next inbound query.
    ///
    /// # Errors
    ///
    /// [`PeerError::Timeout`] or [`PeerError::LinkDown`].
    pub fn accept(&self, timeout: Duration) -> Result<InboundQuery, PeerError> {
        let shared = self.shared();
        let deadline = clock::Deadline::after(timeout);
        let mut inbound = shared.inbound.lock();
        loop {
            if let Some(next) = inbound.pop_front() {
                return Ok(InboundQuery {
                    link: Arc::clone(&self.guard),
                    inbound: next,
                    answered: false,
                });
            }
            shared.check_up()?;
            if shared.inbound_arrived.wait_until(&mut inbound, deadline.instant()).timed_out()
                && inbound.is_empty()
            {
                return Err(PeerError::Timeout { step: Step::Accept });
            }
        }
    }

    /// Pings the other side; returns the round-trip time.
    ///
    /// # Errors
    ///
    /// [`PeerError::Timeout`], [`PeerError::LinkDown`], or too many pings under way.
    pub fn ping(&self, timeout: Duration) -> Result<Duration, PeerError> {
        let shared = self.shared();
        let nonce = random::nonce()?;
        {
            let mut pings = shared.pings.lock();
            if pings.len() >= PINGS_MAX {
                return Err(PeerError::PingsFull(pings.len()));
            }
            pings.insert(nonce, None);
        }
        let sent = clock::now();
        shared.push(&Frame::Ping { nonce, pong: false }, Order::MayOvertake);
        shared.flush();
        let mut pings = shared.pings.lock();
        loop {
            if let Some(Some(arrival)) = pings.get(&nonce) {
                let round_trip = arrival.saturating_duration_since(sent);
                pings.remove(&nonce);
                return Ok(round_trip);
            }
            let down = shared.check_up();
            if down.is_err()
                || shared.pong_arrived.wait_until(&mut pings, sent + timeout).timed_out()
            {
                pings.remove(&nonce);
                return down.and(Err(PeerError::Timeout { step: Step::Ping }));
            }
        }
    }

    /// Closes the link; what was written before is still sent.
    pub fn close(&self) {
        self.shared().close();
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), PeerError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
        .map_err(|source| PeerError::Io { step: Step::Thread, source })
}

/// A query somebody asks us. Dropped unanswered it is rejected with code 1: every query gets an
/// answer (spec §19, trap 12).
#[derive(Debug)]
pub struct InboundQuery {
    link: Arc<LinkGuard>,
    inbound: Inbound,
    answered: bool,
}

impl InboundQuery {
    /// Who asks: the other side of the link, or whom it names in a relayed query.
    pub fn caller(&self) -> Identity {
        self.inbound.caller
    }

    /// Who is asked: this side, or whom a relayed query names.
    pub fn target(&self) -> Identity {
        self.inbound.target
    }

    /// The query string, as received.
    pub fn query(&self) -> &[u8] {
        &self.inbound.query
    }

    /// Accepts with a receive window of `window_bytes`.
    ///
    /// # Errors
    ///
    /// [`PeerError::LinkDown`], or [`PeerError::ResetBeforeResponse`] when the caller has given up.
    pub fn accept(mut self, window_bytes: u32) -> Result<Session, PeerError> {
        self.answered = true;
        let shared = &self.link.shared;
        shared.check_up()?;
        let state = Arc::clone(&self.inbound.state);
        if !state.open_as_target(window_bytes) {
            return Err(PeerError::ResetBeforeResponse);
        }
        let response = Frame::Response { nonce: state.nonce, code: 0, window: window_bytes };
        shared.push(&response, Order::MayOvertake);
        shared.flush();
        Ok(Session::new(Arc::clone(&self.link), state))
    }

    /// Accepts, sends bytes and ends the session behind them, as services answer.
    ///
    /// # Errors
    ///
    /// As [`InboundQuery::accept`], or the caller ended the session before it had all.
    pub fn answer(self, window_bytes: u32, bytes: &[u8]) -> Result<(), PeerError> {
        let mut session = self.accept(window_bytes)?;
        session.write_all(bytes).map_err(|source| PeerError::from_read(Step::Operation, source))?;
        session.reset();
        Ok(())
    }

    /// Rejects with `code`; 0 is not a rejection and is sent as 1.
    pub fn reject(mut self, code: u8) {
        self.refuse(code);
    }

    fn refuse(&mut self, code: u8) {
        self.answered = true;
        let shared = &self.link.shared;
        shared.forget_session(&self.inbound.state);
        shared.reject(self.inbound.state.nonce, code);
        shared.outbox.flush_elsewhere();
    }
}

impl Drop for InboundQuery {
    fn drop(&mut self) {
        if !self.answered {
            self.refuse(REJECTED);
        }
    }
}

/// The reason inside an error of a session's read or write, if it is one of this crate's.
pub fn session_error(error: &std::io::Error) -> Option<&SessionError> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}
