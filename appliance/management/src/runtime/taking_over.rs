//! This process goes on where another one ends.
//!
//! It is begun when every core waits with all of its sockets: the other process tells what it has,
//! and the cores take that up; then its cores pause and tell what has changed since, and those here
//! serve datagrams as soon as they have that. Once it has let go they begin with all else. Until then
//! whatever fails ends this process alone, and the other one goes on with what it had.

use super::{ManagementCore, RuntimeError};
use crate::clock;
use crate::hand_over::{
    ANSWER_TIMEOUT, Channel, ChannelError, CoreMessage, LinksMessage, Message, TAKE_UP_TIMEOUT,
    UdpGap,
};
use crate::journal::{EventKind, fields};
use crate::limits::COMMAND_RETRY_PAUSE;
use crate::opaque::{Known, settings_again};
use crate::stats_socket::Aside;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};
use waystation_engine::clock::RunDelay;
use waystation_engine::control::{
    Command, LinkRefusal, UdpBegun, UdpPaused, UdpTakeOver, UdpTaken,
};
use waystation_engine::core::{OpaqueTakeOver, TurnHandOver};
use waystation_relay::ids::{CoreId, UdpSessionTag};
use waystation_relay::udp::{LegState, LocalPort};

/// A hand-over to this process that has yet to take place.
#[derive(Debug)]
pub(super) struct TakingOver {
    pub(super) channel: Channel,
    /// The stats socket, which is the other process's until then.
    pub(super) aside: Aside,
    /// Of the other process.
    pub(super) program: String,
}

/// What the cores are taking up.
#[derive(Debug, Default)]
pub(super) struct TakingUp {
    missing: Vec<CoreId>,
    links: usize,
    links_refusal: Option<LinkRefusal>,
    /// What is known of sessions that the other process has told of.
    told: BTreeMap<UdpSessionTag, Known>,
    /// Those of them that cores have, and those that they have no place for, with the reason.
    taken: BTreeSet<UdpSessionTag>,
    left: BTreeMap<UdpSessionTag, String>,
    /// By core.
    allocations_left: BTreeMap<CoreId, usize>,
    /// Since when datagrams of a core wait, and when that was heard here.
    paused: BTreeMap<CoreId, (UdpPaused, u64)>,
    /// Since when they are served again.
    begun: BTreeMap<CoreId, UdpBegun>,
}

impl TakingUp {
    /// The gap of the core where it was longest; the two management threads have waited so long for a
    /// processor in it.
    fn longest_gap(&self, management_waited_ns: u64) -> UdpGap {
        let gaps = self.paused.iter().filter_map(|(core, &(paused, heard_ns))| {
            let begun = *self.begun.get(core)?;
            Some(UdpGap::new(paused, heard_ns, begun, management_waited_ns))
        });
        gaps.max_by_key(UdpGap::length_ns).unwrap_or_default()
    }
}

impl ManagementCore {
    /// Takes over, if that is what this process was started for.
    pub(super) async fn take_over(
        &mut self,
        doorbell: &pipe::Receiver,
    ) -> Result<(), RuntimeError> {
        let Some(TakingOver { mut channel, aside, program }) = self.taking_over.take() else {
            return Ok(());
        };
        let gap = self.take_up_all(&mut channel, doorbell).await?;
        channel.send(&Message::Taken, &[], ANSWER_TIMEOUT).await?;
        match channel.receive(ANSWER_TIMEOUT).await? {
            (Message::Yours, _) => {}
            (other, _) => return Err(ChannelError::unexpected(&other, "yours").into()),
        }
        // From here on there is nobody else, so nothing that fails ends this process.
        for core in self.cores() {
            self.command(core, Command::Begin);
        }
        if let Err(error) = aside.place() {
            tracing::error!(%error, "this process cannot be asked anything");
        }
        self.ours.send_replace(true);
        self.xdp.has_taken_over();
        self.say_taken_over(&program, gap);
        if let Err(error) = self.begin_services() {
            tracing::error!(%error, "a part of what was served is served no more");
        }
        self.become_ready();
        Ok(())
    }

