//! Ethernet, IP and UDP headers of a datagram in a frame: read, and written.
//!
//! Pure. What is read here has passed the program on the interface, which vouches for none of it: it
//! is looked at anew, the checksum over all of it included, since that is computed anew when the
//! payload leaves. Frames without a VLAN tag, IPv4 without options and fragments, IPv6 without
//! extension headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

/// Bytes of an Ethernet header.
pub(super) const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const PROTOCOL_UDP: u8 = 17;
/// Version 4, and a header of five words.
const VERSION_IPV4: u8 = 0x45;
const VERSION_IPV6: u8 = 6;
/// Every bit of the fragment word but Don't Fragment.
const FRAGMENT_BITS: u16 = 0xbfff;
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
/// As the kernel has it for what this machine sends (RFC 1700).
const HOP_LIMIT: u8 = 64;

/// A datagram in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) source: SocketAddr,
    pub(super) local: SocketAddr,
    /// Where its payload is in the frame.
    pub(super) payload: Range<usize>,
}

/// Reads a frame; nothing if it is no whole datagram.
pub(super) fn parse(frame: &[u8]) -> Option<Parsed> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    let (addresses, header_bytes, ip_bytes) = match frame.get(12..14)?.try_into().ok()? {
        ETHERTYPE_IPV4 => ipv4(packet)?,
        ETHERTYPE_IPV6 => ipv6(packet)?,
        _ => return None,
    };
    let udp = packet.get(header_bytes..ip_bytes)?;
    let udp_bytes = usize::from(number(udp, 4)?);
    if udp_bytes < UDP_BYTES || udp_bytes > udp.len() {
        return None;
    }
    let udp = udp.get(..udp_bytes)?;
    let [source, local] = addresses;
    let checksum = number(udp, 6)?;
    // IPv4 alone may do without one (RFC 768, RFC 8200 §8.1).
    let is_right = match checksum {
        0 => source.is_ipv4(),
        _ => folded(pseudo_sum(source, local, udp_bytes) + sum(udp)) == 0xffff,
    };
    let start = ETHERNET_BYTES + header_bytes;
    is_right.then_some(Parsed {
        source: SocketAddr::new(source, number(udp, 0)?),
        local: SocketAddr::new(local, number(udp, 2)?),
        payload: start + UDP_BYTES..start + udp_bytes,
    })
}

/// Addresses, and how long header and packet are.
type Network = ([IpAddr; 2], usize, usize);

fn ipv4(packet: &[u8]) -> Option<Network> {
    let header = packet.get(..IPV4_BYTES)?;
    let is_plain = header[0] == VERSION_IPV4
        && number(header, 6)? & FRAGMENT_BITS == 0
        && header[9] == PROTOCOL_UDP
        && folded(sum(header)) == 0xffff;
    let ip = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    let network = ([ip(12)?, ip(16)?], IPV4_BYTES, usize::from(number(header, 2)?));
    is_plain.then_some(network)
}

fn ipv6(packet: &[u8]) -> Option<Network> {
    let header = packet.get(..IPV6_BYTES)?;
    let is_plain = header[0] >> 4 == VERSION_IPV6 && header[6] == PROTOCOL_UDP;
    let ip = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    let network = ([ip(8)?, ip(24)?], IPV6_BYTES, IPV6_BYTES + usize::from(number(header, 4)?));
    is_plain.then_some(network)
}

/// Bytes of the IP packet that a datagram from an address of ours takes.
pub(super) fn packet_bytes(from: SocketAddr, pieces: [&[u8]; 3]) -> usize {
    let header_bytes = if from.is_ipv4() { IPV4_BYTES } else { IPV6_BYTES };
    header_bytes + UDP_BYTES + pieces.iter().map(|piece| piece.len()).sum::<usize>()
}

