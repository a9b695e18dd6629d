//! NICs, addresses and routes by way of the kernel's netlink interfaces.
//!
//! On the thread of a command, one socket for each question, which waits a bounded time for its
//! answer. The messages of ethtool (`linux/ethtool_netlink.h`), routing (`linux/rtnetlink.h`) and
//! devlink (`linux/devlink.h`) that are used here are few; the crates that know them either do not
//! set what has to be set, or bring a runtime along.

mod changes;
mod ethtool;
mod message;
mod routing;
mod socket;

pub use changes::AddressChanges;

use crate::machine::{NicControl, NicSettings, Target};
use std::io;
use std::net::IpAddr;

/// The NICs of this machine, in the network namespace of the calling thread.
#[derive(Clone, Copy, Debug)]
pub struct KernelNics;

impl NicControl for KernelNics {
    fn settings(&self, nic: &str) -> io::Result<NicSettings> {
        let kind = routing::kind(nic)?;
        let mut settings = ethtool::settings(nic)?;
        settings.kind = kind;
        settings.firmware = ethtool::firmware(nic);
        Ok(settings)
    }

    fn set(&self, target: &Target, value: &str) -> io::Result<()> {
        ethtool::set(target, value)
    }

    fn addresses(&self) -> io::Result<Vec<(String, IpAddr)>> {
        routing::addresses()
    }

    fn route(&self, to: IpAddr) -> io::Result<String> {
        routing::route(to)
    }
}