    /// Hears what the other process has, and then what has changed, and gives it to the cores, which
    /// serve datagrams then. Returns how long these have waited.
    async fn take_up_all(
        &mut self,
        channel: &mut Channel,
        doorbell: &pipe::Receiver,
    ) -> Result<UdpGap, RuntimeError> {
        channel.send(&Message::Ready, &[], ANSWER_TIMEOUT).await?;
        match self.hear_cores(channel).await? {
            Message::Told => {}
            other => return Err(ChannelError::unexpected(&other, "told").into()),
        }
        self.cores_have_taken_up(doorbell).await?;
        channel.send(&Message::Prepared, &[], ANSWER_TIMEOUT).await?;
        self.take_links_up(channel, doorbell).await?;
        let run_delay = RunDelay::of_this_thread();
        let before_ns = run_delay.read_ns();
        let told_waited_ns = match self.hear_cores(channel).await? {
            Message::Complete { processor_waited_ns } => processor_waited_ns,
            other => return Err(ChannelError::unexpected(&other, "complete").into()),
        };
        self.cores_have_taken_up(doorbell).await?;
        let waited_ns = run_delay.read_ns().saturating_sub(before_ns);
        Ok(self.taking_up.longest_gap(told_waited_ns.saturating_add(waited_ns)))
    }

    /// Gives what is told of cores to them, and returns what is said behind it.
    async fn hear_cores(&mut self, channel: &mut Channel) -> Result<Message, ChannelError> {
        loop {
            match channel.receive(ANSWER_TIMEOUT).await? {
                (Message::Core(core), descriptors) => self.take_up_core(*core, descriptors)?,
                (Message::Refusal(why), _) => return Err(ChannelError::Refused(why)),
                (other, _) => return Ok(other),
            }
        }
    }

    /// Hears which links the other process has, and gives them to the cores: all, or none.
    async fn take_links_up(
        &mut self,
        channel: &mut Channel,
        doorbell: &pipe::Receiver,
    ) -> Result<(), RuntimeError> {
        loop {
            match channel.receive(ANSWER_TIMEOUT).await? {
                (Message::Links(links), descriptors) => self.take_up_links(links, descriptors)?,
                (Message::LinksComplete, _) => break,
                (Message::Refusal(why), _) => return Err(ChannelError::Refused(why).into()),
                (other, _) => return Err(ChannelError::unexpected(&other, "links").into()),
            }
        }
        self.cores_have_taken_up(doorbell).await?;
        let all = self.taking_up.links_refusal.is_none();
        if let Some(refusal) = self.taking_up.links_refusal.take() {
            tracing::warn!("links stay with the other process: {refusal}");
            self.taking_up.links = 0;
            self.moves.senders.clear();
            for core in self.cores() {
                self.command(core, Command::ForgetLinks);
            }
        }
        channel.send(&Message::LinksTaken { all }, &[], ANSWER_TIMEOUT).await?;
        Ok(())
    }

    fn take_up_links(
        &mut self,
        message: LinksMessage,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), ChannelError> {
        let (core, links) = (CoreId(message.core), message.links);
        if links.len() != descriptors.len() || core.index() >= self.end.cores() {
            let said =
                format!("{} links of core {core}, {} descriptors", links.len(), descriptors.len());
            return Err(ChannelError::Unexpected {
                said,
                wanted: "one of its cores, with as many",
            });
        }
        for (leg, from) in links.iter().flat_map(|link| link.senders(core)) {
            self.moves.senders.entry(from).or_default().push(leg);
        }
        self.taking_up.links += links.len();
        self.taking_up.missing.push(core);
        let sockets = descriptors.into_iter().map(TcpStream::from);
        let links = links.into_iter().map(Box::new).zip(sockets).collect();
        self.command(core, Command::TakeLinks { links });
        Ok(())
    }

    pub(super) fn on_links_taken(&mut self, core: CoreId, result: Result<(), LinkRefusal>) {
        let missing = &mut self.taking_up.missing;
        if let Some(place) = missing.iter().position(|missing| *missing == core) {
            missing.remove(place);
        }
        if let Err(refusal) = result {
            self.taking_up.links_refusal = Some(refusal);
        }
    }

