//! OpenMetrics text for `/metrics`, made from a copy of what was observed.
//!
//! Called on the management thread. Labels are `core`, `reason`, `stage`, `class`, `port`,
//! `outcome`, `kind`, `network`, `verdict` and `cause` only, and `version`, `suite` and `choice` on the one metric each
//! that says it: never a peer, so the number of series is bounded.

use crate::accounts::NETWORKS;
use crate::clock::Moment;
use crate::counter_table::{CounterField, FIELDS, Kind, MetricUnit};
use crate::dht::{self, DhtFigures, LookUpOutcome};
use crate::dialing::FailureKind;
use crate::documents::{StatusExtra, aead_reason};
use crate::efficiency::Efficiency;
use crate::headroom::Headroom;
use crate::hub::{self, HubFigures};
use crate::observations::{
    BUCKET_BOUNDS_NS, CoreReport, Observations, Scope, Window, bucket_counts,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Arc;
use waystation_engine::control::Network;
use waystation_engine::floor::Floor;
use waystation_engine::statistics::{Stage, TrafficClass};
use waystation_relay::drop_reason::{DropCounters, DropReason};
use waystation_relay::limiting::Cause;

/// The media type of the text (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "waystation";
const NS_PER_SECOND: f64 = 1e9;
/// Hops of look-ups that have a bucket of their own.
const HOP_BUCKETS: u64 = 16;

/// Writes all metrics.
///
/// # Errors
/// Those of the encoder, which writes to memory and has none of its own.
pub fn text(
    observations: &Observations,
    extra: &StatusExtra,
    now: Moment,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Snapshot::take(observations, extra, now)));
    let mut out = String::new();
    encode(&mut out, &registry)?;
    Ok(out)
}

