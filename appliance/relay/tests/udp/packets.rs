//! WireGuard packets as a relay sees them: right in shape, with random-looking insides.

use waystation_relay::udp::wireguard::{Mac1Key, PublicKey};

/// The public keys of the ends of legs A and B.
pub(crate) const KEYS: [PublicKey; 2] = [PublicKey([0xa1; 32]), PublicKey([0xb2; 32])];

/// A handshake initiation to the end with a public key.
pub(crate) fn initiation(sender: u32, to: &PublicKey) -> Vec<u8> {
    handshake(1, 148, &[sender], to)
}

/// The answer to one.
pub(crate) fn response(sender: u32, receiver: u32, to: &PublicKey) -> Vec<u8> {
    handshake(2, 92, &[sender, receiver], to)
}

pub(crate) fn cookie_reply(receiver: u32) -> Vec<u8> {
    packet(3, 64, &[receiver])
}

/// Transport data with so many bytes of payload, its tag not counted.
pub(crate) fn transport(receiver: u32, payload_bytes: usize) -> Vec<u8> {
    packet(4, 32 + payload_bytes, &[receiver])
}

fn handshake(kind: u8, bytes: usize, indices: &[u32], to: &PublicKey) -> Vec<u8> {
    let mut message = packet(kind, bytes, indices);
    Mac1Key::new(to).sign(&mut message);
    message
}

fn packet(kind: u8, bytes: usize, indices: &[u32]) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..bytes).map(|at| (at * 151 + 17) as u8).collect();
    packet[..4].copy_from_slice(&[kind, 0, 0, 0]);
    for (at, index) in indices.iter().enumerate() {
        packet[4 + 4 * at..8 + 4 * at].copy_from_slice(&index.to_le_bytes());
    }
    packet
}
