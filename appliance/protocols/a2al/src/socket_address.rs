//! Socket addresses as messages carry them, and what upstream calls public (specification §3.4,
//! §15.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::cbor::{CborError, Reader, Writer};

/// Unfolds an IPv4 address that is mapped into IPv6.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Bytes that [`write`] writes, with their head.
pub(crate) fn encoded_bytes(address: SocketAddr) -> usize {
    if address.is_ipv4() { 7 } else { 19 }
}

/// 6 or 18 bytes: address and port.
pub(crate) fn wire(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => [&ip.octets()[..], &port].concat(),
        IpAddr::V6(ip) => [&ip.octets()[..], &port].concat(),
    }
}

/// Writes 6 or 18 bytes as a byte string.
pub(crate) fn write(writer: &mut Writer, address: SocketAddr) {
    writer.bytes(&wire(address));
}

/// Reads 6 or 18 bytes. A mapped address stays as it is, so that it is written again as it was.
pub(crate) fn read(reader: &mut Reader<'_>) -> Result<SocketAddr, CborError> {
    of_wire(reader.bytes()?)
}

/// The address of 6 or 18 bytes.
pub(crate) fn of_wire(bytes: &[u8]) -> Result<SocketAddr, CborError> {
    let (ip, port) = bytes.split_last_chunk::<2>().ok_or(CborError::WrongLength)?;
    Ok(SocketAddr::new(ip_of(ip)?, u16::from_be_bytes(*port)))
}

/// The address of 4 or 16 bytes.
pub(crate) fn ip_of(bytes: &[u8]) -> Result<IpAddr, CborError> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let octets = <[u8; 16]>::try_from(bytes).map_err(|_length| CborError::WrongLength)?;
    Ok(IpAddr::V6(Ipv6Addr::from(octets)))
}

/// Says whether upstream takes an address for a public one. Ranges for documentation and
/// benchmarks count as public there, and so does the broadcast address.
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            let is_shared = first == 100 && second & 0xc0 == 64;
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_link_local()
                || ip.is_private()
                || is_shared)
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                || ip.is_unique_local())
        }
    }
}
