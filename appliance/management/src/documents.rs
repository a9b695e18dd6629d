//! The JSON documents of the stats socket, made from what was observed and what the runtime knows.
//!
//! Pure functions, called on the management thread. The schema is versioned: fields may be added
//! under one version, never changed or removed. Times are milliseconds since the Unix epoch or
//! lengths with their unit in the name; tags are text; nonces are 16 hex digits.

use crate::accounts::NETWORKS;
use crate::clock::Moment;
use crate::config::Config;
use crate::confinement::Confinement;
use crate::counter_table::{CounterField, FIELDS, Kind};
use crate::dht::DhtFigures;
use crate::dialing::DialCounts;
use crate::efficiency::Efficiency;
use crate::floor_file::KnownFloor;
use crate::gateway::GatewayCounts;
use crate::hand_over::UdpGap;
use crate::headroom::Headroom;
use crate::hub::HubFigures;
use crate::limited::limited_by;
use crate::node::{ObservedRow, QueryCounts};
use crate::observations::{
    BUCKET_BOUNDS_NS, CoreReport, Observations, Scope, Span, Window, bucket_counts,
};
use crate::recent::{Growth, Ranked};
use crate::same_core::SameCoreShares;
use crate::xdp::{self, XdpStatus};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use waystation_astral::aead::choice::{AeadChoice, AeadCost};
use waystation_astral::identity::Identity;
use waystation_astral::limits::AEAD_TEXT_BYTES_MEASURED;
use waystation_engine::control::{LinkRow, Listing, SessionKind, SessionRow};
use waystation_engine::cores::TurnListen;
use waystation_engine::floor::{ARRIVAL_BYTES, Floor};
use waystation_engine::statistics::{CoreCounters, Stage, TrafficClass};
use waystation_relay::drop_reason::{DropCounters, DropReason};
use waystation_relay::ids::CoreId;
use waystation_relay::limiting::Cause;
use waystation_relay::switch::MoveRefusal;

/// The version in every document.
pub const SCHEMA: u64 = 1;

/// What the runtime knows besides the reports of the cores.
#[derive(Clone, Debug)]
pub struct StatusExtra {
    /// The version of the program.
    pub version: &'static str,
    pub identity: Identity,
    /// The `node1…` text (spec §2.1).
    pub node_info: String,
    /// Addresses that connections are accepted on, with the ports the kernel gave.
    pub listen: Vec<SocketAddr>,
    /// Addresses of the TURN server.
    pub turn_listen: TurnListen,
    pub readiness: Readiness,
    pub gateway: GatewayCounts,
    pub queries: QueryCounts,
    /// Where peers that this node dialed say they see it.
    pub observed: Vec<ObservedRow>,
    pub capacity: CoreCapacity,
    pub operations: Operations,
    /// What seals the records, and why.
    pub aead: AeadChoice,
    /// What efficiency is told against, if that is known.
    pub floor: Option<KnownFloor>,
    /// What the program has given up; absent: it was not asked to give up anything.
    pub confinement: Option<Confinement>,
    /// Figures of the DHT's node, if there is one.
    pub dht: Option<Arc<DhtFigures>>,
    /// The XDP program, as of the last second.
    pub xdp: XdpStatus,
    /// The signalling hub, if there is one.
    pub hub: Option<Arc<HubFigures>>,
}

/// What is counted about operating the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Identities that have an account.
    pub identities: usize,
    /// Open links over tcp, tor and gw.
    pub network_links: [usize; NETWORKS.len()],
    /// Links closed because they were too many.
    pub refused_links: u64,
    /// Moves of links to other cores that were refused.
    pub moves_refused: BTreeMap<MoveRefusal, u64>,
    /// New configurations in force since the start, and those refused.
    pub reloads_applied: u64,
    pub reloads_refused: u64,
    /// Events told since the start, and those counted instead.
    pub events: u64,
    pub events_held_back: u64,
    /// What the node does worse than it should, or not at all, and why; nothing of it stops relaying.
    pub degraded: BTreeMap<&'static str, String>,
    /// Lines of the log that were counted instead of written.
    pub log_lines_held_back: u64,
    pub dials: DialCounts,
    /// What the process holds in memory, if the system says.
    pub resident_bytes: Option<u64>,
    /// How long datagrams waited when this process took over from another one, if it did.
    pub udp_gap: Option<UdpGap>,
}

