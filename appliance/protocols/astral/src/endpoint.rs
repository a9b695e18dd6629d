//! Where a node can be reached: the five kinds of endpoint, in binary and in text (spec §12).
//!
//! Gateway operations, node info strings and configuration use it, on the management core; nothing
//! here resolves names or opens sockets. Decoding takes any bytes and allocates nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

use crate::identity::{Identity, IdentityError};
use crate::limits::ONION_BYTES;

/// Lower-case alphabet of RFC 4648 base32, in which onion addresses are written.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Base32 characters of an onion address: 280 bits, 5 each.
const ONION_TEXT_BYTES: usize = ONION_BYTES * 8 / 5;
/// What follows the base32 part of an onion address.
const ONION_SUFFIX: &str = ".onion";

const TCP_TYPE: &str = "mod.tcp.endpoint";
const TOR_TYPE: &str = "mod.tor.endpoint";
const UTP_TYPE: &str = "mod.utp.endpoint";
const KCP_TYPE: &str = "mod.kcp.endpoint";
const GATEWAY_TYPE: &str = "mod.gateway.endpoint";

/// Says where a node can be reached, and over what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Plain TCP.
    Tcp(SocketAddr),
    /// A version 3 onion service.
    Tor {
        /// The address before base32: key 32, checksum 2, version 1.
        onion: [u8; ONION_BYTES],
        /// The port of the onion service.
        port: u16,
    },
    /// uTP over UDP (nodes until 2026-07-10).
    Utp(SocketAddr),
    /// KCP over UDP (nodes from 2025-10-20).
    Kcp(SocketAddr),
    /// Another node that pipes to the target.
    Gateway {
        /// The node that pipes.
        gateway: Identity,
        /// The node that is reached.
        target: Identity,
    },
}

/// Chooses between the two binary forms of a gateway endpoint (spec §1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayEra {
    /// 66 bytes, until 2026-02-17: both identities bare.
    Old66,
    /// 68 bytes, since 2026-02-18: a presence byte before each identity.
    New68,
}

impl Endpoint {
    /// Returns the object type name of this kind of endpoint.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => TCP_TYPE,
            Self::Tor { .. } => TOR_TYPE,
            Self::Utp(_) => UTP_TYPE,
            Self::Kcp(_) => KCP_TYPE,
            Self::Gateway { .. } => GATEWAY_TYPE,
        }
    }

    /// Returns the network name that precedes the address in the text form.
    pub fn network(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Tor { .. } => "tor",
            Self::Utp(_) => "utp",
            Self::Kcp(_) => "kcp",
            Self::Gateway { .. } => "gw",
        }
    }

    /// Returns the text form without the network: what JSON carries for a bare endpoint.
    pub fn address(&self) -> String {
        Address(self).to_string()
    }

    /// Appends the payload, without type name; IPv4-mapped addresses are written as IPv4. `era`
    /// matters to gateway endpoints only.
    pub fn encode_payload(&self, era: GatewayEra, out: &mut Vec<u8>) {
        match self {
            Self::Tcp(socket) | Self::Utp(socket) | Self::Kcp(socket) => {
                match socket.ip().to_canonical() {
                    IpAddr::V4(ip) => {
                        out.push(4);
                        out.extend_from_slice(&ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        out.push(16);
                        out.extend_from_slice(&ip.octets());
                    }
                }
                out.extend_from_slice(&socket.port().to_be_bytes());
            }
            Self::Tor { onion, port } => {
                out.extend_from_slice(onion);
                out.extend_from_slice(&port.to_be_bytes());
            }
            Self::Gateway { gateway, target } => {
                for identity in [gateway, target] {
                    if era == GatewayEra::New68 {
                        out.push(1);
                    }
                    out.extend_from_slice(identity.as_bytes());
                }
            }
        }
    }

    /// Reads the payload of an endpoint of type `type_name` and returns it with the number of bytes
    /// it took; what follows is the caller's. Both eras of gateway endpoints are told apart by
    /// their first byte.
    ///
    /// # Errors
    /// For a type that is no endpoint, a payload that ends early, an address length other than 4 or
    /// 16, the zero onion address, and gateway endpoints with a missing or malformed identity.
    pub fn decode_payload(type_name: &str, payload: &[u8]) -> Result<(Self, usize), EndpointError> {
        let (endpoint, rest) = match type_name {
            TCP_TYPE => decode_socket(payload, Self::Tcp)?,
            TOR_TYPE => decode_onion(payload)?,
            UTP_TYPE => decode_socket(payload, Self::Utp)?,
            KCP_TYPE => decode_socket(payload, Self::Kcp)?,
            GATEWAY_TYPE => decode_gateway(payload)?,
            _ => return Err(EndpointError::UnknownType),
        };
        Ok((endpoint, payload.len() - rest.len()))
    }
}

