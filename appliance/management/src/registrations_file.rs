//! Registrations over a restart: one small file in the state directory.
//!
//! Stock nodes go on dialing with the nonce they know as long as somebody accepts the connection,
//! and register again only when nobody does (spec §11.2, traps b and c). A gateway that forgot its
//! nonces would have them spin. Read once at start, written by the management thread at most once a
//! second and only when something changed. A file that cannot be read is set aside, never fatal.

use crate::gateway::SavedRegistration;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The first line; another one is another program's file, or another version's.
const HEADER: &str = "waystation registrations 1";
/// Nonces let their holder pose as the registered node's socket, so only the owner may read them.
const MODE: u32 = 0o600;

/// The file, and what it was last told.
#[derive(Debug)]
pub struct RegistrationsFile {
    path: PathBuf,
    last: Vec<SavedRegistration>,
}

/// Why a file is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationsError {
    /// The kernel's refusal.
    #[error("cannot use {}: {source}", path.display())]
    Access { path: PathBuf, source: io::Error },
    /// A line that is no registration.
    #[error("{}:{line}: not a registration", path.display())]
    Line { path: PathBuf, line: usize },
}

impl RegistrationsFile {
    /// A file that is yet to be read.
    pub fn new(path: PathBuf) -> Self {
        Self { path, last: Vec::new() }
    }

    /// Reads at most `limit` registrations; none if there is no file.
    ///
    /// # Errors
    /// See [`RegistrationsError`]. A file with a wrong line is renamed, so that the next write does
    /// not destroy what somebody may want to look at.
    pub fn read(&mut self, limit: usize) -> Result<Vec<SavedRegistration>, RegistrationsError> {
        let read = self.read_lines(limit);
        match &read {
            Ok(registrations) => self.last.clone_from(registrations),
            Err(RegistrationsError::Line { .. }) => {
                // The file stays where it is if this fails; the complaint is made either way.
                let _ = fs::rename(&self.path, self.path.with_extension("corrupt"));
            }
            Err(RegistrationsError::Access { .. }) => {}
        }
        read
    }

    /// Writes the registrations if they are not those written last.
    ///
    /// # Errors
    /// [`RegistrationsError::Access`]; the file is as before.
    pub fn write(&mut self, now: Vec<SavedRegistration>) -> Result<(), RegistrationsError> {
        if now == self.last {
            return Ok(());
        }
        let access = |source| RegistrationsError::Access { path: self.path.clone(), source };
        let fresh = self.path.with_extension("new");
        write_file(&fresh, &now).and_then(|()| fs::rename(&fresh, &self.path)).map_err(access)?;
        self.last = now;
        Ok(())
    }

    fn read_lines(&self, limit: usize) -> Result<Vec<SavedRegistration>, RegistrationsError> {
        let access = |source| RegistrationsError::Access { path: self.path.clone(), source };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(access(error)),
        };
        let wrong = |line| RegistrationsError::Line { path: self.path.clone(), line };
        let mut registrations = Vec::new();
        for (index, line) in BufReader::new(file).lines().take(limit + 1).enumerate() {
            let line = line.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => wrong(index + 1),
                _ => access(error),
            })?;
            if index == 0 {
                if line != HEADER {
                    return Err(wrong(1));
                }
                continue;
            }
            registrations.push(parse(&line).ok_or_else(|| wrong(index + 1))?);
        }
        Ok(registrations)
    }
}

fn write_file(path: &Path, registrations: &[SavedRegistration]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)?;
    let mut out = io::BufWriter::new(file);
    writeln!(out, "{HEADER}")?;
    for saved in registrations {
        let visibility = if saved.is_public { "public" } else { "private" };
        writeln!(out, "{} {:016x} {visibility}", saved.identity, saved.nonce)?;
    }
    out.into_inner().map_err(|error| error.into_error())?.sync_all()
}

fn parse(line: &str) -> Option<SavedRegistration> {
    let mut words = line.split(' ');
    let (identity, nonce) = (words.next()?.parse().ok()?, words.next()?);
    let nonce = (nonce.len() == 16).then(|| u64::from_str_radix(nonce, 16).ok())??;
    let is_public = match words.next()? {
        "public" => true,
        "private" => false,
        _ => return None,
    };
    words.next().is_none().then_some(SavedRegistration { identity, nonce, is_public })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use waystation_astral::identity::SecretKey;

    fn saved(byte: u8, is_public: bool) -> SavedRegistration {
        let identity = SecretKey::from_bytes(&[byte; 32]).unwrap().identity();
        SavedRegistration { identity, nonce: 0x1122_3344_5566_7700 + u64::from(byte), is_public }
    }

    #[test]
    fn what_was_written_is_read_back_and_only_the_owner_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registrations");
        let registrations = vec![saved(1, true), saved(2, false)];
        assert_eq!(RegistrationsFile::new(path.clone()).read(10).unwrap(), []);
        RegistrationsFile::new(path.clone()).write(registrations.clone()).unwrap();
        assert_eq!(RegistrationsFile::new(path.clone()).read(10).unwrap(), registrations);
        assert_eq!(RegistrationsFile::new(path.clone()).read(1).unwrap(), registrations[..1]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registrations");
        let mut file = RegistrationsFile::new(path.clone());
        file.write(vec![saved(1, true)]).unwrap();
        fs::remove_file(&path).unwrap();
        file.write(vec![saved(1, true)]).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn file_with_a_wrong_line_is_named_and_set_aside() {
        let good = format!("{} 1122334455667788 public", saved(3, true).identity);
        let wrong = [
            ("", 0),
            ("something else\n", 1),
            (&*format!("{HEADER}\n{good}\nrubbish\n"), 3),
            (&*format!("{HEADER}\n{good} more\n"), 2),
            (&*format!("{HEADER}\n{}\n", good.replace("public", "secret")), 2),
            (&*format!("{HEADER}\n{}\n", good.replace("1122334455667788", "112233445566778")), 2),
        ];
        for (text, line) in wrong {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("registrations");
            fs::write(&path, text).unwrap();
            match RegistrationsFile::new(path.clone()).read(10) {
                Ok(none) => assert_eq!((none, line), (Vec::new(), 0), "{text:?}"),
                Err(error) => {
                    let place = format!("registrations:{line}: not a registration");
                    assert!(error.to_string().ends_with(&place), "{error} for {text:?}");
                    assert!(!path.exists() && path.with_extension("corrupt").exists());
                }
            }
        }
    }

    #[test]
    fn file_that_is_no_text_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registrations");
        fs::write(&path, [HEADER.as_bytes(), b"\n\xff\xfe\n"].concat()).unwrap();
        let error = RegistrationsFile::new(path).read(10).unwrap_err();
        assert!(matches!(error, RegistrationsError::Line { line: 2, .. }), "{error}");
    }
}
