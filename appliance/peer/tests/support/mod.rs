//! Pairs of links for the tests, and a node that does what no good peer does.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test program includes this module and uses its own part of it"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;
use waystation_astral::brontide::{
    Initiator, Opener, RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES, Sealer, TAG_BYTES,
};
use waystation_astral::frame::{Decoded, Frame, FrameDecoder, Profile};
use waystation_astral::identity::SecretKey;
use waystation_astral::negotiation::{Dialer, Progress};
use waystation_peer::{Duplex, Link, LinkOptions, Session, Style};

/// Bound of every single step of a test.
pub const STEP: Duration = Duration::from_secs(10);

pub fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32]).unwrap()
}

#[derive(Clone, Debug)]
pub struct OptionsPair {
    pub dialer: LinkOptions,
    pub acceptor: LinkOptions,
}

impl OptionsPair {
    pub fn of(options: LinkOptions) -> Self {
        Self { dialer: options.clone(), acceptor: options }
    }

    pub fn profile(&self) -> Profile {
        self.dialer.profile.unwrap()
    }
}

/// Every profile with every pair of styles.
pub fn matrix() -> Vec<OptionsPair> {
    let mut all = Vec::new();
    for profile in [Profile::P0, Profile::P2, Profile::P4] {
        let of = |style| match style {
            Style::Coalesced => LinkOptions::with_profile(profile),
            Style::Stock => LinkOptions::stock(profile),
        };
        for dialer in [Style::Coalesced, Style::Stock] {
            for acceptor in [Style::Coalesced, Style::Stock] {
                all.push(OptionsPair { dialer: of(dialer), acceptor: of(acceptor) });
            }
        }
    }
    all
}

/// Dialer and acceptor over a Unix socket pair.
pub fn link_pair(options: &OptionsPair) -> (Link, Link) {
    let (near, far) = UnixStream::pair().unwrap();
    pair_over(near, far, options)
}

pub fn link_pair_over_tcp(options: &OptionsPair) -> (Link, Link) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    pair_over(near, far, options)
}

pub fn pair_over<N, F>(near: N, far: F, options: &OptionsPair) -> (Link, Link)
where
    N: Duplex,
    F: Duplex + Send + 'static,
{
    let acceptor_options = options.acceptor.clone();
    let accepting =
        thread::spawn(move || Link::accept_over(far, &key(2), &acceptor_options).unwrap());
    let dialer = Link::dial_over(near, &key(1), &key(2).identity(), &options.dialer).unwrap();
    (dialer, accepting.join().unwrap())
}

/// Opens a session whose target has a receive window of `window` bytes.
pub fn open_session(asking: &Link, asked: &Link, window: u32) -> (Session, Session) {
    let asked = asked.clone();
    let accepting = thread::spawn(move || asked.accept(STEP).unwrap().accept(window).unwrap());
    let caller = asking.query("test.session").unwrap();
    (caller, accepting.join().unwrap())
}

/// A pair of links with one session; the links come along so that they live as long.
pub fn sessions(options: &OptionsPair, window: u32) -> ((Link, Link), Session, Session) {
    let links = link_pair(options);
    let (caller, target) = open_session(&links.0, &links.1, window);
    (links, caller, target)
}

/// An owned frame, as far as the tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    Ping { nonce: u64, pong: bool },
    Query { nonce: u64, window: u32, query: Vec<u8> },
    Read { nonce: u64, bytes: u32 },
    Response { nonce: u64, code: u8, window: u32 },
    Data { nonce: u64, payload: Vec<u8> },
    Reset { nonce: u64 },
    Other,
}

/// The dialing end of a link, by hand: sends any bytes in any segmentation.
pub struct RawNode {
    stream: UnixStream,
    sealer: Sealer,
    opener: Opener,
    decoder: FrameDecoder,
    profile: Profile,
    got: std::collections::VecDeque<Got>,
}

