//! Threads of a running process that do not run for a while, as if they hung.

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs;

/// The thread of a process by its name.
pub fn thread(process: u32, name: &str) -> Pid {
    let tasks = format!("/proc/{process}/task");
    let found = fs::read_dir(tasks).unwrap().find_map(|task| {
        let path = task.unwrap().path();
        let is_it = fs::read_to_string(path.join("comm")).ok()?.trim_end() == name;
        is_it.then(|| path.file_name().unwrap().to_str().unwrap().parse().unwrap())
    });
    Pid::from_raw(found.unwrap_or_else(|| panic!("no thread {name}")))
}

/// A thread that does not run until this is dropped.
#[derive(Debug)]
pub struct Held(Pid);

impl Held {
    /// Holds a thread, unless this machine does not let anybody.
    pub fn hold(thread: Pid) -> Option<Self> {
        match ptrace::seize(thread, ptrace::Options::empty()) {
            Err(Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => return None,
            seized => seized.unwrap(),
        }
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Some(Self(thread))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // One that was killed meanwhile is gone.
        let _ = ptrace::detach(self.0, None::<Signal>);
    }
}