    /// Waits until no core has anything left to take up.
    async fn cores_have_taken_up(&mut self, doorbell: &pipe::Receiver) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + TAKE_UP_TIMEOUT;
        while !self.taking_up.missing.is_empty() {
            if Instant::now() >= deadline {
                return Err(ChannelError::Late(TAKE_UP_TIMEOUT).into());
            }
            self.work();
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if self.taking_up.missing.is_empty() {
                break;
            }
            let pause = Instant::now() + COMMAND_RETRY_PAUSE;
            tokio::select! {
                _ = doorbell.readable() => self.hear(doorbell),
                () = sleep_until(pause) => {}
            }
        }
        Ok(())
    }

    fn take_up_core(
        &mut self,
        message: CoreMessage,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), ChannelError> {
        let CoreMessage { core, paused, turn, relayed, ended_sessions, sessions, session_ports } =
            message;
        let (count, core) = (relayed.len() + session_ports.len(), CoreId(core));
        if count != descriptors.len() || core.index() >= self.end.cores() {
            let said = format!("core {core} with {} descriptors", descriptors.len());
            return Err(ChannelError::Unexpected {
                said,
                wanted: "one of its cores, with as many",
            });
        }
        let mut sockets = descriptors.into_iter().map(UdpSocket::from);
        let turn = TurnHandOver {
            changes: turn,
            sockets: relayed.into_iter().zip(sockets.by_ref()).collect(),
        };
        let ports = session_ports.into_iter().map(LocalPort);
        let tag = |(slot, generation)| UdpSessionTag { core, slot, generation };
        let mut opaque = OpaqueTakeOver {
            ended: ended_sessions.into_iter().map(tag).collect(),
            sessions: Vec::new(),
            sockets: ports.zip(sockets).collect(),
        };
        for record in sessions {
            let session = tag(record.place());
            let Some((state, wish)) = record.read() else {
                self.taking_up.left.insert(session, "an end of it is none".to_owned());
                continue;
            };
            let legs = &state.session.legs;
            let ports = legs.each_ref().map(|leg| leg.port);
            let addresses = legs.each_ref().map(|leg| leg.address);
            let secrets = legs.each_ref().map(LegState::secret);
            opaque.sessions.push((state, settings_again(&wish, ports, secrets)));
            self.taking_up.told.insert(session, Known { wish, ports, addresses });
        }
        self.taking_up.missing.push(core);
        if let Some(paused) = paused {
            self.taking_up.paused.insert(core, (paused, clock::now().monotonic_ns));
        }
        let from = Box::new(UdpTakeOver { turn, opaque, serves: paused.is_some() });
        self.command(core, Command::TakeUdpOver { from });
        Ok(())
    }

    pub(super) fn on_udp_taken(&mut self, core: CoreId, taken: UdpTaken) {
        let up = &mut self.taking_up;
        up.missing.retain(|missing| *missing != core);
        up.allocations_left.insert(core, taken.allocations_left);
        for session in taken.opaque.ended {
            up.told.remove(&session);
            up.taken.remove(&session);
            up.left.remove(&session);
        }
        for session in taken.opaque.sessions {
            up.left.remove(&session);
            up.taken.insert(session);
        }
        for (session, error) in taken.opaque.left {
            up.taken.remove(&session);
            up.left.insert(session, error.to_string());
        }
        if let Some(begun) = taken.begun {
            up.begun.insert(core, begun);
            self.enter_sessions(core);
        }
    }

    /// Knows the sessions of a core that serves them: what becomes of them is told from here on.
    fn enter_sessions(&mut self, core: CoreId) {
        let up = &mut self.taking_up;
        let of_core: Vec<_> = up.taken.iter().filter(|it| it.core == core).copied().collect();
        let entered = of_core.into_iter().filter_map(|session| {
            let known = up.told.remove(&session)?;
            Some((session, known))
        });
        for (session, known) in entered.collect::<Vec<_>>() {
            self.opaque_taken_over(session, known);
        }
    }

    fn say_taken_over(&mut self, program: &str, gap: UdpGap) {
        let TakingUp { left, allocations_left, links, .. } = std::mem::take(&mut self.taking_up);
        self.extra.operations.udp_gap = Some(gap);
        for (session, why) in &left {
            tracing::warn!(%session, why, "a UDP session ends with its process");
        }
        let allocations_left: usize = allocations_left.values().sum();
        let sessions_left = left.len();
        tracing::info!(
            program,
            links,
            udp_waited_us = gap.length_ns() / 1000,
            udp_waited_for_processor_us = gap.processor_waited_ns / 1000,
            allocations_left,
            sessions_left,
            "took over from another process"
        );
        let said = json!({
            "program": program,
            "links": links,
            "allocations_left": allocations_left,
            "sessions_left": sessions_left,
        });
        let mut said = fields(said);
        said.extend(gap.fields());
        self.journal.record(clock::now(), EventKind::TookOver, None, said);
    }
}
