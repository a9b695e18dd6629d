//! A running TURN server with its file of users, its clients' names, and peers to talk to.

use super::appliance::{Appliance, PortName, Settings};
use super::{STEP, eventually};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;
use waystation_peer::{TurnClient, TurnClientError};

/// Users of every such server, with their passwords.
pub const ALICE: (&str, &str) = ("alice", "wonderland");
pub const BOB: (&str, &str) = ("bob", "builder");
pub const CHANNEL: u16 = 0x4000;

/// A server that listens over UDP and over TCP.
pub struct Turn {
    pub appliance: Appliance,
    pub udp: SocketAddr,
    pub tcp: SocketAddr,
    /// Where its file `users` is.
    pub files: TempDir,
}

impl Turn {
    /// One on loopback whose clients may reach loopback, with more lines for `[turn]`.
    pub fn start(port: PortName, cores: usize, more: &[&str]) -> Self {
        let loopback = ["allow_peers = [\"127.0.0.0/8\"]"];
        Self::start_at("127.0.0.1", port, cores, &[&loopback, more].concat())
    }

    /// One on an address, with nothing but these lines besides.
    pub fn start_at(ip: &str, port: PortName, cores: usize, lines: &[&str]) -> Self {
        let files = TempDir::new().unwrap();
        let users_file = users_file(files.path(), &[ALICE, BOB]);
        let mut settings = Settings::new(port, cores)
            .with("turn", &format!("listen = [\"{ip}:0\"]"))
            .with("turn", &format!("listen_tcp = [\"{ip}:0\"]"))
            .with("turn", &users_file);
        for line in lines {
            settings = settings.with("turn", line);
        }
        let appliance = Appliance::start(&settings);
        let status = appliance.status();
        let address = |key: &str| status[key][0].as_str().unwrap().parse().unwrap();
        let (udp, tcp) = (address("turn_listen"), address("turn_listen_tcp"));
        Self { appliance, udp, tcp, files }
    }

    /// Alice, over UDP.
    pub fn client(&self) -> TurnClient {
        TurnClient::over_udp(self.udp, ALICE).unwrap()
    }

    /// Alice, over TCP.
    pub fn client_over_tcp(&self) -> TurnClient {
        TurnClient::over_tcp(self.tcp, ALICE).unwrap()
    }

    /// Waits until something was dropped for a reason, once and no more.
    pub fn expect_drop(&self, reason: &str) {
        eventually(reason, || (self.appliance.drops()[reason] == 1).then_some(()));
    }
}

/// Writes the file `users` of a directory, of names with their passwords; returns the line of
/// `[turn]` that names it.
pub fn users_file(directory: &Path, users: &[(&str, &str)]) -> String {
    let file = directory.join("users");
    let lines: Vec<_> =
        users.iter().map(|(name, password)| format!("{name}:{password}\n")).collect();
    fs::write(&file, lines.concat()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    format!("users_file = \"{}\"", file.display())
}

/// A peer with a socket of its own.
pub fn peer_at(ip: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(STEP)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A peer on loopback.
pub fn peer() -> (UdpSocket, SocketAddr) {
    peer_at("127.0.0.1")
}

/// What a peer receives next, and from where.
pub fn receive(peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 65_536];
    let (bytes, from) = peer.recv_from(&mut buffer).unwrap();
    (buffer[..bytes].to_vec(), from)
}

/// The code that a request was refused with.
///
/// # Panics
/// When it was not.
pub fn refused(result: Result<impl std::fmt::Debug, TurnClientError>) -> u16 {
    match result {
        Err(TurnClientError::Refused { code, .. }) => code,
        other => panic!("{other:?} instead of a refusal"),
    }
}
