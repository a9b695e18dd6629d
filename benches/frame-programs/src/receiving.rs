//! Frames that arrive.

use crate::fields::{read_half, read_long};
use crate::maps::{ARRIVALS, Arrival, BOUND_FOR, SENT, TALLIES, Tally};
use crate::sending::fold;
use crate::words::{read_word, window};
use crate::{BODY_STEP, FRAMING_BYTES, HEADERS_BYTES, MESSAGE_BYTES, NUMBER_BYTES};
use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    helpers::generated::bpf_csum_diff,
    programs::XdpContext,
};
use core::ptr::{null_mut, read_volatile};

const FRAMED_BYTES: usize = HEADERS_BYTES + FRAMING_BYTES;
/// Of so many frames of a flow one is compared byte by byte.
const COMPARED_OF: u64 = 16;
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const VERSION_AND_LENGTH: u8 = 0x45;
const PROTOCOL_UDP: u8 = 17;

/// Takes a message of a flow; passes everything else, such as what the ends say to a relay by
/// sockets.
#[inline(always)]
pub fn receive(ctx: &XdpContext) -> u32 {
    match flow_of(ctx) {
        Some(flow) => {
            take(ctx, flow);
            XDP_DROP
        }
        None => XDP_PASS,
    }
}

#[inline(always)]
fn flow_of(ctx: &XdpContext) -> Option<u32> {
    let frame = window(ctx, 0, HEADERS_BYTES + MESSAGE_BYTES)?;
    // SAFETY: the window has all of these places.
    let (first, ttl_and_protocol, to, port) = unsafe {
        (
            read_word::<12>(frame),
            read_half::<22>(frame),
            read_word::<30>(frame),
            read_half::<36>(frame),
        )
    };
    let is_ipv4 = first as u16 == ETHERTYPE_IPV4 && (first >> 16) as u8 == VERSION_AND_LENGTH;
    if !is_ipv4 || (ttl_and_protocol >> 8) as u8 != PROTOCOL_UDP {
        return None;
    }
    let key = u64::from(to) | u64::from(port) << 32;
    // SAFETY: entries are written before frames come.
    unsafe { BOUND_FOR.get(key) }.copied()
}

#[inline(always)]
fn take(ctx: &XdpContext, flow: u32) -> Option<()> {
    let (arrival, sent) = (ARRIVALS.get(flow)?, SENT.get_ptr(flow)?);
    let tally = TALLIES.get_ptr_mut(flow)?;
    // SAFETY: the kernel keeps the entry while the program runs; of a flow, frames come to one
    // interface, which one thread receives for.
    let tally = unsafe { &mut *tally };
    // SAFETY: the kernel keeps the entry, and `send` writes it as a whole.
    let sent = unsafe { read_volatile(sent) };
    let taken = match arrival.framing {
        0 => number_of::<HEADERS_BYTES>(ctx, arrival, tally),
        _ => number_of::<FRAMED_BYTES>(ctx, arrival, tally),
    };
    match taken {
        Some(number) if number < sent => note(tally, number),
        _ => tally.changed += 1,
    }
    Some(())
}

#[inline(always)]
fn note(tally: &mut Tally, number: u64) {
    // An earlier one has been given up on.
    if number >= tally.expected {
        tally.lost += number - tally.expected;
        tally.came += 1;
        tally.expected = number + 1;
    }
}

/// The number of a message that begins at `AT`; none if its frame is not as it should be.
#[inline(always)]
fn number_of<const AT: usize>(
    ctx: &XdpContext,
    arrival: &Arrival,
    tally: &mut Tally,
) -> Option<u64> {
    let frame = window(ctx, 0, AT + MESSAGE_BYTES)?;
    let ip_bytes = (AT + MESSAGE_BYTES - 14) as u16;
    // SAFETY: the window has all of these places.
    let (bytes, source, ports, udp_bytes, framing) = unsafe {
        (
            read_half::<16>(frame),
            read_word::<26>(frame),
            read_word::<34>(frame),
            read_half::<38>(frame),
            read_word::<HEADERS_BYTES>(frame),
        )
    };
    let [from_port, to_port] = arrival.ports;
    let is_as_said = bytes == ip_bytes.to_be()
        && source == arrival.source
        && ports == u32::from(from_port) | u32::from(to_port) << 16
        && udp_bytes == (ip_bytes - 20).to_be()
        && (AT == HEADERS_BYTES || framing == arrival.framing)
        && ctx.data_end() - ctx.data() == AT + MESSAGE_BYTES;
    if !is_as_said {
        return None;
    }
    // SAFETY: the window has them.
    let number = u64::from_be(unsafe { read_long(frame.add(AT)) });
    if number % COMPARED_OF == 0 {
        tally.compared += 1;
        let is_summed = arrival.is_finished == 0 || sums_are_right::<AT>(ctx);
        if !is_summed || !body_is_right::<AT>(ctx) {
            return None;
        }
    }
    Some(number)
}

#[inline(always)]
fn body_is_right<const AT: usize>(ctx: &XdpContext) -> bool {
    let Some(body) = window(ctx, AT + NUMBER_BYTES, MESSAGE_BYTES - NUMBER_BYTES) else {
        return false;
    };
    let (mut wanted, mut difference) = (0_u64, 0);
    for index in 0..(MESSAGE_BYTES - NUMBER_BYTES) / 8 {
        wanted = wanted.wrapping_add(BODY_STEP);
        // SAFETY: the window has a whole body.
        difference |= wanted ^ unsafe { read_long(body.add(8 * index)) };
    }
    difference == 0
}

/// Whether the checksums of IPv4 and of UDP are right: with them, a sum is all ones.
#[inline(always)]
fn sums_are_right<const AT: usize>(ctx: &XdpContext) -> bool {
    // Protocol and length are in the sum that UDP has of the IP header.
    let seed = u32::from(17_u16.to_be()) + u32::from(((AT - 34 + MESSAGE_BYTES) as u16).to_be());
    let ip = sum::<14, 20>(ctx, 0);
    // The helper takes 512 bytes at most.
    let udp =
        sum::<26, 8>(ctx, seed).and_then(|seed| sum::<34, 504>(ctx, seed)).and_then(
            |seed| match AT {
                HEADERS_BYTES => sum::<538, 504>(ctx, seed),
                _ => sum::<538, 508>(ctx, seed),
            },
        );
    let is_whole = |sum: Option<u32>| sum.is_some_and(|sum| fold(u64::from(sum)) == 0xffff);
    is_whole(ip) && is_whole(udp)
}

/// Adds `BYTES` bytes from `AT` on to a sum.
#[inline(always)]
fn sum<const AT: usize, const BYTES: usize>(ctx: &XdpContext, seed: u32) -> Option<u32> {
    let bytes = window(ctx, AT, BYTES)?;
    // SAFETY: the window has so many bytes.
    let sum = unsafe { bpf_csum_diff(null_mut(), 0, bytes.cast(), BYTES as u32, seed) };
    u32::try_from(sum).ok()
}
