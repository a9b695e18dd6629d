//! What the demo prints at its end: tables for people, one JSON object for programs. Pure but for
//! looking up where a running appliance would have its socket.

use super::scenarios::Outcome;
use super::stats::{Counters, StageLatency};
use super::traffic;
use crate::state;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::time::Duration;
use waystation_management::units::{human_bytes, human_count, human_ns};

/// What the whole demo came to.
#[derive(Debug)]
pub(super) struct Report {
    /// The port that moved the bytes.
    pub(super) port: &'static str,
    pub(super) cores: u16,
    pub(super) nodes: u16,
    pub(super) outcomes: Vec<Outcome>,
    /// What the appliance says at the end; nothing if it is gone.
    pub(super) seen: Option<Seen>,
    /// What went wrong, if anything did.
    pub(super) failure: Option<String>,
}

/// What the appliance says about the whole demo.
#[derive(Debug)]
pub(super) struct Seen {
    /// From the first node to the last.
    pub(super) counters: Counters,
    /// What was not forwarded, by reason.
    pub(super) drops: Vec<(String, u64)>,
    pub(super) stages: Vec<StageLatency>,
}

/// Figures of one scenario, or of all.
struct Figures {
    elapsed: Duration,
    bulk_elapsed: Duration,
    query_elapsed: Duration,
    verified_bytes: u64,
    bulk_bytes: u64,
    messages: u64,
    queries: u64,
    lost: u64,
    corrupt: u64,
    cancelled: u64,
    links_closed: u64,
    latency: Histogram<u64>,
    counters: Counters,
    bulk_counters: Counters,
}

impl Figures {
    fn none() -> anyhow::Result<Self> {
        Ok(Self {
            elapsed: Duration::ZERO,
            bulk_elapsed: Duration::ZERO,
            query_elapsed: Duration::ZERO,
            verified_bytes: 0,
            bulk_bytes: 0,
            messages: 0,
            queries: 0,
            lost: 0,
            corrupt: 0,
            cancelled: 0,
            links_closed: 0,
            latency: traffic::histogram()?,
            counters: Counters::default(),
            bulk_counters: Counters::default(),
        })
    }

    fn add(mut self, outcome: &Outcome) -> anyhow::Result<Self> {
        let tally = &outcome.tally;
        self.elapsed += outcome.elapsed;
        self.bulk_elapsed += outcome.bulk_elapsed;
        self.query_elapsed += outcome.query_elapsed;
        self.verified_bytes += tally.verified_bytes();
        self.bulk_bytes += tally.bulk_bytes.get();
        self.messages += tally.messages.get();
        self.queries += tally.queries.get();
        self.lost += tally.lost();
        self.corrupt += tally.corrupt.get();
        self.cancelled += tally.cancelled.get();
        self.links_closed += tally.links_closed.get();
        self.latency.add(&outcome.latency)?;
        self.counters = self.counters.plus(outcome.counters);
        self.bulk_counters = self.bulk_counters.plus(outcome.bulk_counters);
        Ok(self)
    }

