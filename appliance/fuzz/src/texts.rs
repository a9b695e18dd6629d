//! Endpoints, node descriptions and key files: what is read is written, and reads as the same.

use std::str::FromStr;

use waystation_astral::endpoint::{Endpoint, GatewayEra};
use waystation_astral::key_file as keys;
use waystation_astral::node_info::NodeInfo;

/// Type names of endpoints (spec §12).
const ENDPOINT_TYPES: [&str; 5] = [
    "mod.tcp.endpoint",
    "mod.tor.endpoint",
    "mod.utp.endpoint",
    "mod.kcp.endpoint",
    "mod.gateway.endpoint",
];
/// The base62 digits in order of value (spec §2.1).
const BASE62: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Reads the input as an endpoint's text, and as the payload of every kind of endpoint.
pub fn endpoint(input: &[u8]) {
    if let Some(endpoint) = parsed::<Endpoint>(input) {
        check_endpoint(&endpoint);
        let text = endpoint.to_string();
        assert_eq!(text.parse().as_ref(), Ok(&endpoint));
        assert_eq!(text, format!("{}:{}", endpoint.network(), endpoint.address()));
    }
    for type_name in ENDPOINT_TYPES {
        let Ok((endpoint, bytes)) = Endpoint::decode_payload(type_name, input) else { continue };
        assert!(0 < bytes && bytes <= input.len());
        assert_eq!(endpoint.type_name(), type_name);
        check_endpoint(&endpoint);
    }
}

fn check_endpoint(endpoint: &Endpoint) {
    for era in [GatewayEra::Old66, GatewayEra::New68] {
        let mut payload = Vec::new();
        endpoint.encode_payload(era, &mut payload);
        let again = Endpoint::decode_payload(endpoint.type_name(), &payload);
        assert_eq!(again.as_ref(), Ok(&(endpoint.clone(), payload.len())));
    }
}

/// Reads the input as a `node1…` text, and as the bytes that such a text stands for.
pub fn node_info(input: &[u8]) {
    if let Some(info) = parsed::<NodeInfo>(input) {
        check_node_info(info);
    }
    if let Ok(info) = format!("node1{}", encode_base62(input)).parse() {
        check_node_info(info);
    }
}

fn check_node_info(mut info: NodeInfo) {
    let again: NodeInfo = info.to_string().parse().expect("what is written can be read");
    // Stock nodes cannot read these, so they are not written.
    info.endpoints.retain(|it| !matches!(it, Endpoint::Utp(_) | Endpoint::Kcp(_)));
    assert_eq!(again, info);
}

/// Writes bytes as base62 of variable length, as spec §2.1 says it, bit by bit.
fn encode_base62(bytes: &[u8]) -> String {
    let bit = |index: usize| (bytes[bytes.len() - 1 - index / 8] >> (index % 8)) & 1;
    let all = bytes.len() * 8;
    let mut text = String::new();
    let mut taken = 0;
    while taken < all {
        let left = (all - taken).min(6);
        let value = (0..left).fold(0, |value, index| value | bit(taken + index) << index);
        let is_last = taken + left == all;
        let is_short = value & 0b01_1110 == 0b01_1110 && !(is_last && value <= 31);
        let (value, bits) = if is_short { (value & 31, 5) } else { (value, left) };
        text.push(char::from(BASE62[usize::from(value)]));
        taken += bits;
    }
    text
}

/// Reads the input as a key file.
pub fn key_file(input: &[u8]) {
    let Ok(key) = keys::read(input) else { return };
    let again = keys::read(&keys::write(&key)).expect("what is written can be read");
    assert_eq!(again.identity(), key.identity());
    assert_eq!(again.expose_bytes(), key.expose_bytes());
    assert!(input.ends_with(key.expose_bytes()), "the key is not the file's last 32 bytes");
}

fn parsed<T: FromStr>(input: &[u8]) -> Option<T> {
    str::from_utf8(input).ok()?.parse().ok()
}
