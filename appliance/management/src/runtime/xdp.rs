//! The XDP program among what the management core does: what cores tell goes in, what sessions have
//! carried goes out.

use super::ManagementCore;
use crate::config::Config;
use waystation_engine::control::Command;
use waystation_engine::offload::PathChange;
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

    /// Once a second.
    pub(super) fn tick_xdp(&mut self) {
        for (core, command) in self.xdp.tick() {
            self.command(core, command);
        }
        self.extra.xdp.clone_from(self.xdp.status());
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
