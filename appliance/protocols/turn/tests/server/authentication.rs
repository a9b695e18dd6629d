//! Who is let in, and what everybody else is told (RFC 8489 §9.2.4).

use std::sync::Arc;

use waystation_turn::attribute::{AttributeType, ErrorCode};
use waystation_turn::credentials::{Credentials, time_limited_password};
use waystation_turn::integrity::{Integrity, Key, PasswordAlgorithm, verify};
use waystation_turn::message::Method;
use waystation_turn::nonce::SecurityFeatures;
use waystation_turn::writer::MessageWriter;

use crate::world::{Client, REALM, Reply, START, Style, World, client, config, credentials, tuple};

const TRANSPORT: (AttributeType, [u8; 4]) = (AttributeType::REQUESTED_TRANSPORT, [17, 0, 0, 0]);

fn wants_udp(writer: &mut MessageWriter<'_>) {
    writer.attribute(TRANSPORT.0, &TRANSPORT.1);
}

/// A client that has been challenged.
fn challenged(world: &mut World, port: u16) -> Client {
    let mut client = client(port);
    let packet = client.bare(Method::ALLOCATE, wants_udp);
    let reply = client.send(world, &packet);
    reply.expect_error(ErrorCode::Unauthenticated);
    client.set_nonce(reply.message().attribute(AttributeType::NONCE).unwrap());
    client
}

#[test]
fn a_client_without_credentials_is_told_how_to_show_them() {
    let mut world = World::new();
    let mut client = client(1000);
    let packet = client.bare(Method::ALLOCATE, wants_udp);
    let reply = client.send(&mut world, &packet);
    let message = reply.message();
    reply.expect_error(ErrorCode::Unauthenticated);
    assert_eq!(message.attribute(AttributeType::REALM), Some(REALM.as_bytes()));
    let algorithms = message.attribute(AttributeType::PASSWORD_ALGORITHMS);
    assert_eq!(algorithms, Some(&[0, 2, 0, 0, 0, 1, 0, 0][..]));
    let features = SecurityFeatures::of_nonce(message.attribute(AttributeType::NONCE).unwrap());
    let expected = SecurityFeatures { password_algorithms: true, username_anonymity: true };
    assert_eq!(features, Some(expected));
    for absent in [AttributeType::USERNAME, AttributeType::USERHASH, AttributeType::SOFTWARE] {
        assert_eq!(message.attribute(absent), None);
    }
    assert!(!message.has_integrity());
    assert_eq!(world.server.allocations_len(), 0);
}

#[test]
fn clients_of_both_generations_are_let_in_and_answered_in_their_way() {
    let mut world = World::new();
    for (port, style) in [(1000, Style::Old), (1001, Style::New)] {
        let mut client = client(port);
        client.style = style;
        // The request helper checks what closes each answer.
        client.allocate(&mut world);
        client.refresh(&mut world, None).expect_success();
    }
    assert_eq!(world.server.allocations_len(), 2);
}

#[test]
fn an_answer_names_the_software_only_to_those_who_are_let_in() {
    let mut world = World::new();
    let mut client = client(1000);
    let reply = client.allocate_with(&mut world, |_| {});
    assert_eq!(reply.message().attribute(AttributeType::SOFTWARE), Some(&b"a relay"[..]));
}

#[test]
fn wrong_credentials_get_a_challenge_and_no_allocation() {
    let mut world = World::new();
    let good = challenged(&mut world, 1000);
    let wrong_password = Client { password: b"Wonderland".to_vec(), ..good.clone() };
    let wrong_user = Client { username: "carol".into(), ..good.clone() };
    let other_user = Client { username: "bob".into(), ..good.clone() };
    for mut client in [wrong_password, wrong_user, other_user] {
        for style in [Style::Old, Style::New] {
            client.style = style;
            let packet = client.sealed(Method::ALLOCATE, wants_udp);
            let reply = client.send(&mut world, &packet);
            reply.expect_error(ErrorCode::Unauthenticated);
            assert!(reply.message().attribute(AttributeType::NONCE).is_some());
        }
    }
    assert_eq!(world.server.allocations_len(), 0);
}

