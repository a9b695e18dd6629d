//! Lines of a frame: pieces of text, each with what it means, and how a terminal is told.
//!
//! Meaning comes first and is never carried by colour alone: a frame without any escape sequence
//! says the same.

use std::fmt::Write;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// What it says.
    Plain,
    /// The name of the program and of a section.
    Title,
    /// Heads of columns.
    Head,
    /// The head that the rows are in order of.
    Sorted,
    /// Worth a look.
    Warning,
    /// Something is short or wrong.
    Bad,
    /// Of less importance.
    Faint,
}

impl Style {
    /// Parameters of "select graphic rendition" (ECMA-48 §8.3.117), without colours and with them.
    fn rendition(self, colour: bool) -> &'static str {
        match (self, colour) {
            (Self::Plain, _) => "",
            (Self::Title, _) | (Self::Warning, false) => "1",
            (Self::Head, _) => "7",
            (Self::Sorted, _) => "1;7",
            (Self::Warning, true) => "33",
            (Self::Bad, false) => "1",
            (Self::Bad, true) => "1;31",
            (Self::Faint, _) => "2",
        }
    }
}

/// A part of a line. Its text is printable and every letter takes one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub style: Style,
    pub text: String,
}

impl Piece {
    pub(super) fn new(style: Style, text: impl Into<String>) -> Self {
        Self { style, text: text.into() }
    }

    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self::new(Style::Plain, text)
    }

    pub(super) fn columns(&self) -> usize {
        self.text.chars().count()
    }
}

/// One line of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pieces: Vec<Piece>,
}

impl Line {
    pub(super) fn of(pieces: impl IntoIterator<Item = Piece>) -> Self {
        Self { pieces: pieces.into_iter().collect() }
    }

    pub(super) fn push(&mut self, piece: Piece) {
        self.pieces.push(piece);
    }

    /// How many columns it takes.
    pub fn columns(&self) -> usize {
        self.pieces.iter().map(Piece::columns).sum()
    }

    /// The text alone, without spaces at its end.
    pub fn text(&self) -> String {
        let text: String = self.pieces.iter().map(|piece| piece.text.as_str()).collect();
        text.trim_end().to_owned()
    }

    /// The text with what a terminal needs to show its styles.
    pub fn escaped(&self, colour: bool) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            let rendition = piece.style.rendition(colour);
            if rendition.is_empty() {
                out.push_str(&piece.text);
            } else {
                let _ = write!(out, "\u{1b}[{rendition}m{}\u{1b}[0m", piece.text);
            }
        }
        out
    }

    /// At most so many columns of it, with a `…` where something is missing.
    pub(super) fn cut(mut self, width: usize) -> Self {
        if self.columns() <= width {
            return self;
        }
        let mut left = width.saturating_sub(1);
        for piece in &mut self.pieces {
            let taken: String = piece.text.chars().take(left).collect();
            left -= taken.chars().count();
            piece.text = taken;
        }
        self.pieces.retain(|piece| !piece.text.is_empty());
        if width > 0 {
            self.push(Piece::plain("…"));
        }
        self
    }
}
