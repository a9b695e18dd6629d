//! Durations and sizes as text with a unit, in both directions, and short forms for people.
//!
//! Called by the configuration and the terminal output; pure functions without state.

use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes that is written with a binary unit, such as `64KiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many times 1024 bytes.
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib * 1024)
    }

    /// So many times 1024 KiB.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib * 1024 * 1024)
    }

    /// So many times 1024 MiB.
    pub const fn from_gib(gib: u64) -> Self {
        Self(gib * 1024 * 1024 * 1024)
    }

    /// The number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory; what does not fit counts as the longest length.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    /// The largest unit without a remainder, so that the text reads back as the same number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (factor, unit) = largest_exact(&SIZE_UNITS, u128::from(self.0));
        write!(f, "{}{unit}", u128::from(self.0) / factor)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    /// # Errors
    /// Anything but a whole number with one of the units `B`, `KiB`, `MiB`, `GiB`, `TiB`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bytes = quantity(text, &SIZE_UNITS, "B, KiB, MiB, GiB or TiB")?;
        Ok(Self(u64::try_from(bytes).map_err(|_too_large| UnitError::TooLarge)?))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads a duration such as `30s` or `500ms`.
///
/// # Errors
/// Anything but a whole number with one of the units `ns`, `us`, `ms`, `s`, `m`, `h`, `d`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let nanoseconds = quantity(text, &DURATION_UNITS, "ns, us, ms, s, m, h or d")?;
    let nanoseconds = u64::try_from(nanoseconds).map_err(|_too_large| UnitError::TooLarge)?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// The largest unit without a remainder, so that the text reads back as the same duration.
pub fn format_duration(duration: Duration) -> String {
    let (factor, unit) = largest_exact(&DURATION_UNITS, duration.as_nanos());
    format!("{}{unit}", duration.as_nanos() / factor)
}

/// For `#[serde(serialize_with)]` on durations of the configuration.
///
/// # Errors
/// Those of the serializer.
pub fn serialize_duration<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_duration(*duration))
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Nothing, or no digit in front.
    #[error("is not a whole number with a unit; use one of {units}")]
    NoNumber {
        /// The units to choose from.
        units: &'static str,
    },
    /// A number alone.
    #[error("has no unit; use one of {units}")]
    NoUnit {
        /// The units to choose from.
        units: &'static str,
    },
    /// A unit of something else, or a fraction.
    #[error("has an unknown unit; use a whole number and one of {units}")]
    UnknownUnit {
        /// The units to choose from.
        units: &'static str,
    },
    /// More than the type can hold.
    #[error("is too large")]
    TooLarge,
}

/// Smallest first. The multiples of 24 hours are days as such; leap seconds do not exist here.
const DURATION_UNITS: [(u128, &str); 7] = [
    (1, "ns"),
    (1_000, "us"),
    (1_000_000, "ms"),
    (1_000_000_000, "s"),
    (60_000_000_000, "m"),
    (3_600_000_000_000, "h"),
    (86_400_000_000_000, "d"),
];

