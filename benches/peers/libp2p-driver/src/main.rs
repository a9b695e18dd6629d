//! The generator of flows through a libp2p circuit relay: every end is a peer of its own, every
//! flow one stream between two of them over `/p2p-circuit`.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use driving::{End, Receiving, Sending, Task, command_line, drive, idle, run};
use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, noise, relay, tcp, yamux,
};
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::timeout;
use waystation_benches::swarm::shape::Shape;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/waystation-comparison/1");
/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// Time for one step of a flow to come about.
const SETUP: Duration = Duration::from_secs(10);
/// Longer than any comparison.
const DAY: Duration = Duration::from_secs(86_400);

#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: relay::client::Behaviour,
    stream: libp2p_stream::Behaviour,
}

struct Writer(WriteHalf<Stream>);
struct Reader {
    stream: ReadHalf<Stream>,
    buffer: Vec<u8>,
}

impl Sending for Writer {
    async fn send(&mut self, messages: &[u8]) -> Result<()> {
        self.0.write_all(messages).await?;
        Ok(self.0.flush().await?)
    }
}

impl Receiving for Reader {
    async fn receive(&mut self, into: &mut Vec<u8>) -> Result<()> {
        let bytes = self.stream.read(&mut self.buffer).await?;
        if bytes == 0 {
            bail!("a stream ended");
        }
        into.clear();
        into.extend_from_slice(&self.buffer[..bytes]);
        Ok(())
    }
}

fn main() -> Result<()> {
    let (relay, process, task) = command_line()?;
    let relay: Multiaddr = relay.parse().context("an odd address")?;
    run(async move {
        match task {
            Task::Flows(shape) => drive(flows(&relay, &shape).await?, shape, process).await,
            Task::Idle(links) => {
                for _ in 0..links {
                    // A link of the appliance can be reached; so can a peer with a reservation.
                    let mut peer = peer()?;
                    reserve(&mut peer, &relay).await?;
                    keep(peer);
                }
                idle().await
            }
        }
    })
}

type Ends = (End<Writer, Reader>, End<Writer, Reader>);

async fn flows(relay: &Multiaddr, shape: &Shape) -> Result<Vec<Ends>> {
    if shape.destinations != shape.flows {
        bail!("every flow of this generator has a destination of its own");
    }
    let mut flows = Vec::new();
    for number in 0..shape.flows {
        let flow = timeout(SETUP, flow(relay)).await.context("nothing happens");
        flows.push(flow.and_then(|flow| flow).with_context(|| format!("flow {number}"))?);
    }
    Ok(flows)
}

async fn flow(relay: &Multiaddr) -> Result<Ends> {
    let mut far = peer()?;
    let far_id = *far.local_peer_id();
    let mut incoming = far.behaviour().stream.new_control().accept(PROTOCOL)?;
    reserve(&mut far, relay).await?;
    keep(far);
    let mut near = peer()?;
    let mut control = near.behaviour().stream.new_control();
    near.dial(circuit(relay).with(Protocol::P2p(far_id)))?;
    connected(&mut near, far_id).await?;
    keep(near);
    let near = control.open_stream(far_id, PROTOCOL).await.context("opening a stream")?;
    let (_, far) = incoming.next().await.context("no stream came")?;
    Ok((end(near), end(far)))
}

fn end(stream: Stream) -> End<Writer, Reader> {
    let (read, write) = stream.split();
    let receiving = Reader { stream: read, buffer: vec![0; READ_BYTES] };
    End { sending: Writer(write), receiving }
}

fn peer() -> Result<Swarm<Behaviour>> {
    let tcp = tcp::Config::default().nodelay(true);
    Ok(SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp, noise::Config::new, yamux::Config::default)?
        .with_relay_client(noise::Config::new, yamux::Config::default)?
        .with_behaviour(|_key, relay| Behaviour { relay, stream: libp2p_stream::Behaviour::new() })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(DAY))
        .build())
}

fn circuit(relay: &Multiaddr) -> Multiaddr {
    relay.clone().with(Protocol::P2pCircuit)
}

/// Connects to the relay and waits until it has made a reservation.
async fn reserve(peer: &mut Swarm<Behaviour>, relay: &Multiaddr) -> Result<()> {
    peer.listen_on(circuit(relay))?;
    loop {
        match peer.select_next_some().await {
            SwarmEvent::Behaviour(BehaviourEvent::Relay(
                relay::client::Event::ReservationReqAccepted { .. },
            )) => return Ok(()),
            SwarmEvent::OutgoingConnectionError { error, .. } => {
                return Err(error).context("dialing the relay");
            }
            _ => {}
        }
    }
}

async fn connected(peer: &mut Swarm<Behaviour>, to: PeerId) -> Result<()> {
    loop {
        match peer.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == to => return Ok(()),
            SwarmEvent::OutgoingConnectionError { error, .. } => {
                return Err(error).context("dialing");
            }
            _ => {}
        }
    }
}

/// Lets a peer live as long as the program.
fn keep(mut peer: Swarm<Behaviour>) {
    spawn_local(async move {
        loop {
            peer.select_next_some().await;
        }
    });
}
