//! How models are run: sequences of random steps, each from a seed that says itself when it fails.

use std::env;

/// The variable with the one seed to run.
pub const SEED_VARIABLE: &str = "WAYSTATION_MODEL_SEED";

/// The seed of the sequence at hand. One that is let go while a test fails says how to have the same
/// sequence again.
#[derive(Debug)]
pub struct Seed(pub u64);

impl Drop for Seed {
    #[expect(clippy::print_stdout, reason = "what a failing test prints is shown")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {} failed: {SEED_VARIABLE}={} repeats it", self.0, self.0);
        }
    }
}

/// The number that a variable of the environment holds, if it is set.
///
/// # Panics
///
/// When it holds something else: a test that goes on would prove something else.
#[must_use]
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}
