//! What the appliance says about itself, read from its stats socket as anybody would.

use anyhow::Context;
use serde_json::Value;
use std::path::PathBuf;
use waystation_management::limits::CLIENT_TIMEOUT;
use waystation_management::stats_socket::client;

/// The counters the demo looks at, since the appliance started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// CPU time of all data cores, in nanoseconds.
    pub(super) cpu_ns: u64,
    /// Payload that went from one leg to another, and bytes that went through raw pipes.
    pub(super) relayed_bytes: u64,
    /// Links that finished their negotiation.
    pub(super) links: u64,
}

impl Counters {
    fn of(status: &Value) -> Self {
        let counters = &status["totals"]["counters"];
        let read = |key: &str| counters[key].as_u64().unwrap_or(0);
        Self {
            cpu_ns: read("cpu_ns"),
            relayed_bytes: ["same_core_bytes", "cross_core_bytes", "pipe_bytes"]
                .into_iter()
                .map(read)
                .sum(),
            links: read("links_opened"),
        }
    }

    /// By how much each has grown since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            relayed_bytes: self.relayed_bytes.saturating_sub(earlier.relayed_bytes),
            links: self.links.saturating_sub(earlier.links),
        }
    }

    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            relayed_bytes: self.relayed_bytes + other.relayed_bytes,
            links: self.links + other.links,
        }
    }

    /// CPU time per KiB relayed, in nanoseconds; nothing when nothing was relayed.
    pub(super) fn cpu_ns_per_kib(self) -> Option<f64> {
        let kib = self.relayed_bytes as f64 / 1024.0;
        (self.relayed_bytes > 0).then(|| self.cpu_ns as f64 / kib)
    }
}

/// Percentiles of one stage and class, in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct StageLatency {
    pub(super) stage: String,
    pub(super) class: String,
    pub(super) count: u64,
    /// p50, p99, p99.9 and the maximum.
    pub(super) values_ns: [u64; 4],
}

/// The stats socket.
#[derive(Clone, Debug)]
pub(super) struct Stats {
    socket: PathBuf,
}

impl Stats {
    /// The socket at a path.
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// A document as it is.
    pub(super) fn ask(&self, uri: &str) -> anyhow::Result<Value> {
        let answer = client::get(&self.socket, uri)?;
        serde_json::from_slice(&answer).with_context(|| format!("the answer to {uri}"))
    }

    /// Has something done; what the appliance says to it.
    pub(super) fn order(&self, uri: &str) -> anyhow::Result<Value> {
        let answer = client::post(&self.socket, uri, CLIENT_TIMEOUT)?;
        serde_json::from_slice(&answer).with_context(|| format!("the answer to {uri}"))
    }

    /// The counters as they are now.
    pub(super) fn counters(&self) -> anyhow::Result<Counters> {
        Ok(Counters::of(&self.ask("/v1/status")?))
    }

    /// The CPU of each data core; nothing for one that is not pinned.
    pub(super) fn data_cpus(&self) -> anyhow::Result<Vec<Option<usize>>> {
        let status = self.ask("/v1/status")?;
        let cores = status["cores"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(cores
            .iter()
            .map(|core| core["cpu"].as_u64().and_then(|cpu| usize::try_from(cpu).ok()))
            .collect())
    }

    /// Whether nobody answers any more.
    pub(super) fn is_gone(&self) -> bool {
        client::get(&self.socket, "/ready").is_err_and(|error| error.is_unavailable())
    }

    /// Every reason that something was not forwarded for, and how often.
    pub(super) fn drops(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let document = self.ask("/v1/drops")?;
        let reasons = document["reasons"].as_array().map(Vec::as_slice).unwrap_or_default();
        let counted = reasons.iter().filter_map(|reason| {
            Some((reason["reason"].as_str()?.to_owned(), reason["events"].as_u64()?))
        });
        Ok(counted.collect())
    }

    /// The latencies of every stage since the start, over all cores.
    pub(super) fn stages(&self) -> anyhow::Result<Vec<StageLatency>> {
        let document = self.ask("/v1/histograms?core=merged&window=total")?;
        let entries = document["histograms"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(entries.iter().filter_map(stage_latency).collect())
    }
}

fn stage_latency(entry: &Value) -> Option<StageLatency> {
    let percentiles = &entry["percentiles_ns"];
    Some(StageLatency {
        stage: entry["stage"].as_str()?.to_owned(),
        class: entry["class"].as_str()?.to_owned(),
        count: entry["count"].as_u64()?,
        values_ns: [
            percentiles["p50"].as_u64()?,
            percentiles["p99"].as_u64()?,
            percentiles["p999"].as_u64()?,
            entry["max_ns"].as_u64()?,
        ],
    })
}
