//! Frames on their way out.

use crate::fields::write_half;
use crate::maps::{COURSES, Course, DEVICES, FLOOD, FLOWS, PACES, SENT, STEADY, TALLIES, TURN};
use crate::maps::{Pace, WINDOW_FRAMES};
use crate::words::{window, write_word};
use crate::{FLOWS_MAX, FRAMING_BYTES, HEADERS_BYTES, MESSAGE_BYTES, NUMBER_BYTES};
use aya_ebpf::{
    bindings::xdp_action::XDP_DROP,
    helpers::generated::{bpf_ktime_get_ns, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use core::ptr::read_volatile;

/// What a frame has in front of a message, a channel's framing included.
const HEAD_BYTES: usize = HEADERS_BYTES + FRAMING_BYTES;
/// Bytes of a datagram of the flood: short, so that there are many, and no STUN.
const FLOOD_BYTES: usize = 32;
/// Addresses that the flood comes from, those of 10.0.0.0/8: each comes round once in so many.
const SOURCES: u64 = 1 << 24;
/// Makes a walk over all of them out of counting: an odd number (Weyl's sequence).
const SOURCE_STEP: u64 = 0x9e_3779;
/// What a pace is behind by more than this is not due any more, so that a generator that was held
/// up does not send in one piece what no queue holds.
const LATE_NS_MAX: u64 = 100_000;

/// Makes the next frame that is due, or none: then the kernel takes its memory back.
#[inline(always)]
pub fn send(ctx: &XdpContext) -> u32 {
    let (Some(steady), Some(flood)) = (PACES.get_ptr_mut(STEADY), PACES.get_ptr_mut(FLOOD)) else {
        return XDP_DROP;
    };
    // SAFETY: the kernel keeps the entries while the program runs, and nothing else writes them
    // meanwhile.
    let (steady, flood) = unsafe { (&mut *steady, &mut *flood) };
    if steady.interval_ns == 0 && flood.interval_ns == 0 {
        return send_of_next_flow(ctx, false).unwrap_or(XDP_DROP);
    }
    // SAFETY: has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if is_due(flood, now_ns) {
        return send_of_flood(ctx, flood.count).unwrap_or(XDP_DROP);
    }
    if is_due(steady, now_ns) {
        return send_of_next_flow(ctx, true).unwrap_or(XDP_DROP);
    }
    XDP_DROP
}

#[inline(always)]
fn is_due(pace: &mut Pace, now_ns: u64) -> bool {
    if pace.interval_ns == 0 || now_ns < pace.next_ns {
        return false;
    }
    pace.next_ns += pace.interval_ns;
    if pace.next_ns + LATE_NS_MAX < now_ns {
        pace.next_ns = now_ns;
    }
    pace.count += 1;
    true
}

/// Sends the next message of the flow whose turn it is, unless as many are under way as may be.
#[inline(always)]
fn send_of_next_flow(ctx: &XdpContext, is_steady: bool) -> Option<u32> {
    // SAFETY: what the loader has put in their place is read, not what stands there now.
    let (flows, most) = unsafe { (read_volatile(&FLOWS), read_volatile(&WINDOW_FRAMES)) };
    let turn = TURN.get_ptr_mut(0)?;
    // SAFETY: as in `send`.
    let flow = unsafe { *turn };
    let next = flow + 1;
    // SAFETY: as in `send`.
    unsafe { *turn = if next < flows { next } else { 0 } };
    if flow >= flows {
        return None;
    }
    let (sent, tally) = (SENT.get_ptr_mut(flow)?, TALLIES.get_ptr(flow)?);
    // SAFETY: as in `send`; the tally is `receive`'s, which has whole words written at once.
    let (number, expected) = unsafe { (*sent, read_volatile(&raw const (*tally).expected)) };
    if !is_steady && number.wrapping_sub(expected) >= u64::from(most) {
        return None;
    }
    write_message(ctx, COURSES.get(flow)?, number)?;
    // SAFETY: as in `send`.
    unsafe { *sent = number + 1 };
    DEVICES.redirect(flow, 0).ok()
}

#[inline(always)]
fn write_message(ctx: &XdpContext, course: &Course, number: u64) -> Option<()> {
    let frame = window(ctx, 0, HEAD_BYTES + MESSAGE_BYTES)?;
    write_head(frame, course);
    let checksum = checksum(course.sum, number);
    let number = number.to_be();
    // SAFETY: the window has all of these places.
    unsafe {
        if course.cut_bytes == 0 {
            write_half::<{ HEADERS_BYTES - 2 }>(frame, checksum);
        } else {
            write_half::<{ HEAD_BYTES - 2 }>(frame, checksum);
        }
        write_word::<HEAD_BYTES>(frame, number as u32);
        write_word::<{ HEAD_BYTES + NUMBER_BYTES / 2 }>(frame, (number >> 32) as u32);
    }
    if course.cut_bytes != 0 {
        // SAFETY: the context is the kernel's own.
        let cut = unsafe { bpf_xdp_adjust_head(ctx.ctx, FRAMING_BYTES as i32) };
        if cut != 0 {
            return None;
        }
    }
    Some(())
}

#[inline(always)]
fn write_head(frame: *mut u8, course: &Course) {
    let head = &course.head;
    // SAFETY: every caller's window has a head.
    unsafe {
        write_word::<0>(frame, head[0]);
        write_word::<4>(frame, head[1]);
        write_word::<8>(frame, head[2]);
        write_word::<12>(frame, head[3]);
        write_word::<16>(frame, head[4]);
        write_word::<20>(frame, head[5]);
        write_word::<24>(frame, head[6]);
        write_word::<28>(frame, head[7]);
        write_word::<32>(frame, head[8]);
        write_word::<36>(frame, head[9]);
        write_word::<40>(frame, head[10]);
        write_half::<44>(frame, head[11] as u16);
    }
}

/// The UDP checksum over a sum, in network order as it lies in memory, and a number.
#[inline(always)]
fn checksum(sum: u32, number: u64) -> u16 {
    let number = number.to_be();
    let words =
        (number & 0xffff) + (number >> 16 & 0xffff) + (number >> 32 & 0xffff) + (number >> 48);
    match !fold(u64::from(sum) + words) {
        // None would be meant.
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Adds the carries of a sum of up to 48 bits.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32 & 0xffff);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sends a datagram that nobody asked for, from another address than the last. Its UDP checksum is
/// 0, which says that there is none.
#[inline(always)]
fn send_of_flood(ctx: &XdpContext, count: u64) -> Option<u32> {
    let course = COURSES.get(FLOWS_MAX)?;
    let frame = window(ctx, 0, HEAD_BYTES + MESSAGE_BYTES)?;
    write_head(frame, course);
    let walked = count.wrapping_mul(SOURCE_STEP) % SOURCES;
    let source = ((10 << 24 | walked) as u32).to_be();
    let halves = u64::from(source & 0xffff) + u64::from(source >> 16);
    // SAFETY: the window has all of these places: the checksum of IPv4, the sender's address, and
    // what a channel's framing would be.
    unsafe {
        write_half::<24>(frame, !fold(u64::from(course.sum) + halves));
        write_word::<26>(frame, source);
        write_word::<HEADERS_BYTES>(frame, u32::MAX);
    }
    let cut = (FRAMING_BYTES + MESSAGE_BYTES - FLOOD_BYTES) as i32;
    // SAFETY: the context is the kernel's own.
    let cut = unsafe { bpf_xdp_adjust_tail(ctx.ctx, -cut) };
    if cut != 0 {
        return None;
    }
    DEVICES.redirect(FLOWS_MAX, 0).ok()
}