/// A copy of all numbers, because a collector has to own what it reports.
#[derive(Debug)]
struct Snapshot {
    version: &'static str,
    aead: [(&'static str, String); 2],
    uptime_seconds: f64,
    numbers: Vec<NodeNumber>,
    labelled: Vec<LabelledNumber>,
    resident_bytes: Option<u64>,
    /// How long datagrams waited for this process, if it has taken over from another one.
    udp_wait_seconds: Option<f64>,
    floor: Option<Floor>,
    cores: Vec<CoreReport>,
    management_drops: DropCounters,
    xdp_drops: DropCounters,
    durations: Vec<DurationHistogram>,
    dht: Option<Arc<DhtFigures>>,
}

/// A number of the node as a whole.
#[derive(Debug)]
pub(crate) struct NodeNumber {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
    pub(crate) value: u64,
}

/// Numbers of the node as a whole, one for each value of a label.
#[derive(Debug)]
pub(crate) struct LabelledNumber {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) label: &'static str,
    pub(crate) help: &'static str,
    pub(crate) values: Vec<(&'static str, u64)>,
}

#[derive(Debug)]
struct DurationHistogram {
    stage: Stage,
    class: TrafficClass,
    sum_seconds: f64,
    count: u64,
    /// Upper bound in seconds, and values in the bucket.
    buckets: Vec<(f64, u64)>,
}

impl Snapshot {
    fn take(observations: &Observations, extra: &StatusExtra, now: Moment) -> Self {
        let (mut numbers, mut labelled) =
            (node_numbers(extra), labelled_numbers(observations, extra));
        if let Some(figures) = &extra.dht {
            let (more_numbers, more_labelled) = dht::metric_numbers(figures);
            numbers.extend(more_numbers);
            labelled.extend(more_labelled);
        }
        numbers.extend(hub_numbers(extra.hub.as_deref()));
        labelled.extend(hub_labelled(extra.hub.as_deref()));
        Self {
            version: extra.version,
            aead: [
                ("suite", extra.aead.suite.to_string()),
                ("choice", aead_reason(&extra.aead).to_owned()),
            ],
            uptime_seconds: now.since(observations.started()).as_secs_f64(),
            numbers,
            labelled,
            resident_bytes: extra.operations.resident_bytes,
            udp_wait_seconds: extra
                .operations
                .udp_gap
                .map(|gap| gap.length_ns() as f64 / NS_PER_SECOND),
            floor: extra.floor.as_ref().map(|known| known.floor),
            cores: observations.reports().cloned().collect(),
            management_drops: extra.gateway.refusals.clone(),
            xdp_drops: extra.xdp.drops.clone(),
            durations: durations(observations),
            dht: extra.dht.clone(),
        }
    }
}

fn node_numbers(extra: &StatusExtra) -> Vec<NodeNumber> {
    let (counts, queries) = (&extra.gateway, &extra.queries);
    let ready = u64::from(extra.readiness.is_ready());
    let gauge = |name, help, value| NodeNumber { name, kind: Kind::Gauge, help, value };
    let total = |name, help, value| NodeNumber { name, kind: Kind::Counter, help, value };
    vec![
        gauge("ready", "Whether the node does its work", ready),
        gauge("registrations", "Nodes registered at the gateway", counts.registrations as u64),
        gauge("idle_sockets", "Idle connections of registered nodes", counts.idle_sockets as u64),
        gauge(
            "reservations",
            "Idle connections reserved for a caller that has not dialed",
            counts.reservations as u64,
        ),
        total("subscriptions", "Subscriptions granted", counts.subscriptions_total),
        total("offered_queries", "Queries offered to their target", counts.offers_total),
        total("joined_sockets", "Pairs of sockets joined to a raw pipe", counts.joins_total),
        total(
            "expired_reservations",
            "Reservations whose caller did not dial in time",
            counts.reservations_expired_total,
        ),
        total(
            "expired_registrations",
            "Registrations dropped because their node was away",
            counts.registrations_expired_total,
        ),
        total(
            "relayed_queries",
            "Queries offered to their target in the name of a caller behind the asking peer",
            queries.relayed_total,
        ),
        total(
            "forwarded_queries",
            "Queries offered to another gateway, because their target has no link here",
            queries.forwarded_total,
        ),
        gauge(
            "prepared_queries",
            "Queries prepared by nodes.relay and not yet here",
            queries.prepared as u64,
        ),
        total(
            "expired_preparations",
            "Queries prepared and never seen",
            queries.preparations_expired_total,
        ),
        total(
            "migrated_sessions",
            "Sessions that their peers have moved to another link",
            queries.migrated_total,
        ),
        gauge("waiting_listings", "Listings that peers wait for", queries.listings_waiting as u64),
        gauge(
            "open_deliveries",
            "Sessions on which peers deliver objects",
            queries.deliveries as u64,
        ),
        gauge(
            "open_reflections",
            "Peers being told the address they are seen at",
            queries.reflections as u64,
        ),
        gauge(
            "observed_addresses",
            "Addresses at which peers say they see this node",
            extra.observed.len() as u64,
        ),
        gauge("identities", "Identities with an account", extra.operations.identities as u64),
        total(
            "refused_links",
            "Links closed because their identity or network had too many",
            extra.operations.refused_links,
        ),
        total("events", "Events told to operators", extra.operations.events),
        total(
            "held_back_events",
            "Events that came too often and were counted instead of told",
            extra.operations.events_held_back,
        ),
        gauge(
            "degraded",
            "What the node does worse than it should, as its status says",
            extra.operations.degraded.len() as u64,
        ),
        total(
            "held_back_log_lines",
            "Lines of the log that came too often and were counted instead of written",
            extra.operations.log_lines_held_back,
        ),
        gauge("active_dials", "Dials under way", extra.operations.dials.active as u64),
        gauge(
            "xdp_interfaces",
            "Interfaces that the XDP program is on",
            extra.xdp.interfaces.iter().filter(|it| it.mode.is_some()).count() as u64,
        ),
        gauge(
            "xdp_session_directions",
            "Directions of sessions that the XDP program relays",
            extra.xdp.entries.directions as u64,
        ),
        total(
            "xdp_refused_entries",
            "Sessions and clients that found no room in the map of the XDP program",
            extra.xdp.entries.refused_total,
        ),
        total("started_dials", "Dials started", extra.operations.dials.started_total),
    ]
}

/// Numbers of the node by one label.
/// The signalling hub's, if there is one.
fn hub_numbers(hub: Option<&HubFigures>) -> Vec<NodeNumber> {
    let Some(hub) = hub else { return Vec::new() };
    let (gauges, counted) = (&hub.gauges, &hub.statistics);
    let gauge = |name, help, value: usize| NodeNumber {
        name,
        kind: Kind::Gauge,
        help,
        value: value as u64,
    };
    let total = |name, help, value| NodeNumber { name, kind: Kind::Counter, help, value };
    vec![
        gauge("hub_connections", "Connections to the signalling hub", gauges.connections),
        gauge("hub_registrations", "Agents registered at the signalling hub", gauges.registrations),
        gauge("hub_rooms_waiting", "Rooms of the hub with one party", gauges.rooms_waiting),
        gauge("hub_rooms_paired", "Rooms of the hub with two parties", gauges.rooms_paired),
        total("hub_calls", "Calls passed on to a registered agent", counted.calls),
        total("hub_rooms", "Rooms in which two parties met", counted.rooms),
        total("hub_messages", "Messages copied in rooms of the hub", counted.messages),
        total("hub_message_bytes", "Their bytes", counted.bytes),
        total("hub_dht_answers", "Questions to the DHT answered over the hub", counted.answers),
    ]
}

fn hub_labelled(hub: Option<&HubFigures>) -> Vec<LabelledNumber> {
    let Some(hub) = hub else { return Vec::new() };
    let number = |name, help, values| LabelledNumber {
        name,
        kind: Kind::Counter,
        label: "reason",
        help,
        values,
    };
    vec![
        number("hub_refused", "Connections and requests the hub turned away", hub::refused(hub)),
        number("hub_closed", "Connections that the hub ended", hub::closed(hub)),
        number("hub_ignored", "Messages to the hub that led to nothing", hub::ignored(hub)),
    ]
}

fn labelled_numbers(observations: &Observations, extra: &StatusExtra) -> Vec<LabelledNumber> {
    let operations = &extra.operations;
    let dials = &operations.dials;
    let failed = FailureKind::ALL.map(|kind| (kind.name(), dials.failed_total(kind)));
    let ended = [
        ("link", dials.succeeded_total),
        ("cancelled", dials.cancelled_total),
        ("surplus", dials.surplus_total),
    ];
    let networks = NETWORKS.map(Network::name).into_iter();
    let links = operations.network_links.iter().map(|links| *links as u64);
    let limited = |cause| -> u64 {
        observations.reports().map(|report| report.limited_links.links(cause)).sum()
    };
    vec![
        LabelledNumber {
            name: "config_reloads",
            kind: Kind::Counter,
            label: "outcome",
            help: "Configurations read again, by what became of them",
            values: vec![
                ("applied", operations.reloads_applied),
                ("refused", operations.reloads_refused),
            ],
        },
        LabelledNumber {
            name: "ended_dials",
            kind: Kind::Counter,
            label: "outcome",
            help: "Dials that ended in a link, were given up, or gave one too many",
            values: ended.to_vec(),
        },
        LabelledNumber {
            name: "failed_dials",
            kind: Kind::Counter,
            label: "kind",
            help: "Dials that failed, by what was in the way",
            values: failed.to_vec(),
        },
        LabelledNumber {
            name: "links",
            kind: Kind::Gauge,
            label: "network",
            help: "Open links over all cores",
            values: networks.zip(links).collect(),
        },
        LabelledNumber {
            name: "xdp_frames",
            kind: Kind::Counter,
            label: "verdict",
            help: "Frames seen by the XDP program, by what it decided",
            values: extra
                .xdp
                .verdicts
                .iter()
                .map(|(verdict, counter)| (verdict.name(), counter.packets))
                .collect(),
        },
        LabelledNumber {
            name: "links_limited",
            kind: Kind::Gauge,
            label: "cause",
            help: "Links by what held them up for most of the last interval",
            values: Cause::ALL.map(|cause| (cause.name(), limited(cause))).to_vec(),
        },
    ]
}

fn durations(observations: &Observations) -> Vec<DurationHistogram> {
    let mut durations = Vec::new();
    for stage in Stage::ALL {
        for class in TrafficClass::ALL {
            let found = observations.histogram(Scope::Merged, Window::Total, stage, class);
            let Some(histogram) = found.filter(|histogram| !histogram.is_empty()) else { continue };
            let bounds = BUCKET_BOUNDS_NS.iter().map(|bound_ns| *bound_ns as f64 / NS_PER_SECOND);
            durations.push(DurationHistogram {
                stage,
                class,
                sum_seconds: histogram.mean() * histogram.len() as f64 / NS_PER_SECOND,
                count: histogram.len(),
                buckets: bounds.chain([f64::INFINITY]).zip(bucket_counts(histogram)).collect(),
            });
        }
    }
    durations
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_node(&mut encoder)?;
        for field in FIELDS {
            self.encode_field(&mut encoder, field)?;
        }
        self.encode_drops(&mut encoder)?;
        self.encode_durations(&mut encoder)?;
        self.encode_look_ups(&mut encoder)
    }
}

impl Snapshot {
    fn encode_node(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        encoder
            .encode_descriptor("build", "The version of the program", None, MetricType::Info)?
            .encode_info(&[("version", self.version)])?;
        let help = "What seals and opens records, and whether it was measured or configured";
        encoder.encode_descriptor("aead", help, None, MetricType::Info)?.encode_info(&self.aead)?;
        let help = "Time since the program started";
        encoder
            .encode_descriptor("uptime", help, Some(&Unit::Seconds), MetricType::Gauge)?
            .encode_gauge(&self.uptime_seconds)?;
        for number in &self.numbers {
            let kind = metric_type(number.kind);
            let metric = encoder.encode_descriptor(number.name, number.help, None, kind)?;
            encode_value(metric, number.kind, MetricUnit::Things, number.value)?;
        }
        if let Some(bytes) = self.resident_bytes {
            let help = "Memory that the process holds";
            encoder
                .encode_descriptor("resident_memory", help, Some(&Unit::Bytes), MetricType::Gauge)?
                .encode_gauge(&bytes)?;
        }
        if let Some(seconds) = self.udp_wait_seconds {
            let (name, help) = ("take_over_udp_wait", "How long datagrams waited for this process");
            encoder
                .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?
                .encode_gauge(&seconds)?;
        }
        for number in &self.labelled {
            let kind = metric_type(number.kind);
            let mut metric = encoder.encode_descriptor(number.name, number.help, None, kind)?;
            for (value, count) in &number.values {
                let labels = [(number.label, *value)];
                let series = metric.encode_family(&labels)?;
                encode_value(series, number.kind, MetricUnit::Things, *count)?;
            }
        }
        let help = "The port a core uses";
        let mut ports = encoder.encode_descriptor("core", help, None, MetricType::Info)?;
        for report in self.cores.iter().filter(|report| !report.port.is_empty()) {
            let labels = [("core", report.core.to_string()), ("port", report.port.to_owned())];
            ports.encode_info(&labels)?;
        }
        let help = "Share of the last interval in which a core was not waiting";
        let ratio = Some(&Unit::Ratios);
        let mut busy = encoder.encode_descriptor("core_busy", help, ratio, MetricType::Gauge)?;
        for report in &self.cores {
            if let Some(share) = report.busy_share() {
                let labels = core_label(report);
                busy.encode_family(&labels)?.encode_gauge(&share)?;
            }
        }
        self.encode_ratio(
            encoder,
            "core_headroom",
            "How many times the traffic of the last interval a core has room for beside it",
            |report| Headroom::of(report).more_traffic_ratio,
        )?;
        self.encode_ratio(
            encoder,
            "core_efficiency",
            "What the traffic of the last interval had to cost a core, of what it did cost",
            |report| Some(Efficiency::of(report, self.floor.as_ref()?)?.ratio),
        )?;
        self.encode_ratio(
            encoder,
            "core_same_core",
            "Share of the payload of the last interval that stayed on its core",
            CoreReport::same_core_share,
        )
    }

