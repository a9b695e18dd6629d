//! What the demo's appliance and nodes run in: a private directory for the stats socket, a
//! configuration, and the CPUs that are left to the nodes.

use super::limits::{BLOCK_MEMORY_MIB, FULL_MEMORY_CORES};
use crate::arguments::{DemoArguments, DemoPort};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{self, DirBuilder};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use waystation_management::config::{Config, PortChoice};
use waystation_management::units::ByteSize;

/// Only this user may look into the directory.
const DIRECTORY_MODE: u32 = 0o700;

/// There is no place for the stats socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot make {}; set TMPDIR to a directory that this user may write", path.display())]
pub(super) struct NoDirectory {
    path: PathBuf,
    source: io::Error,
}

/// A directory that nobody else can look into and that is removed with everything in it.
#[derive(Debug)]
pub(super) struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    /// Makes one with a fresh name where temporary files go.
    pub(super) fn make() -> anyhow::Result<Self> {
        let mut name = [0; 8];
        SystemRandom::new()
            .fill(&mut name)
            .map_err(|ring::error::Unspecified| waystation_peer::PeerError::Randomness)?;
        let name = format!("waystation-demo-{:016x}", u64::from_be_bytes(name));
        let path = std::env::temp_dir().join(name);
        // Not recursive: a directory that is there already is somebody else's.
        DirBuilder::new()
            .mode(DIRECTORY_MODE)
            .create(&path)
            .map_err(|source| NoDirectory { path: path.clone(), source })?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans temporary files up.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The configuration of the demo's appliance.
pub(super) fn config(arguments: &DemoArguments) -> Config {
    let mut config = Config::default();
    config.listen.addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    config.engine.cores = usize::from(arguments.cores);
    config.engine.port = match arguments.port {
        None => PortChoice::Auto,
        Some(DemoPort::IoUring) => PortChoice::IoUring,
        Some(DemoPort::Epoll) => PortChoice::Epoll,
    };
    let cores = u64::from(arguments.cores);
    if cores > FULL_MEMORY_CORES {
        config.engine.block_memory = ByteSize::from_mib(BLOCK_MEMORY_MIB / cores);
    }
    config
}

/// Keeps the calling thread, and all that it starts from now on, off the CPUs of the data cores,
/// where there are others.
pub(super) fn leave_cpus(data_cpus: &[Option<usize>]) {
    let Ok(mut left) = rustix::thread::sched_getaffinity(None) else { return };
    for &cpu in data_cpus.iter().flatten() {
        left.unset(cpu);
    }
    if left.count() > 0 {
        // Where that is forbidden the figures get a little worse and stay right.
        let _ = rustix::thread::sched_setaffinity(None, &left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn directory_is_private_and_goes_with_what_is_in_it() {
        let directory = PrivateDirectory::make().unwrap();
        let path = directory.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, DIRECTORY_MODE);
        fs::write(path.join("inside"), b"").unwrap();
        drop(directory);
        assert!(!path.exists());
    }
}
