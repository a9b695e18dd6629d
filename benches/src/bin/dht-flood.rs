//! `dht-flood`: how long data has to wait in the relay while the socket of its DHT node is flooded.
//! See `--help` for the method.

#![forbid(unsafe_code)]

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;
use waystation_benches::flood::options::{Options, Role};
use waystation_benches::flood::{run, sender};

/// Ends with 1 on any error, a lost or changed message included, and with `--check` when the goal was
/// missed.
fn main() -> Result<ExitCode> {
    let options = Options::parse();
    match &options.role {
        Some(Role::Send(sending)) => sender::send(sending).map(|()| ExitCode::SUCCESS),
        None => run::run(&options),
    }
}
