//! `waystation top`: asks a running appliance again and again, and draws a frame of each answer.
//!
//! Called by the program, on its main thread, outside of any tokio runtime: it builds a small one of
//! its own. It changes the terminal and gives it back as it was, whatever ends it. What a frame
//! looks like is decided in [`render::top`](crate::render::top), which knows no terminal. It must
//! never ask faster than [`TOP_INTERVAL_MIN`](crate::limits::TOP_INTERVAL_MIN), nor twice at a time.

mod asking;
mod keys;
mod live;
mod terminal;

use crate::render::top::{Look, Scene, Size, SortKey, TopView, frame};
use crate::stats_socket::client::ClientError;
use asking::look;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use terminal::{is_terminal, size, wants_colour};

/// What the operator has asked for.
#[derive(Clone, Debug)]
pub struct TopSettings {
    /// Where the appliance is asked.
    pub socket: PathBuf,
    /// The time between two looks.
    pub interval: Duration,
    /// What is shown first, and in which order; both can be changed with keys.
    pub view: TopView,
    pub sort: SortKey,
}

/// Why there is no frame, or not another one.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The appliance gave no answer when it was asked for the first time.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It gave another answer than JSON.
    #[error("what answers at {} does not speak JSON: {error}", path.display())]
    NotJson { path: PathBuf, error: serde_json::Error },
    /// Standard input or output is no terminal.
    #[error("this is no terminal: use --once for a single frame")]
    NoTerminal,
    /// The terminal refused.
    #[error("the terminal does not do what it should: {0}")]
    Terminal(#[source] io::Error),
    /// The kernel gave no runtime or no signals.
    #[error("cannot wait for answers: {0}")]
    Start(#[source] io::Error),
}

/// One frame, from two looks an interval apart; with what a terminal needs to show its styles if
/// `colour` says whether it may have colours.
///
/// # Errors
/// See [`TopError`].
pub fn once(settings: &TopSettings, size: Size, colour: Option<bool>) -> Result<String, TopError> {
    let (before, now) = runtime()?.block_on(async {
        let before = look(&settings.socket, settings.view, settings.sort, size.lines).await?;
        tokio::time::sleep(settings.interval).await;
        let now = look(&settings.socket, settings.view, settings.sort, size.lines).await?;
        Ok::<_, TopError>((before, now))
    })?;
    let scene = scene(settings, Some(&before), Some(&now));
    let mut lines = frame(&scene, size);
    // Nobody can press a key.
    lines.pop();
    while lines.last().is_some_and(|line| line.text().is_empty()) {
        lines.pop();
    }
    let lines = lines.iter().map(|line| match colour {
        Some(colour) => line.escaped(colour) + "\n",
        None => line.text() + "\n",
    });
    Ok(lines.collect())
}

/// Draws frames until a key or a signal ends it.
///
/// # Errors
/// See [`TopError`]. An appliance that goes away later is no error: it is said, and asked again.
pub fn live(settings: &TopSettings) -> Result<(), TopError> {
    runtime()?.block_on(live::run(settings))
}

fn runtime() -> Result<tokio::runtime::Runtime, TopError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(TopError::Start)
}

fn scene<'a>(
    settings: &'a TopSettings,
    before: Option<&'a Look>,
    now: Option<&'a Look>,
) -> Scene<'a> {
    let (paused, help, trouble) = (false, false, None);
    let (view, sort, socket) = (settings.view, settings.sort, settings.socket.as_path());
    Scene { before, now, view, sort, paused, help, trouble, socket }
}
