//! A table whose columns give way, the least important first, when it is wider than the terminal.

use super::style::{Line, Piece, Style};

/// One column of rows `R`.
pub(super) struct Column<R> {
    head: &'static str,
    side: Side,
    /// The column with the least goes first.
    importance: u8,
    cell: fn(&R) -> Piece,
}

impl<R> Column<R> {
    /// Words.
    pub(super) fn left(head: &'static str, importance: u8, cell: fn(&R) -> Piece) -> Self {
        Self { head, side: Side::Left, importance, cell }
    }

    /// Numbers.
    pub(super) fn right(head: &'static str, importance: u8, cell: fn(&R) -> Piece) -> Self {
        Self { head, side: Side::Right, importance, cell }
    }
}

/// Where a cell stands in its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// The head and a line for each row, none wider than `width`; the head named `sorted` stands out.
pub(super) fn table<R>(
    columns: &[Column<R>],
    rows: &[R],
    width: usize,
    sorted: Option<&str>,
) -> Vec<Line> {
    let mut shown: Vec<_> = columns.iter().map(|column| Filled::new(column, rows)).collect();
    while shown.len() > 1 && total(&shown) > width {
        let least = shown.iter().enumerate().min_by_key(|(_, filled)| filled.importance);
        let Some((place, _)) = least else { break };
        shown.remove(place);
    }
    let head = shown.iter().map(|filled| {
        let style = if sorted == Some(filled.head) { Style::Sorted } else { Style::Head };
        filled.aligned(&Piece::new(style, filled.head))
    });
    let mut lines = vec![spaced(head, Style::Head, width)];
    for row in 0..rows.len() {
        let cells = shown.iter().filter_map(|filled| Some(filled.aligned(filled.cells.get(row)?)));
        lines.push(spaced(cells, Style::Plain, usize::MAX));
    }
    lines.into_iter().map(|line| line.cut(width)).collect()
}

/// A column with its cells.
struct Filled {
    head: &'static str,
    side: Side,
    importance: u8,
    cells: Vec<Piece>,
    width: usize,
}

impl Filled {
    fn new<R>(column: &Column<R>, rows: &[R]) -> Self {
        let cells: Vec<_> = rows.iter().map(column.cell).collect();
        let widest = cells.iter().map(Piece::columns).max().unwrap_or(0);
        let width = widest.max(column.head.len());
        let (head, side, importance) = (column.head, column.side, column.importance);
        Self { head, side, importance, cells, width }
    }

    fn aligned(&self, cell: &Piece) -> Piece {
        let padding = " ".repeat(self.width.saturating_sub(cell.columns()));
        let text = match self.side {
            Side::Left => format!("{}{padding}", cell.text),
            Side::Right => format!("{padding}{}", cell.text),
        };
        Piece::new(cell.style, text)
    }
}

fn total(shown: &[Filled]) -> usize {
    shown.iter().map(|filled| filled.width + 1).sum::<usize>().saturating_sub(1)
}

/// The cells with a space between each, and in the style of the space up to `fill` columns.
fn spaced(cells: impl Iterator<Item = Piece>, style: Style, fill: usize) -> Line {
    let mut line = Line::default();
    for cell in cells {
        if line.columns() > 0 {
            line.push(Piece::new(style, " "));
        }
        line.push(cell);
    }
    if fill < usize::MAX {
        line.push(Piece::new(style, " ".repeat(fill.saturating_sub(line.columns()))));
    }
    line
}
