//! Samples of frames for an operator who looks: their beginning as they came, and the verdict.
//!
//! Whether there can be any is decided when the object is loaded: where not, the kernel's verifier
//! takes all of this out of the program. It must never change a frame or a verdict.

use crate::maps::{CAPTURED, CAPTURES_LOST, SAMPLE};
use aya_ebpf::{
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use waystation_ebpf_abi::{Captured, Settings, Verdict, limits::CAPTURED_BYTES_MAX};

/// Whether user space has made room for samples. A constant to the verifier.
#[unsafe(no_mangle)]
static CAPTURE_ENABLED: u32 = 0;

/// The last place in a sample; all ones in the binary system.
const LAST_PLACE: u32 = CAPTURED_BYTES_MAX as u32 - 1;
const _: () = assert!(CAPTURED_BYTES_MAX.is_power_of_two());

/// Keeps the beginning of a frame, if it is one to be looked at; it may be rewritten afterwards.
#[inline(always)]
pub fn begin(ctx: &XdpContext, settings: &Settings, frame_bytes: u64) -> bool {
    // SAFETY: a static of this program; user space writes it before the program is there. Read so
    // that the compiler does not know the value.
    if unsafe { core::ptr::read_volatile(&raw const CAPTURE_ENABLED) } == 0 {
        return false;
    }
    let every = settings.capture_every;
    // SAFETY: has no precondition.
    if settings.capture_verdicts == 0
        || (every > 1 && unsafe { bpf_get_prandom_u32() } % every != 0)
    {
        return false;
    }
    let Some(sample) = SAMPLE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the entry is this processor's alone, and no other program runs on it meanwhile.
    let sample: &mut Captured = unsafe { &mut *sample };
    sample.frame_bytes = frame_bytes as u32;
    sample.captured_bytes = (frame_bytes as u32).wrapping_sub(1).min(LAST_PLACE);
    // The verifier believes a number between 1 and the room there is only by what is done to it
    // last, which the compiler would leave out if it knew where the number comes from.
    // SAFETY: a field of the entry.
    let bytes =
        (unsafe { core::ptr::read_volatile(&raw const sample.captured_bytes) } & LAST_PLACE) + 1;
    sample.captured_bytes = bytes;
    // SAFETY: the entry has room for the bytes; the helper looks whether the frame has them.
    unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, sample.frame.as_mut_ptr().cast(), bytes) == 0 }
}

/// Hands over what [`begin`] has kept, if this verdict is one to be looked at.
#[inline(always)]
pub fn end(ctx: &XdpContext, settings: &Settings, verdict: Verdict) {
    if (settings.capture_verdicts >> verdict.index()) & 1 == 0 {
        return;
    }
    let Some(sample) = SAMPLE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: as above.
    let sample: &mut Captured = unsafe { &mut *sample };
    sample.verdict = verdict.index();
    // SAFETY: has no precondition; and the context is there as long as the program runs.
    (sample.time_ns, sample.interface) =
        unsafe { (bpf_ktime_get_ns(), (*ctx.ctx).ingress_ifindex) };
    if CAPTURED.output::<Captured>(&*sample, 0).is_err()
        && let Some(lost) = CAPTURES_LOST.get_ptr_mut(0)
    {
        // SAFETY: the counter is this processor's alone.
        unsafe { *lost += 1 };
    }
}
