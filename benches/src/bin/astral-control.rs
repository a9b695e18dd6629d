//! `astral-control`: the relay that the appliance is compared with, see `waystation_benches::control`.
//! Listens on a free port of loopback and prints `listening ADDRESS IDENTITY`.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use std::io::{self, Write};
use tokio::net::TcpListener;
use waystation_benches::control::serve;
use waystation_peer::secret_key;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let key = secret_key()?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listening")?;
        writeln!(io::stdout(), "listening {} {}", listener.local_addr()?, key.identity())?;
        serve(listener, key).await
    })
}
