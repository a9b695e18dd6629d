//! Whether the clock of the wall can be believed: it has not stepped since somebody looked.

use super::{Check, Needs, Verdict};
use crate::machine::Machine;

/// How far the hardware's clock may be away: what a cheap one loses in a month.
const RTC_AWAY_MAX_S: u64 = 120;
/// Hardware clocks are set to local time by some systems, which is whole quarters of an hour away.
const ZONE_STEP_S: u64 = 15 * 60;
const ZONE_MAX_S: u64 = 14 * 3600;
/// Others write files a moment before or after.
const WRITTEN_AHEAD_MAX_S: u64 = 2;

pub(super) fn check(machine: &Machine, needs: &Needs, checks: &mut Vec<Check>) {
    let Some(now_s) = needs.unix_s else { return };
    checks.extend(hardware(machine, now_s));
    checks.extend(steps_back(needs, now_s));
}

fn hardware(machine: &Machine, now_s: u64) -> Option<Check> {
    let rtc_s = machine.number("sys/class/rtc/rtc0/since_epoch")?;
    let away_s = rtc_s.abs_diff(now_s);
    let of_zone_s = away_s % ZONE_STEP_S;
    let of_zone_s = of_zone_s.min(ZONE_STEP_S - of_zone_s);
    let is_local_time = away_s <= ZONE_MAX_S + RTC_AWAY_MAX_S && of_zone_s <= RTC_AWAY_MAX_S;
    let seen = match away_s > RTC_AWAY_MAX_S && is_local_time {
        true => "the hardware's clock is set to local time".to_owned(),
        false => format!("{away_s} s from the hardware's clock"),
    };
    Some(
        Check::new("clock", away_s <= RTC_AWAY_MAX_S || is_local_time, Verdict::Warn)
            .seen(seen)
            .wanted(format!("at most {RTC_AWAY_MAX_S} s"))
            .why(
                "One of them has been set by a step. Credentials with an end go by the clock, and \
                 so do logs; after a start it may step again.",
            )
            .fix("let chrony set it, then hwclock --systohc"),
    )
}

fn steps_back(needs: &Needs, now_s: u64) -> Option<Check> {
    let written_s = needs.last_written_s?;
    let ahead_s = written_s.saturating_sub(now_s);
    let is_met = ahead_s <= WRITTEN_AHEAD_MAX_S;
    let seen = match is_met {
        true => "nothing of the state is of the future".to_owned(),
        false => format!("the state was written {ahead_s} s from now"),
    };
    Some(
        Check::new("clock_step", is_met, Verdict::Warn)
            .seen(seen)
            .wanted("never back")
            .why(
                "The clock has gone back since the program wrote its state: registrations and \
                 time-limited users last longer than they should.",
            )
            .fix("set the clock, and let chrony slew it instead of stepping (makestep 1 3)"),
    )
}
