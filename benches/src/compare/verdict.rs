//! Goals against figures.

use crate::compare::contender::Line;
use crate::compare::figures::Measure;
use crate::compare::goals::{Against, Goal};
use serde::Serialize;

/// What became of one goal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    pub goal: Goal,
    /// The ratio of the medians, or why there is none.
    pub ratio: Result<f64, String>,
    pub met: bool,
}

/// Judges a goal by the lines of its row. A figure that is missing is a goal missed.
pub fn judge(goal: &Goal, lines: &[Line]) -> Verdict {
    let ratio = ratio(goal, lines);
    let met = ratio.as_ref().is_ok_and(|ratio| goal.bound.holds(*ratio));
    Verdict { goal: *goal, ratio, met }
}

fn ratio(goal: &Goal, lines: &[Line]) -> Result<f64, String> {
    let ours = figure(goal.case, goal.contender, goal.measure, lines)?;
    let theirs = match goal.against {
        Against::Contender(name) => figure(goal.case, name, goal.measure, lines)?,
        Against::Figure { value, .. } => value,
    };
    if theirs > 0.0 { Ok(ours / theirs) } else { Err(format!("{} is 0", goal.against.name())) }
}

fn figure(case: &str, contender: &str, measure: Measure, lines: &[Line]) -> Result<f64, String> {
    let line = lines.iter().find(|line| line.case == case && line.contender == contender);
    let line = line.ok_or_else(|| format!("{contender} was not measured"))?;
    let figures = line.figures.as_ref().map_err(|reason| format!("{contender}: {reason}"))?;
    let figure = figures
        .get(&measure)
        .ok_or_else(|| format!("{contender} has no figure of {}", measure.heading()))?;
    Ok(figure.median)
}

impl Verdict {
    /// One line for people.
    pub fn text(&self) -> String {
        let Goal { case, measure, contender, against, bound } = self.goal;
        let outcome = match &self.ratio {
            Ok(ratio) => format!("{ratio:.3}"),
            Err(reason) => reason.clone(),
        };
        let word = if self.met { "met" } else { "MISSED" };
        let (measure, against) = (measure.heading(), against.name());
        format!("{case}: {contender} / {against}, {measure}: {outcome}, {bound}: {word}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::figures::{Figure, Figures};
    use crate::compare::goals::Bound;

    const MEASURE: Measure = Measure::ProcessorMicrosecondsPerMessage;

    fn line(contender: &str, median: f64) -> Line {
        let figure = Figure { median, low: median, high: median };
        let figures = Ok(Figures::from([(MEASURE, figure)]));
        Line { case: "case".to_owned(), contender: contender.to_owned(), figures }
    }

    fn goal(against: Against, bound: Bound) -> Goal {
        Goal { case: "case", measure: MEASURE, contender: "ours", against, bound }
    }

    #[test]
    fn ratio_is_ours_by_theirs() {
        let lines = [line("ours", 3.0), line("theirs", 4.0)];
        let verdict = judge(&goal(Against::Contender("theirs"), Bound::AtMost(0.8)), &lines);
        assert_eq!((verdict.ratio, verdict.met), (Ok(0.75), true));
        let verdict = judge(&goal(Against::Contender("theirs"), Bound::AtLeast(0.8)), &lines);
        assert!(!verdict.met);
        let against = Against::Figure { name: "elsewhere", value: 2.0 };
        let verdict = judge(&goal(against, Bound::AtMost(1.0)), &lines);
        assert_eq!((verdict.ratio, verdict.met), (Ok(1.5), false));
    }

    #[test]
    fn missing_peer_is_a_missed_goal_with_its_reason() {
        let mut absent = line("theirs", 1.0);
        absent.figures = Err("peer not installed".to_owned());
        let wanted = goal(Against::Contender("theirs"), Bound::AtMost(9.0));
        for lines in [vec![line("ours", 1.0), absent], vec![line("ours", 1.0)], Vec::new()] {
            let verdict = judge(&wanted, &lines);
            assert!(!verdict.met && verdict.ratio.is_err());
            assert!(verdict.text().ends_with("at most 9: MISSED"), "{}", verdict.text());
        }
        let zero = [line("ours", 1.0), line("theirs", 0.0)];
        assert!(judge(&wanted, &zero).ratio.is_err());
    }
}
