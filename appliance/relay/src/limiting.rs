//! What keeps payload from going on, and for how much of an interval.
//!
//! Plain values, owned and changed by a data core and its [`crate::switch::Switch`] on its thread.
//! A [`LimitClock`] is told when the reason changes and adds up times; it does nothing in between,
//! so payload that waits for nothing costs a compare. Nothing here reads a clock.

/// Most nanoseconds of one reason in one interval that are told apart.
const COUNTED_MAX_NS: u64 = u32::MAX as u64;

/// What payload of a session, a link or a side of a raw pipe waits for outside of this node's own
/// speed. Where several hold at a time, the first of these counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Limit {
    /// A send is in flight that the destination's socket has not taken by the next turn.
    PeerNotReading,
    /// The quota of the identity that has sent it lets nothing pass.
    Quota,
    /// The window that the destination's peer has given is used up.
    Credit,
}

impl Limit {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// Every limit, the one that counts first in front.
    pub const ALL: [Self; Self::COUNT] = [Self::PeerNotReading, Self::Quota, Self::Credit];
}

/// The interval that is running and the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intervals {
    /// When the running one began.
    pub started_ns: u64,
    /// When the last one began; as `started_ns` before the first has ended.
    pub before_ns: u64,
}

impl Intervals {
    /// The first one begins.
    pub fn new(now_ns: u64) -> Self {
        Self { started_ns: now_ns, before_ns: now_ns }
    }

    /// The running one ends, and the next begins.
    pub fn close(&mut self, now_ns: u64) {
        *self = Self { started_ns: now_ns.max(self.started_ns), before_ns: self.started_ns };
    }

    /// Length of the last one; 0 before the first has ended.
    pub fn last_ns(&self) -> u64 {
        self.started_ns - self.before_ns
    }
}

/// Nanoseconds by limit, in the order of [`Limit::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitTimes {
    by_limit: [u32; Limit::COUNT],
}

impl LimitTimes {
    /// How long it was this limit.
    pub fn ns(&self, limit: Limit) -> u64 {
        u64::from(self.by_limit.get(limit as usize).copied().unwrap_or(0))
    }

    /// Of each limit the longer time of two.
    pub fn longer(&self, other: &Self) -> Self {
        let mut longer = Self::default();
        for limit in Limit::ALL {
            longer.add(limit, self.ns(limit).max(other.ns(limit)));
        }
        longer
    }

    fn add(&mut self, limit: Limit, ns: u64) {
        let sum_ns = (self.ns(limit) + ns).min(COUNTED_MAX_NS);
        if let Some(place) = self.by_limit.get_mut(limit as usize) {
            *place = u32::try_from(sum_ns).unwrap_or(u32::MAX);
        }
    }
}

/// Adds up how long each limit held, by interval.
#[derive(Clone, Copy, Debug, Default)]
pub struct LimitClock {
    limit: Option<Limit>,
    since_ns: u64,
    /// When the interval began that `running` is about.
    started_ns: u64,
    running: LimitTimes,
    last: LimitTimes,
}

impl LimitClock {
    /// What holds now.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }

    /// From now on it is this limit, or none.
    pub fn turn_to(&mut self, limit: Option<Limit>, now_ns: u64, intervals: &Intervals) {
        if limit == self.limit {
            return;
        }
        self.catch_up(intervals);
        if let Some(limit) = self.limit {
            let from_ns = self.since_ns.max(intervals.started_ns);
            self.running.add(limit, now_ns.saturating_sub(from_ns));
        }
        (self.limit, self.since_ns) = (limit, now_ns);
    }

    /// The times of the last interval.
    pub fn last(&self, intervals: &Intervals) -> LimitTimes {
        let mut now = *self;
        now.catch_up(intervals);
        now.last
    }

