//! Keys: read from the terminal by a thread of their own, and what they mean.
//!
//! The thread `keys` waits for standard input and nothing else; it ends with whoever listens to it,
//! or with the program. The terminal must be in raw mode, so that reading never waits.

use crate::limits::TOP_KEYS_WAITING;
use crate::render::top::TopView;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use std::io::{self, stdin};
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes read at once: a paste is no command.
const READ_BYTES: usize = 64;
/// How long the thread waits before it looks whether anybody still listens.
const LOOK_UP_EVERY: Duration = Duration::from_millis(500);

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    View(TopView),
    /// The next order of the rows.
    Sort,
    Pause,
    AskNow,
    Help,
    Redraw,
}

/// Keys as they are pressed.
#[derive(Debug)]
pub(super) struct KeyReader(mpsc::Receiver<Key>);

impl KeyReader {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel's, if it gives none.
    pub(super) fn start() -> io::Result<Self> {
        let (pressed, keys) = mpsc::channel(TOP_KEYS_WAITING);
        let thread = std::thread::Builder::new().name("keys".to_owned());
        thread.spawn(move || read_keys(&pressed))?;
        Ok(Self(keys))
    }

    /// The next key; none when the terminal has gone.
    pub(super) async fn next(&mut self) -> Option<Key> {
        self.0.recv().await
    }
}

fn read_keys(pressed: &mpsc::Sender<Key>) {
    let mut bytes = [0; READ_BYTES];
    let patience = Timespec::try_from(LOOK_UP_EVERY).ok();
    while !pressed.is_closed() {
        let stdin = stdin();
        let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
        let is_ready = match poll(&mut watched, patience.as_ref()) {
            Ok(ready) => ready > 0,
            Err(Errno::INTR) => false,
            Err(_) => return,
        };
        if !is_ready {
            continue;
        }
        match read(&stdin, &mut bytes) {
            // Ready with nothing to read: the other end of the terminal has gone.
            Ok(0) => return,
            Ok(count) => {
                for key in keys(bytes.get(..count).unwrap_or_default()) {
                    // Keys pressed faster than frames are drawn are lost, but for the first ones.
                    let _ = pressed.try_send(key);
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}

const ESCAPE: u8 = 0x1b;
/// Ctrl-L, as in every program that draws.
const FORM_FEED: u8 = 0x0c;

/// The keys in what was read at once. Sequences of function and arrow keys mean nothing here, and
/// none of their letters is taken for a key.
fn keys(read: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = read;
    while let [byte, behind @ ..] = rest {
        rest = behind;
        if *byte == ESCAPE {
            rest = behind_sequence(behind);
        } else {
            keys.extend(key(*byte));
        }
    }
    keys
}

fn key(byte: u8) -> Option<Key> {
    Some(match byte {
        b'q' | b'Q' => Key::Quit,
        b'l' => Key::View(TopView::Links),
        b'p' => Key::View(TopView::Pipes),
        b'c' => Key::View(TopView::Cores),
        b'd' => Key::View(TopView::Drops),
        b's' => Key::Sort,
        b' ' => Key::Pause,
        b'r' => Key::AskNow,
        b'h' | b'?' => Key::Help,
        FORM_FEED => Key::Redraw,
        _ => return None,
    })
}

/// What comes behind the rest of an escape sequence: `[` with parameters up to a final byte
/// (ECMA-48 §5.4), `O` with one letter, or one letter alone.
fn behind_sequence(sequence: &[u8]) -> &[u8] {
    match sequence {
        [b'[', parameters @ ..] => {
            let end = parameters.iter().position(|byte| (0x40..=0x7e).contains(byte));
            end.and_then(|end| parameters.get(end + 1..)).unwrap_or_default()
        }
        [b'O', _, behind @ ..] | [_, behind @ ..] => behind,
        [] => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn letters_mean_what_the_help_says() {
        let expected = [Key::View(TopView::Cores), Key::Sort, Key::Pause, Key::Help, Key::Quit];
        assert_eq!(keys(b"cs ?q"), expected);
        assert_eq!(keys(b"xyz\r\n\t"), []);
    }

    #[test]
    fn letters_within_escape_sequences_are_no_keys() {
        // Arrows, page down, F1, a mouse report, Alt-q.
        assert_eq!(keys(b"\x1b[A\x1b[6~\x1bOP\x1b[<0;1;2M\x1bq"), []);
        assert_eq!(keys(b"\x1b[1;5Cs"), [Key::Sort]);
        assert_eq!(keys(b"\x1b"), []);
        assert_eq!(keys(b"\x1b[12"), []);
    }

    proptest! {
        #[test]
        fn no_bytes_make_more_keys_than_there_are(
            read in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            prop_assert!(keys(&read).len() <= read.len());
        }
    }
}
