//! A well-behaved TURN client, over UDP or over TCP: an allocation, permissions, channels, payload.
//!
//! Blocking calls on the caller's thread. A request is sent again while no answer comes, as RFC 8489
//! §6.2.1 has it, up to a bound; payload that comes meanwhile is kept, up to a bound. Checks the
//! integrity of every answer that has to have it.

use crate::clock::{self, Deadline};
use crate::limits::{READ_WAIT_MIN, TURN_KEPT_MAX, TURN_REQUEST_SENDS_MAX, TURN_RETRY_AFTER};
use crate::random;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;
use thiserror::Error;
use waystation_turn::attribute::{AttributeType, error_number, xor_address};
use waystation_turn::channel_data::{ChannelNumber, header, is_channel_data, parse};
use waystation_turn::integrity::{Integrity, Key, PasswordAlgorithm, verify};
use waystation_turn::limits::{DATAGRAM_BYTES_MAX, STREAM_MESSAGE_BYTES_MAX};
use waystation_turn::message::{Class, Message, Method, TransactionId};
use waystation_turn::stream::message_bytes;
use waystation_turn::writer::MessageWriter;

/// The protocol number of UDP in REQUESTED-TRANSPORT.
const UDP: u8 = 17;
/// The bit of EVEN-PORT that asks for the next port as well (RFC 8656 §18.7).
const RESERVE_NEXT: u8 = 0x80;
/// Bytes of the longest request.
const REQUEST_BYTES_MAX: usize = 2048;

/// Why something did not work.
#[derive(Debug, Error)]
pub enum TurnClientError {
    /// The socket failed, or the server closed the connection.
    #[error("the socket: {0}")]
    Io(#[from] io::Error),
    /// The server said no.
    #[error("the server answers {code} to {method}")]
    Refused { method: &'static str, code: u16 },
    /// The server said nothing in time.
    #[error("no answer to {method}")]
    NoAnswer { method: &'static str },
    /// The server said something that cannot be.
    #[error("an answer that cannot be: {0}")]
    Nonsense(&'static str),
    /// No payload came in time.
    #[error("nothing came within {} ms", .0.as_millis())]
    NothingCame(Duration),
}

/// Payload that a peer has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// Who sent it, if it did not come through a channel.
    pub peer: Option<SocketAddr>,
    /// The channel it came through.
    pub channel: Option<u16>,
    pub payload: Vec<u8>,
}

/// An ICMP error about a datagram to a peer, as the server tells of it (RFC 8656 §18.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramError {
    pub peer: SocketAddr,
    /// Type and code, of ICMP or ICMPv6 as the peer is of IPv4 or IPv6.
    pub kind: u8,
    pub code: u8,
    /// The longest packet that the way takes, if the error is one of length.
    pub mtu_bytes: u32,
}

#[derive(Debug)]
enum Transport {
    Udp(UdpSocket),
    /// With what came of a message that is not whole.
    Tcp(TcpStream, Vec<u8>),
}

/// See the module.
#[derive(Debug)]
pub struct TurnClient {
    transport: Transport,
    server: SocketAddr,
    username: String,
    password: String,
    /// Realm, nonce and key, once a challenge has told them.
    session: Option<(String, Vec<u8>, Key)>,
    kept: VecDeque<Relayed>,
    errors: VecDeque<DatagramError>,
}

impl TurnClient {
    /// A client that has sent nothing yet, from an address of the kernel's choice.
    ///
    /// # Errors
    /// The kernel's refusal of a socket.
    pub fn over_udp(server: SocketAddr, user: (&str, &str)) -> Result<Self, TurnClientError> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Self::over_udp_from((any, 0).into(), server, user)
    }

    /// As [`Self::over_udp`], from an address of the caller's choice, which may have port 0.
    ///
    /// # Errors
    /// The kernel's refusal of a socket, or of the address.
    pub fn over_udp_from(
        local: SocketAddr,
        server: SocketAddr,
        user: (&str, &str),
    ) -> Result<Self, TurnClientError> {
        let socket = UdpSocket::bind(local)?;
        socket.connect(server)?;
        Ok(Self::new(Transport::Udp(socket), server, user))
    }

    /// A client with a connection.
    ///
    /// # Errors
    /// If there is none.
    pub fn over_tcp(server: SocketAddr, user: (&str, &str)) -> Result<Self, TurnClientError> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        Ok(Self::new(Transport::Tcp(stream, Vec::new()), server, user))
    }

