//! The portable description of a node, `node1…`: alias, identity and endpoints in one word
//! (spec §2.1).
//!
//! Operators paste it into configuration and read it off the status page; the management core alone
//! uses it. Reading is bounded by the longest text that can mean something.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::endpoint::{Endpoint, EndpointError, GatewayEra};
use crate::identity::{Identity, IdentityError};
use crate::limits::{
    NODE_ALIAS_MAX_BYTES, NODE_ENDPOINTS_MAX, NODE_INFO_MAX_BYTES, NODE_INFO_TEXT_MAX_BYTES,
};

/// What every node info string starts with.
const PREFIX: &str = "node1";
/// The base62 digits in order of value.
const BASE62: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// A 6-bit value with these bits set is written as a digit of 5 bits.
const SHORT_MASK: u8 = 0b01_1110;
/// The largest value of a 5-bit digit.
const SHORT_MAX: u8 = 0b01_1111;

/// Object type names by the tag that stands for them (spec §2.1). Stock nodes refuse to read tag 3,
/// although nodes of the P0 era wrote it.
const TYPES_BY_TAG: [&str; 4] =
    ["mod.tcp.endpoint", "mod.tor.endpoint", "mod.gateway.endpoint", "mod.utp.endpoint"];

/// Describes a node: what it is called, who it is and where it can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// What its operator calls it; at most 255 bytes are written.
    pub alias: String,
    /// Who it is.
    pub identity: Identity,
    /// Where it can be reached; at most 255 are written.
    pub endpoints: Vec<Endpoint>,
}

impl fmt::Display for NodeInfo {
    /// Writes the `node1…` form. What the form cannot say is left out: the end of an alias over 255
    /// bytes, endpoints beyond the 255th, and uTP and KCP endpoints, which would make the whole
    /// string unreadable to stock nodes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        f.write_str(&encode_base62(&self.to_bytes()))
    }
}

impl NodeInfo {
    fn to_bytes(&self) -> Vec<u8> {
        let alias = &self.alias[..self.alias.floor_char_boundary(NODE_ALIAS_MAX_BYTES)];
        let mut bytes = vec![alias.len() as u8];
        bytes.extend_from_slice(alias.as_bytes());
        bytes.extend_from_slice(self.identity.as_bytes());
        let tagged = || {
            let tagged = self.endpoints.iter().filter_map(|endpoint| {
                let tag = match endpoint {
                    Endpoint::Tcp(_) => 0,
                    Endpoint::Tor { .. } => 1,
                    Endpoint::Gateway { .. } => 2,
                    Endpoint::Utp(_) | Endpoint::Kcp(_) => return None,
                };
                Some((tag, endpoint))
            });
            tagged.take(NODE_ENDPOINTS_MAX)
        };
        bytes.push(tagged().count() as u8);
        for (tag, endpoint) in tagged() {
            bytes.push(tag);
            endpoint.encode_payload(GatewayEra::Old66, &mut bytes);
        }
        bytes
    }
}

impl FromStr for NodeInfo {
    type Err = NodeInfoError;

    /// Reads the `node1…` form; tag 3, uTP, is understood although stock nodes no longer do.
    fn from_str(text: &str) -> Result<Self, NodeInfoError> {
        let digits = text.strip_prefix(PREFIX).ok_or(NodeInfoError::Prefix)?;
        if digits.len() > NODE_INFO_TEXT_MAX_BYTES {
            return Err(NodeInfoError::TooLong { bytes: digits.len() });
        }
        let bytes = decode_base62(digits)?;
        let (alias_bytes, rest) = bytes.split_first().ok_or(NodeInfoError::Truncated)?;
        let (alias, rest) =
            rest.split_at_checked(usize::from(*alias_bytes)).ok_or(NodeInfoError::Truncated)?;
        let Ok(alias) = str::from_utf8(alias) else {
            return Err(NodeInfoError::Alias);
        };
        let (identity, rest) = rest.split_first_chunk().ok_or(NodeInfoError::Truncated)?;
        let identity = Identity::from_bytes(identity)?;
        let (count, mut rest) = rest.split_first().ok_or(NodeInfoError::Truncated)?;
        let mut endpoints = Vec::with_capacity(usize::from(*count));
        for index in 0..*count {
            let (tag, payload) = rest.split_first().ok_or(NodeInfoError::Truncated)?;
            let type_name = TYPES_BY_TAG
                .get(usize::from(*tag))
                .ok_or(NodeInfoError::Tag { index, tag: *tag })?;
            let (endpoint, bytes) = Endpoint::decode_payload(type_name, payload)
                .map_err(|error| NodeInfoError::Endpoint { index, error })?;
            endpoints.push(endpoint);
            rest = payload.get(bytes..).ok_or(NodeInfoError::Truncated)?;
        }
        if !rest.is_empty() {
            return Err(NodeInfoError::Surplus { bytes: rest.len() });
        }
        Ok(Self { alias: alias.to_owned(), identity, endpoints })
    }
}

