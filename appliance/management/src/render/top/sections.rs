//! The tables of a frame: cores, latency, links, sessions and pipes, drops.

use super::columns::{Column, table};
use super::figures::{CoreRow, DropRow, Listing, Looks, Row};
use super::style::{Line, Piece, Style};
use super::{Look, Scene, SortKey, words};
use crate::render::{IDENTITY_DIGITS, array, count, dash, identity, whole_percent};
use crate::units::{human_bytes, human_count, human_ns};
use serde_json::Value;

/// Digits of an identity where there is room.
const IDENTITY_DIGITS_WIDE: usize = 20;
/// From this share of busy time on, a core is worth a look, and is short.
const BUSY_WARNING: f64 = 0.7;
const BUSY_BAD: f64 = 0.9;
/// Columns of a core that are known in every view.
const CORE_COLUMNS_BRIEF: usize = 16;

/// The data cores, at most so many rows; the last says how many are missing.
pub(super) fn cores(
    looks: &Looks<'_>,
    sort: Option<SortKey>,
    width: usize,
    rows: usize,
) -> Vec<Line> {
    let cores = looks.cores(sort);
    let sorted = sort.and_then(core_head);
    let mut columns = core_columns();
    if sort.is_none() {
        // Only where cores are the subject is it asked how each of them fares.
        columns.truncate(CORE_COLUMNS_BRIEF);
    }
    bounded(&cores, rows, "cores", |shown| table(&columns, shown, width, sorted))
}

fn core_columns<'d>() -> Vec<Column<CoreRow<'d>>> {
    let (left, right) = (Column::<CoreRow<'d>>::left, Column::<CoreRow<'d>>::right);
    vec![
        right("CORE", 99, |row| Piece::plain(words(&row.core["core"]))),
        right("CPU", 50, |row| Piece::plain(words(&row.core["cpu"]))),
        left("PORT", 20, port),
        right("BUSY", 98, busy),
        right("HEADROOM", 96, more_traffic),
        right("EFFICIENCY", 95, |row| share(&row.core["efficiency"]["ratio"])),
        right("SAME-CORE", 94, |row| share(&row.core["same_core_share"])),
        left("WAITING", 93, waiting),
        right("IN/s", 92, |row| bytes(row.rates.bytes_in)),
        right("OUT/s", 91, |row| bytes(row.rates.bytes_out)),
        right("MSG/s", 70, |row| things(row.rates.frames())),
        right("PIPES/s", 60, |row| bytes(row.rates.pipe_bytes)),
        right("LINKS", 30, |row| Piece::plain(count(&row.core["counters"]["links_open"]))),
        right("SESS", 29, |row| Piece::plain(count(&row.core["counters"]["sessions_open"]))),
        right("PIPES", 28, |row| Piece::plain(count(&row.core["counters"]["pipes_open"]))),
        right("QUEUED", 27, |row| bytes(row.core["counters"]["queued_bytes"].as_u64())),
        right("P99", 69, |row| nanoseconds(row.p99_ns)),
        right("DROPS/s", 59, |row| alarming(row.drops_per_s)),
    ]
}

fn core_head(key: SortKey) -> Option<&'static str> {
    match key {
        SortKey::Mbps => Some("IN/s"),
        SortKey::Messages => Some("MSG/s"),
        SortKey::Queue => Some("QUEUED"),
        SortKey::P99 => Some("P99"),
        SortKey::Drops => Some("DROPS/s"),
        SortKey::Ping => None,
    }
}

fn port(row: &CoreRow<'_>) -> Piece {
    // One missing report is a matter of timing.
    match row.core["silent_intervals"].as_u64() {
        Some(2..) => Piece::new(Style::Bad, "silent"),
        Some(_) | None => Piece::plain(words(&row.core["port"])),
    }
}

