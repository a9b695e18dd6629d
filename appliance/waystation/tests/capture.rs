//! What becomes of packets, asked beforehand and seen afterwards: `explain-packet` and `capture`
//! against the XDP program in its place.

#![allow(
    clippy::unwrap_used,
    reason = "a test that fails says where; nothing of it runs anywhere else"
)]

mod support;

use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::process::{Finished, Process, binary, command, exists, is_root, run};
use support::streets::{CLIENT, LAN, PEER, Streets, WAN};
use support::turn::users_file;
use support::{STEP, eventually, given};
use tempfile::TempDir;
use waystation_peer::TurnClient;
use waystation_proving::frame::{channel, udp};

const CHANNEL: u16 = 0x4000;
const LOOK: Duration = Duration::from_millis(200);

fn settings(xdp: &[&str]) -> (Settings, TempDir) {
    let files = TempDir::new().unwrap();
    let users_file = users_file(files.path(), &[("alice", "pw")]);
    let mut settings = Settings::new(PortName::Epoll, 1)
        .with("turn", &format!("listen = [\"{WAN}:3478\"]"))
        .with("turn", &format!("relay_addresses = [\"{LAN}\"]"))
        .with("turn", "allow_peers = [\"203.0.113.0/24\"]")
        .with("turn", &users_file);
    for line in xdp {
        settings = settings.with("xdp", line);
    }
    (settings, files)
}

fn tell(appliance: &Appliance, words: &[&str]) -> Finished {
    run(command(&binary()).args(words).arg("--socket").arg(&appliance.socket))
}

/// A frame with a datagram, as digits; the Ethernet addresses are nobody's.
fn frame(source: SocketAddr, to: SocketAddr, payload: &[u8]) -> String {
    hex::encode(udp(&source.to_string(), &to.to_string(), payload).frame())
}