/// Writes the frame of a datagram, and says how long it is; nothing if it has no room there, or the
/// two addresses are not of one family. `stations`: the Ethernet addresses, the next hop's first.
pub(super) fn build(
    frame: &mut [u8],
    stations: [[u8; 6]; 2],
    from: SocketAddr,
    to: SocketAddr,
    pieces: [&[u8]; 3],
) -> Option<usize> {
    let ip_bytes = u16::try_from(packet_bytes(from, pieces)).ok()?;
    let bytes = ETHERNET_BYTES + usize::from(ip_bytes);
    let frame = frame.get_mut(..bytes)?;
    let (link, packet) = frame.split_at_mut(ETHERNET_BYTES);
    link[..6].copy_from_slice(&stations[0]);
    link[6..12].copy_from_slice(&stations[1]);
    let (ethertype, header_bytes) = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            write_ipv4(packet, ip_bytes, source, destination);
            (ETHERTYPE_IPV4, IPV4_BYTES)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            write_ipv6(packet, ip_bytes, source, destination);
            (ETHERTYPE_IPV6, IPV6_BYTES)
        }
        _ => return None,
    };
    link[12..].copy_from_slice(&ethertype);
    write_udp(&mut packet[header_bytes..], from, to, pieces);
    Some(bytes)
}

