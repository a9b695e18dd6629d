//! Medians of all rounds, and goals.

use super::floor::Floor;
use super::operation::Operation;
use super::scene::{Cost, Scene, Size};
use crate::load::clock::Clock;
use crate::load::report::median;
use anyhow::Result;
use std::fmt;

/// What a request may cost at most, as a multiple of its floor.
const FLOOR_RATIO_MAX: f64 = 1.25;
/// What planted records may make of a request's cost.
const PLANTED_RATIO_MAX: f64 = 1.1;

/// One kind of request, by a node with no planted records and by one with 150.
#[derive(Debug)]
struct Line {
    operation: Operation,
    bare: Vec<Cost>,
    planted: Vec<Cost>,
}

/// All figures of a run.
#[derive(Debug)]
pub struct Report {
    floors: Vec<Floor>,
    own_floors: Vec<Floor>,
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
        let line = |operation| Line { operation, bare: Vec::new(), planted: Vec::new() };
        let mut lines: Vec<Line> = Operation::ALL.into_iter().map(line).collect();
        let (mut floors, mut own_floors) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            floors.push(Floor::of_ring()?);
            own_floors.push(Floor::of_node()?);
            for line in &mut lines {
                line.bare.push(bare.round(line.operation, clock)?);
                line.planted.push(planted.round(line.operation, clock)?);
            }
        }
        Ok(Self { floors, own_floors, lines })
    }

    /// Goals that were missed.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for line in &self.lines {
            let (of_floor, of_bare) = (self.of_floor(line), line.planted_ratio());
            // What is found under a crowded topic differs between the two.
            let is_same = line.operation != Operation::FindValueCrowded;
            if of_floor > FLOOR_RATIO_MAX {
                missed.push(format!(
                    "{}: {of_floor:.2} of the floor, at most {FLOOR_RATIO_MAX}",
                    line.operation
                ));
            }
            if is_same && of_bare > PLANTED_RATIO_MAX {
                missed.push(format!(
                    "{}: {of_bare:.2} with planted records, at most {PLANTED_RATIO_MAX}",
                    line.operation
                ));
            }
        }
        missed
    }

    /// Cost as a multiple of the signatures that the request takes, by what the node uses.
    fn of_own_signatures(&self, line: &Line) -> f64 {
        let times = line.operation.verifications() as f64;
        let own = |floor: &Floor| times * floor.verify_us + floor.sign_us;
        line.bare_us() / median(self.own_floors.iter().map(own))
    }

    /// Cost as a multiple of one verification and one signature by `ring`.
    fn of_floor(&self, line: &Line) -> f64 {
        let floor = median(self.floors.iter().map(|floor| floor.sum_us()));
        line.bare_us() / floor
    }
}

impl Line {
    fn bare_us(&self) -> f64 {
        median(self.bare.iter().map(|cost| cost.processor_us))
    }

    fn planted_ratio(&self) -> f64 {
        median(self.planted.iter().map(|cost| cost.processor_us)) / self.bare_us()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, floors) in [("ring", &self.floors), ("the node", &self.own_floors)] {
            let verify = median(floors.iter().map(|floor| floor.verify_us));
            let sign = median(floors.iter().map(|floor| floor.sign_us));
            writeln!(
                formatter,
                "floor by {name}: {:.1} µs, {verify:.1} to verify and {sign:.1} to sign",
                median(floors.iter().map(|floor| floor.sum_us()))
            )?;
        }
        writeln!(
            formatter,
            "\n| request | µs | least | most | requests/s | of the floor | of its signatures | 150 planted |"
        )?;
        writeln!(formatter, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        for line in &self.lines {
            let all = line.bare.iter().map(|cost| cost.processor_us);
            writeln!(
                formatter,
                "| {} | {:.1} | {:.1} | {:.1} | {:.0} | {:.2} | {:.2} | {:.2} |",
                line.operation,
                line.bare_us(),
                all.clone().fold(f64::MAX, f64::min),
                all.fold(0.0, f64::max),
                median(line.bare.iter().map(|cost| cost.requests_per_s)),
                self.of_floor(line),
                self.of_own_signatures(line),
                line.planted_ratio(),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(bare_us: f64, planted_us: f64) -> Report {
        let floor = Floor { verify_us: 50.0, sign_us: 25.0 };
        let cost = |processor_us| vec![Cost { processor_us, requests_per_s: 1e4 }; 3];
        let (bare, planted) = (cost(bare_us), cost(planted_us));
        let lines = vec![Line { operation: Operation::Ping, bare, planted }];
        Report { floors: vec![floor; 3], own_floors: vec![floor; 3], lines }
    }

    #[test]
    fn goals_are_held_against_the_floor_and_against_no_planted_records() {
        assert_eq!(report(90.0, 95.0).missed(), Vec::<String>::new());
        let missed = report(100.0, 130.0).missed();
        assert_eq!(missed.len(), 2, "{missed:?}");
        assert!(missed[0].starts_with("PING: 1.33 of the floor"), "{missed:?}");
        assert!(missed[1].starts_with("PING: 1.30 with planted"), "{missed:?}");
    }

    #[test]
    fn a_node_answers_every_kind_of_request() {
        let size = Size { clients: 100, requests_per_client: 2 };
        let report = Report::measure(1, size).unwrap();
        assert_eq!(report.lines.len(), Operation::ALL.len());
        assert!(report.lines.iter().all(|line| line.bare_us() > 0.0), "{report}");
    }

    #[test]
    fn figures_of_a_request_stand_in_one_line() {
        let text = report(90.0, 99.0).to_string();
        assert!(
            text.contains("| PING | 90.0 | 90.0 | 90.0 | 10000 | 1.20 | 1.20 | 1.10 |"),
            "{text}"
        );
    }
}
