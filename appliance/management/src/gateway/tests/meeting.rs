//! Who meets whom: registrations, idle sockets, reservations, and their ends.

use super::*;

#[test]
fn registration_survives_its_link_for_a_day() {
    let mut bench = bench();
    let nonce = bench.registered(B, 1);
    bench.unlink(B, link_of(B));
    bench.now_ns += 2 * REGISTRATION_KEEP_NS;
    assert_eq!(bench.node.next_deadline_ns(), None, "an idle socket keeps it");

    bench.close(socket(B, 1));
    let due_ns = bench.now_ns + REGISTRATION_KEEP_NS;
    assert_eq!(bench.node.next_deadline_ns(), Some(due_ns));
    bench.tick(due_ns - 1);
    assert_eq!(bench.node.counts().registrations, 1);

    bench.link(B, link_of(B), false);
    assert_eq!(bench.node.next_deadline_ns(), None, "a link keeps it");
    assert_eq!(bench.register(B), nonce);
    bench.unlink(B, link_of(B));
    assert_eq!(bench.node.next_deadline_ns(), Some(due_ns));
    bench.now_ns = due_ns;
    let commands = bench.present(socket(B, 2), nonce);
    assert_closed(&commands, socket(B, 2), DropReason::SocketNonceUnknown);
    assert_eq!(bench.node.counts().registrations_expired_total, 1);
    assert_eq!(listing(&mut bench), listing_of(&[]));
}

#[test]
fn second_link_keeps_a_registration_awake() {
    let mut bench = bench();
    bench.registered(B, 0);
    bench.link(B, link(B, 1), true);
    bench.unlink(B, link_of(B));
    assert_eq!(bench.node.next_deadline_ns(), None);
    bench.unlink(B, link(B, 1));
    assert!(bench.node.next_deadline_ns().is_some());
}

#[test]
fn unregistering_closes_idle_sockets_and_voids_reservations() {
    let mut bench = bench();
    let nonce = bench.registered(B, 3);
    let reserved = nonce_of(&bench.connect(A, B));
    let query = bench.query(B, link_of(B), "gateway.node_unregister");
    let (asked, commands) = bench.ask_as(query);
    let mut closed = Vec::new();
    for command in &commands[1..] {
        let Command::CloseSocket { socket, .. } = command else { panic!("{command:?}") };
        closed.push(*socket);
    }
    assert!(matches!(&commands[0], Command::Answer { leg, bytes }
        if *leg == asked && **bytes == object::ack()));
    closed.sort();
    assert_eq!(closed, [socket(B, 1), socket(B, 2), socket(B, 3)]);
    for stale in [nonce, reserved] {
        let commands = bench.present(socket(A, 9), stale);
        assert_closed(&commands, socket(A, 9), DropReason::SocketNonceUnknown);
    }
    for slot in 1..=3 {
        bench.close(socket(B, slot));
    }
    assert_refused(&bench.ask(B, "gateway.node_unregister"), "node not registered");
    let counts = bench.node.counts();
    assert_eq!((counts.registrations, counts.idle_sockets, counts.reservations), (0, 0, 0));
    assert_eq!(bench.node.next_deadline_ns(), None);
    assert_ne!(bench.register(B), nonce);
}

#[test]
fn reservation_is_good_for_less_than_thirty_seconds() {
    let mut bench = bench();
    bench.registered(B, 2);
    let early = nonce_of(&bench.connect(A, B));
    let late = nonce_of(&bench.connect(A, B));
    let due_ns = bench.now_ns + 30 * SECOND_NS;
    assert_eq!(bench.node.next_deadline_ns(), Some(due_ns));

    bench.now_ns = due_ns - 1;
    assert_joined(&bench.present(socket(A, 1), early), (socket(A, 1), socket(B, 1)));
    bench.now_ns = due_ns;
    let commands = bench.present(socket(A, 2), late);
    assert_closed(&commands, socket(A, 2), DropReason::SocketNonceUnknown);
    assert_eq!(bench.node.counts().reservations_expired_total, 1);

    let again = nonce_of(&bench.connect(A, B));
    assert_joined(&bench.present(socket(A, 3), again), (socket(A, 3), socket(B, 2)));
}

