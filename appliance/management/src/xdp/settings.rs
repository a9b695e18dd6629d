//! What the program's maps are filled with from the configuration: addresses, ports, rates, denied
//! prefixes.
//!
//! [`Served`] is a pure value of a configuration; writing it is a handful of system calls at the
//! start and with every reload.

use super::limits::{NEIGHBOUR_REFRESH, RATE_BURST};
use crate::config::Config;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Addresses that packets are judged for, and which kinds of ports are served on each.
    pub(super) local: BTreeMap<IpAddr, Kinds>,
    /// Those whose interfaces the program is put on if none is named.
    pub(super) outward: BTreeSet<IpAddr>,
    /// All of this machine's.
    pub(super) own: BTreeSet<IpAddr>,
    /// What of it does not fit into the maps.
    pub(super) hint: Option<String>,
    /// Ports in the order in which they are written: later ones count.
    pub(super) ports: Vec<(RangeInclusive<u16>, Port)>,
    pub(super) denied: BTreeSet<Block>,
    pub(super) settings: Settings,
}

impl Served {
    /// What a configuration comes to.
    pub(super) fn of(
        config: &Config,
        turn_listen: &[SocketAddr],
        dht_listen: &[SocketAddr],
    ) -> Self {
        let turn = &config.turn;
        let machine: BTreeSet<IpAddr> =
            turn.found.own_addresses.iter().chain(&config.udp.own_addresses).copied().collect();
        let mut local: BTreeMap<IpAddr, Kinds> = BTreeMap::new();
        let mut serve = |ip: IpAddr, kind: fn(&mut Kinds) -> &mut bool| {
            let all =
                machine.iter().filter(|own| ip.is_unspecified() && own.is_ipv4() == ip.is_ipv4());
            for ip in all.copied().chain([ip]).filter(is_outward) {
                *kind(local.entry(ip).or_default()) = true;
            }
        };
        if turn.is_enabled() {
            turn.relayed_from().into_iter().for_each(|ip| serve(ip, |kinds| &mut kinds.session));
            turn_listen.iter().for_each(|listen| serve(listen.ip(), |kinds| &mut kinds.turn));
        }
        dht_listen.iter().for_each(|listen| serve(listen.ip(), |kinds| &mut kinds.session));
        config.udp.addresses.iter().for_each(|ip| serve(*ip, |kinds| &mut kinds.opaque));
        // Sessions are on all addresses unless others are named, so they alone say little of where
        // the program is wanted.
        let is_anything_else = local.values().any(|kinds| kinds.turn || kinds.session);
        let is_meant = |ip: &IpAddr, kinds: &Kinds| {
            let is_named = config.udp.addresses.contains(ip);
            kinds.turn || kinds.session || is_named || !is_anything_else
        };
        let outward = local.iter().filter(|(ip, kinds)| is_meant(ip, kinds));
        let outward = outward.map(|(ip, _)| *ip).collect();
        let own = machine.iter().copied().chain(local.keys().copied()).collect();
        let left_out = local.len().saturating_sub(LOCAL_ADDRESSES_MAX as usize);
        let hint = (left_out > 0).then(|| {
            format!(
                "{left_out} of this machine's addresses are more than the {LOCAL_ADDRESSES_MAX} \
                 that the program judges strangers for: what comes to those without a session \
                 has no rate; name the addresses that are served in turn.listen and udp.addresses"
            )
        });
        Self {
            local: local.into_iter().take(LOCAL_ADDRESSES_MAX as usize).collect(),
            outward,
            own,
            hint,
            ports: ports(config, turn_listen, dht_listen),
            denied: config.xdp.deny.iter().copied().collect(),
            settings: settings(config),
        }
    }

