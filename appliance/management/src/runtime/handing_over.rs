//! This process gives what it has to the next one, and drains.
//!
//! The conversation with the next process is had by `hand_over::serving`, which asks here what
//! there is. Between its first question and its last one nothing is given up: if it fails,
//! connections and datagrams that waited are served here.

use super::ManagementCore;
use super::links_over::LinksOver;
use crate::clock;
use crate::documents::Readiness;
use crate::hand_over::serving::{Reply, ToldLinks};
use crate::hand_over::{
    Ask, CoreMessage, Offer, Role, SessionRecord, SocketGroup, Step, ToldCore, socket_of,
};
use crate::journal::{EventKind, fields};
use crate::limits::DRAIN_DEADLINE_MAX;
use crate::runtime::LifeSign;
use serde_json::json;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use waystation_engine::control::{Command, UdpHandOver};
use waystation_engine::cores::{Listening, ListeningSockets};
use waystation_relay::ids::{CoreId, UdpSessionTag};

/// One more descriptor of each socket that the next process is to have.
#[derive(Debug, Default)]
pub struct SharedSockets {
    pub listening: ListeningSockets,
    pub metrics: Option<TcpListener>,
    pub dht: Vec<UdpSocket>,
    pub hub: Vec<TcpListener>,
    /// Whether a service manager waits for signs of life.
    pub is_watched: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct HandingOver {
    /// Absent: nothing is handed over, or not any more.
    shared: Option<SharedSockets>,
    phase: Phase,
    /// What each core listens with again if it comes to nothing: for links, and for TURN clients.
    kept: Vec<[Vec<TcpListener>; 2]>,
    /// How long this process goes on after it.
    drain: Duration,
    /// Links that stand still, or are about to.
    pub(super) links: LinksOver,
    freezing_rounds: u64,
    /// Whether the configuration is to be read again if it comes to nothing.
    pub(super) reload_after: bool,
    /// Whether the configuration was to be read again after the next process had read it.
    pub(super) is_outdated: bool,
}

#[derive(Debug)]
enum Phase {
    /// Everything is served here.
    Serving,
    /// Somebody starts who has the sockets too. Everything is served here.
    Offered,
    /// Cores are telling all they have, and serve on.
    Telling(Collecting),
    /// The next process takes that up. Everything is served here.
    Told,
    /// Cores are telling what has changed since. The datagrams of those who have wait until the next
    /// process's core has that.
    Pausing(Pausing),
    /// All have told.
    Paused,
}

#[derive(Debug)]
struct Collecting {
    missing: Vec<CoreId>,
    told: Vec<ToldCore>,
    reply: Reply<Vec<ToldCore>>,
}

#[derive(Debug)]
struct Pausing {
    missing: Vec<CoreId>,
    rest: mpsc::Sender<Result<ToldCore, String>>,
}

impl HandingOver {
    pub(super) fn new(shared: Option<SharedSockets>) -> Self {
        let (phase, kept, drain) = (Phase::Serving, Vec::new(), Duration::ZERO);
        let (links, freezing_rounds) = (LinksOver::default(), 0);
        let (reload_after, is_outdated) = (false, false);
        Self { shared, phase, kept, drain, links, freezing_rounds, reload_after, is_outdated }
    }

    /// Whether the next process can be given anything at all.
    pub(super) fn is_possible(&self) -> bool {
        self.shared.is_some()
    }

    /// Whether no other process is about to take over.
    pub(super) fn is_asked_by_nobody(&self) -> bool {
        matches!(self.phase, Phase::Serving)
    }

    /// Whether datagrams wait until it is clear who serves them.
    pub(super) fn is_paused(&self) -> bool {
        matches!(self.phase, Phase::Pausing(_) | Phase::Paused)
    }

    /// Whether clients wait until it is clear who serves them: nothing else may take its time then.
    pub(super) fn keeps_clients_waiting(&self) -> bool {
        self.is_paused() || self.links.stand_still()
    }

    pub(super) fn next_freezing_round(&mut self) -> u64 {
        self.freezing_rounds += 1;
        self.freezing_rounds
    }

    /// A core has told all it has.
    fn collect(&mut self, core: CoreId, told: Result<ToldCore, String>) {
        let Phase::Telling(collecting) = &mut self.phase else { return };
        collecting.missing.retain(|missing| *missing != core);
        let failed = match told {
            Ok(told) => {
                collecting.told.push(told);
                None
            }
            Err(why) => Some(why),
        };
        if failed.is_none() && !collecting.missing.is_empty() {
            return;
        }
        if let Phase::Telling(Collecting { mut told, reply, .. }) =
            std::mem::replace(&mut self.phase, Phase::Told)
        {
            told.sort_by_key(|(message, _)| message.core);
            // What was told already is told to nobody if one of them could not.
            let _ = reply.send(failed.map_or(Ok(told), Err));
        }
    }

