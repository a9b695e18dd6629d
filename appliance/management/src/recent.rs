//! How the rows of listings have grown lately, so that the busiest come first.
//!
//! Owned by the management core's runtime, on its thread. A data core counts since a link or session
//! began; what has changed since an earlier listing is known here alone, and only while somebody
//! asks for rows in order. Whoever shows them needs no memory of rows that were not among the first.

use crate::clock::Moment;
use crate::limits::{LISTING_ROWS_MAX, RECENT_AGE_MAX, RECENT_AGE_MIN};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;
use waystation_engine::control::{LinkRow, SessionRow};
use waystation_relay::ids::{LegTag, LinkTag};

/// What rows of a listing are in order of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowOrder {
    /// Core and place.
    #[default]
    Place,
    /// Bytes both ways since an earlier listing, the most first.
    Bytes,
    /// Frames both ways.
    Frames,
    /// Bytes that wait.
    Queue,
    /// Round trip of the last ping.
    Ping,
}

/// By how much a row has grown, and over which time of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    pub length_ns: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Frames of both directions; nothing for sessions, whose frames are those of their link.
    pub frames_in: u64,
    pub frames_out: u64,
}

/// A row with what became of it since an earlier listing, if that is known.
#[derive(Debug)]
pub struct Ranked<'l, R> {
    pub row: &'l R,
    pub growth: Option<Growth>,
}

/// Rows of both kinds as they were.
#[derive(Debug, Default)]
pub struct Recent {
    pub links: RecentRows<LinkTag>,
    pub sessions: RecentRows<LegTag>,
}

impl Recent {
    /// Gives back the memory when nobody has asked for a while.
    pub fn forget_stale(&mut self, now: Moment) {
        self.links.forget_stale(now);
        self.sessions.forget_stale(now);
    }

    /// A link has another tag now. Its sessions have as well, and are not known under those: where
    /// they are among the busiest is known again one listing later.
    pub fn link_moved(&mut self, from: LinkTag, to: LinkTag) {
        self.links.rename(from, to);
    }
}

/// What can be put in order.
pub trait Listed {
    /// What tells rows apart.
    type Tag: Copy + Eq + Hash;

    /// This row's.
    fn tag(&self) -> Self::Tag;
    /// Its counters, over its age.
    fn counted(&self) -> Growth;
    /// Bytes that wait.
    fn queued_bytes(&self) -> u64;
    /// The last round trip, 0 if there is none.
    fn ping_ns(&self) -> u64;
}

impl Listed for LinkRow {
    type Tag = LinkTag;

    fn tag(&self) -> LinkTag {
        self.link
    }

    fn counted(&self) -> Growth {
        Growth {
            length_ns: self.age_ns,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            frames_in: self.frames_in,
            frames_out: self.frames_out,
        }
    }

    fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    fn ping_ns(&self) -> u64 {
        self.ping_ns
    }
}

impl Listed for SessionRow {
    type Tag = LegTag;

    fn tag(&self) -> LegTag {
        self.leg
    }

    fn counted(&self) -> Growth {
        let (length_ns, bytes_in, bytes_out) = (self.age_ns, self.bytes_in, self.bytes_out);
        Growth { length_ns, bytes_in, bytes_out, ..Growth::default() }
    }

    fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    fn ping_ns(&self) -> u64 {
        0
    }
}

/// The two newest listings, so that askers who come close together still see a while.
#[derive(Debug)]
pub struct RecentRows<T> {
    newer: Option<Snapshot<T>>,
    older: Option<Snapshot<T>>,
}

#[derive(Debug)]
struct Snapshot<T> {
    at: Moment,
    rows: HashMap<T, Growth>,
}

impl<T> Default for RecentRows<T> {
    fn default() -> Self {
        Self { newer: None, older: None }
    }
}

