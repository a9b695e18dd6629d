//! The reader thread of a link: reads, opens, decodes, dispatches; wakes the sessions once per
//! turn; keeps the link alive. It lays answers down for others to write and never writes itself.

use crate::clock;
use crate::error::LinkFailure;
use crate::limits::{PING_AFTER_SILENCE, PONG_TIMEOUT, READER_TICK};
use crate::link::{LinkShared, REJECTED};
use crate::outbox::Order;
use crate::random;
use crate::records::RecordReader;
use crate::session::{Reaction, SessionState};
use std::io;
use std::sync::Arc;
use std::time::Instant;
use waystation_astral::frame::{Decoded, Frame, FrameDecoder};
use waystation_astral::identity::Identity;

/// All a reader thread owns.
pub(crate) struct Reader {
    records: RecordReader,
    decoder: FrameDecoder,
    dispatcher: Dispatcher,
    leftover: Vec<u8>,
    last_received: Instant,
    /// When the keepalive ping that waits for its pong was sent.
    keepalive: Option<Instant>,
}

impl Reader {
    pub(crate) fn new(link: Arc<LinkShared>, records: RecordReader, leftover: Vec<u8>) -> Self {
        Self {
            records,
            decoder: FrameDecoder::new(link.profile),
            dispatcher: Dispatcher::new(link),
            leftover,
            last_received: clock::now(),
            keepalive: None,
        }
    }

    /// The thread's life. Ends when the link is down, and takes it down when reading fails.
    pub(crate) fn run(mut self) {
        let failure = match self.read_on() {
            Ok(()) => LinkFailure::ClosedByPeer,
            Err(failure) => failure,
        };
        self.dispatcher.end_turn();
        self.dispatcher.link.fail(failure);
    }

    fn read_on(&mut self) -> Result<(), LinkFailure> {
        self.records.source.set_read_timeout(Some(READER_TICK)).map_err(LinkFailure::Receive)?;
        let leftover = std::mem::take(&mut self.leftover);
        decode(&mut self.decoder, &mut self.dispatcher, &leftover)?;
        loop {
            while let Some(range) = self.records.next_record()? {
                let plaintext = self.records.plaintext(range);
                decode(&mut self.decoder, &mut self.dispatcher, plaintext)?;
            }
            self.dispatcher.end_turn();
            match self.records.fill() {
                Ok(0) if self.records.at_boundary() && self.decoder.at_boundary() => return Ok(()),
                Ok(0) => return Err(LinkFailure::Truncated),
                Ok(_) => {
                    self.last_received = clock::now();
                    self.keepalive = None;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.keep_alive()?,
                    _ => return Err(LinkFailure::Receive(error)),
                },
            }
        }
    }

    /// Pings a silent link and gives up one that stays silent (spec §7.4). Whatever arrives counts
    /// as the pong.
    fn keep_alive(&mut self) -> Result<(), LinkFailure> {
        let now = clock::now();
        match self.keepalive {
            Some(sent) if now.saturating_duration_since(sent) >= PONG_TIMEOUT => {
                return Err(LinkFailure::PongTimeout(PONG_TIMEOUT));
            }
            Some(_) => {}
            None if now.saturating_duration_since(self.last_received) >= PING_AFTER_SILENCE => {
                // Without random bytes there is no ping, and the next tick tries again.
                if let Ok(nonce) = random::nonce() {
                    self.keepalive = Some(now);
                    let link = &self.dispatcher.link;
                    link.push(&Frame::Ping { nonce, pong: false }, Order::MayOvertake);
                    link.outbox.flush_elsewhere();
                }
            }
            None => {}
        }
        Ok(())
    }
}

fn decode(
    decoder: &mut FrameDecoder,
    dispatcher: &mut Dispatcher,
    plaintext: &[u8],
) -> Result<(), LinkFailure> {
    let mut cursor = 0;
    while let Some(decoded) = decoder.next(plaintext, &mut cursor)? {
        match decoded {
            Decoded::Data { nonce, offset, bytes, first, frame_bytes, .. } => {
                let piece = plaintext.get(offset..offset + bytes).unwrap_or_default();
                if first {
                    dispatcher.on_data_start(nonce, frame_bytes);
                }
                dispatcher.on_data(piece);
            }
            Decoded::Frame(frame) => dispatcher.on_frame(&frame),
        }
    }
    Ok(())
}

