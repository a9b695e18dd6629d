//! What one server had becomes another's, as when the program is replaced by a newer one.

use waystation_turn::discard::Discard;
use waystation_turn::server::{Outcome, ServerChanges, ServerTold};
use waystation_turn::transport::{FiveTuple, Transport};

use crate::world::{Client, World, channel_data, client, config, credentials, peer, tuple};

/// All there is, as the other process reads it.
fn told(world: &World) -> ServerChanges {
    told_since(world, &mut ServerTold::default())
}

fn told_since(world: &World, told: &mut ServerTold) -> ServerChanges {
    let text = serde_json::to_vec(&world.server.tell(told)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn client_with_peers(world: &mut World) -> Client {
    let mut client = client(1000);
    client.allocate(world);
    client.permit(world, &[peer(1, 0)]).expect_success();
    client.bind(world, 0x4000, peer(2, 7)).expect_success();
    client
}

#[test]
fn allocations_go_on_with_peers_channels_and_nonces() {
    let (mut old, mut new) = (World::new(), World::new());
    let mut client = client_with_peers(&mut old);
    let nonce = client.nonce().to_vec();
    let state = told(&old);
    assert_eq!(new.server.take_over(&state, &mut new.host), 0);
    assert_eq!(new.host.open, old.host.open);
    assert_eq!(new.host.permitted, old.host.permitted);
    assert_eq!(new.host.paths, old.host.paths);
    let relayed = *new.host.open.first().unwrap();
    let to_client = new.server.receive_from_peer(new.now, relayed, peer(2, 7), 5).unwrap();
    assert_eq!(to_client.head.as_slice(), &[0x40, 0, 0, 5]);
    assert!(new.server.receive_from_peer(new.now, relayed, peer(1, 9), 5).is_ok());
    let stranger = new.server.receive_from_peer(new.now, relayed, peer(3, 9), 5);
    assert_eq!(stranger.unwrap_err(), Discard::NoPermission);
    match new.receive(&client.tuple, &channel_data(0x4000, b"hello")) {
        Outcome::Relay(to_peer) => assert_eq!(to_peer.peer, peer(2, 7)),
        other => panic!("{other:?} instead of payload"),
    }
    assert_eq!(client.refresh(&mut new, Some(700)).lifetime_s(), Some(700));
    assert_eq!(client.nonce(), nonce, "its nonce is good still");
    assert_eq!(new.server.entries().users, 1, "it counts against its user's quota");
}

#[test]
fn what_changes_after_it_was_told_is_told_again_and_nothing_else_is() {
    let (mut old, mut new) = (World::new(), World::new());
    let mut changing = client_with_peers(&mut old);
    let [mut ending, mut steady] =
        [1001, 1002].map(|port| Client::new(tuple(port), "bob", b"builder"));
    ending.allocate(&mut old);
    steady.allocate(&mut old);
    let mut so_far = ServerTold::default();
    assert_eq!(new.server.take_over(&told_since(&old, &mut so_far), &mut new.host), 0);
    assert_eq!(told_since(&old, &mut so_far), ServerChanges { all: 3, ..Default::default() });

    ending.refresh(&mut old, Some(0));
    changing.permit(&mut old, &[peer(3, 0)]).expect_success();
    let mut late = Client::new(tuple(1003), "bob", b"builder");
    late.allocate(&mut old);
    let changes = told_since(&old, &mut so_far);
    assert_eq!(changes.ended, [ending.tuple]);
    let mut clients: Vec<_> = changes.allocations.iter().map(|state| state.client).collect();
    clients.sort();
    assert_eq!((clients, changes.all), (vec![changing.tuple, late.tuple], 3));
    assert_eq!(new.server.take_over(&changes, &mut new.host), 0);
    assert_eq!(new.host.open, old.host.open);
    assert_eq!(new.host.permitted, old.host.permitted);
    // What was told again has another name here, and the same path.
    assert_eq!(new.host.paths.len(), old.host.paths.len());
    assert_eq!((new.server.allocations_len(), new.server.entries().users), (3, 2));
    assert_eq!(steady.refresh(&mut new, Some(700)).lifetime_s(), Some(700));
}

#[test]
fn what_is_taken_over_ends_when_it_would_have() {
    let (mut old, mut new) = (World::new(), World::new());
    client_with_peers(&mut old);
    old.pass_s(100);
    new.now = old.now;
    assert_eq!(new.server.take_over(&told(&old), &mut new.host), 0);
    new.pass_s(499);
    assert_eq!(new.server.allocations_len(), 1);
    new.pass_s(1);
    assert_eq!(new.server.allocations_len(), 0);
    assert!(new.host.open.is_empty() && new.host.paths.is_empty());
}

#[test]
fn the_old_server_lets_go_of_clients_over_datagrams_and_keeps_streams() {
    let mut old = World::new();
    client_with_peers(&mut old);
    let tuple = FiveTuple { transport: Transport::Tcp, ..tuple(1001) };
    let mut over_tcp = Client::new(tuple, "bob", b"builder");
    let kept = over_tcp.allocate(&mut old);
    assert_eq!(told(&old).allocations.len(), 1);
    old.server.let_go(&mut old.host);
    assert_eq!(old.server.allocations_len(), 1);
    assert_eq!(old.host.open.iter().collect::<Vec<_>>(), [&kept]);
    assert_eq!(old.server.entries().users, 1);
    assert_eq!(told(&old), ServerChanges::default());
}

#[test]
fn what_the_new_configuration_has_no_place_for_is_left_and_counted() {
    let mut old = World::new();
    client_with_peers(&mut old);
    Client::new(tuple(1002), "bob", b"builder").allocate(&mut old);
    let state = told(&old);
    let mut full = config();
    full.allocations_max = 1;
    let mut new = World::with(full, credentials());
    assert_eq!(new.server.take_over(&state, &mut new.host), 1);
    assert_eq!((new.server.allocations_len(), new.host.open.len()), (1, 1));
    let mut elsewhere = config();
    for range in &mut elsewhere.relayed {
        range.ports = 50_000..=50_999;
    }
    let mut new = World::with(elsewhere, credentials());
    assert_eq!(new.server.take_over(&state, &mut new.host), 2);
    assert!(new.host.open.is_empty() && new.server.entries().ports == 0);
    let mut new = World::new();
    new.host.in_use = old.host.open.iter().map(|address| address.port()).collect();
    assert_eq!(new.server.take_over(&state, &mut new.host), 2);
    assert_eq!((new.server.entries().ports, new.server.entries().users), (0, 0));
}
