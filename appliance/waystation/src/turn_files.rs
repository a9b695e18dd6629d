//! What the TURN server's configuration names but does not hold: users and secrets.
//!
//! Read on the main thread at start-up and on the management thread with every reload. Nothing of a
//! file is kept but the keys that are made of it.

use anyhow::Context;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use waystation_management::config::{TurnConfig, TurnFound};
use waystation_management::limits::TURN_FILE_BYTES_MAX;
use zeroize::Zeroizing;

/// Reads everything that the configuration names, for a machine with these addresses. Without a TURN
/// server that is nothing.
pub(crate) fn read(turn: &TurnConfig, own_addresses: &[IpAddr]) -> anyhow::Result<TurnFound> {
    if !turn.is_enabled() {
        return Ok(TurnFound::default());
    }
    let users = match &turn.users_file {
        Some(path) => lines(path)?.iter().map(|line| user(path, line)).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let secrets = match &turn.secrets_file {
        Some(path) => lines(path)?.into_iter().map(|(_, secret)| secret).collect(),
        None => Vec::new(),
    };
    let credentials = turn
        .credentials(&users, &secrets)
        .context("turn.users_file and turn.secrets_file cannot be used")?;
    let found = TurnFound {
        credentials: Some(Arc::new(credentials)),
        own_addresses: own_addresses.to_vec(),
    };
    let with_found = TurnConfig { found: found.clone(), ..turn.clone() };
    with_found.peers().context("turn.allow_peers cannot be used")?;
    Ok(found)
}

/// A line's number and its text.
type Line = (usize, Zeroizing<String>);

/// The lines of a file that say something.
fn lines(path: &Path) -> anyhow::Result<Vec<Line>> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let mode = file.metadata().with_context(|| format!("cannot read {shown}"))?.permissions();
    if mode.mode() & 0o007 != 0 {
        anyhow::bail!("{shown} can be read by everybody; take that away: chmod o= {shown}");
    }
    let mut text = Zeroizing::new(String::new());
    let most = TURN_FILE_BYTES_MAX as u64 + 1;
    file.take(most).read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
    if text.len() > TURN_FILE_BYTES_MAX {
        anyhow::bail!("{shown} is longer than {TURN_FILE_BYTES_MAX} bytes");
    }
    let lines = text.lines().enumerate();
    let said = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    Ok(said.map(|(index, line)| (index + 1, Zeroizing::new(line.to_owned()))).collect())
}

fn user(path: &Path, (number, line): &Line) -> anyhow::Result<(String, Zeroizing<String>)> {
    let Some((name, password)) = line.split_once(':') else {
        // The line itself may be a secret in the wrong file.
        anyhow::bail!("{}:{number}: is not NAME:PASSWORD", path.display());
    };
    Ok((name.to_owned(), Zeroizing::new(password.to_owned())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::io::Write;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn config(users: &Path) -> TurnConfig {
        TurnConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            users_file: Some(users.to_owned()),
            ..TurnConfig::default()
        }
    }

    #[test]
    fn users_are_lines_with_a_colon_and_the_rest_is_said_without_its_text() {
        let good = file("# names\nalice:wonder:land\n\nbob:builder\n", 0o640);
        assert!(read(&config(good.path()), &[]).unwrap().credentials.is_some());
        let bad = file("alice:wonderland\nhunter2\n", 0o600);
        let error = format!("{:#}", read(&config(bad.path()), &[]).unwrap_err());
        assert!(error.contains(":2:") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_file_that_everybody_can_read_is_refused() {
        let open = file("alice:wonderland\n", 0o644);
        let error = format!("{:#}", read(&config(open.path()), &[]).unwrap_err());
        assert!(error.contains("chmod"), "{error}");
    }
}
