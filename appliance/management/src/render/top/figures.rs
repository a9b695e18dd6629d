//! From two looks at the stats socket to what is shown: rates, and rows in order.
//!
//! A rate is the growth of a counter over the time that the appliance itself says has passed: a slow
//! answer or a paused terminal does not bend it. What a document lacks is `None`.

use super::{Look, SortKey};
use crate::render::array;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::HashMap;

/// How much longer than the time between two looks a row may have been there to be taken as new: its
/// core and the management core are not asked at the same moment.
const NEW_ROW_SLACK_NS: u64 = 200_000_000;

/// How fast something goes, each in things per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) bytes_in: Option<u64>,
    pub(super) bytes_out: Option<u64>,
    pub(super) frames_in: Option<u64>,
    pub(super) frames_out: Option<u64>,
    pub(super) pipe_bytes: Option<u64>,
}

impl Rates {
    /// Bytes of everything.
    fn bytes(&self) -> Option<u64> {
        sum([self.bytes_in, self.bytes_out, self.pipe_bytes])
    }

    /// Frames both ways.
    pub(super) fn frames(&self) -> Option<u64> {
        sum([self.frames_in, self.frames_out])
    }
}

/// One link, one end of a pipe, or one session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'d> {
    pub(super) row: &'d Value,
    pub(super) rates: Rates,
}

/// One data core.
#[derive(Clone, Copy, Debug)]
pub(super) struct CoreRow<'d> {
    pub(super) core: &'d Value,
    pub(super) rates: Rates,
    /// Of residence, over the last interval.
    pub(super) p99_ns: Option<u64>,
    pub(super) drops_per_s: Option<u64>,
}

/// One reason of drops.
#[derive(Clone, Debug)]
pub(super) struct DropRow<'d> {
    pub(super) reason: &'d str,
    pub(super) events: u64,
    pub(super) per_s: Option<u64>,
    /// The row of the document of drops, if that was asked for.
    pub(super) row: Option<&'d Value>,
}

/// Two looks, the newer of which is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looks<'d> {
    before: Option<&'d Look>,
    pub(super) now: &'d Look,
}

impl<'d> Looks<'d> {
    /// A look before a restart of the appliance says nothing about the one that runs.
    pub(super) fn new(before: Option<&'d Look>, now: &'d Look) -> Self {
        let started = |look: &Look| look.status["started_unix_ms"].as_u64();
        let before = before.filter(|before| {
            let same = started(before) == started(now)
                && before.status["identity"] == now.status["identity"];
            same && uptime_ms(before) <= uptime_ms(now)
        });
        Self { before, now }
    }

    /// All cores together. `frames` and bytes are those on links.
    pub(super) fn totals(&self) -> Rates {
        let counters = |look: &'d Look| &look.status["totals"]["counters"];
        let before = self.before.map(counters);
        let elapsed_ns = self.elapsed_ns();
        core_rates(before, counters(self.now), elapsed_ns)
    }

    /// What was dropped, each second.
    pub(super) fn drops_per_s(&self) -> Option<u64> {
        let rows = self.drops();
        rows.iter()
            .map(|row| row.per_s)
            .try_fold(0_u64, |sum, rate| Some(sum.saturating_add(rate?)))
    }