    /// Takes notice of intervals that have ended since the last change.
    fn catch_up(&mut self, intervals: &Intervals) {
        if self.started_ns == intervals.started_ns {
            return;
        }
        let mut ended = LimitTimes::default();
        if self.started_ns == intervals.before_ns {
            ended = self.running;
        }
        if let Some(limit) = self.limit {
            let from_ns = self.since_ns.clamp(intervals.before_ns, intervals.started_ns);
            ended.add(limit, intervals.started_ns - from_ns);
        }
        (self.last, self.running) = (ended, LimitTimes::default());
        self.started_ns = intervals.started_ns;
    }
}

/// Adds up spans of time that are known once they are over, by interval; what is told twice counts
/// once.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanClock {
    until_ns: u64,
    /// When the interval began that `running_ns` is about.
    started_ns: u64,
    running_ns: u32,
    last_ns: u32,
}

impl SpanClock {
    /// It held from then until now.
    pub fn add(&mut self, from_ns: u64, now_ns: u64, intervals: &Intervals) {
        self.catch_up(intervals);
        let from_ns = from_ns.max(self.until_ns).max(intervals.started_ns);
        let sum_ns = u64::from(self.running_ns) + now_ns.saturating_sub(from_ns);
        self.running_ns = u32::try_from(sum_ns).unwrap_or(u32::MAX);
        self.until_ns = self.until_ns.max(now_ns);
    }

    /// The time of the last interval.
    pub fn last_ns(&self, intervals: &Intervals) -> u64 {
        let mut now = *self;
        now.catch_up(intervals);
        u64::from(now.last_ns)
    }

    fn catch_up(&mut self, intervals: &Intervals) {
        if self.started_ns == intervals.started_ns {
            return;
        }
        let ended = self.started_ns == intervals.before_ns;
        self.last_ns = if ended { self.running_ns } else { 0 };
        (self.running_ns, self.started_ns) = (0, intervals.started_ns);
    }
}

/// What holds a link up in one direction: by how many of its sessions wait for what.
#[derive(Clone, Copy, Debug, Default)]
pub struct LimitCounts {
    sessions: [u32; Limit::COUNT],
    clock: LimitClock,
}

impl LimitCounts {
    /// One session waits for something else than before.
    pub fn change(
        &mut self,
        before: Option<Limit>,
        after: Option<Limit>,
        now_ns: u64,
        intervals: &Intervals,
    ) {
        if let Some(count) = before.and_then(|limit| self.sessions.get_mut(limit as usize)) {
            debug_assert!(*count > 0, "a session stopped waiting that had not begun");
            *count = count.saturating_sub(1);
        }
        if let Some(count) = after.and_then(|limit| self.sessions.get_mut(limit as usize)) {
            *count += 1;
        }
        self.clock.turn_to(self.first(), now_ns, intervals);
    }

    /// How many of its sessions wait for this.
    pub fn sessions(&self, limit: Limit) -> u32 {
        self.sessions.get(limit as usize).copied().unwrap_or(0)
    }

    /// The times of the last interval.
    pub fn last(&self, intervals: &Intervals) -> LimitTimes {
        self.clock.last(intervals)
    }

    fn first(&self) -> Option<Limit> {
        Limit::ALL.into_iter().find(|limit| self.sessions(*limit) > 0)
    }
}

/// Why a link or a side of a raw pipe is not faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// See [`Limit::PeerNotReading`].
    PeerNotReading,
    /// See [`Limit::Quota`].
    Quota,
    /// See [`Limit::Credit`].
    Credit,
    /// What its peer has sent waits until this core comes to it.
    Core,
    /// Nothing of it waits: whoever sends could send more.
    SenderIdle,
}

impl Cause {
    /// How many there are.
    pub const COUNT: usize = 5;
    /// Every cause. Time in which several hold belongs to the first of them.
    pub const ALL: [Self; Self::COUNT] =
        [Self::PeerNotReading, Self::Quota, Self::Credit, Self::Core, Self::SenderIdle];

    /// The name in documents, tables and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::PeerNotReading => "peer_not_reading",
            Self::Quota => "quota",
            Self::Credit => "credit",
            Self::Core => "core",
            Self::SenderIdle => "sender_idle",
        }
    }
}