    /// Whether the TURN server or the DHT has a port, on whatever address.
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|(ports, _)| ports.contains(&port))
    }

    /// Fills maps that are empty.
    pub(super) fn fill(&self, tables: &mut Tables) -> Result<(), MapError> {
        self.replace(&Self::default(), tables)
    }

    /// Replaces what the maps were filled with before. When a map has refused, it can be done again
    /// from the start.
    pub(super) fn replace(&self, before: &Self, tables: &mut Tables) -> Result<(), MapError> {
        tables.settings.set(self.settings)?;
        for block in before.denied.difference(&self.denied) {
            tables.settings.allow(block.first(), block.prefix_bits())?;
        }
        for block in self.denied.difference(&before.denied) {
            tables.settings.deny(block.first(), block.prefix_bits())?;
        }
        for address in before.local.keys().filter(|address| !self.local.contains_key(address)) {
            tables.local_addresses.remove(*address)?;
        }
        for (address, kinds) in &self.local {
            if before.local.get(address) != Some(kinds) {
                tables.local_addresses.insert(*address, &kinds.ports())?;
            }
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

/// Which kinds of ports are served on an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kinds {
    turn: bool,
    session: bool,
    opaque: bool,
}

impl Kinds {
    /// Whether ports of a kind are served.
    pub(super) fn has(self, kind: Port) -> bool {
        match kind {
            Port::Foreign => false,
            Port::Turn => self.turn,
            Port::Session => self.session,
            Port::Opaque => self.opaque,
        }
    }

    fn ports(self) -> Vec<Port> {
        let kinds =
            [(self.turn, Port::Turn), (self.session, Port::Session), (self.opaque, Port::Opaque)];
        kinds.into_iter().filter_map(|(is_served, kind)| is_served.then_some(kind)).collect()
    }
}

fn is_outward(ip: &IpAddr) -> bool {
    !ip.is_loopback() && !ip.is_unspecified()
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
        with_sessions("[]", text, machine, listen)
    }

    fn with_sessions(on: &str, text: &str, machine: &[&str], listen: &[&str]) -> Served {
        let users = "users_file = \"/users\"";
        let text = format!("[turn]\n{users}\n{text}\n[udp]\naddresses = {on}");
        let mut config = parse(&text, "x").unwrap();
        config.turn.found.own_addresses = machine.iter().map(|ip| ip.parse().unwrap()).collect();
        let listen: Vec<SocketAddr> = listen.iter().map(|at| at.parse().unwrap()).collect();
        Served::of(&config, &listen, &[])
    }

    fn kinds(served: &Served) -> Vec<(IpAddr, Vec<Port>)> {
        served.local.iter().map(|(ip, kinds)| (*ip, kinds.ports())).collect()
    }

    fn addresses(of: &[&str]) -> BTreeSet<IpAddr> {
        of.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_are_those_listened_on_and_relayed_from() {
        let text = "listen = [\"192.0.2.1:3478\"]\nrelay_addresses = [\"192.0.2.2\"]";
        let machine = ["127.0.0.1", "192.0.2.1", "192.0.2.2", "192.0.2.3"];
        let served = served(text, &machine, &["192.0.2.1:3478"]);
        let expected = [("192.0.2.1", vec![Port::Turn]), ("192.0.2.2", vec![Port::Session])];
        assert_eq!(kinds(&served), expected.map(|(ip, kinds)| (ip.parse().unwrap(), kinds)));
        assert_eq!(served.own, addresses(&machine));
    }

    #[test]
    fn the_dht_on_all_addresses_is_on_those_that_there_are_now() {
        let mut config = parse("[udp]\naddresses = []", "x").unwrap();
        let listen = ["0.0.0.0:4121".parse().unwrap()];
        for now in ["192.0.2.1", "192.0.2.9"] {
            config.udp.own_addresses = vec![now.parse().unwrap()];
            let served = Served::of(&config, &[], &listen);
            assert_eq!(kinds(&served), [(now.parse().unwrap(), vec![Port::Session])]);
            assert!(served.has_port(4121));
        }
    }

    #[test]
    fn all_addresses_are_those_of_the_family() {
        let text = "listen = [\"0.0.0.0:3478\"]\nrelay_addresses = [\"192.0.2.2\"]";
        let machine = ["127.0.0.1", "192.0.2.1", "192.0.2.2", "2001:db8::1"];
        let served = served(text, &machine, &["0.0.0.0:3478"]);
        let both = vec![Port::Turn, Port::Session];
        let expected = [("192.0.2.1", vec![Port::Turn]), ("192.0.2.2", both)];
        assert_eq!(kinds(&served), expected.map(|(ip, kinds)| (ip.parse().unwrap(), kinds)));
    }

    #[test]
    fn opaque_sessions_are_served_on_their_addresses_and_do_not_say_where_the_program_goes() {
        let text = "listen = [\"192.0.2.1:3478\"]\nrelay_addresses = [\"192.0.2.1\"]";
        let machine = ["127.0.0.1", "192.0.2.1", "192.0.2.3", "2001:db8::1"];
        let listen = ["192.0.2.1:3478"];
        let everywhere = with_sessions("[\"0.0.0.0\"]", text, &machine, &listen);
        let all = vec![Port::Turn, Port::Session, Port::Opaque];
        let expected = [("192.0.2.1", all), ("192.0.2.3", vec![Port::Opaque])];
        assert_eq!(kinds(&everywhere), expected.map(|(ip, kinds)| (ip.parse().unwrap(), kinds)));
        assert_eq!(everywhere.outward, addresses(&["192.0.2.1"]));
        let named = with_sessions("[\"192.0.2.3\"]", text, &machine, &listen);
        assert_eq!(named.outward, addresses(&["192.0.2.1", "192.0.2.3"]));
    }

    #[test]
    fn sessions_alone_have_the_program_wherever_they_are() {
        let mut config = parse("[udp]\naddresses = [\"0.0.0.0\", \"::\"]", "x").unwrap();
        config.udp.own_addresses =
            ["127.0.0.1", "192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).to_vec();
        let served = Served::of(&config, &[], &[]);
        assert_eq!(served.outward, addresses(&["192.0.2.1", "2001:db8::1"]));
        assert!(served.ports.is_empty() && !served.has_port(20_000));
    }

    #[test]
    fn addresses_that_do_not_fit_are_told_of() {
        let machine: Vec<String> =
            (0..1030).map(|at| format!("10.0.{}.{}", at / 250, at % 250)).collect();
        let machine: Vec<&str> = machine.iter().map(String::as_str).collect();
        let listen = ["0.0.0.0:3478"];
        let text = "listen = [\"0.0.0.0:3478\"]\nrelay_addresses = [\"10.0.0.1\"]";
        let served = served(text, &machine, &listen);
        assert_eq!((served.local.len(), served.own.len()), (1024, 1030));
        assert!(served.hint.unwrap().starts_with("6 of this machine's addresses"));
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
        let session = vec![Port::Session];
        let expected = [("192.0.2.1", session.clone()), ("2001:db8::1", session)];
        assert_eq!(kinds(&served), expected.map(|(ip, kinds)| (ip.parse().unwrap(), kinds)));
        assert_eq!(served.ports, [(4121..=4121, Port::Session), (4122..=4122, Port::Session)]);
        let text = "[turn]\nusers_file = \"/users\"\nlisten = [\"192.0.2.2:4121\"]";
        let config = parse(text, "x").unwrap();
        let served = Served::of(&config, &["192.0.2.2:4121".parse().unwrap()], &dht[..1]);
        assert_eq!(served.ports.first(), Some(&(4121..=4121, Port::Session)));
        assert_eq!(served.ports.last(), Some(&(4121..=4121, Port::Turn)), "the last one counts");
    }
}
