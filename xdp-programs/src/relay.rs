//! Rewrites a datagram of a session in place and sends it on its way.
//!
//! Nothing of the frame is changed before it is certain that it can leave: what cannot be relayed
//! here goes to user space as it came.

use crate::{
    Outcome,
    checksum::{self, Sum},
    limiter,
    maps::EGRESS,
    parse::{CHANNEL_BYTES, Flow, IPV4_BYTES, IPV6_BYTES, PROTOCOL_UDP, UDP_BYTES},
    window::{Tag, pair, write},
    words::{read_word, window, write_word},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    helpers::generated::{bpf_fib_lookup, bpf_xdp_adjust_head},
    programs::XdpContext,
};
use waystation_ebpf_abi::{
    Action, Session, Settings, Verdict, family,
    limits::{NEXT_HOP_FRESH_NS, TRANSPORT_BYTES_MIN},
};

const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
/// The type of WireGuard's data and the three zeros behind it, as they lie in the packet.
const TRANSPORT: u32 = u32::from_ne_bytes([4, 0, 0, 0]);
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `struct bpf_fib_lookup` of the kernel, with the members that are used here. Two short members
/// are one word each. Little-endian, as everything built for `bpfel`.
#[repr(C)]
struct FibLookup {
    /// Family and protocol in the first two bytes, the source port in the others.
    family_protocol_source_port: u32,
    /// The destination port, and in the other two bytes the packet's; afterwards the route's MTU.
    destination_port_bytes: u32,
    interface: u32,
    traffic_class: u32,
    source: [u32; 4],
    destination: [u32; 4],
    vlan: u32,
    /// Ours, then the next hop's.
    stations: [u32; 3],
}

/// Answers of the routing look-up (`include/uapi/linux/bpf.h`, `BPF_FIB_LKUP_RET_*`).
const FIB_SUCCESS: i64 = 0;
const FIB_FORWARDING_OFF: i64 = 5;
const FIB_NO_NEIGHBOUR: i64 = 7;
const FIB_TOO_LONG: i64 = 8;

/// How a datagram will leave.
struct Leaving {
    is_v4: bool,
    ip_bytes: usize,
    udp_bytes: u16,
    has_channel: bool,
}

/// Relays one datagram by its session, or says why not.
#[inline(always)]
pub fn relay<const L3: usize>(
    ctx: &XdpContext,
    settings: &Settings,
    flow: &Flow,
    session: &mut Session,
    tagged: Option<Tag>,
    now_ns: u64,
) -> Result<Outcome, Verdict> {
    if session.action == Action::RelayTransport as u8 && !is_transport::<L3>(ctx, flow, session) {
        return Err(Verdict::PassNotTransport);
    }
    session.last_seen_ns = now_ns;
    admit(flow, session, now_ns)?;
    let leaving = leaving(flow, session)?;
    if !leaving.is_v4 && flow.checksum == 0 {
        return Err(Verdict::PassNoChecksum);
    }
    if flow.checksum != 0 && flow.checksum == checksum::of_pseudo_header(flow, session) {
        return Err(Verdict::PassUnfinishedChecksum);
    }
    next_hop(ctx, settings, session, &leaving, now_ns)?;
    let (verdict, action) = way_out(ctx, session, tagged)?;
    rewrite::<L3>(ctx, flow, session, &leaving, tagged)?;
    session.packets += 1;
    session.bytes += u64::from(flow.ip_bytes);
    Ok(Outcome { verdict, action })
}

/// Whether a datagram is WireGuard's data (whitepaper §5.4.6) for an end that is called so.
#[inline(always)]
fn is_transport<const L3: usize>(ctx: &XdpContext, flow: &Flow, session: &Session) -> bool {
    let head = if flow.is_v4() {
        window(ctx, L3 + IPV4_BYTES + UDP_BYTES, 8)
    } else {
        window(ctx, L3 + IPV6_BYTES + UDP_BYTES, 8)
    };
    let Some(head) = head else {
        return false;
    };
    // SAFETY: the window has eight bytes.
    let (kind, receiver) = unsafe { (read_word::<0>(head), read_word::<4>(head)) };
    let [first, second, third, fourth] = session.indices;
    usize::from(flow.udp_bytes) >= UDP_BYTES + TRANSPORT_BYTES_MIN
        && kind == TRANSPORT
        && (receiver == first || receiver == second || receiver == third || receiver == fourth)
}

