//! Histograms as a standard HdrHistogram V2 interval log, as the ecosystem's viewers read it.
//!
//! Called on the management thread for `/v1/histograms?format=hlog`. One line per histogram that is
//! not empty, tagged `merged.<stage>.<class>` or `core<N>.<stage>.<class>`; values are nanoseconds,
//! timestamps are relative to the start of the program.

use crate::clock::Moment;
use crate::observations::{Observations, Scope, Window};
use hdrhistogram::serialization::interval_log::{
    IntervalLogWriterBuilder, IntervalLogWriterError, Tag,
};
use hdrhistogram::serialization::{V2DeflateSerializeError, V2DeflateSerializer};
use std::io;
use std::time::{Duration, UNIX_EPOCH};
use waystation_engine::statistics::{Stage, TrafficClass};

/// The column names that Java's `HistogramLogWriter` puts above the first line.
const LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";
/// Maxima are for people and printed in milliseconds, as Java's writer does.
const MAX_VALUE_DIVISOR: f64 = 1_000_000.0;
const INTERVAL_COMMENT: &str = "#[Interval: ";

/// Which histograms, and with which lines above them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSelection {
    pub window: Window,
    /// Only this stage.
    pub stage: Option<Stage>,
    /// Only this class.
    pub class: Option<TrafficClass>,
    /// Only this scope.
    pub scope: Option<Scope>,
    /// Whether to begin with the start time and the names of the columns. Without it, the text
    /// continues a log.
    pub header: bool,
}

impl Default for LogSelection {
    fn default() -> Self {
        Self { window: Window::Total, stage: None, class: None, scope: None, header: true }
    }
}

/// Why a log could not be written. Neither happens with memory to write to and histograms of a
/// known size, but the writer can say both.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A histogram did not serialize.
    #[error("a histogram does not serialize: {0}")]
    Serialize(V2DeflateSerializeError),
    /// The text could not be written.
    #[error("the log could not be written: {0}")]
    Write(#[from] io::Error),
}

impl From<IntervalLogWriterError<V2DeflateSerializeError>> for LogError {
    fn from(error: IntervalLogWriterError<V2DeflateSerializeError>) -> Self {
        match error {
            IntervalLogWriterError::SerializeError(error) => Self::Serialize(error),
            IntervalLogWriterError::IoError(error) => Self::Write(error),
        }
    }
}

/// Writes the selected histograms.
///
/// The first line is a comment with the number of the interval closed last ([`interval_of`]), so
/// that a follower can tell whether it has seen it.
///
/// # Errors
/// See [`LogError`].
pub fn write_log(
    observations: &Observations,
    selection: &LogSelection,
    now: Moment,
) -> Result<Vec<u8>, LogError> {
    let sequence = observations.interval().sequence;
    let mut out = format!("{INTERVAL_COMMENT}{sequence}]\n").into_bytes();
    let mut serializer = V2DeflateSerializer::new();
    if selection.header {
        write_header(&mut out, &mut serializer, observations.started())?;
    }
    let span = observations.span(selection.window, now);
    let start = span.start.since(observations.started());
    let mut body = Vec::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .with_max_value_divisor(MAX_VALUE_DIVISOR)
        .begin_log_with(&mut body, &mut serializer)?;
    for scope in observations.scopes().filter(|scope| selection.scope.is_none_or(|s| s == *scope)) {
        for stage in
            Stage::ALL.into_iter().filter(|stage| selection.stage.is_none_or(|s| s == *stage))
        {
            for class in TrafficClass::ALL {
                if selection.class.is_some_and(|wanted| wanted != class) {
                    continue;
                }
                let found = observations.histogram(scope, selection.window, stage, class);
                let Some(histogram) = found.filter(|histogram| !histogram.is_empty()) else {
                    continue;
                };
                let tag = tag(scope, stage, class);
                writer.write_histogram(histogram, start, span.length, Tag::new(&tag))?;
            }
        }
    }
    out.append(&mut body);
    Ok(out)
}

fn write_header(
    out: &mut Vec<u8>,
    serializer: &mut V2DeflateSerializer,
    started: Moment,
) -> Result<(), LogError> {
    let started = UNIX_EPOCH + Duration::from_nanos(started.unix_ns);
    IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("[Values are nanoseconds]")
        .with_start_time(started)
        .with_base_time(started)
        .begin_log_with(out, serializer)?;
    out.extend_from_slice(LEGEND.as_bytes());
    Ok(())
}

/// The tag of a histogram: `merged.open_to_seal.data`, `core0.turn.control`.
pub fn tag(scope: Scope, stage: Stage, class: TrafficClass) -> String {
    match scope {
        Scope::Merged => format!("merged.{}.{}", stage.name(), class.name()),
        Scope::Core(core) => format!("core{core}.{}.{}", stage.name(), class.name()),
    }
}

/// The number of the interval that a log written by [`write_log`] was made after.
pub fn interval_of(log: &str) -> Option<u64> {
    log.lines().next()?.strip_prefix(INTERVAL_COMMENT)?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
#[path = "hlog_tests.rs"]
mod tests;