    /// A core has told what has changed, and its datagrams wait.
    fn pass_on(&mut self, core: CoreId, told: Result<ToldCore, String>) {
        let Phase::Pausing(pausing) = &mut self.phase else { return };
        pausing.missing.retain(|missing| *missing != core);
        let is_last = pausing.missing.is_empty();
        // Whoever asked may have gone; then it comes to nothing, which is told otherwise.
        let _ = pausing.rest.try_send(told);
        if is_last {
            self.phase = Phase::Paused;
        }
    }

    /// Closes this end's descriptors of what is listened with: a drain listens no more.
    pub(super) fn close(&mut self) {
        self.shared = None;
        self.kept = Vec::new();
    }
}

impl ManagementCore {
    pub(super) fn on_hand_over(&mut self, step: Step) {
        match step {
            // Whoever asked may have gone; then nothing has changed.
            Step::Asked { ask, reply } => {
                let _ = reply.send(self.offer(&ask));
            }
            Step::Ready { reply } => self.tell(reply),
            Step::Freeze { reply } => self.prepare(reply),
            Step::LinksTaken { all: true } => {}
            Step::LinksTaken { all: false } => self.thaw_links(),
            Step::Prepared { rest } => self.pause(rest),
            Step::Yours { process } => self.let_go(process),
            Step::Failed { why } => self.go_on(&why),
        }
    }

    fn offer(&mut self, ask: &Ask) -> Result<(Offer, Vec<OwnedFd>), String> {
        self.check_ask(ask)?;
        self.save_registrations();
        self.hand_over.drain = Duration::from_millis(ask.drain_ms).min(DRAIN_DEADLINE_MAX);
        let shared = self.hand_over.shared.as_ref().ok_or("it does not hand over")?;
        let offered = offered(shared);
        let offered = offered.map_err(|error| format!("its sockets cannot be shared: {error}"))?;
        tracing::info!(version = ask.program, "another process is to take over");
        self.hand_over.phase = Phase::Offered;
        self.hand_over.is_outdated = false;
        Ok(offered)
    }

    fn check_ask(&self, ask: &Ask) -> Result<(), String> {
        let (identity, cores) = (self.extra.identity.to_string(), self.end.cores());
        if ask.identity != identity {
            return Err(format!("it is node {identity}, and not {}", ask.identity));
        }
        if ask.cores != cores {
            return Err(format!(
                "it has {cores} data cores, and the next one would have {}; another number needs a \
                 restart",
                ask.cores
            ));
        }
        if !self.xdp.can_be_handed_over() {
            return Err("its XDP program is kept nowhere; set xdp.pin_directory and restart, or \
                        switch it off with xdp.mode = \"off\" and a reload"
                .to_owned());
        }
        match &self.extra.readiness {
            Readiness::Ready if self.hand_over.is_asked_by_nobody() => Ok(()),
            Readiness::Ready => Err("it is handing over already".to_owned()),
            other => Err(format!("it is {}", other.name())),
        }
    }

    fn keep_listeners(&mut self) -> io::Result<()> {
        let cores = self.end.cores();
        let Some(shared) = &self.hand_over.shared else { return Ok(()) };
        let kept = (0..cores).map(|core| shared.listening.listeners_of(core));
        self.hand_over.kept = kept.collect::<io::Result<_>>()?;
        Ok(())
    }

    /// Has all cores tell what they have, while they serve on.
    fn tell(&mut self, reply: Reply<Vec<ToldCore>>) {
        self.tell_what_xdp_has_carried();
        let (missing, told) = (self.cores().collect(), Vec::new());
        self.hand_over.phase = Phase::Telling(Collecting { missing, told, reply });
        for core in self.cores() {
            self.command(core, Command::TellUdp { wanted: true });
        }
    }

    /// Does what can be done before anybody has to wait, a disk's part of it above all. From then on
    /// links stand still.
    fn prepare(&mut self, reply: Reply<ToldLinks>) {
        let kept = self.keep_listeners();
        let kept = kept.map_err(|error| format!("its listeners cannot be kept: {error}"));
        match kept.and_then(|()| self.put_socket_aside()) {
            Ok(()) => self.freeze_links(reply),
            // Whoever asked may have gone; then it comes to nothing, which is told otherwise.
            Err(why) => _ = reply.send(Err(why)),
        }
    }