/// Whether the program does its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet, and what for.
    Starting { waiting_for: String },
    /// It does.
    Ready,
    /// It goes on with what it has, and takes in nobody new.
    Draining,
    /// Not any more.
    Stopping,
}

impl Readiness {
    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        *self == Self::Ready
    }

    /// The name in documents.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Starting { .. } => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

/// What one core has room for, to show headroom against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreCapacity {
    pub links_max: usize,
    pub half_open_max: usize,
    pub sockets_max: usize,
    pub queue_bytes_max: u64,
}

impl From<&Config> for CoreCapacity {
    fn from(config: &Config) -> Self {
        Self {
            links_max: config.engine.links_max,
            half_open_max: config.engine.half_open_max,
            sockets_max: config.engine.sockets_max,
            queue_bytes_max: config.engine.queue_memory.as_u64(),
        }
    }
}

/// Links and sessions of one core, as far as it answered.
#[derive(Debug)]
pub struct CoreListing {
    pub core: CoreId,
    /// Nothing if the core did not answer in time.
    pub listing: Option<Box<Listing>>,
}

/// `/ready`.
pub fn ready(readiness: &Readiness) -> Value {
    let mut document = json!({
        "schema": SCHEMA,
        "ready": readiness.is_ready(),
        "state": readiness.name(),
    });
    if let Readiness::Starting { waiting_for } = readiness {
        document["waiting_for"] = json!(waiting_for);
    }
    document
}

/// `/v1/status`.
pub fn status(observations: &Observations, extra: &StatusExtra, now: Moment) -> Value {
    let interval = observations.interval();
    let cores: Vec<_> = observations.reports().map(|report| core_status(report, extra)).collect();
    json!({
        "schema": SCHEMA,
        "version": extra.version,
        "identity": extra.identity.to_string(),
        "node_info": extra.node_info,
        "listen": extra.listen.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
        "turn_listen": extra.turn_listen.udp.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
        "turn_listen_tcp": extra.turn_listen.tcp.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
        "ready": extra.readiness.is_ready(),
        "readiness": ready(&extra.readiness),
        "started_unix_ms": observations.started().unix_ms(),
        "uptime_ms": milliseconds(now.since(observations.started())),
        "memory": memory(observations, extra),
        "aead": aead(&extra.aead),
        "floor": extra.floor.as_ref().map(floor),
        "confinement": extra.confinement,
        "degraded": extra.operations.degraded,
        "interval": {
            "sequence": interval.sequence,
            "start_unix_ms": interval.span.start.unix_ms(),
            "length_ms": milliseconds(interval.span.length),
        },
        "cores": cores,
        "totals": totals(observations),
        "gateway": gateway(&extra.gateway),
        "queries": queries(&extra.queries),
        "observed_addresses":
            extra.observed.iter().map(|row| observed(row, now)).collect::<Vec<_>>(),
        "moves": moves(extra),
        "xdp": xdp::summary(&extra.xdp),
        "drops": dropped_events(&all_drops(observations, extra)),
    })
}

/// Why links that were to move to other cores have stayed.
fn moves(extra: &StatusExtra) -> Value {
    let refused = extra.operations.moves_refused.iter();
    let refused = refused.map(|(why, count)| (why.name().to_owned(), json!(count)));
    json!({ "refused": Value::Object(refused.collect()) })
}

/// What seals the records, whose choice that was, and what each back end costs: sealing and opening
/// a text once, in nanoseconds by its length in bytes.
fn aead(choice: &AeadChoice) -> Value {
    let measured: Vec<_> = choice.costs.iter().map(aead_cost).collect();
    json!({
        "suite": choice.suite.to_string(),
        "choice": aead_reason(choice),
        "measured": measured,
    })
}

/// Who chose: the word for it in documents and metrics.
pub(crate) fn aead_reason(choice: &AeadChoice) -> &'static str {
    if choice.forced { "configured" } else { "measured" }
}

fn aead_cost(cost: &AeadCost) -> Value {
    let backend = cost.backend.name();
    match cost.ns {
        Ok(ns) => {
            let lengths = AEAD_TEXT_BYTES_MEASURED.iter().map(ToString::to_string);
            let ns: Map<_, _> = lengths.zip(ns.map(Value::from)).collect();
            json!({ "backend": backend, "seal_and_open_ns": ns })
        }
        Err(why) => json!({ "backend": backend, "unusable": why.to_string() }),
    }
}

