//! The XDP program of this node: put on interfaces, told of sessions, read, and taken off again.
//!
//! Owned by the management core, which is the only one that writes its maps; data cores tell which
//! sessions there are and hear what became of them (decision 22). Started on the thread that starts
//! everything, while it has its privileges; used afterwards on the management thread, where a map
//! that is open needs none. Whatever fails here leaves the node without the program and everything
//! at work: what the program does not take goes to the data cores' sockets.

mod attaching;
mod capture;
mod document;
mod entries;
mod explain;
mod frames;
mod handing_over;
mod limits;
mod settings;
mod sockets;
mod udp_entries;

pub use capture::{CaptureRefusal, CaptureRequest, Verdicts};
pub(crate) use document::{document, summary};
pub use entries::EntryCounts;
pub use explain::{explain_for, explained};
pub use waystation_ebpf::abi::limits::{FRAME_SOCKETS_MAX, SESSION_ENTRIES_MAX, STRANGERS_MAX};

use crate::clock::{self, Moment};
use crate::config::{Config, XdpMode};
use attaching::uncovered;
use capture::Captures;
use entries::Entries;
use frames::KnownSocket;
use limits::ENTRIES_READ_PER_S;
use serde_json::Value;
use settings::Served;
use sockets::SharedAddress;
use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use waystation_ebpf::abi::{Counter, Port, SessionKey, Verdict};
use waystation_ebpf::attach::Attachment;
use waystation_ebpf::forwarding::SwitchedOn;
use waystation_ebpf::pins::Pins;
use waystation_ebpf::programs::Programs;
use waystation_ebpf::runs::Runs;
use waystation_ebpf::selection::Selections;
use waystation_ebpf::tables::MapError;
use waystation_ebpf::{interfaces, verdicts};
use waystation_engine::control::Command;
use waystation_engine::cores::Listening;
use waystation_engine::offload::{PathChange, UdpOffloaded, UdpPath};
use waystation_engine::port::frames::FrameSocket;
use waystation_relay::drop_reason::DropCounters;
use waystation_relay::ids::{CoreId, UdpSessionTag};

/// Whether the program is at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpState {
    /// Nobody wants it.
    #[default]
    Off,
    /// On one interface at least.
    On,
    /// It is wanted, and is on none.
    Unavailable,
}

impl XdpState {
    /// The name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The program on one interface, or why it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceStatus {
    pub name: String,
    /// `native`, `generic` or `taken_over`; absent: not attached.
    pub mode: Option<&'static str>,
    /// Why it is not attached, or does not run in the driver.
    pub why: Option<String>,
}

/// What there is to tell of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XdpStatus {
    pub state: XdpState,
    /// Why it is on no interface.
    pub why: Option<String>,
    pub interfaces: Vec<InterfaceStatus>,
    /// What works less well than it could, each with what helps.
    pub hints: Vec<String>,
    /// As `bpftool prog` shows it.
    pub program: Option<u32>,
    /// Where it is kept over a restart.
    pub pin_directory: Option<PathBuf>,
    pub entries: EntryCounts,
    /// Runs that the kernel has measured, since the program was loaded.
    pub runs: Runs,
    /// Datagrams of clients that came to an address which all cores have a socket on, since the
    /// program was loaded. Absent: nobody chooses among those sockets.
    pub selections: Option<Selections>,
    /// Since this process started.
    pub verdicts: Vec<(Verdict, Counter)>,
    /// The same of those that drop, by the reasons of the whole program.
    pub drops: DropCounters,
}

impl XdpStatus {
    /// Frames that went on without user space.
    pub fn relayed_frames(&self) -> u64 {
        let relayed = self.verdicts.iter().filter(|(verdict, _)| verdict.is_relayed());
        relayed.map(|(_, counter)| counter.packets).sum()
    }
}

/// What a reload has for the data cores.
#[derive(Debug, Default)]
pub(crate) struct TakenUp {
    /// What sessions have carried that are in the map no more.
    pub(crate) notes: Vec<(CoreId, Command)>,
    /// Whether they are to tell of paths, all anew; absent: as before.
    pub(crate) paths_wanted: Option<bool>,
}

