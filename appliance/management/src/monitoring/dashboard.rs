//! The dashboard: what to look at first, and under it every metric there is.

use crate::metric_families::{Family, FamilyKind, families};
use serde_json::{Value, json};
use std::fmt;

/// Columns of Grafana's grid.
const GRID_COLUMNS: usize = 24;
const PANEL_COLUMNS: usize = 8;
const PANEL_ROWS: usize = 8;
/// The version of the format that Grafana 10 and later read.
const SCHEMA: u32 = 39;

/// One query and what its lines are called.
type Query = (&'static str, &'static str);

/// One panel of the upper part.
pub(super) struct Panel {
    title: &'static str,
    /// As Grafana names it.
    unit: &'static str,
    pub(super) queries: &'static [Query],
}

/// What one looks at first, in rows that fold. `$i` stands for the chosen instances, `$r` for a
/// time in which a rate makes sense.
pub(super) const ROWS: &[(&str, &[Panel])] = &[
    (
        "State",
        &[
            Panel {
                title: "Ready",
                unit: "bool_yes_no",
                queries: &[("waystation_ready{$i}", "{{instance}}")],
            },
            Panel {
                title: "Links",
                unit: "none",
                queries: &[("sum by (network) (waystation_links{$i})", "{{network}}")],
            },
            Panel {
                title: "Memory",
                unit: "bytes",
                queries: &[("waystation_resident_memory_bytes{$i}", "{{instance}}")],
            },
            Panel {
                title: "Busy",
                unit: "percentunit",
                queries: &[("waystation_core_busy_ratios{$i}", "core {{core}}")],
            },
            Panel {
                title: "Headroom: how many times the traffic of now fits beside it",
                unit: "none",
                queries: &[("waystation_core_headroom_ratio{$i}", "core {{core}}")],
            },
            Panel {
                title: "Efficiency: what the traffic had to cost, of what it did",
                unit: "percentunit",
                queries: &[("waystation_core_efficiency_ratio{$i}", "core {{core}}")],
            },
        ],
    ),
    (
        "Traffic",
        &[
            Panel {
                title: "Payload of links",
                unit: "Bps",
                queries: &[
                    ("sum(rate(waystation_core_payload_received_bytes_total{$i}[$r]))", "in"),
                    ("sum(rate(waystation_core_payload_sent_bytes_total{$i}[$r]))", "out"),
                ],
            },
            Panel {
                title: "Frames",
                unit: "pps",
                queries: &[
                    ("sum(rate(waystation_core_received_frames_total{$i}[$r]))", "in"),
                    ("sum(rate(waystation_core_sent_frames_total{$i}[$r]))", "out"),
                ],
            },
            Panel {
                title: "Raw pipes, and TURN",
                unit: "Bps",
                queries: &[
                    ("sum(rate(waystation_core_pipe_bytes_total{$i}[$r]))", "pipes"),
                    ("sum(rate(waystation_core_turn_to_peers_bytes_total{$i}[$r]))", "to peers"),
                    (
                        "sum(rate(waystation_core_turn_to_clients_bytes_total{$i}[$r]))",
                        "to clients",
                    ),
                ],
            },
        ],
    ),
    (
        "Latency",
        &[
            Panel {
                title: "Residence of frames",
                unit: "s",
                queries: &[
                    (
                        "histogram_quantile(0.5, sum by (le) (rate(\
                         waystation_stage_duration_seconds_bucket\
                         {$i,stage=\"residence\",class=\"data\"}[$r])))",
                        "p50",
                    ),
                    (
                        "histogram_quantile(0.99, sum by (le) (rate(\
                         waystation_stage_duration_seconds_bucket\
                         {$i,stage=\"residence\",class=\"data\"}[$r])))",
                        "p99",
                    ),
                    (
                        "histogram_quantile(0.999, sum by (le) (rate(\
                         waystation_stage_duration_seconds_bucket\
                         {$i,stage=\"residence\",class=\"data\"}[$r])))",
                        "p99.9",
                    ),
                ],
            },
            Panel {
                title: "The 99th percentile by stage",
                unit: "s",
                queries: &[(
                    "histogram_quantile(0.99, sum by (le, stage) (rate(\
                     waystation_stage_duration_seconds_bucket{$i}[$r])))",
                    "{{stage}}",
                )],
            },
            Panel {
                title: "What holds links up",
                unit: "none",
                queries: &[("sum by (cause) (waystation_links_limited{$i})", "{{cause}}")],
            },
        ],
    ),
    (
        "What was not carried",
        &[
            Panel {
                title: "Drops",
                unit: "cps",
                queries: &[(
                    "sum by (reason) (rate(waystation_drop_events_total{$i}[$r]))",
                    "{{reason}}",
                )],
            },
            Panel {
                title: "Dropped payload",
                unit: "Bps",
                queries: &[(
                    "sum by (reason) (rate(waystation_dropped_bytes_total{$i}[$r]))",
                    "{{reason}}",
                )],
            },
            Panel {
                title: "Dials that failed",
                unit: "cps",
                queries: &[(
                    "sum by (kind) (rate(waystation_failed_dials_total{$i}[$r]))",
                    "{{kind}}",
                )],
            },
        ],
    ),
];