fn explained(appliance: &Appliance, frame: &str) -> Value {
    let done = tell(appliance, &["explain-packet", "--json", frame]);
    assert_eq!(done.code(), 0, "{}", done.stderr);
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn the_fate_of_a_packet_is_told_with_the_sessions_of_the_running_program() {
    if !given(is_root(), "root") {
        return;
    }
    let streets = Streets::new();
    let (settings, _files) = settings(&["mode = \"native\"", "deny = [\"192.0.2.0/24\"]"]);
    let appliance = Appliance::start(&settings);
    let server: SocketAddr = format!("{WAN}:3478").parse().unwrap();
    let mut client = streets.at_client(|| TurnClient::over_udp(server, ("alice", "pw"))).unwrap();
    let relayed = client.allocate().unwrap();
    let peer = streets.peer();
    peer.set_read_timeout(Some(LOOK)).unwrap();
    client.bind(CHANNEL, peer.local_addr().unwrap()).unwrap();
    eventually("the program relays, and knows the next hop", || {
        client.send(CHANNEL, b"hello").unwrap();
        peer.recv_from(&mut [0; 64]).ok()?;
        let row = appliance.document("/v1/udp")["udp"][0].clone();
        (row["datagrams_offloaded"].as_u64()? > 2).then_some(())
    });

    let port = client.local().unwrap().port();
    let from: SocketAddr = format!("{CLIENT}:{port}").parse().unwrap();
    let of_session = explained(&appliance, &frame(from, server, &channel(CHANNEL, b"hello")));
    assert_eq!(of_session["verdict"], "relayed_on", "{of_session}");
    assert_eq!(of_session["program"], "on");
    assert_eq!(of_session["session"]["leaves_from"], relayed.to_string());
    assert_eq!(of_session["session"]["goes_to"], peer.local_addr().unwrap().to_string());
    assert!(of_session["session"]["packets"].as_u64().unwrap() > 2, "{of_session}");
    assert!(of_session["frame_after"].as_str().unwrap().contains("68656c6c6f"), "{of_session}");

    let back = format!("{PEER}:{}", peer.local_addr().unwrap().port()).parse().unwrap();
    let of_peer = explained(&appliance, &frame(back, relayed, b"hello"));
    // Nothing has come from there, so which way it leaves is not known yet.
    assert_eq!(of_peer["action"], "relay", "{of_peer}");
    assert!(of_peer["notes"][0].as_str().unwrap().contains("next hop"), "{of_peer}");
    assert_eq!(of_peer["session"]["leaves_with_channel"], CHANNEL);

    let own = explained(&appliance, &frame(from, server, b"\0 no channel"));
    assert_eq!((&own["verdict"], &own["action"]), (&"steered".into(), &"steer".into()), "{own}");
    let denied = explained(&appliance, &frame("192.0.2.1:9".parse().unwrap(), server, b"x"));
    assert_eq!(denied["drop_reason"], "udp_prefix_denied", "{denied}");
    let said =
        tell(&appliance, &["explain-packet", &frame(from, server, &channel(CHANNEL, b"hello"))]);
    assert!(said.text().contains("rewritten and sent out of another interface"), "{}", said.text());
    let nowhere = tell(&appliance, &["explain-packet", "00", "--interface", "nowhere0"]);
    assert_eq!(nowhere.code(), 1);
    assert!(nowhere.complaint().contains("no network interface nowhere0"), "{}", nowhere.stderr);
    // Nothing of it was counted.
    assert_eq!(appliance.drops()["udp_prefix_denied"], 0);
}

#[test]
fn packets_beyond_the_limit_are_told_of_and_not_among_the_answers() {
    let files = TempDir::new().unwrap();
    let config = files.path().join("waystation.toml");
    fs::write(&config, "").unwrap();
    let explain = |limit: &str| {
        let mut words = command(&binary());
        words.args(["explain-packet", "--json", "--limit", limit, "--config"]).arg(&config);
        run(words.args(["00", "01", "02"]))
    };
    let some = explain("2");
    assert_eq!((some.code(), some.text().lines().count()), (0, 2), "{}", some.stderr);
    assert!(some.stderr.contains("2 of 3 packets were explained; --limit 3"), "{}", some.stderr);
    let all = explain("3");
    assert_eq!((all.code(), all.text().lines().count()), (0, 3), "{}", all.stderr);
    assert!(!all.stderr.contains("were explained"), "{}", all.stderr);
    let none = explain("0");
    assert_ne!(none.code(), 0);
}

/// What another program reads in a capture: a line for each packet, with all bytes.
fn tcpdump(file: &Path) -> String {
    let read = Command::new("tcpdump").args(["-nn", "-e", "-r"]).arg(file).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    String::from_utf8(read.stdout).unwrap()
}

#[test]
fn what_the_program_drops_and_relays_is_captured_with_its_verdict() {
    if !given(is_root(), "root") || !given(exists("tcpdump"), "tcpdump") {
        return;
    }
    let streets = Streets::new();
    let lines = ["mode = \"native\"", "capture_memory = \"1MiB\"", "deny = [\"198.51.100.0/24\"]"];
    let (settings, files) = settings(&lines);
    let mut appliance = Appliance::start(&settings);
    let socket = streets.at_client(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    let file = files.path().join("drops.pcapng");
    let mut words = command(&binary());
    words.args(["capture", "--verdicts", "drops", "--packets", "3", "--time", "5m"]);
    words.arg(&file).arg("--socket").arg(&appliance.socket);
    let mut capturing = Process::spawn(&mut words, &files.path().join("log"));
    eventually("three dropped packets are captured", || {
        socket.send_to(b"let me in", (WAN, 3478)).unwrap();
        capturing.ended()
    });
    assert!(capturing.wait(STEP).success(), "{}", capturing.log());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    let read = tcpdump(&file);
    assert_eq!(read.lines().count(), 3, "{read}");
    for line in read.lines() {
        assert!(
            line.contains(&format!("{CLIENT}.")) && line.contains(&format!("> {WAN}.3478")),
            "{line}"
        );
    }
    let bytes = fs::read(&file).unwrap();
    for words in [&b"drop_denied: from a block"[..], b"udp_prefix_denied", b"wan", b"let me in"] {
        assert!(bytes.windows(words.len()).any(|window| window == words), "{words:?}");
    }
    let again = tell(&appliance, &["explain-packet", &file.display().to_string(), "--json"]);
    assert_eq!(again.text().matches("\"verdict\":\"drop_denied\"").count(), 3, "{}", again.text());

    // It has given the program back: nothing is sampled any more, and the next may capture.
    let file = files.path().join("none.pcapng").display().to_string();
    let words = ["capture", &file, "--verdicts", "relayed", "--time", "300ms"];
    let none = tell(&appliance, &words);
    assert_eq!(none.code(), 0, "{}", none.stderr);
    assert!(none.text().starts_with("0 packets in"), "{}", none.text());
    assert_eq!(tcpdump(Path::new(&file)), "");
    assert_eq!(tell(&appliance, &words).code(), 69, "a file that is there stays as it is");
    assert!(appliance.stop().success());
}

#[test]
fn a_capture_that_cannot_be_is_refused_with_what_helps() {
    let files = TempDir::new().unwrap();
    let file = files.path().join("none.pcapng");
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 1));
    let refused = tell(&appliance, &["capture", &file.display().to_string()]);
    assert_eq!(refused.code(), 1);
    assert!(refused.complaint().contains("the XDP program is not on"), "{}", refused.stderr);
    assert!(!file.exists());
    let wrong = tell(&appliance, &["capture", "x", "--verdicts", "drop"]);
    assert_eq!(wrong.code(), 64);
    assert!(wrong.stderr.contains("there is no verdict"), "{}", wrong.stderr);
}

#[test]
fn a_configuration_alone_explains_packets_and_what_is_none_is_refused() {
    let files = TempDir::new().unwrap();
    let config = files.path().join("waystation.toml");
    let text = "[turn]\nlisten = [\"192.0.2.1:3478\"]\nusers_file = \"/nowhere\"\n\
                relay_addresses = [\"192.0.2.1\"]\n[xdp]\ndeny = [\"203.0.113.0/24\"]\n";
    fs::write(&config, text).unwrap();
    let explain = |packet: &str| {
        run(command(&binary()).args(["explain-packet", packet, "--config"]).arg(&config))
    };
    let server = "192.0.2.1:3478".parse().unwrap();
    let denied = frame("203.0.113.9:7".parse().unwrap(), server, b"x");
    let said = explain(&denied);
    assert_eq!(said.code(), 0, "{}", said.stderr);
    assert!(said.text().contains("drop: drop_denied"), "{}", said.text());
    assert!(said.text().contains("by the configuration alone"), "{}", said.text());
    let digits = files.path().join("digits");
    fs::write(&digits, format!("{}\n{}\n", &denied[..40], &denied[40..])).unwrap();
    assert_eq!(explain(&digits.display().to_string()).text(), said.text());
    let text = files.path().join("text");
    fs::write(&text, "hello, world").unwrap();
    for (packet, says) in [
        ("0xyz", "neither hex digits"),
        (text.to_str().unwrap(), "neither pcap nor pcapng"),
        (&"00".repeat(2049), "at most 2048"),
    ] {
        let refused = explain(packet);
        assert_eq!(refused.code(), 64, "{}", refused.stderr);
        assert!(refused.complaint().contains(says), "{}", refused.stderr);
    }
}
