//! What is told about configured peers.

use super::super::error::DialError;
use super::{Planner, Stage};
use crate::directory::Directory;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;

/// One configured peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRow {
    pub identity: Identity,
    pub endpoints: Vec<Endpoint>,
    pub state: PeerState,
    /// Dials started for it since it was configured.
    pub dials: u64,
    /// Rounds without a link, and links that ended soon, since the last good link.
    pub failures: u32,
    /// Why the last round was without a link; gone with the next link.
    pub last_error: Option<DialError>,
}

/// How a configured peer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It has so many links, whoever made them.
    Linked { links: usize },
    /// Its endpoints are being dialed: so many now.
    Dialing { dials: usize },
    /// The next round begins at this time of the monotonic clock.
    Waiting { until_ns: u64 },
    /// It has no endpoint and is not linked.
    Awaited,
}

impl PeerState {
    /// The name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linked { .. } => "linked",
            Self::Dialing { .. } => "dialing",
            Self::Waiting { .. } => "waiting",
            Self::Awaited => "awaited",
        }
    }
}

impl Planner {
    /// The configured peers in order of identity.
    pub fn rows(&self, directory: &Directory) -> impl Iterator<Item = PeerRow> {
        self.kept.iter().map(move |(identity, kept)| {
            let links = directory.best_first(identity).count();
            let dials = self.dials.values().filter(|dial| dial.race.is_some());
            let state = match (links, kept.race, kept.due_ns) {
                (0, Some(race), _) => PeerState::Dialing {
                    dials: dials.filter(|dial| dial.race == Some(race)).count(),
                },
                (0, None, Some(until_ns)) => PeerState::Waiting { until_ns },
                (0, None, None) => PeerState::Awaited,
                (links, ..) => PeerState::Linked { links },
            };
            PeerRow {
                identity: *identity,
                endpoints: kept.endpoints.clone(),
                state,
                dials: kept.dials,
                failures: kept.failures,
                last_error: kept.last_error.clone(),
            }
        })
    }

    /// Identities of the configured peers.
    pub fn kept(&self) -> impl Iterator<Item = &Identity> {
        self.kept.keys()
    }

    /// Connections under way, for which there is a task.
    pub fn connecting(&self) -> usize {
        let connecting = |stage: &Stage| matches!(stage, Stage::Connecting | Stage::Presenting);
        self.dials.values().filter(|dial| connecting(&dial.stage)).count()
    }
}
