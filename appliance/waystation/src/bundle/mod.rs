//! `bundle`: everything that somebody who helps with this box would ask for, in one file.
//!
//! A command of its own, on its main thread; it asks the running appliance, reads the machine, and
//! changes nothing. It says what goes into the file before there is one. What holds secrets is never
//! opened: neither keys, nor the files of users and secrets, nor the configuration file's comments.
//! A part that cannot be had is named with the reason, and the rest goes in all the same.

mod parts;

use crate::arguments::BundleArguments;
use crate::questions::{print, socket};
use flate2::Compression;
use flate2::write::GzEncoder;
use parts::{Collection, Part};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use waystation_management::clock::{self, Moment};

/// Only the owner may look: there are addresses of peers in it.
const FILE_MODE: u32 = 0o600;
/// What `tar` gives the files it unpacks.
const PART_MODE: u32 = 0o600;

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub(crate) struct BundleError {
    path: PathBuf,
    pub(crate) source: io::Error,
}

/// `waystation bundle`
pub(crate) fn bundle(arguments: &BundleArguments) -> anyhow::Result<()> {
    let now = clock::now();
    let name = format!("waystation-bundle-{}", stamp(now));
    let file = arguments.file.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let mut collection = Collection::take(&socket(&arguments.socket)?, arguments.config.as_deref());
    let missing = collection.missing.iter().map(|(name, why)| format!("{name}: {why}\n"));
    let missing = Part::text("MISSING.txt", "what could not be had, and why", missing.collect());
    collection.parts.push(missing);
    print(listing(&file, &collection, arguments.list).as_bytes())?;
    if arguments.list {
        return Ok(());
    }
    let bytes = write(&file, &name, &collection.parts, now)
        .map_err(|source| BundleError { path: file.clone(), source })?;
    print(format!("\nwrote {}, {bytes} bytes\n", file.display()).as_bytes())
}

/// What goes in, before it does.
fn listing(file: &Path, collection: &Collection, is_all: bool) -> String {
    let verb = if is_all { "would hold" } else { "is to hold" };
    let mut out = format!("{} {verb}, and nothing else:\n", file.display());
    for part in &collection.parts {
        let cut = if part.is_cut { ", cut off" } else { "" };
        let (bytes, name, what) = (part.bytes.len(), part.name, part.what);
        out.push_str(&format!("{bytes:>10} B  {name:<18} {what}{cut}\n"));
    }
    if !collection.missing.is_empty() {
        out.push_str("not there:\n");
        for (name, why) in &collection.missing {
            out.push_str(&format!("              {name:<18} {why}\n"));
        }
    }
    out.push_str(
        "No key, password, token or payload is in it. Identities and addresses of peers are, and\n\
         so is the log, if it could be read: look through it before you hand it on.\n",
    );
    out
}

/// The time in the name: letters that every file system takes.
fn stamp(now: Moment) -> String {
    let time = now.rfc3339();
    let seconds = time.split('.').next().unwrap_or(&time);
    seconds.replace([':', '-'], "") + "Z"
}

/// Writes the archive; a file that is there is left alone, and one that fails is removed. Gives its
/// length.
fn write(path: &Path, directory: &str, parts: &[Part], now: Moment) -> io::Result<u64> {
    let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    archive(&file, directory, parts, now).and_then(|()| Ok(file.metadata()?.len())).inspect_err(
        |_failed| {
            // The error that is told is the one that led here.
            let _ = fs::remove_file(path);
        },
    )
}

fn archive(file: &File, directory: &str, parts: &[Part], now: Moment) -> io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for part in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(part.bytes.len() as u64);
        header.set_mode(PART_MODE);
        header.set_mtime(now.unix_ms() / 1000);
        archive.append_data(
            &mut header,
            Path::new(directory).join(part.name),
            part.bytes.as_slice(),
        )?;
    }
    let mut file = archive.into_inner()?.finish()?;
    file.flush()?;
    file.sync_all()
}
