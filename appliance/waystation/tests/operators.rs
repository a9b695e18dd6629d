//! What operators do to a running appliance: close, dial, watch, reload, keep out.

#![allow(
    clippy::unwrap_used,
    reason = "a test that fails says where; nothing of it runs anywhere else"
)]

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use support::appliance::{Appliance, PortName, Settings};
use support::nodes::{Node, connect, route};
use support::process::{Finished, ORDINARY_ID, Ordinary, binary, command, is_root, run};
use support::{STEP, eventually, given};
use waystation_astral::frame::Profile;
use waystation_peer::{Link, LinkOptions, RouteForm, secret_key};

fn settings() -> Settings {
    Settings::new(PortName::Epoll, 2)
}

/// Runs a sub-command against an appliance.
fn tell(appliance: &Appliance, words: &[&str]) -> Finished {
    run(command(&binary()).args(words).arg("--socket").arg(&appliance.socket))
}

/// The events behind a number, oldest first.
fn events(appliance: &Appliance, after: u64) -> Vec<Value> {
    let answer = appliance.ask(&format!("/v1/events?after={after}")).unwrap();
    let text = String::from_utf8(answer).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn newest(appliance: &Appliance) -> u64 {
    events(appliance, 0).last().map_or(0, |event| event["sequence"].as_u64().unwrap())
}

/// Waits for an event of this kind.
fn event(appliance: &Appliance, after: u64, kind: &str) -> Value {
    eventually(&format!("an event {kind}"), || {
        events(appliance, after).into_iter().find(|event| event["kind"] == kind)
    })
}

/// Writes another configuration and has it read.
fn reload(appliance: &Appliance, text: &str) {
    fs::write(appliance.directory.path().join("waystation.toml"), text).unwrap();
    appliance.process.signal(Signal::HUP);
}

fn link_id(appliance: &Appliance, node: &Node) -> String {
    let row = eventually("the link is listed", || appliance.link_row(&node.identity()));
    row["link"].as_str().unwrap().to_owned()
}

#[test]
fn link_is_closed_by_its_id_and_others_stay() {
    let appliance = Appliance::start(&settings());
    let (one, other) = (appliance.node(Profile::P4), appliance.node(Profile::P2));
    let id = link_id(&appliance, &one);
    let done = tell(&appliance, &["links", "close", &id]);
    assert_eq!(done.code(), 0, "{}", done.stderr);
    assert_eq!(done.text(), format!("closed link {id} of {}\n", one.identity()));
    assert!(appliance.link_row(&one.identity()).is_none());
    assert!(one.link.ping(STEP).is_err());
    other.link.ping(STEP).unwrap();
    assert_eq!(event(&appliance, 0, "link_down")["reason"], "link_closed_by_operator");
    assert_eq!(appliance.drops()["link_closed_by_operator"], 1);
    // Its tag names nothing any more.
    let again = tell(&appliance, &["links", "close", &id]);
    assert_eq!(again.code(), 1);
    assert!(again.complaint().contains(&format!("there is no link {id}")), "{}", again.stderr);
}

#[test]
fn session_is_closed_by_its_id_on_both_sides_and_their_links_stay() {
    let appliance = Appliance::start(&settings());
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let (mut near, mut far) = route(&caller, &target, RouteForm::G2);
    let sessions = appliance.document("/v1/sessions");
    let rows = sessions["sessions"].as_array().unwrap();
    let leg = rows.iter().find(|row| row["kind"] == "caller").unwrap()["leg"].as_str().unwrap();
    let done = tell(&appliance, &["sessions", "close", leg]);
    assert_eq!(done.code(), 0, "{}", done.stderr);
    assert_eq!(near.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(far.read(&mut [0; 1]).unwrap_or(0), 0);
    caller.link.ping(STEP).unwrap();
    target.link.ping(STEP).unwrap();
    let gone = tell(&appliance, &["sessions", "close", leg]);
    assert_eq!(gone.code(), 1);
    assert!(gone.complaint().contains("there is no session"), "{}", gone.stderr);
}

#[test]
fn dial_by_hand_says_what_came_of_it() {
    let one = Appliance::start(&settings());
    let other = Appliance::start(&settings());
    let endpoint = format!("tcp:{}", other.address);
    let done = tell(&one, &["link", "dial", &endpoint, &other.identity.to_string()]);
    assert_eq!(done.code(), 0, "{}", done.stderr);
    assert!(done.text().starts_with("link "), "{}", done.text());
    assert!(one.link_row(&other.identity).is_some());
    assert_eq!(event(&one, 0, "dialed")["endpoint"], endpoint);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = secret_key().unwrap().identity().to_string();
    let failed = tell(&one, &["link", "dial", &format!("tcp:{closed}"), &nobody]);
    assert_eq!(failed.code(), 1);
    assert!(failed.complaint().contains("cannot connect"), "{}", failed.stderr);
    assert_eq!(event(&one, 0, "dial_failed")["identity"], nobody);
    let unspoken = tell(&one, &["link", "dial", &format!("kcp:{closed}"), &nobody]);
    assert!(unspoken.complaint().contains("nothing is dialed over kcp"), "{}", unspoken.stderr);
}

#[test]
fn events_are_followed_as_they_happen() {
    let appliance = Appliance::start(&settings());
    let mut follower = command(&binary())
        .args(["events", "--follow", "--socket"])
        .arg(&appliance.socket)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let node = appliance.node(Profile::P4);
    let identity = node.identity().to_string();
    node.kill();
    let mut reader = follower.stdout.take().unwrap();
    let mut text = String::new();
    let mut piece = [0; 4096];
    while !(text.contains("\"unlinked\"") && text.ends_with('\n')) {
        let bytes = reader.read(&mut piece).unwrap();
        assert!(bytes > 0, "the stream ended: {text}");
        text.push_str(std::str::from_utf8(&piece[..bytes]).unwrap());
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
    let seen: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_node = seen.iter().filter(|event| event["identity"] == identity);
    let kinds: Vec<_> = of_node.map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["linked", "link_up", "link_down", "unlinked"]);
    // Without --follow it is the same from the beginning, and an end.
    let all = tell(&appliance, &["events"]);
    let first: Value = serde_json::from_str(all.text().lines().next().unwrap()).unwrap();
    assert_eq!((&first["sequence"], &first["kind"]), (&1.into(), &"ready".into()));
    assert!(all.text().contains(&identity));
}

#[test]
fn peers_show_what_each_has_used_over_links_and_pipes() {
    let appliance = Appliance::start(&settings());
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let pool = target.idle(1, true);
    let (mut near, mut far) = connect(&caller, &target, &pool);
    std::io::Write::write_all(&mut near, &[7; 5000]).unwrap();
    far.read_exact(&mut [0; 5000]).unwrap();
    drop((near, far));
    let (identity, other) = (caller.identity().to_string(), target.identity().to_string());
    let row = |identity: &str| {
        let document = appliance.document("/v1/peers");
        let rows = document["peers"].as_array().unwrap();
        rows.iter().find(|row| row["identity"] == identity).cloned()
    };
    let used = eventually("the pipe is entered", || {
        row(&identity).filter(|row| row["used"]["pipes"] == 1)
    });
    assert_eq!(used["used"]["pipe_bytes_in"], 5000);
    assert_eq!((&used["links"], &used["networks"]["tcp"]), (&1.into(), &1.into()));
    assert_eq!(row(&other).unwrap()["used"]["pipe_bytes_out"], 5000);
    caller.kill();
    eventually("the link is entered", || {
        row(&identity).filter(|row| row["links"] == 0 && row["used"]["links"] == 1)
    });
    let table = tell(&appliance, &["peers"]).text();
    assert!(table.contains(&identity[..8]) && table.contains("PIPES"), "{table}");
}

#[test]
fn identity_has_no_more_links_than_it_may_and_the_old_one_stays() {
    let settings = settings().with("limits", "links_per_identity_max = 1");
    let appliance = Appliance::start(&settings);
    let node = appliance.node(Profile::P4);
    let id = link_id(&appliance, &node);
    let stream = std::net::TcpStream::connect(appliance.address).unwrap();
    let options = LinkOptions::with_profile(Profile::P4);
    let second = Link::dial_over(stream, &node.key, &appliance.identity, &options);
    let refused = event(&appliance, 0, "limit_reached");
    assert_eq!(refused["limit"], "links_per_identity_max");
    eventually("the second link is closed", || {
        (appliance.drops()["too_many_links"] == 1).then_some(())
    });
    drop(second);
    node.link.ping(STEP).unwrap();
    assert_eq!(link_id(&appliance, &node), id);
    // A reload lifts the cap in place.
    reload(&appliance, &settings.text().replace("identity_max = 1", "identity_max = 2"));
    event(&appliance, 0, "config_reloaded");
    let stream = std::net::TcpStream::connect(appliance.address).unwrap();
    let second = Link::dial_over(stream, &node.key, &appliance.identity, &options).unwrap();
    second.ping(STEP).unwrap();
}

#[test]
fn reload_keeps_strangers_out_and_leaves_others_alone() {
    let appliance = Appliance::start(&settings());
    let (friend, stranger) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let text = settings()
        .with("access", "mode = \"allowlist\"")
        .with("access", &format!("identities = [\"{}\"]", friend.identity()))
        .with("engine", "receive_buffers = 64")
        .text();
    reload(&appliance, &text);
    let reloaded = event(&appliance, 0, "config_reloaded");
    let changed: Vec<_> = reloaded["changed"].as_array().unwrap().iter().collect();
    assert_eq!(changed, ["access.mode", "access.identities"]);
    assert_eq!(reloaded["need_restart"][0], "engine.receive_buffers");
    friend.link.ping(STEP).unwrap();
    assert_eq!(event(&appliance, 0, "link_down")["reason"], "identity_denied");
    assert!(stranger.link.ping(STEP).is_err());
    let options = LinkOptions::with_profile(Profile::P4);
    let dial = |key| {
        let stream = std::net::TcpStream::connect(appliance.address).unwrap();
        Link::dial_over(stream, key, &appliance.identity, &options)
    };
    assert!(dial(&stranger.key).is_err());
    assert!(dial(&friend.key).is_ok());
    event(&appliance, 0, "access_denied");
    assert_eq!(appliance.drops()["identity_denied"], 2);
    assert!(appliance.process.log().contains("reloaded the configuration"));
}

#[test]
fn reload_changes_the_level_of_the_log() {
    let appliance = Appliance::start(&settings().quiet());
    let before = appliance.node(Profile::P4);
    reload(&appliance, &settings().text());
    event(&appliance, 0, "config_reloaded");
    let after = appliance.node(Profile::P4).identity().to_string();
    eventually("a debug line", || appliance.process.log().contains(&after).then_some(()));
    assert!(!appliance.process.log().contains(&before.identity().to_string()));
}

#[test]
fn broken_configuration_changes_nothing_and_says_where_it_is_broken() {
    let appliance = Appliance::start(&settings());
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let (mut near, mut far) = route(&caller, &target, RouteForm::G2);
    let file = appliance.directory.path().join("waystation.toml");
    let own = format!("[[peer]]\nidentity = \"{}\"", appliance.identity);
    let broken: Vec<(&str, &str)> =
        BROKEN.iter().copied().chain([(own.as_str(), "2: peer.identity: ")]).collect();
    assert!(broken.len() >= 40, "{}", broken.len());
    for (number, (text, place)) in broken.iter().enumerate() {
        let before = newest(&appliance);
        reload(&appliance, text);
        let refused = event(&appliance, before, "config_refused");
        let message = refused["message"].as_str().unwrap();
        let start = format!("{}:{place}", file.display());
        assert!(message.starts_with(&start), "{text}\n{message}\nnot {start}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(appliance.process.log().contains(message), "{message}");
        let metrics = String::from_utf8(appliance.ask("/metrics").unwrap()).unwrap();
        let counter = "waystation_config_reloads_total{outcome=\"refused\"} ";
        assert!(metrics.contains(&format!("{counter}{}\n", number + 1)), "{metrics}");
    }
    std::io::Write::write_all(&mut near, b"still here").unwrap();
    far.read_exact(&mut [0; 10]).unwrap();
    let metrics = String::from_utf8(appliance.ask("/metrics").unwrap()).unwrap();
    assert!(metrics.contains("waystation_config_reloads_total{outcome=\"applied\"} 0\n"));
    reload(&appliance, &settings().text());
    event(&appliance, 0, "config_reloaded");
}

/// Files that do not hold, and what the message says behind the file's name.
const BROKEN: &[(&str, &str)] = &[
    ("[engine\n", "1: not valid TOML: "),
    ("[engine]\ncores = \n", "2: not valid TOML: "),
    ("[engine]\ncores = 1\ncores = 2", "3: not valid TOML: "),
    ("[node]\nalias = \"open", "2: not valid TOML: "),
    ("[engin]\ncores = 1", "1: engin: "),
    ("cores = 1", "1: cores: "),
    ("engine = 1", "1: engine: "),
    ("[engine]\ncore = 1", "2: engine.core: "),
    ("[engine]\ncores = -1", "2: engine.cores: "),
    ("[engine]\ncores = \"two\"", "2: engine.cores: "),
    ("[engine]\ncores = 1.5", "2: engine.cores: "),
    ("[engine]\ncpus = [1, 1]", "2: engine.cpus: "),
    ("[engine]\nport = \"dpdk\"", "2: engine.port: "),
    ("[engine]\nreceive_buffers = 33", "2: engine.receive_buffers: "),
    ("[engine]\nblock_memory = 5", "2: engine.block_memory: "),
    ("[engine]\nblock_memory = \"5KB\"", "2: engine.block_memory: "),
    ("[engine]\nlinks_max = 0", "2: engine.links_max: "),
    ("[node]\nalias = \"\"", "2: node.alias: "),
    ("[node]\nreflect_endpoints = 1", "2: node.reflect_endpoints: "),
    ("[listen]\naddresses = []", "2: listen.addresses: "),
    ("[listen]\naddresses = [\"here\"]", "2: listen.addresses: "),
    ("[relay]\nping_interval = 5", "2: relay.ping_interval: "),
    ("[relay]\nping_interval = \"5\"", "2: relay.ping_interval: "),
    ("[relay]\nping_timeout = \"soon\"", "2: relay.ping_timeout: "),
    ("[relay]\nhandshake_timeout = \"1h\"", "2: relay.handshake_timeout: "),
    ("[relay]\nsession_window = \"1B\"", "2: relay.session_window: "),
    ("[gateway]\nenabled = \"yes\"", "2: gateway.enabled: "),
    ("[gateway]\nannounce = \"0.0.0.0:1\"", "2: gateway.announce: "),
    ("[gateway]\nidle_ping_interval = \"2m\"", "2: gateway.idle_dead_after: "),
    ("[access]\nmode = \"some\"", "2: access.mode: "),
    ("[access]\nmode = \"allowlist\"", "2: access.identities: "),
    ("[access]\nidentities = [\"02\"]", "2: access.identities: "),
    ("[limits]\nlinks_per_identity_max = 0", "2: limits.links_per_identity_max: "),
    ("[limits]\nrate = 7", "2: limits.rate: "),
    ("[limits]\nburst = \"1KiB\"", "2: limits.burst: "),
    ("[limits]\nlink_idle_timeout = \"never\"", "2: limits.link_idle_timeout: "),
    ("[dial]\ntor_proxy = \"tor\"", "2: dial.tor_proxy: "),
    ("[dial]\nbackoff_min = \"1h\"", "2: dial.backoff_min: "),
    ("[dial]\ndials_max = 0", "2: dial.dials_max: "),
    ("[peer]\nforwards = true", "1: peer: "),
    ("[[peer]]\nforwards = true", "1: peer.identity: "),
    ("[[peer]]\nidentity = \"nobody\"", "2: peer.identity: "),
    ("[management]\nlog = \"loud\"", "2: management.log: "),
    ("[management]\nsocket = \"here\"", "2: management.socket: "),
    ("[management]\nmetrics_listen = \"192.0.2.1:9\"", "2: management.metrics_listen: "),
];

#[test]
fn registration_of_those_who_may_not_is_rejected() {
    let settings = settings().with("limits", "registrations_per_identity_max = 0");
    let appliance = Appliance::start(&settings);
    let node = appliance.node(Profile::P4);
    assert!(node.link.register(waystation_astral::gateway::Visibility::Private).is_err());
    let refused = event(&appliance, 0, "limit_reached");
    assert_eq!(refused["limit"], "registrations_per_identity_max");
    assert_eq!(appliance.drops()["quota_exceeded"], 1);
}

#[test]
fn whoever_may_read_may_not_command() {
    if !given(is_root() && Ordinary::is_possible(), "root, and setpriv") {
        return;
    }
    let appliance = Appliance::start(&settings());
    let node = appliance.node(Profile::P4);
    let id = link_id(&appliance, &node);
    // Everybody may connect to this one.
    let all = |mode| PermissionsExt::from_mode(mode);
    fs::set_permissions(appliance.directory.path(), all(0o755)).unwrap();
    fs::set_permissions(appliance.socket.parent().unwrap(), all(0o755)).unwrap();
    fs::set_permissions(&appliance.socket, all(0o666)).unwrap();
    let ordinary = Ordinary::new();
    let as_stranger =
        |words: &[&str]| run(ordinary.command().args(words).arg("--socket").arg(&appliance.socket));
    assert_eq!(as_stranger(&["links"]).code(), 0);
    let refused = as_stranger(&["links", "close", &id]);
    assert_eq!(refused.code(), 77, "{} as {ORDINARY_ID}", refused.stderr);
    assert!(refused.complaint().contains("commands are taken from the user"), "{}", refused.stderr);
    node.link.ping(STEP).unwrap();
    assert_eq!(tell(&appliance, &["links", "close", &id]).code(), 0);
}

#[test]
fn log_and_events_hold_neither_the_key_nor_nonces_of_registrations() {
    let settings = settings().with("management", "log_format = \"json\"");
    let settings = Settings::with(settings, "gateway", "enabled = true");
    let appliance = Appliance::start(&settings);
    reload(&appliance, &settings.text().replace("log = \"debug\"", "log = \"trace\""));
    event(&appliance, 0, "config_reloaded");
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let pool = target.idle(1, true);
    let _pipe = connect(&caller, &target, &pool);
    let state = appliance.socket.parent().unwrap();
    let saved = eventually("registrations are saved", || {
        fs::read_to_string(state.join("registrations")).ok().filter(|text| text.len() > 80)
    });
    let key = fs::read(state.join("node_key")).unwrap();
    let key = waystation_astral::key_file::read(&key).unwrap();
    let scalar = key.expose_bytes();
    let hex: String = scalar.iter().map(|byte| format!("{byte:02x}")).collect();
    let listed = format!("{scalar:?}");
    let events = String::from_utf8(appliance.ask("/v1/events").unwrap()).unwrap();
    let told = appliance.process.log() + &events + &appliance.status().to_string();
    assert!(told.contains(&target.identity().to_string()), "the log is one of debugging");
    assert!(!told.contains(&hex) && !told.contains(listed.trim_matches(['[', ']'])));
    for word in saved.split(|c: char| !c.is_ascii_alphanumeric()) {
        // Every word of the file that is a nonce and no identity, as hex or in decimal.
        if word.len() == 16 {
            let number = u64::from_str_radix(word, 16).unwrap().to_string();
            assert!(!told.contains(word) && !told.contains(&number), "a nonce was told");
        }
    }
}