    /// Reasons that occurred: those that occur now first, then the most frequent.
    pub(super) fn drops(&self) -> Vec<DropRow<'d>> {
        let before = self.before.map(|look| &look.status["drops"]);
        let rows = self.now.drops.as_ref().map_or(&[][..], |drops| array(&drops["reasons"]));
        let elapsed_ns = self.elapsed_ns();
        let reasons = self.now.status["drops"].as_object().into_iter().flatten();
        let mut drops: Vec<_> = reasons
            .filter_map(|(reason, events)| {
                let events = events.as_u64()?;
                // A reason that the earlier look does not have had not occurred.
                let per_s = before.and_then(|before| {
                    rate(before[reason].as_u64().unwrap_or(0), events, elapsed_ns?)
                });
                let row = rows.iter().find(|row| row["reason"] == **reason);
                Some(DropRow { reason, events, per_s, row })
            })
            .collect();
        drops.sort_by_key(|drop| (Reverse(drop.per_s), Reverse(drop.events), drop.reason));
        drops
    }

    /// The data cores, in order of `sort` where that is something cores have.
    pub(super) fn cores(&self, sort: Option<SortKey>) -> Vec<CoreRow<'d>> {
        let before = by_name(self.before, |look| &look.status["cores"], "core");
        let drops = |look: &'d Look| core_drops(look.drops.as_ref());
        let (drops_before, drops_now) = (self.before.and_then(drops), drops(self.now));
        let elapsed_ns = self.elapsed_ns();
        let mut rows: Vec<_> = array(&self.now.status["cores"])
            .iter()
            .map(|core| {
                let number = core["core"].as_u64();
                let earlier = before.get(&core["core"].to_string()).copied();
                let rates = core_own_rates(earlier, core);
                let dropped = |drops: &Option<HashMap<u64, u64>>| {
                    drops.as_ref()?.get(&number?).copied().or(Some(0))
                };
                let drops_per_s = dropped(&drops_before)
                    .zip(dropped(&drops_now))
                    .and_then(|(before, now)| rate(before, now, elapsed_ns?));
                CoreRow { core, rates, p99_ns: self.core_p99_ns(number), drops_per_s }
            })
            .collect();
        let key = |row: &CoreRow<'_>| match sort? {
            SortKey::Mbps => row.rates.bytes(),
            SortKey::Messages => row.rates.frames(),
            SortKey::Queue => row.core["counters"]["queued_bytes"].as_u64(),
            SortKey::P99 => row.p99_ns,
            SortKey::Drops => row.drops_per_s,
            SortKey::Ping => None,
        };
        rows.sort_by_key(|row| Reverse(key(row)));
        rows
    }

    /// The 99th percentile of residence on a core, of the class of which most passed.
    fn core_p99_ns(&self, core: Option<u64>) -> Option<u64> {
        let histograms = self.now.core_histograms.as_ref()?;
        let own = array(&histograms["histograms"]).iter().filter(|entry| {
            entry["stage"] == "residence" && entry["core"].as_u64() == core && core.is_some()
        });
        let most = own.max_by_key(|entry| entry["count"].as_u64())?;
        most["percentiles_ns"]["p99"].as_u64()
    }

    /// Links, or sessions and pipes, in order.
    pub(super) fn rows(&self, listing: Listing, sort: SortKey) -> Vec<Row<'d>> {
        let document = |look: &'d Look| listing.document(look).unwrap_or(&Value::Null);
        let before = by_name(self.before, |look| &document(look)[listing.rows()], listing.name());
        let known = self.before.is_some_and(|look| listing.document(look).is_some());
        let elapsed_ns = self.elapsed_ns().filter(|_| known);
        let mut rows: Vec<_> = array(&document(self.now)[listing.rows()])
            .iter()
            .map(|row| {
                let earlier = before.get(&row[listing.name()].to_string()).copied();
                Row { row, rates: row_rates(earlier, row, elapsed_ns) }
            })
            .collect();
        let key = |row: &Row<'_>| match sort {
            SortKey::Messages => row.rates.frames(),
            SortKey::Queue => row.row["queued_bytes"].as_u64(),
            SortKey::Ping => row.row["ping_ns"].as_u64(),
            SortKey::Mbps | SortKey::P99 | SortKey::Drops => row.rates.bytes(),
        };
        let total =
            |row: &Row<'_>| sum([row.row["bytes_in"].as_u64(), row.row["bytes_out"].as_u64()]);
        rows.sort_by_key(|row| Reverse((key(row), row.rates.bytes(), total(row))));
        rows
    }

    fn elapsed_ns(&self) -> Option<u64> {
        let elapsed_ms = uptime_ms(self.now)?.checked_sub(uptime_ms(self.before?)?)?;
        (elapsed_ms > 0).then(|| elapsed_ms.saturating_mul(1_000_000))
    }
}

/// Which document has the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    Links,
    Sessions,
}

impl Listing {
    pub(super) fn document(self, look: &Look) -> Option<&Value> {
        match self {
            Self::Links => look.links.as_ref(),
            Self::Sessions => look.sessions.as_ref(),
        }
    }

