//! What a configuration file may say, and what is answered to one that is wrong.

use super::keys::{KEYS, Reload, SECTIONS};
use super::*;
use crate::limits::CONFIG_BYTES_MAX;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn error_of(text: &str) -> String {
    parse(text, "waystation.toml").unwrap_err().to_string()
}

#[test]
fn empty_file_is_the_default() {
    assert_eq!(parse("", "x"), Ok(Config::default()));
}

#[test]
fn documented_default_reads_back_as_the_default() {
    assert_eq!(parse(&documented_default(), "x"), Ok(Config::default()));
}

#[test]
fn documented_default_also_reads_back_with_every_other_value() {
    // Each line of the default is replaced by the same key with another value.
    for (path, other) in OTHER_VALUES {
        let (section, name) = path.split_once('.').unwrap();
        let text = format!("[{section}]\n{name} = {other}\n{}", companions(path));
        let config = parse(&text, "x").unwrap_or_else(|error| panic!("{error}"));
        let key = KEYS.iter().find(|key| key.path() == *path).unwrap();
        assert_eq!(key.value(&config).as_deref(), Some(*other), "{path} is printed as it was read");
        assert_ne!(key.value(&config), key.value(&Config::default()), "{path} has an effect");
    }
    let named: BTreeSet<_> = OTHER_VALUES.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(named, KEYS.iter().map(|key| key.path()).collect());
}

/// What a key needs besides to be allowed its other value.
fn companions(path: &str) -> &'static str {
    match path {
        "management.metrics_listen" => "metrics_anywhere = true\n",
        "gateway.idle_dead_after" => "idle_ping_interval = \"5s\"\n",
        "turn.listen" | "turn.listen_tcp" => "users_file = \"/etc/waystation/turn-users\"\n",
        "dht.enabled" => "listen = [\"0.0.0.0:4121\"]\n",
        "access.mode" => IDENTITIES_LINE,
        "access.identities" => "mode = \"denylist\"\n",
        _ => "",
    }
}

/// The generators of the curve times 1, 2 and 3.
const ONE: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
const TWO: &str = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5";
const THREE: &str = "02f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9";
const IDENTITIES_LINE: &str =
    "identities = [\"0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798\"]\n";

