//! Pairs of links for the tests, and a node that does what no good peer does.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test program includes this module and uses its own part of it"
)]

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;
use waystation_astral::frame::{Frame, Profile};
use waystation_astral::identity::SecretKey;
pub use waystation_peer::Got;
use waystation_peer::{Duplex, HandLink, Link, LinkOptions, Session, Style};

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

/// The dialing end of a link, by hand: sends any bytes in any segmentation.
pub struct RawNode(HandLink<UnixStream>);

impl RawNode {
    /// A raw node and the link it made with an ordinary acceptor.
    pub fn with_link(options: &LinkOptions) -> (Self, Link) {
        let (stream, far) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(STEP)).unwrap();
        let profile = options.profile.unwrap();
        let options = options.clone();
        let accepting = thread::spawn(move || Link::accept_over(far, &key(2), &options).unwrap());
        let node = HandLink::dial(stream, &key(1), &key(2).identity(), profile).unwrap();
        (Self(node), accepting.join().unwrap())
    }

    pub fn send_record(&mut self, plaintext: &[u8]) {
        self.0.send_record(plaintext).unwrap();
    }

    pub fn send(&mut self, frame: &Frame<'_>) {
        self.0.send(frame).unwrap();
    }

    /// The next frame.
    pub fn receive(&mut self) -> Got {
        self.0.receive_any().unwrap()
    }

    /// Whether the other side ended the connection.
    pub fn ended(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.0.stream.read(&mut byte), Ok(0))
    }
}
