//! `/v1/udp`: what is relayed over UDP, from the listings of the data cores.
//!
//! Pure functions, called on the management thread. Rows name their kind; addresses of TURN
//! clients' peers are in none of them. Opaque sessions are those of the operator, with their ends.

use crate::documents::{CoreListing, answered, table};
use crate::opaque::{Known, OpaqueTable};
use serde_json::{Value, json};
use std::net::SocketAddr;
use waystation_engine::control::{AllocationRow, OpaqueRow};
use waystation_engine::port::datagrams::UdpTier;
use waystation_relay::udp::Side;
use waystation_relay::udp::tier::WhyNot;
use waystation_turn::transport::Transport;

/// The document: at most `limit` rows, opaque sessions first, each kind in order of core and place.
pub(crate) fn udp(listings: &[CoreListing], known: &OpaqueTable, limit: usize) -> Value {
    let sessions = answered(listings).flat_map(|listing| &listing.opaque);
    let sessions = sessions.map(|row| session(row, known.get(row.session)));
    let allocations = answered(listings).flat_map(|listing| &listing.allocations).map(allocation);
    let rows: Vec<_> = sessions.chain(allocations).take(limit).collect();
    let total =
        answered(listings).map(|listing| listing.allocations_total + listing.opaque_total).sum();
    table("udp", rows, total, listings)
}

