//! What a new configuration changes in a running program, and what of it has to wait.

use super::Config;
use super::keys::{KEYS, Key, Reload};

/// The room that a core's tables have for connections was made when the program started.
const ROOM: [&str; 3] = ["engine.links_max", "engine.half_open_max", "engine.sockets_max"];

/// A new configuration as far as a running program can take it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// What is in force from now on: the new values of keys that reload, the others as they were.
    pub config: Config,
    /// Keys whose new value is in force, as `section.key`; `peer` for anything about peers.
    pub changed: Vec<String>,
    /// Keys whose new value needs a restart.
    pub waiting: Vec<String>,
}

/// Compares what is in force with what a file says now. `room_max` is the number of connections
/// that a core has had room for since it started.
pub fn reloaded(running: &Config, wanted: Config, room_max: usize) -> Reloaded {
    let is_turn_wanted = wanted.turn.is_enabled();
    let mut outcome = Reloaded { config: wanted, changed: vec![], waiting: vec![] };
    let crowded = room(&outcome.config) > room_max;
    for key in KEYS.iter().filter(|key| differs(key, running, &outcome.config)) {
        let path = key.path();
        let waits = key.reload == Reload::Restart || (crowded && ROOM.contains(&path.as_str()));
        if waits {
            outcome.waiting.push(path);
        } else {
            outcome.changed.push(path);
        }
    }
    for key in KEYS.iter().filter(|key| outcome.waiting.contains(&key.path())) {
        key.rule.copy(running, &mut outcome.config);
    }
    // What the program found for a file without a TURN server is nothing; the server goes on with
    // what it has until the restart that ends it.
    let turn = &mut outcome.config.turn;
    if turn.is_enabled() && !is_turn_wanted {
        turn.found = running.turn.found.clone();
    }
    if running.peers != outcome.config.peers {
        outcome.changed.push("peer".to_owned());
    }
    if running.udp.sessions != outcome.config.udp.sessions {
        outcome.changed.push("udp.session".to_owned());
    }
    outcome
}

/// Connections that a core may have at a time.
pub fn room(config: &Config) -> usize {
    let engine = &config.engine;
    engine.links_max + engine.half_open_max + engine.sockets_max
}

fn differs(key: &Key, one: &Config, other: &Config) -> bool {
    key.value(one) != key.value(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AccessMode, parse};
    use std::sync::Arc;

    fn after(text: &str) -> Reloaded {
        let running = Config::default();
        reloaded(&running, parse(text, "x").unwrap(), room(&running))
    }

    #[test]
    fn keys_that_reload_are_in_force_and_others_wait_as_they_were() {
        let outcome = after(
            "[relay]\nping_interval = \"7s\"\nsession_window = \"2MiB\"\n[listen]\n\
             addresses = [\"[::]:9\"]\n[node]\nalias = \"other\"\n",
        );
        assert_eq!(outcome.changed, ["node.alias", "relay.ping_interval"]);
        assert_eq!(outcome.waiting, ["listen.addresses", "relay.session_window"]);
        assert_eq!(outcome.config.relay.ping_interval.as_secs(), 7);
        assert_eq!(outcome.config.listen, Config::default().listen);
        assert_eq!(outcome.config.relay.session_window, Config::default().relay.session_window);
    }

    #[test]
    fn same_file_changes_nothing() {
        let outcome = after("");
        assert_eq!((outcome.config, outcome.changed.len()), (Config::default(), 0));
    }

    #[test]
    fn waiting_keys_wait_again_with_every_reload() {
        let text = "[engine]\ncores = 3";
        let once = after(text);
        let twice = reloaded(&once.config, parse(text, "x").unwrap(), room(&once.config));
        assert_eq!(twice.waiting, ["engine.cores"]);
    }

    #[test]
    fn peers_and_access_are_in_force_at_once() {
        let peer = crate::fixtures::PEER;
        let outcome = after(&format!(
            "[access]\nmode = \"allowlist\"\nidentities = [\"{peer}\"]\n[[peer]]\n\
             identity = \"{peer}\"\n"
        ));
        assert_eq!(outcome.changed, ["access.mode", "access.identities", "peer"]);
        assert_eq!(outcome.config.access.mode, AccessMode::Allowlist);
        assert_eq!(outcome.config.peers.len(), 1);
    }

    #[test]
    fn a_turn_server_that_is_to_end_keeps_its_users_until_the_restart() {
        let turn = "[turn]\nlisten = [\"192.0.2.1:3478\"]\nusers_file = \"/users\"\n";
        let mut running = parse(turn, "x").unwrap();
        let credentials = running.turn.credentials(&[], &[]).unwrap();
        running.turn.found.credentials = Some(Arc::new(credentials));
        running.turn.found.own_addresses = vec![[9, 9, 9, 9].into()];
        let outcome = reloaded(&running, parse("", "x").unwrap(), room(&running));
        assert!(outcome.waiting.contains(&"turn.listen".to_owned()), "{:?}", outcome.waiting);
        assert_eq!(outcome.config.turn.found, running.turn.found);
    }

    #[test]
    fn caps_may_move_within_the_room_there_is_but_not_beyond() {
        let within = after("[engine]\nlinks_max = 20001\nhalf_open_max = 4095");
        assert_eq!(within.changed, ["engine.links_max", "engine.half_open_max"]);
        let beyond = after("[engine]\nlinks_max = 20001\n[gateway]\nenabled = false");
        assert_eq!(beyond.waiting, ["engine.links_max"]);
        assert_eq!(beyond.changed, ["gateway.enabled"]);
        assert_eq!(beyond.config.engine, Config::default().engine);
    }
}
