//! Every spelling of an address that must not be sent to, and those that may be.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use waystation_relay::address_policy::{AddressPolicy, Block, Denied, PolicyError};

/// First, middle and last address of each block of IPv4, and why it is denied.
const IPV4: &[(&str, Denied)] = &[
    ("0.0.0.0 0.128.0.1 0.255.255.255", Denied::Unspecified),
    ("10.0.0.0 10.128.7.7 10.255.255.255", Denied::Private),
    ("172.16.0.0 172.24.7.7 172.31.255.255", Denied::Private),
    ("192.168.0.0 192.168.128.7 192.168.255.255", Denied::Private),
    ("100.64.0.0 100.96.7.7 100.127.255.255", Denied::Shared),
    ("127.0.0.0 127.0.0.1 127.255.255.255", Denied::Loopback),
    ("169.254.0.0 169.254.128.7 169.254.255.255", Denied::LinkLocal),
    ("169.254.169.254 169.254.169.253 100.100.100.200 192.0.0.192", Denied::Metadata),
    ("192.0.0.0 192.0.0.128 192.0.0.255", Denied::Reserved),
    ("192.0.2.0 192.0.2.128 192.0.2.255", Denied::Documentation),
    ("198.51.100.0 198.51.100.128 198.51.100.255", Denied::Documentation),
    ("203.0.113.0 203.0.113.128 203.0.113.255", Denied::Documentation),
    ("192.88.99.0 192.88.99.1 192.88.99.255", Denied::Translation),
    ("198.18.0.0 198.19.0.0 198.19.255.255", Denied::Benchmarking),
    ("224.0.0.0 224.0.0.251 232.7.7.7 239.255.255.255", Denied::Multicast),
    ("240.0.0.0 248.7.7.7 255.255.255.254", Denied::Reserved),
    ("255.255.255.255", Denied::Broadcast),
];

