//! To the core that owns a session: to its processor by the kernel's map of processors, and to its
//! socket among those that share an address.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails says where, and one that waits looks at the clock"
)]

mod support;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, SockRef, Socket, Type};
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;
use support::{
    bpf_mount::BpfMount,
    namespace::{Namespace, ip},
    streets::{ALICE, ARRIVES_WITHIN, FOR_BOB, Streets, connect, deliver},
};
use waystation_ebpf::{
    abi::{Session, SessionKey, Verdict},
    attach::{Attachment, Wanted},
    pins::Pins,
    programs::{Programs, deselect_for},
};

/// What the program knows the two cores by.
const CORES: [u32; 2] = [3, 7];
/// Clients of each group.
const CLIENTS: usize = 16;

/// The sockets that two cores have on one address.
struct Group {
    bound: SocketAddr,
    /// Where clients send to, which may be one of all addresses.
    server: SocketAddr,
    sockets: [UdpSocket; 2],
}

/// A client, and the core that the kernel's hash brings its datagrams to.
struct Client {
    socket: UdpSocket,
    by_hash: usize,
}

impl Group {
    fn new(bound: &str, server: &str) -> Self {
        let first = sharing(bound.parse().unwrap());
        let bound = first.local_addr().unwrap();
        let server = SocketAddr::new(server.parse().unwrap(), bound.port());
        Self { bound, server, sockets: [first, sharing(bound)] }
    }

    /// Where the next datagram of a client comes to. Nothing else may be on the way.
    fn core_of_next(&self, client: &UdpSocket) -> usize {
        let from = client.local_addr().unwrap();
        client.send_to(&[0x40, 1, 0, 0], self.server).unwrap();
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < ARRIVES_WITHIN, "nothing arrived of {from}");
            for (core, socket) in self.sockets.iter().enumerate() {
                let mut buffer = [0; 16];
                if let Ok((bytes, source)) = socket.recv_from(&mut buffer) {
                    assert_eq!((bytes, source), (4, from));
                    return core;
                }
            }
            std::thread::yield_now();
        }
    }

    fn clients(&self) -> Vec<Client> {
        let client = |_| {
            let socket = UdpSocket::bind((self.server.ip(), 0)).unwrap();
            let by_hash = self.core_of_next(&socket);
            Client { socket, by_hash }
        };
        (0..CLIENTS).map(client).collect()
    }

    fn tell(&self, programs: &mut Programs) {
        for (cpu, socket) in CORES.iter().zip(&self.sockets) {
            programs.tables.sockets.insert(self.bound, *cpu, socket).unwrap();
        }
        programs.select_for(&self.sockets[0]).unwrap();
    }

    /// Gives each client's session to the core that the hash would not choose.
    fn own_against_the_hash(&self, clients: &[Client], programs: &mut Programs) {
        for client in clients {
            let key = SessionKey::new(client.socket.local_addr().unwrap(), self.server, None);
            let owner = Session::steered(CORES[1 - client.by_hash]);
            programs.tables.sessions.insert(key, owner).unwrap();
        }
    }

    fn expect_owners(&self, clients: &[Client]) {
        for client in clients {
            let core = self.core_of_next(&client.socket);
            assert_eq!(
                core,
                1 - client.by_hash,
                "{} at {}",
                client.socket.local_addr().unwrap(),
                self.bound
            );
        }
    }

    fn expect_the_hash(&self, clients: &[Client]) {
        for client in clients {
            assert_eq!(self.core_of_next(&client.socket), client.by_hash, "{}", self.bound);
        }
    }
}