fn busy(row: &CoreRow<'_>) -> Piece {
    if row.core["silent_intervals"].as_u64().is_some_and(|silent| silent > 1) {
        return Piece::new(Style::Bad, "silent");
    }
    let Some(busy) = row.core["busy_share"].as_f64() else { return Piece::plain(dash()) };
    let style = match busy {
        BUSY_BAD.. => Style::Bad,
        BUSY_WARNING.. => Style::Warning,
        _ => Style::Plain,
    };
    Piece::new(style, format!("{:.0}%", busy * 100.0))
}

/// `+3.1x`: so many times the traffic of now could come on top of it.
fn more_traffic(row: &CoreRow<'_>) -> Piece {
    let Some(more) = row.core["headroom"]["more_traffic_ratio"].as_f64() else {
        return Piece::plain(dash());
    };
    let style = match more {
        ..0.1 => Style::Bad,
        ..0.5 => Style::Warning,
        _ => Style::Plain,
    };
    Piece::new(style, crate::render::more_traffic(&row.core["headroom"]["more_traffic_ratio"]))
}

/// `spin 12%`: the mode in force, and its share of the last interval.
fn waiting(row: &CoreRow<'_>) -> Piece {
    let waiting = &row.core["waiting"];
    let mode = words(&waiting["mode"]);
    match waiting[format!("{mode}_share")].as_f64() {
        Some(share) => Piece::plain(format!("{mode} {:.0}%", share * 100.0)),
        None => Piece::plain(mode),
    }
}

/// Residence by class, and how long payload waited between being opened and being sealed.
pub(super) fn latency(look: &Look, width: usize) -> Vec<Line> {
    let shown = [
        ("residence", "data", "data"),
        ("residence", "control", "control"),
        ("residence", "pipe", "pipe"),
        ("open_to_seal", "data", "queue wait"),
    ];
    let rows = shown.map(|(stage, class, name)| LatencyRow::of(look, stage, class, name));
    table(&latency_columns("LATENCY"), &rows, width, None)
}

/// Every stage and class of which something was recorded.
pub(super) fn stages(look: &Look, width: usize) -> Vec<Line> {
    let entries = array(&look.histograms["histograms"]).iter();
    let rows: Vec<_> = entries
        .filter(|entry| entry["core"].is_null())
        .map(|entry| LatencyRow {
            name: format!("{} {}", words(&entry["stage"]), words(&entry["class"])),
            entry: Some(entry),
        })
        .collect();
    table(&latency_columns("STAGE"), &rows, width, None)
}

struct LatencyRow<'d> {
    name: String,
    entry: Option<&'d Value>,
}

impl<'d> LatencyRow<'d> {
    fn of(look: &'d Look, stage: &str, class: &str, name: &str) -> Self {
        let entry = array(&look.histograms["histograms"]).iter().find(|entry| {
            entry["core"].is_null() && entry["stage"] == stage && entry["class"] == class
        });
        Self { name: name.to_owned(), entry }
    }

    fn percentile(&self, name: &str) -> Piece {
        nanoseconds(self.entry.and_then(|entry| entry["percentiles_ns"][name].as_u64()))
    }
}

fn latency_columns<'d>(head: &'static str) -> Vec<Column<LatencyRow<'d>>> {
    let (left, right) = (Column::<LatencyRow<'d>>::left, Column::<LatencyRow<'d>>::right);
    vec![
        left(head, 99, |row| Piece::plain(row.name.clone())),
        right("      COUNT", 70, |row| things(row.entry.and_then(|e| e["count"].as_u64()))),
        right("     P50", 96, |row| row.percentile("p50")),
        right("     P99", 98, |row| row.percentile("p99")),
        right("   P99.9", 97, |row| row.percentile("p999")),
        right("     MAX", 95, |row| nanoseconds(row.entry.and_then(|e| e["max_ns"].as_u64()))),
    ]
}

