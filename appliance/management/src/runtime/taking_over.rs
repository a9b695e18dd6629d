//! This process goes on where another one ends.
//!
//! It is begun when every core waits with all of its sockets: the other process pauses and tells
//! what it has, the cores take that up, and once the other one has let go they begin. Until then
//! nothing here has served anybody, and whatever fails ends this process alone.

use super::{ManagementCore, RuntimeError};
use crate::clock;
use crate::hand_over::{ANSWER_TIMEOUT, Channel, ChannelError, CoreMessage, Message};
use crate::journal::{EventKind, fields};
use crate::limits::COMMAND_RETRY_PAUSE;
use crate::opaque::{Known, settings_again};
use crate::stats_socket::Aside;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};
use waystation_engine::control::{Command, UdpTakeOver, UdpTaken};
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
    sessions: BTreeMap<UdpSessionTag, Known>,
    allocations_left: usize,
    sessions_left: usize,
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
        let paused_ns = self.take_up_all(&mut channel, doorbell).await?;
        channel.send(&Message::Taken, &[], ANSWER_TIMEOUT).await?;
        match channel.receive(ANSWER_TIMEOUT).await? {
            (Message::Yours, _) => {}
            (other, _) => return Err(ChannelError::unexpected(&other, "yours").into()),
        }
        // From here on there is nobody else, so nothing that fails ends this process.
        for core in self.cores() {
            self.command(core, Command::Begin);
        }
        let waited_ns = clock::now().monotonic_ns.saturating_sub(paused_ns);
        if let Err(error) = aside.place() {
            tracing::error!(%error, "this process cannot be asked anything");
        }
        self.ours.send_replace(true);
        self.xdp.has_taken_over();
        self.say_taken_over(&program, waited_ns);
        if let Err(error) = self.begin_services() {
            tracing::error!(%error, "a part of what was served is served no more");
        }
        self.become_ready();
        Ok(())
    }

    /// Hears what the other process has, and gives it to the cores. Returns since when it waits.
    async fn take_up_all(
        &mut self,
        channel: &mut Channel,
        doorbell: &pipe::Receiver,
    ) -> Result<u64, RuntimeError> {
        channel.send(&Message::Ready, &[], ANSWER_TIMEOUT).await?;
        let paused_ns = loop {
            match channel.receive(ANSWER_TIMEOUT).await? {
                (Message::Core(core), descriptors) => self.take_up_core(*core, descriptors)?,
                (Message::Complete { paused_ns }, _) => break paused_ns,
                (Message::Refusal(why), _) => return Err(ChannelError::Refused(why).into()),
                (other, _) => return Err(ChannelError::unexpected(&other, "core").into()),
            }
        };
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while !self.taking_up.missing.is_empty() {
            if Instant::now() >= deadline {
                return Err(ChannelError::Late(ANSWER_TIMEOUT).into());
            }
            self.work();
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            let pause = Instant::now() + COMMAND_RETRY_PAUSE;
            tokio::select! {
                _ = doorbell.readable() => self.hear(doorbell),
                () = sleep_until(pause) => {}
            }
        }
        Ok(paused_ns)
    }

    fn take_up_core(
        &mut self,
        message: CoreMessage,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), ChannelError> {
        let CoreMessage { core, turn, relayed, sessions, session_ports } = message;
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
            state: turn,
            sockets: relayed.into_iter().zip(sockets.by_ref()).collect(),
        };
        let ports = session_ports.into_iter().map(LocalPort);
        let mut opaque =
            OpaqueTakeOver { sessions: Vec::new(), sockets: ports.zip(sockets).collect() };
        for record in sessions {
            let Some((state, wish)) = record.read() else {
                self.taking_up.sessions_left += 1;
                continue;
            };
            let (slot, generation) = (state.session.slot, state.session.generation);
            let session = UdpSessionTag { core, slot, generation };
            let legs = &state.session.legs;
            let ports = legs.each_ref().map(|leg| leg.port);
            let addresses = legs.each_ref().map(|leg| leg.address);
            let secrets = legs.each_ref().map(LegState::secret);
            opaque.sessions.push((state, settings_again(&wish, ports, secrets)));
            self.taking_up.sessions.insert(session, Known { wish, ports, addresses });
        }
        self.taking_up.missing.push(core);
        self.command(core, Command::TakeUdpOver { from: Box::new(UdpTakeOver { turn, opaque }) });
        Ok(())
    }

    pub(super) fn on_udp_taken(&mut self, core: CoreId, taken: UdpTaken) {
        self.taking_up.missing.retain(|missing| *missing != core);
        self.taking_up.allocations_left += taken.allocations_left;
        self.taking_up.sessions_left += taken.opaque.left.len();
        for ([a, b], error) in taken.opaque.left {
            tracing::warn!("the UDP session of ports {a} and {b} ends with its process: {error}");
        }
        for session in taken.opaque.sessions {
            if let Some(known) = self.taking_up.sessions.remove(&session) {
                self.opaque_taken_over(session, known);
            }
        }
    }

    fn say_taken_over(&mut self, program: &str, waited_ns: u64) {
        let up = std::mem::take(&mut self.taking_up);
        let (allocations_left, sessions_left) = (up.allocations_left, up.sessions_left);
        let waited_us = waited_ns / 1000;
        tracing::info!(
            program,
            udp_waited_us = waited_us,
            allocations_left,
            sessions_left,
            "took over from another process"
        );
        let said = json!({
            "program": program,
            "udp_waited_us": waited_us,
            "allocations_left": allocations_left,
            "sessions_left": sessions_left,
        });
        self.journal.record(clock::now(), EventKind::TookOver, None, fields(said));
    }
}