    /// Has all cores leave connections and datagrams where they are, and tell the rest.
    fn pause(&mut self, rest: mpsc::Sender<Result<ToldCore, String>>) {
        self.tell_what_xdp_has_carried();
        let missing = self.cores().collect();
        self.hand_over.phase = Phase::Pausing(Pausing { missing, rest });
        for core in self.cores() {
            self.command(core, Command::HandOver);
        }
    }

    /// Cores hear it before they tell what sessions have carried, and when they were heard.
    fn tell_what_xdp_has_carried(&mut self) {
        for (core, command) in self.xdp.tell_all() {
            self.command(core, command);
        }
    }

    pub(super) fn on_udp_told(&mut self, core: CoreId, result: io::Result<Box<UdpHandOver>>) {
        // Sessions are known here before a core can tell of them.
        let table = self.opaque.table();
        let wish = |session| table.get(session).map(|known| &known.wish);
        let told = result.map(|udp| message(core, *udp, wish));
        let told =
            told.map_err(|error| format!("data core {core} cannot share its sockets: {error}"));
        match &self.hand_over.phase {
            Phase::Telling(_) => self.hand_over.collect(core, told),
            Phase::Pausing(_) => self.hand_over.pass_on(core, told),
            // It is a late answer to a hand-over that has come to nothing.
            Phase::Serving | Phase::Offered | Phase::Told | Phase::Paused => {}
        }
    }

    /// Lets the stats socket be found under another name as well, since the next process is about
    /// to take its name.
    fn put_socket_aside(&mut self) -> Result<(), String> {
        let aside = aside_of(&self.socket);
        let linked = match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => fs::hard_link(&self.socket, &aside),
        };
        linked.map_err(|error| format!("{} cannot be made: {error}", aside.display()))
    }

    /// The next process serves. What is left here is TCP, to its end or to the deadline.
    fn let_go(&mut self, process: Option<i32>) {
        self.hand_over.phase = Phase::Serving;
        self.xdp.let_go();
        self.registrations = None;
        self.socket = aside_of(&self.socket);
        self.ours.send_replace(false);
        for core in self.cores() {
            self.command(core, Command::LetUdpGo);
        }
        let links = self.let_links_go();
        self.forget_opaque();
        if let Some(dht) = &mut self.dht {
            dht.begin_stop();
        }
        if let Some(mut hub) = self.hub.take() {
            // Its clients come back to the next process.
            tokio::spawn(async move { hub.stop().await });
        }
        self.heartbeat.tell(LifeSign::HandedOver { process });
        let (socket, deadline) = (self.socket.display().to_string(), self.hand_over.drain);
        tracing::info!(process, socket, links, "another process has taken over");
        if self.hand_over.is_outdated {
            tracing::warn!(
                process,
                "the configuration was to be read again after that process had read it; reload once \
                 more"
            );
        }
        let said = json!({ "process": process, "socket": socket, "links": links });
        self.journal.record(clock::now(), EventKind::HandedOver, None, fields(said));
        self.begin_drain(deadline, 0, false);
    }

    /// Nothing came of it.
    fn go_on(&mut self, why: &str) {
        tracing::warn!("nothing was handed over, and this process goes on: {why}");
        self.thaw_links();
        let mut kept = std::mem::take(&mut self.hand_over.kept);
        // A drain that has begun meanwhile has left none, and whoever is there is served on.
        kept.resize_with(self.end.cores(), Default::default);
        if self.hand_over.is_paused() {
            for (core, [links, turn]) in self.cores().zip(kept) {
                self.command(core, Command::GoOn { links, turn });
            }
        } else {
            for core in self.cores() {
                self.command(core, Command::TellUdp { wanted: false });
            }
        }
        self.hand_over.phase = Phase::Serving;
        self.xdp.put_back();
        // It may be there already; whoever is to be next makes it anew.
        let _ = fs::remove_file(aside_of(&self.socket));
        let said = fields(json!({ "message": why }));
        self.journal.record(clock::now(), EventKind::HandOverFailed, None, said);
        if std::mem::take(&mut self.hand_over.reload_after) {
            self.reload();
        }
    }

