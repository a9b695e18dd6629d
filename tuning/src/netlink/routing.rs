//! Kinds of interfaces, addresses, and the way packets leave (rtnetlink(7)).

use super::message::{Attributes, attribute, text, u32_at};
use super::socket::ask_routing;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LINK_NEW: u16 = 16;
const LINK_GET: u16 = 18;
const ADDRESS_NEW: u16 = 20;
const ADDRESS_GET: u16 = 22;
const ROUTE_NEW: u16 = 24;
const ROUTE_GET: u16 = 26;

/// Bytes in front of the attributes: `ifinfomsg`, `ifaddrmsg`, `rtmsg`.
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const ROUTE_BYTES: usize = 12;

const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const LINK_INFO_KIND: u16 = 1;
const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;

const INET: u8 = 2;
const INET6: u8 = 10;

/// The kind of a virtual interface, like `veth` or `vlan`; a device has none.
pub(super) fn kind(nic: &str) -> io::Result<Option<String>> {
    let mut payload = vec![0; LINK_BYTES];
    payload.extend(Attributes::default().text(LINK_NAME, nic).into_bytes());
    let answers = ask_routing(LINK_GET, false, &payload, LINK_NEW)?;
    let link = answers.first().and_then(|answer| answer.get(LINK_BYTES..)).unwrap_or_default();
    let info = attribute(link, LINK_INFO);
    let kind = info.and_then(|info| attribute(info, LINK_INFO_KIND)).and_then(text);
    Ok(kind.map(str::to_owned))
}

/// All addresses of this machine with the interface of each.
pub(super) fn addresses() -> io::Result<Vec<(String, IpAddr)>> {
    let names = names();
    let mut found = Vec::new();
    for answer in ask_routing(ADDRESS_GET, true, &[0; ADDRESS_BYTES], ADDRESS_NEW)? {
        let index = u32_at(&answer, 4);
        let Some((name, _)) = names.iter().find(|(_, each)| Some(*each) == index) else { continue };
        let attributes = answer.get(ADDRESS_BYTES..).unwrap_or_default();
        // On a line between two, the first is the peer's.
        let value =
            attribute(attributes, ADDRESS_LOCAL).or_else(|| attribute(attributes, ADDRESS_ADDRESS));
        if let Some(address) = value.and_then(address) {
            found.push((name.clone(), address));
        }
    }
    Ok(found)
}

/// The interface by which packets to an address leave.
pub(super) fn route(to: IpAddr) -> io::Result<String> {
    let (family, bytes) = match to {
        IpAddr::V4(to) => (INET, to.octets().to_vec()),
        IpAddr::V6(to) => (INET6, to.octets().to_vec()),
    };
    let mut payload = vec![0; ROUTE_BYTES];
    payload[0] = family;
    payload[1] = u8::try_from(bytes.len() * 8).unwrap_or(0);
    payload.extend(Attributes::default().bytes(ROUTE_DESTINATION, &bytes).into_bytes());
    let answers = ask_routing(ROUTE_GET, false, &payload, ROUTE_NEW)?;
    let route = answers.first().and_then(|answer| answer.get(ROUTE_BYTES..)).unwrap_or_default();
    let index = attribute(route, ROUTE_INTERFACE).and_then(|value| u32_at(value, 0));
    let name = names().into_iter().find(|(_, each)| Some(*each) == index);
    name.map(|(name, _)| name).ok_or_else(|| io::ErrorKind::NetworkUnreachable.into())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).into())
}

/// Names and numbers of all interfaces, from the namespace's own `/sys`.
fn names() -> Vec<(String, u32)> {
    let Ok(listing) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    listing
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let index = fs::read_to_string(entry.path().join("ifindex")).ok()?;
            Some((entry.file_name().into_string().ok()?, index.trim().parse().ok()?))
        })
        .collect()
}