/// Links, or sessions and pipes: the first of them in order, and how many there are.
pub(super) fn listing(
    looks: &Looks<'_>,
    listing: Listing,
    sort: SortKey,
    width: usize,
    rows: usize,
) -> Vec<Line> {
    let Some(document) = listing.document(looks.now) else {
        return vec![Line::of([Piece::new(Style::Faint, "asking…")])];
    };
    let found = looks.rows(listing, sort);
    let (columns, head) = match listing {
        Listing::Links => (link_columns(width), row_head(sort)),
        Listing::Sessions => (session_columns(width), row_head(sort)),
    };
    let total = document["total"].as_u64().unwrap_or(0).max(found.len() as u64);
    let missing: Vec<_> = array(&document["cores_missing"]).iter().map(words).collect();
    let room = rows.saturating_sub(1);
    let needs_note = total == 0 || total > room as u64 || !missing.is_empty();
    let shown = room.saturating_sub(usize::from(needs_note)).min(found.len());
    let mut lines = table(&columns, found.get(..shown).unwrap_or_default(), width, Some(head));
    let rest = total.saturating_sub(shown as u64);
    let note = match (missing.is_empty(), total) {
        (false, _) => Some(Piece::new(
            Style::Bad,
            format!("{} more; no answer from core {}", human_count(rest), missing.join(", ")),
        )),
        (true, 0) => Some(Piece::new(Style::Faint, format!("no {}", listing.rows()))),
        (true, _) if rest > 0 => {
            Some(Piece::new(Style::Faint, format!("and {} more", human_count(rest))))
        }
        (true, _) => None,
    };
    lines.extend(note.map(|note| Line::of([note]).cut(width)));
    lines.truncate(rows);
    lines
}

fn row_head(sort: SortKey) -> &'static str {
    match sort {
        SortKey::Messages => "MSG/s",
        SortKey::Queue => "QUEUED",
        SortKey::Ping => "PING",
        SortKey::Mbps | SortKey::P99 | SortKey::Drops => "IN/s",
    }
}

/// Terminals from this width on have room for more of an identity.
const WIDE_COLUMNS: usize = 110;

fn identity_cell(width: usize) -> fn(&Row<'_>) -> Piece {
    match width {
        WIDE_COLUMNS.. => |row| Piece::plain(identity_of(row, IDENTITY_DIGITS_WIDE)),
        _ => |row| Piece::plain(identity_of(row, IDENTITY_DIGITS)),
    }
}

/// The digits of an identity; ends of raw pipes have none.
fn identity_of(row: &Row<'_>, digits: usize) -> String {
    let digits: String = words(&row.row["identity"]).chars().take(digits).collect();
    if digits.chars().all(|digit| digit == '0') { dash() } else { digits }
}

fn link_columns<'d>(width: usize) -> Vec<Column<Row<'d>>> {
    let (left, right) = (Column::<Row<'d>>::left, Column::<Row<'d>>::right);
    vec![
        left("LINK", 99, |row| Piece::plain(words(&row.row["link"]))),
        left("IDENTITY", 98, identity_cell(width)),
        left("NET", 88, |row| Piece::plain(words(&row.row["network"]))),
        left("PROF", 20, |row| Piece::plain(words(&row.row["profile"]))),
        left("REMOTE", 30, |row| Piece::plain(words(&row.row["remote"]))),
        right("IN/s", 97, |row| bytes(row.rates.bytes_in)),
        right("OUT/s", 96, |row| bytes(row.rates.bytes_out)),
        right("MSG/s", 95, |row| things(row.rates.frames())),
        right("SESS", 85, |row| Piece::plain(count(&row.row["sessions"]))),
        right("QUEUED", 92, |row| bytes(row.row["queued_bytes"].as_u64())),
        right("PING", 86, |row| nanoseconds(row.row["ping_ns"].as_u64())),
        right("SAME", 84, |row| share(&row.row["same_core_share"])),
        right("IDLE", 25, |row| nanoseconds(row.row["idle_ns"].as_u64())),
        left("LIMITED BY", 94, limited_by),
    ]
}

