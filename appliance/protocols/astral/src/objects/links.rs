//! Listings of links and sessions, in the layouts of three eras (spec §13).
//!
//! `nodes.links`, `nodes.streams` and `nodes.sessions` answer with them; test nodes read them back.

use crate::endpoint::{Endpoint, GatewayEra};
use crate::identity::Identity;
use crate::object::{AnswerObject, FieldError, FieldReader, FieldWriter, json_string, type_names};

use super::{
    PayloadError, endpoint_json, identity_json, read_endpoint, read_identity_pointer, read_text,
    write_bare_endpoint, write_endpoint, write_identity_pointer,
};

/// One link of a node, as `nodes.links` lists it since 2026‑05‑05.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The link id; of P0 a number of the node's own.
    pub id: u64,
    /// Whose link it is.
    pub local_identity: Identity,
    /// To whom.
    pub remote_identity: Identity,
    /// The node's end of the connection, if it has one.
    pub local_endpoint: Option<Endpoint>,
    /// The other end.
    pub remote_endpoint: Option<Endpoint>,
    /// Whether the node made it.
    pub outbound: bool,
    /// Over what it runs: `tcp`, `tor`, `gw`, `kcp` or `unknown`.
    pub network: String,
    /// Whether more waits than the link takes.
    pub high_pressure: bool,
    /// Payload bytes of data frames in both directions so far.
    pub throughput_bytes: u64,
}

impl LinkInfo {
    /// Reads the payload of a `mod.nodes.link_info`, or of a stream info of [`StreamEra::Late`].
    ///
    /// # Errors
    /// [`PayloadError`] for a field that is cut short or malformed.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let mut fields = FieldReader::new(payload);
        Ok(Self {
            id: fields.u64()?,
            local_identity: read_identity_pointer(&mut fields)?,
            remote_identity: read_identity_pointer(&mut fields)?,
            local_endpoint: read_endpoint(&mut fields)?,
            remote_endpoint: read_endpoint(&mut fields)?,
            outbound: fields.boolean()?,
            network: read_text(&mut fields, "network")?.to_owned(),
            high_pressure: fields.boolean()?,
            throughput_bytes: fields.u64()?,
        })
    }

    fn direction(&self) -> char {
        if self.outbound { '>' } else { '<' }
    }

    fn remote_address(&self) -> String {
        self.remote_endpoint.as_ref().map_or_else(|| "<nil>".to_owned(), Endpoint::address)
    }
}

impl AnswerObject for LinkInfo {
    fn type_name(&self) -> &'static str {
        type_names::LINK_INFO
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        fields.u64(self.id);
        write_identity_pointer(&self.local_identity, fields);
        write_identity_pointer(&self.remote_identity, fields);
        write_endpoint(self.local_endpoint.as_ref(), fields)?;
        write_endpoint(self.remote_endpoint.as_ref(), fields)?;
        fields.boolean(self.outbound).s8(self.network.as_bytes())?;
        fields.boolean(self.high_pressure).u64(self.throughput_bytes);
        Ok(())
    }

    fn json(&self) -> Option<String> {
        Some(format!(
            "{{\"BytesThroughput\":{},\"HighPressure\":{},\"ID\":\"{:x}\",\
             \"LocalEndpoint\":{},\"LocalIdentity\":{},\"Network\":{},\"Outbound\":{},\
             \"RemoteEndpoint\":{},\"RemoteIdentity\":{}}}",
            self.throughput_bytes,
            self.high_pressure,
            self.id,
            endpoint_json(self.local_endpoint.as_ref()),
            identity_json(&self.local_identity),
            json_string(&self.network),
            self.outbound,
            endpoint_json(self.remote_endpoint.as_ref()),
            identity_json(&self.remote_identity),
        ))
    }

    fn text(&self) -> Option<String> {
        Some(format!(
            "{:016x} {} {} {} throughput={} high={}",
            self.id,
            self.direction(),
            self.remote_identity,
            self.remote_address(),
            self.throughput_bytes,
            self.high_pressure,
        ))
    }
}

/// Which layout a stream info has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamEra {
    /// P0: a number for an id, and endpoints without their types, which no binary form can leave
    /// out.
    P0,
    /// 2025‑12‑19 to 2026‑03‑05: nonce and network, identities without presence bytes.
    Early,
    /// Since 2026‑03‑06: as `mod.nodes.link_info`.
    Late,
}

/// One link of a node, as `nodes.streams` lists it until 2026‑05‑04.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// The link.
    pub link: LinkInfo,
    /// The asking peer's era.
    pub era: StreamEra,
}

impl StreamInfo {
    /// Reads the payload of a stream info of [`StreamEra::Early`]. That of P0 does not say where
    /// its endpoints end, and that of later nodes is a [`LinkInfo`].
    ///
    /// # Errors
    /// [`PayloadError`] for a field that is cut short or malformed.
    pub fn decode_early(payload: &[u8]) -> Result<Self, PayloadError> {
        let mut fields = FieldReader::new(payload);
        let link = LinkInfo {
            id: fields.u64()?,
            local_identity: fields.id33()?,
            remote_identity: fields.id33()?,
            local_endpoint: read_endpoint(&mut fields)?,
            remote_endpoint: read_endpoint(&mut fields)?,
            outbound: fields.boolean()?,
            network: read_text(&mut fields, "network")?.to_owned(),
            high_pressure: false,
            throughput_bytes: 0,
        };
        Ok(Self { link, era: StreamEra::Early })
    }