    fn new(transport: Transport, server: SocketAddr, (name, password): (&str, &str)) -> Self {
        let (username, password) = (name.to_owned(), password.to_owned());
        let (kept, errors) = (VecDeque::new(), VecDeque::new());
        Self { transport, server, username, password, session: None, kept, errors }
    }

    /// The server's address.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Where the client is.
    ///
    /// # Errors
    /// The kernel's refusal to tell.
    pub fn local(&self) -> Result<SocketAddr, TurnClientError> {
        Ok(match &self.transport {
            Transport::Udp(socket) => socket.local_addr()?,
            Transport::Tcp(stream, _) => stream.local_addr()?,
        })
    }

    /// Another handle of its socket, for who sends and receives channel data by itself; none over
    /// TCP.
    ///
    /// # Errors
    /// The kernel's refusal of a descriptor.
    pub fn duplicate_socket(&self) -> Result<Option<UdpSocket>, TurnClientError> {
        match &self.transport {
            Transport::Udp(socket) => Ok(Some(socket.try_clone()?)),
            Transport::Tcp(..) => Ok(None),
        }
    }

    /// Asks where the server sees this client.
    ///
    /// # Errors
    /// See [`TurnClientError`].
    pub fn binding(&mut self) -> Result<SocketAddr, TurnClientError> {
        let answer = self.ask("Binding", Method::BINDING, false, &|_| {})?;
        address_in(&answer, AttributeType::XOR_MAPPED_ADDRESS)
    }

    /// Gets an allocation of the server's default family.
    ///
    /// # Errors
    /// See [`TurnClientError`].
    pub fn allocate(&mut self) -> Result<SocketAddr, TurnClientError> {
        self.allocate_with(|_| {})
    }

    /// As [`Self::allocate`], with more attributes.
    ///
    /// # Errors
    /// See [`TurnClientError`].
    pub fn allocate_with(
        &mut self,
        fill: impl Fn(&mut MessageWriter<'_>),
    ) -> Result<SocketAddr, TurnClientError> {
        let answer = self.request("Allocate", Method::ALLOCATE, &|writer| {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[UDP, 0, 0, 0]);
            fill(writer);
        })?;
        address_in(&answer, AttributeType::XOR_RELAYED_ADDRESS)
    }