#[test]
fn expired_reservation_gives_the_socket_its_seniority_back() {
    let mut bench = bench();
    bench.registered(B, 2);
    bench.connect(A, B);
    bench.now_ns += 30 * SECOND_NS;
    bench.tick(bench.now_ns);
    let nonce = nonce_of(&bench.connect(A, B));
    assert_joined(&bench.present(socket(A, 1), nonce), (socket(A, 1), socket(B, 1)));
}

#[test]
fn reservation_nonce_works_once() {
    let mut bench = bench();
    bench.registered(B, 2);
    let nonce = nonce_of(&bench.connect(A, B));
    assert_joined(&bench.present(socket(A, 1), nonce), (socket(A, 1), socket(B, 1)));
    let commands = bench.present(socket(A, 2), nonce);
    assert_closed(&commands, socket(A, 2), DropReason::SocketNonceUnknown);
}

#[test]
fn reserved_socket_that_died_is_replaced_while_another_waits() {
    let mut bench = bench();
    bench.registered(B, 2);
    let nonce = nonce_of(&bench.connect(A, B));
    bench.close(socket(B, 1));
    assert_joined(&bench.present(socket(A, 1), nonce), (socket(A, 1), socket(B, 2)));
}

#[test]
fn reservation_without_a_living_socket_is_void() {
    let mut bench = bench();
    let registration = bench.registered(B, 1);
    let nonce = nonce_of(&bench.connect(A, B));
    bench.close(socket(B, 1));
    assert_eq!(bench.node.counts().reservations, 0);
    assert_kept(&bench.present(socket(B, 2), registration), socket(B, 2));
    let commands = bench.present(socket(A, 1), nonce);
    assert_closed(&commands, socket(A, 1), DropReason::SocketNonceUnknown);
}

#[test]
fn connect_fails_in_band_without_an_idle_socket() {
    let mut bench = bench();
    assert_refused(&bench.connect(A, B), "target not reachable");
    bench.registered(B, 0);
    assert_refused(&bench.connect(A, B), "target not reachable");
    assert_refused(&bench.connect(A, GATEWAY), "target not reachable");
    assert_eq!(bench.node.counts().refusals.events(DropReason::TargetNotReachable), 3);
}

#[test]
fn one_caller_cannot_reserve_everything() {
    let limits = GatewayLimits {
        reservations_max: 3,
        reservations_per_caller_max: 2,
        ..GatewayLimits::default()
    };
    let mut bench = Bench::new(limits);
    bench.registered(B, 5);
    let first = nonce_of(&bench.connect(A, B));
    bench.connect(A, B);
    assert_refused(&bench.connect(A, B), "too many reservations");
    nonce_of(&bench.connect(OTHER, B));
    assert_refused(&bench.connect(OTHER, B), "too many reservations");
    bench.present(socket(A, 1), first);
    nonce_of(&bench.connect(A, B));
    assert_eq!(bench.node.counts().refusals.events(DropReason::ManagementBusy), 2);
}

#[test]
fn surplus_idle_socket_pushes_out_the_one_that_waited_longest() {
    let limits = GatewayLimits { idle_per_registration_max: 2, ..GatewayLimits::default() };
    let mut bench = Bench::new(limits);
    let nonce = bench.registered(B, 2);
    let commands = bench.present(socket(B, 3), nonce);
    assert_kept(&commands[..1], socket(B, 3));
    assert_closed(&commands[1..], socket(B, 1), DropReason::TooManyConnections);
    let reserved = nonce_of(&bench.connect(A, B));
    nonce_of(&bench.connect(A, B));
    let commands = bench.present(socket(B, 4), nonce);
    assert_closed(&commands, socket(B, 4), DropReason::TooManyConnections);
    assert_joined(&bench.present(socket(A, 1), reserved), (socket(A, 1), socket(B, 2)));
}

