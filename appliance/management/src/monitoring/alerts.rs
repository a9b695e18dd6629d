//! The alert rules: what somebody has to look at, and where it is written what to do.

/// Where the packages keep the page that the rules refer to.
const RUNBOOK: &str = "/usr/share/doc/waystation/operating.md";

/// How soon somebody has to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// Peers are not served.
    Critical,
    /// They will not be, or not well.
    Warning,
}

/// One rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) name: &'static str,
    /// The query that has to have a result.
    pub(super) when: &'static str,
    /// For how long.
    pub(super) lasting: &'static str,
    severity: Severity,
    summary: &'static str,
    /// The section of the runbook.
    pub(super) section: &'static str,
}

/// Every rule, in the order of the file.
pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "WaystationAbsent",
        when: "absent(waystation_build_info)",
        lasting: "5m",
        severity: Severity::Critical,
        summary: "no waystation is being scraped",
        section: "metrics",
    },
    Rule {
        name: "WaystationNotReady",
        when: "waystation_ready == 0",
        lasting: "2m",
        severity: Severity::Critical,
        summary: "{{ $labels.instance }} has not become ready",
        section: "sub-commands",
    },
    Rule {
        name: "WaystationRestarted",
        when: "resets(waystation_uptime_seconds[15m]) > 2",
        lasting: "0m",
        severity: Severity::Critical,
        summary: "{{ $labels.instance }} keeps being started anew",
        section: "under-systemd",
    },
    Rule {
        name: "WaystationCoreIsFilling",
        when: "waystation_core_headroom_ratio < 0.5",
        lasting: "10m",
        severity: Severity::Warning,
        summary: "core {{ $labels.core }} of {{ $labels.instance }} has room for less than half of \
            its traffic beside it",
        section: "how-much-more-fits",
    },
    Rule {
        name: "WaystationCoreWaitsForItsCpu",
        when: "rate(waystation_core_run_delay_seconds_total[5m]) > 0.2",
        lasting: "10m",
        severity: Severity::Warning,
        summary: "others take the CPU of core {{ $labels.core }} of {{ $labels.instance }}",
        section: "tuning-the-machine",
    },
    Rule {
        name: "WaystationSlow",
        when: "histogram_quantile(0.99, sum by (instance, le) \
            (rate(waystation_stage_duration_seconds_bucket{stage=\"residence\",class=\"data\"}[5m]))) \
            > 0.05",
        lasting: "10m",
        severity: Severity::Warning,
        summary: "one in a hundred frames is in {{ $labels.instance }} for more than 50 ms",
        section: "what-limits-a-link",
    },
    Rule {
        name: "WaystationOutOfBlocks",
        when: "waystation_core_free_blocks / waystation_core_blocks < 0.1",
        lasting: "5m",
        severity: Severity::Warning,
        summary: "core {{ $labels.core }} of {{ $labels.instance }} has few blocks for records left",
        section: "worst-case-memory-of-one-data-core",
    },
    Rule {
        name: "WaystationDropsForWantOfRoom",
        when: "sum by (instance, reason) (increase(waystation_drop_events_total\
            {reason=~\"too_many_connections|too_many_sessions|mesh_full|buffer_exhausted|\
            management_busy|accept_failed\"}[10m])) > 0",
        lasting: "10m",
        severity: Severity::Warning,
        summary: "{{ $labels.instance }} refuses work: {{ $labels.reason }}",
        section: "drops-and-what-to-do",
    },
    Rule {
        name: "WaystationStrangersKnock",
        when: "sum by (instance) (rate(waystation_drop_events_total\
            {reason=~\"handshake_rejected|handshake_timeout|handshake_abandoned\"}[5m])) > 50",
        lasting: "10m",
        severity: Severity::Warning,
        summary: "more than 50 handshakes a second fail at {{ $labels.instance }}",
        section: "drops-and-what-to-do",
    },
    Rule {
        name: "WaystationReportsLost",
        when: "increase(waystation_core_lost_reports_total[10m]) > 0",
        lasting: "10m",
        severity: Severity::Warning,
        summary: "the management core of {{ $labels.instance }} does not keep up",
        section: "drops-and-what-to-do",
    },
    Rule {
        name: "WaystationConfigurationRefused",
        when: "increase(waystation_config_reloads_total{outcome=\"refused\"}[15m]) > 0",
        lasting: "0m",
        severity: Severity::Warning,
        summary: "{{ $labels.instance }} was told to reload a configuration that does not hold",
        section: "configuration",
    },
];

/// The file, for `rule_files` of Prometheus.
pub fn alert_rules() -> String {
    let mut out = String::from("groups:\n  - name: waystation\n    rules:\n");
    for rule in RULES {
        let severity = match rule.severity {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
        };
        let runbook = format!("{RUNBOOK}#{}", rule.section);
        out.push_str(&format!(
            "      - alert: {}\n        expr: {}\n        for: {}\n        labels:\n          \
             severity: {severity}\n        annotations:\n          summary: {}\n          \
             runbook: {}\n",
            rule.name,
            quoted(rule.when),
            rule.lasting,
            quoted(rule.summary),
            quoted(&runbook),
        ));
    }
    out
}

/// A text as YAML takes it: in single quotes nothing is special but the quote.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
