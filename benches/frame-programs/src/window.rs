//! Bounded access to a frame. Its fields begin at even places and no more, and every machine that
//! the programs are built for reads and writes words at any place, so they are named in assembly:
//! from an even place the compiler would take them two bytes at a time.

use aya_ebpf::programs::XdpContext;
use core::arch::asm;

/// The `bytes` bytes from `start` on, if the frame has them. The verifier holds every access to
/// what was asked for here.
#[inline(always)]
pub fn window(ctx: &XdpContext, start: usize, bytes: usize) -> Option<*mut u8> {
    let from = ctx.data() + start;
    (from + bytes <= ctx.data_end()).then_some(from as *mut u8)
}

/// Two bytes as they lie in the frame.
///
/// # Safety
/// `window` holds them at `AT`.
#[inline(always)]
pub unsafe fn read_half<const AT: usize>(window: *const u8) -> u16 {
    let half: u64;
    unsafe {
        asm!(
            "{half} = *(u16 *)({window} + {at})",
            half = out(reg) half,
            window = in(reg) window,
            at = const AT,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    half as u16
}

/// Four bytes as they lie in the frame.
///
/// # Safety
/// `window` holds them at `AT`.
#[inline(always)]
pub unsafe fn read_word<const AT: usize>(window: *const u8) -> u32 {
    let word: u64;
    unsafe {
        asm!(
            "{word} = *(u32 *)({window} + {at})",
            word = out(reg) word,
            window = in(reg) window,
            at = const AT,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    word as u32
}

/// Eight bytes as they lie in the frame.
///
/// # Safety
/// `window` begins with them.
#[inline(always)]
pub unsafe fn read_long(window: *const u8) -> u64 {
    let long: u64;
    unsafe {
        asm!(
            "{long} = *(u64 *)({window} + 0)",
            long = out(reg) long,
            window = in(reg) window,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    long
}

/// Writes two bytes as they shall lie in the frame.
///
/// # Safety
/// `window` holds them at `AT`.
#[inline(always)]
pub unsafe fn write_half<const AT: usize>(window: *mut u8, half: u16) {
    unsafe {
        asm!(
            "*(u16 *)({window} + {at}) = {half}",
            window = in(reg) window,
            half = in(reg) u64::from(half),
            at = const AT,
            options(nostack, preserves_flags),
        );
    }
}

/// Writes four bytes as they shall lie in the frame.
///
/// # Safety
/// `window` holds them at `AT`.
#[inline(always)]
pub unsafe fn write_word<const AT: usize>(window: *mut u8, word: u32) {
    unsafe {
        asm!(
            "*(u32 *)({window} + {at}) = {word}",
            window = in(reg) window,
            word = in(reg) u64::from(word),
            at = const AT,
            options(nostack, preserves_flags),
        );
    }
}