/// What is left of a program that was at work.
#[derive(Debug, Default)]
struct Ended {
    /// What sessions have carried and their cores have yet to hear.
    notes: Vec<(CoreId, Command)>,
    /// Interfaces that it could not be taken off, each with why and what helps.
    stays: Vec<String>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Xdp {
    at_work: Option<Box<AtWork>>,
    status: XdpStatus,
    turn_listen: Vec<SocketAddr>,
    dht_listen: Vec<SocketAddr>,
    owners: Vec<u32>,
    /// Whether what is in the map is another process's, which goes on with it until this one does.
    is_next: bool,
    /// Seconds until what nobody has told of goes out of the map.
    sweep_in: Option<u32>,
    /// Sockets for frames that data cores have.
    frame_sockets: Vec<KnownSocket>,
    /// Kinds of ports whose frames they are for, as at the start.
    frame_kinds: Vec<Port>,
    /// Sockets of data cores among which the program chooses.
    shared_addresses: Vec<SharedAddress>,
}

/// The loaded program with everything that belongs to it.
#[derive(Debug)]
struct AtWork {
    programs: Programs,
    attachments: Vec<Attachment>,
    pins: Option<Pins>,
    entries: Entries,
    served: Served,
    /// What is to be served and is in the maps in parts at most: a map has refused.
    overdue: Option<Served>,
    /// Verdicts before this process, of counters that were kept.
    before: Vec<Counter>,
    /// Switches of the machine that were turned on for the program.
    switched_on: SwitchedOn,
    /// Absent: the program has no room for samples.
    captures: Option<Captures>,
}

impl Xdp {
    /// Puts the program where the configuration wants it, in the network namespace of the calling
    /// thread. `turn_listen`: where TURN clients send to; `dht_listen`: where nodes of the DHT do;
    /// `cpus`: the processor of each data core.
    pub fn start(
        config: &Config,
        turn_listen: &[SocketAddr],
        dht_listen: &[SocketAddr],
        cpus: &[Option<usize>],
    ) -> Self {
        Self::start_with(config, turn_listen, dht_listen, cpus, false)
    }

    /// As [`Self::start`], where another process is at work that hands over to this one: what it
    /// relays goes on until this one is told of it.
    pub fn take_over(
        config: &Config,
        turn_listen: &[SocketAddr],
        dht_listen: &[SocketAddr],
        cpus: &[Option<usize>],
    ) -> Self {
        Self::start_with(config, turn_listen, dht_listen, cpus, true)
    }

    fn start_with(
        config: &Config,
        turn_listen: &[SocketAddr],
        dht_listen: &[SocketAddr],
        cpus: &[Option<usize>],
        is_next: bool,
    ) -> Self {
        let mut xdp = Self {
            turn_listen: turn_listen.to_vec(),
            dht_listen: dht_listen.to_vec(),
            owners: owners(cpus),
            is_next,
            ..Self::default()
        };
        xdp.begin(config);
        xdp
    }

    /// Opens sockets for frames, if they are wanted, and tells the program of them. They are the data
    /// cores' then.
    pub fn open_frame_sockets(&mut self, config: &Config) -> Vec<(CoreId, FrameSocket)> {
        self.frame_kinds = frames::wanted(config);
        if self.frame_kinds.is_empty() {
            return Vec::new();
        }
        let attached = self.at_work.iter().flat_map(|at_work| &at_work.attachments);
        let interfaces: Vec<&str> = attached.map(|it| &*it.interface).collect();
        let mut opened = frames::open(&interfaces, &self.owners);
        if interfaces.is_empty() {
            opened.hints.push(
                "tier = \"af_xdp\" needs the XDP program on an interface (xdp.mode): datagrams go \
                 by tier gso"
                    .to_owned(),
            );
        }
        self.frame_sockets = opened.known;
        for hint in opened.hints {
            tracing::warn!(hint, "AF_XDP does less than it could");
            self.status.hints.push(hint);
        }
        self.tell_frame_sockets();
        opened.given
    }