/// What held a link or a side of a raw pipe up in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldUp {
    /// 0: there was no interval yet.
    pub interval_ns: u64,
    /// What its peer has sent waits at its destinations.
    pub sent: LimitTimes,
    /// What is to be sent to its peer waits here.
    pub due: LimitTimes,
    /// What its peer has sent waits until this core comes to it.
    pub core_ns: u64,
}

impl HeldUp {
    /// Whichever way the payload goes.
    pub fn shares(&self) -> CauseShares {
        CauseShares::new(self.interval_ns, &self.sent.longer(&self.due), self.core_ns)
    }

    /// What its peer has sent.
    pub fn sent_shares(&self) -> CauseShares {
        CauseShares::new(self.interval_ns, &self.sent, self.core_ns)
    }

    /// What is to be sent to its peer.
    pub fn due_shares(&self) -> CauseShares {
        CauseShares::new(self.interval_ns, &self.due, 0)
    }
}

/// The shares of an interval that belong to each cause; they add up to 1, or to 0 without one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CauseShares {
    by_cause: [f64; Cause::COUNT],
}

impl CauseShares {
    fn new(interval_ns: u64, times: &LimitTimes, core_ns: u64) -> Self {
        let mut shares = Self::default();
        let mut left_ns = interval_ns;
        for cause in Cause::ALL {
            let held_ns = match cause {
                Cause::PeerNotReading => times.ns(Limit::PeerNotReading),
                Cause::Quota => times.ns(Limit::Quota),
                Cause::Credit => times.ns(Limit::Credit),
                Cause::Core => core_ns,
                Cause::SenderIdle => left_ns,
            };
            let held_ns = held_ns.min(left_ns);
            left_ns -= held_ns;
            if let Some(share) = shares.by_cause.get_mut(cause as usize) {
                *share = held_ns as f64 / interval_ns.max(1) as f64;
            }
        }
        shares
    }

    /// One of them.
    pub fn share(&self, cause: Cause) -> f64 {
        self.by_cause.get(cause as usize).copied().unwrap_or(0.0)
    }