#[inline(always)]
fn admit(flow: &Flow, session: &mut Session, now_ns: u64) -> Result<(), Verdict> {
    if flow.hop_limit <= 1 {
        session.dropped_packets += 1;
        return Err(Verdict::DropHopLimit);
    }
    if session.cost_ns_per_kib != 0 {
        let payload_bytes = u64::from(flow.udp_bytes) - UDP_BYTES as u64;
        let cost_ns = (u64::from(session.cost_ns_per_kib) * payload_bytes) >> 10;
        if !limiter::take(&mut session.limiter_ns, cost_ns, session.burst_ns, now_ns) {
            session.dropped_packets += 1;
            return Err(Verdict::DropSessionOverRate);
        }
    }
    Ok(())
}

#[inline(always)]
fn leaving(flow: &Flow, session: &Session) -> Result<Leaving, Verdict> {
    let mut udp_bytes = usize::from(flow.udp_bytes);
    if flow.channel.number() != 0 {
        udp_bytes -= CHANNEL_BYTES;
    }
    let has_channel = session.target_channel.number() != 0;
    if has_channel {
        udp_bytes += CHANNEL_BYTES;
    }
    let is_v4 = session.target_family == family::V4;
    let ip_bytes = udp_bytes + if is_v4 { IPV4_BYTES } else { IPV6_BYTES };
    if ip_bytes > usize::from(u16::MAX) {
        return Err(Verdict::PassOversize);
    }
    Ok(Leaving { is_v4, ip_bytes, udp_bytes: udp_bytes as u16, has_channel })
}

/// Makes sure that the session knows its next hop, and that the packet is not too long for it.
#[inline(always)]
fn next_hop(
    ctx: &XdpContext,
    settings: &Settings,
    session: &mut Session,
    leaving: &Leaving,
    now_ns: u64,
) -> Result<(), Verdict> {
    let is_fresh = session.hop_interface != 0
        && now_ns.wrapping_sub(session.hop_checked_ns) < NEXT_HOP_FRESH_NS;
    if !is_fresh {
        look_up(ctx, settings, session, leaving)?;
        session.hop_checked_ns = now_ns;
    }
    if session.hop_mtu_bytes != 0 && leaving.ip_bytes > session.hop_mtu_bytes as usize {
        return Err(Verdict::PassOversize);
    }
    if settings.neighbour_refresh_ns != 0 && now_ns >= session.neighbour_refresh_at_ns {
        let is_first = session.neighbour_refresh_at_ns == 0;
        session.neighbour_refresh_at_ns = now_ns.saturating_add(settings.neighbour_refresh_ns);
        if !is_first {
            return Err(Verdict::PassNeighbourRefresh);
        }
    }
    Ok(())
}

#[inline(always)]
fn look_up(
    ctx: &XdpContext,
    settings: &Settings,
    session: &mut Session,
    leaving: &Leaving,
) -> Result<(), Verdict> {
    let (mut source, mut destination) =
        (session.target_source.words, session.target_destination.words);
    if leaving.is_v4 {
        source = [source[3], 0, 0, 0];
        destination = [destination[3], 0, 0, 0];
    }
    let family = if leaving.is_v4 { AF_INET } else { AF_INET6 };
    let [from_high, from_low] = session.target_source_port.to_packet().to_ne_bytes();
    let [to_high, to_low] = session.target_destination_port.to_packet().to_ne_bytes();
    let [bytes_first, bytes_second] = (leaving.ip_bytes as u16).to_ne_bytes();
    let mut fib = FibLookup {
        family_protocol_source_port: u32::from_ne_bytes([
            family,
            PROTOCOL_UDP,
            from_high,
            from_low,
        ]),
        destination_port_bytes: u32::from_ne_bytes([to_high, to_low, bytes_first, bytes_second]),
        interface: settings.routing_interface,
        traffic_class: 0,
        source,
        destination,
        vlan: 0,
        stations: [0; 3],
    };
    // SAFETY: the structure is as long as the kernel is told, and all of it is initialised.
    let answer = unsafe {
        bpf_fib_lookup(ctx.as_ptr(), (&raw mut fib).cast(), size_of::<FibLookup>() as i32, 0)
    };
    // What was known before may not hold any longer.
    session.hop_interface = 0;
    match answer as i64 {
        FIB_SUCCESS => {
            let [first, second, third] =
                fib.stations.map(|word| [word as u16, (word >> 16) as u16]);
            session.hop_frame = [second[1], third[0], third[1], first[0], first[1], second[0]];
            session.hop_mtu_bytes = fib.destination_port_bytes >> 16;
            session.hop_interface = fib.interface;
            Ok(())
        }
        FIB_NO_NEIGHBOUR => Err(Verdict::PassNoNeighbour),
        FIB_TOO_LONG => Err(Verdict::PassOversize),
        FIB_FORWARDING_OFF => Err(Verdict::PassForwardingOff),
        _ => Err(Verdict::PassNoRoute),
    }
}

