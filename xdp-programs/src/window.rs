//! Bounded access to a frame, and its link layer.

use aya_ebpf::programs::XdpContext;
use core::arch::asm;
use waystation_ebpf_abi::{Settings, Verdict};

const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 4;
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_VLAN: u16 = 0x8100_u16.to_be();
const ETHERTYPE_PROVIDER_VLAN: u16 = 0x88a8_u16.to_be();

/// What the link layer of a frame says.
pub struct Link {
    pub network: Network,
    pub tagged: Option<Tag>,
}

/// The protocol above the link layer.
pub enum Network {
    Ipv4,
    Ipv6,
}

/// The tag of a VLAN the program was told of.
#[derive(Clone, Copy)]
pub struct Tag {
    /// Protocol and control word as they lie in the frame.
    pub raw: [u16; 2],
    /// The VLAN's interface.
    pub interface: u32,
}

/// Bytes of the frame.
#[inline(always)]
pub fn frame_bytes(ctx: &XdpContext) -> usize {
    ctx.data_end() - ctx.data()
}

/// The first `bytes` bytes after `start`, if the frame has them. The verifier holds every access to
/// what was asked for here.
#[inline(always)]
pub fn window(ctx: &XdpContext, start: usize, bytes: usize) -> Option<*mut u8> {
    let from = ctx.data() + start;
    (from + bytes <= ctx.data_end()).then_some(from as *mut u8)
}

/// Something in a frame. Ethernet headers are 14 or 18 bytes long and every field after them begins
/// at an even place, so that much may be promised; without a promise the compiler reads byte by
/// byte.
#[repr(C, packed(2))]
struct Even<T>(T);

/// Reads a number as it lies in the frame.
///
/// # Safety
/// `window` holds `at` and the bytes of a `T` after it, and `at` is even for a `T` of more than one
/// byte.
#[inline(always)]
pub unsafe fn read<T: Copy>(window: *const u8, at: usize) -> T {
    unsafe { window.add(at).cast::<Even<T>>().read().0 }
}

/// Writes a number as it shall lie in the frame.
///
/// # Safety
/// `window` holds `at` and the bytes of a `T` after it, and `at` is even for a `T` of more than one
/// byte.
#[inline(always)]
pub unsafe fn write<T: Copy>(window: *mut u8, at: usize, value: T) {
    unsafe { window.add(at).cast::<Even<T>>().write(Even(value)) }
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

/// Two numbers as they lie next to each other in a frame, as one word of it.
#[inline(always)]
pub const fn pair(first: u16, second: u16) -> u32 {
    first as u32 | (second as u32) << 16
}

/// The two numbers of a word.
#[inline(always)]
pub const fn halves(word: u32) -> [u16; 2] {
    [word as u16, (word >> 16) as u16]
}

/// Looks at the link layer.
#[inline(always)]
pub fn link_layer(ctx: &XdpContext, settings: &Settings) -> Result<Link, Verdict> {
    let Some(frame) = window(ctx, 0, ETHERNET_BYTES) else {
        return Err(Verdict::PassNotIp);
    };
    // SAFETY: the window has 14 bytes.
    let (first, ethertype) = unsafe { (read::<u8>(frame, 0), read::<u16>(frame, 12)) };
    if first & 1 != 0 {
        // To a group of stations.
        return Err(Verdict::PassForeign);
    }
    match ethertype {
        ETHERTYPE_IPV4 => Ok(Link { network: Network::Ipv4, tagged: None }),
        ETHERTYPE_IPV6 => Ok(Link { network: Network::Ipv6, tagged: None }),
        ETHERTYPE_VLAN => told_vlan(ctx, settings),
        ETHERTYPE_PROVIDER_VLAN => Err(Verdict::PassVlan),
        _ => Err(Verdict::PassNotIp),
    }
}

#[inline(always)]
fn told_vlan(ctx: &XdpContext, settings: &Settings) -> Result<Link, Verdict> {
    let Some(tag) = window(ctx, ETHERNET_BYTES - 2, 2 + TAG_BYTES) else {
        return Err(Verdict::PassVlan);
    };
    // SAFETY: the window has 6 bytes.
    let (raw, ethertype) =
        unsafe { ([read::<u16>(tag, 0), read::<u16>(tag, 2)], read::<u16>(tag, 4)) };
    let id = u32::from(u16::from_be(raw[1]) & 0x0fff);
    let mut interface = 0;
    for vlan in &settings.vlans {
        if vlan.id == id && id != 0 {
            interface = vlan.interface;
        }
    }
    if interface == 0 {
        return Err(Verdict::PassVlan);
    }
    let tagged = Some(Tag { raw, interface });
    match ethertype {
        ETHERTYPE_IPV4 => Ok(Link { network: Network::Ipv4, tagged }),
        ETHERTYPE_IPV6 => Ok(Link { network: Network::Ipv6, tagged }),
        ETHERTYPE_VLAN | ETHERTYPE_PROVIDER_VLAN => Err(Verdict::PassVlan),
        _ => Err(Verdict::PassNotIp),
    }
}
