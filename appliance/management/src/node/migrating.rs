//! Sessions that a peer moves from one of its links to another (spec §9.3, third form).
//!
//! Owned by the node on the management thread. The peer leads over a channel of its own, the local
//! query `nodes.migrate_session`; the data core does what the signals say. Sans-IO: reports and
//! the time come in, commands go out. A peer that stops half-way loses the session, not more: what
//! it has been told on the old link cannot be taken back.

use super::limits::{
    MIGRATION_INPUT_MAX_BYTES, MIGRATION_SIGNAL_MAX_BYTES, MIGRATION_TIMEOUT_NS, MIGRATIONS_MAX,
    MIGRATIONS_PER_PEER_MAX,
};
use crate::directory::Directory;
use std::collections::{BTreeMap, VecDeque};
use waystation_astral::frame::Profile;
use waystation_astral::identity::Identity;
use waystation_astral::object::{
    AnswerObject, AnswerWriter, ChannelForm, Encoding, ObjectReader, type_names,
};
use waystation_astral::objects::{ErrorMessage, MigrateSignal, Migration};
use waystation_engine::control::{Command, Query};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LegTag, LinkTag};
use waystation_relay::leg::MigrationStep;

/// What a peer is told whose session stays where it is.
const NOT_MOVED: &str = "session cannot move to that link";
/// What a peer is told whose session is lost.
const LOST: &str = "migration failed";

/// Every migration under way, by the leg of the query that asked for it.
#[derive(Debug, Default)]
pub(super) struct Migrating {
    running: BTreeMap<LegTag, Running>,
    /// In order of time; entries of what is over are passed by.
    deadlines: VecDeque<(u64, LegTag)>,
    done: u64,
}

/// The channel of one migration, in both directions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) input: ChannelForm,
    pub(super) output: Encoding,
}

#[derive(Debug)]
struct Running {
    peer: Identity,
    reader: ObjectReader,
    output: Encoding,
    from: Vec<LinkTag>,
    to: LinkTag,
    nonce: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The peer has not said `ready`.
    Asked,
    /// The core was told to begin.
    Beginning,
    /// Both are to come: the peer's marker on the old link, and its `resume`.
    Switched { session: LegTag, arrived: bool, resumed: bool },
}

impl Migrating {
    /// Takes a query that asks for a migration, and gives how many bytes its channel may bring.
    ///
    /// # Errors
    /// Why the session stays where it is; the query is to be rejected.
    pub(super) fn ask(
        &mut self,
        now_ns: u64,
        directory: &Directory,
        query: &Query,
        (link_id, nonce): (u64, u64),
        channel: Channel,
    ) -> Result<u32, DropReason> {
        // Earlier profiles use earlier forms, which the specification gives in outline only.
        if query.profile != Profile::P4 {
            return Err(DropReason::MigrationRefused);
        }
        let of_peer = self.running.values().filter(|run| run.peer == query.caller).count();
        if of_peer >= MIGRATIONS_PER_PEER_MAX || self.running.len() >= MIGRATIONS_MAX {
            return Err(DropReason::ManagementBusy);
        }
        let links = || directory.best_first(&query.caller);
        let to = links().find(|up| up.link_id == link_id).map(|up| up.link);
        let to = to.ok_or(DropReason::MigrationRefused)?;
        let from =
            links().map(|up| up.link).filter(|link| link.core == to.core && *link != to).collect();
        let reader = ObjectReader::new(channel.input, MIGRATION_SIGNAL_MAX_BYTES);
        let (output, peer, stage) = (channel.output, query.caller, Stage::Asked);
        let run = Running { peer, reader, output, from, to, nonce, stage };
        self.running.insert(query.leg, run);
        self.deadlines.push_back((now_ns.saturating_add(MIGRATION_TIMEOUT_NS), query.leg));
        Ok(MIGRATION_INPUT_MAX_BYTES)
    }

    /// Bytes of a channel. `false`: it is none of these.
    pub(super) fn input(
        &mut self,
        operation: LegTag,
        bytes: &[u8],
        out: &mut Vec<(CoreId, Command)>,
    ) -> bool {
        let Some(run) = self.running.get_mut(&operation) else { return false };
        run.reader.push(bytes);
        loop {
            let Some(run) = self.running.get_mut(&operation) else { return true };
            let signal = match run.reader.next() {
                Ok(None) => return true,
                Ok(Some(object)) if object.type_name == type_names::MIGRATE_SIGNAL => {
                    MigrateSignal::decode(&object.payload).ok()
                }
                Ok(Some(_)) | Err(_) => None,
            };
            self.on_signal(operation, signal, out);
        }
    }

