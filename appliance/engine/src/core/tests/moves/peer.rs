//! One peer: the other end of a link, on a socket of the simulated network.

use crate::core::tests::SECRET;
use crate::port::simulated::{Network, SocketId};
use std::collections::BTreeMap;
use waystation_astral::brontide::{Initiator, Opener, RECORD_HEADER_BYTES, Sealer, TAG_BYTES};
use waystation_astral::frame::{FrameDecoder, Profile};
use waystation_astral::identity::SecretKey;
use waystation_astral::negotiation::{Dialer, Progress};
use waystation_relay::ids::LinkTag;

pub(super) const PROFILE: Profile = Profile::P4;

pub(super) struct Peer {
    pub(super) socket: SocketId,
    sealer: Sealer,
    opener: Opener,
    pub(super) decoder: FrameDecoder,
    /// What was read and is no whole record yet.
    inbox: Vec<u8>,
    body_bytes: Option<usize>,
    /// Its link, as the management core knows it.
    pub(super) tag: Option<LinkTag>,
    /// A move is under way, so no command may name it.
    pub(super) moving: bool,
    pub(super) alive: bool,
    /// Sessions by nonce.
    pub(super) sessions: BTreeMap<u64, usize>,
    pub(super) pongs_due: u64,
}

/// For the frames of a link.
pub(super) fn decoder() -> FrameDecoder {
    FrameDecoder::new(PROFILE)
}

/// A handshake and negotiation, with the cores' part in `turn`.
pub(super) fn establish(socket: SocketId, mut turn: impl FnMut() -> Reached) -> Peer {
    let gateway = SecretKey::from_bytes(&SECRET).unwrap().identity();
    let mut secret = [1; 32];
    secret[31] = socket.0 as u8;
    let secret = SecretKey::from_bytes(&secret).unwrap();
    let ephemeral = SecretKey::from_bytes(&[9; 32]).unwrap();
    let mut initiator = Initiator::new(&secret, &gateway, &ephemeral).unwrap();
    let mut bytes = Vec::new();
    let mut need = |bytes: &mut Vec<u8>, count: usize, send: &[u8]| {
        let mut reached = turn();
        reached.send(socket, send);
        for _ in 0..10_000 {
            if bytes.len() >= count {
                return;
            }
            bytes.extend(turn().read(socket));
        }
        panic!("no answer to a handshake");
    };
    need(&mut bytes, 50, &initiator.act_one().unwrap());
    let act_two: [u8; 50] = bytes[..50].try_into().unwrap();
    bytes.drain(..50);
    let (act_three, transport) = initiator.act_two(&act_two).unwrap();
    let mut peer = Peer {
        socket,
        sealer: transport.sealer,
        opener: transport.opener,
        decoder: decoder(),
        inbox: Vec::new(),
        body_bytes: None,
        tag: None,
        moving: false,
        alive: true,
        sessions: BTreeMap::new(),
        pongs_due: 0,
    };
    let mut dialer = Dialer::fixed(PROFILE);
    let mut send = act_three.to_vec();
    loop {
        let before = bytes.len();
        need(&mut bytes, before + 1, &send);
        send.clear();
        for record in peer.records(&bytes.split_off(0)) {
            let mut reply = Vec::new();
            let progress = dialer.receive(&record, &mut reply).unwrap();
            if !reply.is_empty() {
                send.extend(peer.seal(&reply));
            }
            if let Progress::Done(established) = progress {
                assert!(established.leftover.is_empty());
                need(&mut bytes, 0, &send);
                return peer;
            }
        }
    }
}

/// The network as a peer sees it after a turn.
pub(super) struct Reached(pub(super) std::rc::Rc<std::cell::RefCell<Network>>);

impl Reached {
    fn send(&mut self, socket: SocketId, bytes: &[u8]) {
        self.0.borrow_mut().peer_sends(socket, bytes.iter().copied());
    }

    fn read(&mut self, socket: SocketId) -> Vec<u8> {
        self.0.borrow_mut().peer_reads(socket, usize::MAX)
    }
}

impl Peer {
    pub(super) fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut record = vec![0; RECORD_HEADER_BYTES + plaintext.len() + TAG_BYTES];
        let body = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + plaintext.len();
        record[body].copy_from_slice(plaintext);
        self.sealer.seal_in_place(&mut record).unwrap();
        record
    }

    /// The plaintext of every record that is whole with these bytes. Each must open: a record that
    /// is lost, repeated or out of order does not.
    pub(super) fn records(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.inbox.extend_from_slice(bytes);
        let (mut records, mut cursor) = (Vec::new(), 0);
        loop {
            let rest = &mut self.inbox[cursor..];
            match self.body_bytes {
                None => {
                    let Some(header) = rest.first_chunk::<RECORD_HEADER_BYTES>() else { break };
                    let plaintext_bytes = self.opener.open_header(header).expect("a header");
                    self.body_bytes = Some(plaintext_bytes + TAG_BYTES);
                    cursor += RECORD_HEADER_BYTES;
                }
                Some(body_bytes) => {
                    let Some(body) = rest.get_mut(..body_bytes) else { break };
                    self.opener.open_body(body).expect("a body");
                    records.push(body[..body_bytes - TAG_BYTES].to_vec());
                    self.body_bytes = None;
                    cursor += body_bytes;
                }
            }
        }
        self.inbox.drain(..cursor);
        records
    }
}
