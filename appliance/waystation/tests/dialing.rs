//! Links that the appliance makes itself: configured peers are kept linked, over every kind of
//! endpoint, whatever becomes of them.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails says where, and it may look at the clock and pause"
)]

mod support;

use rustix::process::Signal;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use support::appliance::{Appliance, PortName, Settings};
use support::nodes::Node;
use support::process::{binary, command, run};
use support::{STEP, eventually};
use tempfile::TempDir;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::frame::Profile;
use waystation_astral::identity::Identity;
use waystation_peer::{Link, LinkOptions, secret_key};

/// An onion address, of nobody: the proxy of these tests does not look names up.
const ONION: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion:1791";
/// The exit code of a configuration with mistakes.
const CONFIGURATION: i32 = 78;

/// Settings with a short first pause, for a machine with little time.
fn settings(port: PortName) -> Settings {
    Settings::new(port, 2).with("dial", "backoff_max = \"2s\"")
}

/// One more peer; each is a table of its own.
fn with_peer(settings: Settings, identity: &Identity, endpoints: &[String]) -> Settings {
    let table = match settings.text().contains("[[peer]]") {
        true => "[[peer]]\n",
        false => "",
    };
    settings.with("[peer]", &format!("{table}identity = \"{identity}\"\nendpoints = {endpoints:?}"))
}

fn tcp(address: SocketAddr) -> String {
    format!("tcp:{address}")
}

/// Waits until an appliance lists a link to another.
fn linked(appliance: &Appliance, identity: &Identity) {
    eventually("the link is listed", || appliance.link_row(identity));
}

/// An address at which nobody answers: connections are refused.
fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// An address at which connections are taken, and nothing is ever said.
fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Starts an appliance with the key it has in this place.
fn start_in(home: &Path, text: &str) -> Appliance {
    let file = home.join("waystation.toml");
    fs::write(&file, text).unwrap();
    let state = home.join("state");
    let mut command = command(&binary());
    command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
    Appliance::spawn(&mut command, TempDir::new().unwrap(), &state)
}

/// These settings at an address that was the kernel's choice before.
fn at(address: SocketAddr, settings: &Settings) -> String {
    settings.text().replace("127.0.0.1:0", &address.to_string())
}

#[test]
fn peer_that_restarts_is_linked_again_over_io_uring() {
    peer_that_restarts_is_linked_again(PortName::IoUring);
}

#[test]
fn peer_that_restarts_is_linked_again_over_epoll() {
    peer_that_restarts_is_linked_again(PortName::Epoll);
}

fn peer_that_restarts_is_linked_again(port: PortName) {
    if !port.is_given() {
        return;
    }
    let home = TempDir::new().unwrap();
    let mut peer = start_in(home.path(), &Settings::new(port, 2).text());
    let (address, identity) = (peer.address, peer.identity);
    let appliance = Appliance::start(&with_peer(settings(port), &identity, &[tcp(address)]));
    linked(&appliance, &identity);
    linked(&peer, &appliance.identity);
    assert!(peer.stop().success());
    eventually("the link is gone", || appliance.link_row(&identity).is_none().then_some(()));
    drop(peer);
    let peer = start_in(home.path(), &at(address, &Settings::new(port, 2)));
    assert_eq!(peer.identity, identity);
    linked(&appliance, &identity);
    linked(&peer, &appliance.identity);
}

#[test]
fn two_that_keep_each_other_linked_do_not_close_each_others_links() {
    let port = PortName::Epoll;
    let homes = [(); 2].map(|()| TempDir::new().unwrap());
    let known = homes.each_ref().map(|home| {
        let mut once = start_in(home.path(), &Settings::new(port, 1).text());
        assert!(once.stop().success());
        (once.address, once.identity)
    });
    let [(first_address, first), (second_address, second)] = known;
    let one = with_peer(settings(port), &second, &[tcp(second_address)]);
    let other = with_peer(settings(port), &first, &[tcp(first_address)]);
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| start_in(homes[0].path(), &at(first_address, &one)));
        let other = scope.spawn(|| start_in(homes[1].path(), &at(second_address, &other)));
        (one.join().unwrap(), other.join().unwrap())
    });
    linked(&one, &second);
    linked(&other, &first);
    let opened = |appliance: &Appliance| appliance.total("links_opened");
    let settled = [opened(&one), opened(&other)];
    // Longer than the longest pause between two dials.
    thread::sleep(Duration::from_secs(3));
    assert_eq!([opened(&one), opened(&other)], settled);
    assert!(one.link_row(&second).is_some() && other.link_row(&first).is_some());
    assert_eq!(one.drops()["surplus_link"] + other.drops()["surplus_link"], 0);
}

