//! The numbers of a frame, and its link layer. See [`crate::words`] for what every access begins
//! with.

use crate::words::window;
use aya_ebpf::programs::XdpContext;
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
