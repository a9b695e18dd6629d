//! How long threads were ready to run while others ran, by the kernel's scheduler statistics: what a
//! machine that has something else to do adds to whatever is measured on it.

use parking_lot::Mutex;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// The data cores of any number of processes. Where the kernel keeps no statistics nobody waits.
#[derive(Debug, Default)]
pub struct Starvation {
    threads: Mutex<Vec<Thread>>,
}

#[derive(Debug)]
struct Thread {
    process: u32,
    statistics: File,
    /// What it had waited when it was found.
    before_ns: u64,
}

/// The names of the threads of a process that carry clients' datagrams begin so.
const CORE: &str = "data-";

impl Starvation {
    /// Watches the data cores of a process as soon as it has some.
    pub fn watch(&self, process: u32) {
        let mut threads = self.threads.lock();
        if threads.iter().any(|thread| thread.process == process) {
            return;
        }
        let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { return };
        for task in tasks.filter_map(Result::ok).map(|task| task.path()) {
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            let statistics = File::open(task.join("schedstat"));
            if let (true, Ok(statistics)) = (name.starts_with(CORE), statistics) {
                let before_ns = waited_ns(&statistics);
                threads.push(Thread { process, statistics, before_ns });
            }
        }
    }

    /// How long all of them have waited since each was found.
    pub fn cores_ns(&self) -> u64 {
        let threads = self.threads.lock();
        let waited = threads.iter().map(|thread| {
            // Of one that has ended there is nothing to be read.
            waited_ns(&thread.statistics).saturating_sub(thread.before_ns)
        });
        waited.sum()
    }
}

/// How long the calling thread has waited, asked as often as somebody likes.
#[derive(Debug)]
pub struct OwnWait(Option<File>);

impl OwnWait {
    pub fn of_this_thread() -> Self {
        Self(File::open("/proc/thread-self/schedstat").ok())
    }

    pub fn ns(&self) -> u64 {
        self.0.as_ref().map_or(0, waited_ns)
    }
}

/// Time on a processor, time waiting for one, and time slices: the second of them.
fn waited_ns(statistics: &File) -> u64 {
    let mut text = [0; 64];
    let read = statistics.read_at(&mut text, 0).unwrap_or(0);
    let text = std::str::from_utf8(&text[..read]).unwrap_or_default();
    text.split_ascii_whitespace().nth(1).and_then(|ns| ns.parse().ok()).unwrap_or(0)
}
