//! What the program's maps are filled with from the configuration: addresses, ports, rates, denied
//! prefixes.
//!
//! [`Served`] is a pure value of a configuration; writing it is a handful of system calls at the
//! start and with every reload.

use super::limits::{NEIGHBOUR_REFRESH, RATE_BURST};
use crate::config::Config;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use waystation_ebpf::abi::limits::LOCAL_ADDRESSES_MAX;
use waystation_ebpf::abi::{Port, Settings};
use waystation_ebpf::forwarding::LOOPBACK_INTERFACE;
use waystation_ebpf::tables::{MapError, Tables};
use waystation_relay::address_policy::Block;

const SECOND_NS: u64 = 1_000_000_000;

/// What the relay serves, as far as the program has to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    /// Addresses that packets are judged for.
    pub(super) local: BTreeSet<IpAddr>,
    /// All of this machine's.
    pub(super) own: BTreeSet<IpAddr>,
    /// Ports in the order in which they are written: later ones count.
    pub(super) ports: Vec<(RangeInclusive<u16>, Port)>,
    pub(super) denied: BTreeSet<Block>,
    pub(super) settings: Settings,
}

impl Served {
    /// What a configuration comes to. `dht_listen` has the machine's addresses in place of wildcards.
    pub(super) fn of(
        config: &Config,
        turn_listen: &[SocketAddr],
        dht_listen: &[SocketAddr],
    ) -> Self {
        let turn = &config.turn;
        let machine = &turn.found.own_addresses;
        let mut local: BTreeSet<IpAddr> = dht_listen.iter().map(SocketAddr::ip).collect();
        if turn.is_enabled() {
            local.extend(turn.relayed_from());
            for listen in turn_listen {
                if listen.ip().is_unspecified() {
                    let of_family = |ip: &&IpAddr| ip.is_ipv4() == listen.is_ipv4();
                    local.extend(machine.iter().filter(of_family));
                } else {
                    local.insert(listen.ip());
                }
            }
        }
        local.retain(|ip| !ip.is_loopback() && !ip.is_unspecified());
        let own = machine.iter().copied().chain(local.iter().copied()).collect();
        Self {
            local: local.into_iter().take(LOCAL_ADDRESSES_MAX as usize).collect(),
            own,
            ports: ports(config, turn_listen, dht_listen),
            denied: config.xdp.deny.iter().copied().collect(),
            settings: settings(config),
        }
    }

    /// Fills maps that are empty.
    pub(super) fn fill(&self, tables: &mut Tables) -> Result<(), MapError> {
        self.replace(&Self::default(), tables)
    }

    /// Replaces what the maps were filled with before.
    pub(super) fn replace(&self, before: &Self, tables: &mut Tables) -> Result<(), MapError> {
        tables.settings.set(self.settings)?;
        for block in before.denied.difference(&self.denied) {
            tables.settings.allow(block.first(), block.prefix_bits())?;
        }
        for block in self.denied.difference(&before.denied) {
            tables.settings.deny(block.first(), block.prefix_bits())?;
        }
        for address in before.local.difference(&self.local) {
            tables.local_addresses.remove(*address)?;
        }
        for address in self.local.difference(&before.local) {
            tables.local_addresses.insert(*address)?;
        }
        if self.ports != before.ports {
            for (ports, _) in &before.ports {
                tables.ports.set(ports.clone(), Port::Foreign)?;
            }
            for (ports, kind) in &self.ports {
                tables.ports.set(ports.clone(), *kind)?;
            }
        }
        Ok(())
    }
}

fn settings(config: &Config) -> Settings {
    let cost_ns = |per_s: usize| SECOND_NS.checked_div(per_s as u64).unwrap_or(0);
    let nanos = |it: std::time::Duration| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX);
    Settings {
        stranger_cost_ns: cost_ns(config.xdp.stranger_rate),
        stranger_burst_ns: nanos(RATE_BURST),
        newcomer_cost_ns: cost_ns(config.xdp.newcomer_rate),
        newcomer_burst_ns: nanos(RATE_BURST),
        neighbour_refresh_ns: nanos(NEIGHBOUR_REFRESH),
        routing_interface: LOOPBACK_INTERFACE,
        ..Settings::default()
    }
}

