//! Whether the kernel answers the program's routing look-ups.
//!
//! `bpf_fib_lookup` answers only from the view of an interface with forwarding on. The programs ask
//! from the view of loopback, which is that of the machine's own packets: forwarding has to be on
//! for loopback alone, where nothing is ever forwarded, and the machine does not become a router.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
};

/// Index of the loopback interface in every network namespace (`LOOPBACK_IFINDEX` in the kernel).
pub const LOOPBACK_INTERFACE: u32 = 1;

/// The switches, by family.
const SWITCHES: [&str; 2] =
    ["/proc/sys/net/ipv4/conf/lo/forwarding", "/proc/sys/net/ipv6/conf/lo/forwarding"];

/// Which switches are off; packets of that family then go to user space with
/// `pass_forwarding_off`. A family that the kernel does not have is not named.
pub fn switches_off() -> impl Iterator<Item = &'static str> {
    let is_off = |path: &&str| fs::read_to_string(path).is_ok_and(|text| text.trim() == "0");
    SWITCHES.into_iter().filter(is_off)
}

/// Switches that were off before, held open so that they can be turned off again by a process that
/// may open nothing by then.
#[derive(Debug, Default)]
pub struct SwitchedOn {
    switches: Vec<File>,
}

impl SwitchedOn {
    /// Turns on what is off.
    ///
    /// # Errors
    /// When a switch is there and cannot be written.
    pub fn now() -> io::Result<Self> {
        let mut switches = Vec::new();
        for path in switches_off() {
            let switch = OpenOptions::new().write(true).open(path)?;
            switch.write_all_at(b"1", 0)?;
            switches.push(switch);
        }
        Ok(Self { switches })
    }

    /// Turns the same off again.
    ///
    /// # Errors
    /// When the kernel refuses, as it does to a process without CAP_NET_ADMIN.
    pub fn off(self) -> io::Result<()> {
        self.switches.into_iter().try_for_each(|switch| switch.write_all_at(b"0", 0))
    }
}

/// Turns forwarding on for loopback, as `sysctl -w net.ipv4.conf.lo.forwarding=1` and the same for
/// `ipv6` do, in the network namespace of the calling thread.
///
/// # Errors
/// When a switch is there and cannot be written.
pub fn switch_on() -> io::Result<()> {
    for switch in SWITCHES.into_iter().filter(|switch| Path::new(switch).exists()) {
        fs::write(switch, "1")?;
    }
    Ok(())
}