/// Writes bytes as base62 of variable length: the lowest bits first, 5 or 6 to a digit.
fn encode_base62(bytes: &[u8]) -> String {
    let mut text = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let mut left_bits = bytes.len() * 8;
    let mut source = bytes.iter().rev();
    let (mut buffer, mut buffered_bits) = (0_u32, 0_usize);
    while left_bits > 0 {
        while buffered_bits < 6.min(left_bits) {
            buffer |= u32::from(source.next().copied().unwrap_or_default()) << buffered_bits;
            buffered_bits += 8;
        }
        let value = (buffer & 0b11_1111) as u8;
        let six_bits = 6.min(left_bits);
        let is_last = left_bits == six_bits;
        let is_short = value & SHORT_MASK == SHORT_MASK && !(is_last && value <= SHORT_MAX);
        let (digit, bits) = if is_short { (value & SHORT_MAX, 5) } else { (value, six_bits) };
        text.push(char::from(BASE62[usize::from(digit)]));
        buffer >>= bits;
        buffered_bits -= bits;
        left_bits -= bits;
    }
    text
}

/// Reads what [`encode_base62`] writes. Bits that do not fill a byte are taken for the low bits of
/// the first one.
fn decode_base62(text: &str) -> Result<Vec<u8>, NodeInfoError> {
    let mut reversed = Vec::with_capacity((text.len() * 6).div_ceil(8).min(NODE_INFO_MAX_BYTES));
    let (mut buffer, mut buffered_bits) = (0_u32, 0_u32);
    let mut digits = text.bytes().peekable();
    while let Some(character) = digits.next() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            _ => return Err(NodeInfoError::Digit { byte: character }),
        };
        let bits = if digits.peek().is_none() {
            // The last digit has as many bits as its value needs.
            u8::BITS - value.leading_zeros()
        } else if value & SHORT_MASK == SHORT_MASK {
            5
        } else {
            6
        };
        buffer |= u32::from(value) << buffered_bits;
        buffered_bits += bits;
        if buffered_bits >= 8 {
            reversed.push(buffer as u8);
            buffer >>= 8;
            buffered_bits -= 8;
        }
    }
    if buffered_bits > 0 {
        reversed.push(buffer as u8);
    }
    reversed.reverse();
    Ok(reversed)
}

