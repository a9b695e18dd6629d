//! Packets without a session: denied prefixes, and a rate for each source that nobody vouches for.

use crate::{
    limiter,
    maps::{DENIED_V4, DENIED_V6, NEWCOMERS, STRANGERS},
    parse::Flow,
};
use aya_ebpf::maps::lpm_trie::Key;
use waystation_ebpf_abi::{Settings, Verdict, stranger_of};

/// Whether the source is in a prefix that nothing is taken from.
#[inline(always)]
pub fn is_denied(settings: &Settings, flow: &Flow) -> bool {
    let words = flow.source.words;
    if flow.is_v4() {
        settings.denied_v4 != 0 && DENIED_V4.get(Key::new(32, words[3])).is_some()
    } else {
        settings.denied_v6 != 0 && DENIED_V6.get(Key::new(128, words)).is_some()
    }
}

/// Whether a source without a session is within its rate.
///
/// A source that is remembered is held to its own rate and nothing else. One that is not has to be
/// let in first, at a rate all newcomers share: a flood from made-up sources then neither fills the
/// map nor costs more than two look-ups a packet, and those already known go on.
#[inline(always)]
pub fn judge(settings: &Settings, flow: &Flow, now_ns: u64) -> Verdict {
    if settings.stranger_cost_ns == 0 {
        return Verdict::PassStranger;
    }
    let source = stranger_of(flow.source, flow.family);
    if let Some(paid_ns) = STRANGERS.get_ptr_mut(source) {
        // SAFETY: the kernel keeps the entry's memory while the program runs; another processor
        // writes the same word at worst, see `limiter::take`.
        let paid_ns = unsafe { &mut *paid_ns };
        let (cost_ns, burst_ns) = (settings.stranger_cost_ns, settings.stranger_burst_ns);
        return if limiter::take(paid_ns, cost_ns, burst_ns, now_ns) {
            Verdict::PassStranger
        } else {
            Verdict::DropStrangerOverRate
        };
    }
    if settings.newcomer_cost_ns != 0 {
        let Some(paid_ns) = NEWCOMERS.get_ptr_mut(0) else {
            return Verdict::DropNewcomersOverRate;
        };
        // SAFETY: the word is this processor's alone.
        let paid_ns = unsafe { &mut *paid_ns };
        let (cost_ns, burst_ns) = (settings.newcomer_cost_ns, settings.newcomer_burst_ns);
        if !limiter::take(paid_ns, cost_ns, burst_ns, now_ns) {
            return Verdict::DropNewcomersOverRate;
        }
    }
    let paid_ns = now_ns.saturating_add(settings.stranger_cost_ns);
    // A map that cannot take it only forgets this source.
    let _ = STRANGERS.insert(source, paid_ns, 0);
    Verdict::PassStranger
}
