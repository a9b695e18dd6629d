//! Networks of nodes under loss, churn, partition and lies: what is published is found.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod world;

use std::collections::BTreeMap;

use waystation_a2al::node::DropReason;
use waystation_a2al::query::QueryId;
use waystation_a2al::record::RecordType;
use world::{World, own_key};

/// What look-ups came to.
#[derive(Debug, Default)]
struct Tally {
    asked: usize,
    found: usize,
    hops: Vec<usize>,
    /// Milliseconds that each took.
    took_ms: Vec<u64>,
}

impl Tally {
    fn median_hops(&mut self) -> usize {
        self.hops.sort_unstable();
        self.hops.get(self.hops.len() / 2).copied().unwrap_or(0)
    }

    fn success_of_thousand(&self) -> usize {
        self.found * 1000 / self.asked.max(1)
    }
}

/// A world of nodes that joined one after another through the first.
fn grown(seed: u8, count: usize) -> World {
    let mut world = World::new(seed);
    let first = world.add(&[]);
    for _ in 1..count {
        world.add(&[first]);
        world.run(300);
    }
    world.run(90_000);
    world
}

/// Has a node look for the endpoint record of another that is old enough to be published.
fn ask(world: &mut World, pending: &mut BTreeMap<(usize, QueryId), usize>) {
    let honest = world.honest();
    let pick = |world: &mut World| honest[world.random.below(honest.len())];
    let (asker, publisher) = (pick(world), pick(world));
    let has_replicas = world.node(publisher).published().any(|published| published.active() >= 4);
    let has_joined = world.node(asker).table().len() >= 4;
    if asker == publisher || !has_replicas || !has_joined {
        return;
    }
    let key = own_key(world, publisher);
    let query =
        world.with(asker, |node, now| node.find_records(key, RecordType::ENDPOINT, now)).unwrap();
    pending.insert((asker, query), publisher);
}

/// Compares what came back with what is published.
fn judge(world: &mut World, pending: BTreeMap<(usize, QueryId), usize>, tally: &mut Tally) {
    for ((asker, query), publisher) in pending {
        let lives = |number: usize| world.inhabitants.contains_key(&number);
        if !lives(asker) || !lives(publisher) {
            continue;
        }
        let address = world.node(publisher).address();
        tally.asked += 1;
        let Some(found) = world.found.remove(&(asker, query)) else {
            continue;
        };
        assert!(found.records.iter().all(|record| record.address == address));
        if !found.records.is_empty() {
            tally.found += 1;
            tally.hops.push(found.hops);
            tally.took_ms.push(found.took_ms);
        }
    }
    world.found.clear();
}

/// Look-ups for so many minutes, while of a thousand nodes so many are replaced each minute.
fn live(world: &mut World, minutes: usize, replaced_of_thousand: usize) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..minutes {
        let honest = world.honest();
        // The first node is the way in, so it stays.
        let leaving: Vec<usize> = honest
            .into_iter()
            .skip(1)
            .filter(|_| world.random.below(1000) < replaced_of_thousand)
            .collect();
        for number in leaving {
            world.inhabitants.remove(&number);
            let other = world.honest()[world.random.below(3)];
            world.add(&[0, other]);
        }
        let mut pending = BTreeMap::new();
        for _ in 0..8 {
            ask(world, &mut pending);
            world.run(4_000);
        }
        world.run(28_000);
        judge(world, pending, &mut tally);
    }
    tally
}

fn log2(count: usize) -> usize {
    count.ilog2() as usize
}

#[test]
fn what_is_published_is_found_by_everybody() {
    let mut world = grown(1, 40);
    let mut tally = live(&mut world, 6, 0);
    assert!(tally.asked >= 30, "{tally:?}");
    assert_eq!(tally.found, tally.asked, "{tally:?}");
    assert!(tally.median_hops() <= log2(40) + 2, "{tally:?}");
}

#[test]
fn what_is_published_is_found_under_loss_and_churn() {
    let mut world = grown(2, 32);
    world.weather.lost_of_thousand = 200;
    let mut tally = live(&mut world, 12, 50);
    assert!(tally.asked >= 60, "{tally:?}");
    assert!(tally.success_of_thousand() >= 990, "{tally:?}");
    assert!(tally.median_hops() <= log2(32) + 2, "{tally:?}");
}

#[test]
fn liars_cannot_hide_what_is_published() {
    let mut world = World::new(3);
    let first = world.add(&[]);
    for number in 1..40 {
        match number % 10 {
            0 => drop(world.add_liar()),
            _ => drop(world.add(&[first, number / 10 * 10])),
        }
        world.run(300);
    }
    world.run(90_000);
    world.weather.lost_of_thousand = 50;
    let tally = live(&mut world, 6, 20);
    assert!(tally.asked >= 25, "{tally:?}");
    assert!(tally.success_of_thousand() >= 950, "{tally:?}");
}

#[test]
fn a_partition_heals() {
    let mut world = grown(4, 20);
    world.weather.is_split = true;
    world.run(600_000);
    world.weather.is_split = false;
    world.run(1_800_000);
    let tally = live(&mut world, 5, 0);
    assert!(tally.asked >= 25, "{tally:?}");
    assert_eq!(tally.found, tally.asked, "{tally:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut world = grown(seed, 12);
        world.weather.lost_of_thousand = 100;
        live(&mut world, 3, 100);
        world.fingerprint()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn a_quiet_network_stays_quiet() {
    let mut world = grown(9, 20);
    let sent = |world: &World| -> u64 {
        world.honest().iter().map(|number| world.node(*number).statistics().sent).sum()
    };
    let before = sent(&world);
    world.run(3_600_000);
    let of_each_per_minute = (sent(&world) - before) / 20 / 60;
    assert!(of_each_per_minute <= 60, "{of_each_per_minute} datagrams a minute");
    for number in world.honest() {
        let dropped = world.node(number).statistics().dropped(DropReason::Malformed);
        assert_eq!(dropped, 0);
    }
}

#[test]
#[ignore = "takes minutes; run it with --release"]
fn a_thousand_nodes_find_what_is_published_for_a_hundred_minutes() {
    let mut world = grown(10, 1000);
    world.weather.lost_of_thousand = 200;
    let mut tally = live(&mut world, 100, 50);
    assert!(tally.success_of_thousand() >= 990, "{tally:?}");
    assert!(tally.median_hops() <= log2(1000) + 2, "{tally:?}");
}
