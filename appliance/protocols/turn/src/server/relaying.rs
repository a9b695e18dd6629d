//! Payload: from a client to a peer, and from a peer to a client.
//!
//! Part of the server, and its fast path: nothing here allocates, changes anything, or answers. A
//! tier that moves packets without the server does what these functions do.

use std::net::SocketAddr;
use std::ops::Range;

use arrayvec::ArrayVec;

use super::allocation::Allocation;
use super::requests::is_unknown;
use super::{Now, Outcome, Server, ToClient, ToPeer};
use crate::attribute::{AttributeType, Family, xor_address};
use crate::channel_data;
use crate::discard::Discard;
use crate::limits::{ATTRIBUTE_HEADER_BYTES, CLIENT_HEAD_BYTES_MAX, DATAGRAM_BYTES_MAX};
use crate::message::{Class, Message, Method, TransactionId};
use crate::transport::FiveTuple;
use crate::writer::MessageWriter;

/// An ICMP error that a datagram of ours caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Its type, of ICMP or of ICMPv6 as the relayed address is of IPv4 or of IPv6.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The next link's MTU in bytes, if it says that.
    pub mtu_bytes: u32,
}

impl IcmpError {
    /// The value of an ICMP attribute; none for a type that is not passed on (RFC 8656 §11.5).
    fn attribute_value(self, family: Family) -> Option<[u8; 8]> {
        let is_passed = match family {
            Family::Ipv4 => matches!(self.kind, 3 | 11),
            Family::Ipv6 => matches!(self.kind, 1..=3),
        };
        let says_mtu = match family {
            Family::Ipv4 => (self.kind, self.code) == (3, 4),
            Family::Ipv6 => self.kind == 2,
        };
        let mtu_bytes = if says_mtu { self.mtu_bytes } else { 0 };
        // Seven bits of type, nine of code (RFC 8656 §18.13).
        let [t0, t1] = (u16::from(self.kind) << 9 | u16::from(self.code)).to_be_bytes();
        let [m0, m1, m2, m3] = mtu_bytes.to_be_bytes();
        is_passed.then_some([0, 0, t0, t1, m0, m1, m2, m3])
    }
}

/// What a Send indication says.
#[derive(Debug)]
struct Sent {
    peer: SocketAddr,
    payload: Range<usize>,
    dont_fragment: bool,
}

impl Server {
    /// RFC 8656 §12.6.
    pub(super) fn receive_channel_data(
        &self,
        now: Now,
        tuple: &FiveTuple,
        packet: &[u8],
    ) -> Outcome {
        let Some((channel, payload)) = channel_data::parse(packet) else {
            return Outcome::Discard(Discard::BadChannelData);
        };
        let Some(allocation) = self.table.of_client(tuple) else {
            return Outcome::Discard(Discard::NoAllocation);
        };
        let now_ns = now.monotonic_ns;
        let Some(peer) = allocation.peer_of(channel, now_ns) else {
            return Outcome::Discard(Discard::NoChannel);
        };
        // A bound channel outlives its peer's permission, which is for the other direction.
        let Some(relayed) = allocation.relayed(Family::of(peer.ip()), now_ns) else {
            return Outcome::Discard(Discard::NoAllocation);
        };
        if payload.len() > DATAGRAM_BYTES_MAX {
            return Outcome::Discard(Discard::Oversize);
        }
        let allocation = allocation.id;
        Outcome::Relay(ToPeer { allocation, relayed, peer, payload, dont_fragment: false })
    }

    /// RFC 8656 §11.2.
    pub(super) fn receive_indication(
        &self,
        now: Now,
        tuple: &FiveTuple,
        message: &Message<'_>,
    ) -> Outcome {
        match message.method() {
            Method::SEND => {}
            Method::BINDING => return Outcome::Discard(Discard::KeepAlive),
            _ => return Outcome::Discard(Discard::UnknownMethod),
        }
        let Some(sent) = self.sent(message) else {
            return Outcome::Discard(Discard::BadIndication);
        };
        let Some(allocation) = self.table.of_client(tuple) else {
            return Outcome::Discard(Discard::NoAllocation);
        };
        let now_ns = now.monotonic_ns;
        if !allocation.permits(sent.peer.ip(), now_ns) {
            return Outcome::Discard(Discard::NoPermission);
        }
        let Some(relayed) = allocation.relayed(Family::of(sent.peer.ip()), now_ns) else {
            return Outcome::Discard(Discard::NoAllocation);
        };
        if sent.payload.len() > DATAGRAM_BYTES_MAX {
            return Outcome::Discard(Discard::Oversize);
        }
        let Sent { peer, payload, dont_fragment } = sent;
        Outcome::Relay(ToPeer { allocation: allocation.id, relayed, peer, payload, dont_fragment })
    }