/// Hands frames to sessions.
struct Dispatcher {
    link: Arc<LinkShared>,
    /// The session looked up last; frames of one session come in runs.
    recent: Option<Arc<SessionState>>,
    /// Where the pieces of the current data frame go; `None` drops them.
    sink: Option<Arc<SessionState>>,
    touched: Vec<Arc<SessionState>>,
    /// Answers were laid down in this turn and need a writer.
    answered: bool,
}

impl Dispatcher {
    fn new(link: Arc<LinkShared>) -> Self {
        Self { link, recent: None, sink: None, touched: Vec::new(), answered: false }
    }

    /// Wakes the sessions that got something and has the answers written.
    fn end_turn(&mut self) {
        for state in self.touched.drain(..) {
            state.wake_touched();
        }
        if std::mem::take(&mut self.answered) {
            self.link.outbox.flush_elsewhere();
        }
    }

    fn session(&mut self, nonce: u64) -> Option<Arc<SessionState>> {
        if let Some(recent) = &self.recent
            && recent.nonce == nonce
        {
            return Some(Arc::clone(recent));
        }
        self.recent = self.link.session(nonce);
        self.recent.as_ref().map(Arc::clone)
    }

    fn answer(&mut self, frame: &Frame<'_>, order: Order) {
        self.answered = true;
        self.link.push(frame, order);
    }

    fn react(&mut self, state: &Arc<SessionState>, reaction: Reaction) {
        match reaction {
            Reaction::Nothing => {}
            Reaction::Wake => self.touched.push(Arc::clone(state)),
            Reaction::Reset => {
                self.answer(&Frame::Reset { nonce: state.nonce }, Order::Behind);
            }
            Reaction::ResetAndForget => {
                self.answer(&Frame::Reset { nonce: state.nonce }, Order::Behind);
                self.forget(state);
            }
        }
    }

    fn forget(&mut self, state: &Arc<SessionState>) {
        self.link.forget_session(state);
        self.recent = None;
    }

    fn on_data_start(&mut self, nonce: u64, frame_bytes: usize) {
        self.sink = None;
        let Some(state) = self.session(nonce) else {
            return self.answer(&Frame::Reset { nonce }, Order::Behind);
        };
        match state.on_data_start(frame_bytes) {
            Reaction::Nothing => self.sink = Some(state),
            reaction => self.react(&state, reaction),
        }
    }

    fn on_data(&mut self, piece: &[u8]) {
        if let Some(state) = &self.sink
            && !piece.is_empty()
            && state.on_data(piece) == Reaction::Wake
        {
            self.touched.push(Arc::clone(state));
        }
    }

    fn on_frame(&mut self, frame: &Frame<'_>) {
        match *frame {
            Frame::Ping { nonce, pong: true } => self.link.on_pong(nonce),
            Frame::Ping { nonce, pong: false } => {
                self.answer(&Frame::Ping { nonce, pong: true }, Order::MayOvertake);
            }
            Frame::Query { nonce, window, query } => {
                let (caller, target) = (self.link.remote, self.link.local);
                self.answered = true;
                self.link.on_query(nonce, window, caller, target, query);
            }
            Frame::RelayQuery { caller, target, nonce, window, query } => {
                self.answered = true;
                match (Identity::from_bytes(caller), Identity::from_bytes(target)) {
                    (Ok(caller), Ok(target))
                        if caller == self.link.remote || self.link.trusts_relay =>
                    {
                        self.link.on_query(nonce, window, caller, target, query);
                    }
                    _ => self.link.reject(nonce, REJECTED),
                }
            }
            Frame::Response { nonce, code, window } => {
                if let Some(state) = self.session(nonce)
                    && state.on_response(code, window, self.link.profile)
                {
                    self.forget(&state);
                }
            }
            Frame::Read { nonce, bytes } => match self.session(nonce) {
                Some(state) => {
                    let reaction = state.on_read(bytes);
                    self.react(&state, reaction);
                }
                None => self.answer(&Frame::Reset { nonce }, Order::Behind),
            },
            Frame::Reset { nonce } => {
                if let Some(state) = self.session(nonce)
                    && state.on_reset()
                {
                    self.forget(&state);
                }
            }
            // No data frame comes here whole, and no session of ours migrates (spec §9.3).
            Frame::Data { .. } | Frame::Migrate { .. } => {}
        }
    }
}
