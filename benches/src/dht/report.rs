//! Medians of all rounds, and goals.

use super::floor::Floor;
use super::operation::Operation;
use super::scene::{Cost, Scene, Size};
use crate::load::clock::Clock;
use crate::load::report::median;
use anyhow::Result;
use std::fmt;

/// What a request may cost at most, as a multiple of one verification and one signature by `ring`; of
/// its floor, on processors without the instructions that make the node's second verification cheap.
const FLOOR_RATIO_MAX: f64 = 1.25;
/// What planted records may make of a request's cost.
const PLANTED_RATIO_MAX: f64 = 1.1;

/// One kind of request in one round, by a node with no planted records and by one with 150, and the
/// floor measured right before.
#[derive(Clone, Copy, Debug)]
struct Round {
    floor: Floor,
    bare: Cost,
    planted: Cost,
}

/// One kind of request.
#[derive(Debug)]
struct Line {
    operation: Operation,
    rounds: Vec<Round>,
}

/// All figures of a run. A ratio is the median of those of the rounds, each between things measured
/// within the same second: processors and their other users change from one second to the next.
#[derive(Debug)]
pub struct Report {
    known_floors: Vec<Floor>,
    new_floors: Vec<Floor>,
    has_ifma: bool,
    lines: Vec<Line>,
}

impl Report {
    /// Measures everything in rounds that take turns.
    ///
    /// # Errors
    ///
    /// When the node does not answer as it should.
    pub fn measure(rounds: usize, size: Size) -> Result<Self> {
        let clock = Clock::start();
        let mut bare = Scene::new(false, size, clock)?;
        let mut planted = Scene::new(true, size, clock)?;
        let line = |operation| Line { operation, rounds: Vec::new() };
        let mut lines: Vec<Line> = Operation::ALL.into_iter().map(line).collect();
        let (mut known_floors, mut new_floors) = (Vec::new(), Vec::new());
        for number in 0..rounds {
            known_floors.push(Floor::of_node(true)?);
            new_floors.push(Floor::of_node(false)?);
            for Line { operation, rounds } in &mut lines {
                let floor = Floor::of_ring()?;
                // Each comes first as often as the other.
                let (first, second) = if number % 2 == 0 {
                    (&mut bare, &mut planted)
                } else {
                    (&mut planted, &mut bare)
                };
                let costs = (first.round(*operation, clock)?, second.round(*operation, clock)?);
                let (bare, planted) = if number % 2 == 0 { costs } else { (costs.1, costs.0) };
                rounds.push(Round { floor, bare, planted });
            }
        }
        Ok(Self { known_floors, new_floors, has_ifma: has_ifma(), lines })
    }

    /// Goals that were missed.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for line in &self.lines {
            let of_bare = line.planted_ratio();
            let (ratio, floor) = match self.has_ifma {
                true => (line.of_one(), "one floor"),
                false => (line.of_floor(), "its floor"),
            };
            if ratio > FLOOR_RATIO_MAX {
                missed.push(format!(
                    "{}: {ratio:.2} of {floor}, at most {FLOOR_RATIO_MAX}",
                    line.operation
                ));
            }
            if line.operation.is_same_with_planted() && of_bare > PLANTED_RATIO_MAX {
                missed.push(format!(
                    "{}: {of_bare:.2} with planted records, at most {PLANTED_RATIO_MAX}",
                    line.operation
                ));
            }
        }
        missed
    }
}

/// Whether the processor has the instructions of AVX-512 that multiply 52 bits.
fn has_ifma() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512ifma") && is_x86_feature_detected!("avx512vl");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