    /// A ratio of each core that is known.
    fn encode_ratio(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        read: impl Fn(&CoreReport) -> Option<f64>,
    ) -> fmt::Result {
        let unit = Unit::Other("ratio".to_owned());
        let mut metric = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?;
        for report in &self.cores {
            if let Some(ratio) = read(report) {
                metric.encode_family(&core_label(report))?.encode_gauge(&ratio)?;
            }
        }
        Ok(())
    }

    fn encode_field(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        field: &CounterField,
    ) -> fmt::Result {
        let unit = match field.unit {
            MetricUnit::Things => None,
            MetricUnit::Bytes => Some(Unit::Bytes),
            MetricUnit::Seconds => Some(Unit::Seconds),
        };
        let kind = metric_type(field.kind);
        let name = format!("core_{}", field.metric);
        let mut metric = encoder.encode_descriptor(&name, field.help, unit.as_ref(), kind)?;
        for report in &self.cores {
            let value = (field.read)(&report.counters);
            let labels = core_label(report);
            encode_value(metric.encode_family(&labels)?, field.kind, field.unit, value)?;
        }
        Ok(())
    }

    fn encode_drops(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Frames, queries, sessions, connections and links that were not carried further";
        let mut events =
            encoder.encode_descriptor("drop_events", help, None, MetricType::Counter)?;
        self.encode_reasons(&mut events, DropCounters::events)?;
        let help = "Payload that went with what was not carried further";
        let bytes = Some(&Unit::Bytes);
        let mut lost = encoder.encode_descriptor("dropped", help, bytes, MetricType::Counter)?;
        self.encode_reasons(&mut lost, DropCounters::bytes)
    }