impl RawNode {
    /// A raw node and the link it made with an ordinary acceptor.
    pub fn with_link(options: &LinkOptions) -> (Self, Link) {
        let (mut stream, far) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(STEP)).unwrap();
        let profile = options.profile.unwrap();
        let options = options.clone();
        let accepting = thread::spawn(move || Link::accept_over(far, &key(2), &options).unwrap());
        let mut initiator = Initiator::new(&key(1), &key(2).identity(), &key(3)).unwrap();
        stream.write_all(&initiator.act_one().unwrap()).unwrap();
        let mut act_two = [0; 50];
        stream.read_exact(&mut act_two).unwrap();
        let (act_three, transport) = initiator.act_two(&act_two).unwrap();
        stream.write_all(&act_three).unwrap();
        let mut node = Self {
            stream,
            sealer: transport.sealer,
            opener: transport.opener,
            decoder: FrameDecoder::new(profile),
            profile,
            got: std::collections::VecDeque::new(),
        };
        let mut dialer = Dialer::fixed(profile);
        loop {
            let plaintext = node.receive_record();
            let mut reply = Vec::new();
            let progress = dialer.receive(&plaintext, &mut reply).unwrap();
            if !reply.is_empty() {
                node.send_record(&reply);
            }
            if let Progress::Done(established) = progress {
                node.decode(&established.leftover);
                break;
            }
        }
        (node, accepting.join().unwrap())
    }

    pub fn send_record(&mut self, plaintext: &[u8]) {
        let mut record = vec![0; RECORD_OVERHEAD_BYTES + plaintext.len()];
        record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + plaintext.len()]
            .copy_from_slice(plaintext);
        self.sealer.seal_in_place(&mut record).unwrap();
        self.stream.write_all(&record).unwrap();
    }

    pub fn send(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode_to_vec(self.profile, &mut bytes).unwrap();
        self.send_record(&bytes);
    }

    /// The next frame.
    pub fn receive(&mut self) -> Got {
        loop {
            if let Some(got) = self.got.pop_front() {
                return got;
            }
            let plaintext = self.receive_record();
            self.decode(&plaintext);
        }
    }

    /// Whether the other side ended the connection.
    pub fn ended(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.stream.read(&mut byte), Ok(0))
    }

    fn receive_record(&mut self) -> Vec<u8> {
        let mut header = [0; RECORD_HEADER_BYTES];
        self.stream.read_exact(&mut header).unwrap();
        let body_bytes = self.opener.open_header(&header).unwrap();
        let mut body = vec![0; body_bytes + TAG_BYTES];
        self.stream.read_exact(&mut body).unwrap();
        self.opener.open_body(&mut body).unwrap();
        body.truncate(body_bytes);
        body
    }

    fn decode(&mut self, plaintext: &[u8]) {
        let mut cursor = 0;
        while let Some(decoded) = self.decoder.next(plaintext, &mut cursor).unwrap() {
            match decoded {
                Decoded::Data { nonce, offset, bytes, first, .. } => {
                    let piece = &plaintext[offset..offset + bytes];
                    match self.got.back_mut() {
                        Some(Got::Data { payload, .. }) if !first => {
                            payload.extend_from_slice(piece);
                        }
                        _ => self.got.push_back(Got::Data { nonce, payload: piece.to_vec() }),
                    }
                }
                Decoded::Frame(frame) => self.got.push_back(owned(&frame)),
            }
        }
    }
}

fn owned(frame: &Frame<'_>) -> Got {
    match *frame {
        Frame::Ping { nonce, pong } => Got::Ping { nonce, pong },
        Frame::Query { nonce, window, query } => {
            Got::Query { nonce, window, query: query.to_vec() }
        }
        Frame::Read { nonce, bytes } => Got::Read { nonce, bytes },
        Frame::Response { nonce, code, window } => Got::Response { nonce, code, window },
        Frame::Data { nonce, payload } => Got::Data { nonce, payload: payload.to_vec() },
        Frame::Reset { nonce } => Got::Reset { nonce },
        Frame::RelayQuery { .. } | Frame::Migrate { .. } => Got::Other,
    }
}