#[test]
fn a_request_that_lacks_what_its_integrity_needs_is_a_bad_request() {
    let mut world = World::new();
    let client = challenged(&mut world, 1000);
    let nonce = client.nonce().to_vec();
    let parts = [
        (AttributeType::USERNAME, &b"alice"[..]),
        (AttributeType::REALM, REALM.as_bytes()),
        (AttributeType::NONCE, &nonce),
    ];
    for left_out in 0..parts.len() {
        let mut sender = client.clone();
        let key = client.key();
        let packet = sender.bare(Method::ALLOCATE, |writer| {
            wants_udp(writer);
            for (_, (kind, value)) in parts.iter().enumerate().filter(|(at, _)| *at != left_out) {
                writer.attribute(*kind, value);
            }
            writer.integrity(Integrity::Sha1, key.expose_secret());
        });
        let reply = sender.send(&mut world, &packet);
        reply.expect_error(ErrorCode::BadRequest);
        for absent in [AttributeType::REALM, AttributeType::NONCE, AttributeType::USERNAME] {
            assert_eq!(reply.message().attribute(absent), None);
        }
        assert!(!reply.message().has_integrity());
    }
}

/// A request of alice with algorithm attributes of any kind.
fn with_algorithms(
    client: &mut Client,
    chosen: Option<&[u8]>,
    repeated: Option<&[u8]>,
    algorithm: PasswordAlgorithm,
    integrity: Integrity,
) -> Vec<u8> {
    let nonce = client.nonce().to_vec();
    let key = Key::long_term(algorithm, "alice", REALM, b"wonderland");
    client.bare(Method::ALLOCATE, |writer| {
        wants_udp(writer);
        writer.attribute(AttributeType::USERNAME, b"alice");
        writer.attribute(AttributeType::REALM, REALM.as_bytes());
        writer.attribute(AttributeType::NONCE, &nonce);
        if let Some(repeated) = repeated {
            writer.attribute(AttributeType::PASSWORD_ALGORITHMS, repeated);
        }
        if let Some(chosen) = chosen {
            writer.attribute(AttributeType::PASSWORD_ALGORITHM, chosen);
        }
        writer.integrity(integrity, key.expose_secret());
    })
}

#[test]
fn a_list_of_algorithms_that_was_changed_on_the_way_is_a_bad_request() {
    const OURS: &[u8] = &[0, 2, 0, 0, 0, 1, 0, 0];
    const SHA256: &[u8] = &[0, 2, 0, 0];
    let mut world = World::new();
    let mut client = challenged(&mut world, 1000);
    #[expect(clippy::type_complexity, reason = "a table of two attributes")]
    let refused: [(Option<&[u8]>, Option<&[u8]>); 6] = [
        (Some(SHA256), None),
        (None, Some(OURS)),
        (Some(SHA256), Some(&[0, 1, 0, 0])),
        (Some(SHA256), Some(&[0, 1, 0, 0, 0, 2, 0, 0])),
        (Some(&[0, 3, 0, 0]), Some(OURS)),
        (Some(&[0, 2]), Some(OURS)),
    ];
    for (chosen, repeated) in refused {
        let algorithm = PasswordAlgorithm::Sha256;
        let packet = with_algorithms(&mut client, chosen, repeated, algorithm, Integrity::Sha256);
        client.send(&mut world, &packet).expect_error(ErrorCode::BadRequest);
    }
    // MD5 may be chosen from the list; the answer is closed with SHA-256 all the same.
    let md5 = PasswordAlgorithm::Md5;
    let packet =
        with_algorithms(&mut client, Some(&[0, 1, 0, 0]), Some(OURS), md5, Integrity::Sha256);
    let reply = client.send(&mut world, &packet);
    reply.expect_success();
    let key = Key::long_term(md5, "alice", REALM, b"wonderland");
    assert_eq!(verify(&reply.message(), &key), Some(Integrity::Sha256));
}

#[test]
fn a_nonce_whose_features_were_changed_on_the_way_is_stale() {
    let mut world = World::new();
    let mut client = challenged(&mut world, 1000);
    client.style = Style::Old;
    let mut nonce = client.nonce().to_vec();
    assert_eq!(nonce[12], b'D');
    nonce[12] = b'C';
    client.set_nonce(&nonce);
    let packet = client.sealed(Method::ALLOCATE, wants_udp);
    client.send(&mut world, &packet).expect_error(ErrorCode::StaleNonce);
}

