//! What the programs' verdicts are called in the rest of the program.

use crate::{
    abi::{Counter, Verdict},
    tables::CounterTable,
};
use aya::maps::MapError;
use waystation_relay::drop_reason::DropReason;

/// The program-wide reason of a verdict that drops, or `None` for one that does not.
pub fn drop_reason(verdict: Verdict) -> Option<DropReason> {
    match verdict {
        Verdict::DropMalformed => Some(DropReason::UdpMalformed),
        Verdict::DropMartian => Some(DropReason::UdpMartianSource),
        Verdict::DropDenied => Some(DropReason::UdpPrefixDenied),
        Verdict::DropStrangerOverRate => Some(DropReason::UdpSourceOverRate),
        Verdict::DropNewcomersOverRate => Some(DropReason::UdpNewcomersOverRate),
        Verdict::DropSessionOverRate => Some(DropReason::UdpRateExceeded),
        Verdict::DropHopLimit => Some(DropReason::UdpHopLimit),
        _ => None,
    }
}

/// What a verdict means, for an operator who asks about a packet.
pub const fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::RelayedBack => "rewritten and sent back out of the interface it came in by",
        Verdict::RelayedOn => "rewritten and sent out of another interface",
        Verdict::Steered => "of a known client or session; handed to the data core that owns it",
        Verdict::PassNotIp => "neither IPv4 nor IPv6, or too short to tell",
        Verdict::PassVlan => "of a VLAN that the program was not told of, or with several tags",
        Verdict::PassIpv4Options => "IPv4 with options, which are left to the kernel",
        Verdict::PassFragment => "a fragment, which is left to the kernel to put together",
        Verdict::PassIpv6Extension => "IPv6 with extension headers, which are left to the kernel",
        Verdict::PassNotUdp => "not UDP",
        Verdict::PassForeign => "not for a port and an address of the relay",
        Verdict::PassTrailer => "longer than its headers say, and not only by padding",
        Verdict::PassStranger => "from a source without a session, which is within its rate",
        Verdict::PassChannelPadding => "a channel with padding, which would have to be cut off",
        Verdict::PassNoChecksum => "without a checksum, which IPv6 does not allow on the way out",
        Verdict::PassUnfinishedChecksum => {
            "its checksum is left to a network card that is not there; only the kernel can finish it"
        }
        Verdict::PassNotTransport => {
            "of a WireGuard session, and not data for an index that its end has announced"
        }
        Verdict::PassOversize => "too long for the way out once it is rewritten",
        Verdict::PassNoNeighbour => "the next hop's Ethernet address is not known; the kernel asks",
        Verdict::PassNoRoute => "there is no route to where it is to go",
        Verdict::PassForwardingOff => "routes cannot be looked up while forwarding is off for lo",
        Verdict::PassNoEgress => "it would leave by an interface that the program is not on",
        Verdict::PassNeighbourRefresh => {
            "passed now and then so that the kernel knows the neighbour"
        }
        Verdict::PassNoHeadroom => "the driver left no room in front of the frame",
        Verdict::DropMalformed => "lengths, checksums, ports or framing contradict each other",
        Verdict::DropMartian => "from an address that nobody sends from",
        Verdict::DropDenied => "from a block of xdp.deny",
        Verdict::DropStrangerOverRate => {
            "from a source without a session, beyond xdp.stranger_rate"
        }
        Verdict::DropNewcomersOverRate => "from a new source, and there are too many of them now",
        Verdict::DropSessionOverRate => "beyond the rate of its session",
        Verdict::DropHopLimit => "its hop limit is used up; this stops packets that go in circles",
    }
}

/// Every verdict with its counter, in the order of [`Verdict::ALL`].
///
/// # Errors
/// When the kernel refuses.
pub fn all(counters: &CounterTable) -> Result<Vec<(Verdict, Counter)>, MapError> {
    Verdict::ALL.iter().map(|verdict| Ok((*verdict, counters.of(*verdict)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_dropping_verdict_has_its_own_reason() {
        let reasons: Vec<_> =
            Verdict::ALL.iter().filter_map(|verdict| drop_reason(*verdict)).collect();
        let dropping = Verdict::ALL.iter().filter(|verdict| verdict.is_drop()).count();
        assert_eq!(reasons.len(), dropping);
        assert_eq!(reasons.into_iter().collect::<BTreeSet<_>>().len(), dropping);
    }
}