#[test]
fn good_endpoint_wins_over_dead_and_silent_ones_and_nothing_is_left_of_those() {
    let port = PortName::Epoll;
    let peer = Appliance::start(&Settings::new(port, 1));
    let (silent, silent_address) = silent();
    let endpoints = [tcp(dead()), tcp(silent_address), tcp(peer.address)];
    let begun = Instant::now();
    let appliance = Appliance::start(&with_peer(settings(port), &peer.identity, &endpoints));
    linked(&appliance, &peer.identity);
    // The silent one would take the whole time of a handshake.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let row = appliance.link_row(&peer.identity).unwrap();
    assert_eq!(row["remote"], peer.address.to_string());
    // It was tried, and is given up by whoever holds it.
    let mut given_up = silent.accept().unwrap().0;
    given_up.set_read_timeout(Some(STEP)).unwrap();
    let _ = io::copy(&mut given_up, &mut io::sink());
    eventually("one link is left", || {
        let links = appliance.document("/v1/links")["links"].as_array().unwrap().len();
        (links == 1).then_some(())
    });
}

#[test]
fn peer_behind_another_gateway_is_reached_inside_a_session() {
    let port = PortName::Epoll;
    let gateway = Appliance::start(&Settings::new(port, 2));
    let to_gateway = [tcp(gateway.address)];
    let peer = Appliance::start(&with_peer(settings(port), &gateway.identity, &to_gateway));
    linked(&gateway, &peer.identity);
    // The peer is configured first, so the link to its gateway has to be waited for.
    let through = [format!("gw:{}:{}", gateway.identity, peer.identity)];
    let mine = with_peer(settings(port), &peer.identity, &through);
    let appliance = Appliance::start(&with_peer(mine, &gateway.identity, &to_gateway));
    linked(&appliance, &peer.identity);
    linked(&peer, &appliance.identity);
    assert_eq!(appliance.link_row(&peer.identity).unwrap()["network"], "gw");
    let row = eventually("the gateway's link", || appliance.link_row(&gateway.identity));
    assert_eq!(row["remote"], gateway.address.to_string());
}

#[test]
fn registered_node_behind_another_gateway_is_reached_over_its_socket() {
    let port = PortName::Epoll;
    let gateway = Appliance::start(&Settings::new(port, 2));
    for profile in [Profile::P0, Profile::P4] {
        let node = Node::dial(&gateway, &LinkOptions::with_profile(Profile::P4));
        let pool = node.idle(2, true);
        let through = [format!("gw:{}:{}", gateway.identity, node.identity())];
        let mine = with_peer(settings(port), &node.identity(), &through);
        let mine = with_peer(mine, &gateway.identity, &[tcp(gateway.address)]);
        let appliance = Appliance::start(&mine);
        let stream = pool.accept(STEP).unwrap();
        let options = LinkOptions::with_profile(profile);
        let link = Link::accept_over(stream, &node.key, &options).unwrap();
        assert_eq!(link.remote(), appliance.identity);
        link.ping(STEP).unwrap();
        linked(&appliance, &node.identity());
        assert_eq!(appliance.link_row(&node.identity()).unwrap()["network"], "gw");
        assert_eq!(link.list_registered().unwrap(), []);
    }
    assert_eq!(gateway.total("pipes_opened"), 2);
}

#[test]
fn onion_service_is_reached_through_the_proxy() {
    let port = PortName::Epoll;
    let peer = Appliance::start(&Settings::new(port, 1));
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy_address = proxy.local_addr().unwrap();
    let onwards = peer.address;
    // It refuses the first dial, as Tor does while it has no descriptor.
    let serving = thread::spawn(move || {
        serve_socks(&proxy, 0xf0, None);
        serve_socks(&proxy, 0, Some(onwards))
    });
    let mine = settings(port).with("dial", &format!("tor_proxy = \"{proxy_address}\""));
    let appliance = Appliance::start(&with_peer(mine, &peer.identity, &[format!("tor:{ONION}")]));
    linked(&appliance, &peer.identity);
    assert_eq!(appliance.link_row(&peer.identity).unwrap()["network"], "tor");
    let asked = serving.join().unwrap();
    let (name, service) = ONION.rsplit_once(':').unwrap();
    let service: u16 = service.parse().unwrap();
    let expected = [&[5, 1, 0, 3, 62], name.as_bytes(), &service.to_be_bytes()].concat();
    assert_eq!(asked, expected);
}

