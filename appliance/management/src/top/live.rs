//! The loop of the live view: answers, keys, signals and the time of the next look, in one place.

use super::asking::look;
use super::keys::{Key, KeyReader};
use super::terminal::{Terminal, size};
use super::{TopError, TopSettings, scene};
use crate::limits::TOP_FIRST_INTERVAL;
use crate::render::top::{Look, Scene, TopView, frame};
use rustix::process::{Signal, getpid, kill_process};
use std::future::Future;
use std::io;
use std::pin::Pin;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

/// A round of questions under way.
type Asking<'s> = Pin<Box<dyn Future<Output = Result<Look, TopError>> + 's>>;

/// Runs until it is told to end.
///
/// # Errors
/// See [`super::live`].
pub(super) async fn run(settings: &TopSettings) -> Result<(), TopError> {
    // An appliance that is not there is told on the screen that stays, with an exit code.
    let first = look(&settings.socket, settings.view, settings.sort, size().lines).await?;
    let mut signals = Signals::new().map_err(TopError::Start)?;
    let terminal = Terminal::enter()?;
    let mut reader = KeyReader::start().map_err(TopError::Start)?;
    let mut state = State::new(settings.clone(), first);
    let mut asking: Option<Asking<'_>> = None;
    terminal.draw(&state.frame())?;
    loop {
        tokio::select! {
            biased;
            told = signals.next() => match told {
                Told::End => return Ok(()),
                Told::Resized => {}
                Told::Suspend => suspend(&terminal)?,
            },
            key = reader.next() => {
                match key {
                    // Without a terminal to read from there is nobody to look.
                    None | Some(Key::Quit) => return Ok(()),
                    Some(key) => state.press(key),
                }
                // What is under way was asked for another view or order.
                if state.is_due() {
                    asking = None;
                }
            }
            answer = answer(&mut asking) => {
                asking = None;
                state.take(answer);
            }
            () = until(state.due), if asking.is_none() => {
                let (view, sort) = (state.settings.view, state.settings.sort);
                asking = Some(Box::pin(look(&settings.socket, view, sort, size().lines)));
                state.asked();
                continue;
            }
        }
        terminal.draw(&state.frame())?;
    }
}

/// The answer to what was asked; never, if nothing was.
async fn answer(asking: &mut Option<Asking<'_>>) -> Result<Look, TopError> {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

/// Gives the terminal to the shell until the operator comes back.
fn suspend(terminal: &Terminal) -> Result<(), TopError> {
    terminal.leave();
    // The signal that stops cannot be caught, unlike the one that asked for it.
    let stopped = kill_process(getpid(), Signal::STOP);
    stopped.map_err(|error| TopError::Terminal(error.into()))?;
    terminal.resume()
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What keys and answers change.
struct State {
    settings: TopSettings,
    before: Option<Look>,
    now: Look,
    trouble: Option<String>,
    paused: bool,
    help: bool,
    /// When to ask again; while paused, only when a key asks for it.
    due: Option<Instant>,
}

impl State {
    /// Rates need a second look, which comes soon.
    fn new(settings: TopSettings, first: Look) -> Self {
        let due = Some(Instant::now() + settings.interval.min(TOP_FIRST_INTERVAL));
        let (before, trouble, paused, help) = (None, None, false, false);
        Self { settings, before, now: first, trouble, paused, help, due }
    }

    fn frame(&self) -> Vec<crate::render::top::Line> {
        let scene = Scene {
            paused: self.paused,
            help: self.help,
            trouble: self.trouble.as_deref(),
            ..scene(&self.settings, self.before.as_ref(), Some(&self.now))
        };
        frame(&scene, size())
    }

    fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    /// The next look is an interval behind this one.
    fn asked(&mut self) {
        self.due = (!self.paused).then(|| Instant::now() + self.settings.interval);
    }

    fn ask_now(&mut self) {
        self.due = Some(Instant::now());
    }

    fn press(&mut self, key: Key) {
        let helped = std::mem::take(&mut self.help);
        match key {
            Key::View(view) => self.show(view),
            Key::Sort => self.sort_next(),
            Key::Pause => {
                self.paused = !self.paused;
                self.due = (!self.paused).then(Instant::now);
            }
            Key::AskNow => self.ask_now(),
            Key::Help => self.help = !helped,
            Key::Redraw | Key::Quit => {}
        }
    }

    fn show(&mut self, view: TopView) {
        if self.settings.view != view {
            self.settings.view = view;
            self.ask_now();
        }
    }

    fn sort_next(&mut self) {
        let keys = self.settings.view.sort_keys();
        let current = self.settings.view.sort(self.settings.sort);
        let place = keys.iter().position(|key| *key == current).unwrap_or(0);
        let next = keys.get((place + 1) % keys.len());
        self.settings.sort = next.copied().unwrap_or_default();
        self.ask_now();
    }

    fn take(&mut self, answer: Result<Look, TopError>) {
        match answer {
            Ok(look) => {
                self.before = Some(std::mem::replace(&mut self.now, look));
                self.trouble = None;
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }
}

/// The signals that mean something to a program at a terminal.
struct Signals {
    end: Vec<tokio::signal::unix::Signal>,
    resized: tokio::signal::unix::Signal,
    suspend: tokio::signal::unix::Signal,
}

/// What a signal says.
enum Told {
    End,
    Resized,
    Suspend,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let ends = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        // SIGTSTP has no name there; its number is the same on every Linux but alpha and mips.
        let suspend = SignalKind::from_raw(Signal::TSTP.as_raw());
        Ok(Self {
            end: ends.into_iter().map(signal).collect::<Result<_, _>>()?,
            resized: signal(SignalKind::window_change())?,
            suspend: signal(suspend)?,
        })
    }

    async fn next(&mut self) -> Told {
        let [interrupt, terminate, hangup, quit] = self.end.as_mut_slice() else {
            return Told::End;
        };
        tokio::select! {
            _ = interrupt.recv() => Told::End,
            _ = terminate.recv() => Told::End,
            _ = hangup.recv() => Told::End,
            _ = quit.recv() => Told::End,
            _ = self.resized.recv() => Told::Resized,
            _ = self.suspend.recv() => Told::Suspend,
        }
    }
}
