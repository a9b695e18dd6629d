//! Fields of a frame that are shorter or longer than a word, at places that hold as little as those
//! of [`crate::words`]: even, and no more. They are named in assembly for the same reason.

use core::arch::asm;

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