/// What the program holds in memory, and what of it links cost.
fn memory(observations: &Observations, extra: &StatusExtra) -> Value {
    let sum = |read: fn(&CoreCounters) -> u64| -> u64 {
        observations.reports().map(|report| read(&report.counters)).sum()
    };
    let links = sum(|counters| counters.links_open);
    let state_bytes = sum(|counters| counters.link_state_bytes);
    json!({
        "resident_bytes": extra.operations.resident_bytes,
        "link_state_bytes": state_bytes,
        "link_state_bytes_per_link": state_bytes.checked_div(links),
    })
}

fn core_status(report: &CoreReport, extra: &StatusExtra) -> Value {
    let known = extra.floor.as_ref().map(|known| &known.floor);
    json!({
        "core": report.core.0,
        "port": report.port,
        "cpu": report.cpu,
        "busy_share": report.busy_share(),
        "waiting": {
            "mode": report.waiting.name(),
            "spin_share": report.time_share(|counters| counters.spinning_ns),
            "gather_share": report.time_share(|counters| counters.gathering_ns),
        },
        "same_core_share": report.same_core_share(),
        "silent_intervals": report.silent_intervals,
        "counters": object(FIELDS.iter(), |field| (field.read)(&report.counters)),
        "interval": growth([report].into_iter()),
        "headroom": headroom(report, &extra.capacity),
        "efficiency": efficiency(report, known),
        "limited_links": limited_links([report].into_iter()),
    })
}

/// How many links each cause held up for the largest part of the last interval.
fn limited_links<'a>(reports: impl Iterator<Item = &'a CoreReport> + Clone) -> Value {
    let links =
        |cause| -> u64 { reports.clone().map(|report| report.limited_links.links(cause)).sum() };
    let by_cause = Cause::ALL.map(|cause| (cause.name().to_owned(), json!(links(cause))));
    Value::Object(by_cause.into_iter().collect())
}

/// What a core's traffic cost beside what it had to cost; nulls where that is not known.
fn efficiency(report: &CoreReport, floor: Option<&Floor>) -> Value {
    let known = floor.and_then(|floor| Efficiency::of(report, floor));
    json!({
        "ratio": known.map(|it| it.ratio),
        "cost_ns_per_kib": known.map(|it| it.cost_ns_per_kib.round()),
        "floor_ns_per_kib": known.map(|it| it.floor_ns_per_kib.round()),
    })
}

/// What this machine charges for moving bytes that arrive so many at a time, as they are and opened
/// and sealed as one record on the way, in nanoseconds of processor time.
pub fn floor(known: &KnownFloor) -> Value {
    let costs = known.floor.forward_ns.iter().zip(known.floor.sealed_ns);
    let arrivals: Vec<_> = ARRIVAL_BYTES
        .iter()
        .zip(costs)
        .map(|(bytes, (forward_ns, sealed_ns))| {
            json!({
                "bytes": bytes,
                "forward_ns": forward_ns.round(),
                "sealed_ns": sealed_ns.round(),
            })
        })
        .collect();
    json!({
        "source": known.source.name(),
        "measured_unix_ms": known.measured_unix_ms,
        "kernel": known.key.kernel,
        "processor": known.key.processor,
        "suite": known.key.suite,
        "version": known.key.version,
        "arrivals": arrivals,
    })
}

/// What is free of what there is, for everything of a core that can run out: its time first.
fn headroom(report: &CoreReport, capacity: &CoreCapacity) -> Value {
    let (counters, of_time) = (&report.counters, Headroom::of(report));
    let free = |used: u64, max: u64| json!({ "free": max.saturating_sub(used), "of": max });
    json!({
        "busy_share": of_time.busy_share,
        "more_traffic_ratio": of_time.more_traffic_ratio,
        "links": free(counters.links_open, capacity.links_max as u64),
        "half_open": free(counters.half_open, capacity.half_open_max as u64),
        "sockets": free(counters.sockets_open, capacity.sockets_max as u64),
        "queue_bytes": free(counters.queued_bytes, capacity.queue_bytes_max),
        "receive_buffers":
            json!({ "free": counters.receive_buffers_free, "of": counters.receive_buffers_total }),
        "blocks": json!({ "free": counters.blocks_free, "of": counters.blocks_total }),
    })
}

fn totals(observations: &Observations) -> Value {
    let sum = |field: &CounterField| -> u64 {
        observations.reports().map(|report| (field.read)(&report.counters)).sum()
    };
    let shares: Vec<_> = observations.reports().filter_map(CoreReport::busy_share).collect();
    json!({
        "counters": object(FIELDS.iter(), sum),
        "interval": growth(observations.reports()),
        "limited_links": limited_links(observations.reports()),
        "busy_share_max": shares.iter().copied().reduce(f64::max),
    })
}

