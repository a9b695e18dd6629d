//! What peers hear, compared with what the other side of each session has said.

use super::super::peer::decoder;
use super::{Session, State, WINDOW, World, pattern};
use waystation_astral::frame::{Decoded, Frame};

impl World {
    /// Returns whether anything came.
    pub(super) fn read(&mut self, peer: usize, most: usize) -> bool {
        if !self.peers[peer].alive {
            return false;
        }
        let bytes = self.network.borrow_mut().peer_reads(self.peers[peer].socket, most);
        let records = self.peers[peer].records(&bytes);
        let mut frames = std::mem::replace(&mut self.peers[peer].decoder, decoder());
        for record in records {
            let mut cursor = 0;
            while let Some(decoded) = frames.next(&record, &mut cursor).expect("a frame") {
                match decoded {
                    Decoded::Frame(frame) => self.on_frame(peer, &frame),
                    Decoded::Data { nonce, offset, bytes, .. } => {
                        self.on_data(peer, nonce, &record[offset..offset + bytes]);
                    }
                }
            }
        }
        self.peers[peer].decoder = frames;
        !bytes.is_empty()
    }

    fn on_frame(&mut self, peer: usize, frame: &Frame<'_>) {
        let found = self.peers[peer].sessions.get(&frame.nonce()).copied();
        match (*frame, found) {
            (Frame::Ping { nonce, pong: true }, _) => {
                let base = 1 << 50;
                assert!(nonce >= base && nonce - base < self.peers[peer].pongs_due);
                self.reach("pong");
            }
            (Frame::Query { nonce, window, query }, None) => {
                assert_eq!(u64::from(window), WINDOW);
                let caller: usize = std::str::from_utf8(query).unwrap().parse().unwrap();
                self.on_asked(peer, nonce, caller);
            }
            (Frame::Response { code, window, .. }, Some(session)) => {
                let entry = &mut self.sessions[session];
                assert_eq!(entry.state, State::Asked, "a second response");
                if code == 0 {
                    (entry.state, entry.credit) = (State::Open, u64::from(window));
                    self.reach("answered");
                } else {
                    self.close(session);
                    self.reach("rejected");
                }
            }
            (Frame::Read { bytes, .. }, Some(session)) => {
                let entry = &mut self.sessions[session];
                assert_eq!(entry.state, State::Open, "credit for a session that is not open");
                entry.credit += u64::from(bytes);
                assert!(entry.credit <= WINDOW, "more credit than the window");
            }
            (Frame::Reset { .. }, Some(session)) => self.on_reset(session),
            // Its session has ended, and that was on its way.
            (Frame::Read { .. } | Frame::Reset { .. } | Frame::Response { .. }, None) => {}
            (frame, found) => panic!("{frame:?} of {found:?}"),
        }
    }

    fn on_asked(&mut self, peer: usize, nonce: u64, caller: usize) {
        let number = self.sessions.len();
        let accepts = !self.one_in(6);
        let window = self.below(2 * WINDOW);
        let mut session = Session::new(peer, nonce, State::Open, window);
        (session.other, session.credit) = (Some(caller), WINDOW);
        (session.over, session.lossy) = (self.sessions[caller].over, self.sessions[caller].lossy);
        self.sessions.push(session);
        self.sessions[caller].other = Some(number);
        self.peers[peer].sessions.insert(nonce, number);
        let code = if accepts { 0 } else { 3 };
        if !accepts {
            self.close(number);
        }
        self.send(peer, &[Frame::Response { nonce, code, window: window as u32 }]);
    }

    fn on_reset(&mut self, session: usize) {
        let entry = &self.sessions[session];
        assert!(entry.over, "session {session} is reset for no reason");
        if let (State::Open, false, Some(other)) = (entry.state, entry.lossy, entry.other) {
            let sent = self.sessions[other].sent;
            let (whole, drops) = (entry.received == sent, || self.drops());
            assert!(whole, "{} of {sent} bytes: {:?}; {entry:?}", entry.received, drops());
        }
        self.close(session);
    }

    fn on_data(&mut self, peer: usize, nonce: u64, payload: &[u8]) {
        // What was on its way as the peer reset its session.
        let Some(&session) = self.peers[peer].sessions.get(&nonce) else { return };
        let entry = &self.sessions[session];
        assert_eq!(entry.state, State::Open, "data of session {session}");
        let other = entry.other.expect("data of nobody");
        let expected = pattern(other, entry.received, payload.len() as u64);
        assert!(payload == expected, "bytes of session {session} from {}", entry.received);
        let entry = &mut self.sessions[session];
        entry.received += payload.len() as u64;
        assert!(entry.received <= entry.granted, "beyond the peer's credit");
        self.delivered_bytes += payload.len() as u64;
    }
}
