//! Tables for the terminal: columns as wide as their contents, lines never wider than the limit.

use crate::limits::TERMINAL_COLUMNS;

/// The least a flexible column is narrowed to.
const FLEXIBLE_COLUMNS_MIN: usize = 8;

/// One column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    head: &'static str,
    right: bool,
    flexible: bool,
}

impl Column {
    /// Text.
    pub(super) fn left(head: &'static str) -> Self {
        Self { head, right: false, flexible: false }
    }

    /// Numbers.
    pub(super) fn right(head: &'static str) -> Self {
        Self { head, right: true, flexible: false }
    }

    /// Text that gives way if the table is too wide.
    pub(super) fn flexible(head: &'static str) -> Self {
        Self { head, right: false, flexible: true }
    }
}

/// Rows under column heads.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row with a cell per column.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// The table as lines.
    pub(super) fn render(&self) -> String {
        let widths = self.widths();
        let heads: Vec<_> = self.columns.iter().map(|column| column.head.to_owned()).collect();
        let mut out = String::new();
        for cells in std::iter::once(&heads).chain(&self.rows) {
            out.push_str(&self.render_line(cells, &widths));
            out.push('\n');
        }
        out
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<_> = self
            .columns
            .iter()
            .enumerate()
            .map(|(place, column)| {
                let cells = self.rows.iter().filter_map(|row| row.get(place));
                let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
                widest.max(column.head.chars().count())
            })
            .collect();
        let total = widths.iter().sum::<usize>() + widths.len().saturating_sub(1);
        let mut excess = total.saturating_sub(TERMINAL_COLUMNS);
        for (width, column) in widths.iter_mut().zip(&self.columns) {
            if column.flexible && excess > 0 {
                let least = FLEXIBLE_COLUMNS_MIN.min(*width);
                let narrower = width.saturating_sub(excess).max(least);
                excess -= *width - narrower;
                *width = narrower;
            }
        }
        widths
    }

    fn render_line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), column) in cells.iter().zip(widths).zip(&self.columns) {
            if !line.is_empty() {
                line.push(' ');
            }
            let cell = cut(cell, *width);
            let padding = " ".repeat(width - cell.chars().count());
            match column.right {
                true => line.extend([padding.as_str(), cell.as_str()]),
                false => line.extend([cell.as_str(), padding.as_str()]),
            }
        }
        cut(line.trim_end(), TERMINAL_COLUMNS)
    }
}

/// The text, or as much of it as fits in front of a `…`.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}
