//! What peers send, read and expect.

use super::management::Standing;
use super::world::World;
use crate::core::tests::NONCE_FIRST_BYTE;
use crate::port::simulated::{PeerEnd, SocketId};
use std::collections::VecDeque;
use waystation_astral::gateway::{idle, nonce_object};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::SocketTag;

/// Peers of a sequence, at most.
const PEERS_MAX: usize = 10;
/// Bytes a peer thinks of at a time, at most.
const PAYLOAD_MAX_BYTES: u64 = 6000;

/// What a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A registered node that waits for callers.
    Node,
    Caller,
    /// Its first bytes are no nonce.
    Stranger,
    /// Its first byte is that of a link.
    Knocker,
    /// It never completes its nonce.
    Sleeper,
}

/// How a socket ended, as the management core was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) reason: Option<DropReason>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

pub(super) struct Peer {
    pub(super) socket: SocketId,
    pub(super) role: Role,
    pub(super) nonce: u64,
    preamble_bytes: usize,
    /// What it wants to send.
    queue: VecDeque<u8>,
    sent_bytes: u64,
    payload_queued_bytes: u64,
    pub(super) payload_received_bytes: u64,
    /// Of a node: what it has received and not understood yet.
    object: Vec<u8>,
    pings_queued: u64,
    pongs: u64,
    handed_off: bool,
    pub(super) acknowledged: bool,
    /// It has sent something else than its part of the protocol.
    pub(super) lies: bool,
    /// It never reads.
    pub(super) stalled: bool,
    /// It answers what asks for an answer.
    pub(super) answers: bool,
    pub(super) end: Option<PeerEnd>,
    /// The other side of the pipe it is to become part of.
    pub(super) partner: Option<usize>,
    /// The place of the quota that paces what it sends.
    pub(super) rate: Option<usize>,
    /// Whether both sides of a pipe were seen.
    pub(super) piped: bool,
    /// Whether its core knows that all it sent has come.
    pub(super) whole: bool,
    pub(super) standing: Standing,
    /// Its names on the cores, the last one last.
    pub(super) tags: Vec<SocketTag>,
    /// It has left a core and was not seen on another.
    pub(super) travels: bool,
    pub(super) ended: Option<Ended>,
}

impl Peer {
    /// Payload it has sent.
    pub(super) fn payload_sent_bytes(&self) -> u64 {
        self.payload_queued_bytes.saturating_sub(self.queue.len() as u64)
    }

    /// Whether it reads whatever comes until its connection ends.
    pub(super) fn reads_to_the_end(&self) -> bool {
        !self.stalled && matches!(self.end, None | Some(PeerEnd::Finished))
    }

    /// Whether it has shown its whole nonce.
    pub(super) fn has_presented(&self) -> bool {
        let presents = matches!(self.role, Role::Node | Role::Caller);
        presents && self.sent_bytes >= self.preamble_bytes as u64
    }
}

impl World {
    pub(super) fn connect(&mut self) {
        if self.peers.len() == PEERS_MAX {
            return;
        }
        let core = self.below(self.cores.len() as u64) as usize;
        let role = match self.below(24) {
            0..=9 => Role::Node,
            10..=20 => Role::Caller,
            21 => Role::Stranger,
            22 => Role::Knocker,
            _ => Role::Sleeper,
        };
        let nonce = NONCE_FIRST_BYTE | self.seed << 8 | self.peers.len() as u64;
        let preamble = self.preamble(role, nonce);
        let capacity_bytes = self.of(&[40, 300, 2000, 16_384]);
        let socket = self.network.borrow_mut().connect(core, capacity_bytes);
        self.peers.push(Peer {
            socket,
            role,
            nonce,
            preamble_bytes: preamble.len(),
            queue: preamble.into(),
            sent_bytes: 0,
            payload_queued_bytes: 0,
            payload_received_bytes: 0,
            object: Vec::new(),
            pings_queued: 0,
            pongs: 0,
            handed_off: false,
            acknowledged: false,
            lies: false,
            stalled: self.one_in(10),
            answers: true,
            end: None,
            partner: None,
            rate: None,
            piped: false,
            whole: false,
            standing: Standing::Unknown,
            tags: Vec::new(),
            travels: false,
            ended: None,
        });
    }