fn write_ipv4(packet: &mut [u8], bytes: u16, source: Ipv4Addr, destination: Ipv4Addr) {
    let header = &mut packet[..IPV4_BYTES];
    header[..2].copy_from_slice(&[VERSION_IPV4, 0]);
    header[2..4].copy_from_slice(&bytes.to_be_bytes());
    // What may not be fragmented needs no identification (RFC 6864 §4.1).
    header[4..6].fill(0);
    header[6..8].copy_from_slice(&DONT_FRAGMENT);
    header[8..12].copy_from_slice(&[HOP_LIMIT, PROTOCOL_UDP, 0, 0]);
    header[12..16].copy_from_slice(&source.octets());
    header[16..].copy_from_slice(&destination.octets());
    let checksum = !folded(sum(header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn write_ipv6(packet: &mut [u8], bytes: u16, source: Ipv6Addr, destination: Ipv6Addr) {
    let header = &mut packet[..IPV6_BYTES];
    header[..4].copy_from_slice(&[VERSION_IPV6 << 4, 0, 0, 0]);
    header[4..6].copy_from_slice(&(bytes - IPV6_BYTES as u16).to_be_bytes());
    header[6..8].copy_from_slice(&[PROTOCOL_UDP, HOP_LIMIT]);
    header[8..24].copy_from_slice(&source.octets());
    header[24..].copy_from_slice(&destination.octets());
}

/// Writes a UDP header, and the pieces behind it, into bytes that are as many.
fn write_udp(udp: &mut [u8], from: SocketAddr, to: SocketAddr, pieces: [&[u8]; 3]) {
    let bytes = udp.len();
    udp[..2].copy_from_slice(&from.port().to_be_bytes());
    udp[2..4].copy_from_slice(&to.port().to_be_bytes());
    // The caller has made sure that a packet's length, which is longer, is 16 bits.
    udp[4..6].copy_from_slice(&(bytes as u16).to_be_bytes());
    udp[6..8].fill(0);
    let mut at = UDP_BYTES;
    for piece in pieces {
        udp[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    }
    let checksum = match !folded(pseudo_sum(from.ip(), to.ip(), bytes) + sum(udp)) {
        // Zero says that there is none (RFC 768).
        0 => 0xffff,
        checksum => checksum,
    };
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

// Checksums (RFC 1071): sums of words of four bytes, for 2^16 is 1 modulo 65 535, in the machine's
// own byte order, for that does not change which sums are equal. A sum of 64 KiB fits 64 bits.

fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let word = |bytes: &[u8]| u64::from(u32::from_ne_bytes(bytes.try_into().unwrap_or_default()));
    words.map(word).sum::<u64>() + u64::from(u32::from_ne_bytes(last))
}

fn pseudo_sum(source: IpAddr, destination: IpAddr, udp_bytes: usize) -> u64 {
    let of = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => sum(&ip.octets()),
        IpAddr::V6(ip) => sum(&ip.octets()),
    };
    // A datagram's length is 16 bits.
    let [high, low] = (udp_bytes as u16).to_be_bytes();
    of(source) + of(destination) + sum(&[0, PROTOCOL_UDP, high, low])
}

/// A sum in 16 bits, in the order of the packet's bytes.
fn folded(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // It is no more than 16 bits now.
    u16::from_be(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATIONS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 1]];

    fn addresses(is_v4: bool) -> [SocketAddr; 2] {
        let texts = match is_v4 {
            true => ["198.51.100.1:3478", "203.0.113.7:5000"],
            false => ["[2001:db8::1]:3478", "[2001:db8:1::7]:5000"],
        };
        texts.map(|text| text.parse().unwrap())
    }

    fn built(is_v4: bool, payload: &[u8]) -> Vec<u8> {
        let [from, to] = addresses(is_v4);
        let mut frame = vec![0xaa; 2048];
        let bytes = build(&mut frame, STATIONS, from, to, [&[], payload, &[]]).unwrap();
        frame.truncate(bytes);
        frame
    }

    #[test]
    fn a_frame_is_as_the_kernel_would_make_it() {
        // `hello` from 198.51.100.1:3478 to 203.0.113.7:5000; checksums worked out by hand.
        let expected = "020000000007 020000000001 0800 \
                        4500 0021 0000 4000 4011 d48f c6336401 cb007107 \
                        0d96 1388 000d 34a7 68656c6c6f";
        let hex: String = expected.split_whitespace().collect();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let expected: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        assert_eq!(built(true, b"hello"), expected);
    }

    proptest! {
        #[test]
        fn what_is_built_is_read_again(
            is_v4: bool,
            head in prop::collection::vec(any::<u8>(), 0..48),
            payload in prop::collection::vec(any::<u8>(), 0..1400),
            padding in 0..4_usize,
        ) {
            let [from, to] = addresses(is_v4);
            let mut frame = vec![0; 2048];
            let pieces = [&head[..], &payload, &[0; 4][..padding]];
            let bytes = build(&mut frame, STATIONS, from, to, pieces).unwrap();
            prop_assert_eq!(bytes, ETHERNET_BYTES + packet_bytes(from, pieces));
            let parsed = parse(&frame[..bytes]).unwrap();
            prop_assert_eq!((parsed.source, parsed.local), (from, to));
            prop_assert_eq!(&frame[parsed.payload], pieces.concat());
        }

        #[test]
        fn a_changed_bit_of_packet_or_payload_is_noticed(
            is_v4: bool,
            payload in prop::collection::vec(any::<u8>(), 1..200),
            place: prop::sample::Index,
            bit in 0..8_u8,
        ) {
            let mut frame = built(is_v4, &payload);
            let whole = parse(&frame);
            // Traffic class, flow label and hop limit of IPv6 are under no checksum.
            let unguarded = [14, 15, 16, 17, 21];
            let at = 12 + place.index(frame.len() - 12);
            prop_assume!(is_v4 || !unguarded.contains(&at));
            // What a shorter datagram leaves out may make up for its length in the sum.
            let length_at = if is_v4 { 38 } else { 58 };
            prop_assume!(at != length_at && at != length_at + 1);
            frame[at] ^= 1 << bit;
            let parsed = parse(&frame);
            // A UDP checksum of zero says that there is none.
            let has_none = is_v4 && frame[40..42] == [0, 0];
            prop_assert!(parsed.is_none() || has_none, "{parsed:?} of {whole:?}");
        }

        #[test]
        fn bytes_of_any_kind_are_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            parse(&bytes);
        }
    }

    #[test]
    fn frames_that_are_cut_are_no_datagrams() {
        for is_v4 in [true, false] {
            let frame = built(is_v4, b"payload");
            assert!(parse(&frame).is_some());
            for bytes in 0..frame.len() {
                assert_eq!(parse(&frame[..bytes]), None, "{bytes}");
            }
        }
    }

    #[test]
    fn what_has_no_room_is_not_built() {
        let [from, to] = addresses(true);
        let payload = [0; 100];
        let mut frame = vec![0; 141];
        assert_eq!(build(&mut frame, STATIONS, from, to, [&[], &payload, &[]]), None);
        let v6 = addresses(false)[1];
        let mut frame = vec![0; 2048];
        assert_eq!(build(&mut frame, STATIONS, from, v6, [&[], &payload, &[]]), None);
    }
}
