//! What the node keeps over a restart: a snapshot, and beside it the times at which nodes were met.
//!
//! Read once at the start. Written in portions by the driver, under another name first, so that a
//! crash leaves the old file; a torn one is told by its digest. Files that do not hold are set aside
//! with a message and are never fatal. Only at the end of the program does it wait for the disk.

use super::limits::{SEEN_BYTES_MAX, SNAPSHOT_BYTES_MAX, SNAPSHOT_RECORDS_PER_TURN};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use waystation_a2al::node::Node;
use waystation_a2al::seen::SeenNodes;
use waystation_a2al::snapshot::{Portions, Snapshot, SnapshotError};
use waystation_a2al::time::UnixSeconds;

/// Whom this node knows is nobody else's business.
const MODE: u32 = 0o600;

/// Why a file is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// The kernel's refusal.
    #[error("cannot use {}: {source}", path.display())]
    Access { path: PathBuf, source: io::Error },
    /// It is no snapshot.
    #[error("{} is {source}; it was set aside", path.display())]
    Snapshot { path: PathBuf, source: SnapshotError },
    /// It is longer than any snapshot.
    #[error("{} is longer than {SNAPSHOT_BYTES_MAX} bytes; it was set aside", path.display())]
    TooLong { path: PathBuf },
}

/// The files, and the write under way.
#[derive(Debug)]
pub(super) struct SnapshotFile {
    path: PathBuf,
    writing: Option<Writing>,
}

#[derive(Debug)]
struct Writing {
    portions: Portions,
    file: File,
}

impl SnapshotFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, writing: None }
    }

    /// What the last run has left; nothing if there is no file.
    pub(super) fn read(&self) -> Result<Snapshot, FileError> {
        let path = || self.path.clone();
        let bytes = match read_at_most(&self.path, SNAPSHOT_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Snapshot::default());
            }
            Err(source) => return Err(FileError::Access { path: path(), source }),
        };
        if bytes.len() as u64 > SNAPSHOT_BYTES_MAX {
            self.set_aside();
            return Err(FileError::TooLong { path: path() });
        }
        Snapshot::decode(&bytes).map_err(|source| {
            self.set_aside();
            FileError::Snapshot { path: path(), source }
        })
    }

    /// When nodes were met; lines that are none are left out.
    pub(super) fn read_seen(&self, seen: &mut SeenNodes, now: UnixSeconds) {
        // Without them the counts of the last week begin anew.
        let Ok(bytes) = read_at_most(&self.seen_path(), SEEN_BYTES_MAX) else { return };
        seen.load(&String::from_utf8_lossy(&bytes), now);
    }

    /// Begins to write what the node has now, unless that is under way already.
    pub(super) fn begin(&mut self, node: &Node, now: UnixSeconds) -> Result<(), FileError> {
        if self.writing.is_some() {
            return Ok(());
        }
        let file = create(&self.fresh_path()).map_err(|source| self.access(source))?;
        self.writing = Some(Writing { portions: Portions::of(node), file });
        self.write_seen(node, now)
    }

    fn write_seen(&self, node: &Node, now: UnixSeconds) -> Result<(), FileError> {
        let seen = self.seen_path();
        let fresh = seen.with_extension("seen-new");
        let written = create(&fresh)
            .and_then(|mut file| file.write_all(node.seen().format(now).as_bytes()))
            .and_then(|()| fs::rename(&fresh, &seen));
        written.map_err(|source| FileError::Access { path: seen, source })
    }

    /// Whether there is more to write.
    pub(super) fn is_under_way(&self) -> bool {
        self.writing.is_some()
    }

    /// Writes the next portion. After the last the file has its name.
    pub(super) fn go_on(&mut self) -> Result<(), FileError> {
        let Some(mut writing) = self.writing.take() else { return Ok(()) };
        let is_over = match writing.portions.take(SNAPSHOT_RECORDS_PER_TURN) {
            Some(bytes) => {
                writing.file.write_all(&bytes).map_err(|source| self.access(source))?;
                false
            }
            None => true,
        };
        if is_over {
            return fs::rename(self.fresh_path(), &self.path).map_err(|source| self.access(source));
        }
        self.writing = Some(writing);
        Ok(())
    }

    /// Writes everything at once and waits for the disk, as the program ends.
    pub(super) fn write_last(&mut self, node: &Node, now: UnixSeconds) -> Result<(), FileError> {
        self.writing = None;
        // Times at which nodes were met are worth less than what was stored, which is written first.
        let begun = self.begin(node, now);
        while let Some(writing) = &mut self.writing {
            match writing.portions.take(SNAPSHOT_RECORDS_PER_TURN) {
                Some(bytes) => writing.file.write_all(&bytes),
                None => break,
            }
            .map_err(|source| FileError::Access { path: self.fresh_path(), source })?;
        }
        if let Some(Writing { file, .. }) = self.writing.take() {
            let renamed = file.sync_all().and_then(|()| fs::rename(self.fresh_path(), &self.path));
            renamed.map_err(|source| self.access(source))?;
        }
        begun
    }

    fn access(&self, source: io::Error) -> FileError {
        FileError::Access { path: self.path.clone(), source }
    }

    fn fresh_path(&self) -> PathBuf {
        self.path.with_extension("new")
    }

    fn seen_path(&self) -> PathBuf {
        self.path.with_extension("seen")
    }

    fn set_aside(&self) {
        // The file stays where it is if this fails; the complaint is made either way.
        let _ = fs::rename(&self.path, self.path.with_extension("corrupt"));
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)
}

