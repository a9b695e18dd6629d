//! What data cores and the management core tell each other: values only, through bounded rings.
//!
//! Commands go down and are carried out in order at the top of a turn. Reports go up; a report that
//! finds the ring full is counted, and its query is answered with code 1 on the spot. Nobody waits.

use crate::statistics::CoreStatistics;
use std::net::SocketAddr;
use waystation_astral::frame::Profile;
use waystation_astral::identity::Identity;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LegTag, LinkTag, SocketTag};

/// From the management core to one data core.
#[derive(Debug)]
pub enum Command {
    /// Rejects a pending local query with a code other than 0.
    Reject { leg: LegTag, code: u8 },
    /// Accepts a pending local query, sends these bytes as data within the caller's credit, then
    /// resets. Response and first data go out in one record (spec §11.2).
    Answer { leg: LegTag, bytes: Box<[u8]> },
    /// Drops a pending local query without an answer: a duplicate from another link of the caller.
    Forget { leg: LegTag },
    /// Opens a session on `target` with this query and joins it to `caller`, a pending local query
    /// on any core. Sent to the core of `target`. Accept, code or timeout travel back to `caller`
    /// without the management core.
    Offer { caller: LegTag, target: LinkTag, query: Box<[u8]> },
    /// Accepts a pending local query and runs our own responder inside the session (spec §11.1).
    TerminateInside { leg: LegTag },
    /// The nonce was that of a registration: keep the socket as an idle connection (spec §11.2).
    KeepIdle { socket: SocketTag },
    /// The nonce was that of a reservation: bring `caller` to the core of `idle`, hand `idle` off
    /// and join both to a raw pipe. Sent to the core of `caller`.
    JoinSockets { caller: SocketTag, idle: SocketTag },
    /// Closes a raw socket; idle connections get a clean end.
    CloseSocket { socket: SocketTag, reason: DropReason },
    /// Closes a link and every session on it.
    CloseLink { link: LinkTag },
    /// Sends [`Report::Statistics`], with histograms since the last such report. `recycled` is an
    /// earlier block, cleared.
    ReportStatistics { recycled: Option<Box<CoreStatistics>> },
    /// Fills the vectors up to their capacity and sends them back as [`Report::Listing`].
    ReportListing { listing: Box<Listing> },
    /// Closes everything and ends the thread.
    Shutdown,
}

/// From one data core to the management core.
#[derive(Debug)]
pub enum Report {
    /// A link finished its negotiation.
    LinkUp(LinkUp),
    /// A link ended; its sessions are reset already.
    LinkDown { link: LinkTag, identity: Identity, reason: Option<DropReason> },
    /// A connection ended before it became a link.
    HandshakeFailed { core: CoreId, remote: SocketAddr, reason: DropReason },
    /// A query to this node that a data core cannot answer itself.
    Query(Query),
    /// A caller reset its pending query before it was answered.
    QueryCancelled { leg: LegTag },
    /// A connection to the socket port presented a nonce and waits for a verdict.
    SocketPresented { socket: SocketTag, remote: SocketAddr, nonce: u64 },
    /// A raw socket that had presented a nonce ended, or became part of a pipe that ended.
    SocketClosed { socket: SocketTag, reason: Option<DropReason> },
    /// Answer to [`Command::ReportStatistics`], also sent once as the core starts.
    Statistics(Box<CoreStatistics>),
    /// Answer to [`Command::ReportListing`].
    Listing { core: CoreId, listing: Box<Listing> },
    /// [`Command::JoinSockets`] found no caller any more: this idle connection was not used.
    JoinFailed { idle: SocketTag },
    /// Something worth a debug line about one link; rate-limited at the core.
    Incident { link: LinkTag, reason: DropReason, nonce: u64 },
    /// The thread has ended; `error` says why if it was not asked to.
    Stopped { core: CoreId, error: Option<String> },
}

/// A link that finished its negotiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkUp {
    pub link: LinkTag,
    pub identity: Identity,
    pub profile: Profile,
    /// The link id of P2 and P4, chosen by the responder; of P0 a number of our own.
    pub link_id: u64,
    pub remote: SocketAddr,
    /// Our end of the connection: where this peer reaches us.
    pub local: SocketAddr,
    /// Whether it runs inside a session of another link.
    pub inner: bool,
}

/// A query to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub leg: LegTag,
    pub link: LinkTag,
    pub caller: Identity,
    pub profile: Profile,
    /// The session's nonce: raw-profile peers send one query on all their links (spec §9.2).
    pub nonce: u64,
    /// The query string, at most 65 535 bytes, not necessarily UTF-8.
    pub query: Box<[u8]>,
    /// Our end of the link's connection: the address this peer can dial.
    pub local: SocketAddr,
    /// The link runs inside a session of another link.
    pub inner: bool,
}

/// Links and sessions of one core, copied on request.
#[derive(Debug, Default)]
pub struct Listing {
    pub links: Vec<LinkRow>,
    pub sessions: Vec<SessionRow>,
    /// How many links and sessions there were, when more than the capacity given.
    pub links_total: usize,
    pub sessions_total: usize,
}

/// One link in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRow {
    pub link: LinkTag,
    pub identity: Identity,
    pub profile: Profile,
    pub link_id: u64,
    pub remote: SocketAddr,
    pub inner: bool,
    pub age_ns: u64,
    pub idle_ns: u64,
    pub sessions: u32,
    /// Payload of data frames.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub frames_in: u64,
    pub frames_out: u64,
    /// Bytes queued for this link and not yet handed to the kernel.
    pub queued_bytes: u64,
    /// The last round trip of our own ping, 0 before the first.
    pub ping_ns: u64,
}

/// What a session row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// A query answered by this node.
    Local,
    /// Asked by this side, piped to another leg.
    Caller,
    /// Offered to this side, piped from another leg.
    Target,
    /// A link of our own runs inside.
    Inner,
    /// One end of a raw socket pipe; `link` and `nonce` are zero.
    Socket,
}

/// One leg, or one end of a raw pipe, in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    pub leg: LegTag,
    pub link: LinkTag,
    pub nonce: u64,
    pub kind: SessionKind,
    pub identity: Identity,
    pub age_ns: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Bytes waiting for credit or for the link.
    pub queued_bytes: u64,
    /// Credit the other end has given us.
    pub send_credit_bytes: u64,
}
