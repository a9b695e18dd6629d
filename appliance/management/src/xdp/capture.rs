//! Capture on request: what the program samples, for whom, and until when.
//!
//! A reader asks again and again, and each time gets what has come meanwhile. Nothing is sampled a
//! few seconds after it has stopped asking, however it ended. One reader at a time; the ring has one
//! end to read from.

use super::limits::{CAPTURE_LEASE, CAPTURES_PER_ANSWER_MAX};
use crate::clock::Moment;
use crate::documents::SCHEMA;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::str::FromStr;
use waystation_ebpf::abi::Verdict;
use waystation_ebpf::capture::Sample;
use waystation_ebpf::tables::{MapError, Tables};
use waystation_ebpf::verdicts::drop_reason;

/// Groups of verdicts that can be asked for by one word.
const ALL: &str = "all";
const DROPS: &str = "drops";
const PASSES: &str = "passes";
const RELAYED: &str = "relayed";

// Every verdict has a bit of its own.
const _: () = assert!(Verdict::COUNT <= u64::BITS);

/// Verdicts, a bit for each by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdicts(u64);

/// A name that is of no verdict and no group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no verdict {0:?}; there are all, drops, passes, relayed, and those of xdp status"
)]
pub struct UnknownVerdict(String);

impl Verdicts {
    fn of(wanted: impl Fn(Verdict) -> bool) -> Self {
        let bits = Verdict::ALL.iter().filter(|verdict| wanted(**verdict));
        Self(bits.fold(0, |bits, verdict| bits | 1 << verdict.index()))
    }
}

impl FromStr for Verdicts {
    type Err = UnknownVerdict;

    fn from_str(text: &str) -> Result<Self, UnknownVerdict> {
        let mut all = Self(0);
        for name in text.split(',') {
            let found = match name {
                ALL => Self::of(|_| true),
                DROPS => Self::of(Verdict::is_drop),
                RELAYED => Self::of(Verdict::is_relayed),
                PASSES => Self::of(|verdict| !verdict.is_drop() && !verdict.is_relayed()),
                name => Self::of(|verdict| verdict.name() == name),
            };
            if found.0 == 0 {
                return Err(UnknownVerdict(name.chars().take(40).collect()));
            }
            all.0 |= found.0;
        }
        Ok(all)
    }
}

/// What a reader asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureRequest {
    /// The capture that it goes on with; absent: it begins one.
    pub capture: Option<u64>,
    pub verdicts: Verdicts,
    /// Of so many frames one is sampled.
    pub every: u32,
    /// Whether it has had enough.
    pub is_last: bool,
}

/// Why nothing is captured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureRefusal {
    /// Operator: no program is at work that could sample anything.
    #[error("the XDP program is not on; `waystation xdp status` says why")]
    NoProgram,
    /// Operator: the program was loaded without room for samples.
    #[error(
        "the program was loaded without room for samples; set xdp.capture_memory = \"1MiB\" and \
         restart"
    )]
    NoRoom,
    /// Operator: somebody else reads.
    #[error("somebody captures already; try again when that has ended")]
    Busy,
    /// Operator: that one has ended, because nobody asked for a while.
    #[error("that capture has ended")]
    Ended,
    /// Host: a map cannot be written or read.
    #[error("a map could not be used: {0}")]
    Map(String),
}

impl CaptureRefusal {
    /// The code in documents.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoProgram => "no_program",
            Self::NoRoom => "no_capture_memory",
            Self::Busy => "busy",
            Self::Ended => "ended",
            Self::Map(_) => "map",
        }
    }
}

impl From<MapError> for CaptureRefusal {
    fn from(error: MapError) -> Self {
        Self::Map(error.to_string())
    }
}

/// A capture under way.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    capture: u64,
    asked_at: Moment,
    lost_before: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Captures {
    under_way: Option<UnderWay>,
    begun: u64,
}

