//! Between whom a message travels.
//!
//! Owns the names of both ends; whoever reads sockets fills them in, on its data core.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How a client reaches the server. TLS would be one more stream, DTLS one more datagram transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Transport {
    /// A datagram is a message, and its source may be forged.
    Udp,
    /// Messages follow each other in a stream; its handshake proves where the client is.
    Tcp,
}

impl Transport {
    /// Whether messages follow each other in a stream, and are padded there.
    pub fn is_stream(self) -> bool {
        self == Self::Tcp
    }
}

/// What an allocation is found by (RFC 8656 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FiveTuple {
    /// How they reach each other.
    pub transport: Transport,
    /// The client's address as the server sees it.
    pub client: SocketAddr,
    /// The server's address that the client sent to.
    pub server: SocketAddr,
}
