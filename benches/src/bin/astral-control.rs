//! `astral-control`: the relay that the appliance is compared with, see `waystation_benches::control`.
//! Listens on a free port of loopback and prints `listening ADDRESS IDENTITY`. Opens and seals with
//! the suite it is told, so that a comparison is not one of ciphers.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use std::io::{self, Write};
use tokio::net::TcpListener;
use waystation_benches::aead::AeadOption;
use waystation_benches::control::serve;
use waystation_peer::secret_key;

#[derive(Debug, Parser)]
#[command(about = "A relay that is written without a thought for its price")]
struct Arguments {
    /// What seals: a suite as the appliance's status names it, or auto for the cheapest
    #[arg(long, value_name = "SUITE", default_value_t = AeadOption::Auto)]
    aead: AeadOption,
}

fn main() -> Result<()> {
    let suite = Arguments::parse().aead.suite();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let key = secret_key()?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listening")?;
        writeln!(io::stdout(), "listening {} {}", listener.local_addr()?, key.identity())?;
        serve(listener, key, suite).await
    })
}
