//! Reads HdrHistogram interval logs and sets two of them side by side.
//!
//! Called by the `hist` command at a terminal, never on the management thread. It reads what
//! [`crate::hlog`] writes and what other writers of the format do, with nanoseconds for values.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogHistogram, IntervalLogIterator, LogEntry, LogIteratorError,
};
use hdrhistogram::{AdditionError, Histogram};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of a log that is read: an hour of intervals of a second.
pub const LOG_MAX_BYTES: u64 = 256 << 20;
/// Tags in a log: eight kinds of histograms of a thousand cores.
pub const TAGS_MAX: usize = 8192;
/// The tag of lines without one.
const UNTAGGED: &str = "untagged";

/// Why a log cannot be read. Lines count from 1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadLogError {
    /// It is not a line of the format.
    #[error("line {line} is not one of a histogram log")]
    Line { line: usize },
    /// What should be a compressed histogram is none.
    #[error("line {line}: the histogram of {tag} cannot be read")]
    Histogram { line: usize, tag: String },
    /// The histograms of a tag have ranges that no one histogram has.
    #[error("the histograms of {tag} cannot be added up: {error}")]
    Sum { tag: String, error: AdditionError },
    /// More tags than [`TAGS_MAX`].
    #[error("line {line}: more than {TAGS_MAX} tags")]
    TooManyTags { line: usize },
    /// No line has a histogram.
    #[error("there is no histogram in it")]
    Empty,
}

/// The histograms of a log, one for each tag.
#[derive(Debug, Default)]
pub struct ReadLog {
    pub histograms: BTreeMap<String, Histogram<u64>>,
}

/// What a tag's lines have come to so far.
#[derive(Debug)]
struct Series {
    /// All but the last line.
    before: Histogram<u64>,
    last_start: Duration,
    last: Histogram<u64>,
}

/// Reads a log, whose last line must end like the others. Intervals of a tag are added up; of lines
/// that begin at the same time the last counts, because totals that were written again and again
/// hold each other.
///
/// # Errors
/// See [`ReadLogError`].
pub fn read_log(log: &[u8]) -> Result<ReadLog, ReadLogError> {
    let mut series: BTreeMap<String, Series> = BTreeMap::new();
    for entry in IntervalLogIterator::new(log) {
        let entry = entry.map_err(|error| ReadLogError::Line { line: line_of(log, &error) })?;
        let LogEntry::Interval(interval) = entry else { continue };
        let tag = interval.tag().map_or(UNTAGGED, |tag| tag.as_str());
        let line = || line_at(log, interval.encoded_histogram());
        let Some(histogram) = decode(&interval) else {
            return Err(ReadLogError::Histogram { line: line(), tag: tag.to_owned() });
        };
        if series.len() >= TAGS_MAX && !series.contains_key(tag) {
            return Err(ReadLogError::TooManyTags { line: line() });
        }
        let start = interval.start_timestamp();
        if let Some(series) = series.get_mut(tag) {
            let added = series.add(start, histogram);
            added.map_err(|error| ReadLogError::Sum { tag: tag.to_owned(), error })?;
        } else {
            let before = empty(&histogram);
            series.insert(tag.to_owned(), Series { before, last_start: start, last: histogram });
        }
    }
    if series.is_empty() {
        return Err(ReadLogError::Empty);
    }
    let whole = series.into_iter().map(|(tag, series)| match series.whole() {
        Ok(histogram) => Ok((tag, histogram)),
        Err(error) => Err(ReadLogError::Sum { tag, error }),
    });
    Ok(ReadLog { histograms: whole.collect::<Result<_, _>>()? })
}

impl Series {
    fn add(&mut self, start: Duration, histogram: Histogram<u64>) -> Result<(), AdditionError> {
        let previous = std::mem::replace(&mut self.last, histogram);
        if start != self.last_start {
            self.before.add(previous)?;
            self.last_start = start;
        }
        Ok(())
    }

    fn whole(mut self) -> Result<Histogram<u64>, AdditionError> {
        self.before.add(self.last)?;
        Ok(self.before)
    }
}

fn empty(like: &Histogram<u64>) -> Histogram<u64> {
    let mut empty = Histogram::new_from(like);
    empty.auto(true);
    empty
}

fn decode(interval: &IntervalLogHistogram<'_>) -> Option<Histogram<u64>> {
    let bytes = STANDARD.decode(interval.encoded_histogram()).ok()?;
    Deserializer::new().deserialize(&mut bytes.as_slice()).ok()
}

/// The line of a piece of the log.
fn line_at(log: &[u8], piece: &str) -> usize {
    let offset = (piece.as_ptr() as usize).saturating_sub(log.as_ptr() as usize);
    lines_before(log, offset)
}

fn line_of(log: &[u8], error: &LogIteratorError) -> usize {
    match error {
        LogIteratorError::ParseError { offset } => lines_before(log, *offset),
    }
}

fn lines_before(log: &[u8], offset: usize) -> usize {
    let before = log.get(..offset).unwrap_or(log);
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{moment, observed};
    use crate::hlog::{LogSelection, write_log};
    use crate::observations::Window;

    fn log(window: Window) -> Vec<u8> {
        let selection = LogSelection { window, ..LogSelection::default() };
        write_log(&observed(), &selection, moment(2)).unwrap()
    }

    #[test]
    fn log_of_our_own_is_read_whole() {
        let read = read_log(&log(Window::Total)).unwrap();
        assert_eq!(read.histograms.len(), 9);
        assert!(read.histograms.values().all(|histogram| !histogram.is_empty()));
        assert!(read.histograms.contains_key("merged.open_to_seal.data"), "{read:?}");
    }

    #[test]
    fn total_written_twice_counts_once_and_intervals_add_up() {
        let once = read_log(&log(Window::Total)).unwrap();
        let twice = read_log(&[log(Window::Total), log(Window::Total)].concat()).unwrap();
        assert_eq!(once.histograms, twice.histograms);
        let both = [log(Window::Total), log(Window::Interval)].concat();
        let both = read_log(&both).unwrap();
        for (tag, histogram) in &once.histograms {
            assert!(both.histograms[tag].len() > histogram.len(), "{tag}");
        }
    }

    #[test]
    fn damaged_line_is_named() {
        let whole = String::from_utf8(log(Window::Total)).unwrap();
        let position = whole.lines().position(|line| line.starts_with("Tag=")).unwrap();
        let broken: Vec<_> = whole
            .lines()
            .enumerate()
            .map(|(number, line)| match number == position {
                true => format!("{}AAAA", &line[..=line.rfind(',').unwrap()]),
                false => line.to_owned(),
            })
            .collect();
        let error = read_log((broken.join("\n") + "\n").as_bytes()).unwrap_err();
        let ReadLogError::Histogram { line, tag } = error else { panic!("{error}") };
        assert_eq!(line, position + 1);
        assert!(whole.lines().nth(position).unwrap().contains(&tag));
        let strange = format!("{whole}what is this\n");
        let line = whole.lines().count() + 1;
        assert_eq!(read_log(strange.as_bytes()).unwrap_err(), ReadLogError::Line { line });
        assert_eq!(read_log(b"#[comment]\n").unwrap_err(), ReadLogError::Empty);
    }
}