    /// Gets an allocation with an even port, and a token for the port behind it.
    ///
    /// # Errors
    /// See [`TurnClientError`].
    pub fn allocate_pair(&mut self) -> Result<(SocketAddr, Vec<u8>), TurnClientError> {
        let answer = self.request("Allocate", Method::ALLOCATE, &|writer| {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[UDP, 0, 0, 0]);
            writer.attribute(AttributeType::EVEN_PORT, &[RESERVE_NEXT]);
        })?;
        let message = Message::parse(&answer);
        let message = message.map_err(|_error| TurnClientError::Nonsense("Allocate"))?;
        let token = message.attribute(AttributeType::RESERVATION_TOKEN);
        let token = token.ok_or(TurnClientError::Nonsense("an answer without its token"))?;
        Ok((address_in(&answer, AttributeType::XOR_RELAYED_ADDRESS)?, token.to_vec()))
    }

    /// Keeps the allocation, or ends it with a lifetime of 0.
    ///
    /// # Errors
    /// See [`TurnClientError`].
    pub fn refresh(&mut self, lifetime_s: u32) -> Result<(), TurnClientError> {
        self.request("Refresh", Method::REFRESH, &|writer| {
            writer.number(AttributeType::LIFETIME, lifetime_s);
        })?;
        Ok(())
    }

    /// Lets a peer send to the allocation.
    ///
    /// # Errors
    /// See [`TurnClientError`].
    pub fn permit(&mut self, peer: SocketAddr) -> Result<(), TurnClientError> {
        self.request("CreatePermission", Method::CREATE_PERMISSION, &|writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })?;
        Ok(())
    }

    /// Binds a channel to a peer, which permits it too.
    ///
    /// # Errors
    /// See [`TurnClientError`].
    pub fn bind(&mut self, channel: u16, peer: SocketAddr) -> Result<(), TurnClientError> {
        self.request("ChannelBind", Method::CHANNEL_BIND, &|writer| {
            writer.number(AttributeType::CHANNEL_NUMBER, u32::from(channel) << 16);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })?;
        Ok(())
    }

    /// Sends payload through a channel.
    ///
    /// # Errors
    /// The socket's failure, or payload that is too long.
    pub fn send(&mut self, channel: u16, payload: &[u8]) -> Result<(), TurnClientError> {
        let number = ChannelNumber::new(channel).ok_or(TurnClientError::Nonsense("a channel"))?;
        let head = header(number, payload.len()).ok_or(TurnClientError::Nonsense("a payload"))?;
        let mut packet = [&head, payload].concat();
        if matches!(self.transport, Transport::Tcp(..)) {
            packet.resize(packet.len().next_multiple_of(4), 0);
        }
        self.put(&packet)
    }

    /// Sends payload in a Send indication.
    ///
    /// # Errors
    /// The socket's failure, or payload that is too long.
    pub fn indicate(&mut self, peer: SocketAddr, payload: &[u8]) -> Result<(), TurnClientError> {
        self.indicate_with(peer, payload, |_| {})
    }

    /// As [`Self::indicate`], with more attributes.
    ///
    /// # Errors
    /// The socket's failure, or payload that is too long.
    pub fn indicate_with(
        &mut self,
        peer: SocketAddr,
        payload: &[u8],
        fill: impl Fn(&mut MessageWriter<'_>),
    ) -> Result<(), TurnClientError> {
        let mut buffer = vec![0; REQUEST_BYTES_MAX + payload.len()];
        let name = transaction()?;
        let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::SEND, name);
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        fill(&mut writer);
        let end = writer.attribute(AttributeType::DATA, payload).finish();
        let end = end.map_err(|_overflow| TurnClientError::Nonsense("a payload"))?;
        self.put(&buffer[..end])
    }

    /// The next payload of a peer.
    ///
    /// # Errors
    /// [`TurnClientError::NothingCame`], or the socket's failure.
    pub fn receive(&mut self, within: Duration) -> Result<Relayed, TurnClientError> {
        let until = clock::now() + within;
        loop {
            if let Some(relayed) = self.kept.pop_front() {
                return Ok(relayed);
            }
            let left = until.saturating_duration_since(clock::now());
            match self.take(left)? {
                Some(packet) => self.keep(&packet)?,
                None => return Err(TurnClientError::NothingCame(within)),
            }
        }
    }

    /// The next error about a datagram of this client.
    ///
    /// # Errors
    /// [`TurnClientError::NothingCame`], or the socket's failure.
    pub fn receive_error(&mut self, within: Duration) -> Result<DatagramError, TurnClientError> {
        let until = clock::now() + within;
        loop {
            if let Some(error) = self.errors.pop_front() {
                return Ok(error);
            }
            let left = until.saturating_duration_since(clock::now());
            match self.take(left)? {
                Some(packet) => self.keep(&packet)?,
                None => return Err(TurnClientError::NothingCame(within)),
            }
        }
    }

    // Requests

    /// A request that is authenticated, once more with the nonce of a challenge.
    fn request(
        &mut self,
        name: &'static str,
        method: Method,
        fill: &dyn Fn(&mut MessageWriter<'_>),
    ) -> Result<Vec<u8>, TurnClientError> {
        for _ in 0..2 {
            let is_sealed = self.session.is_some();
            match self.ask(name, method, is_sealed, fill) {
                Err(TurnClientError::Refused { code: 401 | 438, .. }) => {}
                answered => return answered,
            }
        }
        self.ask(name, method, true, fill)
    }

    fn ask(
        &mut self,
        name: &'static str,
        method: Method,
        is_sealed: bool,
        fill: &dyn Fn(&mut MessageWriter<'_>),
    ) -> Result<Vec<u8>, TurnClientError> {
        let mut buffer = [0; REQUEST_BYTES_MAX];
        let transaction = transaction()?;
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, transaction);
        fill(&mut writer);
        if let (Some((realm, nonce, key)), true) = (&self.session, is_sealed) {
            writer
                .attribute(AttributeType::USERNAME, self.username.as_bytes())
                .attribute(AttributeType::REALM, realm.as_bytes())
                .attribute(AttributeType::NONCE, nonce)
                .integrity(Integrity::Sha1, key.expose_secret());
        }
        let end = writer.finish().map_err(|_overflow| TurnClientError::Nonsense("a request"))?;
        let answer = self.exchange(name, transaction, &buffer[..end])?;
        let message = Message::parse(&answer).map_err(|_error| TurnClientError::Nonsense(name))?;
        if message.class() == Class::Error {
            let code = message.attribute(AttributeType::ERROR_CODE).and_then(error_number);
            self.learn(&message);
            return Err(TurnClientError::Refused { method: name, code: code.unwrap_or(0) });
        }
        if let (Some((_, _, key)), true) = (&self.session, is_sealed)
            && verify(&message, key).is_none()
        {
            return Err(TurnClientError::Nonsense("integrity"));
        }
        Ok(answer)
    }

    /// Sends a request until its answer comes.
    fn exchange(
        &mut self,
        name: &'static str,
        transaction: TransactionId,
        request: &[u8],
    ) -> Result<Vec<u8>, TurnClientError> {
        for _ in 0..TURN_REQUEST_SENDS_MAX {
            // A stream loses nothing, so there the request is sent once and waited for.
            self.put(request)?;
            let until = clock::now() + self.retry_after();
            loop {
                let left = until.saturating_duration_since(clock::now());
                let Some(packet) = self.take(left)? else { break };
                if is_answer(&packet, transaction) {
                    return Ok(packet);
                }
                self.keep(&packet)?;
            }
            if matches!(self.transport, Transport::Tcp(..)) {
                break;
            }
        }
        Err(TurnClientError::NoAnswer { method: name })
    }

    fn retry_after(&self) -> Duration {
        match self.transport {
            Transport::Udp(_) => TURN_RETRY_AFTER,
            Transport::Tcp(..) => TURN_RETRY_AFTER * TURN_REQUEST_SENDS_MAX,
        }
    }

    /// Takes realm and nonce of a challenge.
    fn learn(&mut self, message: &Message<'_>) {
        let text = |kind| message.attribute(kind);
        let (Some(realm), Some(nonce)) = (text(AttributeType::REALM), text(AttributeType::NONCE))
        else {
            return;
        };
        let realm = String::from_utf8_lossy(realm).into_owned();
        let md5 = PasswordAlgorithm::Md5;
        let key = Key::long_term(md5, &self.username, &realm, self.password.as_bytes());
        self.session = Some((realm, nonce.to_vec(), key));
    }

    /// Keeps payload of a peer, and errors about it; anything else is left out.
    fn keep(&mut self, packet: &[u8]) -> Result<(), TurnClientError> {
        if self.kept.len() + self.errors.len() >= TURN_KEPT_MAX {
            return Err(TurnClientError::Nonsense("more payload than anybody takes"));
        }
        self.kept.extend(relayed(packet));
        self.errors.extend(datagram_error(packet));
        Ok(())
    }

    // The transport

    fn put(&mut self, packet: &[u8]) -> Result<(), TurnClientError> {
        match &mut self.transport {
            Transport::Udp(socket) => {
                socket.send(packet)?;
            }
            Transport::Tcp(stream, _) => stream.write_all(packet)?,
        }
        Ok(())
    }

    /// The next packet, if one comes in time.
    fn take(&mut self, within: Duration) -> Result<Option<Vec<u8>>, TurnClientError> {
        match &mut self.transport {
            Transport::Udp(socket) => {
                let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
                let limit = |left| socket.set_read_timeout(Some(left));
                let taken = wait(within, limit, || socket.recv(&mut buffer))?;
                Ok(taken.map(|bytes| {
                    buffer.truncate(bytes);
                    buffer
                }))
            }
            Transport::Tcp(stream, partial) => take_message(stream, partial, within),
        }
    }
}

