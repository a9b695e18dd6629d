//! The terminal: raw mode, the second screen, its size, and the way back.
//!
//! Used on the program's main thread. Whoever holds a [`Terminal`] has it; dropping it, a panic and
//! [`Terminal::leave`] all give it back as it was. Signals still come from keys (`ISIG` stays on), so
//! Ctrl-C and Ctrl-Z work even if nobody reads keys.

use super::TopError;
use crate::limits::TERMINAL_COLUMNS;
use crate::render::top::{Line, Size};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr,
    tcgetwinsize, tcsetattr,
};
use std::env;
use std::io::{self, Write, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// To the second screen of the terminal, without a cursor and without wrapping (xterm's private
/// modes 1049, 25 and 7), and back.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l\u{1b}[2J";
const LEAVE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";
/// To the first line; to the end of a line and of the screen, emptying it.
const HOME: &str = "\u{1b}[H";
const CLEAR_LINE: &str = "\u{1b}[K";
const CLEAR_BELOW: &str = "\u{1b}[J";
/// Lines of a terminal that does not say how many it has.
const TERMINAL_LINES: usize = 24;

/// Whether standard output is a terminal.
pub fn is_terminal() -> bool {
    isatty(stdout())
}

/// Whether it may be shown colours: not if `NO_COLOR` is set (no-color.org), or a terminal says that
/// it has none.
pub fn wants_colour() -> bool {
    let asked_not_to = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !asked_not_to && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The size of the terminal; else what `COLUMNS` and `LINES` say; else 80 by 24.
pub fn size() -> Size {
    let said = |name| env::var(name).ok()?.parse().ok().filter(|number| *number > 0);
    let seen = tcgetwinsize(stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    match seen {
        Some(size) => Size { columns: size.ws_col.into(), lines: size.ws_row.into() },
        None => Size {
            columns: said("COLUMNS").unwrap_or(TERMINAL_COLUMNS),
            lines: said("LINES").unwrap_or(TERMINAL_LINES),
        },
    }
}

/// The terminal, ready to be drawn on.
pub(super) struct Terminal {
    original: Termios,
    /// Whether there is something to be given back; a panic asks too.
    held: Arc<AtomicBool>,
    colour: bool,
}

impl Terminal {
    /// Takes the terminal.
    ///
    /// # Errors
    /// [`TopError::NoTerminal`] if there is none, [`TopError::Terminal`] if it refuses.
    pub(super) fn enter() -> Result<Self, TopError> {
        if !isatty(stdin()) || !is_terminal() {
            return Err(TopError::NoTerminal);
        }
        let original = tcgetattr(stdin()).map_err(|error| TopError::Terminal(error.into()))?;
        let held = Arc::new(AtomicBool::new(false));
        give_back_on_panic(original.clone(), Arc::clone(&held));
        let terminal = Self { original, held, colour: wants_colour() };
        terminal.resume()?;
        Ok(terminal)
    }

    /// Takes it again after [`Terminal::leave`].
    ///
    /// # Errors
    /// [`TopError::Terminal`]
    pub(super) fn resume(&self) -> Result<(), TopError> {
        self.held.store(true, Ordering::SeqCst);
        let raw = raw(self.original.clone());
        let set = tcsetattr(stdin(), OptionalActions::Flush, &raw).map_err(io::Error::from);
        set.and_then(|()| write(ENTER)).map_err(TopError::Terminal)
    }

    /// Draws a frame over the one before. Nothing is emptied first, so nothing flickers.
    ///
    /// # Errors
    /// [`TopError::Terminal`], when it has gone.
    pub(super) fn draw(&self, lines: &[Line]) -> Result<(), TopError> {
        let mut out = HOME.to_owned();
        for (place, line) in lines.iter().enumerate() {
            if place > 0 {
                out.push_str("\r\n");
            }
            out.push_str(&line.escaped(self.colour));
            out.push_str(CLEAR_LINE);
        }
        out.push_str(CLEAR_BELOW);
        write(&out).map_err(TopError::Terminal)
    }

    /// Gives the terminal back as it was.
    pub(super) fn leave(&self) {
        give_back(&self.original, &self.held);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

fn give_back(original: &Termios, held: &AtomicBool) {
    if held.swap(false, Ordering::SeqCst) {
        // A terminal that has gone needs nothing back.
        let _ = write(LEAVE);
        let _ = tcsetattr(stdin(), OptionalActions::Flush, original);
    }
}

/// What a panic says has to be read on the screen that stays. The hook comes first even where panics
/// abort, and no destructor runs.
fn give_back_on_panic(original: Termios, held: Arc<AtomicBool>) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        give_back(&original, &held);
        before(panic);
    }));
}

/// Keys come at once and are not shown; reading never waits.
fn raw(mut modes: Termios) -> Termios {
    modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN);
    modes.input_modes.remove(InputModes::ICRNL | InputModes::IXON);
    modes.special_codes[SpecialCodeIndex::VMIN] = 0;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
    modes
}

fn write(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
