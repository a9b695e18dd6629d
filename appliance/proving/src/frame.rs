//! Frames by hand: a datagram that is right in every field, and ways to spoil it.
//!
//! Tests call it with addresses and payloads of their own, and fail by its panics when those make no
//! datagram.

#![allow(
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "what makes no datagram is a mistake in a test"
)]

use std::net::{IpAddr, SocketAddr};

/// The station frames are for, and the one they come from.
pub const STATIONS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

/// A datagram and what its headers say.
#[derive(Clone, Debug)]
pub struct Udp {
    pub source: SocketAddr,
    pub to: SocketAddr,
    pub payload: Vec<u8>,
    pub hop_limit: u8,
    pub traffic_class: u8,
    pub identification: u16,
    pub fragment: u16,
    pub has_checksum: bool,
    pub vlan: Option<u16>,
}

/// A datagram from `source` to `to`.
pub fn udp(source: &str, to: &str, payload: impl Into<Vec<u8>>) -> Udp {
    Udp {
        source: source.parse().unwrap(),
        to: to.parse().unwrap(),
        payload: payload.into(),
        hop_limit: 64,
        traffic_class: 0,
        identification: 0x1234,
        fragment: 0x4000,
        has_checksum: true,
        vlan: None,
    }
}

/// A payload framed with a TURN channel.
pub fn channel(number: u16, payload: &[u8]) -> Vec<u8> {
    let mut framed = number.to_be_bytes().to_vec();
    framed.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    framed.extend(payload);
    framed
}

impl Udp {
    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = STATIONS.to_vec();
        if let Some(id) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(id.to_be_bytes());
        }
        frame.extend(if self.to.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(self.packet());
        frame
    }

    /// Where the IP header begins in the frame.
    pub fn ip_at(&self) -> usize {
        if self.vlan.is_some() { 18 } else { 14 }
    }

    /// Where the UDP header begins in the frame.
    pub fn udp_at(&self) -> usize {
        self.ip_at() + if self.to.is_ipv4() { 20 } else { 40 }
    }

    fn packet(&self) -> Vec<u8> {
        let mut udp = Vec::new();
        let bytes = u16::try_from(8 + self.payload.len()).unwrap();
        udp.extend(self.source.port().to_be_bytes());
        udp.extend(self.to.port().to_be_bytes());
        udp.extend(bytes.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(&self.payload);
        let mut packet = match (self.source.ip(), self.to.ip()) {
            (IpAddr::V4(source), IpAddr::V4(to)) => {
                let mut ip = vec![0x45, self.traffic_class];
                ip.extend((20 + bytes).to_be_bytes());
                ip.extend(self.identification.to_be_bytes());
                ip.extend(self.fragment.to_be_bytes());
                ip.extend([self.hop_limit, 17, 0, 0]);
                ip.extend(source.octets());
                ip.extend(to.octets());
                let checksum = !internet_sum(&ip);
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                ip
            }
            (IpAddr::V6(source), IpAddr::V6(to)) => {
                let first = 0x6000_0000 | (u32::from(self.traffic_class) << 20) | 0x5_4321;
                let mut ip = first.to_be_bytes().to_vec();
                ip.extend(bytes.to_be_bytes());
                ip.extend([17, self.hop_limit]);
                ip.extend(source.octets());
                ip.extend(to.octets());
                ip
            }
            _ => panic!("one family"),
        };
        if self.has_checksum {
            let addresses = if packet.len() == 20 { 12..20 } else { 8..40 };
            let mut all = packet[addresses].to_vec();
            all.extend([0, 17]);
            all.extend(bytes.to_be_bytes());
            all.extend(&udp);
            let checksum = match !internet_sum(&all) {
                0 => 0xffff,
                checksum => checksum,
            };
            udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        }
        packet.extend(udp);
        packet
    }
}

/// The sum of RFC 1071.
pub fn internet_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for two in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([two[0], two.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// Makes the checksum of a frame's IPv4 header right again.
pub fn mend_header(frame: &mut [u8], ip_at: usize) {
    frame[ip_at + 10..ip_at + 12].copy_from_slice(&[0, 0]);
    let checksum = !internet_sum(&frame[ip_at..ip_at + 20]);
    frame[ip_at + 10..ip_at + 12].copy_from_slice(&checksum.to_be_bytes());
}