fn decode_socket(
    payload: &[u8],
    kind: fn(SocketAddr) -> Endpoint,
) -> Result<(Endpoint, &[u8]), EndpointError> {
    let (length, rest) = payload.split_first().ok_or(EndpointError::Truncated)?;
    let (ip, rest) = match length {
        4 => {
            let (octets, rest) = rest.split_first_chunk::<4>().ok_or(EndpointError::Truncated)?;
            (IpAddr::V4(Ipv4Addr::from(*octets)), rest)
        }
        16 => {
            let (octets, rest) = rest.split_first_chunk::<16>().ok_or(EndpointError::Truncated)?;
            (IpAddr::V6(Ipv6Addr::from(*octets)), rest)
        }
        _ => return Err(EndpointError::IpLength { bytes: *length }),
    };
    let (port, rest) = decode_port(rest)?;
    Ok((kind(SocketAddr::new(ip.to_canonical(), port)), rest))
}

fn decode_onion(payload: &[u8]) -> Result<(Endpoint, &[u8]), EndpointError> {
    let (onion, rest) =
        payload.split_first_chunk::<ONION_BYTES>().ok_or(EndpointError::Truncated)?;
    if *onion == [0; ONION_BYTES] {
        return Err(EndpointError::UnknownOnion);
    }
    let (port, rest) = decode_port(rest)?;
    Ok((Endpoint::Tor { onion: *onion, port }, rest))
}

fn decode_port(payload: &[u8]) -> Result<(u16, &[u8]), EndpointError> {
    let (port, rest) = payload.split_first_chunk::<2>().ok_or(EndpointError::Truncated)?;
    Ok((u16::from_be_bytes(*port), rest))
}

fn decode_gateway(payload: &[u8]) -> Result<(Endpoint, &[u8]), EndpointError> {
    // An identity starts with 02 or 03, a presence byte is 01 here; 00 is nil in either era.
    let era = match payload.first() {
        Some(1) => GatewayEra::New68,
        _ => GatewayEra::Old66,
    };
    let (gateway, rest) = decode_identity(payload, era)?;
    let (target, rest) = decode_identity(rest, era)?;
    Ok((Endpoint::Gateway { gateway, target }, rest))
}

fn decode_identity(payload: &[u8], era: GatewayEra) -> Result<(Identity, &[u8]), EndpointError> {
    let bare = match era {
        GatewayEra::Old66 => payload,
        GatewayEra::New68 => match payload.split_first().ok_or(EndpointError::Truncated)? {
            (0, _) => return Err(EndpointError::MissingIdentity),
            (_, rest) => rest,
        },
    };
    let (bytes, rest) =
        bare.split_first_chunk::<{ Identity::BYTES }>().ok_or(EndpointError::Truncated)?;
    Ok((known(Identity::from_bytes(bytes)?)?, rest))
}

/// Refuses the zero identity, which nobody can dial.
fn known(identity: Identity) -> Result<Identity, EndpointError> {
    if identity.is_anyone() {
        return Err(EndpointError::MissingIdentity);
    }
    Ok(identity)
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// Reads `network:address`, split at the first colon; `inet` means `tcp`.
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (network, address) = text.split_once(':').ok_or(EndpointError::MissingNetwork)?;
        match network {
            "tcp" | "inet" => parse_socket(address).map(Self::Tcp),
            "tor" => parse_onion(address),
            "utp" => parse_socket(address).map(Self::Utp),
            "kcp" => parse_socket(address).map(Self::Kcp),
            "gw" => parse_gateway(address),
            _ => Err(EndpointError::UnknownNetwork),
        }
    }
}