fn session_columns<'d>(width: usize) -> Vec<Column<Row<'d>>> {
    let (left, right) = (Column::<Row<'d>>::left, Column::<Row<'d>>::right);
    vec![
        left("LEG", 99, |row| Piece::plain(words(&row.row["leg"]))),
        left("KIND", 98, |row| Piece::plain(words(&row.row["kind"]))),
        left("IDENTITY", 93, identity_cell(width)),
        left("LINK", 40, |row| Piece::plain(words(&row.row["link"]))),
        left("QUERY", 20, |row| Piece::plain(words(&row.row["query"]))),
        right("IN/s", 97, |row| bytes(row.rates.bytes_in)),
        right("OUT/s", 96, |row| bytes(row.rates.bytes_out)),
        right("QUEUED", 95, |row| bytes(row.row["queued_bytes"].as_u64())),
        right("CREDIT", 50, |row| bytes(row.row["send_credit_bytes"].as_u64())),
        right("AGE", 70, |row| nanoseconds(row.row["age_ns"].as_u64())),
        left("LIMITED BY", 94, limited_by),
    ]
}

/// `credit 70%`: what holds it most of the time.
fn limited_by(row: &Row<'_>) -> Piece {
    let limited = &row.row["limited_by"];
    let Some(cause) = limited["cause"].as_str() else { return Piece::plain(dash()) };
    let name = cause_name(cause);
    let style = match cause {
        "core" => Style::Bad,
        "sender_idle" => Style::Faint,
        _ => Style::Warning,
    };
    match limited["shares"][cause].as_f64() {
        Some(share) => Piece::new(style, format!("{name} {:.0}%", share * 100.0)),
        None => Piece::new(style, name),
    }
}

/// A cause in words that fit a column.
pub(super) fn cause_name(cause: &str) -> String {
    match cause {
        "peer_not_reading" => "not reading".to_owned(),
        other => words(&Value::from(other)).replace('_', " "),
    }
}

/// Every reason of drops, with where it happened.
pub(super) fn drops(looks: &Looks<'_>, width: usize, rows: usize) -> Vec<Line> {
    let drops = looks.drops();
    if drops.is_empty() {
        return vec![Line::of([Piece::new(Style::Faint, "nothing was dropped")]).cut(width)];
    }
    bounded(&drops, rows, "reasons", |shown| table(&drop_columns(), shown, width, Some("EVENTS/s")))
}