    /// The field with the rows.
    pub(super) fn rows(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::Sessions => "sessions",
        }
    }

    /// The field that tells rows apart.
    fn name(self) -> &'static str {
        match self {
            Self::Links => "link",
            Self::Sessions => "leg",
        }
    }
}

fn uptime_ms(look: &Look) -> Option<u64> {
    look.status["uptime_ms"].as_u64()
}

/// Rows by their name, as JSON writes it.
fn by_name<'d>(
    look: Option<&'d Look>,
    rows: impl Fn(&'d Look) -> &'d Value,
    name: &str,
) -> HashMap<String, &'d Value> {
    let rows = look.map_or(&[][..], |look| array(rows(look)));
    rows.iter().map(|row| (row[name].to_string(), row)).collect()
}

/// The rates of a core, over its own time.
fn core_own_rates(before: Option<&Value>, core: &Value) -> Rates {
    let before = before.map(|before| &before["counters"]);
    let now = &core["counters"];
    let elapsed_ns = before.and_then(|before| growth(&before["up_ns"], &now["up_ns"]));
    core_rates(before, now, elapsed_ns)
}

fn core_rates(before: Option<&Value>, now: &Value, elapsed_ns: Option<u64>) -> Rates {
    let of = |key: &str| rate(before?[key].as_u64()?, now[key].as_u64()?, elapsed_ns?);
    Rates {
        bytes_in: of("payload_bytes_in"),
        bytes_out: of("payload_bytes_out"),
        frames_in: of("frames_in"),
        frames_out: of("frames_out"),
        pipe_bytes: of("pipe_bytes"),
    }
}

/// The rates of a row: as the appliance says, else over the row's own time since the look before,
/// `elapsed_ns` ago, or since it began.
fn row_rates(before: Option<&Value>, row: &Value, elapsed_ns: Option<u64>) -> Rates {
    let recent = &row["interval"];
    let none = Value::Null;
    let age_ns = row["age_ns"].as_u64();
    let length_ns = match (recent["length_ns"].as_u64(), before) {
        (Some(length_ns), _) => Some(length_ns),
        (None, Some(before)) => growth(&before["age_ns"], &row["age_ns"]),
        (None, None) => age_ns.filter(|age_ns| {
            elapsed_ns
                .is_some_and(|elapsed_ns| *age_ns <= elapsed_ns.saturating_add(NEW_ROW_SLACK_NS))
        }),
    };
    let before = before.unwrap_or(&none);
    let of = |key: &str| match recent[key].as_u64() {
        Some(grown) => rate(0, grown, length_ns?),
        None => rate(before[key].as_u64().unwrap_or(0), row[key].as_u64()?, length_ns?),
    };
    Rates {
        bytes_in: of("bytes_in"),
        bytes_out: of("bytes_out"),
        frames_in: of("frames_in"),
        frames_out: of("frames_out"),
        pipe_bytes: None,
    }
}

/// Events of all reasons by core.
fn core_drops(document: Option<&Value>) -> Option<HashMap<u64, u64>> {
    let mut events: HashMap<u64, u64> = HashMap::new();
    for reason in array(&document?["reasons"]) {
        for core in array(&reason["cores"]) {
            if let (Some(number), Some(dropped)) = (core["core"].as_u64(), core["events"].as_u64())
            {
                let sum = events.entry(number).or_default();
                *sum = sum.saturating_add(dropped);
            }
        }
    }
    Some(events)
}

fn growth(before: &Value, now: &Value) -> Option<u64> {
    now.as_u64()?.checked_sub(before.as_u64()?)
}

/// Growth in each second; none for a counter that ran backwards, or no time.
fn rate(before: u64, now: u64, elapsed_ns: u64) -> Option<u64> {
    let grown = u128::from(now.checked_sub(before)?);
    let per_s = (grown * 1_000_000_000).checked_div(u128::from(elapsed_ns))?;
    Some(u64::try_from(per_s).unwrap_or(u64::MAX))
}

/// The sum of those that are known; none if none is.
fn sum<const N: usize>(values: [Option<u64>; N]) -> Option<u64> {
    values.into_iter().flatten().reduce(u64::saturating_add)
}