impl<T: Copy + Eq + Hash> RecentRows<T> {
    /// The first `limit` of the rows in an order that is not that of their places, and remembers
    /// all of them, up to [`LISTING_ROWS_MAX`].
    pub fn rank<'l, R: Listed<Tag = T>>(
        &mut self,
        now: Moment,
        rows: impl Iterator<Item = &'l R>,
        order: RowOrder,
        limit: usize,
    ) -> Vec<Ranked<'l, R>> {
        self.forget_stale(now);
        let base = self.base(now);
        let rows = rows.take(LISTING_ROWS_MAX);
        let mut ranked: Vec<_> = rows
            .map(|row| Ranked { row, growth: base.and_then(|base| base.growth(now, row)) })
            .collect();
        if self.newer.as_ref().is_none_or(|newer| now.since(newer.at) >= RECENT_AGE_MIN) {
            let rows = ranked.iter().map(|ranked| (ranked.row.tag(), ranked.row.counted()));
            let snapshot = Snapshot { at: now, rows: rows.collect() };
            self.older = self.newer.replace(snapshot);
        }
        ranked.sort_by_cached_key(|ranked| Reverse(key(ranked, order)));
        ranked.truncate(limit);
        ranked
    }

    fn rename(&mut self, from: T, to: T) {
        for snapshot in [&mut self.newer, &mut self.older].into_iter().flatten() {
            if let Some(counted) = snapshot.rows.remove(&from) {
                snapshot.rows.insert(to, counted);
            }
        }
    }

    /// The newest listing that is old enough; else the oldest there is.
    fn base(&self, now: Moment) -> Option<&Snapshot<T>> {
        let newer = self.newer.as_ref()?;
        if now.since(newer.at) >= RECENT_AGE_MIN {
            return Some(newer);
        }
        self.older.as_ref().or(Some(newer))
    }

    fn forget_stale(&mut self, now: Moment) {
        let is_stale = |snapshot: &Option<Snapshot<T>>| {
            snapshot.as_ref().is_some_and(|snapshot| now.since(snapshot.at) > RECENT_AGE_MAX)
        };
        if is_stale(&self.older) {
            self.older = None;
        }
        if is_stale(&self.newer) {
            self.newer = None;
        }
    }
}

impl<T: Copy + Eq + Hash> Snapshot<T> {
    /// What a row has grown since; one that was not there has grown from nothing.
    fn growth<R: Listed<Tag = T>>(&self, now: Moment, row: &R) -> Option<Growth> {
        let after = row.counted();
        let Some(before) = self.rows.get(&row.tag()) else {
            let since = now.since(self.at) + SLACK;
            return (u128::from(after.length_ns) <= since.as_nanos()).then_some(after);
        };
        Some(Growth {
            length_ns: after.length_ns.checked_sub(before.length_ns).filter(|ns| *ns > 0)?,
            bytes_in: after.bytes_in.saturating_sub(before.bytes_in),
            bytes_out: after.bytes_out.saturating_sub(before.bytes_out),
            frames_in: after.frames_in.saturating_sub(before.frames_in),
            frames_out: after.frames_out.saturating_sub(before.frames_out),
        })
    }
}

/// Cores fill a listing before it is looked at here.
const SLACK: Duration = Duration::from_millis(100);

