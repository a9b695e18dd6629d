//! What data cores and the management core tell each other: values only, through bounded rings.
//!
//! Commands go down and are carried out in order at the top of a turn. Reports go up; a report that
//! finds the ring full is counted, and its query is answered with code 1 on the spot. Nobody waits.

use crate::core::{LinkState, OpaqueHandOver, OpaqueOpenError, OpaqueTakeOver, TurnHandOver};
use crate::offload::{Offloaded, PathChange, UdpOffloaded, UdpPath, UdpPathAnswer};
use crate::port::datagrams::UdpTier;
use crate::snapshot::CoreSnapshot;
use crate::statistics::CoreStatistics;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use waystation_astral::frame::Profile;
use waystation_astral::identity::Identity;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LegTag, LinkTag, SocketTag, UdpSessionTag};
use waystation_relay::leg::MigrationStep;
use waystation_relay::limiting::HeldUp;
use waystation_relay::quota::Quota;
use waystation_relay::switch::{MoveRefusal, Relayed};
use waystation_relay::udp::tier::TierChoice;
use waystation_relay::udp::{Evidence, LocalPort, Path, Settings};
use waystation_turn::transport::FiveTuple;

/// One attempt to make a link, named by the management core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(pub u64);

/// One query of our own, named by the management core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// One opaque UDP session to be opened, named by the management core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpaqueRequest(pub u64);

/// Over what a link runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A TCP connection of its own.
    Tcp,
    /// A connection that a Tor proxy made.
    Tor,
    /// A session of another link, or a raw pipe of another gateway (spec §11).
    Gateway,
}

