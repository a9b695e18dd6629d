//! `explain-packet`: what would become of a packet, and why.
//!
//! A command of its own. It takes frames from hex digits or from a capture, and asks the running
//! program, which knows its sessions; with a configuration alone it answers by itself.

use crate::arguments::ExplainArguments;
use crate::capture_file::{self, CaptureError};
use crate::questions::{print, socket};
use crate::run::served_config;
use anyhow::Context;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use waystation_management::limits::EXPLAINED_FRAME_BYTES_MAX;
use waystation_management::stats_socket::client;
use waystation_management::xdp::{explain_for, explained};

/// Bytes of a file that is read: some ten thousand packets.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why a packet cannot be explained.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PacketError {
    /// Operator: neither hex digits nor the name of a file.
    #[error("{0:?} is neither hex digits of a frame nor a file that is there")]
    NoPacket(String),
    /// Operator: longer than any frame that the program looks at.
    #[error("packet {number} has {bytes} bytes; at most {EXPLAINED_FRAME_BYTES_MAX} are looked at")]
    TooLong { number: usize, bytes: usize },
    /// Operator: the file is too long.
    #[error("{0} is longer than {FILE_BYTES_MAX} bytes; cut a piece out of it")]
    FileTooLong(String),
    /// Operator: the file is no capture.
    #[error("{file}: {source}")]
    File { file: String, source: CaptureError },
}

/// `waystation explain-packet`
pub(crate) fn explain(arguments: &ExplainArguments) -> anyhow::Result<()> {
    let mut frames = Vec::new();
    for packet in &arguments.packets {
        frames.extend(read(packet)?);
    }
    let all = frames.len();
    frames.truncate(arguments.limit.get());
    let config = arguments.config.as_deref().map(served_config).transpose()?;
    let socket = socket(&arguments.socket)?;
    for (at, frame) in frames.iter().enumerate() {
        let (number, bytes) = (at + 1, frame.len());
        if bytes > EXPLAINED_FRAME_BYTES_MAX {
            return Err(PacketError::TooLong { number, bytes }.into());
        }
        let document = match &config {
            Some(config) => explain_for(config, frame),
            None => ask(&socket, frame, arguments.interface.as_deref())?,
        };
        if arguments.json {
            print(format!("{document}\n").as_bytes())?;
        } else {
            print(format!("{number}. {}", explained(&document)).as_bytes())?;
        }
    }
    if frames.len() < all {
        tell_of_more(frames.len(), all);
    }
    Ok(())
}

/// Not among the answers, which somebody may read as JSON.
#[expect(clippy::print_stderr, reason = "what is said of the answers, not one of them")]
fn tell_of_more(explained: usize, all: usize) {
    eprintln!(
        "waystation: {explained} of {all} packets were explained; --limit {all} explains all"
    );
}

fn ask(socket: &Path, frame: &[u8], interface: Option<&str>) -> anyhow::Result<Value> {
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let interface = interface.map(|name| format!("&interface={name}")).unwrap_or_default();
    let answer = client::get(socket, &format!("/v1/explain?frame={hex}{interface}"))?;
    Ok(serde_json::from_slice(&answer)?)
}

/// The frames of one argument.
fn read(packet: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let path = Path::new(packet);
    if !path.is_file() {
        let frame = from_hex(packet).ok_or_else(|| PacketError::NoPacket(packet.to_owned()))?;
        return Ok(vec![frame]);
    }
    let mut bytes = Vec::new();
    let opened = File::open(path);
    let read = opened.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("cannot read {packet}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(PacketError::FileTooLong(packet.to_owned()).into());
    }
    let text = std::str::from_utf8(&bytes).ok().and_then(from_hex);
    if let Some(frame) = text {
        return Ok(vec![frame]);
    }
    let frames = capture_file::frames(&bytes, usize::MAX);
    Ok(frames.map_err(|source| PacketError::File { file: packet.to_owned(), source })?)
}

/// Bytes from digits in pairs; spaces, colons and line ends between them are left out.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let is_between = |letter: char| letter.is_ascii_whitespace() || letter == ':';
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|letter| !is_between(*letter))
        .map(|letter| letter.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| !digits.is_empty())?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_from_digits_however_they_are_spaced() {
        assert_eq!(from_hex("02:00 0A\nff"), Some(vec![2, 0, 10, 255]));
        for wrong in ["", " ", "0", "0g", "ä"] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }
}
