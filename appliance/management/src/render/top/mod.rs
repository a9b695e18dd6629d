//! One frame of `waystation top`: from the documents of the stats socket to lines of a given size.
//!
//! A pure function of two looks at the appliance, the size and what the operator has chosen. It asks
//! nobody, knows no terminal, and never panics, whatever the documents hold and however small the
//! terminal is. No frame has more lines than asked for, and no line more columns.

mod columns;
mod figures;
mod sections;
mod style;

pub use style::{Line, Piece, Style};

use crate::render::text;
use figures::{Listing, Looks};
use sections::{census, cores, drop_line, drops, latency, listing, stages, title, traffic};
use serde_json::Value;
use std::path::Path;

/// The answers to one round of questions. Those that the view does not need are absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// `/v1/status`.
    pub status: Value,
    /// `/v1/histograms` of all cores together, over the last interval.
    pub histograms: Value,
    /// `/v1/histograms` of residence by core.
    pub core_histograms: Option<Value>,
    /// `/v1/drops`.
    pub drops: Option<Value>,
    /// `/v1/links`.
    pub links: Option<Value>,
    /// `/v1/sessions`.
    pub sessions: Option<Value>,
}

/// What most of the frame is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopView {
    /// Links.
    #[default]
    Links,
    /// Sessions, and ends of raw pipes.
    Pipes,
    /// Data cores, and every stage of latency.
    Cores,
    /// Every reason of drops.
    Drops,
}

/// What rows are in order of, the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortKey {
    /// Bytes per second, both ways.
    #[default]
    Mbps,
    /// Frames per second, both ways.
    Messages,
    /// Bytes that wait.
    Queue,
    /// Round trip of pings.
    Ping,
    /// The 99th percentile of residence.
    P99,
    /// Drops per second.
    Drops,
}

impl SortKey {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mbps => "mbps",
            Self::Messages => "messages",
            Self::Queue => "queue",
            Self::Ping => "ping",
            Self::P99 => "p99",
            Self::Drops => "drops",
        }
    }
}

impl TopView {
    /// What its rows can be in order of.
    pub fn sort_keys(self) -> &'static [SortKey] {
        match self {
            Self::Links => &[SortKey::Mbps, SortKey::Messages, SortKey::Queue, SortKey::Ping],
            Self::Pipes => &[SortKey::Mbps, SortKey::Queue],
            Self::Cores => {
                &[SortKey::Mbps, SortKey::Messages, SortKey::Queue, SortKey::P99, SortKey::Drops]
            }
            Self::Drops => &[SortKey::Drops],
        }
    }

    /// The order its rows are in when `wanted` was asked for: that, or the view's first.
    pub fn sort(self, wanted: SortKey) -> SortKey {
        let keys = self.sort_keys();
        if keys.contains(&wanted) { wanted } else { keys.first().copied().unwrap_or_default() }
    }
}

/// Everything a frame is made from.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The look before; without it there are no rates.
    pub before: Option<&'a Look>,
    /// The newest look.
    pub now: Option<&'a Look>,
    pub view: TopView,
    pub sort: SortKey,
    pub paused: bool,
    /// Whether keys are explained instead.
    pub help: bool,
    /// Why there is no newer look.
    pub trouble: Option<&'a str>,
    /// Where the appliance is asked.
    pub socket: &'a Path,
}

/// Columns and lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub lines: usize,
}

/// Keys, as the help explains them.
const HELP: [(&str, &str); 12] = [
    ("q, Ctrl-C", "quit"),
    ("l", "links: those that carry most first"),
    ("p", "sessions and ends of raw pipes"),
    ("c", "data cores and all stages of latency"),
    ("d", "drops by reason"),
    ("s", "next order of the rows"),
    ("space", "stop and go on"),
    ("r", "ask now"),
    ("h or ?", "this"),
    ("HEADROOM", "+3.1x: the core has room for 3.1 times the traffic of now beside it"),
    ("EFFICIENCY", "what this machine must charge, divided by what the traffic cost"),
    ("LIMITED BY", "what held a link back, and in which share of the last interval"),
];

/// Lines that tables in the middle keep when the terminal is small: a head and two rows.
const MAIN_LINES_MIN: usize = 3;
/// Lines of the cores above other things: a head, and as many as most boxes have.
const CORE_LINES_MAX: usize = 6;

/// Makes a frame of at most `size`.
pub fn frame(scene: &Scene<'_>, size: Size) -> Vec<Line> {
    let width = size.columns;
    // A terminal of a single line shows what is, rather than what can be done.
    let footer = (size.lines > 1).then(|| footer(scene, width));
    let lines = size.lines - usize::from(footer.is_some());
    let mut parts = vec![Part::new(KEPT, vec![title(scene, scene.now, width)])];
    if let Some(trouble) = scene.trouble {
        let words = format!("trying again: {}", words(&Value::from(trouble)));
        let line = Line::of([Piece::new(Style::Bad, words)]).cut(width);
        parts.push(Part::new(KEPT, vec![line]));
    }
    match scene.now {
        _ if scene.help => parts.push(Part::set_off(KEPT, help(width))),
        Some(now) => body(scene, &Looks::new(scene.before, now), width, lines, &mut parts),
        None if scene.trouble.is_none() => {
            let words = words(&Value::from(format!("asking {}", scene.socket.display())));
            let line = Line::of([Piece::new(Style::Faint, words)]).cut(width);
            parts.push(Part::new(KEPT, vec![line]));
        }
        None => {}
    }
    let mut out = joined(parts);
    out.resize(lines, Line::default());
    out.extend(footer);
    out
}