/// Where the frame leaves: where it came in, or by another interface that is in the map.
#[inline(always)]
fn way_out(
    ctx: &XdpContext,
    session: &Session,
    tagged: Option<Tag>,
) -> Result<(Verdict, u32), Verdict> {
    let came_by = match tagged {
        Some(tag) => tag.interface,
        None => ctx.ingress_ifindex() as u32,
    };
    if session.hop_interface == came_by {
        return Ok((Verdict::RelayedBack, xdp_action::XDP_TX));
    }
    if tagged.is_some() {
        return Err(Verdict::PassNoEgress);
    }
    // One that is not in the map is refused here.
    match EGRESS.redirect(session.hop_interface, xdp_action::XDP_PASS.into()) {
        Ok(action) => Ok((Verdict::RelayedOn, action)),
        Err(_) => Err(Verdict::PassNoEgress),
    }
}

/// Moves the front of the frame to where it has to begin, and writes all headers anew.
#[inline(always)]
fn rewrite<const L3: usize>(
    ctx: &XdpContext,
    flow: &Flow,
    session: &Session,
    leaving: &Leaving,
    tagged: Option<Tag>,
) -> Result<(), Verdict> {
    let checksum = datagram_checksum(flow, session, leaving);
    let had = flow.udp_at() + if flow.channel.number() != 0 { CHANNEL_BYTES } else { 0 };
    let has = if leaving.is_v4 { IPV4_BYTES } else { IPV6_BYTES }
        + if leaving.has_channel { CHANNEL_BYTES } else { 0 };
    if had != has {
        let by = had as i32 - has as i32;
        // SAFETY: the context is the kernel's; pointers into the frame are taken anew below.
        if unsafe { bpf_xdp_adjust_head(ctx.ctx, by) } != 0 {
            return Err(Verdict::PassNoHeadroom);
        }
    }
    let bytes = L3 + has + UDP_BYTES;
    let frame = if leaving.is_v4 {
        window(ctx, 0, L3 + IPV4_BYTES + UDP_BYTES)
    } else {
        window(ctx, 0, L3 + IPV6_BYTES + UDP_BYTES)
    };
    let Some(frame) = frame else {
        // Cannot be: what was removed was there before.
        return Err(Verdict::PassNoHeadroom);
    };
    let udp_at = if leaving.is_v4 {
        // SAFETY: the window has the link header, an IPv4 header and a UDP header.
        unsafe { write_link::<L3>(frame, session, tagged, ETHERTYPE_IPV4) };
        unsafe { write_ipv4(frame.add(L3), flow, session, leaving) };
        L3 + IPV4_BYTES
    } else {
        // SAFETY: the window has the link header, an IPv6 header and a UDP header.
        unsafe { write_link::<L3>(frame, session, tagged, ETHERTYPE_IPV6) };
        unsafe { write_ipv6(frame.add(L3), flow, session, leaving) };
        L3 + IPV6_BYTES
    };
    // SAFETY: as above; `udp_at` is where the window's last eight bytes begin.
    unsafe {
        let udp = frame.add(udp_at);
        write_word::<0>(udp, target_ports(session));
        write_word::<4>(udp, pair(leaving.udp_bytes.to_be(), checksum));
    }
    if leaving.has_channel {
        let Some(header) = window(ctx, bytes - CHANNEL_BYTES, CHANNEL_BYTES) else {
            return Err(Verdict::PassNoHeadroom);
        };
        // SAFETY: the window has four bytes.
        unsafe {
            let bytes = payload_bytes(leaving).to_be();
            write_word::<0>(header, pair(session.target_channel.to_packet(), bytes));
        }
    }
    Ok(())
}

/// The ports that a packet leaves with, as they lie next to each other.
#[inline(always)]
fn target_ports(session: &Session) -> u32 {
    pair(session.target_source_port.to_packet(), session.target_destination_port.to_packet())
}

/// Bytes after a channel's header.
#[inline(always)]
fn payload_bytes(leaving: &Leaving) -> u16 {
    leaving.udp_bytes - (UDP_BYTES + CHANNEL_BYTES) as u16
}

