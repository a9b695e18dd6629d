//! Reads a datagram's headers at fixed offsets. What fixed offsets cannot vouch for is passed.

use crate::{
    checksum,
    maps::PORT_KINDS,
    window::{frame_bytes, halves, read},
    words::{read_word, window},
};
use aya_ebpf::programs::XdpContext;
use waystation_ebpf_abi::{
    Address, NetworkU16, Port, PortKinds, Verdict, family, limits::FRAME_MIN_BYTES,
};

pub const IPV4_BYTES: usize = 20;
pub const IPV6_BYTES: usize = 40;
pub const UDP_BYTES: usize = 8;
pub const CHANNEL_BYTES: usize = 4;
pub const PROTOCOL_UDP: u8 = 17;

/// Every bit of the second word but Don't Fragment: offset, More Fragments and the reserved one.
const FRAGMENT_BITS: u16 = 0xbfff;
/// An Ethernet header without a tag; padding is to a minimum that a tag adds to.
const UNTAGGED_BYTES: usize = 14;

/// A datagram for one of the relay's ports.
pub struct Flow {
    pub source: Address,
    pub local: Address,
    /// Source port and ours, as they lie next to each other in the packet.
    pub ports: u32,
    /// 0 until the channel is known.
    pub channel: NetworkU16,
    pub family: u8,
    /// What the port is for.
    pub port: u8,
    /// Why it shall not be taken, if the address is this machine's.
    pub fault: Option<Verdict>,
    /// Bytes of the IP packet, header included.
    pub ip_bytes: u16,
    /// Bytes of the UDP datagram, header included.
    pub udp_bytes: u16,
    /// The UDP checksum as it lies in the packet.
    pub checksum: u16,
    /// Traffic class: differentiated services and congestion marks.
    pub traffic_class: u8,
    /// Hop limit, or time to live.
    pub hop_limit: u8,
    /// IPv4: identification and fragment word as they lie in the packet.
    pub identification: u32,
}

impl Flow {
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        self.family == family::V4
    }

    /// Where the UDP header begins, from the IP header.
    #[inline(always)]
    pub fn udp_at(&self) -> usize {
        if self.is_v4() { IPV4_BYTES } else { IPV6_BYTES }
    }
}

/// Reads an IPv4 datagram whose header begins at `L3`.
#[inline(always)]
pub fn ipv4<const L3: usize>(ctx: &XdpContext) -> Result<Flow, Verdict> {
    let Some(ip) = window(ctx, L3, IPV4_BYTES + UDP_BYTES) else {
        return Err(Verdict::PassNotIp);
    };
    // SAFETY: the window has 28 bytes, which are seven words.
    let header = unsafe {
        [
            read_word::<0>(ip),
            read_word::<4>(ip),
            read_word::<8>(ip),
            read_word::<12>(ip),
            read_word::<16>(ip),
        ]
    };
    // SAFETY: as above.
    let (ports, udp) = unsafe { (read_word::<20>(ip), read_word::<24>(ip)) };
    let [version, traffic_class, ..] = header[0].to_ne_bytes();
    if version != 0x45 {
        let has_options = version > 0x45 && version <= 0x4f;
        return Err(if has_options { Verdict::PassIpv4Options } else { Verdict::PassNotIp });
    }
    let identification = header[1];
    if u16::from_be(halves(identification)[1]) & FRAGMENT_BITS != 0 {
        return Err(Verdict::PassFragment);
    }
    let [hop_limit, protocol, ..] = header[2].to_ne_bytes();
    if protocol != PROTOCOL_UDP {
        return Err(Verdict::PassNotUdp);
    }
    let [source_port, local_port] = halves(ports);
    let port = kind_of(local_port)?;
    let ip_bytes = u16::from_be(halves(header[0])[1]);
    let [udp_bytes, checksum] = halves(udp);
    let udp_bytes = u16::from_be(udp_bytes);
    let (source, local) = (header[3], header[4]);

    let mut fault = None;
    if checksum::header_sum(header) != 0xffff || source_port == 0 {
        fault = Some(Verdict::DropMalformed);
    }
    match lengths(ctx, L3, usize::from(ip_bytes), IPV4_BYTES, usize::from(udp_bytes)) {
        Err(verdict) if verdict.is_drop() => fault = Some(verdict),
        Err(verdict) if fault.is_none() => return Err(verdict),
        _ => {}
    }
    if fault.is_none() && is_martian_v4(source) {
        fault = Some(Verdict::DropMartian);
    }
    Ok(Flow {
        source: Address::from_v4_word(source),
        local: Address::from_v4_word(local),
        ports,
        channel: NetworkU16::new(0),
        family: family::V4,
        port,
        fault,
        ip_bytes,
        udp_bytes,
        checksum,
        traffic_class,
        hop_limit,
        identification,
    })
}

