//! A data core with a TURN server, driven on the test's own thread, and a client made by hand.

use super::{core_for_datagrams, snapshot};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use waystation_engine::core::{DataCore, StreamLimits, TurnParts};
use waystation_engine::management_end::ManagementEnd;
use waystation_engine::port::datagrams::{Role, UdpTier, bind};
use waystation_engine::port::waker::Waker;
use waystation_engine::port::{Port, PortLimits};
use waystation_engine::snapshot::TurnSnapshot;
use waystation_relay::address_policy::AddressPolicy;
use waystation_relay::peer_policy::PeerPolicy;
use waystation_turn::attribute::{AttributeType, xor_address};
use waystation_turn::credentials::Credentials;
use waystation_turn::integrity::{Integrity, Key, PasswordAlgorithm};
use waystation_turn::message::{Class, Message, Method, TransactionId};
use waystation_turn::server::{RelayedRange, ServerConfig};
use waystation_turn::sharing::Shared;
use waystation_turn::writer::MessageWriter;
use zeroize::Zeroizing;

const REALM: &str = "example.org";
const USER: &str = "alice";
const PASSWORD: &[u8] = b"wonderland";
pub(crate) const CHANNEL: u16 = 0x4000;
/// Turns in which an answer has to come.
const TURNS_MAX: usize = 20;

/// A core and the one client it has. The management core's end is kept, so that its ring lives.
pub(crate) struct TurnBench<P> {
    pub(crate) core: DataCore<P>,
    pub(crate) client: UdpSocket,
    /// The relayed address, once there is one.
    pub(crate) relayed: Option<SocketAddr>,
    transactions: u8,
    _management: ManagementEnd,
}

impl<P: Port> TurnBench<P> {
    pub(crate) fn new(port: impl FnOnce(Waker, PortLimits) -> P, tier: UdpTier) -> Self {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let mut credentials = Credentials::new(REALM).unwrap();
        credentials.add_user(USER, PASSWORD).unwrap();
        let opened = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()], []).unwrap();
        let peers = PeerPolicy::new(opened, vec![loopback], 49_152..=65_535);
        let turn = TurnSnapshot { credentials: Arc::new(credentials), peers: Arc::new(peers) };
        let mut snapshot = snapshot(0);
        snapshot.turn = Some(turn);
        let listening = bind((loopback, 0).into(), Role::Listening).unwrap();
        let server = listening.local_addr().unwrap();
        let range = RelayedRange { ip: loopback, ports: 49_152..=65_535 };
        let config = ServerConfig::new(vec![range]);
        let shared = Arc::new(Shared::new(&config, 1, &[3; 32]).unwrap());
        let turn = TurnParts {
            listeners: Vec::new(),
            stream_limits: StreamLimits { streams_max: 1, streams_per_source_max: 1 },
            sockets: vec![listening],
            server: config,
            nonce_key: Zeroizing::new([3; 32]),
            shared,
            behind: vec![],
            tier,
        };
        let (core, management) = core_for_datagrams(port, snapshot, Some(turn), None);
        let client = UdpSocket::bind((loopback, 0)).unwrap();
        client.connect(server).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { core, client, relayed: None, transactions: 0, _management: management }
    }

    /// Gets an allocation with a channel to a peer.
    pub(crate) fn open(&mut self, peer: SocketAddr) {
        let challenge = self.ask(Method::ALLOCATE, None, |_| {});
        let message = Message::parse(&challenge).unwrap();
        let nonce = message.attribute(AttributeType::NONCE).unwrap().to_vec();
        let allocated = self.ask(Method::ALLOCATE, Some(&nonce), |writer| {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        });
        let message = Message::parse(&allocated).unwrap();
        assert_eq!(message.class(), Class::Success);
        let relayed = message.attribute(AttributeType::XOR_RELAYED_ADDRESS).unwrap();
        self.relayed = xor_address(relayed, message.transaction());
        let bound = self.ask(Method::CHANNEL_BIND, Some(&nonce), |writer| {
            writer.number(AttributeType::CHANNEL_NUMBER, u32::from(CHANNEL) << 16);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
        assert_eq!(Message::parse(&bound).unwrap().class(), Class::Success);
    }

    fn ask(
        &mut self,
        method: Method,
        nonce: Option<&[u8]>,
        fill: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        self.transactions += 1;
        let mut request = [0; 1024];
        let name = TransactionId([self.transactions; 12]);
        let mut writer = MessageWriter::new(&mut request, Class::Request, method, name);
        fill(&mut writer);
        if let Some(nonce) = nonce {
            let key = Key::long_term(PasswordAlgorithm::Md5, USER, REALM, PASSWORD);
            writer
                .attribute(AttributeType::USERNAME, USER.as_bytes())
                .attribute(AttributeType::REALM, REALM.as_bytes())
                .attribute(AttributeType::NONCE, nonce)
                .integrity(Integrity::Sha1, key.expose_secret());
        }
        let end = writer.finish().unwrap();
        self.client.send(&request[..end]).unwrap();
        let mut answer = [0; 1024];
        let client = self.client.try_clone().unwrap();
        let bytes = self.turn_until_received(&client, &mut answer);
        answer[..bytes].to_vec()
    }

    /// Turns until a socket has received something.
    pub(crate) fn turn_until_received(&mut self, socket: &UdpSocket, buffer: &mut [u8]) -> usize {
        socket.set_nonblocking(true).unwrap();
        for _ in 0..TURNS_MAX {
            // A turn with nothing to do sleeps, so what is there already comes first.
            if let Ok(bytes) = socket.recv(buffer) {
                return bytes;
            }
            self.core.turn().unwrap();
        }
        panic!("nothing came within {TURNS_MAX} turns");
    }
}
