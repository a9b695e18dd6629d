//! What the running program has given up, seen from outside: by the kernel's tables, and by what it
//! is refused. What it still has to do without privileges, the other tests hold: all of them run it
//! so.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use support::appliance::{Appliance, PortName, Settings};
use support::nodes;
use support::process::{
    ORDINARY_ID, Ordinary, binary, command, copy_program, exists, is_root, run,
};
use support::turn::{ALICE, users_file};
use support::{eventually, given, streams};
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_peer::RouteForm;

/// A user of the base system that owns nothing.
const NOBODY: &str = "nobody";

/// Copies of a program that are run while so many threads start processes, each at most so many.
const COPIES: usize = 100;
const STARTING_THREADS: usize = 3;
const STARTS_MAX: usize = 100_000;

/// The lines of `/proc/PID/status` that are about privileges, of every thread.
fn threads(appliance: &Appliance) -> Vec<String> {
    let tasks = format!("/proc/{}/task", appliance.process.id());
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap();
    fs::read_dir(tasks).unwrap().map(|task| status(task.unwrap())).collect()
}

#[track_caller]
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in:\n{status}")).trim()
}

fn expect_nothing_left(appliance: &Appliance, started_as_root: bool) {
    let threads = threads(appliance);
    assert!(threads.len() >= 3, "data cores, management and main: {}", threads.len());
    for status in &threads {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(u64::from_str_radix(field(status, set), 16), Ok(0), "{set} of\n{status}");
        }
        assert_eq!(field(status, "NoNewPrivs"), "1");
        if started_as_root {
            assert_eq!(u64::from_str_radix(field(status, "CapBnd"), 16), Ok(0), "{status}");
        }
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", appliance.process.id())).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().filter(|word| *word == "0").count(), 2, "{cores}");
    let confinement = &appliance.status()["confinement"];
    assert_eq!(confinement["capabilities"], serde_json::json!([]));
    assert_eq!(confinement["no_new_privileges"], true);
    assert_eq!(confinement["core_dumps"], false);
}

/// Whether this kernel can restrict files.
fn has_landlock(status: &Value) -> bool {
    given(status["confinement"]["files"] != "unavailable", "landlock (Linux 5.13)")
}

fn exchange(appliance: &Appliance) {
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P0));
    let (near, far) = nodes::route(&caller, &target, RouteForm::G2);
    streams::exchange("without privileges", near, far, 100_000);
}

#[test]
fn no_thread_has_a_capability_or_can_get_one_over_both_ports() {
    for port in [PortName::IoUring, PortName::Epoll] {
        if !port.is_given() {
            continue;
        }
        let mut appliance = Appliance::start(&Settings::new(port, 2));
        expect_nothing_left(&appliance, is_root());
        exchange(&appliance);
        assert!(appliance.stop().success());
    }
}

#[test]
fn an_ordinary_user_gives_up_as_much_and_others_of_that_user_cannot_look_into_it() {
    if !given(is_root() && Ordinary::is_possible(), "root and setpriv, to be an ordinary user") {
        return;
    }
    let ordinary = Ordinary::new();
    let look = |settings: &Settings| {
        let appliance = Appliance::start_ordinary(&ordinary, settings);
        let environment = format!("/proc/{}/environ", appliance.process.id());
        let mut command = command(Path::new("setpriv"));
        command.arg(format!("--reuid={ORDINARY_ID}")).arg(format!("--regid={ORDINARY_ID}"));
        let looked = run(command.args(["--clear-groups", "--", "cat", &environment]));
        (appliance, looked.code())
    };
    let (appliance, code) = look(&Settings::new_auto(1));
    expect_nothing_left(&appliance, false);
    assert_eq!(code, 1, "another process could read it");
    let (appliance, code) = look(&Settings::new_auto(1).with("privileges", "core_dumps = true"));
    assert_eq!(code, 0, "the comparison does not hold");
    assert!(appliance.process.log().contains("privileges are kept by configuration"));
}

