//! Bounded access to a frame, and its words.
//!
//! Called by every part of a program that looks into a frame, on the processor that runs it. It
//! must never hand out a byte that the frame may not have. The programs at the ends of a comparison
//! between hosts (`benches/frame-programs`) are built with this file too, so it leans on nothing
//! beside it.

use aya_ebpf::programs::XdpContext;
use core::arch::asm;

/// The first `bytes` bytes after `start`, if the frame has them. The verifier holds every access to
/// what was asked for here.
#[inline(always)]
pub fn window(ctx: &XdpContext, start: usize, bytes: usize) -> Option<*mut u8> {
    let from = ctx.data() + start;
    (from + bytes <= ctx.data_end()).then_some(from as *mut u8)
}

/// Reads four bytes as they lie in the frame, at once.
///
/// A place after an Ethernet header is even and no more, so without this the compiler would read two
/// by two, and put together. Every machine that the programs are built for reads four bytes anywhere,
/// and on others the verifier would say no.
///
/// # Safety
/// `window` holds four bytes at `AT`.
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

/// Writes four bytes as they shall lie in the frame, at once; see [`read_word`].
///
/// # Safety
/// `window` holds four bytes at `AT`.
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
