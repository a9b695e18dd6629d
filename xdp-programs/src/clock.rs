//! The coarse monotonic clock, read once a tick by each processor.

use crate::maps::READINGS;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use waystation_ebpf_abi::Reading;

/// Nanoseconds of the coarse monotonic clock, which moves on with the kernel's ticks.
///
/// The kernel counts a tick, which the program sees without a call, just before it moves the clock on:
/// a reading in between is good for a tick, so time may be a tick behind, and never goes back on one
/// processor.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: has no precondition.
    let tick = unsafe { bpf_jiffies64() };
    let Some(reading) = READINGS.get_ptr_mut(0) else {
        // SAFETY: has no precondition.
        return unsafe { bpf_ktime_get_coarse_ns() };
    };
    // SAFETY: the entry is this processor's alone.
    let reading: &mut Reading = unsafe { &mut *reading };
    if reading.tick != tick {
        // SAFETY: has no precondition.
        *reading = Reading { tick, now_ns: unsafe { bpf_ktime_get_coarse_ns() } };
    }
    reading.now_ns
}