#[test]
fn a_nonce_is_good_for_its_client_and_its_time_alone() {
    let mut world = World::new();
    let first = challenged(&mut world, 1000);
    let refused = |world: &mut World, mut client: Client| {
        let packet = client.sealed(Method::ALLOCATE, wants_udp);
        let reply = client.send(world, &packet);
        reply.expect_error(ErrorCode::StaleNonce);
        for present in
            [AttributeType::NONCE, AttributeType::REALM, AttributeType::PASSWORD_ALGORITHMS]
        {
            assert!(reply.message().attribute(present).is_some());
        }
    };
    let mut other_port = first.clone();
    other_port.tuple = tuple(1001);
    refused(&mut world, other_port);
    let mut other_host = first.clone();
    other_host.tuple.client.set_ip([198, 51, 100, 3].into());
    refused(&mut world, other_host);
    for (at, flip) in [(0, 1), (12, 1), (13, 2), (20, 1), (30, 1)] {
        let mut changed = first.clone();
        let mut nonce = first.nonce().to_vec();
        nonce[at] ^= flip;
        changed.style = Style::Old;
        changed.set_nonce(&nonce);
        world.skip_s(1);
        refused(&mut world, changed);
    }
    let mut cut = first.clone();
    cut.set_nonce(&first.nonce()[..30]);
    refused(&mut world, cut);
    world.now = START;
    world.skip_s(3600);
    let mut last = first.clone();
    let packet = last.sealed(Method::ALLOCATE, wants_udp);
    last.send(&mut world, &packet).expect_success();
    let mut late = challenged(&mut world, 1002);
    world.skip_s(3601);
    let packet = late.sealed(Method::ALLOCATE, wants_udp);
    late.send(&mut world, &packet).expect_error(ErrorCode::StaleNonce);
    // A clock that was set back makes nonces of the future.
    let early = challenged(&mut world, 1003);
    world.now.unix_s -= 10;
    refused(&mut world, early);
}

#[test]
fn time_limited_users_are_let_in_until_their_time_and_keep_what_they_have() {
    let mut credentials = Credentials::new(REALM).unwrap();
    credentials.add_shared_secret(b"north").unwrap();
    let mut world = World::with(config(), credentials);
    let name = format!("{}:alice", START.unix_s + 60);
    let password = time_limited_password(b"north", &name);
    let mut early = Client::new(tuple(1000), &name, password.as_bytes());
    early.allocate(&mut world);
    world.pass_s(120);
    early.refresh(&mut world, None).expect_success();
    let mut late = Client::new(tuple(1001), &name, password.as_bytes());
    late.allocate_with(&mut world, |_| {}).expect_error(ErrorCode::Unauthenticated);
    let mut forged = Client::new(tuple(1002), &name, b"guessed");
    forged.allocate_with(&mut world, |_| {}).expect_error(ErrorCode::Unauthenticated);
}

#[test]
fn a_server_with_time_limited_users_asks_for_no_hashes() {
    let mut credentials = credentials();
    credentials.add_shared_secret(b"north").unwrap();
    let mut world = World::with(config(), credentials);
    let client = challenged(&mut world, 1000);
    let features = SecurityFeatures::of_nonce(client.nonce()).unwrap();
    assert!(!features.username_anonymity && features.password_algorithms);
}

#[test]
fn a_user_who_is_taken_out_can_no_longer_refresh_an_allocation() {
    let mut world = World::new();
    let mut alice = client(1000);
    alice.allocate(&mut world);
    let mut without_alice = Credentials::new(REALM).unwrap();
    without_alice.add_user("bob", b"builder").unwrap();
    world.server.set_credentials(Arc::new(without_alice));
    alice.refresh(&mut world, None).expect_error(ErrorCode::Unauthenticated);
    assert_eq!(world.server.allocations_len(), 1);
    world.pass_s(600);
    assert_eq!(world.server.allocations_len(), 0);
    let mut bob = Client::new(tuple(1001), "bob", b"builder");
    bob.allocate(&mut world);
}

#[test]
fn another_user_cannot_touch_an_allocation() {
    let mut world = World::new();
    let mut alice = client(1000);
    alice.allocate(&mut world);
    let mut bob = Client::new(tuple(1000), "bob", b"builder");
    let wrong: [fn(&mut Client, &mut World) -> Reply; 3] = [
        |bob, world| bob.refresh(world, Some(0)),
        |bob, world| bob.permit(world, &[crate::world::peer(1, 1)]),
        |bob, world| bob.bind(world, 0x4000, crate::world::peer(1, 1)),
    ];
    for ask in wrong {
        ask(&mut bob, &mut world).expect_error(ErrorCode::WrongCredentials);
    }
    bob.allocate_with(&mut world, |_| {}).expect_error(ErrorCode::AllocationMismatch);
    assert_eq!(world.server.allocations().next().unwrap().permissions, 0);
}