    fn preamble(&self, role: Role, nonce: u64) -> Vec<u8> {
        let raw = nonce.to_be_bytes().to_vec();
        let object = nonce_object(nonce).to_vec();
        match role {
            Role::Node if self.one_in(4) => object,
            Role::Node => raw,
            Role::Caller if self.one_in(4) => raw,
            Role::Caller => object,
            Role::Stranger => {
                let mut object = object;
                let place = 1 + self.below(11) as usize;
                object[place] ^= 1 << self.below(8);
                object
            }
            Role::Knocker => vec![0; 1 + self.below(60) as usize],
            Role::Sleeper => {
                let mut whole = if self.one_in(2) { raw } else { object };
                whole.truncate(self.below(8) as usize);
                whole
            }
        }
    }

    pub(super) fn somebody_acts(&mut self) {
        let open: Vec<_> =
            (0..self.peers.len()).filter(|&peer| self.peers[peer].end.is_none()).collect();
        if open.is_empty() {
            return;
        }
        let peer = self.of(&open);
        match self.below(100) {
            0..=46 => self.send(peer),
            47..=98 => {
                let bytes = self.of(&[1, 30, 1000, 1 << 20]);
                self.read(peer, bytes);
            }
            _ if self.calm => {}
            _ => self.end(peer),
        }
    }

    // Sending

    fn send(&mut self, peer: usize) {
        if self.peers[peer].queue.is_empty() {
            self.think(peer);
        }
        let waiting = self.peers[peer].queue.len() as u64;
        if waiting > 0 {
            let bytes = match self.below(3) {
                0 => 1 + self.below(waiting.min(9)),
                1 => 1 + self.below(waiting),
                _ => waiting,
            };
            self.send_queued(peer, bytes as usize);
        }
    }

    /// Sends everything a peer wants to send. Returns whether there was anything.
    pub(super) fn flush(&mut self, peer: usize) -> bool {
        let bytes = self.peers[peer].queue.len();
        if bytes == 0 || self.peers[peer].end.is_some() {
            return false;
        }
        self.send_queued(peer, bytes);
        true
    }

    fn send_queued(&mut self, peer: usize, bytes: usize) {
        let peer = &mut self.peers[peer];
        self.network.borrow_mut().peer_sends(peer.socket, peer.queue.drain(..bytes));
        peer.sent_bytes += bytes as u64;
    }

    /// Finds something to send.
    fn think(&mut self, peer: usize) {
        let Peer { role, acknowledged, handed_off, .. } = self.peers[peer];
        match role {
            Role::Node if !acknowledged => match self.below(30) {
                0..=2 => (0..=self.below(5)).for_each(|_| self.ping(peer)),
                3 => self.say(peer, idle::PONG),
                4 if !self.calm && self.one_in(3) => {
                    let words = self.of(&[b"?", idle::HANDOFF, idle::HANDOFF_ACK]);
                    self.peers[peer].lies = true;
                    self.say(peer, words);
                }
                5 if handed_off => self.acknowledge(peer),
                _ => {}
            },
            Role::Node | Role::Caller => {
                let bytes = 1 + self.below(PAYLOAD_MAX_BYTES);
                self.queue_payload(peer, bytes);
            }
            Role::Stranger | Role::Knocker => self.say(peer, b"and so on"),
            Role::Sleeper => {}
        }
    }

    fn say(&mut self, peer: usize, words: &[u8]) {
        self.peers[peer].queue.extend(words);
    }

    fn ping(&mut self, peer: usize) {
        self.peers[peer].pings_queued += 1;
        self.say(peer, idle::PING);
    }

    /// A node takes the connection it was handed; from here on everything is the caller's.
    fn acknowledge(&mut self, peer: usize) {
        if !self.peers[peer].acknowledged {
            self.say(peer, idle::HANDOFF_ACK);
            self.peers[peer].acknowledged = true;
            if self.one_in(2) {
                let bytes = 1 + self.below(PAYLOAD_MAX_BYTES);
                self.queue_payload(peer, bytes);
            }
        }
    }

    fn queue_payload(&mut self, peer: usize, bytes: u64) {
        let stream = self.stream(peer);
        let peer = &mut self.peers[peer];
        let from = peer.payload_queued_bytes;
        peer.queue.extend((from..from + bytes).map(|position| pattern(stream, position)));
        peer.payload_queued_bytes += bytes;
    }