    fn tell_frame_sockets(&mut self) {
        let Some(at_work) = &mut self.at_work else { return };
        if let Err(error) =
            frames::tell(&self.frame_sockets, &self.frame_kinds, &mut at_work.programs.tables)
        {
            let hint = format!("not all frames are brought to data cores: {error}");
            tracing::warn!(hint, "AF_XDP does less than it could");
            self.status.hints.push(hint);
        }
    }

    /// Has the program bring each datagram of a session to its owner's socket, if that is wanted.
    /// `listening`: one more descriptor of each socket that TURN clients send to.
    pub fn choose_among(&mut self, config: &Config, listening: Vec<Listening<UdpSocket>>) {
        let shared = sockets::shared_addresses(listening, &self.owners);
        if self.is_next && !(config.xdp.steer && self.is_on()) {
            sockets::leave_inherited(&shared);
        }
        if config.xdp.steer {
            // Where the program is not, a reload may put it.
            self.shared_addresses = shared;
            self.choose_sockets();
        }
    }

    fn choose_sockets(&mut self) {
        let Some(at_work) = &mut self.at_work else { return };
        for hint in sockets::choose(&self.shared_addresses, &mut at_work.programs) {
            tracing::warn!(hint, "the XDP program does less than it could");
            self.status.hints.push(hint);
        }
        self.read();
    }

    /// What there is to tell, as of the last second.
    pub fn status(&self) -> &XdpStatus {
        &self.status
    }

    /// Whether data cores are to tell of paths.
    pub(crate) fn is_on(&self) -> bool {
        self.at_work.is_some()
    }

    fn begin(&mut self, config: &Config) {
        self.status = XdpStatus::default();
        if config.xdp.mode == XdpMode::Off {
            return;
        }
        match self.attach(config) {
            Ok(at_work) => {
                self.at_work = Some(Box::new(at_work));
                self.tell_frame_sockets();
                self.choose_sockets();
                self.status.state = XdpState::On;
                self.read();
            }
            Err(why) => {
                self.status.state = XdpState::Unavailable;
                tracing::warn!(why, "no XDP program; UDP is relayed without it");
                self.status.why = Some(why);
            }
        }
        for hint in &self.status.hints {
            tracing::warn!(hint, "the XDP program does less than it could");
        }
    }

    /// What would become of a frame that came in by an interface now, and why; by the first that the
    /// program is on if none is named. `None`: there is no interface of that name.
    pub(crate) fn explain(
        &self,
        config: &Config,
        frame: &[u8],
        interface: Option<&str>,
        now_ns: u64,
    ) -> Option<Value> {
        let attached = self.at_work.iter().flat_map(|at_work| &at_work.attachments);
        let egress: BTreeSet<u32> =
            attached.filter_map(|it| interfaces::index_of(&it.interface)).collect();
        let ingress = match interface {
            Some(name) => interfaces::index_of(name)?,
            None => egress.first().copied().unwrap_or(0),
        };
        let would_be;
        let served = match &self.at_work {
            Some(at_work) => &at_work.served,
            None => {
                would_be = Served::of(config, &self.turn_listen, &self.dht_listen);
                &would_be
            }
        };
        let session_of = |key: &SessionKey| {
            let tables = &self.at_work.as_ref()?.programs.tables;
            tables.sessions.find(key).ok().flatten()
        };
        let program = self.status.state.name();
        let session_of = &session_of;
        let sessions = self.at_work.iter().flat_map(|at_work| at_work.entries.udp.ports());
        let around = explain::Around {
            served,
            session_of,
            opaque_ports: sessions.collect(),
            ingress,
            egress,
            owners: &self.owners,
            is_steering: config.xdp.steer,
            frame_sockets: frames::at(&self.frame_sockets, ingress),
            frame_kinds: &self.frame_kinds,
            now_ns,
            program,
        };
        Some(explain::explain(&around, frame))
    }