impl Captures {
    /// Begins a capture or goes on with one, and gives what has come.
    pub(super) fn ask(
        &mut self,
        request: CaptureRequest,
        tables: &mut Tables,
        interfaces: &BTreeMap<u32, String>,
        now: Moment,
    ) -> Result<Value, CaptureRefusal> {
        self.end_idle(tables, now)?;
        let under_way = match (self.under_way, request.capture) {
            (None, None) => self.begin(request, tables, now)?,
            (Some(under_way), Some(capture)) if under_way.capture == capture => under_way,
            (Some(_), None) => return Err(CaptureRefusal::Busy),
            (_, Some(_)) => return Err(CaptureRefusal::Ended),
        };
        self.under_way = Some(UnderWay { asked_at: now, ..under_way });
        if request.is_last {
            self.end(tables)?;
        }
        let mut packets = Vec::new();
        while packets.len() < CAPTURES_PER_ANSWER_MAX
            && let Some(sample) = tables.captured.take()
        {
            packets.push(row(&sample, interfaces, now));
        }
        Ok(json!({
            "schema": SCHEMA,
            "capture": under_way.capture,
            "interfaces": interfaces.values().collect::<Vec<_>>(),
            "is_full": packets.len() == CAPTURES_PER_ANSWER_MAX,
            "lost": tables.captured.lost()?.saturating_sub(under_way.lost_before),
            "packets": packets,
        }))
    }

    /// Ends a capture whose reader has gone. Called once a second, too.
    pub(super) fn end_idle(&mut self, tables: &mut Tables, now: Moment) -> Result<(), MapError> {
        match self.under_way {
            Some(under_way) if now.since(under_way.asked_at) > CAPTURE_LEASE => self.end(tables),
            Some(_) | None => Ok(()),
        }
    }

    fn begin(
        &mut self,
        request: CaptureRequest,
        tables: &mut Tables,
        now: Moment,
    ) -> Result<UnderWay, CaptureRefusal> {
        // What an earlier reader has left is not what this one asked for.
        while tables.captured.take().is_some() {}
        let lost_before = tables.captured.lost()?;
        tables.settings.capture(request.verdicts.0, request.every)?;
        self.begun += 1;
        Ok(UnderWay { capture: self.begun, asked_at: now, lost_before })
    }

    fn end(&mut self, tables: &mut Tables) -> Result<(), MapError> {
        self.under_way = None;
        tables.settings.capture(0, 0)
    }
}

fn row(sample: &Sample, interfaces: &BTreeMap<u32, String>, now: Moment) -> Value {
    let ago_ns = now.monotonic_ns.saturating_sub(sample.time_ns);
    let name = interfaces.get(&sample.interface);
    let mut frame = String::with_capacity(2 * sample.frame.len());
    for byte in &sample.frame {
        // Writing to a text cannot fail.
        let _ = write!(frame, "{byte:02x}");
    }
    json!({
        "unix_ns": now.unix_ns.saturating_sub(ago_ns),
        "verdict": sample.verdict.name(),
        "drop_reason": drop_reason(sample.verdict).map(|reason| reason.name()),
        "interface": name.cloned().unwrap_or_else(|| format!("interface {}", sample.interface)),
        "frame_bytes": sample.frame_bytes,
        "frame": frame,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> u32 {
        text.parse::<Verdicts>().unwrap().0.count_ones()
    }

    #[test]
    fn verdicts_are_named_one_by_one_or_in_groups() {
        let all = u32::try_from(Verdict::ALL.len()).unwrap();
        assert_eq!(count("all"), all);
        assert_eq!(count("drops") + count("passes") + count("relayed"), all);
        assert_eq!(count("drop_denied,pass_stranger"), 2);
        assert_eq!(count("drops,drop_denied"), count("drops"));
        for wrong in ["", "drop", "drops,", "Drops"] {
            assert!(wrong.parse::<Verdicts>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_sample_is_told_in_the_time_of_the_wall() {
        let now = Moment { monotonic_ns: 1_000, unix_ns: 5_000 };
        let sample = Sample {
            time_ns: 400,
            verdict: Verdict::DropDenied,
            interface: 3,
            frame_bytes: 1500,
            frame: vec![0xab, 1],
        };
        let interfaces = BTreeMap::from([(3, "wan".to_owned())]);
        let expected = json!({
            "unix_ns": 4_400,
            "verdict": "drop_denied",
            "drop_reason": "udp_prefix_denied",
            "interface": "wan",
            "frame_bytes": 1500,
            "frame": "ab01",
        });
        assert_eq!(row(&sample, &interfaces, now), expected);
        let unknown = row(&sample, &BTreeMap::new(), now);
        assert_eq!(unknown["interface"], "interface 3");
    }
}