/// An opaque session; what it was opened for is what the management core knows.
fn session(row: &OpaqueRow, known: Option<&Known>) -> Value {
    let wish = known.map(|known| &known.wish);
    let leg = |side: Side| {
        let leg = &row.legs[side.index()];
        json!({
            "port": leg.port.0,
            "learning": wish.map(|wish| wish.learning_name(side)),
            "address": leg.address.map(|address| address.to_string()),
            "heard_ago_ns": leg.heard_ago_ns,
            "datagrams_in": leg.datagrams_in,
            "bytes_in": leg.bytes_in,
            "datagrams_out": leg.datagrams_out,
            "bytes_out": leg.bytes_out,
        })
    };
    json!({
        "kind": "opaque",
        "core": row.session.core.0,
        "session": row.session.to_string(),
        "name": wish.and_then(|wish| wish.name.as_deref()),
        "protocol": if row.is_wireguard { "wireguard" } else { "opaque" },
        "legs": Side::BOTH.map(leg),
        "tier": row.tier.tier.name(),
        "not_xdp": row.tier.not_xdp.map(WhyNot::name),
        "not_gso": row.tier.not_gso.map(WhyNot::name),
        "age_ns": row.age_ns,
        "idle_limit_ns": wish.map(|wish| wish.idle_limit_ns),
        "packets_per_s_max": wish.and_then(|wish| wish.rate.packets_per_s),
        "bytes_per_s_max": wish.and_then(|wish| wish.rate.bytes_per_s),
        "dropped_datagrams": row.dropped_datagrams,
        "datagrams_in_trains": row.datagrams_in_trains,
        "datagrams_in_frames": row.datagrams_in_frames,
        "datagrams_offloaded": row.datagrams_offloaded,
    })
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
        "tier": match row.tier {
            // The program hands its packets to the core.
            UdpTier::AfXdp => row.tier.name(),
            _ if row.directions_offloaded > 0 => "xdp",
            UdpTier::Gso | UdpTier::Plain => row.tier.name(),
        },
        "datagrams_to_peers": row.datagrams_to_peers,
        "bytes_to_peers": row.bytes_to_peers,
        "datagrams_to_client": row.datagrams_to_client,
        "bytes_to_client": row.bytes_to_client,
        "datagrams_in_trains": row.datagrams_in_trains,
        "datagrams_in_frames": row.datagrams_in_frames,
        "datagrams_offloaded": row.datagrams_offloaded,
        "directions_offloaded": row.directions_offloaded,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UdpProtocol;
    use crate::opaque::Wish;
    use waystation_engine::control::{Listing, OpaqueLegRow};
    use waystation_relay::ids::CoreId;
    use waystation_relay::udp::tier::TierChoice;
    use waystation_relay::udp::{LocalPort, RateLimit};
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
            datagrams_in_frames: 2,
            datagrams_offloaded: 3,
            directions_offloaded: 0,
        };
        let listing =
            Listing { allocations: vec![row], allocations_total: 3, ..Listing::default() };
        vec![
            CoreListing { core: CoreId(0), listing: Some(Box::new(listing)) },
            CoreListing { core: CoreId(1), listing: None },
        ]
    }

    fn session() -> OpaqueRow {
        let leg = |port: u16, address: Option<&str>| OpaqueLegRow {
            port: LocalPort(port),
            address: address.map(|address| address.parse().unwrap()),
            heard_ago_ns: address.map(|_| 4_000_000_000),
            datagrams_in: 7,
            bytes_in: 7000,
            datagrams_out: 6,
            bytes_out: 6000,
        };
        OpaqueRow {
            session: "0.3.1".parse().unwrap(),
            is_wireguard: true,
            legs: [leg(20_001, Some("[2001:db8::7]:51820")), leg(20_002, None)],
            tier: TierChoice::UNCHOSEN,
            age_ns: 65_000_000_000,
            dropped_datagrams: 5,
            datagrams_in_trains: 4,
            datagrams_in_frames: 0,
            datagrams_offloaded: 9,
        }
    }

    fn table() -> OpaqueTable {
        let mut table = OpaqueTable::new(1, 4, 20_000..=20_009);
        let wish = Wish {
            name: Some("hub".into()),
            ends: ["learn", "9.9.9.9:1"].map(|end| end.parse().unwrap()),
            ports: [None; 2],
            protocol: UdpProtocol::Wireguard,
            public_keys: [None; 2],
            rate: RateLimit::default(),
            idle_limit_ns: 600_000_000_000,
        };
        let (request, _, _) = table.open(wish, &mut || [0; 32]).unwrap();
        table.opened(request, Ok("0.3.1".parse().unwrap()));
        table
    }

    #[test]
    fn opaque_rows_say_where_the_ends_are_and_how_that_is_known() {
        let mut listings = listings();
        let listing = listings[0].listing.as_mut().unwrap();
        (listing.opaque, listing.opaque_total) = (vec![session()], 1);
        let document = udp(&listings, &table(), 10);
        assert_eq!(document["total"], 4);
        let row = &document["udp"][0];
        assert_eq!((&row["kind"], &row["name"]), (&json!("opaque"), &json!("hub")));
        assert_eq!((&row["session"], &row["datagrams_offloaded"]), (&json!("0.3.1"), &json!(9)));
        assert_eq!(row["legs"][0]["learning"], "handshake");
        assert_eq!(row["legs"][0]["address"], "[2001:db8::7]:51820");
        assert_eq!(
            (&row["legs"][1]["address"], &row["not_xdp"]),
            (&json!(null), &json!("leg_unknown"))
        );
        let text = crate::render::udp(&document);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in ["0.3.1", "hub", "20001", "[2001:db8::7]:51820", "plain", "alice"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn rows_say_who_is_relayed_and_how() {
        let document = udp(&listings(), &table(), 10);
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
    fn an_allocation_with_a_channel_in_the_kernel_is_of_tier_xdp() {
        let mut listings = listings();
        let listing = listings[0].listing.as_mut().unwrap();
        listing.allocations[0].directions_offloaded = 2;
        let row = &udp(&listings, &table(), 10)["udp"][0];
        assert_eq!((&row["tier"], &row["datagrams_offloaded"]), (&json!("xdp"), &json!(3)));
    }

    #[test]
    fn rendered_rows_fit_a_terminal() {
        let text = crate::render::udp(&udp(&listings(), &table(), 10));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in ["192.0.2.7:4242", "198.51.100.1:50000", "alice", "gso", "turn/udp"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
