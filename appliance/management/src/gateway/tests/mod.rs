//! Behaviour of the gateway, one report at a time.

mod conversations;
mod meeting;
mod model;

use super::limits::{LISTED_IDENTITIES_MAX, REGISTRATION_KEEP_NS};
use super::*;
use crate::node::bench::*;
use crate::node::limits::COPY_WINDOW_NS;
use std::collections::BTreeMap;
use waystation_astral::frame::Profile;
use waystation_astral::object;
use waystation_engine::control::Report;
use waystation_relay::ids::{LegTag, LinkTag};

fn assert_refused(command: &Command, text: &str) {
    assert_eq!(bytes_of(command), object::error_message(text));
}

fn assert_rejected(command: &Command) {
    assert!(matches!(command, Command::Reject { code: 1, .. }), "{command:?}");
}

fn assert_joined(commands: &[Command], wanted: (SocketTag, SocketTag)) {
    assert!(
        matches!(commands, [Command::JoinSockets { caller, idle, .. }] if (*caller, *idle) == wanted),
        "{commands:?}"
    );
}

fn assert_closed(commands: &[Command], closed: SocketTag, why: DropReason) {
    assert!(
        matches!(commands, [Command::CloseSocket { socket, reason }]
            if *socket == closed && *reason == why),
        "{commands:?}"
    );
}

fn listing(bench: &mut Bench) -> Vec<u8> {
    bench.link(OTHER, link_of(OTHER), false);
    bytes_of(&bench.ask(OTHER, "gateway.node_list")).to_vec()
}

fn listing_of(numbers: &[u16]) -> Vec<u8> {
    let mut identities: Vec<_> = numbers.iter().map(|number| identity(*number)).collect();
    identities.sort();
    let objects = identities.iter().map(object::identity).chain([object::eos()]);
    objects.flatten().collect()
}
