//! `links close`, `links move`, `sessions close`, `link dial`, `udp open`, `udp close`, `drain` and
//! `log level`: commands to the running program.

use crate::arguments::{DrainArguments, SocketArgument, UdpOpenArguments};
use crate::exit::Unmet;
use crate::questions::{pause, print, socket};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_management::limits::{CLIENT_TIMEOUT, STATS_DIAL_TIMEOUT};
use waystation_management::log_levels::LogDirective;
use waystation_management::stats_socket::client;
use waystation_management::units::format_duration;
use waystation_relay::ids::{LegTag, LinkTag, UdpSessionTag};

/// How often `drain` looks whether the program has ended.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long the program may take to end once the deadline has come.
const ENDING_TIMEOUT: Duration = Duration::from_secs(30);

/// `waystation links close`
pub(crate) fn close_link(link: LinkTag, at: &SocketArgument) -> anyhow::Result<()> {
    let uri = format!("/v1/links/close?id={link}");
    let answer = client::post(&socket(at)?, &uri, CLIENT_TIMEOUT)?;
    let document: Value = serde_json::from_slice(&answer)?;
    say(format!("closed link {link} of {}", text(&document["identity"])))
}

/// `waystation links move`
pub(crate) fn move_link(link: LinkTag, core: u16, at: &SocketArgument) -> anyhow::Result<()> {
    let uri = format!("/v1/links/move?id={link}&core={core}");
    let answer = client::post(&socket(at)?, &uri, CLIENT_TIMEOUT)?;
    let document: Value = serde_json::from_slice(&answer)?;
    let (now, identity) = (text(&document["link"]), text(&document["identity"]));
    say(format!("moved link {link} of {identity}: it is {now} now"))
}

/// `waystation sessions close`
pub(crate) fn close_session(leg: LegTag, at: &SocketArgument) -> anyhow::Result<()> {
    let uri = format!("/v1/sessions/close?id={leg}");
    let answer = client::post(&socket(at)?, &uri, CLIENT_TIMEOUT)?;
    let document: Value = serde_json::from_slice(&answer)?;
    say(format!("closed session {leg} of {}", text(&document["identity"])))
}

/// `waystation link dial`
pub(crate) fn dial(
    endpoint: &Endpoint,
    identity: &Identity,
    at: &SocketArgument,
) -> anyhow::Result<()> {
    let uri = format!("/v1/links/dial?endpoint={endpoint}&identity={identity}");
    let answer = client::post(&socket(at)?, &uri, STATS_DIAL_TIMEOUT)?;
    let document: Value = serde_json::from_slice(&answer)?;
    say(format!("link {} to {identity}", text(&document["link"])))
}

/// `waystation udp open`
pub(crate) fn open_udp(open: &UdpOpenArguments) -> anyhow::Result<()> {
    let protocol = if open.wireguard { "wireguard" } else { "opaque" };
    let mut uri = format!("/v1/udp/open?a={}&b={}&protocol={protocol}", open.a, open.b);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            uri.push_str(&format!("&{name}={value}"));
        }
    };
    add("port_a", open.port_a.map(|port| port.to_string()));
    add("port_b", open.port_b.map(|port| port.to_string()));
    add("key_a", open.key_a.clone());
    add("key_b", open.key_b.clone());
    add("rate", open.rate.map(|rate| rate.to_string()));
    add("packets", open.packets.map(|packets| packets.to_string()));
    add("idle", open.idle.map(format_duration));
    let answer = client::post(&socket(&open.socket)?, &uri, CLIENT_TIMEOUT)?;
    if open.json {
        return print(&answer);
    }
    let document: Value = serde_json::from_slice(&answer)?;
    let mut words = format!("opened UDP session {}", text(&document["session"]));
    let legs = document["legs"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (name, leg) in ["A", "B"].into_iter().zip(legs) {
        let (port, end) = (&leg["port"], text(&leg["end"]));
        words.push_str(&format!("\nend {name} ({end}) sends to port {port}"));
        if let Some(token) = leg["token"].as_str() {
            words.push_str(&format!(
                "\n  and proves this token, which is not shown again:\n{token}"
            ));
        }
    }
    say(words)
}

/// `waystation udp close`
pub(crate) fn close_udp(
    session: UdpSessionTag,
    json: bool,
    at: &SocketArgument,
) -> anyhow::Result<()> {
    let uri = format!("/v1/udp/close?id={session}");
    let answer = client::post(&socket(at)?, &uri, CLIENT_TIMEOUT)?;
    if json {
        return print(&answer);
    }
    let document: Value = serde_json::from_slice(&answer)?;
    let again = match document["name"].as_str() {
        Some(name) => format!(": {name} is opened again with the next reload or restart"),
        None => String::new(),
    };
    say(format!("closed UDP session {session}{again}"))
}

/// `waystation drain`
pub(crate) fn drain(arguments: &DrainArguments) -> anyhow::Result<()> {
    let socket = socket(&arguments.socket)?;
    let deadline = format_duration(arguments.deadline);
    let uri = format!("/v1/drain?deadline={deadline}&until_links={}", arguments.until_links);
    client::post(&socket, &uri, CLIENT_TIMEOUT)?;
    say(format!("draining, for {deadline} at most"))?;
    if arguments.no_wait {
        return Ok(());
    }
    wait_until_ended(&socket, arguments.deadline + ENDING_TIMEOUT)?;
    say("drained".to_owned())
}

/// Waits for the program to take its socket away, as it does when it ends.
#[expect(clippy::disallowed_methods, reason = "a command at a terminal, not a data core")]
fn wait_until_ended(socket: &Path, limit: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + limit;
    loop {
        match client::get(socket, "/v1/status") {
            Err(error) if error.is_unavailable() => return Ok(()),
            Err(error) if Instant::now() >= until => return Err(error.into()),
            Ok(_) if Instant::now() >= until => {
                return Err(Unmet("it still runs after the deadline".to_owned()).into());
            }
            Ok(_) | Err(_) => pause(LOOK_AGAIN_AFTER),
        }
    }
}

/// `waystation log level`
pub(crate) fn set_log_level(directive: &LogDirective, at: &SocketArgument) -> anyhow::Result<()> {
    let uri = format!("/v1/log/level?filter={directive}");
    let answer = client::post(&socket(at)?, &uri, CLIENT_TIMEOUT)?;
    let document: Value = serde_json::from_slice(&answer)?;
    say(format!("the log's filter is {} now", text(&document["filter"])))
}

fn say(words: String) -> anyhow::Result<()> {
    print(format!("{words}\n").as_bytes())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
