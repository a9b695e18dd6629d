//! `status`, `links`, `sessions`, `peers`, `log`, `events`, `drops` and `hist`: questions to the stats socket.

use crate::arguments::{
    DropsArguments, EventsArguments, HistArguments, ListingArguments, SocketArgument,
    StatusArguments, StatusOfHubArguments,
};
use crate::state;
use anyhow::Context;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use waystation_engine::statistics::Stage;
use waystation_management::log_comparison::{LOG_MAX_BYTES, ReadLog, read_log};
use waystation_management::log_levels;
use waystation_management::render;
use waystation_management::stats_socket::client::{self, ClientError};

/// How long `status --wait` pauses between two questions.
const WAIT_PAUSE: Duration = Duration::from_millis(50);
/// How often `hist --follow` prints.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// `waystation status`
pub(crate) fn status(arguments: &StatusArguments) -> anyhow::Result<()> {
    let socket = socket(&arguments.socket)?;
    if let Some(limit) = arguments.wait {
        wait_until_ready(&socket, limit)?;
    }
    show(&client::get(&socket, "/v1/status")?, arguments.json, render::status)
}

/// `waystation links`
pub(crate) fn links(arguments: &ListingArguments) -> anyhow::Result<()> {
    let answer = client::get(&socket(&arguments.socket)?, "/v1/links")?;
    show(&answer, arguments.json, render::links)
}

/// `waystation sessions`
pub(crate) fn sessions(arguments: &ListingArguments) -> anyhow::Result<()> {
    let answer = client::get(&socket(&arguments.socket)?, "/v1/sessions")?;
    show(&answer, arguments.json, render::sessions)
}

/// `waystation udp list`
pub(crate) fn udp(arguments: &ListingArguments) -> anyhow::Result<()> {
    let answer = client::get(&socket(&arguments.socket)?, "/v1/udp")?;
    show(&answer, arguments.json, render::udp)
}

/// `waystation xdp status`
pub(crate) fn xdp(arguments: &ListingArguments) -> anyhow::Result<()> {
    let answer = client::get(&socket(&arguments.socket)?, "/v1/xdp")?;
    show(&answer, arguments.json, render::xdp)
}

/// `waystation hub`
pub(crate) fn hub(arguments: &StatusOfHubArguments) -> anyhow::Result<()> {
    let answer = client::get(&socket(&arguments.socket)?, "/v1/hub")?;
    show(&answer, arguments.json, waystation_management::hub::text)
}

/// `waystation log show`
pub(crate) fn log(arguments: &ListingArguments) -> anyhow::Result<()> {
    let answer = client::get(&socket(&arguments.socket)?, "/v1/log")?;
    show(&answer, arguments.json, log_levels::text)
}

/// `waystation peers`
pub(crate) fn peers(arguments: &ListingArguments) -> anyhow::Result<()> {
    let answer = client::get(&socket(&arguments.socket)?, "/v1/peers")?;
    show(&answer, arguments.json, render::peers)
}

/// `waystation events`
pub(crate) fn events(arguments: &EventsArguments) -> anyhow::Result<()> {
    let socket = socket(&arguments.socket)?;
    let mut after = arguments.after;
    if arguments.follow {
        let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
        let uri = format!("/v1/events?follow=true{after}");
        let followed = client::follow(&socket, &uri, &mut |piece| {
            let mut out = std::io::stdout().lock();
            out.write_all(piece).and_then(|()| out.flush())
        });
        return match followed {
            // A reader that has gone, like `head`, is no failure.
            Err(ClientError::Connection { error, .. })
                if error.kind() == std::io::ErrorKind::BrokenPipe =>
            {
                Ok(())
            }
            other => Ok(other?),
        };
    }
    // One answer holds a part of them; each begins behind the last.
    loop {
        let query = after.map(|after| format!("?after={after}")).unwrap_or_default();
        let answer = client::get(&socket, &format!("/v1/events{query}"))?;
        let last = last_sequence(&answer);
        print(&answer)?;
        match last {
            Some(last) => after = Some(last),
            None => return Ok(()),
        }
    }
}

/// The number of the last event in an answer; none if there is no event.
fn last_sequence(answer: &[u8]) -> Option<u64> {
    let line = answer.trim_ascii_end().rsplit(|byte| *byte == b'\n').next()?;
    let event: Value = serde_json::from_slice(line).ok()?;
    event["sequence"].as_u64()
}

/// `waystation drops`
pub(crate) fn drops(arguments: &DropsArguments) -> anyhow::Result<()> {
    let uri = if arguments.all { "/v1/drops?all=true" } else { "/v1/drops" };
    let answer = client::get(&socket(&arguments.socket)?, uri)?;
    show(&answer, arguments.json, render::drops)
}

/// `waystation hist`
pub(crate) fn histograms(arguments: &HistArguments) -> anyhow::Result<()> {
    if let [first, second] = arguments.compare.as_slice() {
        let (first, second) = (log_file(first)?, log_file(second)?);
        let stage = arguments.stage.map(Stage::name);
        return print(render::comparison(&first, &second, stage).as_bytes());
    }
    let socket = socket(&arguments.socket)?;
    let stage = arguments.stage.map(Stage::name);
    let mut uri = "/v1/histograms?core=merged&".to_owned();
    if let Some(stage) = stage {
        uri.push_str(&format!("stage={stage}&"));
    }
    uri.push_str(if arguments.follow { "window=interval" } else { "window=total" });
    if arguments.log {
        uri.push_str("&format=hlog");
    }
    loop {
        let answer = client::get(&socket, &uri)?;
        if arguments.log {
            print(&answer)?;
        } else {
            show(&answer, arguments.json, |document| render::histogram(document, stage))?;
        }
        if !arguments.follow {
            return Ok(());
        }
        pause(FOLLOW_EVERY);
    }
}

/// Reads an interval log that [`histograms`] or another writer of the format has made.
fn log_file(path: &Path) -> anyhow::Result<ReadLog> {
    let mut log = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LOG_MAX_BYTES + 1).read_to_end(&mut log));
    read.with_context(|| format!("{} cannot be read", path.display()))?;
    if log.len() as u64 > LOG_MAX_BYTES {
        anyhow::bail!("{} is longer than {LOG_MAX_BYTES} bytes", path.display());
    }
    // Editors may have taken the last line feed away.
    if !log.ends_with(b"\n") {
        log.push(b'\n');
    }
    read_log(&log).with_context(|| path.display().to_string())
}

pub(crate) fn socket(argument: &SocketArgument) -> anyhow::Result<PathBuf> {
    match &argument.socket {
        Some(socket) => Ok(socket.clone()),
        None => Ok(state::socket_to_ask()?),
    }
}

#[expect(clippy::disallowed_methods, reason = "a command at a terminal, not a data core")]
fn wait_until_ready(socket: &std::path::Path, limit: Duration) -> Result<(), ClientError> {
    let until = Instant::now() + limit;
    loop {
        match client::get(socket, "/ready") {
            Ok(_) => return Ok(()),
            Err(error) if !error.is_unavailable() || Instant::now() >= until => return Err(error),
            Err(_) => pause(WAIT_PAUSE),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a command at a terminal, not a data core")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

pub(crate) fn show(
    answer: &[u8],
    json: bool,
    render: impl Fn(&Value) -> String,
) -> anyhow::Result<()> {
    if json {
        return print(answer);
    }
    let document: Value = serde_json::from_slice(answer)?;
    print(render(&document).as_bytes())
}

/// Prints; a reader that has gone, like `head`, is no failure.
pub(crate) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
