//! Times as the protocol's JSON writes them (RFC 3339, spec §8.1).
//!
//! Owns the conversion from seconds since the Unix epoch, which the caller reads off its clock.

use std::fmt;

/// A UTC time in the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rfc3339 {
    pub(crate) year: u64,
    pub(crate) month: u64,
    pub(crate) day: u64,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
    pub(crate) second: u64,
}

impl Rfc3339 {
    /// 9999-12-31T23:59:59Z.
    pub(crate) const LAST_UNIX_S: u64 = 253_402_300_799;

    /// Converts seconds since the Unix epoch, by counting 400-year eras of 146 097 days from
    /// 0000-03-01, so that leap days end their year.
    pub(crate) fn from_unix_s(unix_s: u64) -> Self {
        const DAYS_BEFORE_EPOCH: u64 = 719_468;
        const ERA_DAYS: u64 = 146_097;
        let unix_s = unix_s.min(Self::LAST_UNIX_S);
        let days = unix_s / 86_400 + DAYS_BEFORE_EPOCH;
        let day_of_era = days % ERA_DAYS;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let is_after_december = month_from_march >= 10;
        Self {
            year: days / ERA_DAYS * 400 + year_of_era + u64::from(is_after_december),
            month: if is_after_december { month_from_march - 9 } else { month_from_march + 3 },
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: unix_s / 3600 % 24,
            minute: unix_s / 60 % 60,
            second: unix_s % 60,
        }
    }
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}