#[test]
fn root_becomes_the_user_it_is_told_after_it_has_bound_a_privileged_port() {
    if !given(is_root() && exists("unshare"), "root, and unshare of util-linux") {
        return;
    }
    // In a network of its own, where nobody else has the port.
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = directory.path().join("waystation.toml");
    let settings = Settings::new_auto(2).with("privileges", &format!("user = \"{NOBODY}\""));
    let text = settings.text().replace("127.0.0.1:0", "0.0.0.0:443");
    fs::write(&file, text + "[turn]\nlisten = []\n").unwrap();
    // What is above it and missing is made for that user too, who could not enter it otherwise.
    let state = directory.path().join("missing/state");
    let mut command = command(Path::new("unshare"));
    command.args(["--net", "--"]).arg(binary()).arg("run").arg("--config").arg(&file);
    command.arg("--state-dir").arg(&state);
    let mut appliance = Appliance::spawn(&mut command, directory, &state);
    assert_eq!(appliance.address.port(), 443);
    expect_nothing_left(&appliance, true);
    let user = fs::read_to_string("/etc/passwd").unwrap();
    let line = user.lines().find(|line| line.split(':').next() == Some(NOBODY)).unwrap();
    let id: u32 = line.split(':').nth(2).unwrap().parse().unwrap();
    let wanted = vec![id.to_string(); 4].join("\t");
    for status in threads(&appliance) {
        assert_eq!(field(&status, "Uid"), wanted);
        assert_eq!(field(&status, "Groups"), "", "groups of root are left");
    }
    assert_eq!(appliance.status()["confinement"]["user"], id);
    for name in ["..", "", "node_key", "waystation.sock"] {
        assert_eq!(fs::metadata(state.join(name)).unwrap().uid(), id, "owner of {name}");
    }
    assert!(appliance.stop().success());
    assert!(!state.join("waystation.sock").exists(), "it could not take its socket away");
}

#[test]
fn a_user_that_is_nobody_or_cannot_be_become_is_refused() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("waystation.toml");
    let settings = Settings::new_auto(1).with("privileges", "user = \"no-such-user\"");
    fs::write(&file, settings.text()).unwrap();
    let mut command = command(&binary());
    command.arg("run").arg("--config").arg(&file).arg("--state-dir");
    let finished = run(command.arg(directory.path().join("state")));
    assert_eq!(finished.code(), 78, "{}", finished.stderr);
    assert!(finished.complaint().contains("privileges.user = \"no-such-user\" is not in"));
    if !given(Ordinary::is_possible(), "setpriv, to be an ordinary user") {
        return;
    }
    let ordinary = Ordinary::new();
    let file = ordinary.directory.path().join("waystation.toml");
    fs::write(&file, Settings::new_auto(1).with("privileges", "user = \"root\"").text()).unwrap();
    let mut command = ordinary.command();
    command.arg("run").arg("--config").arg(&file).arg("--state-dir");
    let finished = run(command.arg(ordinary.directory.path().join("state")));
    assert_eq!(finished.code(), 77, "{}", finished.stderr);
    assert!(finished.complaint().contains("needs a start as root or as that user"));
}

/// The reloads that were taken up and those refused, so far.
fn reloads(appliance: &Appliance) -> [u64; 2] {
    let metrics = String::from_utf8(appliance.ask("/metrics").unwrap()).unwrap();
    ["applied", "refused"].map(|outcome| {
        let name = format!("waystation_config_reloads_total{{outcome=\"{outcome}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name} in:\n{metrics}")).parse().unwrap()
    })
}

#[test]
fn a_reload_reads_what_was_replaced_beside_it_and_nothing_elsewhere() {
    let settings = Settings::new_auto(1);
    let appliance = Appliance::start(&settings);
    if !has_landlock(&appliance.status()) {
        return;
    }
    let beside = appliance.directory.path();
    let file = beside.join("waystation.toml");
    let with_users = |users_file: &str| {
        settings.clone().with("turn", users_file).with("turn", "listen = [\"127.0.0.1:0\"]")
    };
    let replace = |settings: &Settings| {
        let new = beside.join("new");
        fs::write(&new, settings.text()).unwrap();
        fs::rename(&new, &file).unwrap();
        let before = reloads(&appliance);
        appliance.process.signal(rustix::process::Signal::HUP);
        eventually("a reload", || {
            let now = reloads(&appliance);
            (now != before).then(|| [now[0] - before[0], now[1] - before[1]])
        })
    };
    let elsewhere = TempDir::new().unwrap();
    assert_eq!(replace(&with_users(&users_file(elsewhere.path(), &[ALICE]))), [0, 1]);
    let log = appliance.process.log();
    let line = log.lines().find(|line| line.contains("cannot read")).unwrap();
    assert!(line.contains("Permission denied"), "{line}");
    // A link beside it leads nowhere else either.
    symlink(elsewhere.path().join("users"), beside.join("link")).unwrap();
    let link = format!("users_file = \"{}\"", beside.join("link").display());
    assert_eq!(replace(&with_users(&link)), [0, 1]);
    assert_eq!(replace(&with_users(&users_file(beside, &[ALICE]))), [1, 0]);
}

