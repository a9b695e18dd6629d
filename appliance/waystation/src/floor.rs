//! The floor of this machine: read from the state directory, or measured and written there; and the
//! command that shows it or measures it anew.

use crate::appliance::aead_choice;
use crate::arguments::FloorArguments;
use crate::questions::print;
use crate::run::read_config;
use crate::state;
use anyhow::Context;
use std::path::{Path, PathBuf};
use waystation_astral::aead::AeadSuite;
use waystation_engine::floor::calibrate;
use waystation_management::floor_file::{self, FloorKey, FloorSource, KnownFloor};
use waystation_management::{clock, documents, render};

/// The file's name in the state directory.
const FILE: &str = "floor";

/// Where the floor is kept.
pub(crate) fn file(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// What this machine charges with this cipher: as it was measured before, or measured now and
/// written. Without it only efficiency is unknown, so a failure is told in the log and no more.
pub(crate) fn known(file: &Path, suite: AeadSuite) -> Option<KnownFloor> {
    let key = FloorKey::of_this_machine(suite, env!("CARGO_PKG_VERSION"));
    match floor_file::read(file, &key) {
        Ok(Some(known)) => return Some(known),
        Ok(None) => tracing::info!("measuring what this machine charges for moving bytes"),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the floor is measured anew");
        }
    }
    let measured = measure(key).inspect_err(|error| {
        tracing::warn!(error = format!("{error:#}"), "efficiency is not known");
    });
    let known = measured.ok()?;
    if let Err(error) = floor_file::write(file, &known) {
        tracing::warn!(file = %file.display(), %error, "the floor cannot be kept");
    }
    Some(known)
}

fn measure(key: FloorKey) -> anyhow::Result<KnownFloor> {
    let suite = key.suite.parse().context("a cipher of another build")?;
    let floor = calibrate(suite).context("the floor cannot be measured")?;
    let (source, measured_unix_ms) = (FloorSource::Measured, clock::now().unix_ms());
    Ok(KnownFloor { floor, key, source, measured_unix_ms })
}

/// `waystation floor`: shows what is known, or measures it. A running appliance goes on with what it
/// knows until it is started again.
pub(crate) fn floor(arguments: &FloorArguments) -> anyhow::Result<()> {
    let config = match &arguments.config {
        Some(file) => read_config(file, None)?,
        None => Default::default(),
    };
    let file = file(&state::directory(arguments.state_dir.as_deref())?);
    let suite = aead_choice(config.engine.aead)?.suite;
    let key = FloorKey::of_this_machine(suite, env!("CARGO_PKG_VERSION"));
    let cached = match arguments.refresh {
        true => None,
        // Whatever is wrong with the file, a new one is what helps.
        false => floor_file::read(&file, &key).ok().flatten(),
    };
    let known = match cached {
        Some(known) => known,
        None => {
            let known = measure(key)?;
            state::make_directory_of(&file)?;
            floor_file::write(&file, &known)
                .with_context(|| format!("cannot write {}", file.display()))?;
            known
        }
    };
    let document = documents::floor(&known);
    if arguments.json {
        return print(format!("{document}\n").as_bytes());
    }
    print(render::floor(&document).as_bytes())
}