    /// What the data core says of a migration.
    pub(super) fn step(
        &mut self,
        operation: LegTag,
        step: MigrationStep,
        out: &mut Vec<(CoreId, Command)>,
    ) {
        let Some(run) = self.running.get_mut(&operation) else {
            // Its peer has gone meanwhile, and the session cannot go back.
            if let MigrationStep::Begun { leg, .. } = step {
                out.push(close(leg));
            }
            return;
        };
        match (step, run.stage) {
            (MigrationStep::Begun { leg, window_bytes }, Stage::Beginning) => {
                run.stage = Stage::Switched { session: leg, arrived: false, resumed: false };
                let switched = MigrateSignal { signal: Migration::Switched, window_bytes };
                write(operation, run.output, &switched, false, out);
            }
            (MigrationStep::Arrived, Stage::Switched { session, resumed, .. }) => {
                run.stage = Stage::Switched { session, arrived: true, resumed };
                self.finish_if_complete(operation, out);
            }
            (MigrationStep::Refused, _) => self.give_up(operation, NOT_MOVED, out),
            (MigrationStep::Begun { .. } | MigrationStep::Arrived | MigrationStep::Ended, _) => {
                self.give_up(operation, LOST, out);
            }
        }
    }

    /// A channel has ended. `false`: it is none of these.
    pub(super) fn ended(&mut self, operation: LegTag, out: &mut Vec<(CoreId, Command)>) -> bool {
        let Some(run) = self.running.remove(&operation) else { return false };
        out.extend(run.session().map(close));
        true
    }

    /// Ends what has taken too long.
    pub(super) fn tick(&mut self, now_ns: u64, out: &mut Vec<(CoreId, Command)>) {
        while let Some(&(due_ns, operation)) = self.deadlines.front()
            && due_ns <= now_ns
        {
            self.deadlines.pop_front();
            self.give_up(operation, LOST, out);
        }
    }

    /// When [`Self::tick`] next has something to do.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        self.deadlines.front().map(|&(due_ns, _)| due_ns)
    }

    /// How many sessions were moved since the start.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    fn on_signal(
        &mut self,
        operation: LegTag,
        signal: Option<MigrateSignal>,
        out: &mut Vec<(CoreId, Command)>,
    ) {
        let Some(run) = self.running.get_mut(&operation) else { return };
        let word = signal.map(|signal| signal.signal);
        match (word, run.stage) {
            (Some(Migration::Ready), Stage::Asked) => {
                run.stage = Stage::Beginning;
                let begin = Command::BeginMigration {
                    operation,
                    from: std::mem::take(&mut run.from),
                    to: run.to,
                    nonce: run.nonce,
                    peer_window: signal.map_or(0, |signal| signal.window_bytes),
                };
                out.push((run.to.core, begin));
            }
            (Some(Migration::Resume), Stage::Switched { session, arrived, .. }) => {
                run.stage = Stage::Switched { session, arrived, resumed: true };
                self.finish_if_complete(operation, out);
            }
            _ => self.give_up(operation, LOST, out),
        }
    }

    fn finish_if_complete(&mut self, operation: LegTag, out: &mut Vec<(CoreId, Command)>) {
        let Some(run) = self.running.get(&operation) else { return };
        let Stage::Switched { session, arrived: true, resumed: true } = run.stage else { return };
        out.push((session.core, Command::ResumeMigrated { leg: session }));
        let done = MigrateSignal { signal: Migration::Done, window_bytes: 0 };
        write(operation, run.output, &done, true, out);
        self.running.remove(&operation);
        self.done += 1;
    }

    /// Ends a migration that cannot go on, and with it a session that is between its links.
    fn give_up(&mut self, operation: LegTag, why: &str, out: &mut Vec<(CoreId, Command)>) {
        let Some(run) = self.running.remove(&operation) else { return };
        out.extend(run.session().map(close));
        write(operation, run.output, &ErrorMessage::new(why, Profile::P4), true, out);
    }
}

impl Running {
    /// The session, once it has left its old link.
    fn session(&self) -> Option<LegTag> {
        match self.stage {
            Stage::Switched { session, .. } => Some(session),
            Stage::Asked | Stage::Beginning => None,
        }
    }
}

fn close(session: LegTag) -> (CoreId, Command) {
    let reason = DropReason::MigrationFailed;
    (session.core, Command::CloseSession { leg: session, reason })
}

fn write(
    leg: LegTag,
    output: Encoding,
    object: &dyn AnswerObject,
    end: bool,
    out: &mut Vec<(CoreId, Command)>,
) {
    let mut writer = AnswerWriter::new(output);
    // An encoding that has no form for it leaves the channel without it; its end says as much.
    let written = writer.write(object).is_ok();
    let bytes = if written { writer.into_bytes() } else { Vec::new() };
    out.push((leg.core, Command::Write { leg, bytes: bytes.into(), end }));
}