/// Reads an IPv6 datagram whose header begins at `L3`.
#[inline(always)]
pub fn ipv6<const L3: usize>(ctx: &XdpContext) -> Result<Flow, Verdict> {
    let Some(ip) = window(ctx, L3, IPV6_BYTES + UDP_BYTES) else {
        return Err(Verdict::PassNotIp);
    };
    // SAFETY: the window has 48 bytes, which are twelve words.
    let (first, second) = unsafe { (read_word::<0>(ip), read_word::<4>(ip)) };
    // SAFETY: as above.
    let source = unsafe {
        [read_word::<8>(ip), read_word::<12>(ip), read_word::<16>(ip), read_word::<20>(ip)]
    };
    // SAFETY: as above.
    let local = unsafe {
        [read_word::<24>(ip), read_word::<28>(ip), read_word::<32>(ip), read_word::<36>(ip)]
    };
    // SAFETY: as above.
    let (ports, udp) = unsafe { (read_word::<40>(ip), read_word::<44>(ip)) };
    let [.., next, hop_limit] = second.to_ne_bytes();
    let first = u16::from_be(halves(first)[0]);
    if first >> 12 != 6 {
        return Err(Verdict::PassNotIp);
    }
    if next != PROTOCOL_UDP {
        return Err(not_udp(next));
    }
    let [source_port, local_port] = halves(ports);
    let port = kind_of(local_port)?;
    // At most 65 575, so not a u16; longer than a frame is a fault in any case.
    let ip_bytes = usize::from(u16::from_be(halves(second)[0])) + IPV6_BYTES;
    let [udp_bytes, checksum] = halves(udp);
    let udp_bytes = u16::from_be(udp_bytes);
    let (source, local) = (Address { words: source }, Address { words: local });

    let mut fault = None;
    // No checksum: RFC 8200 §8.1.
    if source_port == 0 || checksum == 0 {
        fault = Some(Verdict::DropMalformed);
    }
    match lengths(ctx, L3, ip_bytes, IPV6_BYTES, usize::from(udp_bytes)) {
        Err(verdict) if verdict.is_drop() => fault = Some(verdict),
        Err(verdict) if fault.is_none() => return Err(verdict),
        _ => {}
    }
    if fault.is_none() && is_martian_v6(source) {
        fault = Some(Verdict::DropMartian);
    }
    Ok(Flow {
        source,
        local,
        ports,
        channel: NetworkU16::new(0),
        family: family::V6,
        port,
        fault,
        ip_bytes: ip_bytes as u16,
        udp_bytes,
        checksum,
        traffic_class: (first >> 4) as u8,
        hop_limit,
        identification: 0,
    })
}

/// The number of the channel that a datagram for a TURN port is framed with, or 0.
#[inline(always)]
pub fn channel<const L3: usize>(ctx: &XdpContext, flow: &Flow) -> Result<NetworkU16, Verdict> {
    let none = NetworkU16::new(0);
    if flow.port != Port::Turn as u8 || usize::from(flow.udp_bytes) < UDP_BYTES + CHANNEL_BYTES {
        return Ok(none);
    }
    let header = if flow.is_v4() {
        window(ctx, L3 + IPV4_BYTES + UDP_BYTES, CHANNEL_BYTES)
    } else {
        window(ctx, L3 + IPV6_BYTES + UDP_BYTES, CHANNEL_BYTES)
    };
    let Some(header) = header else {
        return Ok(none);
    };
    // SAFETY: the window has four bytes.
    let (number, bytes) = unsafe { (read::<u16>(header, 0), read::<u16>(header, 2)) };
    // Channels are 0x4000 to 0x7fff (RFC 5766 §11), of which RFC 8656 §12 keeps those up to 0x4fff:
    // the server binds them all. Everything else is STUN, or nothing.
    if u16::from_be(number) >> 14 != 1 {
        return Ok(none);
    }
    let framed = UDP_BYTES + CHANNEL_BYTES + usize::from(u16::from_be(bytes));
    if framed > usize::from(flow.udp_bytes) {
        return Err(Verdict::DropMalformed);
    }
    if framed < usize::from(flow.udp_bytes) {
        return Err(Verdict::PassChannelPadding);
    }
    Ok(NetworkU16::from_packet(number))
}

#[inline(always)]
fn kind_of(local_port: u16) -> Result<u8, Verdict> {
    let port = u16::from_be(local_port);
    let word = PORT_KINDS.get(PortKinds::word_of(port)).copied().unwrap_or(0);
    match PortKinds::bits(word, port) {
        0 => Err(Verdict::PassForeign),
        kind => Ok(kind),
    }
}

/// Compares what the headers say with what the frame has.
#[inline(always)]
fn lengths(
    ctx: &XdpContext,
    l3: usize,
    ip_bytes: usize,
    header_bytes: usize,
    udp_bytes: usize,
) -> Result<(), Verdict> {
    let frame = frame_bytes(ctx);
    if udp_bytes < UDP_BYTES || header_bytes + udp_bytes > ip_bytes || l3 + ip_bytes > frame {
        return Err(Verdict::DropMalformed);
    }
    let is_padding = frame <= FRAME_MIN_BYTES + l3 - UNTAGGED_BYTES;
    if header_bytes + udp_bytes < ip_bytes || (l3 + ip_bytes < frame && !is_padding) {
        return Err(Verdict::PassTrailer);
    }
    Ok(())
}

/// What follows an IPv6 header and is not UDP (RFC 8200 §4, RFC 7045 §4).
#[inline(always)]
fn not_udp(next: u8) -> Verdict {
    match next {
        0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => Verdict::PassIpv6Extension,
        _ => Verdict::PassNotUdp,
    }
}

/// "This network", loopback, multicast, reserved, broadcast (RFC 6890 §2.2.2).
#[inline(always)]
fn is_martian_v4(source: u32) -> bool {
    let first = u32::from_be(source) >> 24;
    first == 0 || first == 127 || first >= 224
}

/// Unspecified, loopback, spellings of IPv4, multicast (RFC 6890 §2.2.3).
#[inline(always)]
fn is_martian_v6(source: Address) -> bool {
    let [first, second, third, _] = source.words;
    let spells_v4 = first == 0 && second == 0 && (third == 0 || third == Address::MAPPED);
    spells_v4 || u32::from_be(first) >> 24 == 0xff
}