/// By how much each counter grew in the last interval.
fn growth<'a>(reports: impl Iterator<Item = &'a CoreReport> + Clone) -> Value {
    let counters = FIELDS.iter().filter(|field| field.kind == Kind::Counter);
    object(counters, |field| reports.clone().map(|report| report.interval_growth(field.read)).sum())
}

fn object<'f>(
    fields: impl Iterator<Item = &'f CounterField>,
    value: impl Fn(&CounterField) -> u64,
) -> Value {
    Value::Object(fields.map(|field| (field.key.to_owned(), json!(value(field)))).collect())
}

fn gateway(counts: &GatewayCounts) -> Value {
    json!({
        "links": counts.links,
        "registrations": counts.registrations,
        "registrations_public": counts.registrations_public,
        "idle_sockets": counts.idle_sockets,
        "reservations": counts.reservations,
        "recent_queries": counts.recent_queries,
        "subscriptions_total": counts.subscriptions_total,
        "offers_total": counts.offers_total,
        "joins_total": counts.joins_total,
        "reservations_expired_total": counts.reservations_expired_total,
        "registrations_expired_total": counts.registrations_expired_total,
    })
}

fn queries(counts: &QueryCounts) -> Value {
    json!({
        "prepared": counts.prepared,
        "preparations_expired_total": counts.preparations_expired_total,
        "relayed_total": counts.relayed_total,
        "forwarded_total": counts.forwarded_total,
        "migrated_total": counts.migrated_total,
        "listings_waiting": counts.listings_waiting,
        "deliveries": counts.deliveries,
        "reflections": counts.reflections,
    })
}

fn observed(row: &ObservedRow, now: Moment) -> Value {
    let ago_ns = now.monotonic_ns.saturating_sub(row.last_ns);
    json!({
        "address": row.address.to_string(),
        "peers": row.peers,
        "last_unix_ms": now.unix_ns.saturating_sub(ago_ns) / 1_000_000,
    })
}

/// Drops of the data cores, of the management core, and of the XDP program.
fn all_drops(observations: &Observations, extra: &StatusExtra) -> DropCounters {
    let mut drops = observations.drops();
    drops.add(&extra.gateway.refusals);
    drops.add(&extra.xdp.drops);
    drops
}

fn dropped_events(drops: &DropCounters) -> Value {
    let occurred = DropReason::ALL.into_iter().filter(|reason| drops.events(*reason) > 0);
    let fields = occurred.map(|reason| (reason.name().to_owned(), json!(drops.events(reason))));
    Value::Object(fields.collect())
}

/// `/v1/drops`: every reason that occurred, or every reason there is.
pub fn drops(observations: &Observations, extra: &StatusExtra, all: bool) -> Value {
    let sum = all_drops(observations, extra);
    let reasons: Vec<_> = DropReason::ALL
        .into_iter()
        .filter(|reason| all || sum.events(*reason) > 0)
        .map(|reason| drops_of(observations, extra, &sum, reason))
        .collect();
    json!({
        "schema": SCHEMA,
        "events": DropReason::ALL.into_iter().map(|reason| sum.events(reason)).sum::<u64>(),
        "bytes": DropReason::ALL.into_iter().map(|reason| sum.bytes(reason)).sum::<u64>(),
        "reasons": reasons,
    })
}

fn drops_of(
    observations: &Observations,
    extra: &StatusExtra,
    sum: &DropCounters,
    reason: DropReason,
) -> Value {
    let cores: Vec<_> = observations
        .reports()
        .map(|report| {
            json!({
                "core": report.core.0,
                "events": report.drops.events(reason),
                "bytes": report.drops.bytes(reason),
            })
        })
        .collect();
    json!({
        "reason": reason.name(),
        "events": sum.events(reason),
        "bytes": sum.bytes(reason),
        "cores": cores,
        "management": {
            "events": extra.gateway.refusals.events(reason),
            "bytes": extra.gateway.refusals.bytes(reason),
        },
        "xdp": {
            "events": extra.xdp.drops.events(reason),
            "bytes": extra.xdp.drops.bytes(reason),
        },
    })
}

