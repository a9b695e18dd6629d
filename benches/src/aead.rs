//! Which AEAD suite a program of this crate uses, from its command line.
//!
//! Called on main threads before anything is measured.

use serde::Serialize;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Instant;
use waystation_astral::aead::choice::{cheapest, measure};
use waystation_astral::aead::{AeadNameError, AeadSuite};

/// The word for the cheapest one.
const AUTO: &str = "auto";

/// A suite by name, or the cheapest one, as an appliance of the same build chooses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AeadOption {
    #[default]
    Auto,
    Exactly(AeadSuite),
}

impl AeadOption {
    /// The suite; measures on the first call if it has to.
    pub fn suite(self) -> AeadSuite {
        static MEASURED: OnceLock<AeadSuite> = OnceLock::new();
        match self {
            Self::Auto => *MEASURED.get_or_init(|| cheapest(&measure(monotonic_ns()))),
            Self::Exactly(suite) => suite,
        }
    }
}

/// A clock that starts now.
#[expect(clippy::disallowed_methods, reason = "measuring time is what these programs do")]
pub fn monotonic_ns() -> impl FnMut() -> u64 {
    let start = Instant::now();
    move || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Display for AeadOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str(AUTO),
            Self::Exactly(suite) => suite.fmt(f),
        }
    }
}

impl FromStr for AeadOption {
    type Err = AeadNameError;

    fn from_str(text: &str) -> Result<Self, AeadNameError> {
        if text == AUTO { Ok(Self::Auto) } else { text.parse().map(Self::Exactly) }
    }
}

impl Serialize for AeadOption {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_auto_is_one_of_what_is_built_in() {
        for text in ["auto", "ring"] {
            assert_eq!(text.parse::<AeadOption>().unwrap().to_string(), text);
        }
        assert!("fastest".parse::<AeadOption>().is_err());
        let chosen = AeadOption::Auto.suite();
        assert_eq!(chosen.to_string().parse(), Ok(chosen));
        assert_eq!(AeadOption::Auto.suite(), chosen);
    }
}