const SIZE_UNITS: [(u128, &str); 5] =
    [(1, "B"), (1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB"), (1 << 40, "TiB")];

fn quantity(
    text: &str,
    table: &[(u128, &'static str)],
    units: &'static str,
) -> Result<u128, UnitError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    if number.is_empty() {
        return Err(UnitError::NoNumber { units });
    }
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Err(UnitError::NoUnit { units });
    }
    let Some((factor, _)) = table.iter().find(|(_, name)| *name == unit) else {
        return Err(UnitError::UnknownUnit { units });
    };
    let number: u64 = number.parse().map_err(|_digits_only| UnitError::TooLarge)?;
    u128::from(number).checked_mul(*factor).ok_or(UnitError::TooLarge)
}

fn largest_exact(table: &[(u128, &'static str)], number: u128) -> (u128, &'static str) {
    table
        .iter()
        .rev()
        .find(|(factor, _)| number != 0 && number.is_multiple_of(*factor))
        .or_else(|| table.iter().find(|(factor, _)| *factor == zero_factor(table)))
        .copied()
        .unwrap_or((1, ""))
}

/// Zero is printed in the unit people expect: seconds for durations, bytes for sizes.
fn zero_factor(table: &[(u128, &'static str)]) -> u128 {
    table.iter().find(|(_, name)| *name == "s").map_or(1, |(factor, _)| *factor)
}

/// A size for people, at most seven characters up to the largest number: `999B`, `12.3KiB`.
pub fn human_bytes(bytes: u64) -> String {
    let names = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut place = 0;
    while value >= 1023.5 && place + 1 < names.len() {
        value /= 1024.0;
        place += 1;
    }
    let name = names.get(place).copied().unwrap_or_default();
    if value < 99.95 { format!("{value:.1}{name}") } else { format!("{value:.0}{name}") }
}

/// A number of things for people, at most five characters up to 999 trillion: `999`, `12.3k`.
pub fn human_count(count: u64) -> String {
    let names = ["k", "M", "G", "T", "P", "E"];
    if count < 1000 {
        return count.to_string();
    }
    let mut value = count as f64 / 1000.0;
    let mut place = 0;
    while value >= 999.5 && place + 1 < names.len() {
        value /= 1000.0;
        place += 1;
    }
    let name = names.get(place).copied().unwrap_or_default();
    if value < 99.95 { format!("{value:.1}{name}") } else { format!("{value:.0}{name}") }
}

/// A duration for people, with three digits and at most six characters up to 999 days: `12.3us`.
pub fn human_ns(duration_ns: u64) -> String {
    const STEPS: [(f64, &str); 6] =
        [(1e3, "us"), (1e6, "ms"), (1e9, "s"), (60e9, "min"), (3600e9, "h"), (86_400e9, "d")];
    if duration_ns < 1000 {
        return format!("{duration_ns}ns");
    }
    let value = duration_ns as f64;
    // A step is taken when the value, rounded to three digits, reaches it.
    let (factor, name) =
        STEPS.iter().rev().find(|(factor, _)| value >= factor * 0.9995).unwrap_or(&STEPS[0]);
    let scaled = value / factor;
    match scaled {
        ..9.995 => format!("{scaled:.2}{name}"),
        ..99.95 => format!("{scaled:.1}{name}"),
        _ => format!("{scaled:.0}{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_with_every_unit() {
        for (text, nanoseconds) in [
            ("7ns", 7),
            ("7us", 7_000),
            ("7ms", 7_000_000),
            ("30s", 30_000_000_000),
            ("30 s", 30_000_000_000),
            ("2m", 120_000_000_000),
            ("1h", 3_600_000_000_000),
            ("1d", 86_400_000_000_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn sizes_read_with_every_unit() {
        for (text, bytes) in
            [("5B", 5), ("64KiB", 65_536), ("1MiB", 1 << 20), ("4GiB", 4 << 30), ("1TiB", 1 << 40)]
        {
            assert_eq!(text.parse(), Ok(ByteSize::from_bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn quantities_without_number_or_with_wrong_unit_are_refused() {
        assert!(matches!(parse_duration(""), Err(UnitError::NoNumber { .. })));
        assert!(matches!(parse_duration("s"), Err(UnitError::NoNumber { .. })));
        assert!(matches!(parse_duration("-1s"), Err(UnitError::NoNumber { .. })));
        assert!(matches!(parse_duration("30"), Err(UnitError::NoUnit { .. })));
        assert!(matches!(parse_duration("1.5s"), Err(UnitError::UnknownUnit { .. })));
        assert!(matches!(parse_duration("1 fortnight"), Err(UnitError::UnknownUnit { .. })));
        assert!(matches!("64KB".parse::<ByteSize>(), Err(UnitError::UnknownUnit { .. })));
        assert!(matches!("64kib".parse::<ByteSize>(), Err(UnitError::UnknownUnit { .. })));
        assert_eq!("99999999999999999999B".parse::<ByteSize>(), Err(UnitError::TooLarge));
        assert_eq!("18446744073709551615KiB".parse::<ByteSize>(), Err(UnitError::TooLarge));
        assert_eq!(parse_duration("18446744073709551615d"), Err(UnitError::TooLarge));
    }

    #[test]
    fn quantities_print_in_the_largest_exact_unit() {
        assert_eq!(format_duration(Duration::from_secs(90)), "90s");
        assert_eq!(format_duration(Duration::from_secs(120)), "2m");
        assert_eq!(format_duration(Duration::from_secs(3600)), "1h");
        assert_eq!(format_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(format_duration(Duration::ZERO), "0s");
        assert_eq!(ByteSize::from_kib(64).to_string(), "64KiB");
        assert_eq!(ByteSize::from_bytes(0).to_string(), "0B");
        assert_eq!(ByteSize::from_bytes(1025).to_string(), "1025B");
    }

    #[test]
    fn forms_for_people_keep_their_width() {
        assert_eq!(human_bytes(1023), "1023B");
        assert_eq!(human_bytes(12_600), "12.3KiB");
        assert_eq!(human_count(12_345), "12.3k");
        assert_eq!(human_ns(999), "999ns");
        assert_eq!(human_ns(1_234), "1.23us");
        assert_eq!(human_ns(999_999), "1.00ms");
        assert_eq!(human_ns(60_000_000_000), "1.00min");
    }

    proptest! {
        #[test]
        fn every_duration_reads_back(nanoseconds: u64) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn every_size_reads_back(bytes: u64) {
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn forms_for_people_are_short(number: u64) {
            prop_assert!(human_bytes(number).len() <= 7);
            prop_assert!(human_count(number).len() <= 5);
            prop_assert!(human_ns(number >> 8).len() <= 7);
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text: String) {
            let _ = parse_duration(&text);
            let _ = text.parse::<ByteSize>();
        }
    }
}
