//! `links close`, `links move`, `sessions close` and `link dial`: commands to the running program.

use crate::arguments::SocketArgument;
use crate::questions::{print, socket};
use serde_json::Value;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_management::limits::{CLIENT_TIMEOUT, STATS_DIAL_TIMEOUT};
use waystation_management::stats_socket::client;
use waystation_relay::ids::{LegTag, LinkTag};

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

fn say(words: String) -> anyhow::Result<()> {
    print(format!("{words}\n").as_bytes())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
