//! Takes frames apart and builds them, a header at a time, for the classifier alone.

use crate::abi::Verdict;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A frame's datagram and what surrounds it.
pub(super) struct Parsed<'a> {
    pub tag: Option<[u8; 4]>,
    pub datagram: Datagram<'a>,
    /// Padding after the IP packet.
    pub padding: &'a [u8],
    /// Why it is not taken, if the address is ours.
    pub fault: Option<Verdict>,
}

pub(super) struct Datagram<'a> {
    pub source: SocketAddr,
    pub local: SocketAddr,
    pub traffic_class: u8,
    pub hop_limit: u8,
    /// IPv4: identification, and whether it may not be fragmented.
    pub identification: Option<(u16, bool)>,
    pub checksum: Checksum,
    pub payload: &'a [u8],
}

/// A UDP checksum, by what it says about the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// There is none.
    None,
    /// The sender has left it to its network card: it is that of the pseudo-header.
    Unfinished,
    /// What sum and checksum come to modulo 65 535: 0 if it is right.
    Off(u32),
}

/// Reads a frame. `Err`: what is done with frames that hold no datagram to look into.
pub(super) fn parse<'a>(
    frame: &'a [u8],
    told_vlans: &[u16],
    is_ours: impl Fn(u16) -> bool,
) -> Result<Parsed<'a>, Verdict> {
    let Some((stations, rest)) = frame.split_first_chunk::<12>() else {
        return Err(Verdict::PassNotIp);
    };
    let Some((ethertype, rest)) = rest.split_first_chunk::<2>() else {
        return Err(Verdict::PassNotIp);
    };
    if stations[0] & 1 == 1 {
        return Err(Verdict::PassForeign);
    }
    let (tag, ethertype, rest) = match u16::from_be_bytes(*ethertype) {
        0x8100 => {
            let Some((&[high, low, upper, lower], rest)) = rest.split_first_chunk::<4>() else {
                return Err(Verdict::PassVlan);
            };
            let id = u16::from_be_bytes([high, low]) & 0xfff;
            let inner = u16::from_be_bytes([upper, lower]);
            if !told_vlans.contains(&id) || inner == 0x8100 || inner == 0x88a8 {
                return Err(Verdict::PassVlan);
            }
            (Some([0x81, 0x00, high, low]), inner, rest)
        }
        0x88a8 => return Err(Verdict::PassVlan),
        other => (None, other, rest),
    };
    let frame_min = if tag.is_some() { 64 } else { 60 };
    let may_be_padded = frame.len() <= frame_min;
    match ethertype {
        0x0800 => parse_v4(tag, rest, may_be_padded, is_ours),
        0x86dd => parse_v6(tag, rest, may_be_padded, is_ours),
        _ => Err(Verdict::PassNotIp),
    }
}

fn parse_v4<'a>(
    tag: Option<[u8; 4]>,
    packet: &'a [u8],
    may_be_padded: bool,
    is_ours: impl Fn(u16) -> bool,
) -> Result<Parsed<'a>, Verdict> {
    if packet.len() < 28 {
        return Err(Verdict::PassNotIp);
    }
    let header = &packet[..20];
    match (header[0] >> 4, header[0] & 15) {
        (4, 5) => {}
        (4, 6..) => return Err(Verdict::PassIpv4Options),
        _ => return Err(Verdict::PassNotIp),
    }
    let fragment = u16_at(header, 6);
    if fragment & 0x8000 != 0 || fragment & 0x2000 != 0 || fragment & 0x1fff != 0 {
        return Err(Verdict::PassFragment);
    }
    if header[9] != 17 {
        return Err(Verdict::PassNotUdp);
    }
    if !is_ours(u16_at(packet, 22)) {
        return Err(Verdict::PassForeign);
    }
    let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
    let local = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    let mut fault = None;
    if ones(header) != 0 || u16_at(packet, 20) == 0 {
        fault = Some(Verdict::DropMalformed);
    }
    let said = usize::from(u16_at(header, 2));
    let (udp, padding, fault) = cut(packet, 20, said, may_be_padded, fault)?;
    let is_martian = source.octets()[0] == 0 || source.is_loopback() || source.octets()[0] >= 224;
    let datagram = Datagram {
        source: SocketAddr::from((source, u16_at(packet, 20))),
        local: SocketAddr::from((local, u16_at(packet, 22))),
        traffic_class: header[1],
        hop_limit: header[8],
        identification: Some((u16_at(header, 4), fragment & 0x4000 != 0)),
        checksum: checksum_of(source.into(), local.into(), udp),
        payload: udp.get(8..).unwrap_or_default(),
    };
    let fault = fault.or(is_martian.then_some(Verdict::DropMartian));
    Ok(Parsed { tag, datagram, padding, fault })
}

