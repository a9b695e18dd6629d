//! What the data cores have reported: the latest counters of each, and histograms merged over cores
//! and time.
//!
//! Owned by the management core's runtime and used on its thread only. Blocks go in and come back
//! cleared, so the cores never allocate one in steady state. Intervals are what arrived between two
//! calls of [`Observations::close_interval`].

use crate::clock::Moment;
use hdrhistogram::Histogram;
use std::time::Duration;
use waystation_engine::statistics::{
    CoreCounters, CoreStatistics, LimitedLinks, Stage, StageHistograms, TrafficClass, WaitMode,
};
use waystation_relay::drop_reason::DropCounters;
use waystation_relay::ids::CoreId;

/// Over what time a histogram was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// The interval closed last.
    Interval,
    /// Since the program started.
    Total,
}

impl Window {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Interval, Self::Total];

    /// The name in documents and requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interval => "interval",
            Self::Total => "total",
        }
    }
}

/// Whose histogram it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All cores together.
    Merged,
    /// One core.
    Core(CoreId),
}

/// A span of time on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: Moment,
    pub length: Duration,
}

/// The interval closed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// How many were closed before and with it; 0 before the first.
    pub sequence: u64,
    pub span: Span,
}

/// The newest report of one core.
#[derive(Clone, Debug)]
pub struct CoreReport {
    pub core: CoreId,
    /// The port in use; empty before the first report.
    pub port: &'static str,
    /// The CPU the thread is pinned to, if it is.
    pub cpu: Option<usize>,
    /// How the core waited for events when it reported.
    pub waiting: WaitMode,
    pub counters: CoreCounters,
    pub drops: DropCounters,
    /// In the interval that the core closed last.
    pub limited_links: LimitedLinks,
    /// Intervals closed since this core last reported in one.
    pub silent_intervals: u64,
    /// Counters as they were when the last interval began and when it ended.
    before_interval: CoreCounters,
    after_interval: CoreCounters,
    reported: bool,
}

impl CoreReport {
    fn new(core: CoreId) -> Self {
        Self {
            core,
            port: "",
            cpu: None,
            waiting: WaitMode::default(),
            counters: CoreCounters::default(),
            drops: DropCounters::default(),
            limited_links: LimitedLinks::default(),
            silent_intervals: 0,
            before_interval: CoreCounters::default(),
            after_interval: CoreCounters::default(),
            reported: false,
        }
    }

    /// The share of time the core was not waiting, between 0 and 1, over the interval closed last;
    /// nothing if it did not report in it.
    pub fn busy_share(&self) -> Option<f64> {
        self.time_share(|counters| counters.busy_ns)
    }

    /// The share of time that a counter of nanoseconds stands for, under the same conditions.
    pub fn time_share(&self, read: impl Fn(&CoreCounters) -> u64) -> Option<f64> {
        let up_ns = self.interval_growth(|counters| counters.up_ns);
        let ns = self.interval_growth(read);
        (up_ns > 0).then(|| (ns as f64 / up_ns as f64).min(1.0))
    }

    /// The part of the payload of the interval closed last that stayed on this core; nothing if
    /// there was none.
    pub fn same_core_share(&self) -> Option<f64> {
        let same = self.interval_growth(|counters| counters.same_core_bytes);
        let all = same + self.interval_growth(|counters| counters.cross_core_bytes);
        (all > 0).then(|| same as f64 / all as f64)
    }

    /// By how much a counter grew in the reports of the interval closed last; 0 if there were none.
    pub fn interval_growth(&self, read: impl Fn(&CoreCounters) -> u64) -> u64 {
        read(&self.after_interval).saturating_sub(read(&self.before_interval))
    }
}

/// Everything the data cores have reported so far.
#[derive(Debug)]
pub struct Observations {
    started: Moment,
    cores: Vec<CoreObservation>,
    merged_total: StageHistograms,
    merged_interval: StageHistograms,
    interval: Interval,
    interval_opened: Moment,
}

#[derive(Debug)]
struct CoreObservation {
    report: CoreReport,
    total: StageHistograms,
    interval: StageHistograms,
    /// What arrived since the last interval was closed.
    arriving: StageHistograms,
    arrived: bool,
}

