//! Links go on in the next process: how they come to stand still here, and which are told of.
//!
//! Cores are asked again and again until nothing is on its way between them, because each of them
//! knows only its own half of a session (decision 27). A link goes together with all that its
//! sessions are joined to, or stays. From the first question until it is clear who has the links
//! no command may name one: those wait and go out afterwards.

use super::ManagementCore;
use crate::hand_over::serving::{Reply, ToldLinks};
use crate::hand_over::{
    LINK_SESSIONS_BYTES_MAX, LINKS_MESSAGE_BYTES, LINKS_PER_MESSAGE, LinksMessage,
};
use crate::limits::{
    LINKS_BUSY_MAX, LINKS_FREEZE_PAUSE, LINKS_FREEZE_ROUNDS_MIN, LINKS_OVER_BYTES_MAX,
    LINKS_SETTLE_MAX,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use tokio::time::Instant;
use waystation_engine::control::{Command, FrozenLink, FrozenLinks};
use waystation_engine::core::LinkState;
use waystation_relay::ids::{CoreId, LinkTag};

/// How far that is.
#[derive(Debug, Default)]
pub(super) enum LinksOver {
    /// They go on here.
    #[default]
    Going,
    Freezing(Freezing),
    Telling(Telling),
    /// So many were told of, and stand still.
    Told {
        links: usize,
    },
}

/// Rounds of questions until they stand still.
#[derive(Debug)]
pub(super) struct Freezing {
    began: Instant,
    rounds: usize,
    /// Names the round, so that a late answer to an earlier attempt is none to this one.
    round: u64,
    missing: Vec<CoreId>,
    answers: Vec<FrozenLinks>,
    /// Batches sent and received in the round before.
    before: Option<[u64; 2]>,
    /// When the next round begins, between two of them.
    again_at: Option<Instant>,
    reply: Reply<ToldLinks>,
}

/// Cores are telling of those that go.
#[derive(Debug)]
pub(super) struct Telling {
    missing: Vec<CoreId>,
    told: ToldLinks,
    failed: Option<io::Error>,
    reply: Reply<ToldLinks>,
}

impl LinksOver {
    pub(super) fn stand_still(&self) -> bool {
        !matches!(self, Self::Going)
    }

    /// When the next round begins.
    pub(super) fn next_round(&self) -> Option<Instant> {
        match self {
            Self::Freezing(freezing) => freezing.again_at,
            Self::Going | Self::Telling(_) | Self::Told { .. } => None,
        }
    }
}

impl ManagementCore {
    /// Has links stand still, and tells of those that another process can go on with.
    pub(super) fn freeze_links(&mut self, reply: Reply<ToldLinks>) {
        let (answers, missing) = (Vec::new(), Vec::new());
        let (began, before) = (Instant::now(), None);
        let again_at = Some(began);
        let (rounds, round) = (0, 0);
        let freezing = Freezing { began, rounds, round, missing, answers, before, again_at, reply };
        self.hand_over.links = LinksOver::Freezing(freezing);
        self.go_on_freezing();
    }

    /// Begins the next round if it is time for it.
    pub(super) fn go_on_freezing(&mut self) {
        if self.hand_over.links.next_round().is_none_or(|at| at > Instant::now()) {
            return;
        }
        let cores: Vec<CoreId> = self.cores().collect();
        let round = self.hand_over.next_freezing_round();
        let LinksOver::Freezing(freezing) = &mut self.hand_over.links else { return };
        freezing.again_at = None;
        freezing.rounds += 1;
        freezing.round = round;
        freezing.missing.clone_from(&cores);
        for core in cores {
            self.command(core, Command::FreezeLinks { round });
        }
    }

    pub(super) fn on_links_frozen(&mut self, frozen: FrozenLinks) {
        let LinksOver::Freezing(freezing) = &mut self.hand_over.links else { return };
        if frozen.round != freezing.round {
            return;
        }
        freezing.missing.retain(|core| *core != frozen.core);
        freezing.answers.push(frozen);
        if !freezing.missing.is_empty() {
            return;
        }
        let answers = std::mem::take(&mut freezing.answers);
        let sum = |of: fn(&FrozenLinks) -> u64| answers.iter().map(of).sum::<u64>();
        let batches = [sum(|it| it.batches_sent), sum(|it| it.batches_received)];
        let is_quiet = batches[0] == batches[1] && freezing.before == Some(batches);
        let is_busy = answers.iter().any(|answer| answer.busy > 0);
        let waited = freezing.began.elapsed();
        // Threads that wait for a processor are no reason to give up, up to a point.
        let has_waited = (waited >= LINKS_BUSY_MAX && freezing.rounds >= LINKS_FREEZE_ROUNDS_MIN)
            || waited >= LINKS_SETTLE_MAX;
        if is_quiet && (!is_busy || has_waited) {
            let links = without_the_longest(&answers);
            return self.tell_links(&choose(links, LINKS_OVER_BYTES_MAX));
        }
        if waited >= LINKS_SETTLE_MAX {
            tracing::warn!("links do not come to stand still, and stay with this process");
            return self.tell_links(&BTreeSet::new());
        }
        freezing.before = Some(batches);
        freezing.again_at = Some(Instant::now() + LINKS_FREEZE_PAUSE);
    }

    fn tell_links(&mut self, links: &BTreeSet<LinkTag>) {
        let LinksOver::Freezing(Freezing { reply, .. }) = std::mem::take(&mut self.hand_over.links)
        else {
            return;
        };
        let missing = self.cores().collect();
        let telling = Telling { missing, told: Vec::new(), failed: None, reply };
        self.hand_over.links = LinksOver::Telling(telling);
        for core in self.cores() {
            let links = links.iter().filter(|link| link.core == core).copied().collect();
            self.backlog.push_back((core, Command::TellLinks { links }));
        }
        self.send_backlog();
    }

    pub(super) fn on_links_told(
        &mut self,
        core: CoreId,
        result: io::Result<Vec<(Box<LinkState>, TcpStream)>>,
    ) {
        let LinksOver::Telling(telling) = &mut self.hand_over.links else { return };
        telling.missing.retain(|missing| *missing != core);
        match result {
            Ok(links) => telling.told.extend(messages(core, links)),
            Err(error) => telling.failed = Some(error),
        }
        if !telling.missing.is_empty() {
            return;
        }
        let LinksOver::Telling(Telling { told, failed, reply, .. }) =
            std::mem::take(&mut self.hand_over.links)
        else {
            return;
        };
        let links = told.iter().map(|(message, _)| message.links.len()).sum();
        self.hand_over.links = LinksOver::Told { links };
        let told = match failed {
            None => told,
            Some(error) => {
                tracing::warn!("links stay with this process: {error}");
                Vec::new()
            }
        };
        if told.is_empty() {
            self.thaw_links();
        }
        // Whoever asked may have gone; then it comes to nothing, which is told otherwise.
        let _ = reply.send(Ok(told));
    }

    /// They go on here after all.
    pub(super) fn thaw_links(&mut self) {
        if !std::mem::take(&mut self.hand_over.links).stand_still() {
            return;
        }
        for core in self.cores() {
            self.backlog.push_back((core, Command::ThawLinks));
        }
        self.send_backlog();
        self.send_all_held();
    }

    /// They are another process's, which the cores have been told. Returns how many.
    pub(super) fn let_links_go(&mut self) -> usize {
        let links = match std::mem::take(&mut self.hand_over.links) {
            LinksOver::Told { links } => links,
            LinksOver::Going | LinksOver::Freezing(_) | LinksOver::Telling(_) => 0,
        };
        // What names one that stays is still wanted.
        self.send_all_held();
        links
    }
}

/// The links whose sessions a message holds: without those, one of too many would keep all others
/// from going on.
fn without_the_longest(frozen: &[FrozenLinks]) -> impl Iterator<Item = &FrozenLink> {
    let links = frozen.iter().flat_map(|of_core| &of_core.links);
    links.filter(|frozen| {
        let fits = frozen.written_bytes_max <= LINK_SESSIONS_BYTES_MAX;
        if !fits {
            tracing::warn!(
                link = %frozen.link,
                "a link has too many sessions to go on elsewhere, and stays with this process"
            );
        }
        fits
    })
}

/// The links that can go: each only with all that its sessions are joined to, and all together with
/// no more payload than that.
fn choose<'a>(links: impl Iterator<Item = &'a FrozenLink>, bytes_max: usize) -> BTreeSet<LinkTag> {
    let links: BTreeMap<(CoreId, u32), &FrozenLink> =
        links.map(|frozen| ((frozen.link.core, frozen.link.slot), frozen)).collect();
    // What is joined on one side only counts as well.
    let mut joined: BTreeMap<(CoreId, u32), Vec<(CoreId, u32)>> = BTreeMap::new();
    for (place, link) in &links {
        for other in &link.joined {
            joined.entry(*place).or_default().push(*other);
            joined.entry(*other).or_default().push(*place);
        }
    }
    let (mut seen, mut chosen, mut left_bytes) = (BTreeSet::new(), BTreeSet::new(), bytes_max);
    for first in links.keys() {
        let (mut together, mut waiting, mut bytes) = (Vec::new(), vec![*first], Some(0_usize));
        while let Some(place) = waiting.pop() {
            if !seen.insert(place) {
                continue;
            }
            waiting.extend(joined.get(&place).into_iter().flatten());
            match links.get(&place) {
                Some(link) => {
                    together.push(link.link);
                    bytes = bytes.map(|bytes| bytes.saturating_add(link.bytes));
                }
                None => bytes = None,
            }
        }
        if let Some(left) = bytes.and_then(|bytes| left_bytes.checked_sub(bytes)) {
            left_bytes = left;
            chosen.extend(together);
        }
    }
    chosen
}

