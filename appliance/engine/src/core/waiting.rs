//! How a data core waits for events: asleep, spinning, or gathering several before it wakes.
//!
//! A pure policy: one data core owns it, tells it at the end of each turn what the turn brought, and
//! asks it how to wait. It reads no clock and makes no call; it must never delay an event by more
//! than [`GATHER_WAIT`].
//!
//! * **Sleep**: until the first event. What an idle or half-busy core does.
//! * **Spin**: ask again, for at most [`SPIN_MAX_NS`], before sleeping. Only while every one of the
//!   last turns was full, because then the next events are on their way and falling asleep costs as
//!   much as waiting for them.
//! * **Gather**: a sleep that lasts [`GATHER_WAIT`], unless many events come before. Peers that write a frame in
//!   pieces wake a core for each piece, and a core with many links ready wakes for the first of
//!   them. No rule tells beforehand whether such peers wait for an answer, so gathering is a trial:
//!   it goes on only while the core carries as many frames as before, for less processor time each.

use crate::statistics::WaitMode;
use std::time::Duration;

/// How long a gathering core sleeps at least: a peer that writes a frame in eight pieces needs 30 to
/// 80 us for it.
pub(super) const GATHER_WAIT: Duration = Duration::from_micros(100);

/// Longest spin after a turn: what falling asleep and waking up costs, so that spinning in vain
/// costs at most as much again.
pub(super) const SPIN_MAX_NS: u64 = 5_000;

/// Receives that make a turn full: as many streams were ready at once.
const FULL_TURN_RECEIVES: u64 = 16;

/// Full turns in a row that make a core spin.
const FULL_TURNS: u32 = 4;

/// What is judged at a time: long enough for hundreds of frames of a core that is worth a trial, so
/// that a window's figures do not depend on where it begins.
const WINDOW_NS: u64 = 50_000_000;

/// Share of a processor below which a core is not short of it, whatever it wakes up for. In percent.
const BUSY_PERCENT: u64 = 40;

/// The same where turns are not wasted but many: only a saturated core can win by larger turns.
const SATURATED_PERCENT: u64 = 90;

/// Ready streams per turn that make them many.
const MANY_READY: u64 = 32;

/// What is compared with a trial must itself be steady: the window before it had at least this share
/// of its rate. Otherwise traffic that has just begun would be compared with its beginning, and no
/// trial could fail. In percent.
const BEGINNING_RATE_PERCENT: u64 = 90;

/// A trial has failed that carries fewer frames a second than this share of what sleeping carried.
/// In percent.
const KEPT_RATE_PERCENT: u64 = 95;

/// A trial has failed that leaves more than this of a frame's processor time. In percent.
const KEPT_COST_PERCENT: u64 = 90;

/// Gathering ends when frames come at less than this share of the rate it began with: the traffic
/// has changed. In percent.
const STEADY_RATE_PERCENT: u64 = 70;

/// The same when they come at more than this share. In percent.
const GROWN_RATE_PERCENT: u64 = 200;

/// Fewest frames in a window that say anything about its traffic.
const FRAMES_MIN: u64 = 100;

/// Windows of gathering after which sleeping is measured anew.
const GATHER_WINDOWS_MAX: u32 = 40;

/// How long after a failed trial the next may begin: each failure in a row doubles it.
const RETRY_MIN_NS: u64 = 500_000_000;
const RETRY_MAX_NS: u64 = 16_000_000_000;

/// Counts of a core's work, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) turns: u64,
    pub(super) receives: u64,
    pub(super) records: u64,
    pub(super) frames: u64,
}

/// What happened in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Window {
    elapsed_ns: u64,
    cpu_ns: u64,
    work: Work,
}

impl Window {
    fn is_busy(&self, percent: u64) -> bool {
        self.cpu_ns.saturating_mul(100) >= self.elapsed_ns.saturating_mul(percent)
    }