    /// One series per core and reason that occurred; the management core's own are labelled so, and
    /// those of the XDP program.
    fn encode_reasons(
        &self,
        metric: &mut MetricEncoder<'_>,
        read: impl Fn(&DropCounters, DropReason) -> u64,
    ) -> fmt::Result {
        let cores = self.cores.iter().map(|report| (report.core.to_string(), &report.drops));
        let management = ("management".to_owned(), &self.management_drops);
        let xdp = ("xdp".to_owned(), &self.xdp_drops);
        for (core, drops) in cores.chain([management, xdp]) {
            for reason in DropReason::ALL.into_iter().filter(|reason| drops.events(*reason) > 0) {
                let labels = [("core", core.as_str()), ("reason", reason.name())];
                let value = read(drops, reason);
                let mut series = metric.encode_family(&labels)?;
                series.encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
            }
        }
        Ok(())
    }

    /// Look-ups of the DHT: how long they took, and over how many nodes one after the other they went.
    fn encode_look_ups(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(figures) = &self.dht else { return Ok(()) };
        let help = "Duration of look-ups in the DHT";
        let seconds = Some(&Unit::Seconds);
        let kind = MetricType::Histogram;
        let mut metric = encoder.encode_descriptor("dht_lookup_duration", help, seconds, kind)?;
        for outcome in LookUpOutcome::ALL {
            let histogram = figures.look_ups.durations(outcome);
            let bounds = BUCKET_BOUNDS_NS.iter().map(|bound_ns| *bound_ns as f64 / NS_PER_SECOND);
            let buckets: Vec<_> =
                bounds.chain([f64::INFINITY]).zip(bucket_counts(histogram)).collect();
            let sum = histogram.mean() * histogram.len() as f64 / NS_PER_SECOND;
            let labels = [("outcome", outcome.name())];
            let series = metric.encode_family(&labels)?;
            encode_histogram(series, sum, histogram.len(), &buckets)?;
        }
        let help = "Nodes one after the other that look-ups in the DHT went over";
        let mut metric = encoder.encode_descriptor("dht_lookup_hops", help, None, kind)?;
        for outcome in LookUpOutcome::ALL {
            let histogram = figures.look_ups.hops(outcome);
            let mut buckets: Vec<(f64, u64)> = Vec::new();
            for hops in 0..=HOP_BUCKETS {
                buckets.push((hops as f64, histogram.count_at(hops)));
            }
            let counted: u64 = buckets.iter().map(|(_, count)| count).sum();
            buckets.push((f64::INFINITY, histogram.len().saturating_sub(counted)));
            let sum = histogram.mean() * histogram.len() as f64;
            let labels = [("outcome", outcome.name())];
            let series = metric.encode_family(&labels)?;
            encode_histogram(series, sum, histogram.len(), &buckets)?;
        }
        Ok(())
    }

