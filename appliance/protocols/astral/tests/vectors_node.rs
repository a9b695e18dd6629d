//! Replays the node vectors of the link specification: node info strings, key files, endpoints.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its vectors has failed")]

use std::sync::LazyLock;

use serde_json::Value;
use waystation_astral::endpoint::{Endpoint, GatewayEra};
use waystation_astral::identity::{Identity, SecretKey};
use waystation_astral::key_file;
use waystation_astral::node_info::NodeInfo;
use waystation_astral::object::{AnswerObject, AnswerWriter, Encoding};
use waystation_astral::objects::{LinkInfo, StreamEra, StreamInfo};

static VECTORS: LazyLock<Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/astral-vectors.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
});

fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap_or_else(|| panic!("vector lacks {name}"))
}

fn bytes(vector: &Value, name: &str) -> Vec<u8> {
    hex::decode(text(vector, name)).unwrap()
}

fn payload(endpoint: &Endpoint, era: GatewayEra) -> Vec<u8> {
    let mut out = Vec::new();
    endpoint.encode_payload(era, &mut out);
    out
}

/// Splits a short form, `s8(type)` and payload.
fn short_form(wire: &[u8]) -> (&str, &[u8]) {
    let (name, payload) = wire[1..].split_at(usize::from(wire[0]));
    (str::from_utf8(name).unwrap(), payload)
}

/// Writes the binary form from the parts of a description, independently of the crate's own.
fn binary(info: &NodeInfo) -> Vec<u8> {
    let mut out = vec![info.alias.len() as u8];
    out.extend_from_slice(info.alias.as_bytes());
    out.extend_from_slice(info.identity.as_bytes());
    out.push(info.endpoints.len() as u8);
    for endpoint in &info.endpoints {
        let tag = ["tcp", "tor", "gw"].iter().position(|name| *name == endpoint.network());
        out.push(tag.unwrap() as u8);
        out.extend(payload(endpoint, GatewayEra::Old66));
    }
    out
}

#[test]
fn node_info_vectors_read_and_write() {
    let entries = VECTORS["node_info"].as_array().unwrap();
    assert_eq!(entries.len(), 5);
    for entry in entries {
        let info: NodeInfo = text(entry, "text").parse().unwrap();
        assert_eq!(binary(&info), bytes(entry, "binary"));
        assert_eq!(info.to_string(), text(entry, "text"));
        if let Some(alias) = entry["alias"].as_str() {
            assert_eq!(info.alias, alias);
            assert_eq!(info.identity.to_string(), text(entry, "id"));
        }
    }
}

#[test]
fn upstream_constant_names_the_public_gateway() {
    let info: NodeInfo = text(&VECTORS["node_info"][0], "text").parse().unwrap();
    assert_eq!(info.alias, "gateway0");
    assert_eq!(info.endpoints, ["tcp:193.168.141.224:1791".parse().unwrap()]);
}

#[test]
fn key_files_of_every_era_read_as_the_same_key() {
    let files = &VECTORS["node_key_files"];
    let identity: Identity = text(files, "identity").parse().unwrap();
    let canonical = "41444330106b6579732e707269766174655f6b65790f65636473612d736563703235366b3120";
    let old = hex::decode(canonical.to_owned() + text(files, "scalar")).unwrap();
    for file in [bytes(files, "node_identity_raw"), bytes(files, "node_key"), old] {
        let key = key_file::read(&file).unwrap();
        assert_eq!(key.identity(), identity);
        assert_eq!(key.expose_bytes()[..], bytes(files, "scalar"));
        assert_eq!(*key_file::write(&key), bytes(files, "node_key"));
    }
    let scalar = bytes(files, "scalar").try_into().unwrap();
    assert_eq!(SecretKey::from_bytes(&scalar).unwrap().identity(), identity);
}

#[test]
fn tcp_endpoint_vectors_read_and_write() {
    for name in ["tcp_endpoint", "tcp_endpoint_ipv6"] {
        let vector = &VECTORS["gateway"][name];
        let endpoint: Endpoint = text(vector, "text").parse().unwrap();
        let wire = bytes(vector, "payload");
        assert_eq!(endpoint.to_string(), text(vector, "text"));
        assert_eq!(payload(&endpoint, GatewayEra::New68), wire);
        let decoded = Endpoint::decode_payload(endpoint.type_name(), &wire);
        assert_eq!(decoded, Ok((endpoint, wire.len())));
    }
    let wire = bytes(&VECTORS["gateway"]["tcp_endpoint"], "short_form");
    let (type_name, rest) = short_form(&wire);
    let (endpoint, consumed) = Endpoint::decode_payload(type_name, rest).unwrap();
    assert_eq!(endpoint.to_string(), text(&VECTORS["gateway"]["tcp_endpoint"], "text"));
    assert_eq!(consumed, rest.len());
}

