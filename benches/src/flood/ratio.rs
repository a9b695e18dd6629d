//! How windows of two kinds compare that were measured in the same round.
//!
//! One p99 of a machine that does other things too is off by a fifth; so a ratio is taken in each
//! round, of windows within the same two seconds, and what counts is the median of all of them. How
//! sure that is, the interval says in which it would be again in 19 of 20 runs.

use crate::load::report::median;
use std::fmt;

/// Standard deviations of half the interval that holds 19 of 20.
const DEVIATIONS: f64 = 1.96;

/// A median of ratios.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub median: f64,
    /// The interval of the median.
    pub low: f64,
    pub high: f64,
    /// A quarter of the rounds is below, another one above.
    pub quartiles: (f64, f64),
}

impl Ratio {
    /// Of figures by round; none when there are no rounds.
    pub fn of(figures: &[f64], against: &[f64]) -> Option<Self> {
        let mut ratios: Vec<f64> =
            figures.iter().zip(against).map(|(figure, against)| figure / against).collect();
        ratios.sort_by(f64::total_cmp);
        let count = ratios.len() as f64;
        // Each ratio is above the true median as often as below, so how many are follows the binomial
        // distribution, whatever that of the ratios is.
        let half_width = DEVIATIONS * count.sqrt() / 2.0;
        let at = |place: f64| {
            let place = place.clamp(0.0, (count - 1.0).max(0.0));
            ratios.get(place as usize).copied()
        };
        Some(Self {
            median: median(ratios.iter().copied()),
            low: at((count / 2.0 - half_width).floor())?,
            high: at((count / 2.0 + half_width).ceil() - 1.0)?,
            quartiles: (at((count / 4.0).floor())?, at((count * 3.0 / 4.0).ceil() - 1.0)?),
        })
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high, quartiles } = self;
        write!(formatter, "{median:.3} (again within {low:.3} and {high:.3}; ")?;
        write!(formatter, "half of the rounds within {:.3} and {:.3})", quartiles.0, quartiles.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_rounds_and_not_of_medians() {
        // A machine that becomes ten times as slow in between has no say.
        let against = [1.0, 10.0, 100.0];
        let ratio = Ratio::of(&[2.0, 10.0, 300.0], &against).unwrap();
        assert_eq!(ratio.median, 2.0);
        assert_eq!((ratio.low, ratio.high), (1.0, 3.0), "three rounds say little");
    }

    #[test]
    fn the_more_rounds_the_narrower_is_the_interval() {
        let rounds = |count: u32| -> Ratio {
            let figures: Vec<f64> =
                (1..=count).map(|it| f64::from(it) / f64::from(count)).collect();
            Ratio::of(&figures, &vec![1.0; count as usize]).unwrap()
        };
        let (few, many) = (rounds(16), rounds(1_600));
        assert!(few.low < many.low && many.high < few.high, "{few} {many}");
        assert_eq!(few.quartiles, (5.0 / 16.0, 12.0 / 16.0));
        // 19 of 20 samples of 100 have their 40th to 60th on either side of the median.
        let hundred = rounds(100);
        assert_eq!((hundred.low, hundred.high), (0.41, 0.60));
    }

    #[test]
    fn without_rounds_there_is_no_ratio() {
        assert_eq!(Ratio::of(&[], &[]), None);
    }
}
