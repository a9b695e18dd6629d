//! The namespaces that relays are compared in, as root.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]
#![allow(clippy::print_stdout, reason = "what is skipped says so")]

use std::env;
use std::net::UdpSocket;
use std::time::Duration;
use waystation_benches::load::processor::Watched;
use waystation_benches::streets::{CLIENTS, Checksums, Side, Streets, WAN, missing};

fn given_root() -> bool {
    let Some(needs) = missing() else { return true };
    assert!(env::var_os("WAYSTATION_TEST_REQUIRE").is_none(), "{needs}");
    println!("skipped: {needs}");
    false
}

#[test]
fn what_the_kernel_does_for_the_relay_is_the_time_of_threads() {
    if !given_root() {
        return;
    }
    let streets = Streets::new(Checksums::Finished, 0, 0).unwrap();
    let at_relay = UdpSocket::bind((WAN, 0)).unwrap();
    let to = at_relay.local_addr().unwrap();
    at_relay.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let client = streets.at(Side::Clients, || Ok(UdpSocket::bind((CLIENTS, 0))?)).unwrap();
    let watched = streets.watched(Watched::Nobody);
    let before = watched.read().unwrap();
    let mut buffer = [0; 64];
    for _ in 0..200 {
        client.send_to(b"hello", to).unwrap();
        let (bytes, from) = at_relay.recv_from(&mut buffer).unwrap();
        assert_eq!((bytes, from), (5, client.local_addr().unwrap()));
    }
    let spent = watched.read().unwrap().since(&before);
    assert!(spent.forwarding_ns > 0 && !spent.has_data_cores, "{spent:?}");
    // Others may be built by the same thread, and it may go back and forth.
    let other = Streets::new(Checksums::Offloaded, 0, 0).unwrap();
    let here = UdpSocket::bind((WAN, to.port())).unwrap();
    assert_eq!(here.local_addr().unwrap(), to, "the same port of another namespace");
    streets.enter_relay().unwrap();
    assert!(UdpSocket::bind((WAN, to.port())).is_err());
    other.enter_relay().unwrap();
}