impl Network {
    /// The name in listings and endpoints (spec §12, §13).
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tor => "tor",
            Self::Gateway => "gw",
        }
    }
}

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
    /// without the management core. With `relayed`, a P4 target gets a `relay_query` with these
    /// identities, any other a plain query (spec §10). `pace` is the quota of the caller's
    /// identity: what the caller sends passes no faster.
    Offer {
        caller: LegTag,
        target: LinkTag,
        query: Box<[u8]>,
        relayed: Option<Relayed>,
        pace: Option<Arc<Quota>>,
    },
    /// What this leg passes on to its own link was sent by an identity with this quota. Sent to the
    /// core of an offer's caller, before the offer, with the quota of the target's identity.
    Pace { leg: LegTag, pace: Arc<Quota> },
    /// Accepts a pending local query and takes up to `input_max_bytes` from its caller, which come
    /// as [`Report::Input`]; one byte more resets the session with `input_too_long`.
    Accept { leg: LegTag, input_max_bytes: u32 },
    /// Sends bytes within the peer's credit on an accepted local query or an answered query of our
    /// own; `end` resets the session behind them.
    Write { leg: LegTag, bytes: Box<[u8]>, end: bool },
    /// Asks the peer of a link on behalf of this node; its answer comes as [`Report::Asked`], and
    /// its data as [`Report::Input`], up to `input_max_bytes`.
    Ask { ask: AskId, link: LinkTag, query: Box<[u8]>, input_max_bytes: u32 },
    /// Resets a session and, if it is joined, its other leg.
    CloseSession { leg: LegTag, reason: DropReason },
    /// Begins to move a session of a peer, which asked for it by the local query `operation`, from
    /// one of its links to another (spec §9.3). Sent to the core of `to`;
    /// [`Report::Migration`] says what came of it.
    BeginMigration {
        operation: LegTag,
        from: Vec<LinkTag>,
        to: LinkTag,
        nonce: u64,
        peer_window: u32,
    },
    /// Lets what was held back for a moved session go on.
    ResumeMigrated { leg: LegTag },
    /// Makes a link as initiator on a connection that is established. Ends in
    /// [`Report::LinkUp`] or [`Report::DialFailed`].
    Initiate { dial: DialId, stream: TcpStream, identity: Identity, network: Network },
    /// Makes a link as initiator inside a session that this query opens on `link`
    /// (spec §11.2, step 5). Ends as [`Self::Initiate`] does.
    InitiateInside { dial: DialId, link: LinkTag, query: Box<[u8]>, identity: Identity },
    /// What the management core decided about a link that has come up: whose quota its sessions
    /// count against, and whether the idle-link policy leaves it alone.
    Govern { link: LinkTag, quota: Option<Arc<Quota>>, keep: bool },
    /// Takes up a new snapshot and acknowledges it with [`Report::Adopted`].
    Adopt { snapshot: Arc<CoreSnapshot> },
    /// Accepts a pending local query and runs our own responder inside the session (spec §11.1).
    TerminateInside { leg: LegTag },
    /// The nonce was that of a registration: keep the socket as an idle connection (spec §11.2).
    KeepIdle { socket: SocketTag },
    /// The nonce was that of a reservation: bring `caller` to the core of `idle`, hand `idle` off
    /// and join both to a raw pipe. Sent to the core of `caller`.
    /// What each side sends passes no faster than its identity's quota.
    JoinSockets {
        caller: SocketTag,
        idle: SocketTag,
        caller_quota: Option<Arc<Quota>>,
        idle_quota: Option<Arc<Quota>>,
    },
    /// Closes a raw socket; idle connections get a clean end.
    CloseSocket { socket: SocketTag, reason: DropReason },
    /// Moves a link to another core (decision 15). From when this is sent until
    /// [`Report::LinkMoved`], [`Report::LinkStayed`] or [`Report::LinkDown`] tells what came of it,
    /// no other command may name the link.
    MoveLink { link: LinkTag, to: CoreId },
    /// Closes a link and every session on it.
    CloseLink { link: LinkTag, reason: DropReason },
    /// Opens an opaque UDP session with the ports in its settings, which no other core has;
    /// [`Report::UdpOpened`] says what came of it.
    OpenUdp { request: OpaqueRequest, settings: Box<Settings> },
    /// Ends an opaque UDP session, with [`Report::UdpEnded`]. One that has ended has been reported.
    CloseUdp { session: UdpSessionTag },
    /// Sends [`Report::LinkTraffic`] about links over which something has passed since this was
    /// asked last.
    ReportLinkTraffic,
    /// Sends [`Report::Statistics`], with histograms since the last such report. `recycled` is an
    /// earlier block, cleared. `closes_interval`: an interval ends with it, and what listings say
    /// about intervals is from now on about that one.
    ReportStatistics { recycled: Option<Box<CoreStatistics>>, closes_interval: bool },
    /// Fills the vectors up to their capacity and sends them back as [`Report::Listing`].
    ReportListing { listing: Box<Listing> },
    /// From now on, sends [`Report::Paths`] and [`Report::UdpPaths`] about UDP that can be relayed
    /// without this core, beginning with all there is; or does so no longer.
    TellPaths { wanted: bool },
    /// What was relayed without this core.
    NoteOffloaded { offloaded: Box<[Offloaded]> },
    /// The same of opaque sessions.
    NoteUdpOffloaded { offloaded: Box<[UdpOffloaded]> },
    /// What came of [`Report::UdpPaths`].
    AnswerUdpPaths { answers: Box<[UdpPathAnswer]> },
    /// Takes in nobody new from now on, over any protocol, and closes what holds nothing: idle raw
    /// sockets at once, links as soon as they have had no session for a while. What is relayed goes
    /// on. TURN clients whose connection is there may still be let have an allocation.
    Drain { refuse_allocations: bool },
    /// Sends [`Report::UdpTold`] with all there is, and serves on; or forgets that it has told,
    /// because nobody goes on with it.
    TellUdp { wanted: bool },
    /// Leaves connections and datagrams in their sockets from now on, and sends [`Report::UdpTold`]
    /// with what has changed since [`Self::TellUdp`].
    HandOver,
    /// Serves again after [`Self::HandOver`], with one more descriptor of each listener for links,
    /// and for TURN clients.
    GoOn { links: Vec<TcpListener>, turn: Vec<TcpListener> },
    /// Forgets what [`Report::UdpTold`] and [`Report::LinksTold`] told: another process goes on with
    /// it.
    LetUdpGo,
    /// Takes up what another process had, and what has become of that, if told again. Goes on with
    /// it at once if that process has left datagrams waiting, otherwise once told to [`Self::Begin`];
    /// [`Report::UdpTaken`] says with how much.
    TakeUdpOver { from: Box<UdpTakeOver> },
    /// Listens, and serves everybody, on a core that was made held.
    Begin,
    /// Has all links stand still that run over a connection of their own, and answers how far that
    /// is with [`Report::LinksFrozen`]. Asked again, it says so again. Until [`Self::TellLinks`],
    /// [`Self::ThawLinks`] or [`Self::GoOn`] no other command may name a link.
    FreezeLinks { round: u64 },
    /// Lets all other links go on, and answers with [`Report::LinksTold`].
    TellLinks { links: Vec<LinkTag> },
    /// Lets links go on that stand still.
    ThawLinks,
    /// Takes links that another process had, which stand still until [`Self::Begin`]; answers with
    /// [`Report::LinksTaken`].
    TakeLinks { links: Vec<(Box<LinkState>, TcpStream)> },
    /// Forgets links that stand still without a word to their peers: another process has them.
    ForgetLinks,
    /// Closes everything and ends the thread.
    Shutdown,
}