    fn write_p0(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        let link = &self.link;
        let ends = link.local_endpoint.as_ref().zip(link.remote_endpoint.as_ref());
        let Some((local, remote)) = ends else {
            return Err(FieldError::Absent { field: "endpoint" });
        };
        fields.u64(link.id).id33(&link.local_identity).id33(&link.remote_identity);
        write_bare_endpoint(local, GatewayEra::Old66, fields);
        write_bare_endpoint(remote, GatewayEra::Old66, fields);
        fields.boolean(link.outbound);
        Ok(())
    }

    fn write_early(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        let link = &self.link;
        fields.u64(link.id).id33(&link.local_identity).id33(&link.remote_identity);
        write_endpoint(link.local_endpoint.as_ref(), fields)?;
        write_endpoint(link.remote_endpoint.as_ref(), fields)?;
        fields.boolean(link.outbound).s8(link.network.as_bytes())?;
        Ok(())
    }

    /// The fields in their order, with the id, what follows the endpoints, and endpoints bare.
    fn unsorted_json(&self, id: &str, tail: &str) -> String {
        let link = &self.link;
        let address = |endpoint: &Option<Endpoint>| match endpoint {
            Some(endpoint) => format!("\"{}\"", endpoint.address()),
            None => "null".to_owned(),
        };
        format!(
            "{{\"ID\":{id},\"LocalIdentity\":{},\"RemoteIdentity\":{},\"LocalEndpoint\":{},\
             \"RemoteEndpoint\":{},{tail}}}",
            identity_json(&link.local_identity),
            identity_json(&link.remote_identity),
            address(&link.local_endpoint),
            address(&link.remote_endpoint),
        )
    }
}

impl AnswerObject for StreamInfo {
    fn type_name(&self) -> &'static str {
        type_names::STREAM_INFO
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        match self.era {
            StreamEra::P0 => self.write_p0(fields),
            StreamEra::Early => self.write_early(fields),
            StreamEra::Late => self.link.write_payload(fields),
        }
    }

    fn json(&self) -> Option<String> {
        let link = &self.link;
        match self.era {
            StreamEra::P0 => {
                let outbound = format!("\"Outbound\":\"{}\"", link.outbound);
                Some(self.unsorted_json(&link.id.to_string(), &outbound))
            }
            StreamEra::Early => {
                let network = json_string(&link.network);
                let tail = format!("\"Outbound\":{},\"Network\":{network}", link.outbound);
                Some(self.unsorted_json(&format!("\"{:x}\"", link.id), &tail))
            }
            StreamEra::Late => link.json(),
        }
    }

    fn text(&self) -> Option<String> {
        let link = &self.link;
        let (direction, address) = (link.direction(), link.remote_address());
        match self.era {
            StreamEra::P0 => {
                Some(format!("{} {direction} {} {address}", link.id, link.remote_identity))
            }
            StreamEra::Early => {
                Some(format!("{:016x} {direction} {} {address}", link.id, link.remote_identity))
            }
            StreamEra::Late => link.text(),
        }
    }
}

/// One session of a node, as `nodes.sessions` lists it since 2026‑03‑06.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The session's nonce.
    pub id: u64,
    /// The link it runs on.
    pub link_id: u64,
    /// The peer at the other end of that link.
    pub remote_identity: Identity,
    /// Whether the node asked.
    pub outbound: bool,
    /// The query string, not necessarily UTF-8.
    pub query: Vec<u8>,
    /// Payload bytes in both directions so far.
    pub bytes: u64,
    /// How long it has been open.
    pub age_ns: u64,
}

impl SessionInfo {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`PayloadError`] for a field that is cut short or malformed.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let mut fields = FieldReader::new(payload);
        Ok(Self {
            id: fields.u64()?,
            link_id: fields.u64()?,
            remote_identity: read_identity_pointer(&mut fields)?,
            outbound: fields.boolean()?,
            query: fields.s16()?.to_owned(),
            bytes: fields.u64()?,
            age_ns: fields.u64()?,
        })
    }
}

impl AnswerObject for SessionInfo {
    fn type_name(&self) -> &'static str {
        type_names::SESSION_INFO
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        fields.u64(self.id).u64(self.link_id);
        write_identity_pointer(&self.remote_identity, fields);
        fields.boolean(self.outbound).s16(&self.query)?;
        fields.u64(self.bytes).u64(self.age_ns);
        Ok(())
    }

    /// The spec gives no example; fields stand in their order, as upstream's plain structures do.
    fn json(&self) -> Option<String> {
        Some(format!(
            "{{\"ID\":\"{:x}\",\"LinkID\":\"{:x}\",\"RemoteIdentity\":{},\"Outbound\":{},\
             \"Query\":{},\"Bytes\":{},\"Age\":{}}}",
            self.id,
            self.link_id,
            identity_json(&self.remote_identity),
            self.outbound,
            json_string(&String::from_utf8_lossy(&self.query)),
            self.bytes,
            self.age_ns,
        ))
    }

    fn text(&self) -> Option<String> {
        Some(format!(
            "{:016x} link={:016x} {} {} {} bytes={} age={}s",
            self.id,
            self.link_id,
            if self.outbound { '>' } else { '<' },
            self.remote_identity,
            String::from_utf8_lossy(&self.query),
            self.bytes,
            self.age_ns.saturating_add(500_000_000) / 1_000_000_000,
        ))
    }
}
