//! Row 11: what idle links cost the relay's process in memory.

use crate::compare::appliance::{Appliance, Port};
use crate::compare::contender::{Contender, Entry, Outcome, Schedule, Setting, alternate};
use crate::compare::driven::Driven;
use crate::compare::figures::{Measure, Sample};
use crate::compare::goals::{LIBP2P, WAYSTATION};
use crate::compare::libp2p::{Libp2pRelay, programs};
use crate::compare::process::NOT_INSTALLED;
use crate::swarm::dial;
use crate::swarm::shape::Layout;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// Links that are there before the first look, so that what every relay sets up once is paid.
const FIRST_LINKS: u32 = 100;
/// Links between the two looks.
const LINKS: u32 = 1_000;
/// Time to settle before a look.
const SETTLE: Duration = Duration::from_millis(300);

pub(super) fn idle(setting: &Setting) -> Result<Outcome> {
    let ours: Box<dyn Contender> = Box::new(Waystation(setting.clone()));
    let theirs: Entry = match programs(&setting.peers) {
        Some((relay, driver)) => {
            let setting = setting.clone();
            let contender: Box<dyn Contender> = Box::new(Libp2p { relay, driver, setting });
            (LIBP2P, Ok(contender))
        }
        None => (LIBP2P, Err(NOT_INSTALLED.to_owned())),
    };
    alternate("idle links", vec![(WAYSTATION, Ok(ours)), theirs], &setting.schedule)
}

/// Each round is a process of its own, for memory once used is not given back.
struct Waystation(Setting);

impl Contender for Waystation {
    fn round(&mut self, _schedule: &Schedule) -> Result<Sample> {
        let appliance = Appliance::start(Port::IoUring, &self.0)?;
        let dial = |links| -> Result<Vec<_>> {
            (0..links).map(|_| dial::dial(&appliance.relay, Layout::Coalesced)).collect()
        };
        let _first = dial(FIRST_LINKS)?;
        let before = resident_kibibytes(appliance.process.id())?;
        let _links = dial(LINKS)?;
        sample(before, resident_kibibytes(appliance.process.id())?)
    }

    fn messages_checked(&self) -> u64 {
        0
    }
}

struct Libp2p {
    relay: PathBuf,
    driver: PathBuf,
    setting: Setting,
}

impl Contender for Libp2p {
    fn round(&mut self, _schedule: &Schedule) -> Result<Sample> {
        let relay = Libp2pRelay::start(&self.relay, &self.setting)?;
        let process = relay.process.id();
        let arguments = [relay.address.clone(), process.to_string()];
        let cpu = self.setting.generator_cpu;
        let _first = Driven::idle(&self.driver, &arguments, FIRST_LINKS, cpu)?;
        let before = resident_kibibytes(process)?;
        let _links = Driven::idle(&self.driver, &arguments, LINKS, cpu)?;
        sample(before, resident_kibibytes(process)?)
    }

    fn messages_checked(&self) -> u64 {
        0
    }
}

fn sample(before: f64, after: f64) -> Result<Sample> {
    Ok(Sample::from([(Measure::KibibytesPerLink, (after - before) / f64::from(LINKS))]))
}

/// Resident memory of a process in KiB (proc(5), status).
fn resident_kibibytes(process: u32) -> Result<f64> {
    thread::park_timeout(SETTLE);
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    parse_resident(&status).with_context(|| format!("{path}: no VmRSS in it"))
}

fn parse_resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read() {
        let status = "Name:\tx\nVmHWM:\t   99 kB\nVmRSS:\t    1234 kB\nThreads:\t1\n";
        assert_eq!(parse_resident(status), Some(1234.0));
        assert_eq!(parse_resident("VmRSS:\t12 MB"), None);
        assert!(resident_kibibytes(std::process::id()).unwrap() > 0.0);
    }
}