    /// The files of a process that ends: its sockets, unless they are another's by now.
    pub(super) fn remove_sockets(&self) {
        if !*self.ours.borrow() && self.draining.is_none() {
            // It has not come to serve: what is there is the other process's.
            return;
        }
        // What is left only misleads; failing to remove it changes nothing.
        let _ = fs::remove_file(&self.socket);
        if *self.ours.borrow() && self.hand_over_is_served {
            let _ = fs::remove_file(socket_of(&self.socket));
        }
    }
}

/// The name of the stats socket of a process that has handed over.
fn aside_of(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".old");
    PathBuf::from(path)
}

/// What is listened with, with a descriptor for each socket.
fn offered(shared: &SharedSockets) -> io::Result<(Offer, Vec<OwnedFd>)> {
    let ListeningSockets { links, turn_udp, turn_tcp, nonce_key } = &shared.listening;
    let mut groups = Groups::default();
    links.iter().try_for_each(|it| groups.add_listening(Role::Links, it))?;
    turn_udp.iter().try_for_each(|it| groups.add_listening(Role::TurnUdp, it))?;
    turn_tcp.iter().try_for_each(|it| groups.add_listening(Role::TurnTcp, it))?;
    if let Some(metrics) = &shared.metrics {
        groups.add(Role::Metrics, metrics.local_addr()?, [metrics.as_fd()].into_iter())?;
    }
    for dht in &shared.dht {
        groups.add(Role::Dht, dht.local_addr()?, [dht.as_fd()].into_iter())?;
    }
    for hub in &shared.hub {
        groups.add(Role::Hub, hub.local_addr()?, [hub.as_fd()].into_iter())?;
    }
    let Groups { groups, descriptors } = groups;
    let offer = Offer {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        groups,
        nonce_key: nonce_key.as_ref().map(|key| **key),
        is_watched: shared.is_watched,
    };
    Ok((offer, descriptors))
}

#[derive(Default)]
struct Groups {
    groups: Vec<SocketGroup>,
    descriptors: Vec<OwnedFd>,
}

impl Groups {
    fn add_listening(&mut self, role: Role, from: &Listening<impl AsFd>) -> io::Result<()> {
        self.add(role, from.wanted, from.sockets.iter().map(AsFd::as_fd))
    }

    fn add<'a>(
        &mut self,
        role: Role,
        wanted: SocketAddr,
        sockets: impl Iterator<Item = BorrowedFd<'a>>,
    ) -> io::Result<()> {
        let before = self.descriptors.len();
        for socket in sockets {
            self.descriptors.push(socket.try_clone_to_owned()?);
        }
        let sockets = self.descriptors.len() - before;
        self.groups.push(SocketGroup { role, wanted, sockets });
        Ok(())
    }
}

/// What a core has told, as the next process hears it. Sessions that are only being opened or
/// closed are nobody's yet, or any more.
fn message<'a>(
    core: CoreId,
    udp: UdpHandOver,
    wish: impl Fn(UdpSessionTag) -> Option<&'a crate::opaque::Wish>,
) -> ToldCore {
    let UdpHandOver { turn, opaque, paused } = udp;
    let (relayed, relayed_sockets): (Vec<_>, Vec<_>) = turn.sockets.into_iter().unzip();
    let (ports, port_sockets): (Vec<_>, Vec<_>) = opaque.sockets.into_iter().unzip();
    let sessions = opaque.sessions.into_iter().filter_map(|state| {
        let (slot, generation) = (state.session.slot, state.session.generation);
        let wish = wish(UdpSessionTag { core, slot, generation })?;
        Some(SessionRecord::new(state, wish))
    });
    let message = CoreMessage {
        core: core.0,
        paused,
        turn: turn.changes,
        relayed,
        ended_sessions: opaque.ended.iter().map(|it| (it.slot, it.generation)).collect(),
        sessions: sessions.collect(),
        session_ports: ports.into_iter().map(|port| port.0).collect(),
    };
    let sockets = relayed_sockets.into_iter().chain(port_sockets);
    (message, sockets.map(OwnedFd::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_wait_from_the_freezing_of_links_to_the_last_word() {
        let mut handing_over = HandingOver::new(None);
        for phase in [Phase::Serving, Phase::Offered, Phase::Told] {
            handing_over.phase = phase;
            assert!(!handing_over.keeps_clients_waiting(), "{:?}", handing_over.phase);
        }
        handing_over.links = LinksOver::Told { links: 1 };
        assert!(handing_over.keeps_clients_waiting());
        (handing_over.links, handing_over.phase) = (LinksOver::Going, Phase::Paused);
        assert!(handing_over.keeps_clients_waiting());
    }
}