    /// Whether frames come in several records each. However a core waits, this stays as it is.
    fn comes_in_pieces(&self) -> bool {
        self.work.records >= 2 * self.work.frames
    }

    fn has_many_ready(&self) -> bool {
        self.work.turns > 0 && self.work.receives >= MANY_READY * self.work.turns
    }

    /// Whether this is traffic that gathering may help, and enough of it to tell. Handshakes are
    /// none: they open records without frames.
    fn can_win(&self) -> bool {
        self.work.frames >= FRAMES_MIN && (self.comes_in_pieces() || self.has_many_ready())
    }

    /// Whether most wake-ups bring less than a frame, or a saturated core has many links ready.
    fn is_worth_a_trial(&self) -> bool {
        let wasted = self.comes_in_pieces() && self.work.turns >= self.work.frames;
        let saturated = self.is_busy(SATURATED_PERCENT) && self.has_many_ready();
        self.can_win() && ((self.is_busy(BUSY_PERCENT) && wasted) || saturated)
    }

    /// Whether this window carried at least so many percent of another's frames in its time.
    fn keeps_rate(&self, before: &Self, percent: u64) -> bool {
        let now = u128::from(self.work.frames) * u128::from(before.elapsed_ns) * 100;
        now >= u128::from(before.work.frames) * u128::from(self.elapsed_ns) * u128::from(percent)
    }

    /// Whether this window's traffic may be compared with another's: of the same kind, and neither
    /// less than so many percent of it nor far more.
    fn is_like(&self, before: &Self, percent: u64) -> bool {
        self.can_win()
            && self.keeps_rate(before, percent)
            && !self.keeps_rate(before, GROWN_RATE_PERCENT)
    }

    /// Whether a frame of this window cost at most so many percent of one of another.
    fn keeps_cost(&self, before: &Self, percent: u64) -> bool {
        let now = u128::from(self.cpu_ns) * u128::from(before.work.frames) * 100;
        now <= u128::from(before.cpu_ns) * u128::from(self.work.frames) * u128::from(percent)
    }
}

/// Whether and why a core gathers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gathering {
    /// It does not. A trial may begin at this time; so many have failed in a row.
    Off { retry_ns: u64, failures: u32 },
    /// It does, so many windows after the one it is compared with.
    On { before: Window, windows: u32, failures: u32 },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Waiting {
    can_gather: bool,
    gathering: Gathering,
    full_turns: u32,
    spin_until_ns: u64,
    last_receives: u64,
    window_start_ns: u64,
    window_cpu_ns: u64,
    window_work: Work,
    last_window: Window,
}

impl Waiting {
    /// Waiting of a core that starts now, over a port that can gather or cannot.
    pub(super) fn new(now_ns: u64, cpu_ns: u64, can_gather: bool) -> Self {
        Self {
            can_gather,
            gathering: Gathering::Off { retry_ns: now_ns, failures: 0 },
            full_turns: 0,
            spin_until_ns: 0,
            last_receives: 0,
            window_start_ns: now_ns,
            window_cpu_ns: cpu_ns,
            window_work: Work::default(),
            last_window: Window::default(),
        }
    }

    /// The mode in force.
    pub(super) fn mode(&self) -> WaitMode {
        match self.gathering {
            Gathering::On { .. } => WaitMode::Gather,
            Gathering::Off { .. } if self.full_turns >= FULL_TURNS => WaitMode::Spin,
            Gathering::Off { .. } => WaitMode::Sleep,
        }
    }

    /// How long the next sleep must last at least.
    pub(super) fn least_wait(&self) -> Duration {
        match self.gathering {
            Gathering::On { .. } => GATHER_WAIT,
            Gathering::Off { .. } => Duration::ZERO,
        }
    }

    /// Whether to ask for events again rather than sleep.
    pub(super) fn spins(&self, now_ns: u64) -> bool {
        now_ns < self.spin_until_ns
    }

