//! The ends of a comparison between hosts: a program that makes frames, as if a cable had brought
//! them, and one on the far interfaces that takes, counts and compares what comes of them.
//!
//! [`send`] is run by `BPF_PROG_TEST_RUN` on live frames (Linux 5.18), once for each frame, on the
//! generator's thread; what it redirects arrives at an interface as a driver's frames do, without
//! having been a packet of the kernel's. [`receive`] is run by the kernel for what comes to the
//! ends' interfaces and leaves everything alone that is no message of a flow. Neither loops without
//! a bound. What they know and tell is in [`maps`].
//!
//! A message is a number of eight bytes, counted up, and a body that is always the same, because
//! the kernel fills a frame's memory once and then uses it again and again.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod fields;
mod maps;
mod receiving;
mod sending;
/// What looks into frames in the relay's programs, so that both look into them the same way.
#[path = "../../../xdp-programs/src/words.rs"]
mod words;

use aya_ebpf::{macros::xdp, programs::XdpContext};

/// How the kernel is told.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Flows at most.
pub const FLOWS_MAX: u32 = 16;
/// Bytes of Ethernet, IPv4 and UDP headers.
pub const HEADERS_BYTES: usize = 14 + 20 + 8;
/// Bytes of a channel's framing.
pub const FRAMING_BYTES: usize = 4;
/// Bytes of a message, its number included.
pub const MESSAGE_BYTES: usize = 1000;
pub const NUMBER_BYTES: usize = 8;
/// The body is the multiples of this, eight bytes each, from the first on.
pub const BODY_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes the next frame that is due, or none.
#[xdp]
pub fn send(ctx: XdpContext) -> u32 {
    sending::send(&ctx)
}

/// Takes a message, or passes what is none.
#[xdp]
pub fn receive(ctx: XdpContext) -> u32 {
    receiving::receive(&ctx)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