impl Command {
    /// Replaces the tag of each link that it names.
    pub fn rename_links(&mut self, mut rename: impl FnMut(LinkTag) -> LinkTag) {
        match self {
            Self::Offer { target: link, .. }
            | Self::Ask { link, .. }
            | Self::InitiateInside { link, .. }
            | Self::Govern { link, .. }
            | Self::MoveLink { link, .. }
            | Self::CloseLink { link, .. } => *link = rename(*link),
            Self::BeginMigration { from, to, .. } => {
                *to = rename(*to);
                from.iter_mut().for_each(|link| *link = rename(*link));
            }
            Self::Reject { .. }
            | Self::Answer { .. }
            | Self::Forget { .. }
            | Self::Pace { .. }
            | Self::Accept { .. }
            | Self::Write { .. }
            | Self::CloseSession { .. }
            | Self::ResumeMigrated { .. }
            | Self::Initiate { .. }
            | Self::Adopt { .. }
            | Self::TerminateInside { .. }
            | Self::KeepIdle { .. }
            | Self::JoinSockets { .. }
            | Self::CloseSocket { .. }
            | Self::OpenUdp { .. }
            | Self::CloseUdp { .. }
            | Self::ReportLinkTraffic
            | Self::ReportStatistics { .. }
            | Self::ReportListing { .. }
            | Self::TellPaths { .. }
            | Self::NoteOffloaded { .. }
            | Self::Drain { .. }
            | Self::TellUdp { .. }
            | Self::HandOver
            | Self::GoOn { .. }
            | Self::LetUdpGo
            | Self::TakeUdpOver { .. }
            | Self::Begin
            | Self::FreezeLinks { .. }
            | Self::TellLinks { .. }
            | Self::ThawLinks
            | Self::TakeLinks { .. }
            | Self::ForgetLinks
            | Self::NoteUdpOffloaded { .. }
            | Self::AnswerUdpPaths { .. }
            | Self::Shutdown => {}
        }
    }
}

/// How far links of a core stand still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenLinks {
    pub core: CoreId,
    /// That of the command.
    pub round: u64,
    /// How many may still come to stand still if they are given time.
    pub busy: usize,
    /// Batches given to other cores and taken from them: when these are as many on all cores, twice
    /// in a row, nothing is on its way between cores.
    pub batches_sent: u64,
    pub batches_received: u64,
    /// Those that another process could go on with.
    pub links: Vec<FrozenLink>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenLink {
    pub link: LinkTag,
    /// The links that its sessions are joined to: core, and place there. Only together with these
    /// can it go on elsewhere.
    pub joined: Vec<(CoreId, u32)>,
    /// Bytes of payload that it takes along.
    pub bytes: usize,
    /// Bytes that its sessions take at most as they are written for another process.
    pub written_bytes_max: usize,
}

