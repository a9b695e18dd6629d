//! What the tests with a kernel share: a network namespace of their own per test, and the program
//! with a small world of sessions.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "every test program includes this module and uses its own part of it; a test that \
              fails says where and shows why"
)]

pub mod bpf_mount;
pub mod namespace;
pub mod streets;
pub mod world;

/// Whether the tests may load programs and make namespaces. Otherwise the test prints that it is
/// skipped, or fails if `WAYSTATION_TEST_REQUIRE=all` says that nothing may be.
pub fn given_root() -> bool {
    let present = nix::unistd::geteuid().is_root();
    if !present {
        let required =
            std::env::var_os("WAYSTATION_TEST_REQUIRE").is_some_and(|value| value == "all");
        assert!(!required, "needs root, and WAYSTATION_TEST_REQUIRE=all");
        println!("skipped: needs root");
    }
    present
}
