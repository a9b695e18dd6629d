//! What the program decided about a packet: one enum, each value counted per processor.

/// How often a verdict was given, and bytes of the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Frames.
    pub packets: u64,
    /// Bytes of those frames as received, without their checksum.
    pub bytes: u64,
}

macro_rules! verdicts {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// What became of a frame, and why. The number is the place of its counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Verdict {
            $($(#[$doc])* $name,)*
        }

        impl Verdict {
            /// Every verdict, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
            /// How many there are.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The name in listings and as a label of metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

verdicts! {
    /// Sent back out of the interface it came in by, rewritten.
    RelayedBack = "relayed_back",
    /// Sent out of another interface, rewritten.
    RelayedOn = "relayed_on",
    /// Of a known session or client, handed to the owner's processor.
    Steered = "steered",

    /// Passed: neither IPv4 nor IPv6, or too short to tell.
    PassNotIp = "pass_not_ip",
    /// Passed: a VLAN the program was not told of, or more than one tag.
    PassVlan = "pass_vlan",
    /// Passed: IPv4 with options.
    PassIpv4Options = "pass_ipv4_options",
    /// Passed: a fragment, first or later, or a packet that reserves the right to be odd.
    PassFragment = "pass_fragment",
    /// Passed: IPv6 with extension headers.
    PassIpv6Extension = "pass_ipv6_extension",
    /// Passed: IP, but not UDP.
    PassNotUdp = "pass_not_udp",
    /// Passed: not for a port and address of the relay's.
    PassForeign = "pass_foreign",
    /// Passed: more bytes than the datagram says, and not mere padding.
    PassTrailer = "pass_trailer",
    /// Passed to user space: from a source without a session, within its rate.
    PassStranger = "pass_stranger",
    /// Passed to user space: a channel's padding, which would have to be cut off.
    PassChannelPadding = "pass_channel_padding",
    /// Passed to user space: no checksum, which IPv6 does not allow (RFC 8200 §8.1).
    PassNoChecksum = "pass_no_checksum",
    /// Passed to user space: a checksum that the sender left to its network card, as between
    /// virtual machines and containers of one machine; only the kernel can finish it.
    PassUnfinishedChecksum = "pass_unfinished_checksum",
    /// Passed to user space: of a WireGuard session, and not data for an end that is called so.
    PassNotTransport = "pass_not_transport",
    /// Passed to user space: too long for the way out once it is rewritten.
    PassOversize = "pass_oversize",
    /// Passed to user space: the next hop's Ethernet address is unknown; the kernel will ask.
    PassNoNeighbour = "pass_no_neighbour",
    /// Passed to user space: no route to the target.
    PassNoRoute = "pass_no_route",
    /// Passed to user space: routes cannot be looked up, for forwarding is off.
    PassForwardingOff = "pass_forwarding_off",
    /// Passed to user space: the way out is an interface the program may not use.
    PassNoEgress = "pass_no_egress",
    /// Passed to user space: so that the kernel keeps an eye on the neighbour.
    PassNeighbourRefresh = "pass_neighbour_refresh",
    /// Passed to user space: the driver left no room in front of the frame.
    PassNoHeadroom = "pass_no_headroom",

    /// Dropped: lengths, checksum of the header, ports or channel framing contradict each other.
    DropMalformed = "drop_malformed",
    /// Dropped: a source address that nobody sends from.
    DropMartian = "drop_martian",
    /// Dropped: the source is in a denied prefix.
    DropDenied = "drop_denied",
    /// Dropped: a source without a session, beyond its rate.
    DropStrangerOverRate = "drop_stranger_over_rate",
    /// Dropped: a source not seen before, while there are too many such.
    DropNewcomersOverRate = "drop_newcomers_over_rate",
    /// Dropped: beyond the rate of its session.
    DropSessionOverRate = "drop_session_over_rate",
    /// Dropped: it has travelled too far; stops packets that go in circles.
    DropHopLimit = "drop_hop_limit",
}

impl Verdict {
    /// The place of this verdict's counter.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Whether the frame was dropped.
    pub const fn is_drop(self) -> bool {
        self as u32 >= Self::DropMalformed as u32
    }

    /// Whether the frame went on without user space.
    pub const fn is_relayed(self) -> bool {
        matches!(self, Self::RelayedBack | Self::RelayedOn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_has_its_own_place_and_name() {
        for (at, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(verdict.index() as usize, at);
            let same = Verdict::ALL.iter().filter(|other| other.name() == verdict.name());
            assert_eq!(same.count(), 1, "{}", verdict.name());
            assert_eq!(verdict.is_drop(), verdict.name().starts_with("drop_"));
            assert_eq!(verdict.is_relayed(), verdict.name().starts_with("relayed_"));
        }
        assert_eq!(core::mem::size_of::<Counter>(), 16);
    }
}