/// Reads once, until there is something or the time is over. A kernel does not go on with a read
/// of bounded time after a signal, whatever its handler asks for (signal(7)): that is done here, and
/// what has come already is taken even when no time is left.
fn wait(
    within: Duration,
    limit: impl Fn(Duration) -> io::Result<()>,
    mut read: impl FnMut() -> io::Result<usize>,
) -> io::Result<Option<usize>> {
    let deadline = Deadline::after(within);
    loop {
        // Zero would stand for no bound.
        limit(deadline.remaining().unwrap_or(READ_WAIT_MIN))?;
        match read() {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(error) if is_timeout(&error) => return Ok(None),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Err(_) if deadline.remaining().is_none() => return Ok(None),
            Err(_) => {}
        }
    }
}

/// Reads until there is a whole message, or nothing more comes in time.
fn take_message(
    stream: &TcpStream,
    partial: &mut Vec<u8>,
    within: Duration,
) -> Result<Option<Vec<u8>>, TurnClientError> {
    loop {
        let whole = message_bytes(partial)
            .map_err(|_error| TurnClientError::Nonsense("bytes that begin no message"))?;
        if let Some(bytes) = whole.filter(|bytes| *bytes <= partial.len()) {
            let rest = partial.split_off(bytes);
            return Ok(Some(std::mem::replace(partial, rest)));
        }
        let mut buffer = [0; 4096];
        let limit = |left| stream.set_read_timeout(Some(left));
        match wait(within, limit, || (&*stream).read(&mut buffer))? {
            None => return Ok(None),
            Some(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Some(bytes) => partial.extend_from_slice(&buffer[..bytes]),
        }
        if partial.len() > 2 * STREAM_MESSAGE_BYTES_MAX {
            return Err(TurnClientError::Nonsense("a message without an end"));
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn transaction() -> Result<TransactionId, TurnClientError> {
    random::bytes().map(TransactionId).map_err(|error| io::Error::other(error).into())
}

fn is_answer(packet: &[u8], transaction: TransactionId) -> bool {
    Message::parse(packet).is_ok_and(|message| {
        matches!(message.class(), Class::Success | Class::Error)
            && message.transaction() == transaction
    })
}

fn address_in(answer: &[u8], kind: AttributeType) -> Result<SocketAddr, TurnClientError> {
    let found = Message::parse(answer)
        .ok()
        .and_then(|message| xor_address(message.attribute(kind)?, message.transaction()));
    found.ok_or(TurnClientError::Nonsense("an answer without its address"))
}

/// What a peer has sent, if the packet holds that.
fn relayed(packet: &[u8]) -> Option<Relayed> {
    if packet.first().copied().is_some_and(is_channel_data) {
        let (channel, place) = parse(packet)?;
        let payload = packet.get(place)?.to_vec();
        return Some(Relayed { peer: None, channel: Some(channel.number()), payload });
    }
    let message = Message::parse(packet).ok()?;
    if (message.class(), message.method()) != (Class::Indication, Method::DATA) {
        return None;
    }
    let peer = message.attribute(AttributeType::XOR_PEER_ADDRESS)?;
    Some(Relayed {
        peer: xor_address(peer, message.transaction()),
        channel: None,
        payload: message.attribute(AttributeType::DATA)?.to_vec(),
    })
}

/// The error that a packet tells of, if it does.
fn datagram_error(packet: &[u8]) -> Option<DatagramError> {
    let message = Message::parse(packet).ok()?;
    if (message.class(), message.method()) != (Class::Indication, Method::DATA) {
        return None;
    }
    let peer = message.attribute(AttributeType::XOR_PEER_ADDRESS)?;
    // Two bytes of nothing, seven bits of type, nine of code, four bytes that go with them.
    let &[_, _, t0, t1, m0, m1, m2, m3] = message.attribute(AttributeType::ICMP)? else {
        return None;
    };
    Some(DatagramError {
        peer: xor_address(peer, message.transaction())?,
        kind: t0 >> 1,
        code: t1,
        mtu_bytes: u32::from_be_bytes([m0, m1, m2, m3]),
    })
}