/// Says why a text is no node info string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NodeInfoError {
    /// The alias is not UTF-8.
    #[error("node info has an alias that is not UTF-8")]
    Alias,
    /// A character is no base62 digit.
    #[error("node info holds byte {byte:#04x}, which is no base62 digit")]
    Digit {
        /// The offending byte.
        byte: u8,
    },
    /// An endpoint is malformed.
    #[error("node info, endpoint {index}: {error}")]
    Endpoint {
        /// Which one, from 0.
        index: u8,
        /// What is wrong with it.
        error: EndpointError,
    },
    /// The identity is malformed.
    #[error("node info: {0}")]
    Identity(#[from] IdentityError),
    /// The text does not start with `node1`.
    #[error("node info does not start with `{PREFIX}`")]
    Prefix,
    /// Bytes follow the last endpoint.
    #[error("node info has {bytes} bytes after its last endpoint")]
    Surplus {
        /// How many.
        bytes: usize,
    },
    /// An endpoint has a tag that nobody defined; nothing behind it can be read (spec §2.1).
    #[error("node info, endpoint {index}: tag {tag} is unknown")]
    Tag {
        /// Which one, from 0.
        index: u8,
        /// Its tag.
        tag: u8,
    },
    /// The text is longer than the longest that can mean something.
    #[error("node info is {bytes} characters long, more than {NODE_INFO_TEXT_MAX_BYTES}")]
    TooLong {
        /// Characters after the prefix.
        bytes: usize,
    },
    /// The text ends early.
    #[error("node info ends early")]
    Truncated,
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::identity::SecretKey;

    fn identity(byte: u8) -> Identity {
        SecretKey::from_bytes(&[byte; 32]).unwrap().identity()
    }

    fn node(alias: &str, endpoints: Vec<Endpoint>) -> NodeInfo {
        NodeInfo { alias: alias.to_owned(), identity: identity(1), endpoints }
    }

    fn text_of(bytes: &[u8]) -> String {
        format!("{PREFIX}{}", encode_base62(bytes))
    }

    fn any_endpoint() -> impl Strategy<Value = Endpoint> {
        prop_oneof![
            any::<([u8; 4], u16)>().prop_map(|pair| Endpoint::Tcp(pair.into())),
            any::<u16>().prop_map(|port| Endpoint::Tor { onion: [port as u8 | 1; 35], port }),
            (1..50_u8, 50..99_u8).prop_map(|(gateway, target)| Endpoint::Gateway {
                gateway: identity(gateway),
                target: identity(target),
            }),
        ]
    }

    #[test]
    fn what_stock_nodes_cannot_read_is_left_out() {
        let tcp: Endpoint = "tcp:203.0.113.7:1".parse().unwrap();
        let all = ["kcp:203.0.113.7:1", "tcp:203.0.113.7:1", "utp:203.0.113.7:1"];
        let info = node("a", all.map(|text| text.parse().unwrap()).to_vec());
        assert_eq!(info.to_string().parse(), Ok(node("a", vec![tcp])));
    }

    #[test]
    fn utp_of_old_nodes_is_read() {
        let mut bytes = node("a", Vec::new()).to_bytes();
        bytes.pop();
        bytes.extend_from_slice(&[1, 3, 4, 203, 0, 113, 7, 0, 1]);
        let endpoint = "utp:203.0.113.7:1".parse().unwrap();
        assert_eq!(text_of(&bytes).parse(), Ok(node("a", vec![endpoint])));
    }

    #[test]
    fn alias_and_endpoints_beyond_the_limits_are_cut_off() {
        let tcp: Endpoint = "tcp:203.0.113.7:1".parse().unwrap();
        let info = node(&"é".repeat(200), vec![tcp.clone(); 300]);
        let expected = node(&"é".repeat(127), vec![tcp; NODE_ENDPOINTS_MAX]);
        assert_eq!(info.to_string().parse(), Ok(expected));
    }

    #[test]
    fn longest_description_fits_the_limits() {
        let gateway = Endpoint::Gateway { gateway: identity(2), target: identity(3) };
        let info = node(&"x".repeat(255), vec![gateway; 255]);
        assert!(info.to_bytes().len() <= NODE_INFO_MAX_BYTES);
        assert!(info.to_string().len() <= PREFIX.len() + NODE_INFO_TEXT_MAX_BYTES);
        assert_eq!(info.to_string().parse(), Ok(info));
        let longer = format!("{PREFIX}{}", "A".repeat(NODE_INFO_TEXT_MAX_BYTES + 1));
        let bytes = NODE_INFO_TEXT_MAX_BYTES + 1;
        assert_eq!(longer.parse::<NodeInfo>(), Err(NodeInfoError::TooLong { bytes }));
    }

    #[test]
    fn malformed_text_names_its_fault() {
        let good = node("a", vec!["tcp:203.0.113.7:1".parse().unwrap()]).to_bytes();
        let parse = |text: &str| text.parse::<NodeInfo>().unwrap_err();
        assert_eq!(parse("node2AAAA"), NodeInfoError::Prefix);
        assert_eq!(parse("node1"), NodeInfoError::Truncated);
        assert_eq!(parse("node1AB-C"), NodeInfoError::Digit { byte: b'-' });
        let change = |index: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[index] = byte;
            parse(&text_of(&bytes))
        };
        assert_eq!(change(1, 0xff), NodeInfoError::Alias);
        assert_eq!(change(2, 0x04), NodeInfoError::Identity(IdentityError::NotAPoint));
        assert_eq!(change(35, 0), NodeInfoError::Surplus { bytes: 8 });
        assert_eq!(change(35, 2), NodeInfoError::Truncated);
        assert_eq!(change(36, 4), NodeInfoError::Tag { index: 0, tag: 4 });
        let error = EndpointError::IpLength { bytes: 9 };
        assert_eq!(change(37, 9), NodeInfoError::Endpoint { index: 0, error });
        for cut in 1..good.len() {
            assert!(text_of(&good[..cut]).parse::<NodeInfo>().is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn bytes_survive_base62(
            bytes in vec(prop_oneof![Just(0), Just(0xff), any::<u8>()], 0..99),
        ) {
            let text = encode_base62(&bytes);
            prop_assert!(text.len() <= (bytes.len() * 8).div_ceil(5));
            prop_assert_eq!(decode_base62(&text), Ok(bytes));
        }

        #[test]
        fn node_info_survives_its_text(
            alias in "\\PC{0,60}",
            endpoints in vec(any_endpoint(), 0..6),
        ) {
            let info = node(&alias, endpoints);
            prop_assert_eq!(info.to_string().parse(), Ok(info));
        }

        #[test]
        fn any_text_reads_without_panic(
            text in "(node1)?\\PC{0,200}",
            word in "node1[A-Za-z0-9]{0,200}",
        ) {
            let _ = text.parse::<NodeInfo>();
            let _ = word.parse::<NodeInfo>();
        }
    }
}
