//! A core among those of two processes, one of which goes on where the other ends.
//!
//! Runs on the core's thread, at the management core's word. The new process's cores are made held:
//! they have every socket and serve none. The old process's cores tell what they have while they
//! serve on; then they leave connections and datagrams in the sockets and tell what has changed
//! since. A new core serves datagrams as soon as it has that, for they wait until then, and the rest
//! once it is told to begin. What becomes of links is in [`super::links_over`]; raw pipes are not
//! paused.

use super::opaque::OpaqueTold;
use super::{CoreError, CoreParts, DataCore};
use crate::clock;
use crate::control::{Report, UdpBegun, UdpHandOver, UdpPaused, UdpTakeOver, UdpTaken};
use crate::port::Port;
use std::io;
use std::net::TcpListener;
use waystation_turn::server::ServerTold;

/// Listeners that are not watched yet.
#[derive(Debug)]
pub(super) struct Held {
    links: Vec<TcpListener>,
    turn: Vec<TcpListener>,
    /// How long this thread had waited for a processor when it had done what it was last told.
    processor_waited_ns: u64,
}

/// How far this core has come in telling another process what it has.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// Whether the rest is to be told as soon as nothing is accepted here any more.
    pub(super) is_pausing: bool,
    turn: ServerTold,
    opaque: OpaqueTold,
}

impl<P: Port> DataCore<P> {
    /// A core that serves nobody before [`crate::control::Command::Begin`]. Must be called on the
    /// thread it will run on.
    ///
    /// # Errors
    /// As [`DataCore::new`].
    pub fn new_held(
        port: P,
        listeners: Vec<TcpListener>,
        mut parts: CoreParts,
    ) -> Result<Self, CoreError> {
        let turn = parts.turn.as_mut().map(|turn| std::mem::take(&mut turn.listeners));
        let mut core = Self::new(port, Vec::new(), parts)?;
        core.hold(listeners, turn.unwrap_or_default());
        core.pause_udp();
        Ok(core)
    }

    /// Serves everybody from now on.
    pub(super) fn begin(&mut self) {
        let Some(Held { links, turn, .. }) = self.held.take() else { return };
        let beginning = || {
            // Those who have waited come first.
            self.resume_udp()?;
            for listener in links {
                self.port.add_listener(listener)?;
            }
            if let Some(server) = &mut self.turn {
                server.listen(turn, &mut self.port)?;
            }
            Ok(())
        };
        let begun = beginning();
        self.end_if_failed(begun);
        self.thaw_links();
    }

    /// Tells all that another process needs to go on with UDP, or forgets that it was told.
    pub(super) fn tell_udp(&mut self, wanted: bool) {
        self.telling = Telling::default();
        if wanted {
            self.tell_rest(None);
        }
    }

    /// Leaves connections and datagrams in their sockets, and tells the rest once that is so.
    pub(super) fn begin_handing_over(&mut self) {
        self.port.stop_accepting();
        self.telling.is_pausing = true;
    }

    /// Tells as soon as nothing here waits for connections any more: the kernel wakes one who waits
    /// for each, and if that is one who then does not take it, nobody does. Datagrams are served
    /// until then.
    pub(super) fn go_on_handing_over(&mut self) {
        if !self.telling.is_pausing || self.port.is_accepting() {
            return;
        }
        self.telling.is_pausing = false;
        let (since_ns, processor_waited_ns) = (clock::now_ns(), self.run_delay.read_ns());
        self.pause_udp();
        self.tell_rest(Some(UdpPaused { since_ns, told_ns: since_ns, processor_waited_ns }));
    }

    /// Tells what is not told yet: datagrams may wait since a moment, by which the thread had waited
    /// so long for a processor.
    fn tell_rest(&mut self, paused: Option<UdpPaused>) {
        let Telling { turn: turn_told, opaque: opaque_told, .. } = &mut self.telling;
        let mut told = || {
            let turn = self.turn.as_deref().map(|turn| turn.tell(&mut *turn_told)).transpose()?;
            let opaque = self.opaque.as_deref().map(|it| it.tell(&mut *opaque_told)).transpose()?;
            let (turn, opaque) = (turn.unwrap_or_default(), opaque.unwrap_or_default());
            let paused = paused.map(|UdpPaused { since_ns, processor_waited_ns, .. }| UdpPaused {
                since_ns,
                told_ns: clock::now_ns(),
                processor_waited_ns: self.run_delay.read_ns().saturating_sub(processor_waited_ns),
            });
            Ok::<_, io::Error>(Box::new(UdpHandOver { turn, opaque, paused }))
        };
        let result = told();
        self.fabric.report(Report::UdpTold { core: self.fabric.core, result });
    }

    /// Nothing came of it: this process goes on, with one more descriptor of each listener.
    pub(super) fn go_on(&mut self, links: Vec<TcpListener>, turn: Vec<TcpListener>) {
        self.telling = Telling::default();
        self.hold(links, turn);
        self.begin();
    }

    /// Another process has it all: what stays are TURN clients over TCP, and links that it was not
    /// told of.
    pub(super) fn let_udp_go(&mut self) {
        self.telling = Telling::default();
        self.forget_links();
        if let Some(turn) = &mut self.turn {
            turn.let_go();
        }
        if let Some(opaque) = &mut self.opaque {
            opaque.let_go();
        }
        let resumed = self.resume_udp();
        self.end_if_failed(resumed);
    }

    /// Takes up what another process has, or what has become of it, and serves it if that process
    /// does no more.
    pub(super) fn take_udp_over(&mut self, from: UdpTakeOver) {
        let mut taken = UdpTaken::default();
        if let Some(turn) = &mut self.turn {
            taken.allocations_left = turn.take_over(from.turn);
        }
        if let Some(opaque) = &mut self.opaque {
            taken.opaque = opaque.take_over(from.opaque);
        }
        if from.serves {
            let resumed = self.resume_udp();
            self.end_if_failed(resumed);
            let waited_ns = self.held.as_ref().map_or(0, |held| held.processor_waited_ns);
            taken.begun = Some(UdpBegun {
                at_ns: clock::now_ns(),
                processor_waited_ns: self.run_delay.read_ns().saturating_sub(waited_ns),
            });
        }
        self.note_processor_wait();
        self.fabric.report(Report::UdpTaken { core: self.fabric.core, taken: Box::new(taken) });
    }

    /// Has what is told next be accounted for from here on, while nothing is served.
    pub(super) fn note_processor_wait(&mut self) {
        if let Some(held) = &mut self.held {
            held.processor_waited_ns = self.run_delay.read_ns();
        }
    }

    fn hold(&mut self, links: Vec<TcpListener>, turn: Vec<TcpListener>) {
        let processor_waited_ns = self.run_delay.read_ns();
        self.held = Some(Held { links, turn, processor_waited_ns });
    }

    /// A core that cannot watch its sockets is of no use to anybody.
    fn end_if_failed(&mut self, outcome: io::Result<()>) {
        if let Err(source) = outcome {
            self.failure = Some(CoreError::Datagrams { core: self.fabric.core, source });
            self.stopping = true;
        }
    }
}
