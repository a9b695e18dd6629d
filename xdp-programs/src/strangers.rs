//! Packets without a session: denied prefixes, and a rate for each source that nobody vouches for.

use crate::{
    clock, limiter,
    maps::{DENIED_HINTS, DENIED_V4, DENIED_V6, NEWCOMERS, STRANGERS},
    parse::Flow,
};
use aya_ebpf::maps::lpm_trie::Key;
use waystation_ebpf_abi::{
    DeniedHint, Settings, Stranger, StrangerBucket, Verdict, bucket_of, stranger_of,
};

/// Whether the source is in a prefix that nothing is taken from. Prefixes are looked up only where
/// the source's block of addresses has some.
#[inline(always)]
pub fn is_denied(settings: &Settings, flow: &Flow) -> bool {
    let denied = if flow.is_v4() { settings.denied_v4 } else { settings.denied_v6 };
    if denied == 0 {
        return false;
    }
    let hint = DeniedHint::of_block(DeniedHint::block_of(&flow.source, flow.family), flow.family);
    let word = DENIED_HINTS.get(hint.word).copied().unwrap_or(0);
    if (word >> hint.bit) & 1 == 0 {
        return false;
    }
    let words = flow.source.words;
    if flow.is_v4() {
        DENIED_V4.get(Key::new(32, words[3])).is_some()
    } else {
        DENIED_V6.get(Key::new(128, words)).is_some()
    }
}

/// Whether a source without a session is within its rate.
///
/// A source that is remembered is held to its own rate and nothing else. One that is not has to be
/// let in first, at a rate all newcomers share: a flood from made-up sources then neither fills the
/// table nor costs more than a look at it, and those already known go on.
#[inline(always)]
pub fn judge(settings: &Settings, flow: &Flow) -> Verdict {
    if settings.stranger_cost_ns == 0 {
        return Verdict::PassStranger;
    }
    let now_ns = clock::now_ns();
    let source = stranger_of(flow.source, flow.family);
    let Some(bucket) = STRANGERS.get_ptr_mut(bucket_of(source, settings.stranger_seed)) else {
        return Verdict::PassStranger;
    };
    // SAFETY: the kernel keeps the entry's memory while the program runs. Another processor may
    // write the same words: then a source is held to what another one owes, or is forgotten, until
    // its next packet is taken.
    let bucket: &mut StrangerBucket = unsafe { &mut *bucket };
    for way in &mut bucket.ways {
        if way.source == source {
            let (cost_ns, burst_ns) = (settings.stranger_cost_ns, settings.stranger_burst_ns);
            return if limiter::take(&mut way.paid_ns, cost_ns, burst_ns, now_ns) {
                Verdict::PassStranger
            } else {
                Verdict::DropStrangerOverRate
            };
        }
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
    remember(bucket, Stranger { source, paid_ns });
    Verdict::PassStranger
}

/// Puts a source in an empty place, or in that of who owes least: there is nothing to be remembered
/// of a source that has paid for all.
#[inline(always)]
fn remember(bucket: &mut StrangerBucket, stranger: Stranger) {
    let [first, second, third, fourth] = &mut bucket.ways;
    let one = if second.paid_ns < first.paid_ns { second } else { first };
    let other = if fourth.paid_ns < third.paid_ns { fourth } else { third };
    *(if other.paid_ns < one.paid_ns { other } else { one }) = stranger;
}
