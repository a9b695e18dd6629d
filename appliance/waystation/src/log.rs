//! The log: which lines are written, in which form, and how many of one kind.
//!
//! Started once by `run`, before anything that has something to say; used by every thread but data
//! cores, which never log. A place in the program that has too much to say is held to a rate of its
//! own: what is beyond it is counted by target, and told once a minute. The level and its exceptions
//! can be changed while the program runs.

use crate::exit::Unmet;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, registry, reload};
use waystation_engine::clock;
use waystation_management::config::{Config, LogFormat};
use waystation_management::log_levels::{HeldBackLines, LogHooks};

/// Lines that one place may write at once: more than any start or reload has of one kind.
const LINES_BURST: u64 = 100;
/// How often it may write after that: ten a second.
const LINE_EVERY_NS: u64 = 100_000_000;
/// The same of `debug` and `trace`, which somebody has asked for: a thousand a second.
const DETAILS_BURST: u64 = 10_000;
const DETAIL_EVERY_NS: u64 = 1_000_000;
/// Places that are told apart: several times as many as the program and its libraries have. The rest
/// share one rate.
const PLACES_MAX: usize = 4096;

/// Starts the log as the configuration wants it, and lends its switches.
pub(crate) fn start(config: &Config) -> anyhow::Result<LogHooks> {
    let filter = filter_of(&config.management.log)
        .map_err(|error| Unmet(format!("management.log: {error}")))?;
    let (filter, switch) = reload::Layer::new(filter);
    let rates = Rates::default();
    let lines = registry().with(filter).with(rates.clone());
    let started = match config.management.log_format {
        LogFormat::Text => lines.with(fmt::layer().with_writer(io::stderr)).try_init(),
        LogFormat::Json => lines.with(fmt::layer().json().with_writer(io::stderr)).try_init(),
    };
    started.map_err(|error| Unmet(format!("the log cannot be started: {error}")))?;
    Ok(LogHooks {
        set_filter: Box::new(move |text| {
            switch.reload(filter_of(text)?).map_err(|error| error.to_string())
        }),
        take_held_back: Box::new(move || rates.take_held_back()),
    })
}

fn filter_of(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| error.to_string())
}

/// Holds each place to its rate.
#[derive(Clone, Debug, Default)]
struct Rates {
    places: Arc<Mutex<Places>>,
}

/// Where a line comes from: a file of the program's sources, and a line in it.
type Place = (Option<&'static str>, Option<u32>);

#[derive(Debug, Default)]
struct Places {
    /// When each place would have been paid for at its rate, in nanoseconds: the theoretical
    /// arrival time of the generic cell rate algorithm.
    paid_ns: HashMap<Place, u64>,
    held_back: BTreeMap<&'static str, u64>,
}

impl Rates {
    fn take_held_back(&self) -> Vec<HeldBackLines> {
        let taken = std::mem::take(&mut self.places.lock().held_back);
        taken.into_iter().map(|(target, lines)| HeldBackLines { target, lines }).collect()
    }

    /// Whether a place may write a line now.
    fn allow(&self, mut place: Place, target: &'static str, is_detail: bool, now_ns: u64) -> bool {
        let (burst, every_ns) = match is_detail {
            true => (DETAILS_BURST, DETAIL_EVERY_NS),
            false => (LINES_BURST, LINE_EVERY_NS),
        };
        let mut places = self.places.lock();
        if places.paid_ns.len() >= PLACES_MAX && !places.paid_ns.contains_key(&place) {
            place = (None, None);
        }
        let paid_ns = places.paid_ns.entry(place).or_insert(0);
        let next_ns = (*paid_ns).max(now_ns) + every_ns;
        if next_ns - now_ns > burst * every_ns {
            *places.held_back.entry(target).or_insert(0) += 1;
            return false;
        }
        *paid_ns = next_ns;
        true
    }
}

impl<S: Subscriber> Layer<S> for Rates {
    fn event_enabled(&self, event: &Event<'_>, _around: Context<'_, S>) -> bool {
        let line = event.metadata();
        let is_detail = *line.level() > Level::INFO;
        self.allow((line.file(), line.line()), line.target(), is_detail, clock::now_ns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// What was written.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn count(&self, words: &str) -> u64 {
            let text = String::from_utf8_lossy(&self.0.lock()).into_owned();
            text.matches(words).count() as u64
        }
    }

    /// Does something with a log of its own.
    fn logged(act: impl FnOnce()) -> (Lines, Rates) {
        let (lines, rates) = (Lines::default(), Rates::default());
        let writer = lines.clone();
        let to = fmt::layer().with_writer(move || writer.clone());
        let subscriber = registry().with(rates.clone()).with(to);
        tracing::subscriber::with_default(subscriber, act);
        (lines, rates)
    }

    #[test]
    fn a_place_with_too_much_to_say_is_held_back_and_counted_and_others_are_not() {
        let (lines, rates) = logged(|| {
            for number in 0..5 * LINES_BURST {
                tracing::warn!(number, "the same again");
            }
            tracing::info!("somebody else");
        });
        let written = lines.count("the same again");
        // A slow machine may take seconds for it, and ten lines more are due in each.
        assert!((LINES_BURST..5 * LINES_BURST).contains(&written), "{written}");
        assert_eq!(lines.count("somebody else"), 1);
        let held_back = rates.take_held_back();
        assert_eq!(held_back.len(), 1, "{held_back:?}");
        assert_eq!(held_back[0].target, module_path!());
        assert_eq!(written + held_back[0].lines, 5 * LINES_BURST);
        assert!(rates.take_held_back().is_empty());
    }

    #[test]
    fn a_rate_is_a_burst_and_then_one_line_in_its_time() {
        let rates = Rates::default();
        let allowed = |now_ns: u64, count: u64| {
            let allow = |_: &u64| rates.allow((Some("a.rs"), Some(1)), "a", false, now_ns);
            (0..count).filter(allow).count() as u64
        };
        assert_eq!(allowed(1, 2 * LINES_BURST), LINES_BURST);
        assert_eq!(allowed(1 + LINE_EVERY_NS, 5), 1);
        assert_eq!(allowed(1 + 4 * LINE_EVERY_NS, 5), 3);
        assert_eq!(allowed(u64::MAX / 2, 2 * LINES_BURST), LINES_BURST);
    }
}
