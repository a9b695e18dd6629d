//! The two ends of a flow, whatever carries it: a session or a plain connection.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use waystation_peer::{Link, SentStatistics, SessionReader, SessionWriter};

/// Bytes a plain connection's sender collects before it writes.
const STREAM_BATCH_BYTES: usize = 64 * 1024;

/// The sending half: messages are laid down and written together.
pub enum Sender {
    Session(SessionWriter),
    Stream { stream: TcpStream, waiting: Vec<u8> },
}

impl Sender {
    /// A sender on a plain connection.
    pub fn stream(stream: TcpStream) -> Self {
        Self::Stream { stream, waiting: Vec::with_capacity(2 * STREAM_BATCH_BYTES) }
    }

    /// Lays a message down.
    ///
    /// # Errors
    ///
    /// When the other side or the relay ended the flow.
    pub fn put(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Session(writer) => writer.write_all_deferred(message),
            Self::Stream { waiting, .. } => {
                waiting.extend_from_slice(message);
                if waiting.len() >= STREAM_BATCH_BYTES { self.flush() } else { Ok(()) }
            }
        }
    }

    /// Writes what was laid down.
    ///
    /// # Errors
    ///
    /// As [`Sender::put`].
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Session(writer) => writer.flush(),
            Self::Stream { stream, waiting } => {
                let written = stream.write_all(waiting);
                waiting.clear();
                written
            }
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Session(_) => "Sender::Session",
            Self::Stream { .. } => "Sender::Stream",
        })
    }
}

/// The receiving half, with reads that end after a bounded time.
#[derive(Debug)]
pub enum Source {
    Session(SessionReader),
    Stream(TcpStream),
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Session(reader) => reader.read(buffer),
            Self::Stream(stream) => stream.read(buffer),
        }
    }
}

/// One end of a flow.
#[derive(Debug)]
pub struct End {
    pub sender: Sender,
    pub source: Source,
    /// The link to the relay that carries this end, for its statistics.
    pub carrier: Option<Link>,
    /// Links that have to live as long as the flow.
    pub kept: Vec<Link>,
}

impl End {
    /// What the link to the relay has sent; nothing when a plain connection carries the flow.
    pub fn sent(&self) -> SentStatistics {
        self.carrier.as_ref().map(Link::sent).unwrap_or_default()
    }
}
