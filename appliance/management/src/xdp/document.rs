//! `/v1/xdp`, and what `/v1/status` says of the same: JSON from what is known of the program.
//!
//! Pure functions, called on the management thread.

use super::{InterfaceStatus, XdpStatus};
use crate::documents::SCHEMA;
use serde_json::{Value, json};
use waystation_ebpf::abi::limits::SESSION_ENTRIES_MAX;
use waystation_ebpf::abi::{Counter, Verdict};

/// The whole document.
pub(crate) fn document(status: &XdpStatus) -> Value {
    let mut document = summary(status);
    document["schema"] = json!(SCHEMA);
    let verdicts = status.verdicts.iter().map(|(verdict, counter)| row(*verdict, *counter));
    document["verdicts"] = verdicts.collect();
    document
}

/// The same without the verdicts one by one.
pub(crate) fn summary(status: &XdpStatus) -> Value {
    json!({
        "state": status.state.name(),
        "why": status.why,
        "interfaces": status.interfaces.iter().map(interface).collect::<Vec<_>>(),
        "hints": status.hints,
        "program_id": status.program,
        "program_runs_total": status.runs.count,
        "program_run_ns_total": u64::try_from(status.runs.time.as_nanos()).unwrap_or(u64::MAX),
        "pin_directory": status.pin_directory,
        "sockets_chosen": status.selections.map(|selections| json!({
            "owner_total": selections.to_owner,
            "no_socket_total": selections.without_socket,
        })),
        "sessions": {
            "directions": status.entries.directions,
            "clients": status.entries.clients,
            "opaque_directions": status.entries.opaque_directions,
            "opaque_ends": status.entries.opaque_ends,
            "entries_max": SESSION_ENTRIES_MAX,
            "refused_total": status.entries.refused_total,
        },
        "frames_relayed_total": status.relayed_frames(),
        "frames_dropped_total": dropped(status),
    })
}

fn interface(status: &InterfaceStatus) -> Value {
    json!({ "name": status.name, "mode": status.mode, "why": status.why })
}

fn row(verdict: Verdict, counter: Counter) -> Value {
    let action = match verdict {
        Verdict::Steered => "steer",
        _ if verdict.is_relayed() => "relay",
        _ if verdict.is_drop() => "drop",
        _ => "pass",
    };
    json!({
        "verdict": verdict.name(),
        "action": action,
        "frames": counter.packets,
        "bytes": counter.bytes,
    })
}

fn dropped(status: &XdpStatus) -> u64 {
    let drops = status.verdicts.iter().filter(|(verdict, _)| verdict.is_drop());
    drops.map(|(_, counter)| counter.packets).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdp::{EntryCounts, XdpState};
    use std::time::Duration;
    use waystation_ebpf::runs::Runs;

    pub(crate) fn status() -> XdpStatus {
        let counter = |packets| Counter { packets, bytes: packets * 100 };
        XdpStatus {
            state: XdpState::On,
            interfaces: vec![
                InterfaceStatus { name: "wan".to_owned(), mode: Some("native"), why: None },
                InterfaceStatus {
                    name: "lan".to_owned(),
                    mode: None,
                    why: Some("lan has another XDP program, which is left alone".to_owned()),
                },
            ],
            program: Some(77),
            runs: Runs { count: 1000, time: Duration::from_micros(93) },
            entries: EntryCounts {
                clients: 2,
                directions: 4,
                opaque_directions: 2,
                opaque_ends: 1,
                refused_total: 0,
            },
            verdicts: Verdict::ALL
                .iter()
                .map(|verdict| (*verdict, counter(u64::from(verdict.index()))))
                .collect(),
            ..XdpStatus::default()
        }
    }

    #[test]
    fn every_verdict_is_in_the_document_with_what_it_does() {
        let document = document(&status());
        let rows = document["verdicts"].as_array().unwrap();
        assert_eq!(rows.len(), Verdict::ALL.len());
        for (name, action) in [
            ("relayed_back", "relay"),
            ("steered", "steer"),
            ("pass_stranger", "pass"),
            ("drop_denied", "drop"),
        ] {
            let row = rows.iter().find(|row| row["verdict"] == name).unwrap();
            assert_eq!(row["action"], action);
        }
        assert_eq!(document["frames_relayed_total"], 1);
        assert_eq!(document["interfaces"][0]["mode"], "native");
    }

    #[test]
    fn rendered_it_fits_a_terminal() {
        let text = crate::render::xdp(&document(&status()));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in [
            "1.0k runs, 93 ns each",
            "wan",
            "native",
            "another XDP program",
            "drop_denied",
            "steered",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let off = crate::render::xdp(&document(&XdpStatus::default()));
        assert!(off.contains("off"), "{off}");
    }
}
