//! `/v1/udp`: what is relayed over UDP, from the listings of the data cores.
//!
//! A pure function, called on the management thread. Rows name their kind; peers' addresses are in
//! none of them.

use crate::documents::{CoreListing, answered, table};
use serde_json::{Value, json};
use std::net::SocketAddr;
use waystation_engine::control::AllocationRow;
use waystation_turn::transport::Transport;

/// The document: at most `limit` rows, in order of core and place.
pub(crate) fn udp(listings: &[CoreListing], limit: usize) -> Value {
    let rows = answered(listings).flat_map(|listing| &listing.allocations);
    let rows: Vec<_> = rows.take(limit).map(allocation).collect();
    let total = answered(listings).map(|listing| listing.allocations_total).sum();
    table("udp", rows, total, listings)
}

fn allocation(row: &AllocationRow) -> Value {
    let transport = match row.client.transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    };
    json!({
        "kind": "turn",
        "core": row.core.0,
        "client": row.client.client.to_string(),
        "server": row.client.server.to_string(),
        "transport": transport,
        "user": row.username,
        "relayed": row.relayed.iter().flatten().map(SocketAddr::to_string).collect::<Vec<_>>(),
        "permissions": row.permissions,
        "channels": row.channels,
        "expires_in_ns": row.left_ns,
        "tier": row.tier.name(),
        "datagrams_to_peers": row.datagrams_to_peers,
        "bytes_to_peers": row.bytes_to_peers,
        "datagrams_to_client": row.datagrams_to_client,
        "bytes_to_client": row.bytes_to_client,
        "datagrams_in_trains": row.datagrams_in_trains,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_engine::control::Listing;
    use waystation_engine::port::datagrams::UdpTier;
    use waystation_relay::ids::CoreId;
    use waystation_turn::transport::FiveTuple;

    pub(crate) fn listings() -> Vec<CoreListing> {
        let client = FiveTuple {
            transport: Transport::Udp,
            client: "192.0.2.7:4242".parse().unwrap(),
            server: "198.51.100.1:3478".parse().unwrap(),
        };
        let row = AllocationRow {
            core: CoreId(0),
            client,
            username: "alice".into(),
            relayed: [Some("198.51.100.1:50000".parse().unwrap()), None],
            permissions: 2,
            channels: 1,
            left_ns: 590_000_000_000,
            tier: UdpTier::Gso,
            datagrams_to_peers: 10,
            bytes_to_peers: 12_000,
            datagrams_to_client: 20,
            bytes_to_client: 24_000,
            datagrams_in_trains: 25,
        };
        let listing =
            Listing { allocations: vec![row], allocations_total: 3, ..Listing::default() };
        vec![
            CoreListing { core: CoreId(0), listing: Some(Box::new(listing)) },
            CoreListing { core: CoreId(1), listing: None },
        ]
    }

    #[test]
    fn rows_say_who_is_relayed_and_how() {
        let document = udp(&listings(), 10);
        assert_eq!(document["total"], 3);
        assert_eq!(document["truncated"], true);
        assert_eq!(document["cores_missing"], json!([1]));
        let row = &document["udp"][0];
        assert_eq!(row["client"], "192.0.2.7:4242");
        assert_eq!(row["relayed"], json!(["198.51.100.1:50000"]));
        assert_eq!((&row["tier"], &row["user"]), (&json!("gso"), &json!("alice")));
        assert_eq!(row["datagrams_in_trains"], 25);
    }

    #[test]
    fn rendered_rows_fit_a_terminal() {
        let text = crate::render::udp(&udp(&listings(), 10));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in ["192.0.2.7:4242", "198.51.100.1:50000", "alice", "gso"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