/// Parts of this rank never go.
const KEPT: u8 = 0;

/// A part of a frame.
struct Part {
    lines: Vec<Line>,
    /// Where there is no room for all, the part with the greatest number goes first.
    expendable: u8,
    /// Whether an empty line in front sets it off.
    set_off: bool,
}

impl Part {
    fn new(expendable: u8, lines: Vec<Line>) -> Self {
        Self { expendable, lines, set_off: false }
    }

    fn set_off(expendable: u8, lines: Vec<Line>) -> Self {
        Self { expendable, lines, set_off: true }
    }
}

/// What the view is about, with as much around it as `lines` have room for.
fn body(scene: &Scene<'_>, looks: &Looks<'_>, width: usize, lines: usize, parts: &mut Vec<Part>) {
    parts.push(Part::new(1, vec![traffic(looks, width)]));
    parts.push(Part::new(5, vec![census(looks.now, width)]));
    if scene.view != TopView::Cores {
        parts.push(Part::set_off(3, cores(looks, None, width, CORE_LINES_MAX)));
    }
    if matches!(scene.view, TopView::Links | TopView::Pipes) {
        parts.push(Part::set_off(4, latency(looks.now, width)));
    }
    // The place of the table in the middle, which takes what the others leave.
    parts.push(Part::set_off(KEPT, vec![Line::default(); MAIN_LINES_MIN]));
    let main_from_end = match scene.view {
        TopView::Links | TopView::Pipes => {
            parts.push(Part::set_off(2, vec![drop_line(looks, width)]));
            2
        }
        TopView::Cores => {
            parts.push(Part::set_off(2, stages(looks.now, width)));
            2
        }
        TopView::Drops => 1,
    };
    let main_from_end = shrink(parts, lines, main_from_end);
    let free = lines.saturating_sub(lines_of(parts));
    let place = parts.len().checked_sub(main_from_end);
    if let Some(main) = place.and_then(|place| parts.get_mut(place)) {
        main.lines = main_table(scene, looks, width, MAIN_LINES_MIN + free);
    }
}

fn main_table(scene: &Scene<'_>, looks: &Looks<'_>, width: usize, lines: usize) -> Vec<Line> {
    let sort = scene.view.sort(scene.sort);
    match scene.view {
        TopView::Links => listing(looks, Listing::Links, sort, width, lines),
        TopView::Pipes => listing(looks, Listing::Sessions, sort, width, lines),
        TopView::Cores => cores(looks, Some(sort), width, lines),
        TopView::Drops => drops(looks, width, lines),
    }
}

/// Lets go what there is no room for: the empty lines, then the most expendable parts. Gives back
/// the place of the main part, counted from the end.
fn shrink(parts: &mut Vec<Part>, lines: usize, mut main_from_end: usize) -> usize {
    if lines_of(parts) > lines {
        parts.iter_mut().for_each(|part| part.set_off = false);
    }
    while lines_of(parts) > lines {
        let worst = parts.iter().enumerate().max_by_key(|(_, part)| part.expendable);
        let Some((place, _)) = worst.filter(|(_, part)| part.expendable > KEPT) else { break };
        if place + main_from_end > parts.len() {
            main_from_end -= 1;
        }
        parts.remove(place);
    }
    main_from_end
}

fn lines_of(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.lines.len() + usize::from(part.set_off)).sum()
}

fn joined(parts: Vec<Part>) -> Vec<Line> {
    let mut out = Vec::new();
    for part in parts {
        if part.set_off {
            out.push(Line::default());
        }
        out.extend(part.lines);
    }
    out
}

fn help(width: usize) -> Vec<Line> {
    let lines = HELP.iter().map(|(key, meaning)| {
        Line::of([Piece::new(Style::Title, format!("{key:<12}")), Piece::plain(*meaning)])
    });
    lines.map(|line| line.cut(width)).collect()
}

fn footer(scene: &Scene<'_>, width: usize) -> Line {
    let sort = scene.view.sort(scene.sort).name();
    let views = [
        (TopView::Links, "l links"),
        (TopView::Pipes, "p pipes"),
        (TopView::Cores, "c cores"),
        (TopView::Drops, "d drops"),
    ];
    let mut line = Line::default();
    for (view, name) in views {
        let style = if view == scene.view && !scene.help { Style::Sorted } else { Style::Faint };
        line.push(Piece::new(style, name));
        line.push(Piece::plain("  "));
    }
    let keys = format!("s sort: {sort}  space pause  h help  q quit");
    line.push(Piece::new(Style::Faint, keys));
    line.cut(width)
}

/// A value as words of printable ASCII: every letter takes one column, whatever a stranger has
/// called himself.
fn words(value: &Value) -> String {
    let printable =
        |letter: char| if letter == ' ' || letter.is_ascii_graphic() { letter } else { '?' };
    text(value).chars().map(printable).collect()
}

#[cfg(test)]
mod tests;