/// What a row is worth: its rate, and where rates are the same or unknown, all it ever carried.
fn key<R: Listed>(ranked: &Ranked<'_, R>, order: RowOrder) -> (u64, u64) {
    let counted = ranked.row.counted();
    let growth = ranked.growth.unwrap_or_default();
    let per_s = |things: u64| {
        let per_s = (u128::from(things) * 1_000_000_000).checked_div(growth.length_ns.into());
        u64::try_from(per_s.unwrap_or(0)).unwrap_or(u64::MAX)
    };
    let worth = match order {
        RowOrder::Place => 0,
        RowOrder::Bytes => per_s(growth.bytes_in.saturating_add(growth.bytes_out)),
        RowOrder::Frames => per_s(growth.frames_in.saturating_add(growth.frames_out)),
        RowOrder::Queue => ranked.row.queued_bytes(),
        RowOrder::Ping => ranked.row.ping_ns(),
    };
    (worth, counted.bytes_in.saturating_add(counted.bytes_out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{listings, moment};

    /// Links by number, each with so many bytes.
    fn links(age_s: u64, bytes: &[(u32, u64)]) -> Vec<LinkRow> {
        let listing = listings().into_iter().find_map(|listing| listing.listing).unwrap();
        let row = |(slot, bytes_in): &(u32, u64)| {
            let mut row = listing.links[0].clone();
            row.link.slot = *slot;
            row.age_ns = age_s * 1_000_000_000;
            (row.bytes_in, row.bytes_out, row.queued_bytes) = (*bytes_in, 0, u64::from(*slot));
            (row.frames_in, row.frames_out) = (0, 1000 - u64::from(*slot));
            row
        };
        bytes.iter().map(row).collect()
    }

    fn ranked(
        recent: &mut RecentRows<LinkTag>,
        second: u64,
        rows: &[LinkRow],
        order: RowOrder,
    ) -> Vec<(u32, Option<u64>)> {
        let ranked = recent.rank(moment(second), rows.iter(), order, 3);
        ranked.iter().map(|r| (r.row.link.slot, r.growth.map(|g| g.bytes_in))).collect()
    }

    #[test]
    fn busiest_rows_come_first_whatever_they_carried_before() {
        let mut recent = RecentRows::default();
        let before = links(100, &[(1, 9000), (2, 10), (3, 500), (4, 0)]);
        let first = ranked(&mut recent, 1, &before, RowOrder::Bytes);
        assert_eq!(first, [(1, None), (3, None), (2, None)], "nothing is known of rates yet");
        let after = links(102, &[(1, 9001), (2, 4010), (3, 500), (4, 70)]);
        let second = ranked(&mut recent, 3, &after, RowOrder::Bytes);
        assert_eq!(second, [(2, Some(4000)), (4, Some(70)), (1, Some(1))]);
        assert_eq!(ranked(&mut recent, 3, &after, RowOrder::Queue)[0].0, 4);
    }

    #[test]
    fn new_row_has_grown_from_nothing_and_an_unknown_one_has_not() {
        let mut recent = RecentRows::default();
        ranked(&mut recent, 1, &links(100, &[(1, 0)]), RowOrder::Bytes);
        let mut rows = links(2, &[(2, 70)]);
        rows.extend(links(100, &[(3, 80)]));
        let found = ranked(&mut recent, 3, &rows, RowOrder::Bytes);
        assert_eq!(found, [(2, Some(70)), (3, None)]);
    }

    #[test]
    fn askers_close_together_see_the_growth_of_a_while() {
        let mut recent = RecentRows::default();
        ranked(&mut recent, 1, &links(100, &[(1, 0)]), RowOrder::Bytes);
        ranked(&mut recent, 2, &links(101, &[(1, 50)]), RowOrder::Bytes);
        // At the same moment as another one.
        let found = ranked(&mut recent, 2, &links(101, &[(1, 50)]), RowOrder::Bytes);
        assert_eq!(found, [(1, Some(50))]);
    }

    #[test]
    fn row_of_a_link_that_has_moved_goes_on_growing() {
        let mut recent = Recent::default();
        let before = links(100, &[(1, 9000), (2, 10)]);
        ranked(&mut recent.links, 1, &before, RowOrder::Bytes);
        recent.link_moved(before[0].link, LinkTag { slot: 7, ..before[0].link });
        let after = links(102, &[(2, 30), (7, 9100)]);
        let found = ranked(&mut recent.links, 3, &after, RowOrder::Bytes);
        assert_eq!(found, [(7, Some(100)), (2, Some(20))]);
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let mut recent = RecentRows::default();
        ranked(&mut recent, 1, &links(100, &[(1, 0)]), RowOrder::Bytes);
        let later = 2 + RECENT_AGE_MAX.as_secs();
        recent.forget_stale(moment(later));
        assert!(recent.newer.is_none() && recent.older.is_none());
        let found = ranked(&mut recent, later, &links(300, &[(1, 9)]), RowOrder::Bytes);
        assert_eq!(found, [(1, None)]);
    }
}