    /// Begins or goes on with a capture, and gives the samples that have come.
    pub(crate) fn capture(
        &mut self,
        request: CaptureRequest,
        now: Moment,
    ) -> Result<Value, CaptureRefusal> {
        let at_work = self.at_work.as_mut().ok_or(CaptureRefusal::NoProgram)?;
        let captures = at_work.captures.as_mut().ok_or(CaptureRefusal::NoRoom)?;
        let attached = at_work.attachments.iter();
        let interfaces = attached.filter_map(|attachment| {
            let index = interfaces::index_of(&attachment.interface)?;
            Some((index, attachment.interface.to_string()))
        });
        captures.ask(request, &mut at_work.programs.tables, &interfaces.collect(), now)
    }

    /// Takes up what a core tells.
    pub(crate) fn on_paths(&mut self, core: CoreId, changes: &[PathChange]) {
        let Some(at_work) = &mut self.at_work else { return };
        for change in changes {
            at_work.entries.apply(core, change, &mut at_work.programs.tables.sessions);
        }
    }

    /// Takes up what a core tells of opaque sessions.
    pub(crate) fn on_udp_paths(&mut self, paths: &[UdpPath]) {
        let Some(at_work) = &mut self.at_work else { return };
        for path in paths {
            at_work.entries.apply_udp(path, &mut at_work.programs.tables.sessions);
        }
    }

    /// An opaque session has ended. Gives what it has carried that its core was not told.
    pub(crate) fn end_udp(&mut self, session: UdpSessionTag) -> Option<UdpOffloaded> {
        let at_work = self.at_work.as_mut()?;
        at_work.entries.end_udp(session, &mut at_work.programs.tables.sessions)
    }

    /// Does what waits, and gives what cores have to hear of it. Called in every round of the
    /// management core, after [`Self::on_paths`] of the round before.
    pub(crate) fn work(&mut self) -> Vec<(CoreId, Command)> {
        let Some(at_work) = self.at_work.as_mut().filter(|_| !self.is_next) else {
            return Vec::new();
        };
        at_work.entries.insert_waiting(&mut at_work.programs.tables.sessions);
        at_work.mark_ports();
        let answers = at_work.entries.answer_udp(&mut at_work.programs.tables.sessions);
        // Last, since what is put in by the same round may not take the memory of what goes.
        self.sweep();
        answers
    }

    /// Whether [`Self::work`] has something to do.
    pub(crate) fn has_work(&self) -> bool {
        self.at_work.as_ref().filter(|_| !self.is_next).is_some_and(|at_work| {
            at_work.entries.has_waiting() || at_work.entries.udp.has_unanswered()
        })
    }

    /// Once a second: reads what sessions have carried and how often each verdict was given, and
    /// gives what cores have to hear.
    pub(crate) fn tick(&mut self) -> Vec<(CoreId, Command)> {
        self.sweep_in = self.sweep_in.map(|seconds| seconds.saturating_sub(1));
        let Some(at_work) = &mut self.at_work else { return Vec::new() };
        at_work.entries.look(ENTRIES_READ_PER_S, &mut at_work.programs.tables.sessions);
        let notes = at_work.entries.notes();
        if let Some(captures) = &mut at_work.captures
            && let Err(error) = captures.end_idle(&mut at_work.programs.tables, clock::now())
        {
            tracing::error!(%error, "samples of packets are taken on although nobody asks");
        }
        at_work.catch_up();
        self.read();
        notes
    }

