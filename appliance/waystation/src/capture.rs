//! `capture`: packets that the XDP program has looked at, with its verdicts, written as pcapng.
//!
//! A command of its own, on its main thread. It asks the running program several times a second for
//! what was sampled, and the program stops sampling when it no longer does.

use crate::arguments::CaptureArguments;
use crate::capture_file::{beginning, interface, packet};
use crate::questions::{pause, print, socket};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use waystation_management::limits::CLIENT_TIMEOUT;
use waystation_management::stats_socket::client;
use waystation_management::xdp::meaning_of;

/// Only the owner may look: payload may be in it.
const FILE_MODE: u32 = 0o600;
/// The pause between two questions.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Why nothing is captured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureFailure {
    /// Host or operator: the file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// Bug: the program answers something that no one understands.
    #[error("what the program answers is no capture: {0}")]
    Answer(&'static str),
}

/// `waystation capture`
pub(crate) fn capture(arguments: &CaptureArguments) -> anyhow::Result<()> {
    let socket = socket(&arguments.socket)?;
    let until = now() + arguments.time;
    // Whether it can be done is known before there is a file.
    let mut answer = ask(&socket, arguments, None, false)?;
    let capture = number(&answer, "capture")?;
    let mut file = PacketFile::make(&arguments.file)?;
    // A file without an interface is none to those who read it.
    for name in answer["interfaces"].as_array().into_iter().flatten() {
        file.place_of(name.as_str().ok_or(CaptureFailure::Answer("interfaces"))?)?;
    }
    loop {
        for row in answer["packets"].as_array().into_iter().flatten() {
            if file.packets < arguments.packets {
                file.write(row)?;
            }
        }
        let is_full = answer["is_full"] == true;
        if file.packets >= arguments.packets || now() >= until {
            break;
        }
        if !is_full {
            pause(ASK_EVERY.min(until - now().min(until)));
        }
        let is_last = now() >= until;
        answer = ask(&socket, arguments, Some(capture), is_last)?;
    }
    let lost = number(&answer, "lost")?;
    if now() < until {
        // It would end by itself a little later.
        ask(&socket, arguments, Some(capture), true)?;
    }
    let lost = if lost > 0 { format!("; {lost} more found no room") } else { String::new() };
    let (packets, name) = (file.packets, arguments.file.display());
    print(format!("{packets} packets in {name}{lost}\n").as_bytes())
}

fn ask(
    socket: &Path,
    arguments: &CaptureArguments,
    capture: Option<u64>,
    is_last: bool,
) -> anyhow::Result<Value> {
    let capture = capture.map(|capture| format!("&capture={capture}")).unwrap_or_default();
    let (verdicts, every) = (&arguments.verdicts, arguments.every);
    let uri = format!("/v1/capture?verdicts={verdicts}&every={every}&last={is_last}{capture}");
    Ok(serde_json::from_slice(&client::post(socket, &uri, CLIENT_TIMEOUT)?)?)
}

/// A file, and the interfaces that are in it.
struct PacketFile {
    file: File,
    path: PathBuf,
    interfaces: Vec<String>,
    packets: u64,
}

impl PacketFile {
    /// Makes one that was not there.
    fn make(path: &Path) -> Result<Self, CaptureFailure> {
        let opened = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path);
        let file =
            opened.map_err(|source| CaptureFailure::File { path: path.to_owned(), source })?;
        let mut file = Self { file, path: path.to_owned(), interfaces: Vec::new(), packets: 0 };
        file.append(&beginning(concat!("waystation ", env!("CARGO_PKG_VERSION"))))?;
        Ok(file)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), CaptureFailure> {
        let written = self.file.write_all(bytes);
        written.map_err(|source| CaptureFailure::File { path: self.path.clone(), source })
    }

    /// What packets of an interface name it by; it is written down with the first that does.
    fn place_of(&mut self, name: &str) -> Result<u32, CaptureFailure> {
        let known = self.interfaces.iter().position(|known| known == name);
        let at = match known {
            Some(at) => at,
            None => {
                self.append(&interface(name))?;
                self.interfaces.push(name.to_owned());
                self.interfaces.len() - 1
            }
        };
        Ok(u32::try_from(at).unwrap_or(u32::MAX))
    }

    fn write(&mut self, row: &Value) -> Result<(), CaptureFailure> {
        let text = |name: &'static str| row[name].as_str().ok_or(CaptureFailure::Answer(name));
        let at = self.place_of(text("interface")?)?;
        let frame = bytes(text("frame")?).ok_or(CaptureFailure::Answer("frame"))?;
        let frame_bytes = u32::try_from(number(row, "frame_bytes")?).unwrap_or(u32::MAX);
        let verdict = text("verdict")?;
        let mut comment = format!("{verdict}: {}", meaning_of(verdict).unwrap_or("unknown here"));
        if let Some(reason) = row["drop_reason"].as_str() {
            comment.push_str(&format!("; counted as {reason}"));
        }
        let at_time = Duration::from_nanos(number(row, "unix_ns")?);
        self.append(&packet(at_time, at, &frame, frame_bytes, &comment))?;
        self.packets += 1;
        Ok(())
    }
}

fn number(of: &Value, name: &'static str) -> Result<u64, CaptureFailure> {
    of[name].as_u64().ok_or(CaptureFailure::Answer(name))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let digit = |letter: u8| char::from(letter).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect::<Option<_>>())?
}

#[expect(clippy::disallowed_methods, reason = "a command at a terminal, not a data core")]
fn now() -> Instant {
    Instant::now()
}
