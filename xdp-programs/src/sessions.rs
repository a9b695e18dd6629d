//! Looks sessions up. IPv4 has a map of its own: the kernel's hash of its short key costs a third.

use crate::{
    maps::{SESSIONS_V4, SESSIONS_V6},
    parse::Flow,
    window::pair,
};
use core::mem::transmute;
use waystation_ebpf_abi::{Session, SessionKey, SessionKeyV4};

/// The entry of a datagram, to be read and, from `limiter_ns` on, written.
///
/// Keys are written eight bytes at a time: the look-up compares so, and a processor waits when what it
/// reads was written in smaller pieces a moment ago.
#[inline(always)]
pub fn of_flow(flow: &Flow) -> Option<&'static mut Session> {
    let channel = flow.channel.to_packet();
    let session = if flow.is_v4() {
        let (source, local) = (flow.source.words[3], flow.local.words[3]);
        let words = [double(source, local), double(flow.ports, channel.into())];
        // SAFETY: both are the same integers at the same places, little-endian as everything here.
        SESSIONS_V4.get_ptr_mut(unsafe { transmute::<[u64; 2], SessionKeyV4>(words) })
    } else {
        let (source, local) = (flow.source.words, flow.local.words);
        let words = [
            double(source[0], source[1]),
            double(source[2], source[3]),
            double(local[0], local[1]),
            double(local[2], local[3]),
            double(flow.ports, pair(channel, u16::from(flow.family))),
        ];
        // SAFETY: as above.
        SESSIONS_V6.get_ptr_mut(unsafe { transmute::<[u64; 5], SessionKey>(words) })
    }?;
    // SAFETY: the kernel keeps the entry's memory while the program runs. Another processor may
    // write the same words; see `Session` for why that loses a count at worst.
    Some(unsafe { &mut *session })
}

/// Two words next to each other.
#[inline(always)]
fn double(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// The entry of a key.
#[inline(always)]
pub fn of_key(key: &SessionKey) -> Option<*const Session> {
    match key.v4() {
        Some(key) => SESSIONS_V4.get_ptr(key),
        None => SESSIONS_V6.get_ptr(key),
    }
}
