//! The generator of flows through iroh-relay over plain HTTP: every end is a client of its own. A
//! datagram is a message; written by itself or, like its clients do in bulk, in batches of one size.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use driving::{End, Receiving, Sending, Task, command_line, drive, idle, run};
use futures::{SinkExt, StreamExt};
use iroh_base::{EndpointId, RelayUrl, SecretKey};
use iroh_dns::dns::DnsResolver;
use iroh_relay::client::{Client, ClientBuilder, ClientSink, ClientStream};
use iroh_relay::protos::relay::{ClientToRelayMsg, Datagrams, RelayToClientMsg};
use iroh_relay::tls::{CaTlsConfig, default_provider};
use std::num::NonZeroU16;
use waystation_benches::load::message::ACKNOWLEDGEMENT_BYTES;
use waystation_benches::swarm::shape::Shape;

/// Bytes of datagrams in one batch: what the relay takes in one frame, less its header.
const BATCH_BYTES_MAX: usize = 60 * 1024;

struct Sink {
    sink: ClientSink,
    to: EndpointId,
    message_bytes: usize,
}

struct Stream(ClientStream);

impl Sending for Sink {
    async fn send(&mut self, messages: &[u8]) -> Result<()> {
        // A count that is told is a datagram of its own.
        let segment_bytes = match messages.len() {
            ACKNOWLEDGEMENT_BYTES => ACKNOWLEDGEMENT_BYTES,
            _ => self.message_bytes,
        };
        let segment = NonZeroU16::new(u16::try_from(segment_bytes)?).context("no message")?;
        let batch_bytes = (BATCH_BYTES_MAX / segment_bytes).max(1) * segment_bytes;
        for batch in messages.chunks(batch_bytes) {
            let datagrams = Datagrams {
                ecn: None,
                segment_size: (batch.len() > segment_bytes).then_some(segment),
                contents: Bytes::copy_from_slice(batch),
            };
            let message = ClientToRelayMsg::Datagrams { dst_endpoint_id: self.to, datagrams };
            self.sink.feed(message).await.map_err(|error| anyhow!("sending: {error}"))?;
        }
        self.sink.flush().await.map_err(|error| anyhow!("sending: {error}"))
    }
}

impl Receiving for Stream {
    async fn receive(&mut self, into: &mut Vec<u8>) -> Result<()> {
        loop {
            let message = self.0.next().await.context("the relay hung up")?;
            match message.map_err(|error| anyhow!("receiving: {error}"))? {
                RelayToClientMsg::Datagrams { datagrams, .. } => {
                    into.clear();
                    into.extend_from_slice(&datagrams.contents);
                    return Ok(());
                }
                RelayToClientMsg::EndpointGone(_) => bail!("the other end is gone"),
                // Its pings come every quarter of a minute and may stay unanswered for longer than
                // a comparison takes.
                _ => {}
            }
        }
    }
}

fn main() -> Result<()> {
    let (relay, process, task) = command_line()?;
    let relay: RelayUrl = format!("http://{relay}").parse().context("an odd address")?;
    run(async move {
        match task {
            Task::Flows(shape) => drive(flows(&relay, &shape).await?, shape, process).await,
            Task::Idle(links) => {
                let mut clients = Vec::new();
                for _ in 0..links {
                    clients.push(client(&relay).await?);
                }
                idle().await
            }
        }
    })
}

type Ends = (End<Sink, Stream>, End<Sink, Stream>);

async fn flows(relay: &RelayUrl, shape: &Shape) -> Result<Vec<Ends>> {
    if shape.destinations != shape.flows {
        bail!("every flow of this generator has a destination of its own");
    }
    let mut flows = Vec::new();
    for _ in 0..shape.flows {
        let (near, near_id) = client(relay).await?;
        let (far, far_id) = client(relay).await?;
        flows.push((end(near, far_id, shape), end(far, near_id, shape)));
    }
    Ok(flows)
}

fn end(client: Client, to: EndpointId, shape: &Shape) -> End<Sink, Stream> {
    let (stream, sink) = client.split();
    let sending = Sink { sink, to, message_bytes: shape.message_bytes };
    End { sending, receiving: Stream(stream) }
}

async fn client(relay: &RelayUrl) -> Result<(Client, EndpointId)> {
    let key = SecretKey::generate();
    let id = key.public();
    let tls = CaTlsConfig::default()
        .client_config(default_provider())
        .map_err(|error| anyhow!("no TLS, which is not used: {error}"))?;
    let client = ClientBuilder::new(relay.clone(), key, DnsResolver::new())
        .tls_client_config(tls)
        .connect()
        .await
        .map_err(|error| anyhow!("connecting: {error}"))?;
    Ok((client, id))
}
