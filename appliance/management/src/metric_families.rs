//! Which metrics there are: the families that `/metrics` is made of, read off the text itself, so
//! that none can be missing here.
//!
//! Called by whoever makes a dashboard or alert rules. Not on the path of a running program.

use crate::clock::Moment;
use crate::config::Config;
use crate::documents::{CoreCapacity, Operations, Readiness, StatusExtra};
use crate::gateway::GatewayCounts;
use crate::metrics;
use crate::node::QueryCounts;
use crate::observations::Observations;
use crate::xdp::XdpStatus;
use std::fmt;
use waystation_astral::aead::choice::AeadChoice;
use waystation_astral::identity::Identity;
use waystation_engine::cores::TurnListen;

/// What a family's series are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

/// One family of series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// With the prefix and the unit, without `_total` and the like.
    pub name: String,
    pub kind: FamilyKind,
    /// One sentence.
    pub help: String,
}

impl Family {
    /// The names of its series.
    pub fn series(&self) -> Vec<String> {
        let suffixes: &[&str] = match self.kind {
            FamilyKind::Counter => &["_total"],
            FamilyKind::Gauge => &[""],
            FamilyKind::Histogram => &["_bucket", "_sum", "_count"],
            FamilyKind::Info => &["_info"],
        };
        suffixes.iter().map(|suffix| format!("{}{suffix}", self.name)).collect()
    }
}

/// Every family that each program has, in the order of the text. Those of the DHT are there only
/// where a node of it runs, and are left out.
///
/// # Errors
/// Those of the encoder, which writes to memory and has none of its own.
pub fn families() -> Result<Vec<Family>, fmt::Error> {
    let start = Moment::default();
    let text = metrics::text(&Observations::new(1, start), &nothing_known(), start)?;
    let mut families: Vec<Family> = Vec::new();
    let mut help = String::new();
    for line in text.lines() {
        if let Some((_, words)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            help = words.to_owned();
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
            && let Some(kind) = kind_named(kind)
        {
            families.push(Family { name: name.to_owned(), kind, help: help.clone() });
        }
    }
    Ok(families)
}

fn kind_named(name: &str) -> Option<FamilyKind> {
    Some(match name {
        "counter" => FamilyKind::Counter,
        "gauge" => FamilyKind::Gauge,
        "histogram" => FamilyKind::Histogram,
        "info" => FamilyKind::Info,
        _ => return None,
    })
}

/// A program of which nothing is known yet but that it holds some memory: each family is there,
/// if without series.
fn nothing_known() -> StatusExtra {
    StatusExtra {
        version: "",
        identity: Identity::ANYONE,
        node_info: String::new(),
        listen: Vec::new(),
        turn_listen: TurnListen::default(),
        readiness: Readiness::Starting { waiting_for: String::new() },
        gateway: GatewayCounts::default(),
        queries: QueryCounts::default(),
        observed: Vec::new(),
        capacity: CoreCapacity::from(&Config::default()),
        operations: Operations { resident_bytes: Some(0), ..Operations::default() },
        aead: AeadChoice::default(),
        floor: None,
        confinement: None,
        dht: None,
        hub: None,
        xdp: XdpStatus::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{extra, observed};
    use std::collections::BTreeSet;

    #[test]
    fn families_are_those_of_a_program_that_has_run_for_a_while() {
        let extra = StatusExtra {
            operations: Operations { resident_bytes: Some(1), ..Operations::default() },
            // Families of the hub are there only while there is one, as those of the DHT.
            hub: None,
            ..extra()
        };
        let later = metrics::text(&observed(), &extra, Moment::default()).unwrap();
        let of = |line: &str| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned);
        let later: BTreeSet<String> = later.lines().filter_map(of).collect();
        let families = families().unwrap();
        let known: BTreeSet<String> = families.iter().map(|family| family.name.clone()).collect();
        assert_eq!(known, later);
        assert_eq!(known.len(), families.len());
        assert!(families.iter().all(|family| !family.help.is_empty()));
    }
}
