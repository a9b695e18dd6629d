//! `[xdp]`: what an operator says about the program that runs before the kernel's network stack.
//!
//! Pure, like the rest of the configuration.

use crate::units::ByteSize;
use serde::{Serialize, Serializer};
use std::path::PathBuf;
use waystation_relay::address_policy::Block;

/// Whether the program is put on interfaces, and how it is run there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    /// On none.
    #[default]
    Off,
    /// In the driver, or where that cannot, after the kernel has made a packet of the frame.
    Auto,
    /// In the driver only.
    Native,
    /// After the kernel has made a packet of the frame.
    Generic,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct XdpConfig {
    pub mode: XdpMode,
    /// Empty: those with an address that TURN listens on or relays from.
    pub interfaces: Vec<String>,
    /// Absent: nothing outlives the process.
    #[serde(serialize_with = "super::serialize_path")]
    pub pin_directory: Option<PathBuf>,
    #[serde(serialize_with = "serialize_blocks")]
    pub deny: Vec<Block>,
    /// Packets per second of one source without a session; 0: as many as it likes.
    pub stranger_rate: usize,
    /// New sources per second and processor; 0: as many as there are.
    pub newcomer_rate: usize,
    /// Whether packets go to the processor, and the socket, of the data core that owns their session.
    pub steer: bool,
    /// Room for samples of packets; 0: none are taken.
    pub capture_memory: ByteSize,
}

impl Default for XdpConfig {
    fn default() -> Self {
        Self {
            mode: XdpMode::Off,
            interfaces: Vec::new(),
            pin_directory: None,
            deny: Vec::new(),
            stranger_rate: 20_000,
            newcomer_rate: 10_000,
            steer: false,
            capture_memory: ByteSize::from_kib(0),
        }
    }
}

fn serialize_blocks<S: Serializer>(blocks: &[Block], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(blocks.iter().map(Block::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, parse};

    #[test]
    fn the_program_is_on_no_interface_unless_it_is_asked_for() {
        assert_eq!(Config::default().xdp.mode, XdpMode::Off);
    }

    #[test]
    fn keys_are_read() {
        let text = "[xdp]\nmode = \"native\"\ninterfaces = [\"eth0\", \"wan.7\"]\n\
                    deny = [\"203.0.113.0/24\", \"2001:db8::/32\"]\nstranger_rate = 0\n\
                    pin_directory = \"/sys/fs/bpf/waystation\"\nsteer = true\n";
        let xdp = parse(text, "x").unwrap().xdp;
        assert_eq!((xdp.mode, xdp.stranger_rate, xdp.steer), (XdpMode::Native, 0, true));
        assert_eq!(xdp.interfaces, ["eth0", "wan.7"]);
        assert_eq!(xdp.deny.len(), 2);
        assert_eq!(xdp.pin_directory, Some("/sys/fs/bpf/waystation".into()));
    }

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for name in ["", ".", "..", "a/b", "a b", "longer-than-fifteen", "eth0:1"] {
            let text = format!("[xdp]\ninterfaces = [\"{name}\"]");
            let said = parse(&text, "x").unwrap_err().to_string();
            assert!(said.contains("xdp.interfaces"), "{name}: {said}");
        }
        let said = parse("[xdp]\ninterfaces = [\"a\", \"a\"]", "x").unwrap_err().to_string();
        assert!(said.contains("xdp.interfaces"), "{said}");
    }
}