/// What each port is for. One that clients send to on one address and that is relayed from on
/// another cannot be told apart by its number, so it is left alone. The DHT's have no sessions, so
/// what comes for them is a stranger's, and held to a stranger's rate; where such a port is TURN's on
/// another address, it is judged as TURN's, which no message of the DHT is taken for.
fn ports(
    config: &Config,
    turn_listen: &[SocketAddr],
    dht_listen: &[SocketAddr],
) -> Vec<(RangeInclusive<u16>, Port)> {
    let dht = dht_listen.iter().map(|at| (at.port()..=at.port(), Port::Session));
    let mut ports: Vec<_> = dht.collect();
    let turn = &config.turn;
    if !turn.is_enabled() {
        return ports;
    }
    let port = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    let relayed = port(turn.port_min)..=port(turn.port_max);
    ports.push((relayed.clone(), Port::Session));
    for listen in turn_listen.iter().map(SocketAddr::port) {
        let kind = if relayed.contains(&listen) { Port::Foreign } else { Port::Turn };
        ports.push((listen..=listen, kind));
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn served(text: &str, machine: &[&str], listen: &[&str]) -> Served {
        let users = "users_file = \"/users\"";
        let mut config = parse(&format!("[turn]\n{users}\n{text}"), "x").unwrap();
        config.turn.found.own_addresses = machine.iter().map(|ip| ip.parse().unwrap()).collect();
        let listen: Vec<SocketAddr> = listen.iter().map(|at| at.parse().unwrap()).collect();
        Served::of(&config, &listen, &[])
    }

    fn addresses(of: &[&str]) -> BTreeSet<IpAddr> {
        of.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_are_those_listened_on_and_relayed_from() {
        let text = "listen = [\"192.0.2.1:3478\"]\nrelay_addresses = [\"192.0.2.2\"]";
        let machine = ["127.0.0.1", "192.0.2.1", "192.0.2.2", "192.0.2.3"];
        let served = served(text, &machine, &["192.0.2.1:3478"]);
        assert_eq!(served.local, addresses(&["192.0.2.1", "192.0.2.2"]));
        assert_eq!(served.own, addresses(&machine));
    }

    #[test]
    fn all_addresses_are_those_of_the_family() {
        let text = "listen = [\"0.0.0.0:3478\"]\nrelay_addresses = [\"192.0.2.2\"]";
        let machine = ["127.0.0.1", "192.0.2.1", "192.0.2.2", "2001:db8::1"];
        let served = served(text, &machine, &["0.0.0.0:3478"]);
        assert_eq!(served.local, addresses(&["192.0.2.1", "192.0.2.2"]));
    }

    #[test]
    fn a_port_of_both_kinds_is_left_alone() {
        let text = "listen = [\"192.0.2.1:50000\", \"192.0.2.1:3478\"]\n\
                    relay_addresses = [\"192.0.2.2\"]";
        let served = served(text, &[], &["192.0.2.1:50000", "192.0.2.1:3478"]);
        let expected = [
            (49_152..=65_535, Port::Session),
            (50_000..=50_000, Port::Foreign),
            (3478..=3478, Port::Turn),
        ];
        assert_eq!(served.ports, expected);
    }

    #[test]
    fn rates_are_costs_in_time_and_none_is_none() {
        let config = parse("[xdp]\nstranger_rate = 1000\nnewcomer_rate = 0", "x").unwrap();
        let settings = settings(&config);
        assert_eq!((settings.stranger_cost_ns, settings.newcomer_cost_ns), (1_000_000, 0));
    }

    #[test]
    fn without_a_turn_server_nothing_is_judged() {
        let served = Served::of(&Config::default(), &[], &[]);
        assert!(served.local.is_empty() && served.ports.is_empty());
    }

    #[test]
    fn the_ports_of_the_dht_are_judged_with_and_without_a_turn_server() {
        let dht: Vec<SocketAddr> =
            ["192.0.2.1:4121", "[2001:db8::1]:4122"].map(|at| at.parse().unwrap()).to_vec();
        let served = Served::of(&Config::default(), &[], &dht);
        assert_eq!(served.local, addresses(&["192.0.2.1", "2001:db8::1"]));
        assert_eq!(served.ports, [(4121..=4121, Port::Session), (4122..=4122, Port::Session)]);
        let text = "[turn]\nusers_file = \"/users\"\nlisten = [\"192.0.2.2:4121\"]";
        let config = parse(text, "x").unwrap();
        let served = Served::of(&config, &["192.0.2.2:4121".parse().unwrap()], &dht[..1]);
        assert_eq!(served.ports.first(), Some(&(4121..=4121, Port::Session)));
        assert_eq!(served.ports.last(), Some(&(4121..=4121, Port::Turn)), "the last one counts");
    }
}