/// `/v1/links`: at most `limit` rows, in order of core and place.
pub fn links(listings: &[CoreListing], shares: &SameCoreShares, limit: usize) -> Value {
    let rows = answered(listings).flat_map(|listing| &listing.links).take(limit);
    let rows: Vec<_> = rows.map(|row| link(row, shares)).collect();
    table("links", rows, links_total(listings), listings)
}

fn links_total(listings: &[CoreListing]) -> usize {
    answered(listings).map(|listing| listing.links_total.max(listing.links.len())).sum()
}

/// `/v1/sessions`: at most `limit` rows, in order of core and place.
pub fn sessions(listings: &[CoreListing], limit: usize) -> Value {
    let rows: Vec<_> =
        answered(listings).flat_map(|listing| &listing.sessions).take(limit).map(session).collect();
    table("sessions", rows, sessions_total(listings), listings)
}

fn sessions_total(listings: &[CoreListing]) -> usize {
    answered(listings).map(|listing| listing.sessions_total.max(listing.sessions.len())).sum()
}

/// `/v1/links` in an order: these rows, with how they have grown.
pub fn ranked_links(
    rows: &[Ranked<'_, LinkRow>],
    shares: &SameCoreShares,
    listings: &[CoreListing],
) -> Value {
    let rows = rows.iter().map(|ranked| grown(link(ranked.row, shares), ranked.growth));
    let rows: Vec<_> = rows.collect();
    table("links", rows, links_total(listings), listings)
}

/// `/v1/sessions` in an order.
pub fn ranked_sessions(rows: &[Ranked<'_, SessionRow>], listings: &[CoreListing]) -> Value {
    let rows: Vec<_> =
        rows.iter().map(|ranked| grown(session(ranked.row), ranked.growth)).collect();
    table("sessions", rows, sessions_total(listings), listings)
}

/// A row with its growth since an earlier listing, null if that is not known.
fn grown(mut row: Value, growth: Option<Growth>) -> Value {
    row["interval"] = growth.map_or(Value::Null, |growth| {
        json!({
            "length_ns": growth.length_ns,
            "bytes_in": growth.bytes_in,
            "bytes_out": growth.bytes_out,
            "frames_in": growth.frames_in,
            "frames_out": growth.frames_out,
        })
    });
    row
}

/// What the cores that answered have filled.
pub(crate) fn answered(listings: &[CoreListing]) -> impl Iterator<Item = &Listing> {
    listings.iter().filter_map(|listing| listing.listing.as_deref())
}

pub(crate) fn table(name: &str, rows: Vec<Value>, total: usize, listings: &[CoreListing]) -> Value {
    let missing = listings.iter().filter(|listing| listing.listing.is_none());
    let missing: Vec<_> = missing.map(|listing| listing.core.0).collect();
    json!({
        "schema": SCHEMA,
        "total": total,
        "truncated": rows.len() < total,
        "cores_missing": missing,
        name: rows,
    })
}

fn link(row: &LinkRow, shares: &SameCoreShares) -> Value {
    json!({
        "link": row.link.to_string(),
        "identity": row.identity.to_string(),
        "profile": row.profile.name(),
        "link_id": nonce(row.link_id),
        "remote": row.remote.to_string(),
        "local": row.local.to_string(),
        "network": row.network.name(),
        "outbound": row.outbound,
        "inner": row.inner,
        "age_ns": row.age_ns,
        "idle_ns": row.idle_ns,
        "sessions": row.sessions,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
        "frames_in": row.frames_in,
        "frames_out": row.frames_out,
        "queued_bytes": row.queued_bytes,
        "ping_ns": (row.ping_ns > 0).then_some(row.ping_ns),
        "same_core_share": shares.of(row.link),
        "limited_by": limited_by(&row.held_up),
    })
}

fn session(row: &SessionRow) -> Value {
    // An end of a raw pipe is no part of a link; its link and nonce are zero.
    let on_link = row.kind != SessionKind::Socket;
    json!({
        "leg": row.leg.to_string(),
        "link": on_link.then(|| row.link.to_string()),
        "nonce": on_link.then(|| nonce(row.nonce)),
        "kind": kind_name(row.kind),
        "outbound": row.outbound,
        "query": operation(&row.query),
        "identity": row.identity.to_string(),
        "age_ns": row.age_ns,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
        "queued_bytes": row.queued_bytes,
        "send_credit_bytes": row.send_credit_bytes,
        "limited_by": limited_by(&row.held_up),
    })
}

/// What a query asks, without its arguments: those are between caller and target.
fn operation(query: &[u8]) -> String {
    let name = query.split(|byte| *byte == b'?').next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

fn kind_name(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Local => "local",
        SessionKind::Caller => "caller",
        SessionKind::Target => "target",
        SessionKind::Own => "own",
        SessionKind::Inner => "inner",
        SessionKind::Socket => "socket",
    }
}

fn nonce(nonce: u64) -> String {
    format!("{nonce:016x}")
}

/// Which histograms a document shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramSelection {
    /// Only this stage.
    pub stage: Option<Stage>,
    /// Only this class.
    pub class: Option<TrafficClass>,
    /// Only this scope.
    pub scope: Option<Scope>,
    /// Only this window.
    pub window: Option<Window>,
}

impl HistogramSelection {
    /// Whether it includes what is of no stage of a data core, which has totals over all cores alone.
    pub(crate) fn is_about_everything(&self) -> bool {
        let is_merged = !matches!(self.scope, Some(Scope::Core(_)));
        let is_total = self.window != Some(Window::Interval);
        self.stage.is_none() && self.class.is_none() && is_merged && is_total
    }
}

/// `/v1/histograms`: percentiles, buckets and the distribution of every selected histogram that is
/// not empty.
pub fn histograms(
    observations: &Observations,
    selection: &HistogramSelection,
    now: Moment,
) -> Value {
    let mut entries = Vec::new();
    let windows = Window::ALL.into_iter().filter(|w| selection.window.is_none_or(|s| s == *w));
    for window in windows {
        for scope in observations.scopes().filter(|s| selection.scope.is_none_or(|o| o == *s)) {
            for stage in Stage::ALL {
                for class in TrafficClass::ALL {
                    let selected = selection.stage.is_none_or(|wanted| wanted == stage)
                        && selection.class.is_none_or(|wanted| wanted == class);
                    let found = observations.histogram(scope, window, stage, class);
                    let found = found.filter(|histogram| selected && !histogram.is_empty());
                    entries.extend(found.map(|histogram| {
                        let span = observations.span(window, now);
                        histogram_entry(histogram, (scope, window, stage, class), span)
                    }));
                }
            }
        }
    }
    json!({
        "schema": SCHEMA,
        "unit": "ns",
        "interval": observations.interval().sequence,
        "histograms": entries,
    })
}

fn histogram_entry(
    histogram: &Histogram<u64>,
    (scope, window, stage, class): (Scope, Window, Stage, TrafficClass),
    span: Span,
) -> Value {
    let core = match scope {
        Scope::Merged => None,
        Scope::Core(core) => Some(core.0),
    };
    json!({
        "scope": if core.is_some() { "core" } else { "merged" },
        "core": core,
        "stage": stage.name(),
        "class": class.name(),
        "window": window.name(),
        "start_unix_ms": span.start.unix_ms(),
        "length_ms": milliseconds(span.length),
        "count": histogram.len(),
        "min_ns": histogram.min(),
        "mean_ns": histogram.mean(),
        "percentiles_ns": percentiles(histogram),
        "max_ns": histogram.max(),
        "buckets": buckets(histogram),
        "distribution": distribution(histogram),
    })
}

/// The percentiles that documents, tables and tests speak of.
pub const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999)];

