//! Control groups of the tests' own, of either kind, gone with the value that holds them.

use super::process::{command, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Groups that this process has made.
static MADE: AtomicUsize = AtomicUsize::new(0);

/// A group. Dropped, it is removed once the processes in it are gone.
#[derive(Debug)]
pub struct ControlGroup {
    path: PathBuf,
    /// Whether it is of the second kind (cgroup2).
    is_unified: bool,
}

impl ControlGroup {
    /// One of the second kind below the test's own, with whatever controllers that has. `None`:
    /// this machine has none, or not for the test.
    pub fn unified() -> Option<Self> {
        let mount = mounted(|kind, _| kind == "cgroup2")?;
        let own = own(|controllers| controllers.is_empty())?;
        Self::make(&mount.join(own), true)
    }

    /// One whose processes may take so much memory. `None`: as above.
    pub fn with_memory(bytes: u64) -> Option<Self> {
        Self::of_first_kind(bytes).or_else(|| Self::of_second_kind(bytes))
    }

    fn of_first_kind(bytes: u64) -> Option<Self> {
        let is_memory = |list: &str| list.split(',').any(|name| name == "memory");
        let mount = mounted(|kind, options| kind == "cgroup" && is_memory(options))?;
        let group = Self::make(&mount.join(own(is_memory)?), false)?;
        group.set("memory.limit_in_bytes", bytes)
    }

    fn of_second_kind(bytes: u64) -> Option<Self> {
        let mount = mounted(|kind, _| kind == "cgroup2")?;
        // Only the uppermost group may hold processes and hand controllers on.
        fs::write(mount.join("cgroup.subtree_control"), "+memory").ok()?;
        Self::make(&mount, true)?.set("memory.max", bytes)
    }

    fn make(parent: &Path, is_unified: bool) -> Option<Self> {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("waystation-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Self { path, is_unified })
    }

    fn set(self, limit: &str, bytes: u64) -> Option<Self> {
        fs::write(self.path.join(limit), bytes.to_string()).ok()?;
        Some(self)
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that takes processes in.
    pub fn entrance(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// The most memory that was taken at a time, in bytes.
    pub fn memory_peak_bytes(&self) -> u64 {
        let name = if self.is_unified { "memory.peak" } else { "memory.max_usage_in_bytes" };
        fs::read_to_string(self.path.join(name)).unwrap().trim().parse().unwrap()
    }

    /// Processes that the kernel has killed for want of memory.
    pub fn killed_for_memory(&self) -> u64 {
        let name = if self.is_unified { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.path.join(name)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // What was killed leaves a moment later. A group that stays harms nobody.
        for _ in 0..100 {
            let mut find = command(Path::new("find"));
            find.arg(&self.path).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
            let _ = run(&mut find);
            if !self.path.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Where a file system of a kind with options is mounted.
fn mounted(is_it: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, place, kind, options, ..] = words[..] else { return None };
        is_it(kind, options).then(|| PathBuf::from(place))
    })
}

/// The test's own group in the hierarchy with these controllers, from where that is mounted.
fn own(is_it: impl Fn(&str) -> bool) -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(":/")?;
        is_it(controllers).then(|| path.to_owned())
    })
}
