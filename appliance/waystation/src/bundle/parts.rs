//! The parts of a bundle: where each comes from, how much of it is taken, and why one is not there.

use crate::doctor;
use crate::run::read_config;
use crate::tune;
use serde_json::json;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use waystation_management::clock;
use waystation_management::config::{self, Config};
use waystation_management::stats_socket::client;
use waystation_tuning::catalog::OWN_PROFILES;

/// Bytes of one part: a listing of a thousand rows of the longest kind has a tenth of it.
const PART_BYTES_MAX: usize = 8 << 20;
/// Bytes of a file of the kernel's: that of interrupts grows with the processors.
const KERNEL_FILE_BYTES_MAX: u64 = 1 << 20;
/// Lines of the journal that are asked for.
const JOURNAL_LINES: &str = "5000";
/// The service's configuration, where no other is named.
const SERVICE_CONFIG: &str = "/etc/waystation/waystation.toml";

/// Documents of the running appliance: file, path, and what it is.
const DOCUMENTS: &[(&str, &str, &str)] = &[
    ("status.json", "/v1/status", "state, cores, rates, headroom, memory"),
    ("links.json", "/v1/links", "its first 1000 links"),
    ("sessions.json", "/v1/sessions", "its first 1000 sessions"),
    ("udp.json", "/v1/udp", "its first 1000 UDP sessions and allocations"),
    ("peers.json", "/v1/peers", "its first 1000 identities"),
    ("xdp.json", "/v1/xdp", "the XDP program and its verdicts"),
    ("dht.json", "/v1/dht", "the node of the DHT"),
    ("hub.json", "/v1/hub", "the signalling hub"),
    ("log.json", "/v1/log", "what is logged at which level"),
    ("drops.json", "/v1/drops?all=true", "what was not carried, by reason"),
    ("histograms.json", "/v1/histograms", "latency, by stage"),
    ("total.hlog", "/v1/histograms?window=total&format=hlog", "latency since the start"),
    ("interval.hlog", "/v1/histograms?window=interval&format=hlog", "latency of the last second"),
    ("metrics.txt", "/metrics", "all metrics"),
    ("events.ndjson", "/v1/events", "its first 1024 events that are kept"),
];

/// Files of the kernel: name, path, and what it is.
const KERNEL_FILES: &[(&str, &str, &str)] = &[
    ("kernel.txt", "/proc/version", "the kernel"),
    ("memory.txt", "/proc/meminfo", "memory of the machine"),
    ("load.txt", "/proc/loadavg", "load of the machine"),
    ("interrupts.txt", "/proc/interrupts", "interrupts by processor"),
    ("softnet.txt", "/proc/net/softnet_stat", "packets by processor, and those without room"),
    ("interfaces.txt", "/proc/net/dev", "packets by interface"),
    ("udp.txt", "/proc/net/snmp", "counters of the network stack"),
];

/// One file of the bundle.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) is_cut: bool,
}

impl Part {
    fn new(name: &'static str, what: &'static str, mut bytes: Vec<u8>) -> Self {
        let is_cut = bytes.len() > PART_BYTES_MAX;
        bytes.truncate(PART_BYTES_MAX);
        Self { name, what, bytes, is_cut }
    }

    pub(super) fn text(name: &'static str, what: &'static str, text: String) -> Self {
        Self::new(name, what, text.into_bytes())
    }
}

/// What was found, and what was not.
#[derive(Debug, Default)]
pub(super) struct Collection {
    pub(super) parts: Vec<Part>,
    /// File and reason.
    pub(super) missing: Vec<(&'static str, String)>,
}

impl Collection {
    /// Asks and reads everything.
    pub(super) fn take(socket: &Path, config: Option<&Path>) -> Self {
        let mut collection = Self::default();
        collection.program();
        let config = collection.configuration(config);
        collection.machine(&config);
        collection.documents(socket);
        collection.kernel();
        collection.journal();
        collection
    }

    fn add(&mut self, name: &'static str, what: &'static str, found: Result<Vec<u8>, String>) {
        match found {
            Ok(bytes) => self.parts.push(Part::new(name, what, bytes)),
            Err(why) => self.missing.push((name, why.replace('\n', " "))),
        }
    }

    fn program(&mut self) {
        let about = json!({
            "schema": 1,
            "version": env!("CARGO_PKG_VERSION"),
            "time": clock::now().rfc3339(),
        });
        self.add("bundle.json", "which program made this, and when", Ok(line(about.to_string())));
    }

    /// The configuration, as far as it differs from the default; it is the default if there is none.
    fn configuration(&mut self, named: Option<&Path>) -> Config {
        let file = named.unwrap_or(Path::new(SERVICE_CONFIG));
        let read = read_config(file, None);
        let found = match &read {
            Ok(config) => Ok(config::shown(config).into_bytes()),
            // The message of a mistake repeats what stands in the file.
            Err(error) if error.is::<config::ConfigError>() => {
                let file = file.display();
                Err(format!("{file} has mistakes; waystation config check {file} names them"))
            }
            Err(error) => Err(format!("{error:#}")),
        };
        self.add("waystation.toml", "keys that are not at their defaults", found);
        read.unwrap_or_default()
    }

    fn machine(&mut self, config: &Config) {
        let examined = doctor::document(config, Path::new(OWN_PROFILES));
        let examined = examined.map(line).map_err(|error| format!("{error:#}"));
        self.add("doctor.json", "checks of the machine", examined);
        let planned = tune::inventory(config, Path::new(OWN_PROFILES));
        let planned = planned.map(line).map_err(|error| format!("{error:#}"));
        self.add("machine.json", "processors, NICs, and what tune would set", planned);
    }

    fn documents(&mut self, socket: &Path) {
        // One that does not answer the first question is not waited for with every other.
        let mut down: Option<String> = None;
        for (name, path, what) in DOCUMENTS {
            let found = match &down {
                Some(why) => Err(why.clone()),
                None => client::get(socket, path).map_err(|error| {
                    let why = error.to_string();
                    if error.is_unavailable() && *path == DOCUMENTS[0].1 {
                        down = Some(why.clone());
                    }
                    why
                }),
            };
            self.add(name, what, found);
        }
    }

    fn kernel(&mut self) {
        for (name, path, what) in KERNEL_FILES {
            let mut bytes = Vec::new();
            let read = File::open(path)
                .and_then(|file| file.take(KERNEL_FILE_BYTES_MAX).read_to_end(&mut bytes));
            self.add(name, what, read.map(|_count| bytes).map_err(|error| error.to_string()));
        }
    }

    fn journal(&mut self) {
        let found = journal().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "there is no journalctl here".to_owned(),
            _ => error.to_string(),
        });
        self.add("journal.txt", "the last lines of its log", found);
    }
}

/// The end of the service's log, as far as this user may read it.
fn journal() -> io::Result<Vec<u8>> {
    let mut command = Command::new("journalctl");
    command.args(["--unit=waystation", "--no-pager", "--output=short-iso", "--quiet"]);
    command.args(["--lines", JOURNAL_LINES]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut bytes = Vec::new();
    let read = match child.stdout.take() {
        Some(out) => out.take(PART_BYTES_MAX as u64 + 1).read_to_end(&mut bytes),
        None => Ok(0),
    };
    // One that has more to say than is taken waits for a reader who is gone.
    let _ = child.kill();
    child.wait()?;
    read?;
    match bytes.is_empty() {
        true => Err(io::Error::other("the journal has no line of the unit waystation")),
        false => Ok(bytes),
    }
}

fn line(text: String) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    bytes.push(b'\n');
    bytes
}