pub(crate) fn percentiles(histogram: &Histogram<u64>) -> Value {
    let fields = PERCENTILES.iter().map(|(name, quantile)| {
        ((*name).to_owned(), json!(histogram.value_at_quantile(*quantile)))
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

/// `[upper bound, values]` of every bucket with values in it; the bound of the last one is null.
pub(crate) fn buckets(histogram: &Histogram<u64>) -> Vec<Value> {
    let bounds = BUCKET_BOUNDS_NS.into_iter().map(Some).chain([None]);
    let counted = bounds.zip(bucket_counts(histogram)).filter(|(_, count)| *count > 0);
    counted.map(|(bound_ns, count)| json!([bound_ns, count])).collect()
}

/// `[quantile, value, values up to here]`, with points closer together towards 1.
fn distribution(histogram: &Histogram<u64>) -> Vec<Value> {
    /// Points per halving of the distance to quantile 1: what HdrHistogram's own tools use.
    const TICKS_PER_HALVING: u32 = 5;
    let mut counted = 0;
    histogram
        .iter_quantiles(TICKS_PER_HALVING)
        .map(|step| {
            counted += step.count_since_last_iteration();
            json!([step.quantile_iterated_to(), step.value_iterated_to(), counted])
        })
        .collect()
}

fn milliseconds(length: std::time::Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;