/// What a core has told, in messages of bounded length.
fn messages(core: CoreId, links: Vec<(Box<LinkState>, TcpStream)>) -> ToldLinks {
    let mut messages = ToldLinks::new();
    let mut bytes = 0;
    for (link, socket) in links {
        let link_bytes = link.written_bytes();
        bytes += link_bytes;
        match messages.last_mut() {
            Some((last, descriptors))
                if last.links.len() < LINKS_PER_MESSAGE && bytes <= LINKS_MESSAGE_BYTES =>
            {
                last.links.push(*link);
                descriptors.push(OwnedFd::from(socket));
            }
            Some(_) | None => {
                bytes = link_bytes;
                let message = LinksMessage { core: core.0, links: vec![*link] };
                messages.push((message, vec![OwnedFd::from(socket)]));
            }
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Core and number of a link, those it is joined to, and its bytes.
    type Given<'a> = (u16, u32, &'a [(u16, u32)], usize);

    fn frozen(links: &[Given<'_>]) -> Vec<FrozenLinks> {
        let of_core = |core: u16| FrozenLinks {
            core: CoreId(core),
            round: 1,
            busy: 0,
            batches_sent: 0,
            batches_received: 0,
            links: links
                .iter()
                .filter(|link| link.0 == core)
                .map(|&(core, slot, joined, bytes)| FrozenLink {
                    link: LinkTag { core: CoreId(core), slot, generation: 1 },
                    joined: joined.iter().map(|&(core, slot)| (CoreId(core), slot)).collect(),
                    bytes,
                    written_bytes_max: 2 * bytes,
                })
                .collect(),
        };
        vec![of_core(0), of_core(1)]
    }

    fn chosen(frozen: &[FrozenLinks], bytes_max: usize) -> Vec<(u16, u32)> {
        choose(without_the_longest(frozen), bytes_max)
            .iter()
            .map(|link| (link.core.0, link.slot))
            .collect()
    }

    #[test]
    fn link_goes_only_with_all_that_it_is_joined_to() {
        let links = frozen(&[
            (0, 1, &[(1, 1)], 0),
            (1, 1, &[(0, 1), (0, 2)], 0),
            (0, 2, &[], 0),
            (0, 3, &[(1, 9)], 0),
            (1, 3, &[(0, 3)], 0),
            (1, 4, &[], 0),
        ]);
        assert_eq!(chosen(&links, 1), [(0, 1), (0, 2), (1, 1), (1, 4)]);
    }

    #[test]
    fn links_with_too_much_payload_stay_together() {
        let links = frozen(&[
            (0, 1, &[(0, 2)], 60),
            (0, 2, &[(0, 1)], 50),
            (0, 3, &[(1, 1)], 40),
            (1, 1, &[(0, 3)], 40),
            (1, 2, &[], 30),
        ]);
        assert_eq!(chosen(&links, 100), [(0, 3), (1, 1)]);
        assert_eq!(chosen(&links, 1000).len(), 5);
    }

    #[test]
    fn link_with_more_sessions_than_a_message_holds_stays_with_what_it_is_joined_to() {
        let half = LINK_SESSIONS_BYTES_MAX / 2;
        let links = frozen(&[
            (0, 1, &[(1, 1)], half + 1),
            (1, 1, &[(0, 1)], 0),
            (0, 2, &[(1, 2)], half),
            (1, 2, &[(0, 2)], 0),
        ]);
        assert_eq!(chosen(&links, usize::MAX), [(0, 2), (1, 2)]);
    }
}