#[test]
fn gateway_endpoint_vectors_of_both_eras_read_and_write() {
    let eras =
        [("endpoint_old_66", GatewayEra::Old66, 66), ("endpoint_new_68", GatewayEra::New68, 68)];
    for (name, era, length) in eras {
        let vector = &VECTORS["gateway"][name];
        let endpoint = Endpoint::Gateway {
            gateway: text(vector, "gateway").parse().unwrap(),
            target: text(vector, "target").parse().unwrap(),
        };
        let wire = bytes(vector, "payload");
        assert_eq!(wire.len(), length);
        assert_eq!(payload(&endpoint, era), wire);
        let decoded = Endpoint::decode_payload("mod.gateway.endpoint", &wire);
        assert_eq!(decoded, Ok((endpoint.clone(), length)));
        if let Some(full) = vector["text"].as_str() {
            assert_eq!(endpoint.to_string(), full);
            assert_eq!(full.parse(), Ok(endpoint.clone()));
        }
        if vector["short_form"].is_string() {
            let short = bytes(vector, "short_form");
            assert_eq!(short_form(&short), (endpoint.type_name(), &wire[..]));
        }
    }
}

#[test]
fn endpoints_inside_other_objects_read_and_report_what_they_took() {
    let gateway = &VECTORS["gateway"];
    // Type name, u32 payload length, payload: a short form with a nonce or lifetime behind it.
    let cases = [
        (bytes(&gateway["socket_object"], "c2"), text(&gateway["socket_object"], "endpoint"), 8),
        (bytes(gateway, "endpoint_with_ttl_90d"), "tcp:203.0.113.7:41000", 5),
        (bytes(gateway, "observed_endpoint_c2"), "tcp:203.0.113.7:41000", 0),
    ];
    for (wire, expected, surplus) in cases {
        let (_, framed) = short_form(&wire);
        let (type_name, payload) = short_form(&framed[4..]);
        let (endpoint, consumed) = Endpoint::decode_payload(type_name, payload).unwrap();
        assert_eq!(endpoint.to_string(), expected);
        assert_eq!(payload.len() - consumed, surplus);
    }
}

/// The line with which the stock node of a recorded conversation answered a listing of links.
fn listed_link(profile: &str) -> String {
    let conversations = VECTORS["conversations"].as_array().unwrap();
    let recorded = conversations.iter().filter(|it| it["profile"] == profile);
    let frames = recorded.flat_map(|it| it["events"].as_array().unwrap());
    let mut lines = frames.filter_map(|event| {
        let frame = hex::decode(event["hex"].as_str()?).ok()?;
        let start = frame.windows(2).position(|pair| pair == b"{\"")?;
        let line = String::from_utf8(frame[start..].to_vec()).ok()?;
        line.contains("_info\"").then_some(line)
    });
    lines.next_back().unwrap_or_else(|| panic!("no listing recorded for {profile}"))
}

fn bare_endpoint(value: &Value) -> Option<Endpoint> {
    value.as_str().map(|address| format!("tcp:{address}").parse().unwrap())
}

fn written(object: &dyn AnswerObject) -> String {
    let mut writer = AnswerWriter::new(Encoding::Json);
    writer.write(object).unwrap();
    String::from_utf8(writer.into_bytes()).unwrap()
}

#[test]
fn listed_links_are_written_as_stock_nodes_wrote_them() {
    for (profile, type_name) in [
        ("P0", "mod.nodes.stream_info"),
        ("P2", "mod.nodes.stream_info"),
        ("P4", "mod.nodes.link_info"),
    ] {
        let line = listed_link(profile);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["Type"], type_name);
        let of_p0 = profile == "P0";
        let object = &value["Object"];
        let end =
            |name: &str| bare_endpoint(if of_p0 { &object[name] } else { &object[name]["Object"] });
        let link = LinkInfo {
            id: match object["ID"].as_str() {
                Some(nonce) => u64::from_str_radix(nonce, 16).unwrap(),
                None => object["ID"].as_u64().unwrap(),
            },
            local_identity: text(object, "LocalIdentity").parse().unwrap(),
            remote_identity: text(object, "RemoteIdentity").parse().unwrap(),
            local_endpoint: end("LocalEndpoint"),
            remote_endpoint: end("RemoteEndpoint"),
            outbound: false,
            network: "tcp".to_owned(),
            high_pressure: false,
            throughput_bytes: 0,
        };
        let ours = match profile {
            "P0" => written(&StreamInfo { link, era: StreamEra::P0 }),
            "P2" => written(&StreamInfo { link, era: StreamEra::Late }),
            _ => written(&link),
        };
        assert_eq!(ours, line);
    }
}
