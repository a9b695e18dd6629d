//! Carries the planner's decisions out: tasks that make connections, commands to data cores, and
//! answers to whoever dials by hand.
//!
//! Owned by the management core and used on its thread only, inside its tokio runtime. It waits for
//! nothing itself but in [`Dialer::next_connected`]. At most [`DialSettings::dials_max`] tasks run.

use super::DialSettings;
use super::connect::connect;
use super::counts::DialCounts;
use super::error::{DialCause, DialError};
use super::planner::{Action, PeerRow, Planner, RequestId, Surroundings};
use crate::directory::Directory;
use std::collections::BTreeMap;
use std::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_engine::control::{Command, DialId, Report};
use waystation_relay::ids::{CoreId, LinkTag};

/// How a dial by hand ended.
pub type DialAnswer = Result<LinkTag, DialError>;

/// A connection that was made, or not.
#[derive(Debug)]
pub struct Connected {
    dial: DialId,
    outcome: Result<TcpStream, DialCause>,
}

/// What a call may look at, and where it leaves its commands.
pub struct Around<'a> {
    pub now_ns: u64,
    /// Every open link; what a report says is in here already.
    pub directory: &'a Directory,
    /// Gives 64 unpredictable bits.
    pub random: &'a mut dyn FnMut() -> u64,
    pub commands: &'a mut Vec<(CoreId, Command)>,
}

impl std::fmt::Debug for Around<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Around").field("now_ns", &self.now_ns).finish_non_exhaustive()
    }
}

/// Outbound links of this node.
#[derive(Debug)]
pub struct Dialer {
    planner: Planner,
    connecting: JoinSet<Connected>,
    tasks: BTreeMap<DialId, AbortHandle>,
    answers: BTreeMap<RequestId, oneshot::Sender<DialAnswer>>,
    last_request: u64,
}

impl Dialer {
    /// A dialer for this node that dials nobody yet. `cores` is the number of data cores.
    pub fn new(identity: Identity, cores: usize) -> Self {
        Self {
            planner: Planner::new(identity, cores),
            connecting: JoinSet::new(),
            tasks: BTreeMap::new(),
            answers: BTreeMap::new(),
            last_request: 0,
        }
    }

    /// Takes up other settings, as [`Planner::set_settings`] says.
    pub fn set_settings(&mut self, around: &mut Around<'_>, settings: DialSettings) {
        self.plan(around, |planner, around| planner.set_settings(around, settings));
    }

    /// Dials by hand. The answer comes when there is a link, or none; a caller that does not wait
    /// for it changes nothing.
    pub fn request(
        &mut self,
        around: &mut Around<'_>,
        endpoint: Endpoint,
        identity: Identity,
    ) -> oneshot::Receiver<DialAnswer> {
        let (answer, receiver) = oneshot::channel();
        self.last_request += 1;
        let request = RequestId(self.last_request);
        self.answers.insert(request, answer);
        self.plan(around, |planner, around| planner.request(around, request, endpoint, identity));
        receiver
    }

    /// Takes one report, after the directory has.
    pub fn report(&mut self, around: &mut Around<'_>, report: &Report) {
        self.plan(around, |planner, around| planner.report(around, report));
    }

    /// Does what is due.
    pub fn tick(&mut self, around: &mut Around<'_>) {
        self.plan(around, Planner::tick);
    }

    /// When [`Self::tick`] next has something to do.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.planner.next_deadline_ns()
    }

    /// Waits for a connection, for [`Self::on_connected`]; for ever, if none is being made. May be
    /// dropped at any time without loss.
    pub async fn next_connected(&mut self) -> Connected {
        loop {
            match self.connecting.join_next().await {
                Some(Ok(connected)) => return connected,
                // One that was given up.
                Some(Err(_cancelled)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Hands a connection to a data core, or notes that there is none.
    pub fn on_connected(&mut self, around: &mut Around<'_>, connected: Connected) {
        let Connected { dial, outcome } = connected;
        self.tasks.remove(&dial);
        let (stream, outcome) = match outcome {
            Ok(stream) => (Some(stream), Ok(())),
            Err(cause) => {
                tracing::debug!(dial = dial.0, %cause, "not connected");
                (None, Err(cause))
            }
        };
        let handover =
            self.plan(around, |planner, around| planner.connect_ended(around, dial, outcome));
        if let (Some(handover), Some(stream)) = (handover, stream) {
            let (identity, network) = (handover.identity, handover.network);
            let initiate = Command::Initiate { dial, stream, identity, network };
            around.commands.push((handover.core, initiate));
        }
    }

    /// A link has changed cores.
    pub fn link_moved(&mut self, from: CoreId, to: CoreId) {
        self.planner.link_moved(from, to);
    }

    /// Gives everything up, because the program ends.
    pub fn stop(&mut self, around: &mut Around<'_>) {
        self.plan(around, Planner::stop);
    }

    /// Whether this identity is a configured peer: its links are to be kept.
    pub fn keeps(&self, identity: &Identity) -> bool {
        self.planner.keeps(identity)
    }

    /// Identities of the configured peers.
    pub fn kept(&self) -> impl Iterator<Item = &Identity> {
        self.planner.kept()
    }

    /// The configured peers and how they are doing.
    pub fn peers(&self, directory: &Directory) -> impl Iterator<Item = PeerRow> {
        self.planner.rows(directory)
    }

    /// What became of all dials so far.
    pub fn counts(&self) -> DialCounts {
        self.planner.counts()
    }

    fn plan<T>(
        &mut self,
        around: &mut Around<'_>,
        call: impl FnOnce(&mut Planner, &mut Surroundings<'_>) -> T,
    ) -> T {
        let mut actions = Vec::new();
        let mut surroundings = Surroundings {
            now_ns: around.now_ns,
            directory: around.directory,
            random: &mut *around.random,
            actions: &mut actions,
        };
        let result = call(&mut self.planner, &mut surroundings);
        for action in actions {
            self.act(around, action);
        }
        result
    }

    fn act(&mut self, around: &mut Around<'_>, action: Action) {
        match action {
            Action::Connect { dial, route } => {
                tracing::debug!(dial = dial.0, ?route, "connecting");
                let limit = self.planner.settings().connect_timeout;
                let task = self
                    .connecting
                    .spawn(async move { Connected { dial, outcome: connect(route, limit).await } });
                self.tasks.insert(dial, task);
            }
            Action::Abandon { dial } => {
                if let Some(task) = self.tasks.remove(&dial) {
                    task.abort();
                }
            }
            Action::Command { core, command } => around.commands.push((core, command)),
            Action::Answer { request, outcome } => {
                if let Some(answer) = self.answers.remove(&request) {
                    // Whoever asked may be gone.
                    let _ = answer.send(outcome);
                }
            }
        }
    }
}