const OTHER_VALUES: &[(&str, &str)] = &[
    ("node.alias", "\"a \\\"b\\\" \\\\ ü\""),
    ("node.reflect_endpoints", "false"),
    ("listen.addresses", "[\"192.0.2.1:1\", \"[2001:db8::1]:2\"]"),
    ("engine.cores", "3"),
    ("engine.cpus", "[2, 3]"),
    ("engine.placement", "\"off\""),
    ("engine.port", "\"epoll\""),
    ("engine.aead", "\"ring\""),
    ("engine.calibrate", "false"),
    ("engine.receive_buffers", "64"),
    ("engine.receive_buffer_size", "\"32KiB\""),
    ("engine.block_memory", "\"4MiB\""),
    ("engine.queue_memory", "\"4MiB\""),
    ("engine.links_max", "7"),
    ("engine.half_open_max", "17"),
    ("engine.sockets_max", "18"),
    ("relay.session_window", "\"4MiB\""),
    ("relay.sessions_per_link_max", "9"),
    ("relay.sessions_max", "9"),
    ("relay.handshake_timeout", "\"1s\""),
    ("relay.query_timeout", "\"10m\""),
    ("relay.ping_interval", "\"1h\""),
    ("relay.ping_timeout", "\"1500ms\""),
    ("relay.send_stall_timeout", "\"61s\""),
    ("gateway.enabled", "false"),
    ("gateway.announce", "\"192.0.2.9:1791\""),
    ("gateway.registrations_max", "1"),
    ("gateway.idle_per_registration_max", "2"),
    ("gateway.reservation_timeout", "\"5s\""),
    ("gateway.idle_ping_interval", "\"59s\""),
    ("gateway.idle_dead_after", "\"31s\""),
    ("gateway.pipe_idle_timeout", "\"7d\""),
    ("access.mode", "\"allowlist\""),
    (
        "access.identities",
        "[\"0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798\"]",
    ),
    ("limits.links_per_identity_max", "1"),
    ("limits.links_per_identity_and_network_max", "2"),
    ("limits.sessions_per_identity_max", "3"),
    ("limits.registrations_per_identity_max", "0"),
    ("limits.rate", "\"16KiB\""),
    ("limits.burst", "\"64KiB\""),
    ("limits.tcp_links_max", "7"),
    ("limits.tor_links_max", "0"),
    ("limits.gw_links_max", "9"),
    ("limits.link_idle_timeout", "\"10m\""),
    ("limits.accounts_kept_max", "256"),
    ("dial.tor_proxy", "\"127.0.0.1:9050\""),
    ("dial.dials_max", "1"),
    ("dial.connect_timeout", "\"5s\""),
    ("dial.backoff_min", "\"100ms\""),
    ("dial.backoff_max", "\"1h\""),
    ("turn.listen", "[\"192.0.2.1:3478\", \"[2001:db8::1]:3478\"]"),
    ("turn.listen_tcp", "[\"192.0.2.1:3478\", \"[2001:db8::1]:3478\"]"),
    ("turn.streams_max", "5"),
    ("turn.streams_per_address_max", "6"),
    ("turn.realm", "\"example.org\""),
    ("turn.users_file", "\"/etc/waystation/turn-users\""),
    ("turn.secrets_file", "\"/etc/waystation/turn-secrets\""),
    ("turn.relay_addresses", "[\"192.0.2.1\", \"2001:db8::1\"]"),
    ("turn.external_addresses", "[\"192.0.2.1\"]"),
    ("turn.port_min", "50000"),
    ("turn.port_max", "60000"),
    ("turn.allocations_max", "100"),
    ("turn.allocations_per_user_max", "2"),
    ("turn.permissions_max", "3"),
    ("turn.channels_max", "4"),
    ("turn.lifetime", "\"2m\""),
    ("turn.lifetime_max", "\"2h\""),
    ("turn.allow_peers", "[\"10.0.0.0/8\", \"fd00::/8\"]"),
    ("turn.deny_peers", "[\"192.0.2.0/24\"]"),
    ("turn.tier", "\"plain\""),
    ("udp.addresses", "[\"192.0.2.1\"]"),
    ("udp.port_min", "21000"),
    ("udp.port_max", "22000"),
    ("udp.sessions_max", "10"),
    ("udp.idle", "\"1h\""),
    ("udp.allow_peers", "[\"10.0.0.0/8\"]"),
    ("udp.deny_peers", "[\"9.9.9.0/24\"]"),
    ("udp.tier", "\"plain\""),
    ("privileges.user", "\"waystation\""),
    ("privileges.group", "\"relays\""),
    ("privileges.drop_capabilities", "false"),
    ("privileges.restrict_files", "false"),
    ("privileges.core_dumps", "true"),
    ("xdp.mode", "\"native\""),
    ("xdp.interfaces", "[\"eth0\", \"wan.7\"]"),
    ("xdp.pin_directory", "\"/sys/fs/bpf/waystation\""),
    ("xdp.deny", "[\"203.0.113.0/24\", \"2001:db8::/32\"]"),
    ("xdp.stranger_rate", "0"),
    ("xdp.newcomer_rate", "0"),
    ("xdp.steer", "true"),
    ("xdp.capture_memory", "\"1MiB\""),
    ("hub.enabled", "false"),
    ("hub.listen", "[\"192.0.2.1:4121\"]"),
    ("hub.connections_max", "9"),
    ("hub.connections_per_source_max", "8"),
    ("hub.registrations_max", "7"),
    ("hub.registrations_per_connection_max", "6"),
    ("hub.registrations_per_source_max", "5"),
    ("hub.rooms_max", "4"),
    ("hub.waiting_per_source_max", "3"),
    ("management.cpu", "1"),
    ("management.socket", "\"/run/waystation/other.sock\""),
    ("dht.enabled", "true"),
    ("dht.listen", "[\"0.0.0.0:4121\", \"[::]:4121\"]"),
    ("dht.bootstrap", "[\"192.0.2.1:4121\"]"),
    ("dht.advertise", "[\"192.0.2.2:4121\"]"),
    ("dht.key_file", "\"/etc/waystation/dht_key\""),
    ("dht.snapshot_file", "\"/srv/dht_snapshot\""),
    ("dht.snapshot_interval", "\"1m\""),
    ("dht.publish_services", "false"),
    ("dht.topics", "[\"relay\", \"ü\"]"),
    ("dht.diverse", "false"),
    ("dht.allow_private", "true"),
    ("dht.keys_max", "5000000"),
    ("dht.record_memory", "\"1GiB\""),
    ("dht.beacon", "true"),
    ("dht.mail_pool", "true"),
    ("dht.stranger_rate", "500"),
    ("management.metrics_listen", "\"192.0.2.1:9790\""),
    ("management.metrics_anywhere", "true"),
    ("management.log", "\"warn,waystation_engine::turn=trace\""),
    ("management.log_format", "\"json\""),
];