/// One byte more than the limit tells a file that is too long.
fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use waystation_a2al::keys::SigningKey;
    use waystation_a2al::node::NodeConfig;
    use waystation_a2al::payload::TopicPayload;
    use waystation_a2al::record::{RecordType, topic_key};
    use waystation_a2al::time::{Millis, Now};

    const NOW: Now = Now { millis: Millis(5), unix: UnixSeconds(1_800_000_000) };

    fn node(topics: usize) -> Node {
        let key = SigningKey::from_seed(&[7; 32]).unwrap();
        let mut node = Node::new(key, NodeConfig::default(), [1; 32], 0, NOW);
        for topic in 0..topics {
            let topic = format!("topic {topic}");
            let key = topic_key(&topic);
            let payload = TopicPayload { topic, ..TopicPayload::default() }.encode();
            node.publish_own(key, RecordType::TOPIC, payload, NOW).unwrap();
        }
        node
    }

    #[test]
    fn what_was_written_in_portions_or_at_once_is_read_again_and_for_the_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dht_snapshot");
        let mut file = SnapshotFile::new(path.clone());
        assert_eq!(file.read().unwrap(), Snapshot::default());
        let node = node(5);
        file.begin(&node, NOW.unix).unwrap();
        while file.is_under_way() {
            assert!(!path.exists());
            file.go_on().unwrap();
        }
        let read = file.read().unwrap();
        assert_eq!(read.records.len(), 5);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        fs::remove_file(&path).unwrap();
        file.begin(&node, NOW.unix).unwrap();
        file.write_last(&node, NOW.unix).unwrap();
        assert_eq!(file.read().unwrap(), read);
        assert!(!file.is_under_way());
    }

    #[test]
    fn torn_changed_and_foreign_files_are_named_and_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dht_snapshot");
        let mut file = SnapshotFile::new(path.clone());
        file.write_last(&node(3), NOW.unix).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        changed[40] ^= 1;
        for bytes in [&whole[..whole.len() / 2], &changed, b"", b"another program's file"] {
            fs::write(&path, bytes).unwrap();
            let error = file.read().unwrap_err();
            assert!(error.to_string().contains("dht_snapshot is torn or changed"), "{error}");
            assert!(!path.exists() && path.with_extension("corrupt").exists());
        }
    }

    #[test]
    fn the_last_snapshot_is_written_also_where_the_times_cannot_be() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = SnapshotFile::new(directory.path().join("dht_snapshot"));
        // A file cannot take the name of a directory.
        fs::create_dir(file.seen_path()).unwrap();
        let error = file.write_last(&node(3), NOW.unix).unwrap_err();
        assert!(error.to_string().contains("dht_snapshot.seen"), "{error}");
        assert_eq!(file.read().unwrap().records.len(), 3);
    }

    #[test]
    fn a_directory_that_is_gone_is_an_error_and_nothing_worse() {
        let mut file = SnapshotFile::new(PathBuf::from("/nonexistent/dht_snapshot"));
        assert!(matches!(file.begin(&node(0), NOW.unix), Err(FileError::Access { .. })));
        assert!(!file.is_under_way());
        assert!(file.go_on().is_ok());
    }
}
