//! Where things are kept: the state directory, the node's key in it, the stats socket.

use crate::privileges::Person;
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use waystation_astral::identity::SecretKey;
use waystation_astral::key_file::{self, KeyFileError};
use waystation_management::config::DhtConfig;
use waystation_management::dht::DhtFiles;
use zeroize::Zeroizing;

/// The key file's name, as stock nodes call it (spec §2).
const KEY_FILE: &str = "node_key";
/// The name of the DHT's key file, and of its snapshot.
const DHT_KEY_FILE: &str = "dht_key";
const DHT_SNAPSHOT: &str = "dht_snapshot";
/// The stats socket's name.
const SOCKET: &str = "waystation.sock";
/// Where the system's service has its socket.
const SERVICE_RUNTIME_DIRECTORY: &str = "/run/waystation";
/// Longest key file that is read: the longest form has 70 bytes.
const KEY_FILE_MAX_BYTES: u64 = 1024;
/// Only the owner may look at the key.
const KEY_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Permissions of others that a key file must not have.
const OTHERS: u32 = 0o077;
/// The same of a credential: what systemd lets the unit's user read by an access list, as it does
/// where its credentials are in a tmpfs, looks like a right of the group to read (acl(5)).
const OTHERS_OF_CREDENTIAL: u32 = 0o037;

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The kernel refuses.
    #[error("cannot use {}: {source}", path.display())]
    Access { path: PathBuf, source: io::Error },
    /// The key file holds no key.
    #[error("{}: {source}; restore it from a copy, or move it away to get a new key", path.display())]
    KeyFile { path: PathBuf, source: KeyFileError },
    /// The DHT's key file holds no key.
    #[error(
        "{} does not hold 64 hex digits; restore it from a copy, or move it away to get a new key",
        path.display()
    )]
    DhtKey { path: PathBuf },
    /// Others may read the key.
    #[error("{} may be read by others (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display())]
    KeyExposed { path: PathBuf, mode: u32 },
    /// There is no place to keep anything.
    #[error("no state directory: set --state-dir, STATE_DIRECTORY, XDG_STATE_HOME or HOME")]
    NoHome,
}

/// The directory to keep the key in: as told, as systemd says, or the user's own.
pub(crate) fn directory(told: Option<&Path>) -> Result<PathBuf, StateError> {
    if let Some(told) = told {
        return Ok(told.to_owned());
    }
    if let Some(given) = environment("STATE_DIRECTORY") {
        return Ok(given);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/waystation"));
    }
    let state = environment("XDG_STATE_HOME")
        .or_else(|| environment("HOME").map(|home| home.join(".local/state")));
    Ok(state.ok_or(StateError::NoHome)?.join("waystation"))
}

/// Where the stats socket is made and looked for unless somebody says otherwise: in the runtime
/// directory where there is one, else beside the key.
pub(crate) fn socket(state_directory: Option<&Path>) -> Result<PathBuf, StateError> {
    if let Some(state_directory) = state_directory {
        return Ok(state_directory.join(SOCKET));
    }
    if let Some(given) = environment("RUNTIME_DIRECTORY") {
        return Ok(given.join(SOCKET));
    }
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new(SERVICE_RUNTIME_DIRECTORY).join(SOCKET));
    }
    Ok(directory(None)?.join(SOCKET))
}

/// The stats socket to ask: this user's own, or that of the system's service where there is none.
pub(crate) fn socket_to_ask() -> Result<PathBuf, StateError> {
    let own = socket(None)?;
    let of_service = Path::new(SERVICE_RUNTIME_DIRECTORY).join(SOCKET);
    Ok(if !own.exists() && of_service.exists() { of_service } else { own })
}

/// Makes the directory of a file, for the owner alone, unless it is there.
pub(crate) fn make_directory_of(path: &Path) -> Result<(), StateError> {
    match path.parent() {
        Some(parent) => make_directory(parent),
        None => Ok(()),
    }
}

/// Makes a directory that another user will own, unless it is there, and so those above it that are
/// missing: whoever owns the innermost has to be able to enter the rest.
pub(crate) fn make_directory_for(path: &Path, person: &Person) -> Result<(), StateError> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    let (user, group) = (person.user.as_raw(), person.group.as_raw());
    for path in missing.into_iter().rev() {
        make_directory(path)?;
        // Not through a link, which somebody could have put there in the meantime.
        lchown(path, Some(user), Some(group))
            .map_err(|source| StateError::Access { path: path.to_owned(), source })?;
    }
    Ok(())
}

/// Reads the node's key, or makes one. Says whether it is new. One that the service manager hands
/// over (`LoadCredential=node_key:…`) comes before that of the directory.
pub(crate) fn key(directory: &Path) -> Result<(SecretKey, bool), StateError> {
    make_directory(directory)?;
    if let Some(path) = credential(KEY_FILE) {
        return read_key(&path, OTHERS_OF_CREDENTIAL).map(|key| (key, false));
    }
    let path = directory.join(KEY_FILE);
    match read_key(&path, OTHERS) {
        Ok(key) => Ok((key, false)),
        Err(StateError::Access { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            write_new_key(&path).map(|key| (key, true))
        }
        Err(error) => Err(error),
    }
}

fn read_key(path: &Path, forbidden: u32) -> Result<SecretKey, StateError> {
    let bytes = read_secret(path, forbidden)?;
    key_file::read(&bytes).map_err(|source| StateError::KeyFile { path: path.to_owned(), source })
}

/// The bytes of a key file that must not have these permissions.
fn read_secret(path: &Path, forbidden: u32) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let access = |source| StateError::Access { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(access)?;
    let mode = file.metadata().map_err(access)?.permissions().mode();
    if mode & forbidden != 0 {
        return Err(StateError::KeyExposed { path: path.to_owned(), mode: mode & 0o7777 });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_MAX_BYTES as usize));
    file.take(KEY_FILE_MAX_BYTES).read_to_end(&mut bytes).map_err(access)?;
    Ok(bytes)
}