    fn read(&mut self) {
        let Some(at_work) = &mut self.at_work else { return };
        self.status.runs = at_work.programs.runs();
        let sockets = &at_work.programs.tables.sockets;
        self.status.selections =
            (!sockets.is_empty()).then(|| sockets.selections().unwrap_or_default());
        let now = match counters(&at_work.programs) {
            Ok(now) => now,
            Err(error) => {
                let hint = format!("verdicts cannot be read: {error}");
                if !self.status.hints.contains(&hint) {
                    tracing::error!(hint);
                    self.status.hints.push(hint);
                }
                return;
            }
        };
        let since = Verdict::ALL.iter().zip(now.iter().zip(&at_work.before));
        self.status.verdicts = since
            .map(|(verdict, (now, before))| {
                let packets = now.packets.saturating_sub(before.packets);
                let bytes = now.bytes.saturating_sub(before.bytes);
                (*verdict, Counter { packets, bytes })
            })
            .collect();
        let mut drops = DropCounters::default();
        for (verdict, counter) in &self.status.verdicts {
            if let Some(reason) = verdicts::drop_reason(*verdict) {
                drops.count_many(reason, counter.packets, counter.bytes);
            }
        }
        self.status.drops = drops;
        self.status.entries = at_work.entries.counts();
    }

    /// Takes up another configuration.
    pub(crate) fn take_up(&mut self, before: &Config, config: &Config) -> TakenUp {
        if before.xdp.mode != config.xdp.mode {
            if self.is_on()
                && config.xdp.mode != XdpMode::Off
                && let Err(error) = Programs::load(None)
            {
                tracing::error!(%error, "the XDP program goes on as it is; another mode needs a restart");
                return TakenUp::default();
            }
            let was_on = self.is_on();
            let Ended { notes, stays } = self.end(false);
            self.begin(config);
            if !self.is_on() {
                self.status.hints.extend(stays);
            }
            let paths_wanted = (was_on || self.is_on()).then_some(self.is_on());
            return TakenUp { notes, paths_wanted };
        }
        let Some(at_work) = &mut self.at_work else { return TakenUp::default() };
        let served = Served::of(config, &self.turn_listen, &self.dht_listen);
        self.status.hints.retain(|hint| Some(hint) != at_work.served.hint.as_ref());
        self.status.hints.extend(served.hint.clone());
        at_work.entries.set_own(served.own.clone());
        at_work.entries.udp.set_uncovered(uncovered(&at_work.attachments));
        at_work.overdue = Some(served);
        at_work.catch_up();
        TakenUp::default()
    }

    /// Takes the program off, or leaves it where it is to be found by the next process: without
    /// sessions, which end with this one.
    pub(crate) fn stop(&mut self) {
        self.end(true);
    }

    fn end(&mut self, is_kept: bool) -> Ended {
        let Some(mut at_work) = self.at_work.take() else { return Ended::default() };
        at_work.entries.clear(&mut at_work.programs.tables.sessions);
        at_work.mark_ports();
        sockets::leave(&self.shared_addresses, &mut at_work.programs);
        let mut ended = Ended { notes: at_work.entries.notes(), stays: Vec::new() };
        if at_work.pins.is_some() && is_kept {
            tracing::info!("the XDP program stays for the next process");
            return ended;
        }
        for attachment in at_work.attachments {
            let interface = attachment.interface.clone();
            match attachment.detach() {
                Ok(()) => tracing::info!(interface, "XDP program taken off"),
                Err(error) => {
                    tracing::error!(interface, %error, "XDP program stays");
                    ended.stays.push(format!(
                        "the program stays on {interface}, without sessions: {error}; removing \
                         what is in xdp.pin_directory ends it"
                    ));
                }
            }
        }
        if let Some(pins) = at_work.pins
            && let Err(error) = pins.remove()
        {
            tracing::error!(%error, "pins of the XDP program stay");
        }
        switch_off(at_work.switched_on);
        ended
    }
}

/// Takes sessions out of the map that are not known here.
fn remove_others(
    programs: &mut Programs,
    is_known: impl Fn(&SessionKey) -> bool,
) -> Result<(), MapError> {
    let sessions = programs.tables.sessions.iter().map(|(key, _)| key);
    let left: Vec<_> = sessions.filter(|key| !is_known(key)).collect();
    left.iter().try_for_each(|key| programs.tables.sessions.remove(key).map(|_was_there| ()))
}

impl AtWork {
    /// Brings what is served into the maps, if it is not there yet: a map may have refused before.
    fn catch_up(&mut self) {
        let Some(served) = self.overdue.take() else { return };
        if let Err(error) = served.replace(&self.served, &mut self.programs.tables) {
            tracing::error!(
                %error,
                "the XDP program goes on with a part of the old settings; the rest is tried again"
            );
            self.overdue = Some(served);
            return;
        }
        // The ports of sessions are marked among those that are served.
        let are_anew = served.ports != self.served.ports;
        self.served = served;
        if are_anew {
            let ports: Vec<_> = self.entries.udp.ports().collect();
            ports.into_iter().for_each(|port| self.mark_port(port, true));
        }
    }

