//! What each row runs. A row sets its contenders up, lets them alternate, and returns lines; what
//! is good enough stands in [`crate::compare::goals`].

mod fairness;
mod handshakes;
mod headroom;
mod memory;
mod own;
mod placement;
mod proxies;
mod relays;
mod scraping;
mod udp;

use crate::compare::appliance;
use crate::compare::contender::{Outcome, Setting};
use crate::compare::goals::Row;
use crate::compare::proxy::Proxy;
use crate::compare::turn::TurnServer;
use crate::compare::{iroh, libp2p};
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Runs a row.
///
/// # Errors
///
/// When one of our own sides fails, or any side loses or changes a byte.
pub fn run(row: &Row, setting: &Setting) -> Result<Outcome> {
    match row.number {
        1 => own::floor(setting),
        2 => relays::libp2p(setting),
        3 => own::control(setting),
        4 => own::stock_sender(setting),
        5 => relays::iroh(setting),
        6 => proxies::small_messages(setting),
        7 => own::coalescing(setting),
        8 => proxies::raw_pipe(setting),
        9 => own::ports(setting),
        10 => relays::paced(setting),
        11 => memory::idle(setting),
        12 => placement::two_cores(setting),
        13 => scraping::scraped(setting),
        14 => fairness::fairness(setting),
        15 => handshakes::handshakes(setting),
        16 => own::stock_gateway(setting),
        17 => headroom::headroom(setting),
        18 => udp::udp(setting),
        19 => udp::between_hosts(setting),
        20 => udp::flood(setting),
        number => bail!("row {number} has goals and no measurement"),
    }
}

/// Versions of everything that may take part; what is not there is left out.
pub fn versions(setting: &Setting) -> BTreeMap<&'static str, String> {
    let mut versions = BTreeMap::new();
    if let Ok(program) = appliance::program()
        && let Some(version) = version_of(&program, "--version")
    {
        versions.insert("waystation", version);
    }
    for proxy in [Proxy::Haproxy, Proxy::Nginx] {
        if let Some(program) = proxy.program(&setting.peers)
            && let Some(version) = version_of(&program, "-v")
        {
            versions.insert(proxy.name(), version);
        }
    }
    for server in [TurnServer::Coturn, TurnServer::TurnRs] {
        if let Some(program) = server.program(&setting.peers)
            && let Some(version) = version_of(&program, "--version")
        {
            versions.insert(server.name(), version);
        }
    }
    if let Some((relay, _)) = iroh::programs(&setting.peers)
        && let Some(version) = version_of(&relay, "--version")
    {
        versions.insert("iroh-relay", version);
    }
    if let Some((relay, _)) = libp2p::programs(&setting.peers)
        && let Some(version) = version_of(&relay, "--version")
    {
        versions.insert("libp2p", version);
    }
    versions
}

/// The first line of what a program says its version is, on either output.
fn version_of(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let line = String::from_utf8_lossy(&said).lines().next()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}