fn parse_socket(address: &str) -> Result<SocketAddr, EndpointError> {
    let Ok(socket) = address.parse::<SocketAddr>() else {
        return Err(EndpointError::SocketText);
    };
    // Rebuilding drops the scope and flow label of IPv6, which the binary form cannot carry.
    Ok(SocketAddr::new(socket.ip().to_canonical(), socket.port()))
}

fn parse_onion(address: &str) -> Result<Endpoint, EndpointError> {
    let (host, port) = address.rsplit_once(':').ok_or(EndpointError::OnionText)?;
    let Ok(port) = port.parse() else {
        return Err(EndpointError::OnionText);
    };
    let name = host.strip_suffix(ONION_SUFFIX).ok_or(EndpointError::OnionText)?;
    if name.len() != ONION_TEXT_BYTES {
        return Err(EndpointError::OnionText);
    }
    let mut onion = [0; ONION_BYTES];
    // Eight characters carry five bytes, so both sides come out even.
    for (bytes, characters) in onion.chunks_exact_mut(5).zip(name.as_bytes().chunks_exact(8)) {
        let mut group = 0_u64;
        for character in characters {
            let lower = character.to_ascii_lowercase();
            let value = BASE32.iter().position(|known| *known == lower);
            group = (group << 5) | value.ok_or(EndpointError::OnionText)? as u64;
        }
        bytes.copy_from_slice(&group.to_be_bytes()[3..]);
    }
    if onion == [0; ONION_BYTES] {
        return Err(EndpointError::UnknownOnion);
    }
    Ok(Endpoint::Tor { onion, port })
}

fn parse_gateway(address: &str) -> Result<Endpoint, EndpointError> {
    let (gateway, target) = address.split_once(':').ok_or(EndpointError::GatewayText)?;
    let (gateway, target) = (known(gateway.parse()?)?, known(target.parse()?)?);
    if gateway == target {
        return Err(EndpointError::GatewayIsTarget);
    }
    Ok(Endpoint::Gateway { gateway, target })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.network(), Address(self))
    }
}

/// The address part alone.
struct Address<'a>(&'a Endpoint);

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Endpoint::Tcp(socket) | Endpoint::Utp(socket) | Endpoint::Kcp(socket) => {
                write!(f, "{}", SocketAddr::new(socket.ip().to_canonical(), socket.port()))
            }
            Endpoint::Tor { onion, port } => {
                for bytes in onion.chunks_exact(5) {
                    let group =
                        bytes.iter().fold(0_u64, |group, byte| (group << 8) | u64::from(*byte));
                    for position in (0..8).rev() {
                        let value = (group >> (5 * position)) & 31;
                        write!(f, "{}", char::from(BASE32[value as usize]))?;
                    }
                }
                write!(f, "{ONION_SUFFIX}:{port}")
            }
            Endpoint::Gateway { gateway, target } => write!(f, "{gateway}:{target}"),
        }
    }
}

