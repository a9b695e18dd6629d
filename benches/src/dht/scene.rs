//! A node, clients that it knows, and what they have stored there.

use super::client::{Client, Request};
use super::operation::{CROWDED_TOPIC, Material, Operation};
use super::served::Served;
use crate::load::clock::{Clock, unix_seconds};
use anyhow::{Result, bail, ensure};
use waystation_a2al::message::Body;
use waystation_a2al::node_id::NodeId;
use waystation_a2al::payload::{MailboxPayload, TopicPayload};
use waystation_a2al::record::{RecordType, SignedRecord, topic_key};
use waystation_a2al::sha256;

/// Nodes of an answer.
const NODES: usize = 15;
/// Requests under way.
const WINDOW: usize = 32;
/// Records planted at one client's place, as mail for it: as many as a key takes.
const MAIL: usize = 50;
/// Records planted under one topic: as many as a key takes.
const OFFERS: usize = 100;
/// How long the node may take to know everybody.
const MEETING_S: u64 = 120;

/// How much is asked in a round.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Clients, each of which may send 200 packets a second; a hundred are needed to plant records.
    pub clients: u8,
    /// Requests of each in a round.
    pub requests_per_client: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Scene {
    served: Served,
    size: Size,
    clients: Vec<Client>,
    records: Vec<SignedRecord>,
    sequence: u64,
}

/// What a round came to.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Processor time of the node's thread for each request, in microseconds.
    pub processor_us: f64,
    /// Requests answered in a second.
    pub requests_per_s: f64,
}

impl Size {
    /// What figures are taken with.
    pub const FULL: Self = Self { clients: 250, requests_per_client: 6 };

    fn requests(self) -> usize {
        usize::from(self.clients) * self.requests_per_client
    }
}

impl Scene {
    /// Starts a node and has it know everybody; plants 150 records if that is wanted.
    ///
    /// # Errors
    ///
    /// When the node does not answer as it should.
    pub fn new(is_planted: bool, size: Size, clock: Clock) -> Result<Self> {
        let served = Served::start(if is_planted { 2 } else { 1 })?;
        let clients = (0..size.clients).map(|number| Client::new(number, served.address()));
        let clients: Vec<Client> = clients.collect::<Result<_>>()?;
        let sequence = unix_seconds();
        let records = clients.iter().map(|client| client.record(sequence, sequence)).collect();
        let mut scene = Self { served, size, clients, records, sequence };
        scene.meet(clock)?;
        scene.round(Operation::StoreHad, clock)?;
        if is_planted {
            scene.plant()?;
        }
        Ok(scene)
    }

    /// A round of requests of one kind.
    ///
    /// # Errors
    ///
    /// When a request is not answered.
    pub fn round(&mut self, operation: Operation, clock: Clock) -> Result<Cost> {
        self.clients.iter().try_for_each(Client::answer_all)?;
        let count = self.size.requests();
        self.sequence += 2 * count as u64;
        let material = Material {
            clients: &self.clients,
            records: &self.records,
            sequence: self.sequence,
            unix_s: unix_seconds(),
        };
        let client_of = |number: usize| number % self.clients.len();
        let requests: Vec<Request> = (0..count)
            .map(|number| {
                let client = client_of(number);
                self.clients[client].request(&operation.body(client, number, &material))
            })
            .collect();
        let (reading, began_ns) = (self.served.reading()?, clock.now_ns());
        for (number, request) in requests.iter().enumerate() {
            if let Some(oldest) = number.checked_sub(WINDOW) {
                self.clients[client_of(oldest)].answer(&requests[oldest])?;
            }
            self.clients[client_of(number)].send(request)?;
        }
        for (number, request) in requests.iter().enumerate().skip(count.saturating_sub(WINDOW)) {
            self.clients[client_of(number)].answer(request)?;
        }
        let took_ns = clock.now_ns() - began_ns;
        let spent_ns = self.served.reading()?.since(&reading).total_ns;
        if operation == Operation::StoreNew {
            self.take_newest()?;
        }
        Ok(Cost {
            processor_us: spent_ns as f64 / 1e3 / count as f64,
            requests_per_s: count as f64 * 1e9 / took_ns as f64,
        })
    }

    /// Stores what is newer than all of a round, so that it is known what the node has.
    fn take_newest(&mut self) -> Result<()> {
        let sequence = self.sequence + self.size.requests() as u64;
        for (client, record) in self.clients.iter().zip(&mut self.records) {
            let newest = client.record(sequence, unix_seconds());
            let body = Body::Store { record: Box::new(newest.clone()), key: None };
            let request = client.request(&body);
            client.send(&request)?;
            let answer = client.answer(&request)?;
            ensure!(matches!(answer, Body::StoreResponse { stored: true, .. }), "{answer:?}");
            *record = newest;
        }
        Ok(())
    }

    /// Pings the node and answers its pings until it lists nodes to everybody as to contacts.
    fn meet(&self, clock: Clock) -> Result<()> {
        for client in &self.clients {
            let ping = client.request(&Body::Ping { address: client.address() });
            client.send(&ping)?;
            client.answer(&ping)?;
        }
        let mut strangers: Vec<&Client> = self.clients.iter().collect();
        for attempt in 0..MEETING_S * 10 {
            self.clients.iter().try_for_each(Client::answer_all)?;
            let mut still = Vec::new();
            for client in strangers {
                if !is_contact(client, attempt)? {
                    still.push(client);
                }
            }
            strangers = still;
            if strangers.is_empty() {
                return Ok(());
            }
            clock.sleep_until(clock.now_ns() + 100_000_000);
        }
        bail!("the node does not get to know {} of its clients", strangers.len())
    }

    fn plant(&self) -> Result<()> {
        let now = unix_seconds();
        let recipient = self.clients[0].address();
        let offers = (0..OFFERS).map(|number| {
            let payload = TopicPayload {
                version: 1,
                topic: CROWDED_TOPIC.to_owned(),
                ..TopicPayload::default()
            };
            (number, topic_key(CROWDED_TOPIC), RecordType::TOPIC, payload.encode())
        });
        let mail = (0..MAIL).map(|number| {
            let payload = MailboxPayload {
                recipient,
                sender: self.clients[number].address(),
                ephemeral_key: [1; 32],
                ciphertext: vec![0; 64],
                nonce: [0; 12],
            };
            (number, recipient.node_id(), RecordType::MAILBOX, payload.encode())
        });
        for (number, key, record_type, payload) in offers.chain(mail) {
            let client = &self.clients[number];
            let record = Box::new(client.sign(record_type, payload, now, now));
            let request = client.request(&Body::Store { record, key: Some(key) });
            client.send(&request)?;
            let answer = client.answer(&request)?;
            ensure!(matches!(answer, Body::StoreResponse { stored: true, .. }), "{answer:?}");
        }
        Ok(())
    }
}

/// Whether the node lists as many nodes to a client as to a contact.
fn is_contact(client: &Client, attempt: u64) -> Result<bool> {
    let target = NodeId(sha256(&[&attempt.to_be_bytes()]));
    let request = client.request(&Body::FindNode { target });
    client.send(&request)?;
    let Body::FindNodeResponse { nodes, .. } = client.answer(&request)? else {
        bail!("FIND_NODE was answered with something else");
    };
    Ok(nodes.is_some_and(|nodes| nodes.len() == NODES))
}