/// Reads the key of the DHT's node, or makes one, and says where the node's snapshot is kept.
pub(crate) fn dht(directory: &Path, config: &DhtConfig) -> Result<DhtFiles, StateError> {
    make_directory(directory)?;
    let path = config.key_file.clone().unwrap_or_else(|| directory.join(DHT_KEY_FILE));
    let seed = match read_dht_seed(&path) {
        Err(StateError::Access { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            write_new_dht_seed(&path)?
        }
        other => other?,
    };
    let snapshot = config.snapshot_file.clone();
    Ok(DhtFiles { seed, snapshot: snapshot.unwrap_or_else(|| directory.join(DHT_SNAPSHOT)) })
}

fn read_dht_seed(path: &Path) -> Result<Zeroizing<[u8; 32]>, StateError> {
    let text = read_secret(path, OTHERS)?;
    let (pairs, rest) = text.trim_ascii().as_chunks::<2>();
    let mut seed = Zeroizing::new([0; 32]);
    let digit = |byte: u8| char::from(byte).to_digit(16);
    for (byte, [high, low]) in seed.iter_mut().zip(pairs) {
        let pair = digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low);
        let pair = pair.and_then(|pair| u8::try_from(pair).ok());
        *byte = pair.ok_or_else(|| StateError::DhtKey { path: path.to_owned() })?;
    }
    if pairs.len() != seed.len() || !rest.is_empty() {
        return Err(StateError::DhtKey { path: path.to_owned() });
    }
    Ok(seed)
}

fn write_new_dht_seed(path: &Path) -> Result<Zeroizing<[u8; 32]>, StateError> {
    let mut seed = Zeroizing::new([0; 32]);
    let filled = SystemRandom::new().fill(seed.as_mut());
    filled.map_err(|_unspecified| StateError::Access {
        path: path.to_owned(),
        source: io::ErrorKind::Other.into(),
    })?;
    let digits = b"0123456789abcdef";
    let mut text = Zeroizing::new(Vec::with_capacity(2 * seed.len() + 1));
    for byte in seed.iter() {
        text.extend([byte >> 4, byte & 15].map(|digit| digits[usize::from(digit)]));
    }
    text.push(b'\n');
    if place_new(path, &text)? { Ok(seed) } else { read_dht_seed(path) }
}

/// Writes a fresh key under a name of its own first, so that a crash leaves no half of one.
fn write_new_key(path: &Path) -> Result<SecretKey, StateError> {
    let access = |source| StateError::Access { path: path.to_owned(), source };
    let key = random_key().map_err(access)?;
    if place_new(path, &key_file::write(&key))? { Ok(key) } else { read_key(path, OTHERS) }
}

/// Makes a file that only the owner may read. Says whether it is the one that is there now.
fn place_new(path: &Path, bytes: &[u8]) -> Result<bool, StateError> {
    let access = |source| StateError::Access { path: path.to_owned(), source };
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(KEY_MODE)
        .open(&fresh)
        .map_err(access)?;
    file.write_all(bytes).map_err(access)?;
    give_to_owner_of_directory(&file, path).map_err(access)?;
    file.sync_all().map_err(access)?;
    // A link, unlike a rename, does not replace the key that another start has made meanwhile.
    let linked = fs::hard_link(&fresh, path);
    fs::remove_file(&fresh).map_err(access)?;
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(access(error)),
    }
}

/// Gives a file that root has made to the owner of its directory, who is to read it: root asks for
/// the identity before the service has run.
fn give_to_owner_of_directory(file: &fs::File, path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some(directory) = path.parent() else { return Ok(()) };
    let owner = fs::metadata(directory)?;
    std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))
}

/// A fresh key from the operating system's random numbers.
pub(crate) fn random_key() -> io::Result<SecretKey> {
    let random = SystemRandom::new();
    loop {
        let mut scalar = Zeroizing::new([0; 32]);
        random.fill(scalar.as_mut()).map_err(|_unspecified| io::ErrorKind::Other)?;
        // All but one in 2^128 values are valid.
        if let Ok(key) = SecretKey::from_bytes(&scalar) {
            return Ok(key);
        }
    }
}

fn make_directory(path: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
        .map_err(|source| StateError::Access { path: path.to_owned(), source })
}

/// A file that the service manager hands over, if it does.
fn credential(name: &str) -> Option<PathBuf> {
    let path = environment("CREDENTIALS_DIRECTORY")?.join(name);
    path.exists().then_some(path)
}

/// A path in the environment; of a list, as systemd gives it, the first.
fn environment(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name)?;
    let first = value.to_str().and_then(|list| list.split(':').next()).map(PathBuf::from);
    first.or_else(|| Some(PathBuf::from(value))).filter(|path| !path.as_os_str().is_empty())
}
