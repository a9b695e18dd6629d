//! What the tests of the program share: a spawned appliance, nodes that talk to it, streams whose
//! every byte is verified. Only loopback, only ports the kernel chose, every wait has an end.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "every test program includes this module and uses its own part of it; a test that \
              fails says where and shows why, and it may look at the clock and pause"
)]

pub mod appliance;
pub mod control_group;
pub mod debian;
pub mod hand_link;
pub mod held;
pub mod measure;
pub mod nodes;
pub mod process;
pub mod starvation;
pub mod streams;
pub mod streets;
pub mod turn;
pub mod upgrading;

use std::time::{Duration, Instant};

/// Bound of every single step of a test; generous, because the machine may be small and busy.
pub const STEP: Duration = Duration::from_secs(30);
/// Pause between two looks at something that another process brings about.
pub const POLL_EVERY: Duration = Duration::from_millis(5);

/// What a test needs that not every machine has. `true`: it is here. Otherwise the test prints that
/// it is skipped, or fails if `WAYSTATION_TEST_REQUIRE=all` says that nothing may be.
pub fn given(present: bool, what: &str) -> bool {
    if !present {
        assert!(!required(), "needs {what}, and WAYSTATION_TEST_REQUIRE=all");
        println!("skipped: needs {what}");
    }
    present
}

/// Whether nothing may be skipped.
pub fn required() -> bool {
    std::env::var_os("WAYSTATION_TEST_REQUIRE").is_some_and(|value| value == "all")
}

/// Looks until something is there.
///
/// # Panics
/// When it is not there within [`STEP`].
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(what, STEP, look)
}

/// As [`eventually`], with another bound.
pub fn eventually_within<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "not within {} s: {what}", limit.as_secs());
        std::thread::sleep(POLL_EVERY);
    }
}