    fn encode_durations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Time spent per stage and traffic class, over all cores";
        let seconds = Some(&Unit::Seconds);
        let mut metric =
            encoder.encode_descriptor("stage_duration", help, seconds, MetricType::Histogram)?;
        for duration in &self.durations {
            let labels = [("stage", duration.stage.name()), ("class", duration.class.name())];
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                duration.sum_seconds,
                duration.count,
                &duration.buckets,
                None,
            )?;
        }
        Ok(())
    }
}

fn metric_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    }
}

fn encode_value(
    mut metric: MetricEncoder<'_>,
    kind: Kind,
    unit: MetricUnit,
    value: u64,
) -> fmt::Result {
    let seconds = value as f64 / NS_PER_SECOND;
    match (kind, unit) {
        (Kind::Counter, MetricUnit::Seconds) => {
            metric.encode_counter::<NoLabelSet, f64, f64>(&seconds, None)
        }
        (Kind::Counter, MetricUnit::Things | MetricUnit::Bytes) => {
            metric.encode_counter::<NoLabelSet, u64, f64>(&value, None)
        }
        (Kind::Gauge, MetricUnit::Seconds) => metric.encode_gauge(&seconds),
        (Kind::Gauge, MetricUnit::Things | MetricUnit::Bytes) => metric.encode_gauge(&value),
    }
}

fn encode_histogram(
    mut metric: MetricEncoder<'_>,
    sum: f64,
    count: u64,
    buckets: &[(f64, u64)],
) -> fmt::Result {
    metric.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
}

fn core_label(report: &CoreReport) -> [(&'static str, String); 1] {
    [("core", report.core.to_string())]
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