    fn stream(&self, peer: usize) -> u64 {
        self.peers[peer].nonce
    }

    pub(super) fn end(&mut self, peer: usize) {
        if self.peers[peer].end.is_some() {
            return;
        }
        let end = match self.below(4) {
            0..=1 => PeerEnd::Finished,
            2 => PeerEnd::Closed,
            _ => PeerEnd::Reset,
        };
        if self.one_in(2) {
            self.flush(peer);
        }
        self.peers[peer].end = Some(end);
        let socket = self.peers[peer].socket;
        self.network.borrow_mut().peer_ends(socket, end);
    }

    // Reading

    /// Reads up to so many bytes and looks at them. Returns whether there were any.
    pub(super) fn read(&mut self, peer: usize, bytes: usize) -> bool {
        if self.peers[peer].stalled {
            return false;
        }
        let bytes = self.network.borrow_mut().peer_reads(self.peers[peer].socket, bytes);
        match self.peers[peer].role {
            _ if bytes.is_empty() => {}
            Role::Node => self.on_node_bytes(peer, &bytes),
            Role::Caller => self.on_payload(peer, &bytes),
            Role::Stranger | Role::Sleeper => panic!("{bytes:?} for nobody"),
            Role::Knocker => panic!("{bytes:?} for a handshake that cannot verify"),
        }
        !bytes.is_empty()
    }

    fn on_node_bytes(&mut self, peer: usize, bytes: &[u8]) {
        for (place, byte) in bytes.iter().enumerate() {
            if self.peers[peer].handed_off {
                self.on_payload(peer, &bytes[place..]);
                return;
            }
            self.peers[peer].object.push(*byte);
            let object = &self.peers[peer].object[..];
            let heard = [idle::PING, idle::PONG, idle::HANDOFF]
                .into_iter()
                .find(|whole| whole.starts_with(object));
            match heard {
                Some(heard) if heard == object => {
                    self.peers[peer].object.clear();
                    self.on_object(peer, heard);
                }
                Some(_) => {}
                // It has acknowledged a handoff for which there was no block.
                None if self.peers[peer].lies => self.peers[peer].stalled = true,
                None => panic!("{object:?} is nothing that a gateway says"),
            }
        }
    }

    fn on_object(&mut self, peer: usize, object: &[u8]) {
        let answers = self.peers[peer].answers;
        if object == idle::PING {
            self.reach("pinged");
            if answers && !self.one_in(4) {
                self.say(peer, idle::PONG);
                self.reach("ping answered");
            }
        } else if object == idle::PONG {
            let peer = &mut self.peers[peer];
            peer.pongs += 1;
            assert!(peer.pongs <= peer.pings_queued, "a pong to nothing");
        } else {
            self.reach("handed off");
            self.peers[peer].handed_off = true;
            assert!(self.peers[peer].partner.is_some(), "handed off to nobody");
            // Pings and pongs that cross the handoff are not answered (spec §11.2, trap a).
            match self.below(12) {
                0 => {}
                1 => self.ping(peer),
                2 => self.say(peer, idle::PONG),
                _ => {}
            }
            if answers && !self.one_in(10) {
                self.acknowledge(peer);
            }
        }
    }

    /// What comes through a pipe is what the other side sent, in order.
    fn on_payload(&mut self, peer: usize, bytes: &[u8]) {
        let partner = self.peers[peer].partner.expect("payload without a pipe");
        let stream = self.stream(partner);
        let from = self.peers[peer].payload_received_bytes;
        if !self.peers[partner].lies {
            for (position, byte) in (from..).zip(bytes) {
                assert_eq!(*byte, pattern(stream, position), "byte {position} of {partner}");
            }
            let until = from + bytes.len() as u64;
            assert!(until <= self.peers[partner].payload_sent_bytes(), "more than was sent");
        }
        self.peers[peer].payload_received_bytes += bytes.len() as u64;
        self.delivered_bytes += bytes.len() as u64;
    }
}

/// The byte at a position of what a peer sends.
fn pattern(stream: u64, position: u64) -> u8 {
    let mixed = stream.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ position;
    (mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 40) as u8
}