/// The dashboard, for Grafana to import.
///
/// # Errors
/// Those of [`families`].
pub fn dashboard() -> Result<String, fmt::Error> {
    let mut grid = Grid::default();
    for (title, panels) in ROWS {
        grid.row(title);
        for panel in *panels {
            grid.panel(panel.title, "", panel.unit, panel.queries);
        }
    }
    grid.row("Every metric");
    for family in families()?.iter().filter(|family| family.kind != FamilyKind::Info) {
        let query = whole(family);
        grid.panel(&family.name, &family.help, unit(family), &[(query.as_str(), "__auto")]);
    }
    let dashboard = json!({
        "uid": "waystation",
        "title": "waystation",
        "tags": ["waystation"],
        "schemaVersion": SCHEMA,
        "editable": true,
        "refresh": "10s",
        "time": { "from": "now-1h", "to": "now" },
        "templating": { "list": [
            { "name": "source", "label": "Source", "type": "datasource", "query": "prometheus" },
            {
                "name": "instance",
                "label": "Instance",
                "type": "query",
                "datasource": source(),
                "query": "label_values(waystation_ready, instance)",
                "refresh": 2,
                "includeAll": true,
                "multi": true,
            },
        ] },
        "panels": grid.panels,
    });
    // The alternate form is indented, so that two versions can be compared line by line.
    Ok(format!("{dashboard:#}\n"))
}

/// All of a family.
fn whole(family: &Family) -> String {
    let name = &family.name;
    match family.kind {
        FamilyKind::Counter => format!("rate({name}_total{{$i}}[$r])"),
        FamilyKind::Gauge => format!("{name}{{$i}}"),
        FamilyKind::Histogram => format!("rate({name}_count{{$i}}[$r])"),
        FamilyKind::Info => format!("{name}_info{{$i}}"),
    }
}

fn unit(family: &Family) -> &'static str {
    let name = family.name.as_str();
    match family.kind {
        FamilyKind::Counter if name.ends_with("_bytes") => "Bps",
        // Seconds in each second are a share.
        FamilyKind::Counter if name.ends_with("_seconds") => "percentunit",
        FamilyKind::Counter | FamilyKind::Histogram => "cps",
        FamilyKind::Gauge if name.ends_with("_bytes") => "bytes",
        FamilyKind::Gauge if name.ends_with("_seconds") => "s",
        FamilyKind::Gauge | FamilyKind::Info => "none",
    }
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${source}" })
}

/// Where the next panel goes.
#[derive(Default)]
struct Grid {
    panels: Vec<Value>,
    column: usize,
    row: usize,
}

impl Grid {
    fn row(&mut self, title: &str) {
        self.end_line();
        let place = json!({ "x": 0, "y": self.row, "w": GRID_COLUMNS, "h": 1 });
        let id = self.panels.len() + 1;
        self.panels.push(json!({
            "id": id, "type": "row", "title": title, "collapsed": false, "gridPos": place,
            "panels": [],
        }));
        self.row += 1;
    }

    fn panel(&mut self, title: &str, help: &str, unit: &str, queries: &[(&str, &str)]) {
        if self.column + PANEL_COLUMNS > GRID_COLUMNS {
            self.end_line();
        }
        let place = json!({ "x": self.column, "y": self.row, "w": PANEL_COLUMNS, "h": PANEL_ROWS });
        let id = self.panels.len() + 1;
        let targets: Vec<Value> =
            queries.iter().zip('A'..).map(|(query, name)| target(query, name)).collect();
        self.panels.push(json!({
            "id": id,
            "type": "timeseries",
            "title": title,
            "description": help,
            "datasource": source(),
            "gridPos": place,
            "fieldConfig": { "defaults": { "unit": unit, "min": 0 }, "overrides": [] },
            "targets": targets,
        }));
        self.column += PANEL_COLUMNS;
    }

    fn end_line(&mut self) {
        if self.column > 0 {
            (self.column, self.row) = (0, self.row + PANEL_ROWS);
        }
    }
}

fn target((query, legend): &(&str, &str), name: char) -> Value {
    let query = query.replace("$i", "instance=~\"$instance\"").replace("$r", "$__rate_interval");
    json!({
        "refId": name.to_string(),
        "datasource": source(),
        "expr": query,
        "legendFormat": legend,
    })
}
