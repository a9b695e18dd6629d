//! Makes the stats socket's file: only for its owner and group, never over a living one.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Readable and writable for the owner and the group: whoever may connect may read.
const MODE: u32 = 0o660;

/// Why the stats socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program answers there.
    #[error("{} is in use: is waystation running already?", path.display())]
    InUse { path: PathBuf },
    /// The path is taken by a file that is no socket.
    #[error("{} exists and is not a socket; remove it or set management.socket", path.display())]
    NotASocket { path: PathBuf },
    /// The kernel's refusal.
    #[error("cannot make the stats socket {}: {error}", path.display())]
    Refused { path: PathBuf, error: io::Error },
}

/// Binds the stats socket, replacing one that a stopped program left behind. The listener does not
/// block. To be called inside a tokio runtime.
///
/// The socket is bound under a name of its own and renamed when its mode is right, so there is no
/// moment at which others could connect.
///
/// # Errors
/// See [`BindError`].
pub fn bind(path: &Path) -> Result<tokio::net::UnixListener, BindError> {
    refuse_taken(path)?;
    let (listener, aside) = bind_aside(path)?;
    aside.place()?;
    Ok(listener)
}

/// Binds a stats socket that nobody finds before it is put in its place, over another program's.
///
/// # Errors
/// See [`BindError`].
pub fn bind_aside(path: &Path) -> Result<(tokio::net::UnixListener, Aside), BindError> {
    let refused = |error| BindError::Refused { path: path.to_owned(), error };
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(refused)?;
    let aside = Aside { fresh, path: path.to_owned() };
    fs::set_permissions(&aside.fresh, Permissions::from_mode(MODE)).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(refused)?;
    Ok((listener, aside))
}

/// A socket that is not in its place. Dropped, its file is gone.
#[derive(Debug)]
pub struct Aside {
    fresh: PathBuf,
    path: PathBuf,
}

impl Aside {
    /// Puts it in its place, where it is found from now on instead of what was there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn place(self) -> Result<(), BindError> {
        let refused = |error| BindError::Refused { path: self.path.clone(), error };
        fs::rename(&self.fresh, &self.path).map_err(refused)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Once it is in its place there is nothing here.
        let _ = fs::remove_file(&self.fresh);
    }
}

fn refuse_taken(path: &Path) -> Result<(), BindError> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Ok(_answered) => Err(BindError::InUse { path: path.to_owned() }),
        Err(_nobody_listens) => Ok(()),
    }
}