impl CoreObservation {
    fn new(core: CoreId) -> Self {
        Self {
            report: CoreReport::new(core),
            total: StageHistograms::new(),
            interval: StageHistograms::new(),
            arriving: StageHistograms::new(),
            arrived: false,
        }
    }

    fn close_interval(&mut self) {
        std::mem::swap(&mut self.interval, &mut self.arriving);
        self.arriving.clear();
        if self.arrived {
            let ended =
                std::mem::replace(&mut self.report.after_interval, self.report.counters.clone());
            self.report.before_interval = ended;
            self.report.silent_intervals = 0;
        } else {
            // What it did is not known yet and will be part of the interval it reports in.
            self.report.before_interval = self.report.after_interval.clone();
            self.report.silent_intervals += 1;
        }
        self.arrived = false;
    }
}

impl Observations {
    /// Nothing observed yet. `cores` is the number of data cores.
    pub fn new(cores: usize, now: Moment) -> Self {
        let ids = (0..=u16::MAX).take(cores).map(CoreId);
        Self {
            started: now,
            cores: ids.map(CoreObservation::new).collect(),
            merged_total: StageHistograms::new(),
            merged_interval: StageHistograms::new(),
            interval: Interval::default(),
            interval_opened: now,
        }
    }

    /// Takes in a block and gives it back, cleared, for its core to use again. A block of a core
    /// that does not exist is cleared and otherwise ignored.
    pub fn accept(&mut self, mut block: Box<CoreStatistics>) -> Box<CoreStatistics> {
        if let Some(core) = self.cores.get_mut(block.core.index()) {
            core.total.add(&block.histograms);
            core.arriving.add(&block.histograms);
            self.merged_total.add(&block.histograms);
            let report = &mut core.report;
            report.port = block.port;
            report.cpu = block.cpu;
            report.waiting = block.waiting;
            report.limited_links = block.limited_links;
            std::mem::swap(&mut report.counters, &mut block.counters);
            std::mem::swap(&mut report.drops, &mut block.drops);
            report.reported = true;
            core.arrived = true;
        }
        block.counters = CoreCounters::default();
        block.drops = DropCounters::default();
        block.histograms.clear();
        block
    }

    /// Ends the interval that has been filling and begins the next. Once a second, when the reports
    /// that were asked for have arrived, so that each interval has one of every core.
    pub fn close_interval(&mut self, now: Moment) {
        self.merged_interval.clear();
        for core in &mut self.cores {
            core.close_interval();
            self.merged_interval.add(&core.interval);
        }
        let span = Span { start: self.interval_opened, length: now.since(self.interval_opened) };
        self.interval = Interval { sequence: self.interval.sequence + 1, span };
        self.interval_opened = now;
    }

    /// When the program started.
    pub fn started(&self) -> Moment {
        self.started
    }

    /// The interval closed last.
    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// What time the histograms of a window cover.
    pub fn span(&self, window: Window, now: Moment) -> Span {
        match window {
            Window::Interval => self.interval.span,
            Window::Total => Span { start: self.started, length: now.since(self.started) },
        }
    }

    /// How many data cores there are.
    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// The newest report of each core, in order of core.
    pub fn reports(&self) -> impl Iterator<Item = &CoreReport> + Clone {
        self.cores.iter().map(|core| &core.report)
    }

    /// Whether every core has reported at least once.
    pub fn all_reported(&self) -> bool {
        self.cores.iter().all(|core| core.report.reported)
    }

    /// The drops of all cores.
    pub fn drops(&self) -> DropCounters {
        let mut sum = DropCounters::default();
        for report in self.reports() {
            sum.add(&report.drops);
        }
        sum
    }

    /// Merged first, then each core.
    pub fn scopes(&self) -> impl Iterator<Item = Scope> {
        let cores = self.cores.iter().map(|core| Scope::Core(core.report.core));
        std::iter::once(Scope::Merged).chain(cores)
    }