fn drop_columns<'d>() -> Vec<Column<DropRow<'d>>> {
    let (left, right) = (Column::<DropRow<'d>>::left, Column::<DropRow<'d>>::right);
    let bytes_of: fn(&DropRow<'_>) -> Piece =
        |drop| bytes(drop.row.and_then(|row| row["bytes"].as_u64()));
    vec![
        left("DROPPED", 99, |drop| Piece::plain(words(&Value::from(drop.reason)))),
        right("EVENTS/s", 98, |drop| alarming(drop.per_s)),
        right("EVENTS", 97, |drop| things(Some(drop.events))),
        right("BYTES", 96, bytes_of),
        left("CORES", 50, |drop| {
            Piece::plain(drop.row.map_or_else(dash, crate::render::where_dropped))
        }),
    ]
}

/// The most frequent drops of now, in one line.
pub(super) fn drop_line(looks: &Looks<'_>, width: usize) -> Line {
    let mut line = Line::of([Piece::new(Style::Title, "dropped")]);
    let drops = looks.drops();
    let mut told = 0;
    for drop in drops.iter().filter(|drop| drop.per_s.is_some_and(|per_s| per_s > 0)) {
        let rate = drop.per_s.map_or_else(dash, human_count);
        let reason = words(&Value::from(drop.reason));
        line.push(Piece::new(Style::Warning, format!("  {reason} {rate}/s")));
        told += 1;
    }
    if told == 0 {
        let events: u64 = drops.iter().map(|drop| drop.events).fold(0, u64::saturating_add);
        let words = format!("  nothing now, {} events since the start", human_count(events));
        line.push(Piece::plain(words));
    }
    line.cut(width)
}

/// What the program is: version, state, age, name.
pub(super) fn title(scene: &Scene<'_>, look: Option<&Look>, width: usize) -> Line {
    let nothing = Value::Null;
    let status = look.map_or(&nothing, |look| &look.status);
    let up = status["uptime_ms"].as_u64().map(|ms| human_ns(ms.saturating_mul(1_000_000)));
    let state = match &status["readiness"]["state"] {
        Value::Null => Piece::plain(dash()),
        state if state == "ready" => Piece::plain("ready"),
        state => Piece::new(Style::Bad, words(state)),
    };
    let mut line = Line::of([
        Piece::new(Style::Title, format!("waystation {}", words(&status["version"]))),
        Piece::plain("  "),
        state,
        Piece::plain(format!("  up {}", up.unwrap_or_else(dash))),
        Piece::plain(format!("  {}", identity(&status["identity"]))),
    ]);
    if let Some(waiting_for) = status["readiness"]["waiting_for"].as_str() {
        let words = words(&Value::from(waiting_for));
        line.push(Piece::new(Style::Bad, format!("  waiting for {words}")));
    }
    if scene.paused {
        line.push(Piece::new(Style::Warning, "  paused"));
    }
    line.cut(width)
}

/// What all cores carry together.
pub(super) fn traffic(looks: &Looks<'_>, width: usize) -> Line {
    let rates = looks.totals();
    let per_s = |bytes: Option<u64>| bytes.map_or_else(dash, |b| format!("{}/s", human_bytes(b)));
    let msgs = |frames: Option<u64>| frames.map_or_else(dash, human_count);
    let mut line = Line::of([Piece::plain(format!(
        "in {} {} msg/s   out {} {} msg/s   pipes {}   drops ",
        per_s(rates.bytes_in),
        msgs(rates.frames_in),
        per_s(rates.bytes_out),
        msgs(rates.frames_out),
        per_s(rates.pipe_bytes),
    ))]);
    let drops = alarming(looks.drops_per_s());
    line.push(Piece::new(drops.style, format!("{}/s", drops.text)));
    line.cut(width)
}

/// What there is, and what holds the links.
pub(super) fn census(look: &Look, width: usize) -> Line {
    let counters = &look.status["totals"]["counters"];
    let of = |key: &str| count(&counters[key]);
    let queued = counters["queued_bytes"].as_u64().map_or_else(dash, human_bytes);
    let memory = look.status["memory"]["resident_bytes"].as_u64();
    Line::of([Piece::plain(format!(
        "links {}   sessions {}   pipes {}   half-open {}   queued {queued}   memory {}",
        of("links_open"),
        of("sessions_open"),
        of("pipes_open"),
        of("half_open"),
        memory.map_or_else(dash, human_bytes),
    ))])
    .cut(width)
}

/// A table with its head in at most so many lines, the last of which counts what is missing.
fn bounded<R>(all: &[R], lines: usize, name: &str, table: impl Fn(&[R]) -> Vec<Line>) -> Vec<Line> {
    if all.len() < lines {
        return table(all);
    }
    let shown = all.get(..lines.saturating_sub(2)).unwrap_or_default();
    let mut out = table(shown);
    let rest = human_count(all.len().saturating_sub(shown.len()) as u64);
    out.push(Line::of([Piece::new(Style::Faint, format!("and {rest} more {name}"))]));
    out.truncate(lines);
    out
}

fn bytes(bytes: Option<u64>) -> Piece {
    Piece::plain(bytes.map_or_else(dash, human_bytes))
}

fn things(count: Option<u64>) -> Piece {
    Piece::plain(count.map_or_else(dash, human_count))
}

fn nanoseconds(duration_ns: Option<u64>) -> Piece {
    Piece::plain(duration_ns.map_or_else(dash, human_ns))
}

/// A number that should be 0.
fn alarming(count: Option<u64>) -> Piece {
    let style = if count.is_some_and(|count| count > 0) { Style::Warning } else { Style::Plain };
    Piece::new(style, count.map_or_else(dash, human_count))
}

fn share(value: &Value) -> Piece {
    Piece::plain(whole_percent(value))
}