/// The UDP checksum after the rewrite, from the one before: RFC 1624 equation 3. A wrong checksum
/// stays as wrong as it was, and none stays none.
#[inline(always)]
fn datagram_checksum(flow: &Flow, session: &Session, leaving: &Leaving) -> u16 {
    if flow.checksum == 0 {
        return 0;
    }
    // Addresses, ports and channels change alike in all packets of a session.
    let mut sum = Sum::new(!flow.checksum).plus16(session.rewrite_sum);
    if flow.udp_bytes != leaving.udp_bytes {
        let (was, is) = (flow.udp_bytes.to_be(), leaving.udp_bytes.to_be());
        // The length counts twice: in the header and in the pseudo-header.
        sum = sum.minus16(was).minus16(was).plus16(is).plus16(is);
    }
    if flow.channel.number() != 0 {
        let bytes = flow.udp_bytes - (UDP_BYTES + CHANNEL_BYTES) as u16;
        sum = sum.minus16(bytes.to_be());
    }
    if leaving.has_channel {
        sum = sum.plus16(payload_bytes(leaving).to_be());
    }
    match !sum.folded16() {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// # Safety
/// `frame` points at `L3` bytes.
#[inline(always)]
unsafe fn write_link<const L3: usize>(
    frame: *mut u8,
    session: &Session,
    tagged: Option<Tag>,
    ethertype: u16,
) {
    // SAFETY: the caller says that `frame` has `L3` bytes, 14 or 18; the addresses are 12 of them,
    // the tag is written only into 18, and the type takes the last two.
    let [first, second, third, fourth, fifth, sixth] = session.hop_frame;
    unsafe {
        write_word::<0>(frame, pair(first, second));
        write_word::<4>(frame, pair(third, fourth));
        write_word::<8>(frame, pair(fifth, sixth));
        if L3 == 18
            && let Some(tag) = tagged
        {
            write(frame, 12, tag.raw);
        }
        write(frame, L3 - 2, ethertype);
    }
}

/// # Safety
/// `ip` points at 20 bytes.
#[inline(always)]
unsafe fn write_ipv4(ip: *mut u8, flow: &Flow, session: &Session, leaving: &Leaving) {
    // A packet that was IPv6 has no identification; one that may not be fragmented needs none
    // (RFC 6864 §4.1).
    let identification = if flow.is_v4() { flow.identification } else { pair(0, DONT_FRAGMENT) };
    let beginning = u16::from_ne_bytes([0x45, flow.traffic_class]);
    let hops = u16::from_ne_bytes([flow.hop_limit - 1, PROTOCOL_UDP]);
    let (source, destination) =
        (session.target_source.words[3], session.target_destination.words[3]);
    let first = pair(beginning, (leaving.ip_bytes as u16).to_be());
    // Summed up here and not in the frame: a processor waits when what it reads was written in other
    // pieces a moment ago.
    let words = [first, identification, u32::from(hops), source, destination];
    let checksum = !checksum::header_sum(words);
    // SAFETY: the caller vouches for 20 bytes at `ip`, and nothing is written behind them.
    unsafe {
        write_word::<0>(ip, first);
        write_word::<4>(ip, identification);
        write_word::<8>(ip, pair(hops, checksum));
        write_word::<12>(ip, source);
        write_word::<16>(ip, destination);
    }
}

/// # Safety
/// `ip` points at 40 bytes.
#[inline(always)]
unsafe fn write_ipv6(ip: *mut u8, flow: &Flow, session: &Session, leaving: &Leaving) {
    let class = u32::from(flow.traffic_class);
    let hops = u16::from_ne_bytes([PROTOCOL_UDP, flow.hop_limit - 1]);
    let (source, destination) = (session.target_source.words, session.target_destination.words);
    // SAFETY: the caller vouches for 40 bytes at `ip`, and nothing is written behind them.
    unsafe {
        // The flow label belongs to another source; none is what a sender without one says.
        write_word::<0>(ip, (0x6000_0000 | (class << 20)).to_be());
        write_word::<4>(ip, pair(leaving.udp_bytes.to_be(), hops));
        write_word::<8>(ip, source[0]);
        write_word::<12>(ip, source[1]);
        write_word::<16>(ip, source[2]);
        write_word::<20>(ip, source[3]);
        write_word::<24>(ip, destination[0]);
        write_word::<28>(ip, destination[1]);
        write_word::<32>(ip, destination[2]);
        write_word::<36>(ip, destination[3]);
    }
}
