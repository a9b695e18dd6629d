//! One of many nodes that ask. Each has a key and an address of its own, as rates and answers go by
//! both.

use anyhow::{Context, Result, bail};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use waystation_a2al::address::Address;
use waystation_a2al::keys::SigningKey;
use waystation_a2al::limits::{DATAGRAM_BYTES_MAX, TRANSACTION_ID_BYTES};
use waystation_a2al::message::{self, Body, Parsed, TransactionId};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::payload::EndpointPayload;
use waystation_a2al::record::{RecordType, SignedRecord, Unsigned};
use waystation_a2al::sha256;

/// How long an answer may take on a machine with much else to do.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds to live of its records.
const TTL_S: u32 = 3_600;

/// See the module.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
    own: SocketAddr,
    key: SigningKey,
}

/// A request that is signed and not sent.
#[derive(Debug)]
pub struct Request {
    transaction: TransactionId,
    bytes: Vec<u8>,
}

impl Client {
    /// A client at 127.1.0.0/16, each in a /24 of its own, and its socket towards a node.
    ///
    /// # Errors
    ///
    /// When there is no socket for it.
    pub fn new(number: u8, server: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::from(([127, 1, number, 1], 0)))
            .context("a socket for a client")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let own = socket.local_addr()?;
        let key = SigningKey::from_seed(&sha256(&[b"client", &[number]]))?;
        Ok(Self { socket, own, key })
    }

    /// Its address in the network.
    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// Its place.
    pub fn id(&self) -> NodeId {
        self.address().node_id()
    }

    /// Signs a request.
    pub fn request(&self, body: &Body) -> Request {
        static REQUESTS: AtomicU64 = AtomicU64::new(1);
        let number = REQUESTS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut transaction = TransactionId([0; TRANSACTION_ID_BYTES]);
        transaction.0[..number.len()].copy_from_slice(&number);
        Request { transaction, bytes: message::encode(&self.key, transaction, body) }
    }

    /// Signs an endpoint record of its own.
    pub fn record(&self, sequence: u64, timestamp: u64) -> SignedRecord {
        let endpoints = Some(vec![format!("quic://{}", self.own)]);
        let payload = EndpointPayload { endpoints, ..EndpointPayload::default() };
        self.sign(RecordType::ENDPOINT, payload.encode(), sequence, timestamp)
    }

    /// Signs a record of any type.
    pub fn sign(
        &self,
        record_type: RecordType,
        payload: Vec<u8>,
        sequence: u64,
        timestamp: u64,
    ) -> SignedRecord {
        let unsigned = Unsigned {
            address: self.address(),
            record_type,
            payload,
            sequence,
            timestamp,
            ttl_s: TTL_S,
            delegation: Vec::new(),
        };
        unsigned.sign(&self.key)
    }

    /// Sends a request.
    ///
    /// # Errors
    ///
    /// When the kernel does not take it.
    pub fn send(&self, request: &Request) -> Result<()> {
        self.socket.send(&request.bytes).context("sending a request")?;
        Ok(())
    }

    /// Waits for the answer to a request; answers what the node asks in the meantime.
    ///
    /// # Errors
    ///
    /// When none comes.
    pub fn answer(&self, request: &Request) -> Result<Body> {
        loop {
            let Some((transaction, body)) = self.receive()? else {
                bail!("no answer within {ANSWER_TIMEOUT:?}");
            };
            if transaction == request.transaction {
                return Ok(body);
            }
            self.reply(transaction, &body)?;
        }
    }

    /// Answers everything that the node has asked so far.
    ///
    /// # Errors
    ///
    /// When the socket does not work.
    pub fn answer_all(&self) -> Result<()> {
        self.socket.set_nonblocking(true)?;
        while let Some((transaction, body)) = self.receive()? {
            self.reply(transaction, &body)?;
        }
        self.socket.set_nonblocking(false)?;
        Ok(())
    }

    fn receive(&self) -> Result<Option<(TransactionId, Body)>> {
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        match self.socket.recv(&mut buffer) {
            Ok(bytes) => {
                let parsed = Parsed::parse(&buffer[..bytes])?;
                Ok(Some((parsed.transaction, parsed.body)))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error).context("receiving"),
        }
    }

    /// Answers as a node does that knows nobody else.
    fn reply(&self, transaction: TransactionId, body: &Body) -> Result<()> {
        let observed = self.socket.peer_addr()?;
        let nodes = Some(Vec::new());
        let answer = match body {
            Body::Ping { .. } => Body::Pong { address: self.address(), observed },
            Body::FindNode { .. } => Body::FindNodeResponse { nodes, observed },
            Body::FindValue { .. } => {
                Body::FindValueResponse { nodes, record: None, observed, records: Vec::new() }
            }
            Body::Store { .. } => Body::StoreResponse {
                stored: true,
                already_had: false,
                refusal: None,
                pool: Vec::new(),
            },
            // An answer that came too late, or something that nobody here has to do with.
            _ => return Ok(()),
        };
        self.socket.send(&message::encode(&self.key, transaction, &answer))?;
        Ok(())
    }
}
