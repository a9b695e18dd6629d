//! `SIGHUP`: the configuration is read again, and what of it can change is in force at once.
//!
//! A file that does not hold leaves everything as it is. One that holds is published as one
//! snapshot to all data cores; the reload is over when each has acknowledged it.

use super::ManagementCore;
use crate::clock;
use crate::config::{self, Config, Reloaded, core_snapshot, reloaded};
use crate::dht::DhtLive;
use crate::dialing::DialSettings;
use crate::documents::CoreCapacity;
use crate::journal::{EventKind, fields};
use crate::limits::RELOAD_TIMEOUT;
use crate::node::NodeSettings;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::Instant;
use waystation_astral::identity::Identity;
use waystation_engine::control::Command;
use waystation_relay::ids::CoreId;

/// How far a reload is, for the service manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadStage {
    /// The file is being read.
    Begun,
    /// The old or the new configuration is in force.
    Ended,
}

/// Where a new configuration comes from, and what in the program it concerns besides.
pub struct ReloadSource {
    /// Reads the configuration again, with what the command line says instead. The error is one
    /// that people can act on: file, line, key and remedy.
    pub read: Box<dyn FnMut() -> Result<Config, String> + Send>,
    /// Told as a reload begins and ends.
    pub on_stage: Box<dyn FnMut(ReloadStage) + Send>,
}

impl std::fmt::Debug for ReloadSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadSource").finish_non_exhaustive()
    }
}

/// A reload that the data cores have not acknowledged yet.
pub(super) struct PendingReload {
    epoch: u64,
    missing: Vec<CoreId>,
    changed: Vec<String>,
    waiting: Vec<String>,
    pub(super) deadline: Instant,
}

impl ManagementCore {
    /// Reads the configuration again, now or when the reload under way is over.
    pub(super) fn reload(&mut self) {
        self.hand_over.is_outdated |= !self.hand_over.is_asked_by_nobody();
        if self.reload.is_some() {
            self.reload_again = true;
            return;
        }
        if self.hand_over.keeps_clients_waiting() {
            self.hand_over.reload_after = true;
            return;
        }
        let Some(source) = &mut self.reload_source else {
            return tracing::warn!("there is no configuration file to read again");
        };
        (source.on_stage)(ReloadStage::Begun);
        match (source.read)() {
            Ok(wanted) => self.take_up(reloaded(&self.config, wanted, self.room_max)),
            Err(message) => self.refuse_reload(&message),
        }
    }

    fn refuse_reload(&mut self, message: &str) {
        self.extra.operations.reloads_refused += 1;
        tracing::error!("the old configuration stays in force: {message}");
        let said = fields(json!({ "message": message }));
        self.journal.record(clock::now(), EventKind::ConfigRefused, None, said);
        self.end_stage();
    }

    fn take_up(&mut self, reloaded: Reloaded) {
        let Reloaded { config, changed, waiting } = reloaded;
        let before = std::mem::replace(&mut self.config, config);
        if before.management.log != self.config.management.log {
            self.take_up_log();
        }
        self.accounts.set(crate::accounts::AccountSettings::of_config(&self.config));
        self.node.set_settings(NodeSettings::of(&self.config, &self.extra.listen));
        let dials = DialSettings::of(&self.config);
        match &mut self.dial_settings {
            // Not every core serves yet; they are taken up then.
            Some(settings) => *settings = dials,
            // Nobody is dialed any more.
            None if self.draining.is_some() => {}
            None => self.dial(|dialer, around| dialer.set_settings(around, dials)),
        }
        if let Some(dht) = &self.dht {
            let extra = &self.extra;
            let (listen, turn_listen) = (&extra.listen, &extra.turn_listen.udp);
            dht.reload(DhtLive::of(&self.config, extra.identity, listen, turn_listen));
        }
        if let Some(hub) = &self.hub {
            hub.reload(self.config.hub.limits());
        }
        self.extra.capacity = CoreCapacity::from(&self.config);
        self.extra.node_info =
            config::node_info(&self.config, self.extra.identity, &self.extra.listen);
        self.govern_peers_again(&before);
        self.take_up_xdp(&before);
        self.publish();
        self.reload = Some(PendingReload {
            epoch: self.epoch,
            missing: self.cores().collect(),
            changed,
            waiting,
            deadline: Instant::now() + RELOAD_TIMEOUT,
        });
    }

    /// Publishes what is in force to all data cores.
    pub(super) fn publish(&mut self) {
        self.epoch += 1;
        let snapshot = Arc::new(core_snapshot(&self.config, self.epoch));
        for core in self.cores() {
            self.command(core, Command::Adopt { snapshot: Arc::clone(&snapshot) });
        }
        // Behind the snapshot, so that the cores know whom new sessions may be with.
        self.take_up_udp();
    }

    /// Links of nodes that have become peers, or are none any more.
    fn govern_peers_again(&mut self, before: &Config) {
        let peers = |config: &Config| -> BTreeSet<Identity> {
            config.peers.iter().map(|peer| peer.identity).collect()
        };
        let (old, new) = (peers(before), peers(&self.config));
        let now = clock::now();
        for identity in old.symmetric_difference(&new) {
            self.govern_again(now, identity);
        }
        self.dial_failures.retain(|identity, _| new.contains(identity));
    }

    pub(super) fn on_adopted(&mut self, core: CoreId, epoch: u64) {
        let Some(reload) = &mut self.reload else { return };
        if reload.epoch == epoch {
            reload.missing.retain(|missing| *missing != core);
        }
        if reload.missing.is_empty() {
            self.end_reload();
        }
    }

    /// Ends a reload without the cores that are late; they take it up with their next turn.
    pub(super) fn end_late_reload(&mut self) {
        if self.reload.as_ref().is_some_and(|reload| reload.deadline <= Instant::now()) {
            self.end_reload();
        }
    }

    fn end_reload(&mut self) {
        let Some(reload) = self.reload.take() else { return };
        for core in &reload.missing {
            tracing::warn!(%core, "a data core has not taken up the configuration yet");
        }
        self.extra.operations.reloads_applied += 1;
        let list =
            |keys: &[String]| if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
        tracing::info!(
            changed = list(&reload.changed),
            need_restart = list(&reload.waiting),
            "reloaded the configuration"
        );
        let said = json!({ "changed": reload.changed, "need_restart": reload.waiting });
        self.journal.record(clock::now(), EventKind::ConfigReloaded, None, fields(said));
        self.end_stage();
        if std::mem::take(&mut self.reload_again) {
            self.reload();
        }
    }

    fn end_stage(&mut self) {
        if let Some(source) = &mut self.reload_source {
            (source.on_stage)(ReloadStage::Ended);
        }
    }
}