#[test]
fn a_dht_that_cannot_be_is_named() {
    for (text, words) in [
        ("[dht]\nenabled = true", "dht.listen: is empty; name an address"),
        ("[dht]\nadvertise = [\"0.0.0.0:4121\"]", "nobody can dial 0.0.0.0:4121"),
        ("[dht]\nbootstrap = [\"192.0.2.1:0\"]", "nobody can be asked at 192.0.2.1:0"),
        ("[dht]\ntopics = [\"a\", \"a\"]", "\"a\" is there twice"),
        ("[dht]\ntopics = [\"\"]", "not between 1 and 64"),
        (
            "[turn]\nlisten = [\"192.0.2.1:3478\"]\nusers_file = \"/u\"\n[dht]\nenabled = true\n\
             listen = [\"192.0.2.1:3478\"]",
            "is in turn.listen already",
        ),
    ] {
        let error = error_of(text);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_beacon_has_a_large_store_unless_it_is_told_otherwise() {
    let store = |lines: &str| {
        let config = parse(&format!("[dht]\n{lines}"), "x").unwrap();
        (config.dht.store_keys_max(), config.dht.store_memory().to_string())
    };
    assert_eq!(store(""), (100_000, "100000KiB".to_owned()));
    assert_eq!(store("beacon = true"), (5_000_000, "5GiB".to_owned()));
    let small = "beacon = true\nkeys_max = 50000\nrecord_memory = \"64MiB\"";
    assert_eq!(store(small), (50_000, "64MiB".to_owned()));
}

#[test]
fn every_field_is_a_key_and_every_key_is_a_field() {
    let mut config = Config::default();
    config.management.cpu = Some(1);
    let mut value = serde_json::to_value(&config).unwrap();
    assert_eq!(value.as_object_mut().unwrap().remove("peer"), Some(serde_json::json!([])));
    let udp = value["udp"].as_object_mut().unwrap();
    assert_eq!(udp.remove("session"), Some(serde_json::json!([])));
    let session = UdpSessionConfig { packets_per_s: Some(1), ..UdpSessionConfig::default() };
    let session = serde_json::to_value(session).unwrap();
    let session: BTreeSet<_> = session.as_object().unwrap().keys().cloned().collect();
    let keys: BTreeSet<_> = UDP_SESSION_KEYS.iter().map(|key| key.name.to_owned()).collect();
    assert_eq!(session, keys);
    let mut fields = BTreeSet::new();
    for (section, keys) in value.as_object().unwrap() {
        for name in keys.as_object().unwrap().keys() {
            fields.insert(format!("{section}.{name}"));
        }
    }
    let keys: Vec<_> = KEYS.iter().map(|key| key.path()).collect();
    assert_eq!(keys.len(), keys.iter().collect::<BTreeSet<_>>().len(), "each key once");
    assert_eq!(fields, keys.into_iter().collect());
    let sections: BTreeSet<_> = SECTIONS.iter().map(|section| section.name).collect();
    assert_eq!(sections, KEYS.iter().map(|key| key.section).collect());
}

#[test]
fn every_key_is_documented_with_meaning_unit_range_and_reload() {
    let text = documented_default();
    let stands = |name: &str| {
        let (line, commented) = (format!("\n{name} ="), format!("\n# {name} ="));
        text.contains(&line) || text.contains(&commented)
    };
    for key in KEYS {
        assert!(stands(key.name), "{}", key.path());
        assert!(key.meaning.ends_with('.'), "{}", key.path());
        assert!(!key.unit.is_empty() && !key.range().is_empty(), "{}", key.path());
    }
    for key in PEER_KEYS {
        assert!(stands(key.name), "{}", key.path());
        assert!(key.meaning.ends_with('.') && !key.unit.is_empty(), "{}", key.path());
        assert_eq!(key.reload, Reload::Live, "{}", key.path());
    }
    for key in UDP_SESSION_KEYS {
        assert!(stands(key.name), "{}", key.path());
        assert!(key.meaning.ends_with('.') && !key.unit.is_empty(), "{}", key.path());
        assert_eq!(key.reload, Reload::Live, "{}", key.path());
    }
    let tables = PEER_KEYS.len() + UDP_SESSION_KEYS.len();
    let keys = KEYS.len() + tables;
    assert_eq!(text.matches("# Unit: ").count(), keys);
    assert_eq!(text.matches("Range: ").count(), keys);
    let live = KEYS.iter().filter(|key| key.reload == Reload::Live).count() + tables;
    assert_eq!(text.matches("# Reloads: yes, on SIGHUP.").count(), live);
    assert_eq!(text.matches("# Reloads: no, needs a restart.").count(), keys - live);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn configuration_serializes_into_a_file_that_reads_back() {
    let mut config = Config::default();
    config.engine.port = PortChoice::IoUring;
    config.engine.placement = PlacementChoice::Off;
    config.engine.aead = Some(AeadBackend::Ring);
    config.gateway.announce = Some("192.0.2.1:5".parse().unwrap());
    config.limits.link_idle_timeout = Some(Duration::from_secs(77));
    config.peers = vec![whole_peer(), PeerConfig::new(TWO.parse().unwrap())];
    let text = toml::to_string(&config).unwrap();
    assert_eq!(parse(&text, "x"), Ok(config));
}

fn whole_peer() -> PeerConfig {
    let endpoint = format!("gw:{TWO}:{ONE}");
    PeerConfig {
        endpoints: vec!["tcp:192.0.2.1:1791".parse().unwrap(), endpoint.parse().unwrap()],
        forwards: true,
        trusted: true,
        full_view: true,
        links_max: Some(3),
        sessions_max: Some(4),
        registrations_max: Some(0),
        rate: Some(Rate::Unbounded),
        burst: Some(ByteSize::from_kib(64)),
        ..PeerConfig::new(ONE.parse().unwrap())
    }
}

#[test]
fn every_field_of_a_peer_is_a_key_and_every_key_is_a_field() {
    let value = serde_json::to_value(whole_peer()).unwrap();
    let fields: BTreeSet<_> = value.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, PEER_KEYS.iter().map(|key| key.name.to_owned()).collect());
}

#[test]
fn peer_reads_from_node_info_and_says_what_it_may() {
    let info = waystation_astral::node_info::NodeInfo {
        alias: "x".to_owned(),
        identity: THREE.parse().unwrap(),
        endpoints: vec!["tcp:192.0.2.7:1".parse().unwrap()],
    };
    let text = format!("[[peer]]\nidentity = \"{info}\"\nforwards = true\nrate = \"2MiB\"\n");
    let config = parse(&text, "x").unwrap();
    let rate = Some(Rate::PerSecond(ByteSize::from_mib(2)));
    let wanted = PeerConfig { forwards: true, rate, ..PeerConfig::new(info.identity) };
    assert_eq!(config.peers, std::slice::from_ref(&wanted));
    assert_eq!(config.peer(&info.identity), Some(&wanted));
    assert_eq!(config.peer(&ONE.parse().unwrap()), None);
}

#[test]
fn access_is_what_mode_and_identities_say() {
    let listed: Identity = ONE.parse().unwrap();
    let other: Identity = TWO.parse().unwrap();
    for (mode, admitted) in [("allowlist", [true, false]), ("denylist", [false, true])] {
        let text = format!("[access]\nmode = \"{mode}\"\n{IDENTITIES_LINE}");
        let access = parse(&text, "x").unwrap().access();
        assert_eq!([access.admits(&listed), access.admits(&other)], admitted, "{mode}");
    }
    assert_eq!(Config::default().access(), Access::Everyone);
}

#[test]
fn what_makes_a_node_its_own_peer_is_refused_where_its_identity_is_known() {
    let own: Identity = ONE.parse().unwrap();
    let text = format!("[[peer]]\nidentity = \"{ONE}\"\n");
    assert!(parse(&text, "f").is_ok());
    assert_eq!(
        parse_as(&text, "f", own).unwrap_err().to_string(),
        "f:2: peer.identity: is this node itself; take this [[peer]] out"
    );
    let through = format!("[[peer]]\nidentity = \"{TWO}\"\nendpoints = [\"gw:{ONE}:{TWO}\"]");
    assert!(parse(&through, "f").is_ok());
    let message = parse_as(&through, "f", own).unwrap_err().to_string();
    assert!(message.starts_with("f:3: peer.endpoints: the endpoint gw:"), "{message}");
    assert!(message.ends_with("goes through this node itself; name another gateway"), "{message}");
}

#[test]
fn broken_peers_and_access_name_file_line_key_and_remedy() {
    let identity = format!("identity = \"{ONE}\"");
    for (text, message) in broken_peers(&identity) {
        let said = error_of(&text);
        assert_eq!(said, message, "for:\n{text}");
    }
}

fn broken_peers(identity: &str) -> Vec<(String, String)> {
    let onion = format!("tor:{}.onion:80", "b".repeat(56));
    vec![
        (
            "[access]\nmode = \"allowlist\"".to_owned(),
            "waystation.toml:2: access.identities: is empty, so access.mode \"allowlist\" admits \
             nobody; name identities, or change the mode"
                .to_owned(),
        ),
        (
            format!("[access]\n{IDENTITIES_LINE}"),
            "waystation.toml:2: access.identities: is not used with access.mode \"everyone\"; set \
             the mode to \"allowlist\" or \"denylist\", or empty the list"
                .to_owned(),
        ),
        (
            format!("[access]\nmode = \"denylist\"\n{IDENTITIES_LINE}[[peer]]\n{identity}"),
            format!(
                "waystation.toml:5: peer.identity: {ONE} is a [[peer]], but access keeps it out; \
                 change access.identities or the peer"
            ),
        ),
        (
            "[[peer]]\nforwards = true".to_owned(),
            "waystation.toml:1: peer.identity: is missing; every [[peer]] has one".to_owned(),
        ),
        (
            format!("[peer]\n{identity}"),
            "waystation.toml:1: peer: write each peer under a line [[peer]] of its own".to_owned(),
        ),
        (
            format!("[[peer]]\n{identity}\n[[peer]]\n{identity}"),
            format!(
                "waystation.toml:4: peer.identity: {ONE} has a [[peer]] on line 2 already; put \
                 both into one"
            ),
        ),
        (
            format!("[[peer]]\n{identity}\nforward = true"),
            "waystation.toml:3: peer.forward: unknown key; did you mean peer.forwards?; \
             `waystation config default` prints all keys"
                .to_owned(),
        ),
        (
            format!("[[peer]]\n{identity}\nendpoints = [\"kcp:192.0.2.1:7\"]"),
            "waystation.toml:3: peer.endpoints: nothing is dialed over kcp here; use a tcp, tor or \
             gw endpoint"
                .to_owned(),
        ),
        (
            format!("[[peer]]\n{identity}\nendpoints = [\"utp:192.0.2.1:7\"]"),
            "waystation.toml:3: peer.endpoints: nothing is dialed over utp here; use a tcp, tor or \
             gw endpoint"
                .to_owned(),
        ),
        (
            format!("[[peer]]\n{identity}\nendpoints = [\"tcp:0.0.0.0:7\"]"),
            "waystation.toml:3: peer.endpoints: \"tcp:0.0.0.0:7\" is no endpoint (nobody can dial \
             that); use tcp:ADDRESS:PORT, tor:NAME.onion:PORT or gw:GATEWAY:TARGET"
                .to_owned(),
        ),
        (
            format!("[[peer]]\n{identity}\nendpoints = [\"{onion}\"]"),
            "waystation.toml:3: peer.endpoints: names a tor endpoint, but dial.tor_proxy is empty; \
             set it, or take the endpoint out"
                .to_owned(),
        ),
        (
            format!("[[peer]]\n{identity}\nendpoints = [\"gw:{TWO}:{THREE}\"]"),
            format!(
                "waystation.toml:3: peer.endpoints: the endpoint gw:{TWO}:{THREE} leads to another \
                 node; its target has to be peer.identity"
            ),
        ),
        (
            format!("[[peer]]\n{identity}\nendpoints = [\"tcp:192.0.2.1:7\", \"inet:192.0.2.1:7\"]"),
            "waystation.toml:3: peer.endpoints: \"tcp:192.0.2.1:7\" is there twice; name each once"
                .to_owned(),
        ),
        (
            format!("[[peer]]\n{identity}\nrate = 5"),
            "waystation.toml:3: peer.rate: 5 has no unit; write it as text with one, for example \
             \"64KiB\""
                .to_owned(),
        ),
    ]
}

#[test]
fn identity_that_is_none_says_so() {
    for text in ["", "xyz", "anyone", "node1!", &"0".repeat(66), &"f".repeat(66)] {
        let message = error_of(&format!("[[peer]]\nidentity = \"{text}\""));
        assert!(message.starts_with("waystation.toml:2: peer.identity: \""), "{message}");
        assert!(message.ends_with("use 66 hex digits or a node1… text"), "{message}");
    }
}

#[test]
fn peers_beyond_the_limit_are_refused() {
    let peer = format!("[[peer]]\nidentity = \"{ONE}\"\n");
    let message = error_of(&peer.repeat(crate::limits::PEERS_MAX + 1));
    assert_eq!(message, "waystation.toml:1: peer: there are 1025 peers, more than 1024");
}

#[test]
fn default_admits_the_half_open_connections_it_promises() {
    assert!(Config::default().engine.half_open_max >= 1100);
}

#[test]
fn broken_values_name_file_line_key_and_remedy() {
    for (text, message) in BROKEN {
        assert_eq!(&error_of(text), message, "for:\n{text}");
    }
}

const BROKEN: &[(&str, &str)] = &[
    (
        "# one\n\n[engine]\ncores = 1\n\nreceive_buffers = 33",
        "waystation.toml:6: engine.receive_buffers: 33 is not a power of two between 4 and 1024",
    ),
    (
        "[engine]\nreceive_buffers = 2048",
        "waystation.toml:2: engine.receive_buffers: 2048 is not a power of two between 4 and 1024",
    ),
    (
        "[engine]\ncores = \"two\"",
        "waystation.toml:2: engine.cores: the text \"two\" is not a whole number",
    ),
    (
        "[engine]\ncores = 1.5",
        "waystation.toml:2: engine.cores: the number 1.5 is not a whole number",
    ),
    ("[engine]\ncores = -1", "waystation.toml:2: engine.cores: -1 is not between 0 and 1024"),
    (
        "[engine]\nlinks_max = 99999999999999999999999",
        "waystation.toml:2: engine.links_max: 99999999999999999999999 is not between 1 and 1000000",
    ),
    (
        "[engine]\nlinks_max = 0",
        "waystation.toml:2: engine.links_max: 0 is not between 1 and 1000000",
    ),
    (
        "[engine]\ncpus = 3",
        "waystation.toml:2: engine.cpus: the number 3 is not a list of whole numbers, for example \
         [2, 3]",
    ),
    (
        "[engine]\ncpus = [1, 2, 1]",
        "waystation.toml:2: engine.cpus: 1 is there twice; name each once",
    ),
    ("[engine]\ncpus = [4096]", "waystation.toml:2: engine.cpus: 4096 is not between 0 and 1023"),
    (
        "[engine]\nport = \"iouring\"",
        "waystation.toml:2: engine.port: \"iouring\" is none of \"auto\", \"io_uring\", \"epoll\"; \
         did you mean \"io_uring\"?",
    ),
    (
        "[engine]\naead = \"boring\"",
        "waystation.toml:2: engine.aead: \"boring\" is none of \"auto\", \"ring\", \"openssl\", \
         \"rustcrypto\"; did you mean \"ring\"?",
    ),
    ("[engine]\nport = 7", "waystation.toml:2: engine.port: the number 7 is not a text in quotes"),
    (
        "[engine]\nreceive_buffer_size = 65536",
        "waystation.toml:2: engine.receive_buffer_size: 65536 has no unit; write it as text with \
         one, for example \"64KiB\"",
    ),
    (
        "[engine]\nreceive_buffer_size = \"65536\"",
        "waystation.toml:2: engine.receive_buffer_size: \"65536\" has no unit; use one of B, KiB, \
         MiB, GiB or TiB",
    ),
    (
        "[engine]\nreceive_buffer_size = \"64KB\"",
        "waystation.toml:2: engine.receive_buffer_size: \"64KB\" has an unknown unit; use a whole \
         number and one of B, KiB, MiB, GiB or TiB",
    ),
    (
        "[engine]\nblock_memory = \"5GiB\"",
        "waystation.toml:2: engine.block_memory: \"5GiB\" is not between \"4MiB\" and \"4GiB\"",
    ),
    (
        "[relay]\nping_interval = 20",
        "waystation.toml:2: relay.ping_interval: 20 has no unit; write it as text with one, for \
         example \"30s\"",
    ),
    (
        "[relay]\nping_interval = \"soon\"",
        "waystation.toml:2: relay.ping_interval: \"soon\" is not a whole number with a unit; use \
         one of ns, us, ms, s, m, h or d",
    ),
    (
        "[relay]\nhandshake_timeout = \"500ms\"",
        "waystation.toml:2: relay.handshake_timeout: \"500ms\" is not between \"1s\" and \"2m\"",
    ),
    (
        "[relay]\nhandshake_timeout = true",
        "waystation.toml:2: relay.handshake_timeout: true is not a duration such as \"30s\"",
    ),
    (
        "[engine]\nrecieve_buffers = 32",
        "waystation.toml:2: engine.recieve_buffers: unknown key; did you mean \
         engine.receive_buffers?; `waystation config default` prints all keys",
    ),
    (
        "[engine]\nping_interval = \"20s\"",
        "waystation.toml:2: engine.ping_interval: unknown key; did you mean relay.ping_interval?; \
         `waystation config default` prints all keys",
    ),
    (
        "\n\ncores = 2",
        "waystation.toml:3: cores: unknown key; did you mean engine.cores?; `waystation config \
         default` prints all keys",
    ),
    (
        "[node]\nfavourite_colour = \"blue\"",
        "waystation.toml:2: node.favourite_colour: unknown key; `waystation config default` prints \
         all keys",
    ),
    (
        "[engin]\ncores = 2",
        "waystation.toml:1: engin: unknown section; did you mean [engine]?; the sections are \
         [node], [listen], [engine], [relay], [gateway], [access], [limits], [dial], \
         [turn], [udp], [dht], [xdp], [privileges], [hub], [management], [[peer]]",
    ),
    (
        "engine = 3",
        "waystation.toml:1: engine: is a section; write [engine] and its keys on lines of \
         their own",
    ),
    ("[node]\nalias = \"\"", "waystation.toml:2: node.alias: has 0 bytes, not between 1 and 255"),
    (
        "[node]\nalias = \"a\\u0007\"",
        "waystation.toml:2: node.alias: contains a control character; use printable text",
    ),
    (
        "[listen]\naddresses = []",
        "waystation.toml:2: listen.addresses: is an empty list; name at least one",
    ),
    (
        "[listen]\naddresses = [\"localhost\"]",
        "waystation.toml:2: listen.addresses: \"localhost\" is not ADDRESS:PORT, for example \
         \"192.0.2.1:1791\" or \"[::]:1791\"",
    ),
    (
        "[listen]\naddresses = [\n  \"[::]:1\",\n  \"[::]:1\",\n]",
        "waystation.toml:2: listen.addresses: \"[::]:1\" is there twice; name each once",
    ),
    (
        "[gateway]\nannounce = \"0.0.0.0:1791\"",
        "waystation.toml:2: gateway.announce: nobody can dial 0.0.0.0:1791; name the address and \
         the port that nodes reach this box at",
    ),
    (
        "[gateway]\nenabled = \"yes\"",
        "waystation.toml:2: gateway.enabled: the text \"yes\" is not true or false",
    ),
    (
        "[gateway]\nidle_ping_interval = \"2m\"",
        "waystation.toml:2: gateway.idle_dead_after: 1m is not longer than \
         gateway.idle_ping_interval (2m)",
    ),
    (
        "[limits]\nrate = \"fast\"",
        "waystation.toml:2: limits.rate: \"fast\" is not a whole number with a unit; use one of \
         B, KiB, MiB, GiB or TiB",
    ),
    (
        "[limits]\nlink_idle_timeout = \"1s\"",
        "waystation.toml:2: limits.link_idle_timeout: \"1s\" is not between \"10s\" and \"30d\"",
    ),
    (
        "[limits]\nregistrations_per_identity_max = 2",
        "waystation.toml:2: limits.registrations_per_identity_max: 2 is not between 0 and 1",
    ),
    (
        "[access]\nmode = \"denylists\"",
        "waystation.toml:2: access.mode: \"denylists\" is none of \"everyone\", \"allowlist\", \
         \"denylist\"; did you mean \"denylist\"?",
    ),
    (
        "[dial]\ntor_proxy = \"0.0.0.0:9050\"",
        "waystation.toml:2: dial.tor_proxy: nobody can dial 0.0.0.0:9050; name the address and the \
         port of the proxy",
    ),
    (
        "[dial]\nbackoff_min = \"20m\"",
        "waystation.toml:2: dial.backoff_min: 20m is longer than dial.backoff_max (15s)",
    ),
    (
        "[management]\nsocket = \"waystation.sock\"",
        "waystation.toml:2: management.socket: \"waystation.sock\" is not an absolute path; start \
         it with /",
    ),
    (
        "[management]\nmetrics_listen = \"192.0.2.1:9100\"",
        "waystation.toml:2: management.metrics_listen: 192.0.2.1:9100 is not a loopback address; \
         use 127.0.0.1 or [::1], or set management.metrics_anywhere = true to show metrics to \
         whoever can connect",
    ),
    (
        "[management]\nlog = \"loud\"",
        "waystation.toml:2: management.log: \"loud\" is neither a level (off, error, warn, info, \
         debug, trace) nor target=level",
    ),
    (
        "[management]\ncpu = 2\n[engine]\ncpus = [2, 3]",
        "waystation.toml:2: management.cpu: CPU 2 is in engine.cpus already; give the management \
         core one of its own",
    ),
    (
        "[engine]\ncores = 3\ncpus = [2, 3]",
        "waystation.toml:2: engine.cores: is 3, but engine.cpus lists 2; leave engine.cores at 0",
    ),
    (
        "[relay]\nsession_window = \"4MiB\"\n[engine]\nqueue_memory = \"1MiB\"",
        "waystation.toml:2: relay.session_window: 4MiB is more than engine.queue_memory (1MiB), \
         which all sessions share",
    ),
];

#[test]
fn text_that_is_not_toml_names_its_line() {
    for (text, line) in [
        ("[engine]\ncores = \n", 2),
        ("[engine\n", 1),
        ("[engine]\ncores = 1\ncores = 2", 3),
        ("[node]\nalias = \"open", 2),
    ] {
        let message = error_of(text);
        assert!(
            message.starts_with(&format!("waystation.toml:{line}: not valid TOML: ")),
            "{message}"
        );
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn all_problems_of_a_file_are_reported_in_the_order_of_lines() {
    let error = parse("[relay]\nping_timeout = 1\n[engine]\ncores = -1\nx = 1", "f").unwrap_err();
    let lines: Vec<_> = error.problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [2, 4, 5]);
    assert_eq!(error.to_string().lines().count(), 3);
}

#[test]
fn problems_are_cut_at_their_limit() {
    let mut text = String::from("[node]\n");
    for number in 0..100 {
        text.push_str(&format!("key_{number} = 1\n"));
    }
    let error = parse(&text, "f").unwrap_err();
    assert_eq!(error.problems.len(), crate::limits::CONFIG_PROBLEMS_MAX);
    assert_eq!(error.problems[0].line, 2);
}

#[test]
fn file_beyond_the_limit_is_refused_unread() {
    let text = "#".repeat(CONFIG_BYTES_MAX + 1);
    assert!(error_of(&text).starts_with("waystation.toml:1: the file has 1048577 bytes"));
}

#[test]
fn metrics_on_loopback_are_allowed() {
    for address in ["127.0.0.1:9790", "[::1]:9790", "[::ffff:127.0.0.1]:9790"] {
        let text = format!("[management]\nmetrics_listen = \"{address}\"");
        assert!(parse(&text, "x").is_ok(), "{address}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text: String) {
        let _ = parse(&text, "x");
    }

    #[test]
    fn no_value_makes_a_rule_panic(
        key in 0..KEYS.len(),
        value in "[-0-9a-zA-Z\"\\[\\]., :{}=]{0,24}",
    ) {
        let key = &KEYS[key];
        let _ = parse(&format!("[{}]\n{} = {value}", key.section, key.name), "x");
    }
}

#[test]
fn cipher_that_is_not_built_in_is_refused_with_a_remedy() {
    for backend in AeadBackend::ALL {
        let text = format!("[engine]\naead = \"{backend}\"");
        if backend.is_built_in() {
            assert_eq!(parse(&text, "x").unwrap().engine.aead, Some(backend));
        } else {
            let expected = format!(
                "waystation.toml:2: engine.aead: \"{backend}\" is not built into this program; build it \
                 with --features aead-{backend}, or use \"auto\""
            );
            assert_eq!(error_of(&text), expected);
        }
    }
}