    fn json(&self, port: &str) -> Map<String, Value> {
        let latency = &self.latency;
        let fields = json!({
            "seconds": self.elapsed.as_secs_f64(),
            "relayed_bytes": self.counters.relayed_bytes,
            "verified_bytes": self.verified_bytes,
            "bytes_per_second": per_second(self.bulk_bytes, self.bulk_elapsed),
            "messages": self.messages,
            "messages_per_second": per_second(self.messages, self.bulk_elapsed),
            "queries": self.queries,
            "queries_per_second": per_second(self.queries, self.query_elapsed),
            "lost": self.lost,
            "corrupt": self.corrupt,
            "cancelled_transfers": self.cancelled,
            "links": self.counters.links,
            "data_core_cpu_ns_per_kib": self.counters.cpu_ns_per_kib(),
            "bulk_data_core_cpu_ns_per_kib": self.bulk_counters.cpu_ns_per_kib(),
            "latency_ns": {
                "p50": latency.value_at_quantile(0.5),
                "p99": latency.value_at_quantile(0.99),
                "p999": latency.value_at_quantile(0.999),
                "max": latency.max(),
            },
            "port": port,
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

fn per_second(amount: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { amount as f64 / time.as_secs_f64() }
}

impl Report {
    fn total(&self) -> anyhow::Result<Figures> {
        let total = self.outcomes.iter().try_fold(Figures::none()?, Figures::add)?;
        // Links were made before the first scenario too.
        let counters = self.seen.as_ref().map_or(total.counters, |seen| seen.counters);
        Ok(Figures { counters, ..total })
    }

    /// The object, as one line.
    pub(super) fn json(&self) -> anyhow::Result<String> {
        let mut object = self.total()?.json(self.port);
        let scenarios = self.outcomes.iter().map(|outcome| {
            let mut fields = Figures::none()?.add(outcome)?.json(self.port);
            fields.insert("name".to_owned(), json!(outcome.scenario.name()));
            anyhow::Ok(Value::Object(fields))
        });
        object.insert("cores".to_owned(), json!(self.cores));
        object.insert("nodes".to_owned(), json!(self.nodes));
        object.insert("scenarios".to_owned(), scenarios.collect::<anyhow::Result<_>>()?);
        object.insert("drops".to_owned(), self.seen.as_ref().map_or(Value::Null, Seen::drops_json));
        object.insert("failure".to_owned(), json!(self.failure));
        Ok(format!("{}\n", Value::Object(object)))
    }

    /// The tables.
    pub(super) fn text(&self) -> anyhow::Result<String> {
        let mut rows = Vec::new();
        for outcome in &self.outcomes {
            rows.push((outcome.scenario.name(), Figures::none()?.add(outcome)?));
        }
        let total = self.total()?;
        let mut out = String::new();
        let cores =
            if self.cores == 1 { "1 data core" } else { &format!("{} data cores", self.cores) };
        writeln!(
            out,
            "{} nodes, {} links, {cores}, port {}\n",
            self.nodes, total.counters.links, self.port
        )?;
        let churn = (total.cancelled, total.links_closed);
        // One scenario is the total.
        if rows.len() != 1 {
            rows.push(("total", total));
        }
        out.push_str(&traffic_table(&rows));
        out.push('\n');
        out.push_str(&latency_table(&rows));
        out.push_str(
            "  The ends are closed-loop: a sender waits for credit, so these are latencies at\n  \
             full load, own queues included, and waits before sending are not in them.\n\n",
        );
        if let (cancelled @ 1.., links_closed) = churn {
            writeln!(
                out,
                "On purpose {cancelled} transfers were ended half-way and {links_closed} links \
                 closed;\nwhat was under way then is among what was not forwarded.\n"
            )?;
        }
        match &self.seen {
            Some(seen) => out.push_str(&seen.text()),
            None => out.push_str("The appliance is gone and cannot be asked.\n"),
        }
        Ok(out)
    }
}

impl Seen {
    fn drops_json(&self) -> Value {
        let drops = self.drops.iter().map(|(reason, events)| (reason.clone(), json!(events)));
        Value::Object(drops.collect())
    }

    fn text(&self) -> String {
        format!("{}\n{}{}", self.drops_text(), stage_table(&self.stages), socket_text())
    }

    fn drops_text(&self) -> String {
        if self.drops.is_empty() {
            return "Not forwarded: nothing.\n".to_owned();
        }
        let mut rows = vec![vec!["NOT FORWARDED BECAUSE".to_owned(), "EVENTS".to_owned()]];
        rows.extend(
            self.drops.iter().map(|(reason, events)| vec![reason.clone(), events.to_string()]),
        );
        aligned(&rows, 1)
    }
}

fn traffic_table(rows: &[(&str, Figures)]) -> String {
    let heads = [
        "SCENARIO",
        "SECONDS",
        "VERIFIED",
        "MB/s",
        "MESSAGES/s",
        "QUERIES",
        "QUERIES/s",
        "LOST",
        "CORRUPT",
    ];
    let mut cells = vec![heads.map(str::to_owned).to_vec()];
    for (name, figures) in rows {
        cells.push(vec![
            (*name).to_owned(),
            format!("{:.1}", figures.elapsed.as_secs_f64()),
            human_bytes(figures.verified_bytes),
            format!("{:.1}", per_second(figures.bulk_bytes, figures.bulk_elapsed) / 1e6),
            format!("{:.0}", per_second(figures.messages, figures.bulk_elapsed)),
            human_count(figures.queries),
            format!("{:.0}", per_second(figures.queries, figures.query_elapsed)),
            figures.lost.to_string(),
            figures.corrupt.to_string(),
        ]);
    }
    aligned(&cells, 1)
}

fn latency_table(rows: &[(&str, Figures)]) -> String {
    let heads =
        ["MESSAGE LATENCY", "P50", "P99", "P99.9", "MAX", "RELAYED", "CPU ns/KiB", "IN BULK"];
    let mut cells = vec![heads.map(str::to_owned).to_vec()];
    let cpu = |counters: Counters| {
        counters.cpu_ns_per_kib().map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0}"))
    };
    for (name, figures) in rows {
        let mut row = vec![(*name).to_owned()];
        let latency = &figures.latency;
        let quantiles = [0.5, 0.99, 0.999].map(|quantile| latency.value_at_quantile(quantile));
        let values = quantiles.into_iter().chain([latency.max()]);
        row.extend(values.map(|value_ns| shown_ns(latency.len(), value_ns)));
        row.push(human_bytes(figures.counters.relayed_bytes));
        row.push(cpu(figures.counters));
        row.push(cpu(figures.bulk_counters));
        cells.push(row);
    }
    aligned(&cells, 1)
}

fn shown_ns(count: u64, value_ns: u64) -> String {
    if count == 0 { "-".to_owned() } else { human_ns(value_ns) }
}

fn stage_table(stages: &[StageLatency]) -> String {
    let heads = ["IN THE APPLIANCE", "CLASS", "COUNT", "P50", "P99", "P99.9", "MAX"];
    let mut cells = vec![heads.map(str::to_owned).to_vec()];
    for stage in stages {
        let mut row = vec![stage.stage.clone(), stage.class.clone(), human_count(stage.count)];
        row.extend(stage.values_ns.map(human_ns));
        cells.push(row);
    }
    aligned(&cells, 2)
}

/// How to read the same from an appliance that goes on running.
fn socket_text() -> String {
    let socket = state::socket(None);
    let socket = socket.map_or_else(|_| "SOCKET".to_owned(), |path| path.display().to_string());
    let curl = format!("curl --unix-socket {socket} 'http://localhost/v1");
    format!(
        "  Read from the stats socket of this demo, which is gone. From a running appliance:\n    \
         waystation hist --stage residence\n    \
         waystation drops\n    \
         {curl}/histograms?core=merged&window=total'\n    \
         {curl}/drops'\n"
    )
}

/// Columns as wide as their cells: the first `left` ones to the left, the others to the right.
fn aligned(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, column| row.get(column).cloned().unwrap_or_default();
    let widths: Vec<_> = (0..columns)
        .map(|column| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let cells = widths.iter().enumerate().map(|(column, &width)| {
            let text = cell(row, column);
            if column < left { format!("{text:<width$}") } else { format!("{text:>width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "1"], ["bcd", "100"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(aligned(&rows, 1), "a      1\nbcd  100\n");
    }

    #[test]
    fn object_of_a_demo_without_scenarios_has_every_field() {
        let report = Report {
            port: "epoll",
            cores: 1,
            nodes: 6,
            outcomes: Vec::new(),
            seen: Some(Seen {
                counters: Counters { cpu_ns: 3_000, relayed_bytes: 2_048, links: 6 },
                drops: vec![("credit_overflow".to_owned(), 2)],
                stages: Vec::new(),
            }),
            failure: None,
        };
        let object: Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(object["relayed_bytes"], 2_048);
        assert_eq!(object["data_core_cpu_ns_per_kib"], 1_500.0);
        assert_eq!(object["links"], 6);
        assert_eq!(object["port"], "epoll");
        assert_eq!(object["drops"]["credit_overflow"], 2);
        for field in ["verified_bytes", "messages", "lost", "corrupt"] {
            assert_eq!(object[field], 0, "{field}");
        }
        for field in ["p50", "p99", "p999", "max"] {
            assert_eq!(object["latency_ns"][field], 0, "{field}");
        }
        assert_eq!(object["scenarios"], json!([]));
    }
}
