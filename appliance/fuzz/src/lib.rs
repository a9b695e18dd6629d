//! What must hold for any bytes that a peer or an operator may send: one function per decoder.
//!
//! Owns the properties and nothing else; a violated one panics. Tests replay the committed seeds,
//! and every vector of the specification, cut and with bits flipped; the package in `libfuzzer`
//! searches for inputs that nobody thought of. Nothing here opens a socket, a file or a clock.

#![forbid(unsafe_code)]

mod a2al;
mod brontide;
mod frames;
mod gateway;
mod management;
mod negotiation;
mod objects;
mod operations;
mod segments;
mod texts;
mod turn;
mod udp;

pub use a2al::{
    a2al_address, a2al_delegation, a2al_host, a2al_hub, a2al_message, a2al_payload, a2al_record,
    a2al_signal_frame, a2al_snapshot,
};
pub use brontide::{handshake, record};
pub use frames::{frame_p0, frame_p2, frame_p4};
pub use gateway::{idle, nonce};
pub use management::{config, stats_request};
pub use negotiation::{negotiation_accept, negotiation_dial};
pub use objects::{channel, object};
pub use operations::operation;
pub use texts::{endpoint, key_file, node_info};
pub use turn::{stun_message, turn_server, turn_stream};
pub use udp::{udp_sessions, wireguard_packet};

/// A function that panics when a property does not hold for the input.
pub type Target = fn(&[u8]);

/// Every target by name; seeds and fuzzing binaries carry the same names.
pub const TARGETS: [(&str, Target); 31] = [
    ("a2al_address", a2al_address),
    ("a2al_delegation", a2al_delegation),
    ("a2al_host", a2al_host),
    ("a2al_hub", a2al_hub),
    ("a2al_message", a2al_message),
    ("a2al_payload", a2al_payload),
    ("a2al_record", a2al_record),
    ("a2al_signal_frame", a2al_signal_frame),
    ("a2al_snapshot", a2al_snapshot),
    ("channel", channel),
    ("config", config),
    ("endpoint", endpoint),
    ("frame_p0", frame_p0),
    ("frame_p2", frame_p2),
    ("frame_p4", frame_p4),
    ("handshake", handshake),
    ("idle", idle),
    ("key_file", key_file),
    ("negotiation_accept", negotiation_accept),
    ("negotiation_dial", negotiation_dial),
    ("node_info", node_info),
    ("nonce", nonce),
    ("object", object),
    ("operation", operation),
    ("record", record),
    ("stats_request", stats_request),
    ("stun_message", stun_message),
    ("turn_server", turn_server),
    ("turn_stream", turn_stream),
    ("udp_sessions", udp_sessions),
    ("wireguard_packet", wireguard_packet),
];