#[test]
fn files_that_are_not_restricted_by_configuration_can_be_read_and_that_is_said() {
    let settings = Settings::new_auto(1).with("privileges", "restrict_files = false");
    let appliance = Appliance::start(&settings);
    assert_eq!(appliance.status()["confinement"]["files"], "off");
    assert!(appliance.process.log().contains("privileges are kept by configuration"));
    let elsewhere = TempDir::new().unwrap();
    let users_file = users_file(elsewhere.path(), &[ALICE]);
    let settings = settings.with("turn", &users_file).with("turn", "listen = [\"127.0.0.1:0\"]");
    fs::write(appliance.directory.path().join("waystation.toml"), settings.text()).unwrap();
    appliance.process.signal(rustix::process::Signal::HUP);
    eventually("a reload", || (reloads(&appliance) == [1, 0]).then_some(()));
}

/// Runs its arguments where some system calls do not exist, as on an older kernel. Numbers are the
/// same on all architectures: landlock's are 444 to 446, io_uring's 425 to 427.
const WITHOUT_SYSTEM_CALLS: &str = r#"
import ctypes, os, struct, sys
first, last = int(sys.argv[1]), int(sys.argv[2])
# Load the number; below the first and above the last: allow; otherwise fail with ENOSYS.
code = [(0x20, 0, 0, 0), (0x35, 0, 2, first), (0x25, 1, 0, last), (0x06, 0, 0, 0x00050000 | 38),
        (0x06, 0, 0, 0x7fff0000)]
text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(text))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[3], sys.argv[3:])
"#;

fn without(first: u32, last: u32) -> Command {
    let mut python = command(Path::new("python3"));
    python.args(["-c", WITHOUT_SYSTEM_CALLS, &first.to_string(), &last.to_string()]);
    python.arg(binary());
    python
}

fn start_without(first: u32, last: u32) -> Appliance {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("waystation.toml");
    fs::write(&file, Settings::new_auto(2).text()).unwrap();
    let state = directory.path().join("state");
    let mut command = without(first, last);
    command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
    Appliance::spawn(&mut command, directory, &state)
}

#[test]
fn a_kernel_without_landlock_is_told_of_and_does_not_matter_otherwise() {
    if !given(exists("python3"), "python3, to take system calls away") {
        return;
    }
    let mut appliance = start_without(444, 446);
    assert_eq!(appliance.status()["confinement"]["files"], "unavailable");
    assert!(appliance.process.log().contains("this kernel has no landlock"));
    expect_nothing_left(&appliance, false);
    exchange(&appliance);
    assert!(appliance.stop().success());
}

#[test]
fn a_container_that_forbids_io_uring_gets_epoll_and_the_same_confinement() {
    if !given(exists("python3"), "python3, to take system calls away") {
        return;
    }
    let mut appliance = start_without(425, 427);
    assert_eq!(appliance.status()["cores"][0]["port"], "epoll");
    expect_nothing_left(&appliance, false);
    exchange(&appliance);
    assert!(appliance.stop().success());
}

#[test]
fn an_existing_state_directory_of_root_is_not_given_away() {
    if !given(is_root(), "root") {
        return;
    }
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let state = directory.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let file = directory.path().join("waystation.toml");
    let settings = Settings::new_auto(1).with("privileges", &format!("user = \"{NOBODY}\""));
    fs::write(&file, settings.text()).unwrap();
    let mut command = command(&binary());
    let finished =
        run(command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state));
    assert_eq!(finished.code(), 77, "{}", finished.stderr);
    assert!(finished.complaint().contains("state"), "{}", finished.stderr);
    assert_eq!(fs::metadata(&state).unwrap().uid(), 0);
}

/// What the tests' copies rely on: programs are copied and run while other threads start processes,
/// which inherit whatever this one has open at that moment.
#[test]
fn a_copied_program_runs_at_once_whatever_other_threads_start_meanwhile() {
    let directory = TempDir::new().unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..STARTING_THREADS {
            scope.spawn(|| {
                for _ in 0..STARTS_MAX {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    Command::new("true").status().unwrap();
                }
            });
        }
        let failed = (0..COPIES).find_map(|number| {
            let copy = directory.path().join(number.to_string());
            copy_program(Path::new("/bin/true"), &copy);
            Command::new(copy).status().err()
        });
        is_over.store(true, Ordering::Relaxed);
        assert!(failed.is_none(), "{failed:?}");
    });
}
