//! libp2p's circuit relay with its limits lifted, on one thread: TCP, Noise, yamux. Listens on a
//! free port of loopback and prints `listening ADDRESS/p2p/ID`.

#![forbid(unsafe_code)]

use anyhow::Result;
use futures::StreamExt;
use libp2p::swarm::SwarmEvent;
use libp2p::{SwarmBuilder, noise, relay, tcp, yamux};
use std::io::Write;
use std::time::Duration;

/// Longer than any comparison.
const DAY: Duration = Duration::from_secs(86_400);
/// More than any comparison has.
const MANY: usize = 100_000;

/// Of libp2p, which has no way to ask it; as in Cargo.toml.
const LIBP2P_VERSION: &str = "0.57.1";

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        writeln!(std::io::stdout(), "libp2p {LIBP2P_VERSION}")?;
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve())
}

async fn serve() -> Result<()> {
    let tcp = tcp::Config::default().nodelay(true);
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp, noise::Config::new, yamux::Config::default)?
        .with_behaviour(|key| relay::Behaviour::new(key.public().to_peer_id(), unlimited()))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(DAY))
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            swarm.add_external_address(address.clone());
            let mut output = std::io::stdout().lock();
            writeln!(output, "listening {address}/p2p/{}", swarm.local_peer_id())?;
            output.flush()?;
        }
    }
}

fn unlimited() -> relay::Config {
    relay::Config {
        max_reservations: MANY,
        max_reservations_per_peer: MANY,
        reservation_duration: DAY,
        reservation_rate_limiters: Vec::new(),
        max_circuits: MANY,
        max_circuits_per_peer: MANY,
        max_circuit_duration: DAY,
        // No limit.
        max_circuit_bytes: 0,
        circuit_src_rate_limiters: Vec::new(),
    }
}