    /// What a Send indication says, if it is a whole one.
    fn sent(&self, message: &Message<'_>) -> Option<Sent> {
        let unsupported = (!self.config.dont_fragment).then_some(AttributeType::DONT_FRAGMENT);
        let (mut peer, mut payload, mut dont_fragment) = (None, None, false);
        for attribute in message.attributes() {
            match attribute.kind {
                AttributeType::XOR_PEER_ADDRESS if peer.is_none() => {
                    peer = Some(xor_address(attribute.value, message.transaction())?);
                }
                AttributeType::DATA if payload.is_none() => {
                    let start = attribute.offset + ATTRIBUTE_HEADER_BYTES;
                    payload = Some(start..start + attribute.value.len());
                }
                AttributeType::DONT_FRAGMENT if unsupported.is_none() => dont_fragment = true,
                kind if is_unknown(kind, unsupported) => return None,
                _ => {}
            }
        }
        let peer = peer.filter(|peer: &SocketAddr| peer.port() != 0)?;
        Some(Sent { peer, payload: payload?, dont_fragment })
    }

    /// Takes a datagram of a peer that arrived at a relayed address, and says what to put around its
    /// payload and whom to send it to (RFC 8656 §11.3, §12.7).
    ///
    /// # Errors
    ///
    /// Why it is not passed on.
    pub fn receive_from_peer(
        &self,
        now: Now,
        relayed: SocketAddr,
        peer: SocketAddr,
        payload_bytes: usize,
    ) -> Result<ToClient, Discard> {
        let allocation = self.permitted(now, relayed, peer)?;
        let client = allocation.client;
        let channel = allocation.channel_of(peer, now.monotonic_ns);
        let (head, padding_bytes) = match channel {
            Some(channel) => {
                let header = channel_data::header(channel, payload_bytes);
                let header = header.ok_or(Discard::Oversize)?;
                let padding_bytes =
                    if client.transport.is_stream() { padding_bytes(payload_bytes) } else { 0 };
                (header.into_iter().collect(), padding_bytes)
            }
            None => (data_head(peer, payload_bytes)?, padding_bytes(payload_bytes)),
        };
        let whole_bytes = head.len() + payload_bytes + padding_bytes;
        if !client.transport.is_stream() && whole_bytes > DATAGRAM_BYTES_MAX {
            return Err(Discard::Oversize);
        }
        Ok(ToClient { allocation: allocation.id, client, head, padding_bytes })
    }

    /// Takes an ICMP error about a datagram from a relayed address to a peer, and says what to tell
    /// whom; the head is then the whole message (RFC 8656 §11.5).
    ///
    /// # Errors
    ///
    /// Why it is not passed on.
    pub fn receive_icmp(
        &self,
        now: Now,
        relayed: SocketAddr,
        peer: SocketAddr,
        icmp: IcmpError,
    ) -> Result<ToClient, Discard> {
        let value = icmp.attribute_value(Family::of(relayed.ip())).ok_or(Discard::IcmpType)?;
        let allocation = self.permitted(now, relayed, peer)?;
        let mut buffer = [0; CLIENT_HEAD_BYTES_MAX];
        let mut writer = data_indication(&mut buffer, peer);
        let end = writer.attribute(AttributeType::ICMP, &value).finish();
        let head = whole(&buffer, end.ok()).ok_or(Discard::Oversize)?;
        Ok(ToClient {
            allocation: allocation.id,
            client: allocation.client,
            head,
            padding_bytes: 0,
        })
    }

    /// The allocation of a relayed address that a peer may send to.
    fn permitted(
        &self,
        now: Now,
        relayed: SocketAddr,
        peer: SocketAddr,
    ) -> Result<&Allocation, Discard> {
        let allocation = self.table.of_relayed(relayed).ok_or(Discard::NoAllocation)?;
        let family = Family::of(relayed.ip());
        if allocation.relayed(family, now.monotonic_ns) != Some(relayed) {
            return Err(Discard::NoAllocation);
        }
        let is_permitted =
            Family::of(peer.ip()) == family && allocation.permits(peer.ip(), now.monotonic_ns);
        is_permitted.then_some(allocation).ok_or(Discard::NoPermission)
    }
}

/// The start of a Data indication about a peer. Its name is of no use to anyone: nothing answers it.
fn data_indication(buffer: &mut [u8], peer: SocketAddr) -> MessageWriter<'_> {
    let name = TransactionId([0; 12]);
    let mut writer = MessageWriter::new(buffer, Class::Indication, Method::DATA, name);
    writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
    writer
}

/// A Data indication up to its payload, which is the last thing in it.
fn data_head(
    peer: SocketAddr,
    payload_bytes: usize,
) -> Result<ArrayVec<u8, CLIENT_HEAD_BYTES_MAX>, Discard> {
    let mut buffer = [0; CLIENT_HEAD_BYTES_MAX];
    let mut writer = data_indication(&mut buffer, peer);
    let end = writer.head_of_payload(AttributeType::DATA, payload_bytes);
    whole(&buffer, end.ok()).ok_or(Discard::Oversize)
}

fn whole(buffer: &[u8], end: Option<usize>) -> Option<ArrayVec<u8, CLIENT_HEAD_BYTES_MAX>> {
    buffer.get(..end?)?.try_into().ok()
}

/// Zeros that make a length a multiple of 4.
fn padding_bytes(bytes: usize) -> usize {
    bytes.next_multiple_of(4) - bytes
}
