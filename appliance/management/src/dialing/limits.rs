//! Bounds of outbound links, each with its unit and derivation.
//!
//! The number of peers and of their endpoints is bounded by the configuration. Values only.

use std::time::Duration;

/// Dials at a time when the configuration does not say: a stock node has 8 workers (spec §9.1).
pub const DIALS_MAX: usize = 8;
/// How long a connection may take when the configuration does not say: four SYNs of Linux, at 0, 1,
/// 3 and 7 s, with twice as long for the last one; most circuits of Tor are made by then too.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The first bound of the pause between two rounds when the configuration does not say; a stock
/// node's link to its gateway starts so (spec §11.2).
pub const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The last bound of that pause when the configuration does not say: whoever comes back is dialed
/// within so long, and until then costs four connections a minute.
pub const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// Dials at a time for one peer: half of the default total, so that one peer with many dead
/// endpoints leaves as much to all others.
pub const DIALS_PER_PEER_MAX: usize = 4;
/// Dials by hand at a time, waiting ones included: an operator's script in a loop.
pub const REQUESTS_MAX: usize = 16;
/// How long an endpoint is alone before the next one joins the race (RFC 8305 §5: 250 ms). Without
/// it most races would end with surplus links.
pub const STAGGER_NS: u64 = 250_000_000;
/// A link that lived so long was a good one: its peer's pauses start from the least again. Longer
/// than a peer takes that makes a link, finds that it does not want it and closes it.
pub const LINK_SETTLED_NS: u64 = 10_000_000_000;
/// How long a gateway may take to answer `node_connect`: a stock operation answers within 5 s
/// (spec §17), and as much for the way. Late P2 sometimes never answers (spec §23).
pub const ASK_TIMEOUT_NS: u64 = 10_000_000_000;
/// How long a gateway endpoint waits for the link to its gateway that is being dialed: a connect
/// and a handshake with their default limits.
pub const GATEWAY_LINK_TIMEOUT_NS: u64 = 20_000_000_000;
/// How long a data core may keep a handed dial: it ends handshakes and sessions that are not
/// answered far earlier; one that never ends must not keep its place.
pub const LINK_TIMEOUT_NS: u64 = 180_000_000_000;
/// Bytes of an answer to `node_connect`: a socket object has at most 1048, an error object has a
/// text, which is kept to 4 KiB as in a negotiation.
pub const ASK_INPUT_MAX_BYTES: u32 = 4096;
/// Bytes of a gateway's text that an error keeps.
pub const TEXT_MAX_BYTES: usize = 200;
