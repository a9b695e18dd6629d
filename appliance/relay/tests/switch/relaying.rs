//! Queries in somebody else's name, and which queries the management core is asked about.

use crate::world::{ROUTE, Seen, WINDOW, World, on_one_core_and_two};
use waystation_astral::frame::Profile;
use waystation_astral::identity::{Identity, SecretKey};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::switch::{InboundQuery, Relayed};

fn identity(number: u8) -> Identity {
    SecretKey::from_bytes(&[number; 32]).unwrap().identity()
}

fn relayed() -> Relayed {
    Relayed { caller: identity(1), target: identity(2) }
}

#[test]
fn relayed_query_is_pending_whatever_it_asks_for_and_says_in_whose_name() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let query = b"some.app".as_slice();
    let inbound = InboundQuery { nonce: 9, window: WINDOW, query, relayed: Some(relayed()) };
    world.cores[0].query(1, a.1, inbound);
    world.settle();
    assert_eq!((world.asked.len(), world.relayed.as_slice()), (1, &[Some(relayed())][..]));
    assert_eq!(world.seen(a), []);
}

#[test]
fn relayed_offer_names_both_identities_to_a_peer_that_has_such_a_frame() {
    for (profile, sent) in
        [(Profile::P0, None), (Profile::P2, None), (Profile::P4, Some(relayed()))]
    {
        on_one_core_and_two(|world, a, b| {
            let core = b.0;
            let b = world.link(core, 50, profile);
            let caller = world.pending(a, 9, WINDOW);
            world.offer_as(caller, b, 77, Some(relayed()));
            let query = Seen::Query { nonce: 77, window: WINDOW, relayed: sent };
            assert_eq!(world.seen(b), [query]);
            world.response(b, 77, 0, WINDOW);
            let accepted = Seen::Response { nonce: 9, code: 0, window: WINDOW };
            assert_eq!(world.seen(a), [accepted]);
        });
    }
}

#[test]
fn raw_profile_queries_all_go_to_the_management_core_because_a_nonce_may_be_prepared() {
    for (profile, asked) in [(Profile::P0, 1), (Profile::P2, 1), (Profile::P4, 0)] {
        let mut world = World::new(1);
        let a = world.link(0, 0, profile);
        world.query(a, 9, WINDOW, b"some.app?in=json");
        assert_eq!(world.asked.len(), asked, "{profile}");
        assert_eq!(world.drops(DropReason::UnknownQuery), 1 - asked as u64);
    }
}

#[test]
fn operations_of_this_node_go_to_the_management_core_on_every_link() {
    let operations: [&[u8]; 5] =
        [ROUTE, b".profile", b"nodes.links?out=json", b"objects.push", b"nodes.relay?nonce=1"];
    for profile in Profile::ALL {
        for operation in operations {
            let mut world = World::new(1);
            let a = world.link(0, 0, profile);
            world.query(a, 9, WINDOW, operation);
            assert_eq!(world.asked.len(), 1);
        }
    }
}

#[test]
fn query_of_nobody_is_refused_with_code_1_and_counted() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    world.cores[0].refuse_query(a.1, 9, DropReason::MalformedQuery);
    world.settle();
    assert_eq!(world.seen(a), [Seen::Response { nonce: 9, code: 1, window: 0 }]);
    assert_eq!((world.sessions(), world.drops(DropReason::MalformedQuery)), (0, 1));
}