/// Serves one client of a SOCKS5 proxy; gives back what it asked for.
fn serve_socks(proxy: &TcpListener, code: u8, onwards: Option<SocketAddr>) -> Vec<u8> {
    let (mut client, _) = proxy.accept().unwrap();
    client.set_read_timeout(Some(STEP)).unwrap();
    let mut greeting = [0; 3];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting, [5, 1, 0]);
    client.write_all(&[5, 0]).unwrap();
    let mut request = vec![0; 5 + 62 + 2];
    client.read_exact(&mut request).unwrap();
    client.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    client.set_read_timeout(None).unwrap();
    if let Some(onwards) = onwards {
        let target = TcpStream::connect(onwards).unwrap();
        copy(client.try_clone().unwrap(), target.try_clone().unwrap());
        copy(target, client);
    }
    request
}

/// Copies one direction until either end is gone.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}

#[test]
fn peer_that_dials_first_is_not_dialed() {
    let key = secret_key().unwrap();
    let (listener, address) = silent();
    let mine = settings(PortName::Epoll);
    let appliance = Appliance::start(&with_peer(mine, &key.identity(), &[tcp(address)]));
    // The dial that was made before is over with the first link.
    let (first, _) = listener.accept().unwrap();
    let options = LinkOptions::with_profile(Profile::P4);
    let link = Link::dial_with(appliance.address, &key, &appliance.identity, &options).unwrap();
    link.ping(STEP).unwrap();
    linked(&appliance, &key.identity());
    drop(first);
    listener.set_nonblocking(true).unwrap();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    link.close();
    listener.set_nonblocking(false).unwrap();
    let (second, _) = listener.accept().unwrap();
    drop(second);
}

#[test]
fn operator_dials_by_hand_and_is_told_what_came_of_it() {
    let peer = Appliance::start(&Settings::new(PortName::Epoll, 1));
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 2));
    let dial = |endpoint: &str| {
        let mut command = command(&binary());
        command.args(["link", "dial", endpoint, &peer.identity.to_string()]);
        run(command.arg("--socket").arg(&appliance.socket))
    };
    let dialed = dial(&tcp(peer.address));
    assert_eq!(dialed.code(), 0, "{}", dialed.stderr);
    let row = appliance.link_row(&peer.identity).unwrap();
    let link = row["link"].as_str().unwrap();
    assert_eq!(row["outbound"], true);
    assert_eq!(dialed.text(), format!("link {link} to {}\n", peer.identity));
    for (endpoint, cause) in [
        (tcp(dead()), "connection refused"),
        (tcp(peer.address).replace("tcp", "utp"), "nothing is dialed over utp"),
        (format!("tor:{ONION}"), "no Tor proxy"),
        (format!("gw:{}:{}", secret_key().unwrap().identity(), peer.identity), "no link to"),
    ] {
        let refused = dial(&endpoint);
        assert_ne!(refused.code(), 0);
        for words in [&*endpoint, cause] {
            assert!(refused.complaint().contains(words), "{}", refused.complaint());
        }
    }
    // It was asked for once, and is not kept.
    drop(peer);
    eventually("all links are gone", || {
        let document = appliance.document("/v1/links");
        document["links"].as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn reload_changes_who_is_dialed() {
    let port = PortName::Epoll;
    let peer = Appliance::start(&Settings::new(port, 1));
    let home = TempDir::new().unwrap();
    let without = settings(port).text();
    let with = with_peer(settings(port), &peer.identity, &[tcp(peer.address)]).text();
    let appliance = start_in(home.path(), &without);
    let reload = |text: &str| {
        fs::write(home.path().join("waystation.toml"), text).unwrap();
        appliance.process.signal(Signal::HUP);
    };
    reload(&with);
    linked(&appliance, &peer.identity);
    let is_kept = || {
        let name = peer.identity.to_string();
        let document = appliance.document("/v1/peers");
        let rows = document["peers"].as_array().unwrap();
        rows.iter().any(|row| row["identity"] == name && row["dial"]["state"] == "linked")
    };
    eventually("the peer is shown as linked", || is_kept().then_some(()));
    reload(&without);
    eventually("the peer is not kept any more", || (!is_kept()).then_some(()));
    assert!(appliance.link_row(&peer.identity).is_some(), "its link stays");
}

#[test]
fn endpoints_that_nothing_dials_are_refused_with_the_configuration() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("waystation.toml");
    let key = secret_key().unwrap();
    let endpoint = Endpoint::Utp("127.0.0.1:1791".parse().unwrap()).to_string();
    for (endpoints, word) in [([endpoint], "utp"), ([format!("tor:{ONION}")], "tor_proxy")] {
        let settings = with_peer(settings(PortName::Epoll), &key.identity(), &endpoints);
        fs::write(&file, settings.text()).unwrap();
        let checked = run(command(&binary()).args(["config", "check"]).arg(&file));
        assert_eq!(checked.code(), CONFIGURATION);
        assert!(checked.complaint().contains(word), "{}", checked.complaint());
    }
}