    /// One histogram of durations in nanoseconds, or nothing if there is no such core.
    pub fn histogram(
        &self,
        scope: Scope,
        window: Window,
        stage: Stage,
        class: TrafficClass,
    ) -> Option<&Histogram<u64>> {
        let block = match (scope, window) {
            (Scope::Merged, Window::Interval) => &self.merged_interval,
            (Scope::Merged, Window::Total) => &self.merged_total,
            (Scope::Core(core), Window::Interval) => &self.cores.get(core.index())?.interval,
            (Scope::Core(core), Window::Total) => &self.cores.get(core.index())?.total,
        };
        Some(block.get(stage, class))
    }
}

/// Upper bounds of the buckets that plots and metrics use, in nanoseconds: 1, 2 and 5 times the
/// powers of ten from 100 ns to 50 s. Anything longer is beyond the last one.
pub const BUCKET_BOUNDS_NS: [u64; 27] = bucket_bounds();

const fn bucket_bounds() -> [u64; 27] {
    let mut bounds = [0; 27];
    let mut power = 100;
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] = power;
        bounds[index + 1] = 2 * power;
        bounds[index + 2] = 5 * power;
        power *= 10;
        index += 3;
    }
    bounds
}

/// How many values of a histogram fall into each bucket; the last number is for those beyond the
/// last bound. A value counts as the lowest one the histogram cannot tell from it.
pub fn bucket_counts(histogram: &Histogram<u64>) -> [u64; BUCKET_BOUNDS_NS.len() + 1] {
    let mut counts = [0; BUCKET_BOUNDS_NS.len() + 1];
    for step in histogram.iter_recorded() {
        let value_ns = histogram.lowest_equivalent(step.value_iterated_to());
        let place = BUCKET_BOUNDS_NS.partition_point(|bound_ns| *bound_ns < value_ns);
        if let Some(count) = counts.get_mut(place) {
            *count += step.count_since_last_iteration();
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use waystation_relay::drop_reason::DropReason;

    fn moment(seconds: u64) -> Moment {
        Moment {
            monotonic_ns: seconds * 1_000_000_000,
            unix_ns: (1_700_000_000 + seconds) * 1_000_000_000,
        }
    }

    fn block(core: u16, durations_ns: &[u64]) -> Box<CoreStatistics> {
        let mut block = Box::new(CoreStatistics::new(CoreId(core), "epoll"));
        for duration_ns in durations_ns {
            block.histograms.record(Stage::Residence, TrafficClass::Data, *duration_ns, 1);
        }
        block
    }

    fn residence(observations: &Observations, scope: Scope, window: Window) -> &Histogram<u64> {
        observations.histogram(scope, window, Stage::Residence, TrafficClass::Data).unwrap()
    }

    #[test]
    fn block_comes_back_cleared_for_the_same_core() {
        let mut observations = Observations::new(2, moment(0));
        let mut block = block(1, &[5]);
        block.counters.turns = 7;
        block.drops.count(DropReason::MeshFull, 3);
        let block = observations.accept(block);
        assert_eq!(block.core, CoreId(1));
        assert_eq!(block.counters, CoreCounters::default());
        assert_eq!(block.drops, DropCounters::default());
        assert!(block.histograms.get(Stage::Residence, TrafficClass::Data).is_empty());
        let reports: Vec<_> = observations.reports().collect();
        assert_eq!(reports[1].counters.turns, 7);
        assert_eq!(reports[1].port, "epoll");
        assert_eq!(observations.drops().bytes(DropReason::MeshFull), 3);
    }

    #[test]
    fn histograms_are_kept_per_core_and_merged_per_interval_and_in_total() {
        let mut observations = Observations::new(2, moment(0));
        observations.accept(block(0, &[10, 20]));
        observations.accept(block(1, &[30]));
        observations.close_interval(moment(1));
        observations.accept(block(1, &[40]));
        let len = |scope, window| residence(&observations, scope, window).len();
        assert_eq!(len(Scope::Merged, Window::Interval), 3);
        assert_eq!(len(Scope::Merged, Window::Total), 4);
        assert_eq!(len(Scope::Core(CoreId(1)), Window::Interval), 1);
        assert_eq!(len(Scope::Core(CoreId(1)), Window::Total), 2);
        observations.close_interval(moment(3));
        assert_eq!(residence(&observations, Scope::Merged, Window::Interval).max(), 40);
        assert_eq!(residence(&observations, Scope::Core(CoreId(0)), Window::Interval).len(), 0);
        let interval = observations.interval();
        assert_eq!(interval.sequence, 2);
        assert_eq!(interval.span, Span { start: moment(1), length: Duration::from_secs(2) });
        assert_eq!(observations.span(Window::Total, moment(9)).length, Duration::from_secs(9));
    }

    #[test]
    fn busy_share_is_that_of_the_last_interval() {
        let mut observations = Observations::new(1, moment(0));
        let busy_share =
            |observations: &Observations| observations.reports().next().unwrap().busy_share();
        assert_eq!(busy_share(&observations), None);
        for (second, busy_ns) in [(1, 900), (2, 1_150)] {
            let mut block = block(0, &[]);
            block.counters.up_ns = second * 1_000;
            block.counters.busy_ns = busy_ns;
            observations.accept(block);
            observations.close_interval(moment(second));
        }
        assert_eq!(busy_share(&observations), Some(0.25));
    }

    #[test]
    fn silent_core_is_noticed_and_keeps_its_last_numbers() {
        let mut observations = Observations::new(2, moment(0));
        assert!(!observations.all_reported());
        observations.accept(block(0, &[1]));
        let mut block_of_1 = block(1, &[1]);
        block_of_1.counters.turns = 5;
        observations.accept(block_of_1);
        assert!(observations.all_reported());
        observations.close_interval(moment(1));
        for second in 2..=4 {
            observations.accept(block(0, &[1]));
            observations.close_interval(moment(second));
        }
        let silent: Vec<_> = observations.reports().map(|report| report.silent_intervals).collect();
        assert_eq!(silent, [0, 3]);
        let silent = observations.reports().nth(1).unwrap();
        assert_eq!(silent.counters.turns, 5);
        assert_eq!(silent.interval_growth(|counters| counters.turns), 0);
        let mut late = block(1, &[]);
        late.counters.turns = 12;
        observations.accept(late);
        observations.close_interval(moment(5));
        let late = observations.reports().nth(1).unwrap();
        assert_eq!(late.silent_intervals, 0);
        assert_eq!(late.interval_growth(|counters| counters.turns), 7);
    }

    #[test]
    fn block_of_an_unknown_core_changes_nothing() {
        let mut observations = Observations::new(1, moment(0));
        let block = observations.accept(block(7, &[1]));
        assert!(block.histograms.get(Stage::Residence, TrafficClass::Data).is_empty());
        assert_eq!(residence(&observations, Scope::Merged, Window::Total).len(), 0);
        assert!(!observations.all_reported());
        let unknown = Scope::Core(CoreId(7));
        let (stage, class) = (Stage::Turn, TrafficClass::Data);
        assert!(observations.histogram(unknown, Window::Total, stage, class).is_none());
    }

    #[test]
    fn bucket_bounds_rise_from_100_ns_to_50_s() {
        assert_eq!(BUCKET_BOUNDS_NS[0], 100);
        assert_eq!(BUCKET_BOUNDS_NS[26], 50_000_000_000);
        assert!(BUCKET_BOUNDS_NS.is_sorted());
    }

    proptest! {
        #[test]
        fn merged_is_the_sum_of_the_cores_whatever_the_order(
            reports in vec((0_u16..3, vec(1_u64..60_000_000_000, 0..8), any::<bool>()), 0..20)
        ) {
            let mut observations = Observations::new(3, moment(0));
            let mut values = Vec::new();
            for (index, (core, durations, close)) in reports.iter().enumerate() {
                observations.accept(block(*core, durations));
                values.extend_from_slice(durations);
                if *close {
                    observations.close_interval(moment(index as u64 + 1));
                }
            }
            let merged = residence(&observations, Scope::Merged, Window::Total);
            prop_assert_eq!(merged.len(), values.len() as u64);
            let per_core: u64 = (0..3)
                .map(|core| Scope::Core(CoreId(core)))
                .map(|scope| residence(&observations, scope, Window::Total).len())
                .sum();
            prop_assert_eq!(per_core, merged.len());
            prop_assert_eq!(bucket_counts(merged).iter().sum::<u64>(), merged.len());
            if let Some(largest) = values.iter().max() {
                prop_assert!(merged.max() >= *largest);
            }
        }
    }
}
