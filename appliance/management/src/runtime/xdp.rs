//! The XDP program among what the management core does: what cores tell goes in, what sessions have
//! carried goes out.

use super::ManagementCore;
use super::orders::answer;
use crate::clock;
use crate::config::Config;
use crate::journal::{EventKind, fields};
use crate::stats_socket::Document;
use crate::xdp::CaptureRequest;
use serde_json::json;
use tokio::sync::oneshot;
use waystation_engine::control::Command;
use waystation_engine::offload::{PathChange, UdpPath};
use waystation_relay::ids::CoreId;

impl ManagementCore {
    /// Lets the cores tell, if anybody listens.
    pub(super) fn begin_xdp(&mut self) {
        if self.xdp.is_on() {
            self.tell_paths(true);
        }
    }

    fn tell_paths(&mut self, wanted: bool) {
        for core in self.cores() {
            self.command(core, Command::TellPaths { wanted });
        }
    }

    pub(super) fn on_paths(&mut self, core: CoreId, changes: &[PathChange]) {
        self.xdp.on_paths(core, changes);
    }

    pub(super) fn on_udp_paths(&mut self, paths: &[UdpPath]) {
        self.xdp.on_udp_paths(paths);
    }

    /// In every round.
    pub(super) fn work_xdp(&mut self) {
        for (core, command) in self.xdp.work() {
            self.command(core, command);
        }
    }

    /// Once a second.
    pub(super) fn tick_xdp(&mut self) {
        // While another process is to take over, the program is that one's.
        if self.hand_over.is_asked_by_nobody() && *self.ours.borrow() {
            self.xdp.keep_on();
        }
        for (core, command) in self.xdp.tick() {
            self.command(core, command);
        }
        self.extra.xdp.clone_from(self.xdp.status());
    }

    pub(super) fn explain(
        &self,
        frame: &[u8],
        interface: Option<&str>,
        reply: oneshot::Sender<Document>,
    ) {
        let now_ns = clock::now().monotonic_ns;
        let document = match self.xdp.explain(&self.config, frame, interface, now_ns) {
            Some(explained) => Document::json(&explained),
            None => {
                let name = interface.unwrap_or_default();
                let message = format!("there is no network interface {name}");
                Document::not_found("no_such_interface", &message)
            }
        };
        answer(reply, document);
    }

    pub(super) fn capture(&mut self, request: CaptureRequest, reply: oneshot::Sender<Document>) {
        if request.capture.is_none() {
            tracing::info!(?request, "capturing packets by command");
            let said = json!({ "command": "capture", "every": request.every });
            self.journal.record(clock::now(), EventKind::Command, None, fields(said));
        }
        let document = match self.xdp.capture(request, clock::now()) {
            Ok(samples) => Document::json(&samples),
            Err(refusal) => Document::refused(refusal.code(), &refusal.to_string()),
        };
        answer(reply, document);
    }

    pub(super) fn take_up_xdp(&mut self, before: &Config) {
        let taken_up = self.xdp.take_up(before, &self.config);
        for (core, command) in taken_up.notes {
            self.command(core, command);
        }
        if let Some(wanted) = taken_up.paths_wanted {
            self.tell_paths(wanted);
        }
        self.extra.xdp.clone_from(self.xdp.status());
    }
}
