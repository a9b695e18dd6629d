//! The XDP program where the process may not load one.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use support::appliance::{Appliance, PortName, Settings};
use support::given;
use support::process::Ordinary;
use waystation_peer::TurnClient;

#[test]
fn without_privileges_everything_works_without_the_program_and_says_why() {
    if !given(Ordinary::is_possible(), "setpriv") {
        return;
    }
    let ordinary = Ordinary::new();
    let users = ordinary.directory.path().join("users");
    fs::write(&users, "alice:pw\n").unwrap();
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).unwrap();
    support::process::give_away(&users);
    let settings = Settings::new(PortName::Epoll, 1)
        .with("turn", "listen = [\"127.0.0.1:0\"]")
        .with("turn", &format!("users_file = \"{}\"", users.display()))
        .with("xdp", "mode = \"auto\"")
        .with("xdp", "interfaces = [\"lo\"]");
    let appliance = Appliance::start_ordinary(&ordinary, &settings);
    let document = appliance.document("/v1/xdp");
    assert_eq!(document["state"], "unavailable", "{document}");
    assert!(document["why"].as_str().unwrap().contains("CAP_BPF"), "{document}");
    assert!(appliance.process.log().contains("no XDP program"));
    let server = appliance.status()["turn_listen"][0].as_str().unwrap().parse().unwrap();
    TurnClient::over_udp(server, ("alice", "pw")).unwrap().allocate().unwrap();
}
