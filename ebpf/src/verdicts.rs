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
