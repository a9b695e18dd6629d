//! `upgrade`: runs instead of the program that runs, in front or behind.

use crate::arguments::UpgradeArguments;
use crate::exit::Unmet;
use crate::questions::print;
use crate::run::run_after;
use anyhow::Context;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// What a program says to the one that has started it, once it serves.
pub(crate) const SERVES: &[u8] = b"serves\n";

/// Runs the appliance instead of the one that runs, which goes on with its links for a while.
pub(crate) fn upgrade(arguments: &UpgradeArguments) -> anyhow::Result<()> {
    if arguments.background {
        return start_behind();
    }
    run_after(&arguments.run, Some(arguments.drain_deadline), arguments.say_when_ready)
}

/// Starts the same again in the background, and waits until it serves or has ended.
fn start_behind() -> anyhow::Result<()> {
    let program = std::env::current_exe().context("this program cannot be found again")?;
    let arguments = std::env::args_os().skip(1);
    let arguments: Vec<OsString> =
        arguments.filter(|argument| argument != "--background").collect();
    let mut child = Command::new(program)
        .args(arguments)
        .arg("--say-when-ready")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What is meant for the terminal of this one is not meant for that one.
        .process_group(0)
        .spawn()
        .context("the next program cannot be started")?;
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_until(b'\n', &mut said).context("it cannot be heard")?;
    }
    if said == SERVES {
        return print(format!("process {} serves\n", child.id()).as_bytes());
    }
    let status = child.wait().context("it cannot be waited for")?;
    Err(Unmet(format!("nothing has changed: the next program has ended, {status}")).into())
}
