//! What the operator's configuration comes to for the programs: one value, and a kind per port.

use crate::limits::{PORTS_PER_WORD, VLANS_MAX};

/// The one entry of the settings map. All zero means: pass everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Time that one packet of a source without a session takes at the allowed rate, in
    /// nanoseconds; 0 for no limit. 1000 packets/s are 1 000 000.
    pub stranger_cost_ns: u64,
    /// How far ahead of that rate such a source may be, in nanoseconds.
    pub stranger_burst_ns: u64,
    /// As `stranger_cost_ns`, for the first packet of every source that is not remembered, per
    /// processor; 0 for no limit.
    pub newcomer_cost_ns: u64,
    /// As `stranger_burst_ns`, for newcomers.
    pub newcomer_burst_ns: u64,
    /// How often a packet of each relayed session is handed to user space, in nanoseconds, so that
    /// the kernel itself sends to the neighbour and notices when it is gone; 0 for never.
    pub neighbour_refresh_ns: u64,
    /// VLANs whose frames are looked into.
    pub vlans: [Vlan; VLANS_MAX],
    /// Interface from whose view routes are looked up. Loopback gives the routes of this machine's
    /// own packets; the kernel answers only if forwarding is on for that interface.
    pub routing_interface: u32,
    /// Denied IPv4 prefixes; 0 spares the look-up.
    pub denied_v4: u32,
    /// Denied IPv6 prefixes; 0 spares the look-up.
    pub denied_v6: u32,
    /// Of so many frames one is sampled, at random; 0 and 1 for each.
    pub capture_every: u32,
    /// Of samples, those with a verdict whose bit is set are handed over; 0 for none, which costs
    /// nothing. Nothing comes of it unless the object was loaded with a ring for samples.
    pub capture_verdicts: u64,
    /// Sockets that frames of sessions are brought to past the kernel's network stack; 0 spares the
    /// look-up.
    pub frame_sockets: u32,
    /// Kinds of ports (`Port::bit`) whose frames are brought to them.
    pub frame_kinds: u32,
    /// Spreads strangers over their table; any number that nobody outside can guess.
    pub stranger_seed: u64,
}

/// One VLAN the program was told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Vlan {
    /// The VLAN's number, 1 to 4094; 0 for an empty place.
    pub id: u32,
    /// The VLAN's interface. Frames relayed within the VLAN leave as they came, tag and all.
    pub interface: u32,
}

/// What a UDP port of this machine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Port {
    /// Not the relay's: packets for it are left alone.
    Foreign = 0,
    /// A TURN server's: packets may be framed with a channel (RFC 8656 §12.4).
    Turn = 1,
    /// A relayed transport address: packets are payload.
    Session = 2,
    /// An opaque session's: packets are payload.
    Opaque = 3,
}

impl Port {
    /// The bit that says of an address of this machine that ports of this kind are served on it.
    #[inline(always)]
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Words of the port map: two bits per port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortKinds;

impl PortKinds {
    /// The word of the map that holds `port`.
    #[inline(always)]
    pub const fn word_of(port: u16) -> u32 {
        port as u32 / PORTS_PER_WORD
    }

    /// The two bits of `port` in its word.
    #[inline(always)]
    pub const fn bits(word: u64, port: u16) -> u8 {
        ((word >> Self::shift(port)) & 3) as u8
    }

    /// The word with `port` set to `kind`.
    pub const fn with(word: u64, port: u16, kind: Port) -> u64 {
        (word & !(3 << Self::shift(port))) | ((kind as u64) << Self::shift(port))
    }

    #[inline(always)]
    const fn shift(port: u16) -> u32 {
        2 * (port as u32 % PORTS_PER_WORD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{align_of, offset_of, size_of};

    #[test]
    fn layouts_are_those_the_object_was_built_with() {
        assert_eq!((size_of::<Settings>(), align_of::<Settings>()), (112, 8));
        assert_eq!(size_of::<Settings>(), 7 * 8 + VLANS_MAX * 8 + 6 * 4);
        assert_eq!(offset_of!(Settings, vlans), 40);
        assert_eq!(offset_of!(Settings, routing_interface), 72);
    }

    #[test]
    fn every_port_has_its_own_two_bits() {
        let mut word = 0;
        for port in 3456..3456 + 32 {
            assert_eq!(PortKinds::word_of(port), 108);
            word = PortKinds::with(word, port, Port::Session);
        }
        assert_eq!(word, 0xaaaa_aaaa_aaaa_aaaa);
        word = PortKinds::with(word, 3478, Port::Turn);
        word = PortKinds::with(word, 3479, Port::Foreign);
        assert_eq!(PortKinds::bits(word, 3477), Port::Session as u8);
        assert_eq!(PortKinds::bits(word, 3478), Port::Turn as u8);
        assert_eq!(PortKinds::bits(word, 3479), Port::Foreign as u8);
        assert_eq!(PortKinds::word_of(u16::MAX), 2047);
    }
}