    /// The one with the largest share; nothing without an interval.
    pub fn largest(&self) -> Option<Cause> {
        let by_share = |a: &Cause, b: &Cause| self.share(*a).total_cmp(&self.share(*b));
        Cause::ALL.into_iter().rev().max_by(by_share).filter(|cause| self.share(*cause) > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn at(started_ms: u64, before_ms: u64) -> Intervals {
        Intervals { started_ns: started_ms * MS, before_ns: before_ms * MS }
    }

    #[test]
    fn each_limit_has_the_time_it_held() {
        let intervals = at(1_000, 1_000);
        let mut clock = LimitClock::default();
        clock.turn_to(Some(Limit::Credit), 1_100 * MS, &intervals);
        clock.turn_to(Some(Limit::Quota), 1_400 * MS, &intervals);
        clock.turn_to(None, 1_450 * MS, &intervals);
        let times = clock.last(&at(2_000, 1_000));
        assert_eq!(times.ns(Limit::Credit), 300 * MS);
        assert_eq!(times.ns(Limit::Quota), 50 * MS);
        assert_eq!(times.ns(Limit::PeerNotReading), 0);
    }

    #[test]
    fn limit_that_lasts_fills_every_interval_it_lasts_through() {
        let mut clock = LimitClock::default();
        clock.turn_to(Some(Limit::Credit), 1_400 * MS, &at(1_000, 0));
        assert_eq!(clock.last(&at(2_000, 1_000)).ns(Limit::Credit), 600 * MS);
        assert_eq!(clock.last(&at(3_000, 2_000)).ns(Limit::Credit), 1_000 * MS);
        clock.turn_to(None, 3_250 * MS, &at(3_000, 2_000));
        assert_eq!(clock.last(&at(4_000, 3_000)).ns(Limit::Credit), 250 * MS);
        assert_eq!(clock.last(&at(5_000, 4_000)).ns(Limit::Credit), 0);
    }

    #[test]
    fn spans_that_overlap_count_once() {
        let mut spans = SpanClock::default();
        let intervals = at(1_000, 0);
        spans.add(1_100 * MS, 1_300 * MS, &intervals);
        spans.add(1_200 * MS, 1_400 * MS, &intervals);
        spans.add(1_350 * MS, 1_380 * MS, &intervals);
        assert_eq!(spans.last_ns(&at(2_000, 1_000)), 300 * MS);
        assert_eq!(spans.last_ns(&at(3_000, 2_000)), 0);
    }

    #[test]
    fn what_holds_one_session_holds_the_link_until_the_last_one_goes_on() {
        let intervals = at(1_000, 0);
        let mut counts = LimitCounts::default();
        counts.change(None, Some(Limit::Credit), 1_000 * MS, &intervals);
        counts.change(None, Some(Limit::Credit), 1_100 * MS, &intervals);
        counts.change(Some(Limit::Credit), None, 1_200 * MS, &intervals);
        counts.change(Some(Limit::Credit), Some(Limit::Quota), 1_500 * MS, &intervals);
        counts.change(Some(Limit::Quota), None, 1_600 * MS, &intervals);
        let times = counts.last(&at(2_000, 1_000));
        assert_eq!((times.ns(Limit::Credit), times.ns(Limit::Quota)), (500 * MS, 100 * MS));
    }

    #[test]
    fn shares_add_up_to_one_and_the_first_cause_has_what_several_claim() {
        let (mut sent, mut due) = (LimitTimes::default(), LimitTimes::default());
        sent.add(Limit::Credit, 30);
        due.add(Limit::PeerNotReading, 60);
        due.add(Limit::Credit, 10);
        let held_up = HeldUp { interval_ns: 100, sent, due, core_ns: 50 };
        let shares = held_up.shares();
        assert_eq!(shares.by_cause, [0.6, 0.0, 0.3, 0.1, 0.0]);
        assert_eq!(shares.largest(), Some(Cause::PeerNotReading));
        assert_eq!(held_up.sent_shares().by_cause, [0.0, 0.0, 0.3, 0.5, 0.2]);
        assert_eq!(held_up.due_shares().by_cause, [0.6, 0.0, 0.1, 0.0, 0.3]);
    }

    #[test]
    fn without_an_interval_there_is_no_cause() {
        assert_eq!(HeldUp::default().shares().largest(), None);
        let idle = HeldUp { interval_ns: 5, ..HeldUp::default() };
        assert_eq!(idle.shares().largest(), Some(Cause::SenderIdle));
    }

    fn limit_of(number: u8) -> Option<Limit> {
        Limit::ALL.get(usize::from(number)).copied()
    }

    proptest! {
        #[test]
        fn clock_says_what_adding_up_every_nanosecond_says(
            steps in prop::collection::vec((0_u8..5, 1_u64..40), 1..60)
        ) {
            let mut intervals = Intervals::new(7);
            let mut clock = LimitClock::default();
            let mut spans = SpanClock::default();
            let (mut now_ns, mut limit) = (7, None);
            let mut running = [0_u64; Limit::COUNT];
            let mut span_running = 0;
            for (number, pass_ns) in steps {
                if let Some(limit) = limit {
                    running[limit as usize] += pass_ns;
                }
                if limit == Some(Limit::Quota) {
                    spans.add(now_ns, now_ns + pass_ns, &intervals);
                    span_running += pass_ns;
                }
                now_ns += pass_ns;
                if number == 4 {
                    intervals.close(now_ns);
                    let last = clock.last(&intervals);
                    for limit in Limit::ALL {
                        prop_assert_eq!(last.ns(limit), running[limit as usize]);
                    }
                    prop_assert_eq!(spans.last_ns(&intervals), span_running);
                    (running, span_running) = ([0; Limit::COUNT], 0);
                } else {
                    limit = limit_of(number);
                    clock.turn_to(limit, now_ns, &intervals);
                }
            }
        }
    }
}
