//! Charts: the figures that a row's goals are about, as bars, in SVG. No library: a bar is a
//! rectangle with a number behind it.

use crate::compare::figures::{Figure, Measure};
use crate::compare::goals::{Against, Goal};
use crate::compare::report::RowReport;
use std::collections::BTreeSet;
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const LABEL_WIDTH: f64 = 290.0;
const BAR_WIDTH_MAX: f64 = 370.0;
const LINE_HEIGHT: f64 = 22.0;
const BAR_HEIGHT: f64 = 14.0;
const TOP: f64 = 34.0;

/// One bar.
struct Bar {
    label: String,
    figure: Figure,
    ours: bool,
}

/// The chart of a row; none when nothing was measured.
pub fn chart(row: &RowReport) -> Option<String> {
    let measures: BTreeSet<Measure> =
        row.verdicts.iter().map(|verdict| verdict.goal.measure).collect();
    let groups: Vec<_> =
        measures.into_iter().map(|measure| (measure, bars(row, measure))).collect();
    let lines: usize = groups.iter().map(|(_, bars)| bars.len() + 1).sum();
    if groups.iter().all(|(_, bars)| bars.is_empty()) {
        return None;
    }
    let height = TOP + LINE_HEIGHT * lines as f64;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">"#
    );
    let _ = writeln!(svg, r#"<rect width="100%" height="100%" fill="white"/>"#);
    let title = escape(&format!("Row {}: {}", row.number, row.name));
    let _ = writeln!(svg, r#"<text x="10" y="20" font-weight="bold">{title}</text>"#);
    let mut y = TOP;
    for (measure, bars) in groups {
        let heading = escape(measure.heading());
        let _ = writeln!(svg, r##"<text x="10" y="{}" fill="#555">{heading}</text>"##, y + 12.0);
        y += LINE_HEIGHT;
        let most = bars.iter().map(|bar| bar.figure.high).fold(0.0, f64::max);
        for bar in bars {
            write_bar(&mut svg, &bar, measure, most, y);
            y += LINE_HEIGHT;
        }
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// Everything measured in a case that has a goal of this measure, and what goals name as a figure.
fn bars(row: &RowReport, measure: Measure) -> Vec<Bar> {
    let goals = row.verdicts.iter().map(|verdict| verdict.goal);
    let goals: Vec<Goal> = goals.filter(|goal| goal.measure == measure).collect();
    let lines = row.lines.iter().filter(|line| goals.iter().any(|goal| goal.case == line.case));
    let mut bars: Vec<_> = lines
        .filter_map(|line| {
            let figure = *line.figures.as_ref().ok()?.get(&measure)?;
            let label = format!("{}, {}", line.case, line.contender);
            Some(Bar { label, figure, ours: line.contender.starts_with("waystation") })
        })
        .collect();
    if !bars.is_empty() {
        bars.extend(goals.iter().filter_map(|goal| {
            let Against::Figure { name, value } = goal.against else { return None };
            let figure = Figure { median: value, low: value, high: value };
            Some(Bar { label: format!("{}, {name}", goal.case), figure, ours: false })
        }));
    }
    bars
}

/// A bar as long as the median, with a whisker from the lowest round to the highest.
fn write_bar(svg: &mut String, bar: &Bar, measure: Measure, most: f64, y: f64) {
    let length = |figure: f64| if most > 0.0 { BAR_WIDTH_MAX * figure / most } else { 0.0 };
    let Figure { median, low, high } = bar.figure;
    let (label, number) = (escape(&bar.label), measure.cell(median));
    let colour = if bar.ours { "#1f77b4" } else { "#b0b0b0" };
    let (text_y, whisker_y) = (y + 12.0, y + 2.0 + BAR_HEIGHT / 2.0);
    let _ = writeln!(
        svg,
        r#"<text x="{}" y="{text_y}" text-anchor="end">{label}</text>"#,
        LABEL_WIDTH - 8.0
    );
    let _ = writeln!(
        svg,
        r#"<rect x="{LABEL_WIDTH}" y="{}" width="{:.1}" height="{BAR_HEIGHT}" fill="{colour}"/>"#,
        y + 2.0,
        length(median)
    );
    let _ = writeln!(
        svg,
        r#"<line x1="{:.1}" y1="{whisker_y}" x2="{:.1}" y2="{whisker_y}" stroke="black"/>"#,
        LABEL_WIDTH + length(low),
        LABEL_WIDTH + length(high)
    );
    let _ = writeln!(
        svg,
        r#"<text x="{:.1}" y="{text_y}">{number}</text>"#,
        LABEL_WIDTH + length(high) + 8.0
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::contender::Line;
    use crate::compare::figures::Figures;
    use crate::compare::goals::ROWS;
    use crate::compare::verdict::judge;

    fn row(figures: Result<Figures, String>) -> RowReport {
        let row = &ROWS[0];
        let goal = row.goals[0];
        let (case, contender) = (goal.case.to_owned(), goal.contender.to_owned());
        let lines = vec![Line { case, contender, figures }];
        let verdicts = vec![judge(&goal, &lines)];
        let (number, name, workload) = (row.number, row.name, row.workload);
        RowReport { number, name, workload, lines, verdicts, messages_checked: 0, failure: None }
    }

    #[test]
    fn every_figure_is_a_bar_with_its_number() {
        let figure = Figure { median: 2.5, low: 2.0, high: 3.0 };
        let measure = Measure::ProcessorMicrosecondsPerMessage;
        let chart = chart(&row(Ok(Figures::from([(measure, figure)])))).unwrap();
        assert!(chart.contains(">2.500</text>"), "{chart}");
        assert_eq!(chart.matches("<line").count(), 1);
    }

    #[test]
    fn a_figure_from_elsewhere_is_a_bar_of_its_own() {
        let row = ROWS.iter().find(|row| row.name == "stock-gateway").unwrap();
        let goal = row.goals[1];
        let figure = Figure { median: 20.0, low: 19.0, high: 22.0 };
        let (case, contender) = (goal.case.to_owned(), goal.contender.to_owned());
        let figures = Ok(Figures::from([(goal.measure, figure)]));
        let lines = vec![Line { case, contender, figures }];
        let verdicts = vec![judge(&goal, &lines)];
        let (number, name, workload) = (row.number, row.name, row.workload);
        let (messages_checked, failure) = (0, None);
        let row = RowReport { number, name, workload, lines, verdicts, messages_checked, failure };
        let chart = chart(&row).unwrap();
        assert!(chart.contains("stock gateway") && chart.contains(">202.000</text>"), "{chart}");
    }

    #[test]
    fn nothing_measured_is_no_chart() {
        assert!(chart(&row(Err("peer not installed".to_owned()))).is_none());
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a<b&c>d"), "a&lt;b&amp;c&gt;d");
    }
}
