//! How a UDP session is moved, and why not by something faster.
//!
//! A choice is a value made from facts by whoever owns sockets and maps, on the data core, when a
//! session opens and whenever a fact changes. Nothing here moves a packet.

/// By what datagrams of a session are moved, the slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tier {
    /// One datagram for each system call's entry.
    Plain,
    /// Trains in and out (GRO and GSO).
    Gso,
    /// Frames in and out, past the kernel's network stack (AF_XDP).
    AfXdp,
    /// An XDP program, before the kernel's network stack.
    Xdp,
}

impl Tier {
    /// The name in listings and as the `tier` label of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gso => "gso",
            Self::AfXdp => "af_xdp",
            Self::Xdp => "xdp",
        }
    }
}

/// Why a session is not moved by a faster tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WhyNot {
    /// The operator allows only slower tiers.
    NotAllowed,
    /// No XDP program is attached.
    NotAttached,
    /// A leg has no address yet; there is nothing to put into the map.
    LegUnknown,
    /// It is not known yet which of this machine's addresses an end sends to.
    LocalUnknown,
    /// The session has a rate of datagrams, which the program does not keep.
    PacketRate,
    /// No handshake of the tunnel has been seen, so the program would not know its data.
    NoHandshake,
    /// An end may have moved: until that is decided, everything has to be seen.
    Roaming,
    /// The program's map is being written.
    Pending,
    /// A leg is reached through an interface without the program, or is on this machine.
    OtherInterface,
    /// The program's map of sessions is full.
    MapFull,
    /// The kernel cannot segment UDP.
    Unsupported,
    /// A send with segmentation failed on the way to a leg; remembered for its route.
    RouteRefused,
}

impl WhyNot {
    /// The name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::NotAttached => "not_attached",
            Self::LegUnknown => "leg_unknown",
            Self::LocalUnknown => "local_unknown",
            Self::PacketRate => "packet_rate",
            Self::NoHandshake => "no_handshake",
            Self::Roaming => "roaming",
            Self::Pending => "pending",
            Self::OtherInterface => "other_interface",
            Self::MapFull => "map_full",
            Self::Unsupported => "unsupported",
            Self::RouteRefused => "route_refused",
        }
    }
}

/// What a choice rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The fastest tier that the operator allows.
    pub fastest_allowed: Tier,
    /// What stands against the XDP program, as whoever fills its map has said; `None`: the session
    /// is in the map.
    pub against_xdp: Option<WhyNot>,
    /// Whether the core has sockets for frames, and a program that brings it those of its sessions.
    pub has_frames: bool,
    /// Whether the kernel can segment.
    pub can_segment: bool,
    /// Whether a send with segmentation to either leg has failed.
    pub has_route_refused: bool,
}

/// A tier, and what stood against each faster one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierChoice {
    /// By what the session is moved.
    pub tier: Tier,
    /// Why not by XDP; `None` if it is.
    pub not_xdp: Option<WhyNot>,
    /// Why not in trains; `None` if it is, or by something faster.
    pub not_gso: Option<WhyNot>,
}

impl TierChoice {
    /// The fastest tier that the facts allow.
    pub fn new(facts: &Facts) -> Self {
        let (not_xdp, not_gso) = (why_not_xdp(facts), why_not_gso(facts));
        let has_frames = facts.has_frames && facts.fastest_allowed >= Tier::AfXdp;
        match (not_xdp, not_gso) {
            (None, _) => Self { tier: Tier::Xdp, not_xdp: None, not_gso: None },
            (Some(_), _) if has_frames => Self { tier: Tier::AfXdp, not_xdp, not_gso: None },
            (Some(_), None) => Self { tier: Tier::Gso, not_xdp, not_gso: None },
            (Some(_), Some(_)) => Self { tier: Tier::Plain, not_xdp, not_gso },
        }
    }

    /// What a session has before anybody has chosen.
    pub const UNCHOSEN: Self = Self {
        tier: Tier::Plain,
        not_xdp: Some(WhyNot::LegUnknown),
        not_gso: Some(WhyNot::LegUnknown),
    };
}

fn why_not_xdp(facts: &Facts) -> Option<WhyNot> {
    if facts.fastest_allowed < Tier::Xdp { Some(WhyNot::NotAllowed) } else { facts.against_xdp }
}

fn why_not_gso(facts: &Facts) -> Option<WhyNot> {
    if facts.fastest_allowed < Tier::Gso {
        Some(WhyNot::NotAllowed)
    } else if !facts.can_segment {
        Some(WhyNot::Unsupported)
    } else if facts.has_route_refused {
        Some(WhyNot::RouteRefused)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_WELL: Facts = Facts {
        fastest_allowed: Tier::Xdp,
        against_xdp: None,
        has_frames: false,
        can_segment: true,
        has_route_refused: false,
    };

    fn choice(change: impl FnOnce(&mut Facts)) -> TierChoice {
        let mut facts = ALL_WELL;
        change(&mut facts);
        TierChoice::new(&facts)
    }

    #[test]
    fn fastest_tier_is_taken_when_nothing_is_against_it() {
        assert_eq!(choice(|_| ()).tier, Tier::Xdp);
    }

    #[test]
    fn each_fact_against_xdp_leaves_trains() {
        type Change = fn(&mut Facts);
        let cases: [(Change, WhyNot); 3] = [
            (|facts| facts.fastest_allowed = Tier::Gso, WhyNot::NotAllowed),
            (|facts| facts.against_xdp = Some(WhyNot::NotAttached), WhyNot::NotAttached),
            (|facts| facts.against_xdp = Some(WhyNot::MapFull), WhyNot::MapFull),
        ];
        for (change, why_not) in cases {
            let expected = TierChoice { tier: Tier::Gso, not_xdp: Some(why_not), not_gso: None };
            assert_eq!(choice(change), expected);
        }
    }

    #[test]
    fn frames_are_taken_only_where_they_are_asked_for_and_there_are_any() {
        let asked = |has_frames| {
            choice(|facts| {
                (facts.fastest_allowed, facts.has_frames) = (Tier::AfXdp, has_frames);
                facts.has_route_refused = true;
            })
        };
        let not_xdp = Some(WhyNot::NotAllowed);
        assert_eq!(asked(true), TierChoice { tier: Tier::AfXdp, not_xdp, not_gso: None });
        assert_eq!(asked(false).tier, Tier::Plain);
        let unasked = choice(|facts| {
            (facts.fastest_allowed, facts.has_frames) = (Tier::Gso, true);
        });
        assert_eq!(unasked.tier, Tier::Gso);
    }

    #[test]
    fn plain_says_what_is_against_both_faster_tiers() {
        let refused = choice(|facts| {
            facts.against_xdp = Some(WhyNot::NotAttached);
            facts.has_route_refused = true;
        });
        assert_eq!(refused.tier, Tier::Plain);
        assert_eq!(refused.not_xdp, Some(WhyNot::NotAttached));
        assert_eq!(refused.not_gso, Some(WhyNot::RouteRefused));
        let unsupported = choice(|facts| {
            facts.against_xdp = Some(WhyNot::MapFull);
            facts.can_segment = false;
        });
        assert_eq!(unsupported.not_gso, Some(WhyNot::Unsupported));
        assert_eq!(choice(|facts| facts.fastest_allowed = Tier::Plain).tier, Tier::Plain);
    }
}