/// The same for IPv6.
const IPV6: &[(&str, Denied)] = &[
    (":: 0:0:0:0:0:0:0:0", Denied::Unspecified),
    ("::1 0:0:0:0:0:0:0:1", Denied::Loopback),
    ("fd00:ec2::254 fd20:ce::254", Denied::Metadata),
    ("fc00:: fd00::1 fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Denied::UniqueLocal),
    ("fe80:: fe80::1 febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Denied::LinkLocal),
    ("fec0:: fee0::1 feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Denied::SiteLocal),
    ("ff00:: ff02::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Denied::Multicast),
    ("2001:db8:: 2001:db8:8000::1 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Denied::Documentation),
    ("3fff:: 3fff:800::1 3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", Denied::Documentation),
    ("2001:2:: 2001:2:0:8000::1 2001:2:0:ffff:ffff:ffff:ffff:ffff", Denied::Benchmarking),
    ("2001:: 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:0:ffff::1", Denied::Translation),
    ("2001:10:: 2001:20::1 2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", Denied::Reserved),
    ("64:ff9b:1:: 64:ff9b:1:8000::1 64:ff9b:1:ffff:ffff:ffff:ffff:ffff", Denied::Translation),
    ("100:: 100::8000:0:0:1 100:0:0:1::1 5f00:: 5f00::1", Denied::Reserved),
    ("::2 ::8.8.8.8 ::ffff:0:8.8.8.8", Denied::Translation),
    ("4000::1 8000::1 a000::1 e000::1 f000::1 200::1 1000::1", Denied::Reserved),
];

/// Spellings that some programs read as an address, and most as one that is denied.
const NO_ADDRESS: &[&str] = &[
    "0177.0.0.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "127.0.0.01",
    "127.0.0.1 ",
    " 127.0.0.1",
    "127.0.0.1/8",
    "127.0.0.1:80",
    "0",
    "fe80::1%eth0",
    "fe80::1%1",
    "[::1]",
    "::1.",
    ":::1",
    "::ffff:127.1",
    "::ffff:0x7f.0.0.1",
    "localhost",
    "localhost.",
    "metadata.google.internal",
    "",
    "1.2.3",
    "256.0.0.1",
    "１２７.0.0.1",
];

fn policy() -> AddressPolicy {
    AddressPolicy::default()
}

fn denied(text: &str) -> Option<Denied> {
    policy().check_text(text).err()
}

fn each(table: &[(&'static str, Denied)]) -> Vec<(&'static str, Denied)> {
    let all = |(texts, reason): &(&'static str, Denied)| {
        let reason = *reason;
        texts.split(' ').map(move |text| (text, reason)).collect::<Vec<_>>()
    };
    table.iter().flat_map(all).collect()
}

#[test]
fn every_special_address_is_denied_with_its_reason() {
    for (text, reason) in each(IPV4).into_iter().chain(each(IPV6)) {
        assert_eq!(denied(text), Some(reason), "{text}");
    }
}

#[test]
fn every_special_ipv4_address_is_denied_wherever_it_hides() {
    let mut spellings = BTreeSet::new();
    for (text, reason) in each(IPV4) {
        let [a, b, c, d] = text.parse::<Ipv4Addr>().unwrap().octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let with_reason = [
            format!("::ffff:{text}"),
            format!("::ffff:{high:x}:{low:x}"),
            format!("64:ff9b::{text}"),
            format!("2002:{high:x}:{low:x}::1"),
            format!("2606:4700::5efe:{text}"),
            format!("2606:4700::200:5efe:{text}"),
        ];
        for spelling in with_reason {
            assert_eq!(denied(&spelling), Some(reason), "{spelling}");
            spellings.insert(spelling);
        }
        for spelling in [format!("::{text}"), format!("::ffff:0:{text}")] {
            assert!(denied(&spelling).is_some(), "{spelling}");
            spellings.insert(spelling);
        }
    }
    assert!(spellings.len() >= 120, "{}", spellings.len());
}

#[test]
fn what_is_no_address_is_never_guessed_at() {
    for text in NO_ADDRESS {
        assert_eq!(denied(text), Some(Denied::NotAnAddress), "{text}");
    }
}

#[test]
fn the_public_network_is_open_up_to_the_edges_of_what_is_not() {
    let open = [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.0.3.0",
        "192.88.98.255",
        "192.88.100.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.255",
        "203.0.114.0",
        "223.255.255.255",
        "2000::1",
        "2001:200::1",
        "2001:db7:ffff::1",
        "2001:db9::1",
        "2606:4700::1111",
        "3ffe::1",
        "3fff:1000::1",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
        "2606::5efe:8.8.8.8",
    ];
    for text in open {
        assert_eq!(policy().check_text(text), Ok(text.parse().unwrap()), "{text}");
    }
    let mapped = policy().check_text("::ffff:8.8.8.8");
    assert_eq!(mapped, Ok(IpAddr::from([8, 8, 8, 8])));
}

#[test]
fn an_allowed_block_opens_itself_and_nothing_else() {
    let block = Block::new("10.1.0.0".parse().unwrap(), 16).unwrap();
    let policy = AddressPolicy::new(vec![block], []).unwrap();
    for open in ["10.1.0.0", "10.1.255.255", "::ffff:10.1.7.7"] {
        assert!(policy.check_text(open).is_ok(), "{open}");
    }
    for closed in ["10.0.255.255", "10.2.0.0", "64:ff9b::10.1.7.7", "2002:a01:707::1", "127.0.0.1"]
    {
        assert!(policy.check_text(closed).is_err(), "{closed}");
    }
    let all = Block::new("::".parse().unwrap(), 0).unwrap();
    let policy = AddressPolicy::new(vec![all], []).unwrap();
    assert!(policy.check_text("fe80::1").is_ok() && policy.check_text("10.1.7.7").is_err());
}

#[test]
fn own_addresses_cannot_be_opened() {
    let own: [IpAddr; 2] = ["5.6.7.8".parse().unwrap(), "2606:4700::8".parse().unwrap()];
    let all = ["0.0.0.0", "::"].map(|first| Block::new(first.parse().unwrap(), 0).unwrap());
    let policy = AddressPolicy::new(all.to_vec(), own).unwrap();
    let spellings =
        ["5.6.7.8", "::ffff:5.6.7.8", "64:ff9b::5.6.7.8", "2002:506:708::1", "2606:4700::8"];
    for text in spellings {
        assert_eq!(policy.check_text(text), Err(Denied::Own), "{text}");
    }
    assert!(policy.check_text("5.6.7.9").is_ok());
}

#[test]
fn blocks_and_policies_that_cannot_be_are_refused() {
    let block = |first: &str, bits| Block::new(first.parse().unwrap(), bits).map(|_| ());
    assert_eq!(block("10.1.0.0", 15), Err(PolicyError::Block));
    assert_eq!(block("10.1.0.0", 33), Err(PolicyError::Block));
    assert_eq!(block("2001:db8::", 129), Err(PolicyError::Block));
    assert_eq!(block("10.1.0.0", 32), Ok(()));
    let blocks = vec![Block::new("10.0.0.0".parse().unwrap(), 8).unwrap(); 65];
    assert_eq!(AddressPolicy::new(blocks, []).unwrap_err(), PolicyError::TooManyBlocks);
    let own = (0..257_u32).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
    assert_eq!(AddressPolicy::new(vec![], own).unwrap_err(), PolicyError::TooManyAddresses);
}

proptest! {
    #[test]
    fn a_mapped_address_fares_as_itself(bits in any::<u32>()) {
        let ip = Ipv4Addr::from_bits(bits);
        let mapped = IpAddr::V6(ip.to_ipv6_mapped());
        prop_assert_eq!(policy().check(mapped), policy().check(IpAddr::V4(ip)));
        if let Ok(open) = policy().check(mapped) {
            prop_assert_eq!(open, IpAddr::V4(ip));
        }
    }
}
