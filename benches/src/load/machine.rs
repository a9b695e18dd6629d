//! What machine a result was taken on.

use serde::Serialize;
use std::fs;

/// The machine, as results name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    pub processor: String,
    pub processors: usize,
    pub kernel: String,
    pub congestion_control: String,
}

impl Machine {
    /// Looks at this machine; what cannot be found out is `unknown`.
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        // Not what this process may use: the generator is usually pinned.
        let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        Self {
            processor: model.unwrap_or_else(unknown),
            processors,
            kernel: line_of("/proc/sys/kernel/osrelease"),
            congestion_control: line_of("/proc/sys/net/ipv4/tcp_congestion_control"),
        }
    }
}

fn line_of(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

fn unknown() -> String {
    "unknown".to_owned()
}