    /// Tells the program which ports have become a session's, and which are no longer.
    fn mark_ports(&mut self) {
        for (port, is_sessions) in self.entries.udp.take_port_changes() {
            self.mark_port(port, is_sessions);
        }
    }

    /// A port that the TURN server has on another address stays what it is: sessions are found
    /// there all the same.
    fn mark_port(&mut self, port: u16, is_sessions: bool) {
        if self.served.has_port(port) {
            return;
        }
        let kind = if is_sessions { Port::Opaque } else { Port::Foreign };
        if let Err(error) = self.programs.tables.ports.set(port..=port, kind) {
            // Without it the program leaves the port alone, and its session to user space.
            tracing::error!(%error, port, "the XDP program cannot be told of a port");
        }
    }
}

fn switch_off(switched_on: SwitchedOn) {
    if let Err(error) = switched_on.off() {
        tracing::info!(%error, "forwarding stays on for loopback, which forwards nothing");
    }
}

fn counters(programs: &Programs) -> Result<Vec<Counter>, MapError> {
    let all = verdicts::all(&programs.tables.counters)?;
    Ok(all.into_iter().map(|(_, counter)| counter).collect())
}

/// What the program knows each core by: its processor, if each has one of its own. Otherwise the
/// numbers name none, and nothing is steered by them.
fn owners(cpus: &[Option<usize>]) -> Vec<u32> {
    let mut known: Vec<usize> = cpus.iter().copied().flatten().collect();
    known.sort_unstable();
    known.dedup();
    if known.len() < cpus.len() {
        return vec![u32::MAX; cpus.len()];
    }
    let owner = |cpu: &Option<usize>| cpu.and_then(|cpu| u32::try_from(cpu).ok());
    cpus.iter().map(|cpu| owner(cpu).unwrap_or(u32::MAX)).collect()
}

/// What a verdict means, by its name.
pub fn meaning_of(verdict: &str) -> Option<&'static str> {
    let known = Verdict::ALL.iter().find(|known| known.name() == verdict)?;
    Some(verdicts::meaning(*known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_known_by_processors_only_if_each_has_its_own() {
        assert_eq!(owners(&[Some(2), Some(5)]), [2, 5]);
        assert_eq!(owners(&[Some(2), Some(2)]), [u32::MAX; 2]);
        assert_eq!(owners(&[Some(2), None]), [u32::MAX; 2]);
    }

    #[test]
    fn without_being_asked_for_it_does_nothing() {
        let mut xdp = Xdp::start(&Config::default(), &[], &[], &[None]);
        assert_eq!(*xdp.status(), XdpStatus::default());
        assert!(!xdp.is_on() && !xdp.has_work() && xdp.tick().is_empty());
        let taken_up = xdp.take_up(&Config::default(), &Config::default());
        assert!(taken_up.paths_wanted.is_none() && taken_up.notes.is_empty());
        xdp.stop();
    }

    #[test]
    fn what_keeps_it_from_starting_is_said() {
        let mut config = Config::default();
        config.xdp.mode = XdpMode::Auto;
        let xdp = Xdp::start(&config, &[], &[], &[None]);
        let status = xdp.status();
        assert_eq!(status.state, XdpState::Unavailable);
        assert!(status.why.as_deref().unwrap().contains("xdp.interfaces"), "{status:?}");
    }
}
