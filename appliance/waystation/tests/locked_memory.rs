//! A user with little locked memory, which rings count against. In a program of its own, for a user
//! of its own: rings of all processes of a user count together.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::path::Path;
use support::given;
use support::process::{Ordinary, command, copy_program, exists, fast_binary, is_root, run_within};
use tempfile::TempDir;

/// A user that no other test is.
const USER_ID: u32 = 65_531;
/// Enough for two rings with short completion queues, not for one with the longest.
const LOCKED_BYTES: usize = 300 << 10;

#[test]
fn little_locked_memory_makes_rings_shorter_and_does_not_keep_the_program_from_starting() {
    let tools = Ordinary::is_possible() && exists("prlimit");
    if !given(is_root() && tools, "root, setpriv and prlimit, to be a user with a limit") {
        return;
    }
    let directory = TempDir::new().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(USER_ID), Some(USER_ID)).unwrap();
    let program = directory.path().join("program");
    copy_program(&fast_binary(), &program);
    let mut demo = command(Path::new("setpriv"));
    demo.args([format!("--reuid={USER_ID}"), format!("--regid={USER_ID}")]);
    demo.args(["--clear-groups", "--", "prlimit"]);
    demo.arg(format!("--memlock={LOCKED_BYTES}:{LOCKED_BYTES}")).arg("--").arg(&program);
    demo.args(["demo", "--scenario", "route", "--seconds", "1", "--nodes", "2"]);
    demo.args(["--cores", "2", "--port", "io_uring"]);
    let finished = run_within(&mut demo, 4 * support::STEP);
    assert_eq!(finished.code(), 0, "{}{}", finished.text(), finished.stderr);
}
