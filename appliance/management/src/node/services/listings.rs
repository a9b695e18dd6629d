//! Listings of links and sessions for peers, which the data cores have to be asked for (spec §13).
//!
//! Owned by the node on the management thread. Queries wait here, one is worked on at a time, and
//! pauses between them bound what peers can cost a data core. A query that would wait for too long
//! gets code 1; it must never stay without an answer, and never change what it asks about.

use crate::directory::Directory;
use crate::node::limits::{
    HIGH_PRESSURE_BYTES, LISTED_ROWS_MAX, LISTING_PAUSE_NS, LISTING_TIMEOUT_NS,
    LISTINGS_PER_PEER_MAX, LISTINGS_WAITING_MAX, OPERATOR_ROUND,
};
use crate::node::services::Era;
use crate::node::verdict::{self, Verdict};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use waystation_astral::endpoint::Endpoint;
use waystation_astral::frame::Profile;
use waystation_astral::identity::Identity;
use waystation_astral::object::{AnswerObject, AnswerWriter, Encoding};
use waystation_astral::objects::{Empty, LinkInfo, SessionInfo, StreamEra, StreamInfo};
use waystation_engine::control::{
    Command, LinkRow, LinkUp, Listing, Network, SessionKind, SessionRow,
};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LegTag, LinkTag};

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// As `mod.nodes.link_info`.
    Links,
    /// As `mod.nodes.stream_info`.
    Streams,
    /// As `mod.nodes.session_info`.
    Sessions,
}

/// A query that waits for its listing.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) leg: LegTag,
    /// Whose link it came on.
    pub(crate) peer: Identity,
    /// Whose links and sessions it may see; `None`: everybody's.
    pub(crate) view: Option<Identity>,
    pub(crate) listed: Listed,
    pub(crate) output: Encoding,
    pub(crate) era: Era,
    pub(crate) profile: Profile,
}

#[derive(Debug)]
struct Round {
    number: u64,
    /// Absent once its caller has gone.
    waiting: Option<Waiting>,
    missing: BTreeSet<CoreId>,
    links: BTreeMap<LinkTag, LinkRow>,
    sessions: Vec<SessionRow>,
    deadline_ns: u64,
}

/// The queue, and the listing under way.
#[derive(Debug)]
pub(crate) struct Listings {
    cores: usize,
    queue: VecDeque<Waiting>,
    round: Option<Round>,
    rounds: u64,
    /// When the next one may begin.
    ready_ns: u64,
}

impl Listings {
    /// An empty queue in front of so many cores.
    pub(crate) fn new(cores: usize) -> Self {
        Self { cores, queue: VecDeque::new(), round: None, rounds: OPERATOR_ROUND, ready_ns: 0 }
    }

    /// Takes a query into the queue. `false`: there is no room for it.
    pub(crate) fn wait(&mut self, waiting: Waiting) -> bool {
        let of_peer = self.queue.iter().filter(|other| other.peer == waiting.peer).count();
        let has_room = of_peer < LISTINGS_PER_PEER_MAX && self.queue.len() < LISTINGS_WAITING_MAX;
        if has_room {
            self.queue.push_back(waiting);
        }
        has_room
    }

    /// Forgets a query whose caller has gone.
    pub(crate) fn cancel(&mut self, leg: LegTag) {
        self.queue.retain(|waiting| waiting.leg != leg);
        if let Some(round) = &mut self.round {
            round.waiting = round.waiting.take().filter(|waiting| waiting.leg != leg);
        }
    }

    /// Begins the next listing if it is time.
    pub(crate) fn begin(&mut self, now_ns: u64, out: &mut Vec<(CoreId, Command)>) {
        if self.round.is_some() || now_ns < self.ready_ns {
            return;
        }
        let Some(waiting) = self.queue.pop_front() else { return };
        self.rounds += 1;
        self.ready_ns = now_ns.saturating_add(LISTING_PAUSE_NS);
        let missing: BTreeSet<_> =
            (0..self.cores).map(|core| CoreId(u16::try_from(core).unwrap_or(u16::MAX))).collect();
        for core in &missing {
            let listing = Box::new(Listing {
                round: self.rounds,
                only: waiting.view,
                links: rows_for(waiting.listed != Listed::Sessions),
                sessions: rows_for(waiting.listed == Listed::Sessions),
                ..Listing::default()
            });
            out.push((*core, Command::ReportListing { listing }));
        }
        self.round = Some(Round {
            number: self.rounds,
            waiting: Some(waiting),
            missing,
            links: BTreeMap::new(),
            sessions: Vec::new(),
            deadline_ns: now_ns.saturating_add(LISTING_TIMEOUT_NS),
        });
    }