#[test]
fn flood_of_registrations_is_bounded_and_gives_way_to_the_living() {
    let limits = GatewayLimits { registrations_max: 3, ..GatewayLimits::default() };
    let mut bench = Bench::new(limits);
    for number in 0..50 {
        bench.now_ns += 1;
        bench.registered(number + 0x100, 0);
        bench.unlink(number + 0x100, link_of(number + 0x100));
        assert!(bench.node.counts().registrations <= 3);
    }
    bench.registered(A, 0);
    bench.registered(B, 1);
    bench.unlink(B, link_of(B));
    bench.registered(OTHER, 0);
    bench.link(0x200, link_of(0x200), false);
    let refused = bench.ask(0x200, "gateway.node_register?visibility=public");
    assert_refused(&refused, "too many registrations");
    assert_eq!(listing(&mut bench), listing_of(&[A, B, OTHER]));
    bench.close(socket(B, 1));
    bench.register(0x200);
    assert_eq!(listing(&mut bench), listing_of(&[A, OTHER, 0x200]));
}

#[test]
fn nonces_are_distinguishable_and_unique() {
    let mut bench = bench();
    bench.registered(B, 2);
    bench.link(A, link_of(A), false);
    let taken = bench.register(B);
    bench.scripted.extend([0x0011_2233_4455_6677, 0x0711_2233_4455_6677, taken, u64::MAX]);
    assert_eq!(bench.register(A), u64::MAX);
    bench.scripted.extend([u64::MAX, taken, 0x0800_0000_0000_0000]);
    assert_eq!(nonce_of(&bench.connect(A, B)), 0x0800_0000_0000_0000);
    bench.scripted.extend([0x0800_0000_0000_0000, 0x0900_0000_0000_0000]);
    assert_eq!(nonce_of(&bench.connect(A, B)), 0x0900_0000_0000_0000);
}

#[test]
fn source_without_a_usable_nonce_is_given_up() {
    let mut bench = bench();
    bench.registered(B, 1);
    bench.link(A, link_of(A), false);
    bench.scripted.extend([0; 64]);
    assert_refused(&bench.ask(A, "gateway.node_register?visibility=public"), "no nonce available");
    bench.scripted.extend([0; 64]);
    assert_refused(&bench.connect(A, B), "no nonce available");
    let counts = bench.node.counts();
    assert_eq!((counts.registrations, counts.idle_sockets, counts.reservations), (1, 1, 0));
}

#[test]
fn restored_registration_takes_its_old_idle_sockets() {
    let mut before = bench();
    let nonce = before.registered(B, 2);
    let saved: Vec<_> = before.node.saved_registrations().collect();
    assert!(!format!("{saved:?}").contains(&nonce.to_string()));

    let mut after = bench();
    for registration in saved {
        assert!(after.node.restore(after.now_ns, registration));
        assert!(!after.node.restore(after.now_ns, registration));
    }
    assert!(after.node.next_deadline_ns().is_some(), "unless its node never comes");
    assert_kept(&after.present(socket(B, 1), nonce), socket(B, 1));
    assert_eq!(after.node.next_deadline_ns(), None);
    nonce_of(&after.connect(A, B));
    let wanted = RegistrationRow {
        identity: identity(B),
        is_public: true,
        linked: false,
        idle_sockets: 0,
        reserved_sockets: 1,
    };
    assert_eq!(after.node.registrations().collect::<Vec<_>>(), [wanted]);
}

#[test]
fn socket_in_the_place_of_another_ends_it() {
    let mut bench = bench();
    let nonce = bench.registered(B, 1);
    assert!(bench.present(socket(B, 1), nonce).is_empty(), "repeated");
    let successor = SocketTag { generation: 1, ..socket(B, 1) };
    assert_kept(&bench.present(successor, nonce), successor);
    bench.close(socket(B, 1));
    assert_eq!(bench.node.counts().idle_sockets, 1);
    let reserved = nonce_of(&bench.connect(A, B));
    assert_joined(&bench.present(socket(A, 1), reserved), (socket(A, 1), successor));
}

#[test]
fn table_memory_grows_with_the_sockets_only_as_far_as_they_may_idle() {
    let limits = GatewayLimits::default();
    assert!(limits.table_bytes_max(0) < limits.table_bytes_max(16_384));
    assert!(limits.table_bytes_max(16_384) <= 80 << 20);
    let few = GatewayLimits { registrations_max: 1, ..limits };
    assert_eq!(few.table_bytes_max(16), few.table_bytes_max(usize::MAX));
}