fn parse_v6<'a>(
    tag: Option<[u8; 4]>,
    packet: &'a [u8],
    may_be_padded: bool,
    is_ours: impl Fn(u16) -> bool,
) -> Result<Parsed<'a>, Verdict> {
    if packet.len() < 48 || packet[0] >> 4 != 6 {
        return Err(Verdict::PassNotIp);
    }
    match packet[6] {
        17 => {}
        0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => {
            return Err(Verdict::PassIpv6Extension);
        }
        _ => return Err(Verdict::PassNotUdp),
    }
    if !is_ours(u16_at(packet, 42)) {
        return Err(Verdict::PassForeign);
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&packet[at..at + 16]);
        Ipv6Addr::from(octets)
    };
    let (source, local) = (address(8), address(24));
    let mut fault = None;
    if u16_at(packet, 40) == 0 || u16_at(packet, 46) == 0 {
        fault = Some(Verdict::DropMalformed);
    }
    let said = 40 + usize::from(u16_at(packet, 4));
    let (udp, padding, fault) = cut(packet, 40, said, may_be_padded, fault)?;
    let is_martian = source.segments()[..5] == [0; 5] && matches!(source.segments()[5], 0 | 0xffff)
        || source.is_multicast();
    let datagram = Datagram {
        source: SocketAddr::from((source, u16_at(packet, 40))),
        local: SocketAddr::from((local, u16_at(packet, 42))),
        traffic_class: (packet[0] << 4) | (packet[1] >> 4),
        hop_limit: packet[7],
        identification: None,
        checksum: checksum_of(source.into(), local.into(), udp),
        payload: udp.get(8..).unwrap_or_default(),
    };
    let fault = fault.or(is_martian.then_some(Verdict::DropMartian));
    Ok(Parsed { tag, datagram, padding, fault })
}

/// The UDP datagram, the padding, and what is wrong with the lengths.
#[allow(clippy::type_complexity, reason = "three things, each plain")]
fn cut(
    packet: &[u8],
    header_bytes: usize,
    said: usize,
    may_be_padded: bool,
    fault: Option<Verdict>,
) -> Result<(&[u8], &[u8], Option<Verdict>), Verdict> {
    let udp_bytes = usize::from(u16_at(packet, header_bytes + 4));
    if udp_bytes < 8 || header_bytes + udp_bytes > said || said > packet.len() {
        return Ok((&[], &[], Some(Verdict::DropMalformed)));
    }
    let is_longer = header_bytes + udp_bytes < said;
    let has_trailer = said < packet.len() && !may_be_padded;
    if (is_longer || has_trailer) && fault.is_none() {
        return Err(Verdict::PassTrailer);
    }
    let udp = &packet[header_bytes..header_bytes + udp_bytes];
    Ok((udp, &packet[said..], fault))
}

/// Builds the frame that leaves.
pub(super) fn build(
    parsed: &Parsed<'_>,
    (station, own_station): ([u8; 6], [u8; 6]),
    from: SocketAddr,
    to: SocketAddr,
    carried: &[u8],
) -> Vec<u8> {
    let datagram = &parsed.datagram;
    let mut udp = Vec::new();
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(length(8 + carried.len()));
    udp.extend([0, 0]);
    udp.extend(carried);
    if let Checksum::Off(by) = datagram.checksum {
        let sum = ones(&pseudo(from.ip(), to.ip(), udp.len())) + ones(&udp);
        let checksum = match (by + 2 * 65_535 - sum % 65_535) % 65_535 {
            0 => 0xffff,
            checksum => checksum,
        };
        udp[6..8].copy_from_slice(&length(usize::try_from(checksum).unwrap_or(0)));
    }
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => header_v4(datagram, from, to, udp.len()),
        (IpAddr::V6(from), IpAddr::V6(to)) => header_v6(datagram, from, to, udp.len()),
        _ => Vec::new(),
    };
    let mut frame = Vec::new();
    frame.extend(station);
    frame.extend(own_station);
    frame.extend(parsed.tag.iter().flatten());
    frame.extend(if to.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
    frame.extend(ip);
    frame.extend(udp);
    frame.extend(parsed.padding);
    frame
}

fn header_v4(datagram: &Datagram<'_>, from: Ipv4Addr, to: Ipv4Addr, bytes: usize) -> Vec<u8> {
    let (identification, dont_fragment) = datagram.identification.unwrap_or((0, true));
    let mut header = vec![0x45, datagram.traffic_class];
    header.extend(length(20 + bytes));
    header.extend(identification.to_be_bytes());
    header.extend([if dont_fragment { 0x40 } else { 0 }, 0, datagram.hop_limit - 1, 17, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = ones(&header) % 65_535;
    let checksum = usize::try_from(65_535 - sum).unwrap_or(0) % 65_535;
    header[10..12].copy_from_slice(&length(checksum));
    header
}

fn header_v6(datagram: &Datagram<'_>, from: Ipv6Addr, to: Ipv6Addr, bytes: usize) -> Vec<u8> {
    let mut header =
        (0x6000_0000 | (u32::from(datagram.traffic_class) << 20)).to_be_bytes().to_vec();
    header.extend(length(bytes));
    header.extend([17, datagram.hop_limit - 1]);
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

fn checksum_of(source: IpAddr, local: IpAddr, udp: &[u8]) -> Checksum {
    if udp.len() < 8 || udp[6..8] == [0, 0] {
        return Checksum::None;
    }
    let begun = ones(&pseudo(source, local, udp.len()));
    if u32::from(u16_at(udp, 6)) % 65_535 == begun {
        return Checksum::Unfinished;
    }
    Checksum::Off((begun + ones(udp)) % 65_535)
}

fn pseudo(source: IpAddr, local: IpAddr, bytes: usize) -> Vec<u8> {
    let mut pseudo = Vec::new();
    for address in [source, local] {
        match address {
            IpAddr::V4(v4) => pseudo.extend(v4.octets()),
            IpAddr::V6(v6) => pseudo.extend(v6.octets()),
        }
    }
    pseudo.extend([0, 17]);
    pseudo.extend(length(bytes));
    pseudo
}

/// The sum of all words modulo 65 535; an odd byte at the end counts as the upper half of a word.
fn ones(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|two| match *two {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    words.fold(0, |sum, word| (sum + word) % 65_535)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}