    /// Takes note of a turn that ended. One that received nothing changes nothing, unless it ends a
    /// spin in vain.
    pub(super) fn turn_ended(&mut self, now_ns: u64, receives: u64) {
        let received = receives - self.last_receives;
        self.last_receives = receives;
        if received == 0 {
            if self.spin_until_ns != 0 && now_ns >= self.spin_until_ns {
                (self.full_turns, self.spin_until_ns) = (0, 0);
            }
            return;
        }
        let full = received >= FULL_TURN_RECEIVES;
        self.full_turns = if full { self.full_turns.saturating_add(1) } else { 0 };
        let spins = self.mode() == WaitMode::Spin;
        self.spin_until_ns = if spins { now_ns + SPIN_MAX_NS } else { 0 };
    }

    /// Whether it is time for [`Self::judge`].
    pub(super) fn window_is_over(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.window_start_ns) >= WINDOW_NS
    }

    /// Ends a window: decides whether to gather from now on.
    pub(super) fn judge(&mut self, now_ns: u64, cpu_ns: u64, work: Work) {
        let before = self.window_work;
        let window = Window {
            elapsed_ns: now_ns.saturating_sub(self.window_start_ns),
            cpu_ns: cpu_ns.saturating_sub(self.window_cpu_ns),
            work: Work {
                turns: work.turns - before.turns,
                receives: work.receives - before.receives,
                records: work.records - before.records,
                frames: work.frames - before.frames,
            },
        };
        (self.window_start_ns, self.window_cpu_ns, self.window_work) = (now_ns, cpu_ns, work);
        self.gathering = self.decide(now_ns, &window);
        self.last_window = window;
    }

    fn decide(&self, now_ns: u64, window: &Window) -> Gathering {
        match self.gathering {
            Gathering::Off { retry_ns, failures } => {
                let last = &self.last_window;
                let steady = last.can_win() && last.keeps_rate(window, BEGINNING_RATE_PERCENT);
                if self.can_gather && now_ns >= retry_ns && steady && window.is_worth_a_trial() {
                    return Gathering::On { before: *window, windows: 0, failures };
                }
                self.gathering
            }
            Gathering::On { before, windows: 0, failures } => {
                let kept = window.is_like(&before, KEPT_RATE_PERCENT)
                    && window.keeps_cost(&before, KEPT_COST_PERCENT);
                if kept {
                    return Gathering::On { before, windows: 1, failures: 0 };
                }
                let pause_ns = RETRY_MIN_NS << failures.min(5);
                let retry_ns = now_ns + pause_ns.min(RETRY_MAX_NS);
                Gathering::Off { retry_ns, failures: failures.saturating_add(1) }
            }
            Gathering::On { before, windows, failures } => {
                let steady = window.is_like(&before, STEADY_RATE_PERCENT);
                if steady && windows < GATHER_WINDOWS_MAX {
                    return Gathering::On { before, windows: windows + 1, failures };
                }
                Gathering::Off { retry_ns: now_ns, failures }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A core whose windows are made by hand.
    struct Core {
        waiting: Waiting,
        now_ns: u64,
        cpu_ns: u64,
        work: Work,
    }

    /// Figures of a window of [`WINDOW_NS`].
    #[derive(Clone, Copy)]
    struct Traffic {
        busy_percent: u64,
        turns: u64,
        receives: u64,
        records: u64,
        frames: u64,
    }

    /// Peers that write each frame in eight pieces, as they are served one by one.
    const PIECES: Traffic =
        Traffic { busy_percent: 60, turns: 2000, receives: 3200, records: 4000, frames: 1000 };
    /// The same, gathered.
    const GATHERED: Traffic = Traffic { busy_percent: 40, turns: 450, ..PIECES };
    /// A link that waits for an answer each time, delayed by gathering.
    const SLOWED: Traffic =
        Traffic { busy_percent: 40, turns: 800, receives: 900, records: 3200, frames: 800 };

    impl Core {
        fn new() -> Self {
            let waiting = Waiting::new(0, 0, true);
            Self { waiting, now_ns: 0, cpu_ns: 0, work: Work::default() }
        }

        fn window(&mut self, traffic: Traffic) {
            self.now_ns += WINDOW_NS;
            self.cpu_ns += WINDOW_NS / 100 * traffic.busy_percent;
            self.work.turns += traffic.turns;
            self.work.receives += traffic.receives;
            self.work.records += traffic.records;
            self.work.frames += traffic.frames;
            assert!(self.waiting.window_is_over(self.now_ns));
            self.waiting.judge(self.now_ns, self.cpu_ns, self.work);
        }

        /// Steady traffic until it is worth a trial.
        fn begin_trial(&mut self) {
            self.window(PIECES);
            assert_eq!(self.mode(), WaitMode::Sleep);
            self.window(PIECES);
            assert_eq!(self.mode(), WaitMode::Gather);
        }

        fn mode(&self) -> WaitMode {
            self.waiting.mode()
        }

        /// Windows until the mode changes, at most so many.
        fn windows_in_mode(&mut self, traffic: Traffic, most: u32) -> u32 {
            let mode = self.mode();
            (1..=most)
                .find(|_| {
                    self.window(traffic);
                    self.mode() != mode
                })
                .unwrap_or(most)
        }
    }

    #[test]
    fn busy_core_that_wakes_for_pieces_gathers_while_that_pays() {
        let mut core = Core::new();
        core.begin_trial();
        assert_eq!(core.mode(), WaitMode::Gather);
        assert_eq!(core.waiting.least_wait(), GATHER_WAIT);
        for _ in 0..10 {
            core.window(GATHERED);
            assert_eq!(core.mode(), WaitMode::Gather);
        }
    }

    #[test]
    fn gathering_that_slows_peers_down_ends_after_one_window_and_is_tried_ever_less_often() {
        let mut core = Core::new();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let pause = core.windows_in_mode(PIECES, 1000);
            assert_eq!(core.mode(), WaitMode::Gather);
            assert_eq!(core.windows_in_mode(SLOWED, 1000), 1);
            assert_eq!(core.mode(), WaitMode::Sleep);
            pauses.push(pause);
        }
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert_eq!(pauses.last(), Some(&((RETRY_MAX_NS / WINDOW_NS) as u32)), "{pauses:?}");
    }

    #[test]
    fn gathering_that_saves_nothing_ends() {
        let mut core = Core::new();
        core.begin_trial();
        core.window(PIECES);
        assert_eq!(core.mode(), WaitMode::Sleep);
    }

    #[test]
    fn traffic_that_dwindles_ends_gathering_and_counts_as_no_failure() {
        let mut core = Core::new();
        core.begin_trial();
        core.window(GATHERED);
        core.window(Traffic { frames: 600, ..GATHERED });
        assert_eq!(core.mode(), WaitMode::Sleep);
        core.begin_trial();
    }

    #[test]
    fn traffic_that_has_just_begun_is_not_what_a_trial_is_compared_with() {
        let mut core = Core::new();
        core.window(Traffic { frames: 500, turns: 1000, records: 2000, ..PIECES });
        core.window(PIECES);
        assert_eq!(core.mode(), WaitMode::Sleep);
        core.window(PIECES);
        assert_eq!(core.mode(), WaitMode::Gather);
    }

    #[test]
    fn handshakes_are_no_frames_in_pieces() {
        let mut core = Core::new();
        core.window(Traffic { frames: 30, turns: 200, records: 900, ..PIECES });
        assert_eq!(core.mode(), WaitMode::Sleep);
    }

    #[test]
    fn traffic_that_is_no_longer_in_pieces_or_much_more_of_it_ends_gathering() {
        let whole = Traffic { records: GATHERED.frames, ..GATHERED };
        let more = Traffic { frames: 2100, records: 8400, ..GATHERED };
        for changed in [whole, more] {
            for before in [0, 5] {
                let mut core = Core::new();
                core.begin_trial();
                (0..before).for_each(|_| core.window(GATHERED));
                core.window(changed);
                assert_eq!(core.mode(), WaitMode::Sleep);
            }
        }
    }

    #[test]
    fn gathering_is_compared_with_sleeping_again_and_again() {
        let mut core = Core::new();
        core.begin_trial();
        assert_eq!(core.windows_in_mode(GATHERED, 1000), GATHER_WINDOWS_MAX + 1);
        assert_eq!(core.mode(), WaitMode::Sleep);
        core.window(PIECES);
        assert_eq!(core.mode(), WaitMode::Gather);
    }

    #[test]
    fn core_with_processor_time_left_never_gathers() {
        let mut core = Core::new();
        core.window(Traffic { busy_percent: BUSY_PERCENT - 1, ..PIECES });
        core.window(Traffic { busy_percent: BUSY_PERCENT - 1, ..PIECES });
        assert_eq!(core.mode(), WaitMode::Sleep);
    }

    #[test]
    fn whole_frames_are_not_waited_for_unless_many_links_saturate_the_core() {
        let whole = Traffic { busy_percent: 89, records: 1000, ..PIECES };
        let many = Traffic { receives: MANY_READY * whole.turns, ..whole };
        let mut core = Core::new();
        core.window(whole);
        core.window(Traffic { busy_percent: 99, ..whole });
        core.window(many);
        assert_eq!(core.mode(), WaitMode::Sleep);
        core.window(Traffic { busy_percent: 99, ..many });
        assert_eq!(core.mode(), WaitMode::Gather);
    }

    #[test]
    fn port_that_cannot_gather_is_never_asked_to() {
        let mut core = Core::new();
        core.waiting.can_gather = false;
        core.window(PIECES);
        core.window(PIECES);
        assert_eq!(core.mode(), WaitMode::Sleep);
        assert_eq!(core.waiting.least_wait(), Duration::ZERO);
    }

    #[test]
    fn only_full_turns_in_a_row_are_followed_by_a_spin() {
        let mut waiting = Waiting::new(0, 0, true);
        let mut receives = 0;
        let mut turn = |waiting: &mut Waiting, now_ns, received| {
            receives += received;
            waiting.turn_ended(now_ns, receives);
        };
        for now_ns in 1..u64::from(FULL_TURNS) {
            turn(&mut waiting, now_ns, FULL_TURN_RECEIVES);
            assert!(!waiting.spins(now_ns));
        }
        turn(&mut waiting, 10, FULL_TURN_RECEIVES);
        assert_eq!(waiting.mode(), WaitMode::Spin);
        assert!(waiting.spins(10) && waiting.spins(9 + SPIN_MAX_NS));
        // What finds nothing neither ends the spin nor makes it longer.
        turn(&mut waiting, 11, 0);
        assert!(waiting.spins(9 + SPIN_MAX_NS));
        assert!(!waiting.spins(10 + SPIN_MAX_NS));
        turn(&mut waiting, 10 + SPIN_MAX_NS, 0);
        assert_eq!(waiting.mode(), WaitMode::Sleep);
        turn(&mut waiting, 50_000, FULL_TURN_RECEIVES - 1);
        assert!(!waiting.spins(50_000));
    }

    proptest! {
        #[test]
        fn no_window_makes_a_wait_longer_than_the_limit(
            windows in prop::collection::vec(
                (0_u64..120, 0_u64..5000, 0_u64..90_000, 0_u64..9000, 0_u64..3000), 0..80),
        ) {
            let mut core = Core::new();
            let mut gathered = 0_u32;
            for (busy_percent, turns, receives, records, frames) in windows {
                core.window(Traffic { busy_percent, turns, receives, records, frames });
                prop_assert!(core.waiting.least_wait() <= GATHER_WAIT);
                gathered = if core.mode() == WaitMode::Gather { gathered + 1 } else { 0 };
                prop_assert!(gathered <= GATHER_WINDOWS_MAX + 1, "sleeping is measured anew");
            }
        }
    }
}
