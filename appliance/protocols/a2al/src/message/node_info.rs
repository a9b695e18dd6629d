//! What an answer says about a node.

use std::net::{IpAddr, SocketAddr};

use crate::address::Address;
use crate::cbor::{CborError, Key, Reader, Writer, head_bytes};
use crate::limits::{ADDRESS_BYTES, NODE_ID_BYTES};
use crate::node_id::NodeId;
use crate::socket_address::{canonical, ip_of};

/// A node and where it is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeInfo {
    /// Address of its key.
    pub address: Address,
    /// Its place. Nothing in the form binds it to the address.
    pub node_id: NodeId,
    /// Its IP address, mapped or not as it came.
    pub ip: IpAddr,
    /// Its UDP port.
    pub port: u16,
}

impl NodeInfo {
    /// A node at a socket address.
    pub fn new(address: Address, socket_address: SocketAddr) -> Self {
        let socket_address = canonical(socket_address);
        let (ip, port) = (socket_address.ip(), socket_address.port());
        Self { address, node_id: address.node_id(), ip, port }
    }

    /// Where it is reached.
    pub fn socket_address(&self) -> SocketAddr {
        canonical(SocketAddr::new(self.ip, self.port))
    }

    /// Says whether its place is that of its address; others are lies (§3.3).
    pub fn is_bound(&self) -> bool {
        self.address.node_id() == self.node_id
    }

    /// Bytes that it takes in an answer.
    pub fn encoded_bytes(&self) -> usize {
        let ip_bytes = if self.ip.is_ipv4() { 4 } else { 16 };
        let keys = 1 + 4;
        keys + (1 + ADDRESS_BYTES)
            + (2 + NODE_ID_BYTES)
            + (1 + ip_bytes)
            + head_bytes(usize::from(self.port))
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        let mut address = None;
        let mut node_id = None;
        let mut ip = None;
        let mut port = None;
        let mut fields = reader.map()?;
        while let Some(key) = reader.field(&mut fields)? {
            match key {
                Key::Number(1) => address = Some(Address(reader.byte_array()?)),
                Key::Number(2) => node_id = Some(NodeId(reader.byte_array()?)),
                Key::Number(3) => ip = Some(ip_of(reader.bytes()?)?),
                Key::Number(4) => port = Some(reader.u16()?),
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        let missing = CborError::MissingKey;
        Ok(Self {
            address: address.ok_or(missing)?,
            node_id: node_id.ok_or(missing)?,
            ip: ip.ok_or(missing)?,
            port: port.ok_or(missing)?,
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.map(4);
        writer.unsigned(1_u8).bytes(&self.address.0);
        writer.unsigned(2_u8).bytes(&self.node_id.0);
        writer.unsigned(3_u8);
        match self.ip {
            IpAddr::V4(ip) => writer.bytes(&ip.octets()),
            IpAddr::V6(ip) => writer.bytes(&ip.octets()),
        };
        writer.unsigned(4_u8).unsigned(self.port);
    }
}
