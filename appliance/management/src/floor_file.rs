//! The floor of this machine over a restart: one small file in the state directory.
//!
//! Read and written at start-up, by the thread that starts everything else, and by the command that
//! measures anew. Figures of another kernel, processor, cipher or version say nothing about this
//! machine, so the file names what it was measured on. A file that cannot be used is measured anew
//! and replaced, never fatal. Nothing in it is secret, and nothing that is read is trusted beyond
//! being a number of nanoseconds.

use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use waystation_astral::aead::AeadSuite;
use waystation_engine::floor::{ARRIVAL_BYTES, Floor, LENGTHS};

/// What the file says first; another layout gets another number.
const LAYOUT: &str = "waystation floor 1";
/// Longest file that is read: a real one has about 700 bytes.
const FILE_BYTES_MAX: u64 = 8 * 1024;
/// Nothing in it is secret, and a service without privileges reads what root has measured.
const MODE: u32 = 0o644;
/// Letters of a processor's name that are kept.
const PROCESSOR_LETTERS_MAX: usize = 100;

/// What a floor holds for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FloorKey {
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the processor.
    pub processor: String,
    /// What seals the records.
    pub suite: String,
    /// Version of the program.
    pub version: String,
}

impl FloorKey {
    /// That of this machine and program with this cipher.
    pub fn of_this_machine(suite: AeadSuite, version: &str) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            kernel: kernel.trim().to_owned(),
            processor: processor(&processors),
            suite: suite.to_string(),
            version: version.to_owned(),
        }
    }
}

/// The model of the first processor, as the architecture's kernel names it.
fn processor(cpuinfo: &str) -> String {
    let named = |key: &str| {
        let lines = cpuinfo.lines();
        let mut values = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim())
        });
        values.next()
    };
    let model = named("model name").or_else(|| named("cpu model")).or_else(|| named("CPU part"));
    model.unwrap_or(std::env::consts::ARCH).chars().take(PROCESSOR_LETTERS_MAX).collect()
}

/// Where a floor comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloorSource {
    /// Measured by this process.
    Measured,
    /// Measured before, and read.
    Cached,
}

impl FloorSource {
    /// The name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Cached => "cached",
        }
    }
}

/// A floor, what it holds for, and since when.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownFloor {
    pub floor: Floor,
    pub key: FloorKey,
    pub source: FloorSource,
    pub measured_unix_ms: u64,
}

/// Why a file gives no floor.
#[derive(Debug, thiserror::Error)]
pub enum FloorFileError {
    /// The kernel's refusal.
    #[error("cannot be read: {0}")]
    Access(#[source] io::Error),
    /// Torn, changed, or another program's.
    #[error("is not a floor that was written whole: {0}")]
    Unreadable(#[source] serde_json::Error),
    /// Numbers that no machine has.
    #[error("holds figures that cannot be right")]
    Implausible,
    /// Of another machine, kernel, cipher or version.
    #[error("is of another {0}")]
    Foreign(&'static str),
}

/// The file as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    layout: String,
    key: FloorKey,
    measured_unix_ms: u64,
    arrival_bytes: [usize; LENGTHS],
    forward_ns: [f64; LENGTHS],
    sealed_ns: [f64; LENGTHS],
}

/// Reads what was measured before; nothing if there is no file.
///
/// # Errors
/// See [`FloorFileError`]; what helps is to measure anew.
pub fn read(path: &Path, key: &FloorKey) -> Result<Option<KnownFloor>, FloorFileError> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => {
            file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(FloorFileError::Access)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FloorFileError::Access(error)),
    }
    let written: Written = serde_json::from_slice(&bytes).map_err(FloorFileError::Unreadable)?;
    if written.layout != LAYOUT || written.arrival_bytes != ARRIVAL_BYTES {
        return Err(FloorFileError::Foreign("layout"));
    }
    if let Some(other) = difference(&written.key, key) {
        return Err(FloorFileError::Foreign(other));
    }
    let floor = Floor { forward_ns: written.forward_ns, sealed_ns: written.sealed_ns };
    if !floor.is_plausible() {
        return Err(FloorFileError::Implausible);
    }
    let (key, source) = (written.key, FloorSource::Cached);
    Ok(Some(KnownFloor { floor, key, source, measured_unix_ms: written.measured_unix_ms }))
}

fn difference(one: &FloorKey, other: &FloorKey) -> Option<&'static str> {
    let parts = [
        (&one.kernel, &other.kernel, "kernel"),
        (&one.processor, &other.processor, "processor"),
        (&one.suite, &other.suite, "cipher"),
        (&one.version, &other.version, "version"),
    ];
    parts.into_iter().find_map(|(one, other, name)| (one != other).then_some(name))
}