impl Line {
    fn ratio(&self, of_round: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of_round))
    }

    /// What is held against the floor. A crowded topic is one only where its records are planted.
    fn cost(&self, round: &Round) -> Cost {
        if self.operation.is_same_with_planted() { round.bare } else { round.planted }
    }

    /// Cost as a multiple of one verification and one signature by `ring`.
    fn of_one(&self) -> f64 {
        self.ratio(|round| self.cost(round).processor_us / round.floor.of(1))
    }

    /// Cost as a multiple of the signatures by `ring` that the request takes by its nature.
    fn of_floor(&self) -> f64 {
        let verifications = self.operation.verifications();
        self.ratio(|round| self.cost(round).processor_us / round.floor.of(verifications))
    }

    fn planted_ratio(&self) -> f64 {
        self.ratio(|round| round.planted.processor_us / round.bare.processor_us)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_ring: Vec<Floor> =
            self.lines.iter().flat_map(|line| &line.rounds).map(|round| round.floor).collect();
        for (name, floors) in [
            ("ring", &of_ring),
            ("the node, of a known key", &self.known_floors),
            ("the node, of a new key", &self.new_floors),
        ] {
            let verify = median(floors.iter().map(|floor| floor.verify_us));
            let sign = median(floors.iter().map(|floor| floor.sign_us));
            writeln!(
                formatter,
                "one verification and one signature by {name}: {:.1} µs, {verify:.1} and {sign:.1}",
                median(floors.iter().map(|floor| floor.of(1)))
            )?;
        }
        writeln!(
            formatter,
            "\n| request | µs | least | most | requests/s | of one floor | of its floor | 150 planted |"
        )?;
        writeln!(formatter, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        for line in &self.lines {
            let all = line.rounds.iter().map(|round| line.cost(round).processor_us);
            writeln!(
                formatter,
                "| {} | {:.1} | {:.1} | {:.1} | {:.0} | {:.2} | {:.2} | {:.2} |",
                line.operation,
                median(all.clone()),
                all.clone().fold(f64::MAX, f64::min),
                all.fold(0.0, f64::max),
                line.ratio(|round| line.cost(round).requests_per_s),
                line.of_one(),
                line.of_floor(),
                line.planted_ratio(),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a processor with IFMA.
    fn report(operation: Operation, bare_us: f64, planted_us: f64) -> Report {
        let floor = Floor { verify_us: 50.0, sign_us: 25.0 };
        let cost = |processor_us| Cost { processor_us, requests_per_s: 1e4 };
        let round = Round { floor, bare: cost(bare_us), planted: cost(planted_us) };
        let lines = vec![Line { operation, rounds: vec![round; 3] }];
        let (known_floors, new_floors) = (vec![floor; 3], vec![floor; 3]);
        Report { known_floors, new_floors, has_ifma: true, lines }
    }

    #[test]
    fn goals_are_held_against_the_floor_and_against_no_planted_records() {
        assert_eq!(report(Operation::Ping, 90.0, 95.0).missed(), Vec::<String>::new());
        let missed = report(Operation::Ping, 100.0, 130.0).missed();
        assert_eq!(missed.len(), 2, "{missed:?}");
        assert!(missed[0].starts_with("PING: 1.33 of one floor"), "{missed:?}");
        assert!(missed[1].starts_with("PING: 1.30 with planted"), "{missed:?}");
    }

    #[test]
    fn a_newer_record_may_take_two_verifications_where_ifma_is_missing_and_a_crowd_is_planted() {
        assert_eq!(report(Operation::StoreNew, 93.0, 93.0).missed(), Vec::<String>::new());
        assert_eq!(report(Operation::StoreNew, 156.0, 156.0).missed().len(), 1);
        let elsewhere =
            |cost_us| Report { has_ifma: false, ..report(Operation::StoreNew, cost_us, cost_us) };
        assert_eq!(elsewhere(156.0).missed(), Vec::<String>::new());
        assert_eq!(elsewhere(157.0).missed().len(), 1);
        assert_eq!(report(Operation::FindValueCrowded, 80.0, 93.0).missed(), Vec::<String>::new());
        assert_eq!(report(Operation::FindValueCrowded, 80.0, 95.0).missed().len(), 1);
    }

    #[test]
    fn a_node_answers_every_kind_of_request() {
        let size = Size { clients: 100, requests_per_client: 2 };
        let report = Report::measure(2, size).unwrap();
        assert_eq!(report.lines.len(), Operation::ALL.len());
        assert!(report.lines.iter().all(|line| line.of_floor() > 0.0), "{report}");
    }

    #[test]
    fn figures_of_a_request_stand_in_one_line() {
        let text = report(Operation::Ping, 90.0, 99.0).to_string();
        assert!(
            text.contains("| PING | 90.0 | 90.0 | 90.0 | 10000 | 1.20 | 1.20 | 1.10 |"),
            "{text}"
        );
    }
}