/// Says why bytes or text are no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// The text names the same node as gateway and as target.
    #[error("gateway endpoint leads through the target itself")]
    GatewayIsTarget,
    /// The text of a gateway endpoint has no colon between its identities.
    #[error("gateway endpoint text is not two identities joined by a colon")]
    GatewayText,
    /// A gateway endpoint holds something that is no identity.
    #[error("gateway endpoint: {0}")]
    Identity(#[from] IdentityError),
    /// An IP address is announced with a length other than 4 or 16.
    #[error("IP address is announced with {bytes} bytes")]
    IpLength {
        /// The announced length.
        bytes: u8,
    },
    /// A gateway endpoint leaves one of its identities out.
    #[error("gateway endpoint lacks an identity")]
    MissingIdentity,
    /// The text has no colon after its network.
    #[error("endpoint text names no network")]
    MissingNetwork,
    /// The text of an onion endpoint is not 56 base32 characters, `.onion` and a port.
    #[error("onion endpoint text is not 56 base32 characters, `.onion:` and a port")]
    OnionText,
    /// The text of a TCP, uTP or KCP endpoint is not an IP address and a port.
    #[error("endpoint text is not an IP address and a port")]
    SocketText,
    /// The payload ends before the endpoint does.
    #[error("endpoint payload ends early")]
    Truncated,
    /// The text names a network that is none of ours.
    #[error("endpoint text names an unknown network")]
    UnknownNetwork,
    /// The onion address is all zero, which stock nodes write for "not known" (spec §12).
    #[error("onion address is not known")]
    UnknownOnion,
    /// The type name is none of the endpoint types.
    #[error("object type is no endpoint")]
    UnknownType,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::SecretKey;
    use crate::limits::ENDPOINT_PAYLOAD_MAX_BYTES;

    fn identity(byte: u8) -> Identity {
        SecretKey::from_bytes(&[byte; 32]).unwrap().identity()
    }

    fn payload(endpoint: &Endpoint, era: GatewayEra) -> Vec<u8> {
        let mut out = Vec::new();
        endpoint.encode_payload(era, &mut out);
        out
    }

    fn any_socket() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((ip, port))),
            (any::<[u8; 16]>(), any::<u16>())
                .prop_map(|(ip, port)| { SocketAddr::new(IpAddr::from(ip).to_canonical(), port) }),
        ]
    }

    fn any_endpoint() -> impl Strategy<Value = Endpoint> {
        prop_oneof![
            any_socket().prop_map(Endpoint::Tcp),
            any_socket().prop_map(Endpoint::Utp),
            any_socket().prop_map(Endpoint::Kcp),
            (proptest::array::uniform32(any::<u8>()), any::<[u8; 3]>(), any::<u16>()).prop_map(
                |(key, tail, port)| {
                    let mut onion = [1; ONION_BYTES];
                    onion[..32].copy_from_slice(&key);
                    onion[32..34].copy_from_slice(&tail[..2]);
                    Endpoint::Tor { onion, port }
                }
            ),
            (1..100_u8, 100..200_u8).prop_map(|(gateway, target)| Endpoint::Gateway {
                gateway: identity(gateway),
                target: identity(target),
            }),
        ]
    }

    #[test]
    fn mapped_ipv4_is_written_and_read_as_ipv4() {
        let mapped = Endpoint::Tcp("[::ffff:203.0.113.7]:41000".parse().unwrap());
        let plain: Endpoint = "tcp:203.0.113.7:41000".parse().unwrap();
        assert_eq!(payload(&mapped, GatewayEra::New68), payload(&plain, GatewayEra::New68));
        assert_eq!(mapped.to_string(), plain.to_string());
        assert_eq!("tcp:[::ffff:203.0.113.7]:41000".parse(), Ok(plain.clone()));
        let wire = hex::decode("1000000000000000000000ffffcb007107a028").unwrap();
        assert_eq!(Endpoint::decode_payload(TCP_TYPE, &wire), Ok((plain, 19)));
    }

    #[test]
    fn onion_address_survives_its_text() {
        // The onion service of the Tor project's website.
        let text = "tor:2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion:1791";
        let endpoint: Endpoint = text.parse().unwrap();
        let Endpoint::Tor { onion, port } = endpoint.clone() else { panic!("{endpoint:?}") };
        assert_eq!((onion[34], port), (3, 1791));
        assert_eq!(endpoint.to_string(), text);
        let upper = text.replace("2gzyxa5ihm", "2GZYXA5IHM");
        assert_eq!(upper.parse(), Ok(endpoint));
    }

    #[test]
    fn inet_is_another_word_for_tcp() {
        assert_eq!("inet:1.2.3.4:5".parse::<Endpoint>(), "tcp:1.2.3.4:5".parse());
    }

    #[test]
    fn malformed_text_names_its_fault() {
        let (one, two) = (identity(1), identity(2));
        let zeros = "a".repeat(56);
        for (text, error) in [
            (String::new(), EndpointError::MissingNetwork),
            ("tcp".into(), EndpointError::MissingNetwork),
            ("quic:1.2.3.4:5".into(), EndpointError::UnknownNetwork),
            ("tcp:".into(), EndpointError::SocketText),
            ("tcp:1.2.3.4".into(), EndpointError::SocketText),
            ("tcp:1.2.3.4:65536".into(), EndpointError::SocketText),
            ("tcp:localhost:80".into(), EndpointError::SocketText),
            ("utp:2001:db8::1:80".into(), EndpointError::SocketText),
            ("tor:abc.onion:80".into(), EndpointError::OnionText),
            (format!("tor:{zeros}.onion"), EndpointError::OnionText),
            (format!("tor:{zeros}.onion:80"), EndpointError::UnknownOnion),
            (format!("tor:{}1.onion:80", &zeros[1..]), EndpointError::OnionText),
            (format!("gw:{one}"), EndpointError::GatewayText),
            (format!("gw:{one}:{one}"), EndpointError::GatewayIsTarget),
            (format!("gw:anyone:{two}"), EndpointError::MissingIdentity),
            (
                format!("gw:{one}:{two}0"),
                EndpointError::Identity(IdentityError::TextLength { bytes: 67 }),
            ),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text}");
        }
    }

    #[test]
    fn malformed_payload_names_its_fault() {
        let decode =
            |type_name, wire: &[u8]| Endpoint::decode_payload(type_name, wire).unwrap_err();
        assert_eq!(decode("mod.quic.endpoint", &[]), EndpointError::UnknownType);
        assert_eq!(decode(TCP_TYPE, &[0, 0, 0]), EndpointError::IpLength { bytes: 0 });
        assert_eq!(decode(UTP_TYPE, &[5; 40]), EndpointError::IpLength { bytes: 5 });
        assert_eq!(decode(TOR_TYPE, &[0; 37]), EndpointError::UnknownOnion);
        assert_eq!(decode(GATEWAY_TYPE, &[0; 66]), EndpointError::MissingIdentity);
        let mut nil_target = vec![1];
        nil_target.extend_from_slice(identity(1).as_bytes());
        nil_target.push(0);
        assert_eq!(decode(GATEWAY_TYPE, &nil_target), EndpointError::MissingIdentity);
        nil_target.pop();
        nil_target.extend_from_slice(&[1; 34]);
        let error = EndpointError::Identity(IdentityError::NotAPoint);
        assert_eq!(decode(GATEWAY_TYPE, &nil_target), error);
    }

    proptest! {
        #[test]
        fn every_endpoint_survives_text_and_payload(
            endpoint in any_endpoint(),
            tail in any::<[u8; 3]>(),
        ) {
            prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint.clone()));
            let text = format!("{}:{}", endpoint.network(), endpoint.address());
            prop_assert_eq!(text, endpoint.to_string());
            for era in [GatewayEra::Old66, GatewayEra::New68] {
                let mut wire = payload(&endpoint, era);
                let bytes = wire.len();
                prop_assert!(bytes <= ENDPOINT_PAYLOAD_MAX_BYTES);
                wire.extend_from_slice(&tail);
                let decoded = Endpoint::decode_payload(endpoint.type_name(), &wire);
                prop_assert_eq!(decoded, Ok((endpoint.clone(), bytes)));
                for cut in 0..bytes {
                    let decoded = Endpoint::decode_payload(endpoint.type_name(), &wire[..cut]);
                    prop_assert_eq!(decoded, Err(EndpointError::Truncated));
                }
            }
        }

        #[test]
        fn any_bytes_decode_without_panic(kind in 0..5_usize, wire in any::<Vec<u8>>()) {
            let types = [TCP_TYPE, TOR_TYPE, UTP_TYPE, KCP_TYPE, GATEWAY_TYPE];
            if let Ok((_, consumed)) = Endpoint::decode_payload(types[kind], &wire) {
                prop_assert!(consumed <= wire.len());
            }
        }
    }
}