/// Writes it under another name first, so that a crash leaves the old file or the new one.
///
/// # Errors
/// The kernel's refusal; the file is as before.
pub fn write(path: &Path, known: &KnownFloor) -> io::Result<()> {
    let written = Written {
        layout: LAYOUT.to_owned(),
        key: known.key.clone(),
        measured_unix_ms: known.measured_unix_ms,
        arrival_bytes: ARRIVAL_BYTES,
        forward_ns: known.floor.forward_ns,
        sealed_ns: known.floor.sealed_ns,
    };
    let mut text = serde_json::to_vec_pretty(&written)?;
    text.push(b'\n');
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    // Made anew or not at all: root may write here, and a link that the owner of the directory
    // leaves meanwhile is not followed.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&fresh)?;
    // Whatever the mask of the process takes away.
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn known() -> KnownFloor {
        let forward_ns = ARRIVAL_BYTES.map(|bytes| 1000.5 + bytes as f64 / 8.0);
        KnownFloor {
            floor: Floor { forward_ns, sealed_ns: forward_ns.map(|ns| 3.0 * ns) },
            key: FloorKey::of_this_machine(AeadSuite::default(), "0.1.0"),
            source: FloorSource::Cached,
            measured_unix_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("floor");
        assert_eq!(read(&path, &known().key).unwrap(), None);
        write(&path, &known()).unwrap();
        assert_eq!(read(&path, &known().key).unwrap(), Some(known()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(!path.with_extension("new").exists());
    }

    #[test]
    fn a_link_under_the_fresh_name_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, victim) = (directory.path().join("floor"), directory.path().join("victim"));
        fs::write(&victim, "untouched").unwrap();
        symlink(&victim, path.with_extension("new")).unwrap();
        write(&path, &known()).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(read(&path, &known().key).unwrap(), Some(known()));
    }

    #[test]
    fn file_that_was_torn_anywhere_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("floor");
        write(&path, &known()).unwrap();
        let whole = fs::read(&path).unwrap();
        // The line feed behind the last bracket is no loss.
        for bytes in 0..whole.len() - 1 {
            fs::write(&path, &whole[..bytes]).unwrap();
            let error = read(&path, &known().key).unwrap_err();
            assert!(matches!(error, FloorFileError::Unreadable(_)), "{bytes}: {error}");
        }
    }

    #[test]
    fn file_of_another_machine_kernel_cipher_or_version_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("floor");
        write(&path, &known()).unwrap();
        type Change = fn(&mut FloorKey);
        let changes: [(&str, Change); 4] = [
            ("kernel", |key| key.kernel.push('x')),
            ("processor", |key| key.processor.clear()),
            ("cipher", |key| key.suite.push('x')),
            ("version", |key| key.version.push('x')),
        ];
        for (name, change) in changes {
            let mut key = known().key;
            change(&mut key);
            let error = read(&path, &key).unwrap_err();
            assert_eq!(error.to_string(), format!("is of another {name}"));
        }
    }

    #[test]
    fn figures_that_no_machine_has_and_other_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("floor");
        for ns in [0.0, -5.0, 1e12] {
            let mut wrong = known();
            wrong.floor.sealed_ns[2] = ns;
            write(&path, &wrong).unwrap();
            let error = read(&path, &known().key).unwrap_err();
            assert!(matches!(error, FloorFileError::Implausible), "{ns}: {error}");
        }
        write(&path, &known()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for other in [text.replace("floor 1", "floor 2"), text.replace("4096", "4097")] {
            fs::write(&path, other).unwrap();
            let error = read(&path, &known().key).unwrap_err();
            assert!(matches!(error, FloorFileError::Foreign("layout")), "{error}");
        }
        for other in [b"waystation registrations 1\n".to_vec(), vec![0; 20_000], vec![0xff; 9]] {
            fs::write(&path, other).unwrap();
            assert!(read(&path, &known().key).is_err());
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(read(&path, &known().key), Err(FloorFileError::Access(_))));
    }

    #[test]
    fn processor_is_named_as_its_architecture_does() {
        let text = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: A B C\nprocessor\t: 1\n";
        assert_eq!(processor(text), "A B C");
        assert_eq!(processor("processor: 0\nCPU part : 0xd0c\n"), "0xd0c");
        assert_eq!(processor(""), std::env::consts::ARCH);
    }
}