/// Why a link is not taken that another process had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkRefusal {
    /// The configuration allows fewer links or sessions, or less memory.
    #[error("link {0}: there is no room for it")]
    NoRoom(LinkTag),
    /// The other process has said what no link ever is.
    #[error("link {0}: what is told of it is no link")]
    Malformed(LinkTag),
}

/// What has passed over a link, both ways, by the core of the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkTraffic {
    pub link: LinkTag,
    /// In the order of the cores.
    pub bytes_by_core: Box<[u64]>,
}

/// What another process needs of a core to go on with its clients over datagrams, but for what it was
/// told already.
#[derive(Debug, Default)]
pub struct UdpHandOver {
    pub turn: TurnHandOver,
    pub opaque: OpaqueHandOver,
    /// Absent: datagrams do not wait, because this core serves on.
    pub paused: Option<UdpPaused>,
}

/// Since when datagrams wait for another process, on the machine's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdpPaused {
    pub since_ns: u64,
    /// When the core had told all that has changed.
    pub told_ns: u64,
    /// How long its thread was ready to run in between, and another one ran.
    pub processor_waited_ns: u64,
}

/// What a core goes on with that was another process's.
#[derive(Debug, Default)]
pub struct UdpTakeOver {
    pub turn: TurnHandOver,
    pub opaque: OpaqueTakeOver,
    /// Whether the other process's core serves no datagrams any more, and this one does from now on.
    pub serves: bool,
}

/// Since when a core serves the datagrams that another process has left in their sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpBegun {
    pub at_ns: u64,
    /// How long its thread was ready to run, and another one ran, since it was last told something.
    pub processor_waited_ns: u64,
}

/// With how much of it a core goes on.
#[derive(Debug, Default)]
pub struct UdpTaken {
    /// Of all allocations that the other process has by now, those that the configuration has no
    /// place for.
    pub allocations_left: usize,
    pub opaque: OpaqueTaken,
    /// Absent: it serves no datagrams yet.
    pub begun: Option<UdpBegun>,
}

/// Which opaque sessions a core has taken over.
#[derive(Debug, Default)]
pub struct OpaqueTaken {
    /// Each has the tag that it had.
    pub sessions: Vec<UdpSessionTag>,
    /// The others, and why they could not be.
    pub left: Vec<(UdpSessionTag, OpaqueOpenError)>,
    /// Those that are no more.
    pub ended: Vec<UdpSessionTag>,
}