/// A socket that shares its address with others, and does not block.
fn sharing(address: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

/// Groups of every kind: of two addresses with one port, of both families, of one address and of all.
fn groups() -> Vec<Group> {
    ip("addr add 198.51.100.1/32 dev lo");
    ip("addr add 198.51.100.2/32 dev lo");
    let first = Group::new("198.51.100.1:0", "198.51.100.1");
    let port = first.bound.port();
    let second = Group::new(&format!("198.51.100.2:{port}"), "198.51.100.2");
    let third = Group::new(&format!("[::1]:{port}"), "::1");
    let of_all = Group::new("0.0.0.0:0", "198.51.100.1");
    let port = of_all.bound.port();
    vec![first, second, third, of_all, Group::new(&format!("[::]:{port}"), "::1")]
}

#[test]
fn each_datagram_goes_to_its_owners_socket_in_every_group_and_against_the_kernels_hash() {
    if !support::given_root() {
        return;
    }
    let _namespace = Namespace::enter_new();
    let mut programs = Programs::load(None).unwrap();
    let groups = groups();
    let clients: Vec<_> = groups.iter().map(Group::clients).collect();
    groups.iter().for_each(|group| group.tell(&mut programs));
    assert_eq!(programs.tables.sockets.len(), 10);
    // Who has no session stays where it was.
    groups.iter().zip(&clients).for_each(|(group, clients)| group.expect_the_hash(clients));
    assert_eq!(programs.tables.sockets.selections().unwrap().to_owner, 0);
    for (group, clients) in groups.iter().zip(&clients) {
        group.own_against_the_hash(clients, &mut programs);
    }
    groups.iter().zip(&clients).for_each(|(group, clients)| group.expect_owners(clients));
    let selections = programs.tables.sockets.selections().unwrap();
    assert_eq!((selections.to_owner, selections.without_socket), (5 * CLIENTS as u64, 0));
    // A core without a socket, and nobody who chooses: the hash again.
    programs.tables.sockets.clear().unwrap();
    groups[0].expect_the_hash(&clients[0]);
    let selections = programs.tables.sockets.selections().unwrap();
    assert_eq!(selections.without_socket, CLIENTS as u64);
    groups.iter().for_each(|group| deselect_for(&group.sockets[1]).unwrap());
    groups.iter().zip(&clients).for_each(|(group, clients)| group.expect_the_hash(clients));
    assert_eq!(programs.tables.sockets.selections().unwrap(), selections);
}

#[test]
fn sessions_stay_with_their_cores_when_the_group_of_sockets_changes() {
    if !support::given_root() {
        return;
    }
    let _namespace = Namespace::enter_new();
    let mut programs = Programs::load(None).unwrap();
    let group = Group::new("127.0.0.1:0", "127.0.0.1");
    let clients = group.clients();
    group.tell(&mut programs);
    for client in &clients {
        let key = SessionKey::new(client.socket.local_addr().unwrap(), group.server, None);
        programs.tables.sessions.insert(key, Session::steered(CORES[client.by_hash])).unwrap();
    }
    // The kernel's hash now spreads datagrams over three.
    let stranger = sharing(group.bound);
    group.expect_the_hash(&clients);
    assert!(stranger.recv_from(&mut [0; 16]).is_err());
}

#[test]
fn a_process_that_takes_over_has_the_same_sockets_in_the_same_map() {
    if !support::given_root() {
        return;
    }
    let mount = BpfMount::new();
    let _namespace = Namespace::enter_new();
    let pins = Pins::open(&mount.path().join("waystation")).unwrap();
    let mut old = Programs::load(Some(&pins)).unwrap();
    let group = Group::new("127.0.0.1:0", "127.0.0.1");
    let clients = group.clients();
    group.tell(&mut old);
    group.own_against_the_hash(&clients, &mut old);
    group.expect_owners(&clients);

    let mut new = Programs::load(Some(&pins)).unwrap();
    new.tables.sockets.clear().unwrap();
    group.tell(&mut new);
    group.expect_owners(&clients);
    drop(old);
    group.expect_owners(&clients);
    assert!(new.tables.sockets.selections().unwrap().to_owner >= CLIENTS as u64);
    // One that nothing came of: the other one tells of its sockets again.
    let mut back = Programs::load(Some(&pins)).unwrap();
    back.tables.sockets.clear().unwrap();
    group.tell(&mut back);
    drop(new);
    group.expect_owners(&clients);
    pins.remove().unwrap();
}

/// The processors that the calling thread may run on.
fn processors() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect()
}

fn run_on(cpu: usize) {
    let mut only = CpuSet::new();
    only.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &only).unwrap();
}

#[test]
fn a_packet_is_handed_to_the_processor_of_its_owner() {
    if !support::given_root() {
        return;
    }
    let processors = processors();
    let [first, second, ..] = processors[..] else {
        println!("skipped: needs two processors");
        return;
    };
    let streets = Streets::new();
    let mut programs = Programs::load(None).unwrap();
    connect(&mut programs);
    for cpu in [first, second] {
        programs.tables.processors.insert(u32::try_from(cpu).unwrap()).unwrap();
    }
    let (alice, server): (SocketAddr, SocketAddr) =
        (ALICE.parse().unwrap(), FOR_BOB.parse().unwrap());
    let at_server = UdpSocket::bind(server).unwrap();
    // The kernel notes for connected sockets only where what they have received was processed.
    at_server.connect(alice).unwrap();
    let _wan = Attachment::new(&mut programs, "wan", Wanted::Native, None).unwrap();
    for (here, owner) in [(first, second), (second, first), (first, first)] {
        let key = SessionKey::new(alice, server, None);
        let session = Session::steered(u32::try_from(owner).unwrap());
        programs.tables.sessions.insert(key, session).unwrap();
        let before = programs.tables.counters.of(Verdict::Steered).unwrap().packets;
        // A veth receives on the processor that sends.
        run_on(here);
        let sent = deliver(&streets.alice, FOR_BOB, &at_server, b"steered", ALICE);
        let processed_on = SockRef::from(&at_server).cpu_affinity().unwrap();
        assert_eq!(processed_on, owner, "sent on {here}");
        let steered = programs.tables.counters.of(Verdict::Steered).unwrap().packets - before;
        assert!(steered >= 1 && steered <= u64::from(sent), "{steered} of {sent}");
    }
}