    /// Takes in what a core lists. Gives the answer when it was the last one.
    pub(crate) fn take_in(
        &mut self,
        core: CoreId,
        listing: &Listing,
        own: Identity,
        directory: &Directory,
    ) -> Option<(LegTag, Verdict)> {
        let round = self.round.as_mut().filter(|round| round.number == listing.round)?;
        if !round.missing.remove(&core) {
            return None;
        }
        round.links.extend(listing.links.iter().map(|row| (row.link, row.clone())));
        let sessions = listing.sessions.iter().filter(|row| row.kind != SessionKind::Socket);
        round.sessions.extend(sessions.cloned());
        if !round.missing.is_empty() {
            return None;
        }
        let round = self.round.take()?;
        let waiting = round.waiting.as_ref()?;
        Some((waiting.leg, round.answer(waiting, own, directory)))
    }

    /// Gives up on a listing that takes too long: its query, which gets code 1.
    pub(crate) fn expire(&mut self, now_ns: u64) -> Option<LegTag> {
        self.round.as_ref().filter(|round| round.deadline_ns <= now_ns)?;
        Some(self.round.take()?.waiting?.leg)
    }

    /// When [`Self::begin`] or [`Self::expire`] next has something to do.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        match &self.round {
            Some(round) => Some(round.deadline_ns),
            None => (!self.queue.is_empty()).then_some(self.ready_ns),
        }
    }

    /// Queries that wait, the one being worked on included.
    pub(crate) fn len(&self) -> usize {
        let at_work = self.round.as_ref().is_some_and(|round| round.waiting.is_some());
        self.queue.len() + usize::from(at_work)
    }
}

fn rows_for<T>(wanted: bool) -> Vec<T> {
    if wanted { Vec::with_capacity(LISTED_ROWS_MAX) } else { Vec::new() }
}

impl Round {
    fn answer(&self, waiting: &Waiting, own: Identity, directory: &Directory) -> Verdict {
        let ends = waiting.era == Era::New;
        let mut writer = AnswerWriter::new(waiting.output);
        match waiting.listed {
            Listed::Sessions => {
                for session in self.session_infos(directory) {
                    put(&mut writer, &session);
                }
            }
            Listed::Links => {
                for up in directory.oldest_first(waiting.view.as_ref(), LISTED_ROWS_MAX) {
                    put(&mut writer, &self.link_info(own, up, waiting.profile));
                }
            }
            Listed::Streams => {
                let era = match (waiting.profile, waiting.era) {
                    (Profile::P0, _) => StreamEra::P0,
                    (_, Era::Old) => StreamEra::Early,
                    (_, Era::New) => StreamEra::Late,
                };
                for up in directory.oldest_first(waiting.view.as_ref(), LISTED_ROWS_MAX) {
                    let link = self.link_info(own, up, waiting.profile);
                    put(&mut writer, &StreamInfo { link, era });
                }
            }
        }
        if ends {
            put(&mut writer, &Empty::Eos);
        }
        verdict::Verdict::Answer(writer.into_bytes())
    }

    fn link_info(&self, own: Identity, up: &LinkUp, profile: Profile) -> LinkInfo {
        let row = self.links.get(&up.link);
        // The addresses of a link inside another connection are not those of its ends; P0 has no
        // way to say that there are none.
        let shown = up.network == Network::Tcp && !up.inner || profile == Profile::P0;
        LinkInfo {
            id: up.link_id,
            local_identity: own,
            remote_identity: up.identity,
            local_endpoint: shown.then_some(Endpoint::Tcp(up.local)),
            remote_endpoint: shown.then_some(Endpoint::Tcp(up.remote)),
            outbound: up.dial.is_some(),
            network: up.network.name().to_owned(),
            high_pressure: row.is_some_and(|row| row.queued_bytes >= HIGH_PRESSURE_BYTES),
            throughput_bytes: row.map_or(0, |row| row.bytes_in + row.bytes_out),
        }
    }

    /// Sessions on links, the oldest first.
    fn session_infos(&self, directory: &Directory) -> Vec<SessionInfo> {
        let mut infos: Vec<_> = self
            .sessions
            .iter()
            .map(|row| SessionInfo {
                id: row.nonce,
                link_id: directory.get(row.link).map_or(0, |up| up.link_id),
                remote_identity: row.identity,
                outbound: row.outbound,
                query: row.query.to_vec(),
                bytes: row.bytes_in + row.bytes_out,
                age_ns: row.age_ns,
            })
            .collect();
        infos.sort_by_key(|info| std::cmp::Reverse(info.age_ns));
        infos.truncate(LISTED_ROWS_MAX);
        infos
    }
}

/// What has no form in the caller's encoding is left out, and the rest stays readable.
fn put(writer: &mut AnswerWriter, object: &dyn AnswerObject) {
    let written = writer.write(object);
    debug_assert!(written.is_ok(), "{written:?}");
}

/// Why a listing was refused.
pub(crate) const REFUSED: DropReason = DropReason::ManagementBusy;
