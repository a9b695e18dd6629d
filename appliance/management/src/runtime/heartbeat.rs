//! Whether every data core is alive, for whoever would end a program that hangs.
//!
//! Owned by the management core, on its thread. A core is alive if its loop has turned: nothing but
//! that answers a question about statistics, and every core is asked one each second. It never asks
//! by itself.

use super::ManagementCore;
use crate::documents::Readiness;
use waystation_relay::ids::CoreId;

/// What the program learns of its own life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifeSign {
    /// The loop of every data core has turned since the last sign.
    Alive {
        /// Open links over all cores.
        links: u64,
        /// Nodes registered at the gateway.
        registrations: u64,
        /// Whether nobody new is taken in.
        draining: bool,
    },
    /// Another process has taken over, with this number if the kernel tells it.
    HandedOver { process: Option<i32> },
    /// The cores are told to close everything.
    Stopping,
}

/// Who hears of it.
pub type OnLifeSign = Box<dyn FnMut(LifeSign) + Send>;

/// Which cores have been heard since the last sign.
pub(super) struct Heartbeat {
    heard: Vec<bool>,
    on_life_sign: OnLifeSign,
}

impl Heartbeat {
    pub(super) fn new(cores: usize, on_life_sign: OnLifeSign) -> Self {
        Self { heard: vec![false; cores], on_life_sign }
    }

    /// A core has answered.
    pub(super) fn hear(&mut self, core: CoreId) {
        if let Some(heard) = self.heard.get_mut(core.index()) {
            *heard = true;
        }
    }

    /// Whether all have answered since this was last so.
    fn beats(&mut self) -> bool {
        let all = self.heard.iter().all(|heard| *heard);
        if all {
            self.heard.fill(false);
        }
        all
    }

    pub(super) fn tell(&mut self, sign: LifeSign) {
        (self.on_life_sign)(sign);
    }
}

impl ManagementCore {
    /// Says that every core is alive, if all of them have answered since it last did.
    pub(super) fn show_life(&mut self) {
        // One that drains serves on, for as long as that takes.
        if !matches!(self.extra.readiness, Readiness::Ready | Readiness::Draining)
            || !self.heartbeat.beats()
        {
            return;
        }
        let links = self.observations.reports().map(|report| report.counters.links_open).sum();
        let registrations = self.extra.gateway.registrations as u64;
        let draining = self.draining.is_some();
        self.heartbeat.tell(LifeSign::Alive { links, registrations, draining });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heart_beats_only_once_every_core_has_been_heard_again() {
        let mut heartbeat = Heartbeat::new(2, Box::new(|_| {}));
        assert!(!heartbeat.beats());
        heartbeat.hear(CoreId(1));
        heartbeat.hear(CoreId(1));
        assert!(!heartbeat.beats());
        heartbeat.hear(CoreId(0));
        assert!(heartbeat.beats());
        // One that has hung since is missed, whatever the other says.
        heartbeat.hear(CoreId(0));
        assert!(!heartbeat.beats());
    }

    #[test]
    fn core_that_there_is_not_is_not_counted() {
        let mut heartbeat = Heartbeat::new(1, Box::new(|_| {}));
        heartbeat.hear(CoreId(7));
        assert!(!heartbeat.beats());
    }
}