/// From one data core to the management core.
#[derive(Debug)]
pub enum Report {
    /// A link finished its negotiation.
    LinkUp(LinkUp),
    /// A link ended; its sessions are reset already.
    LinkDown { link: LinkTag, identity: Identity, reason: Option<DropReason>, totals: LinkTotals },
    /// A link has changed cores, and with that its tag; or it is back, under a new tag too, because
    /// the other core had no room for it.
    LinkMoved { from: LinkTag, up: LinkUp, returned: Option<MoveRefusal> },
    /// A link was to change cores and has stayed.
    LinkStayed { link: LinkTag, refusal: MoveRefusal },
    /// A dial ended before it became a link.
    DialFailed { dial: DialId, reason: DropReason },
    /// A connection ended before it became a link.
    HandshakeFailed { core: CoreId, remote: SocketAddr, reason: DropReason },
    /// A query to this node that a data core cannot answer itself.
    Query(Query),
    /// A caller reset its pending query before it was answered.
    QueryCancelled { leg: LegTag },
    /// A query of our own was answered; only with code 0 there is a session, named by `leg`.
    Asked { ask: AskId, leg: LegTag, code: u8 },
    /// Bytes that came on an accepted local query, or on an answered query of our own.
    Input { leg: LegTag, bytes: Box<[u8]> },
    /// Such a session has ended: its peer reset it or its link is down, or what
    /// [`Command::Write`] was to end was sent.
    SessionEnded { leg: LegTag },
    /// A session that its peer wants on another link has taken a step.
    Migration { operation: LegTag, step: MigrationStep },
    /// [`Command::Adopt`] was carried out.
    Adopted { core: CoreId, epoch: u64 },
    /// A connection to the socket port presented a nonce and waits for a verdict.
    SocketPresented { socket: SocketTag, remote: SocketAddr, nonce: u64 },
    /// A raw socket that had presented a nonce ended, or became part of a pipe that ended.
    /// Bytes are those of the pipe, as this side received and sent them.
    SocketClosed {
        socket: SocketTag,
        reason: Option<DropReason>,
        bytes_in: u64,
        bytes_out: u64,
        age_ns: u64,
    },
    /// Answer to [`Command::OpenUdp`]. From then on, [`Report::UdpMoved`] tells of each change of
    /// its legs, and [`Report::UdpEnded`] of its end; legs with an address have it from the start.
    UdpOpened {
        request: OpaqueRequest,
        core: CoreId,
        result: Result<UdpSessionTag, OpaqueOpenError>,
    },
    /// The legs of an opaque UDP session are where they were not.
    UdpMoved(UdpMoved),
    /// An opaque UDP session has ended.
    UdpEnded(UdpEnded),
    /// Answer to [`Command::ReportStatistics`], also sent once as the core starts.
    Statistics(Box<CoreStatistics>),
    /// Answer to [`Command::ReportLinkTraffic`].
    LinkTraffic { core: CoreId, links: Vec<LinkTraffic> },
    /// UDP that can be relayed without this core, after [`Command::TellPaths`].
    Paths { core: CoreId, changes: Box<[PathChange]> },
    /// What holds of opaque sessions now, after the same command.
    UdpPaths { paths: Box<[UdpPath]> },
    /// Answer to [`Command::ReportListing`].
    Listing { core: CoreId, listing: Box<Listing> },
    /// [`Command::JoinSockets`] found no caller any more, or the caller ended on its way to another
    /// core: this idle connection was not used.
    JoinFailed { idle: SocketTag },
    /// Something worth a debug line about one link; rate-limited at the core.
    Incident { link: LinkTag, reason: DropReason, nonce: u64 },
    /// Answer to [`Command::TellUdp`], and to [`Command::HandOver`] when connections and datagrams
    /// wait in their sockets. An error is the kernel's refusal of a descriptor.
    UdpTold { core: CoreId, result: io::Result<Box<UdpHandOver>> },
    /// Answer to [`Command::FreezeLinks`].
    LinksFrozen(Box<FrozenLinks>),
    /// Answer to [`Command::TellLinks`]: they are as they will be when they go on. An error is the
    /// kernel's refusal of a descriptor.
    LinksTold { core: CoreId, result: io::Result<Vec<(Box<LinkState>, TcpStream)>> },
    /// Answer to [`Command::TakeLinks`]. After an error some may have been taken.
    LinksTaken { core: CoreId, result: Result<(), LinkRefusal> },
    /// Answer to [`Command::TakeUdpOver`].
    UdpTaken { core: CoreId, taken: Box<UdpTaken> },
    /// The thread has ended; `error` says why if it was not asked to.
    Stopped { core: CoreId, error: Option<String> },
}

/// Where the legs of an opaque UDP session are now. Moves that follow each other closely are told
/// as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpMoved {
    pub session: UdpSessionTag,
    /// Of leg A and leg B, as far as they are known.
    pub addresses: [Option<SocketAddr>; 2],
    /// How datagrams go while both are known: what a faster tier may carry.
    pub path: Option<Path>,
    /// Changes of address since it was told last.
    pub moves: u32,
    /// What showed the last of them; absent: an address was given up.
    pub by: Option<Evidence>,
}

/// The end of an opaque UDP session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpEnded {
    pub session: UdpSessionTag,
    pub reason: DropReason,
    /// What was sent to leg A and to leg B.
    pub datagrams: [u64; 2],
    /// The same in bytes of payload.
    pub bytes: [u64; 2],
    pub age_ns: u64,
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
    pub network: Network,
    /// The dial it comes from; absent for a link that the peer made.
    pub dial: Option<DialId>,
}

