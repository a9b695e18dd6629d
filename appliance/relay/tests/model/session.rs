//! What the reference knows about one session on one link, and where randomness comes from.

use waystation_relay::ids::LegTag;

/// Where a session is, as its peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The peer asked and waits for the response.
    Pending,
    /// We are to ask the peer; it has not heard of it.
    Unsent,
    /// We asked the peer, and it has not answered.
    Asked,
    /// As that, but it has reset the session before its answer.
    ResetEarly,
    Open,
    Closed,
}

/// Whose bytes a peer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feed {
    Nobody,
    /// Those of the peer of this session.
    Session(usize),
    /// Those the node itself writes.
    Node,
}

/// What the management core knows about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was never asked, or the session was not for it.
    None,
    /// It was asked and has not decided.
    Waiting(LegTag),
    /// It has rejected, answered or forgotten.
    Final,
    /// It has offered the query to the peer of that session.
    Offered,
    /// It takes input.
    Taking(LegTag),
    /// It was told that this has ended.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Session {
    /// The place of its link.
    pub(crate) link: usize,
    pub(crate) state: State,
    pub(crate) asked_ns: u64,
    /// No data may come before this time.
    pub(crate) hold_until_ns: u64,
    /// What its peer may still send us.
    pub(crate) credit: u64,
    pub(crate) sent: u64,
    /// What its peer has allowed us, and has got.
    pub(crate) granted: u64,
    pub(crate) received: u64,
    pub(crate) feed: Feed,
    /// The other session of a joined pair.
    pub(crate) partner: Option<usize>,
    /// What its peer answered, if it was asked.
    pub(crate) answer: Option<u8>,
    /// The code the management core rejected it with.
    pub(crate) rejected: Option<u8>,
    /// Something has happened because of which we may end it.
    pub(crate) over: bool,
    /// That may lose bytes on the way to its peer.
    pub(crate) lossy: bool,
    pub(crate) verdict: Verdict,
    /// Whether it is a query of the node itself, and whether the answer was told.
    pub(crate) own: bool,
    pub(crate) told: bool,
    pub(crate) written: u64,
    pub(crate) write_ended: bool,
    pub(crate) input_left: u64,
    /// Bytes handed up in all, and those credit was not returned for.
    pub(crate) handed: u64,
    pub(crate) unreturned: u64,
    /// The place of the quota that paces what its peer gets.
    pub(crate) pace: Option<usize>,
    /// A link of our own runs inside.
    pub(crate) inner: bool,
    /// The move that is under way.
    pub(crate) moving: Option<usize>,
}

impl Session {
    pub(crate) fn new(link: usize, state: State, granted: u64) -> Self {
        Self {
            link,
            state,
            asked_ns: 0,
            hold_until_ns: 0,
            credit: 0,
            sent: 0,
            granted,
            received: 0,
            feed: Feed::Nobody,
            partner: None,
            answer: None,
            rejected: None,
            over: false,
            lossy: false,
            verdict: Verdict::None,
            own: false,
            told: false,
            written: 0,
            write_ended: false,
            input_left: 0,
            handed: 0,
            unreturned: 0,
            pace: None,
            inner: false,
            moving: None,
        }
    }
}

/// The byte at a position of a stream: of a session's peer, or of the node on that session.
pub(crate) fn pattern(stream: u64, position: u64) -> u8 {
    let mixed = stream.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ position;
    (mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 40) as u8
}

/// Bytes of a stream from a position on.
pub(crate) fn bytes(stream: u64, position: u64, count: u64) -> Vec<u8> {
    (position..position + count).map(|position| pattern(stream, position)).collect()
}

/// The stream that the node writes on a session.
pub(crate) fn node_stream(session: usize) -> u64 {
    !(session as u64)
}