/// What passed over a link in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkTotals {
    /// Payload of data frames.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub frames_in: u64,
    pub frames_out: u64,
    pub age_ns: u64,
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
    /// For a `relay_query`: in whose name, and for whom (spec §10.3).
    pub relayed: Option<Relayed>,
}

/// Links and sessions of one core, copied on request.
#[derive(Debug, Default)]
pub struct Listing {
    /// Says what it was asked for; the core leaves it as it is.
    pub round: u64,
    /// Whose links and sessions to list; absent: everybody's, and raw pipes.
    pub only: Option<Identity>,
    pub links: Vec<LinkRow>,
    pub sessions: Vec<SessionRow>,
    /// How many links and sessions there were, when more than the capacity given.
    pub links_total: usize,
    pub sessions_total: usize,
    /// Allocations of the TURN server, whoever asked.
    pub allocations: Vec<AllocationRow>,
    pub allocations_total: usize,
    /// Opaque UDP sessions.
    pub opaque: Vec<OpaqueRow>,
    pub opaque_total: usize,
}

/// One opaque UDP session in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpaqueRow {
    pub session: UdpSessionTag,
    /// Whether only WireGuard passes.
    pub is_wireguard: bool,
    /// Leg A and leg B.
    pub legs: [OpaqueLegRow; 2],
    /// How its datagrams are moved, and why not by something faster.
    pub tier: TierChoice,
    pub age_ns: u64,
    pub dropped_datagrams: u64,
    /// Of both directions.
    pub datagrams_in_trains: u64,
    /// The same, sent as frames.
    pub datagrams_in_frames: u64,
    /// The same, relayed without this core.
    pub datagrams_offloaded: u64,
}

/// One leg of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpaqueLegRow {
    /// The port of this machine that its end sends to.
    pub port: LocalPort,
    /// Where its end is, if that is known.
    pub address: Option<SocketAddr>,
    /// Absent: nothing of it has passed yet.
    pub heard_ago_ns: Option<u64>,
    /// What has come from it and passed.
    pub datagrams_in: u64,
    pub bytes_in: u64,
    /// What was sent to it.
    pub datagrams_out: u64,
    pub bytes_out: u64,
}

/// One allocation of the TURN server in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocationRow {
    pub core: CoreId,
    pub client: FiveTuple,
    /// The name it authenticated with.
    pub username: Box<str>,
    /// What peers send to, of IPv4 and of IPv6.
    pub relayed: [Option<SocketAddr>; 2],
    pub permissions: usize,
    pub channels: usize,
    /// Until it ends unless it is refreshed.
    pub left_ns: u64,
    /// How datagrams for its client are sent.
    pub tier: UdpTier,
    pub datagrams_to_peers: u64,
    pub bytes_to_peers: u64,
    pub datagrams_to_client: u64,
    pub bytes_to_client: u64,
    /// Of both directions.
    pub datagrams_in_trains: u64,
    /// The same, as frames.
    pub datagrams_in_frames: u64,
    /// Of both directions, those that the XDP program relayed; told about once a second.
    pub datagrams_offloaded: u64,
    /// Directions of its channels that the XDP program relays.
    pub directions_offloaded: u32,
}

/// One link in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRow {
    pub link: LinkTag,
    pub identity: Identity,
    pub profile: Profile,
    pub link_id: u64,
    pub remote: SocketAddr,
    pub local: SocketAddr,
    pub inner: bool,
    pub network: Network,
    pub outbound: bool,
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
    /// In the last interval.
    pub held_up: HeldUp,
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
    /// Asked by this node itself.
    Own,
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
    /// Whether this node asked: its own queries, and queries it offered.
    pub outbound: bool,
    pub identity: Identity,
    /// The query string, cut after [`crate::limits::LISTED_QUERY_MAX_BYTES`].
    pub query: Box<[u8]>,
    pub age_ns: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Bytes waiting for credit or for the link.
    pub queued_bytes: u64,
    /// Credit the other end has given us.
    pub send_credit_bytes: u64,
    /// In the last interval.
    pub held_up: HeldUp,
}
