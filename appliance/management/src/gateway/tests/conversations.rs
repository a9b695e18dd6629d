//! What is said: worked traces, routes, listings, copies and refusals.

use super::*;

#[test]
fn worked_trace_of_g2_is_followed_to_the_byte() {
    let b = "02466d7fcae563e5cb09a0d1870bb580344804617879a14949cf22285f1bae3f27";
    assert_eq!(identity(B).to_string(), b);
    let mut bench = bench();
    bench.link(B, link_of(B), false);
    bench.link(A, link_of(A), false);
    bench.scripted.extend([0x1122_3344_5566_7788, 0x2233_4455_6677_8899]);

    let registered = bench.ask(B, "gateway.node_register?visibility=public");
    assert_eq!(
        hex::encode(bytes_of(&registered)),
        "126d6f642e676174657761792e736f636b657400000020106d6f642e7463702e656e64706f696e74\
         04c633640907031122334455667788"
    );
    for slot in [1, 2] {
        let commands = bench.present(socket(B, slot), 0x1122_3344_5566_7788);
        assert_kept(&commands, socket(B, slot));
    }

    let connected = bench.ask(A, &format!("gateway.node_connect?target={b}"));
    assert_eq!(
        hex::encode(bytes_of(&connected)),
        "126d6f642e676174657761792e736f636b657400000020106d6f642e7463702e656e64706f696e74\
         04c633640907032233445566778899"
    );
    let commands = bench.present(socket(A, 7), 0x2233_4455_6677_8899);
    assert_joined(&commands, (socket(A, 7), socket(B, 1)));

    let query = bench.query(A, link_of(A), &format!("gateway.node_route?target={b}"));
    let (leg, commands) = bench.ask_as(query.clone());
    let Command::Offer { caller, target, query: offered, .. } = one(commands) else { panic!() };
    assert_eq!((caller, target, offered), (leg, link_of(B), query.query));

    let counts = bench.node.counts();
    assert_eq!((counts.idle_sockets, counts.reservations, counts.joins_total), (1, 0, 1));
}

#[test]
fn worked_trace_of_g1_is_followed_to_the_byte() {
    let mut bench = bench();
    bench.link(B, link_of(B), false);
    bench.link(A, link_of(A), false);
    assert_eq!(
        hex::encode(bytes_of(&bench.ask(B, ".gateway.subscribe"))),
        "7b22537461747573223a226f6b222c22657870697265735f6174223a22323032352d31302d32315431323a\
         30303a30305a227d0a"
    );
    let text = format!(".gateway.{}", identity(B));
    let Command::Offer { target, query, .. } = bench.ask(A, &text) else { panic!() };
    assert_eq!((target, &*query), (link_of(B), text.as_bytes()));
    assert_rejected(&bench.ask(A, &format!(".gateway.{}", identity(OTHER))));
    assert_eq!(bench.node.counts().subscriptions_total, 1);
}

#[test]
fn route_to_this_node_ends_inside() {
    let mut bench = bench();
    let own = identity(GATEWAY);
    for text in [format!("gateway.node_route?target={own}"), format!(".gateway.{own}")] {
        let query = bench.query(A, link_of(A), &text);
        let (asked, commands) = bench.ask_as(query);
        assert!(matches!(one(commands), Command::TerminateInside { leg } if leg == asked));
        let mut query = bench.query(A, link_of(A), &text);
        query.inner = true;
        assert_rejected(&one(bench.ask_as(query).1));
    }
}

#[test]
fn route_takes_the_newest_outer_link() {
    let mut bench = bench();
    for (slot, inner) in [(1, false), (2, false), (3, true)] {
        bench.link(B, link(B, slot), inner);
    }
    let text = format!("gateway.node_route?target={}", identity(B));
    for slot in [2, 1, 3] {
        let Command::Offer { target, .. } = bench.ask(A, &text) else { panic!() };
        assert_eq!(target, link(B, slot));
        bench.unlink(B, target);
    }
    assert_rejected(&bench.ask(A, &text));
    assert_eq!(bench.node.counts().offers_total, 3);
    assert_eq!(bench.node.counts().refusals.events(DropReason::TargetNotReachable), 1);
}

#[test]
fn route_to_the_caller_never_returns_on_the_asking_link() {
    let mut bench = bench();
    bench.link(A, link_of(A), false);
    let text = format!("gateway.node_route?target={}", identity(A));
    assert_rejected(&bench.ask(A, &text));
    bench.link(A, link(A, 1), false);
    let Command::Offer { target, .. } = bench.ask(A, &text) else { panic!() };
    assert_eq!(target, link(A, 1));
}

#[test]
fn registering_again_keeps_the_nonce_and_changes_the_visibility() {
    let mut bench = bench();
    let nonce = bench.registered(B, 1);
    assert_eq!(listing(&mut bench), listing_of(&[B]));
    for (text, visible) in [
        ("gateway.node_register?visibility=private", false),
        ("gateway.node_register?visibility=public", true),
        ("gateway.node_register", false),
        ("gateway.node_register?visibility=public", true),
        ("gateway.node_register?visibility=secret", false),
    ] {
        assert_eq!(nonce_of(&bench.ask(B, text)), nonce);
        let wanted = if visible { listing_of(&[B]) } else { listing_of(&[]) };
        assert_eq!(listing(&mut bench), wanted, "{text}");
    }
    assert_eq!(bench.node.counts().registrations, 1);
    assert_eq!(bench.node.counts().idle_sockets, 1);
}

#[test]
fn caller_is_listed_too() {
    let mut bench = bench();
    bench.registered(B, 0);
    bench.registered(A, 0);
    assert_eq!(bytes_of(&bench.ask(A, "gateway.node_list")), listing_of(&[A, B]));
}

#[test]
fn long_listing_is_cut_and_goes_on_in_the_next_answer() {
    let mut bench = bench();
    let registered = u16::try_from(LISTED_IDENTITIES_MAX).unwrap() + 10;
    let mut all: Vec<_> = (0..registered).map(|number| identity(number + 0x100)).collect();
    all.sort();
    for number in 0..registered {
        bench.registered(number + 0x100, 0);
    }
    let object_bytes = object::identity(&all[0]).len();
    let objects = |identities: &[Identity]| -> Vec<u8> {
        identities.iter().flat_map(object::identity).collect()
    };
    let first = listing(&mut bench);
    let cut = first.len() - object::eos().len();
    assert_eq!(first[..cut], objects(&all[..LISTED_IDENTITIES_MAX]));
    assert_eq!(first[cut..], object::eos());
    let second = listing(&mut bench);
    assert_eq!(second.len(), first.len());
    assert_eq!(second[..10 * object_bytes], objects(&all[LISTED_IDENTITIES_MAX..]));
    assert_eq!(second[10 * object_bytes..cut], objects(&all[..LISTED_IDENTITIES_MAX - 10]));
}

#[test]
fn announced_address_is_handed_out() {
    let announce = "[2001:db8::9]:1791".parse().unwrap();
    let mut bench =
        Bench::new(GatewayLimits { announce: Some(announce), ..GatewayLimits::default() });
    bench.registered(B, 1);
    for answer in [bench.ask(B, "gateway.node_register"), bench.connect(A, B)] {
        let wanted = gateway::socket_object(&Endpoint::Tcp(announce), nonce_of(&answer));
        assert_eq!(bytes_of(&answer), wanted);
    }
}

/// An answer as text.
fn text_of(command: &Command) -> &str {
    str::from_utf8(bytes_of(command)).unwrap()
}

#[test]
fn answers_are_written_as_the_caller_asks() {
    let (mut bench, caller) = (bench(), identity(A));
    for number in [A, B] {
        bench.link(number, link_of(number), false);
    }
    let local = local_of(link_of(A));
    let public = "gateway.node_register?visibility=public";
    let answer = bench.ask(A, public);
    let nonce = nonce_of(&answer);
    let socket = gateway::socket_object(&Endpoint::Tcp(local), nonce);
    assert_eq!(bytes_of(&answer), socket);
    assert_eq!(bytes_of(&bench.ask(A, &format!("{public}&out=bin"))), socket);
    let wanted = format!(
        "{{\"Type\":\"mod.gateway.socket\",\"Object\":{{\"Endpoint\":{{\"Type\":\
         \"mod.tcp.endpoint\",\"Object\":\"{}\"}},\"Nonce\":\"{nonce:x}\"}}}}\n",
        local
    );
    assert_eq!(text_of(&bench.ask(A, &format!("{public}&out=json"))), wanted);

    let listed = bench.ask(B, "gateway.node_list?out=json");
    let wanted = format!("{{\"Type\":\"identity\",\"Object\":\"{caller}\"}}\n");
    assert_eq!(text_of(&listed), wanted + "{\"Type\":\"eos\",\"Object\":null}\n");
    let listed = bench.ask(B, "gateway.node_list?out=text");
    assert_eq!(text_of(&listed), format!("#[identity] {caller}\n#[eos] \n"));

    let refused = bench.ask(B, &format!("gateway.node_connect?target={caller}&out=json"));
    let wanted = "{\"Type\":\"error_message\",\"Object\":\"target not reachable\"}\n";
    assert_eq!(text_of(&refused), wanted);
    let ended = bench.ask(A, "gateway.node_unregister?out=json");
    assert_eq!(text_of(&ended), "{\"Type\":\"ack\",\"Object\":null}\n");
    let refused = bench.ask(A, "gateway.node_unregister?out=text");
    assert_eq!(text_of(&refused), "#[error_message] node not registered\n");
}

#[test]
fn unknown_encoding_gets_code_1_and_changes_nothing() {
    let mut bench = bench();
    bench.link(A, link_of(A), false);
    bench.ask(A, "gateway.node_register?visibility=public");
    for query in [
        "gateway.node_register?visibility=private&out=xml",
        "gateway.node_unregister?out=xml",
        "gateway.node_list?out=xml",
    ] {
        assert_rejected(&bench.ask(A, query));
    }
    assert_eq!(bench.node.counts().registrations_public, 1);
}

#[test]
fn inner_link_registers_only_next_to_an_outer_one() {
    let mut bench = bench();
    bench.link(B, link(B, 1), true);
    let ask = |bench: &mut Bench| {
        let mut query = bench.query(B, link(B, 1), "gateway.node_register?visibility=public");
        query.inner = true;
        one(bench.ask_as(query).1)
    };
    assert_rejected(&ask(&mut bench));
    bench.link(B, link(B, 2), false);
    let answer = ask(&mut bench);
    let outer = Endpoint::Tcp(local_of(link(B, 2)));
    assert_eq!(bytes_of(&answer), gateway::socket_object(&outer, nonce_of(&answer)));
}

#[test]
fn copies_of_a_raw_query_are_forgotten() {
    let mut bench = bench();
    for slot in 0..3 {
        bench.link(A, link(A, slot), false);
    }
    for (profile, forgotten) in [(Profile::P0, true), (Profile::P2, true), (Profile::P4, false)] {
        for slot in 0..3 {
            let mut query = bench.query(A, link(A, slot), "gateway.node_list");
            (query.profile, query.nonce) = (profile, 1000 + u64::from(forgotten));
            bench.now_ns += 1;
            let (asked, commands) = bench.ask_as(query);
            match one(commands) {
                Command::Answer { leg, .. } if slot == 0 || !forgotten => assert_eq!(leg, asked),
                Command::Forget { leg } if slot > 0 && forgotten => assert_eq!(leg, asked),
                command => panic!("{profile:?} {slot} {command:?}"),
            }
        }
        bench.now_ns += COPY_WINDOW_NS;
    }
    assert_eq!(bench.node.counts().refusals.events(DropReason::DuplicateNonce), 4);
}

#[test]
fn raw_nonce_of_an_ended_link_or_an_old_query_is_no_copy() {
    let mut bench = bench();
    let ask = |bench: &mut Bench, slot| {
        let mut query = bench.query(A, link(A, slot), "gateway.node_list");
        (query.profile, query.nonce) = (Profile::P0, 1);
        !matches!(one(bench.ask_as(query).1), Command::Forget { .. })
    };
    bench.link(A, link(A, 0), false);
    bench.link(A, link(A, 1), false);
    assert!(ask(&mut bench, 0));
    assert!(ask(&mut bench, 0), "the same link may use a nonce again");
    assert!(!ask(&mut bench, 1));
    bench.unlink(A, link(A, 0));
    assert!(ask(&mut bench, 1), "the first copy went with its link");
    bench.link(A, link(A, 2), false);
    bench.now_ns += COPY_WINDOW_NS - 1;
    assert!(!ask(&mut bench, 2));
    bench.now_ns += 1;
    assert!(ask(&mut bench, 2), "its caller has long given up");
}

#[test]
fn queries_remembered_are_bounded() {
    let mut bench = Bench::new(GatewayLimits { recent_queries_max: 4, ..GatewayLimits::default() });
    bench.link(A, link(A, 0), false);
    bench.link(A, link(A, 1), false);
    let ask = |bench: &mut Bench, slot, nonce| {
        let mut query = bench.query(A, link(A, slot), "gateway.node_list");
        (query.profile, query.nonce) = (Profile::P2, nonce);
        matches!(one(bench.ask_as(query).1), Command::Forget { .. })
    };
    for nonce in [1, 1, 2, 3, 4] {
        assert!(!ask(&mut bench, 0, nonce));
    }
    for nonce in 1..=4 {
        assert!(ask(&mut bench, 1, nonce), "{nonce}");
    }
    assert!(!ask(&mut bench, 0, 5));
    assert!(!ask(&mut bench, 1, 1), "pushed out");
    assert_eq!(bench.node.counts().recent_queries, 4);
}

#[test]
fn disabled_gateway_rejects_everything() {
    let mut bench = Bench::new(GatewayLimits { enabled: false, ..GatewayLimits::default() });
    bench.link(A, link_of(A), false);
    bench.link(B, link_of(B), false);
    let b = identity(B);
    for text in [
        "gateway.node_register?visibility=public".to_owned(),
        "gateway.node_unregister".to_owned(),
        "gateway.node_list".to_owned(),
        format!("gateway.node_connect?target={b}"),
        format!("gateway.node_route?target={b}"),
        format!("gateway.node_route?target={}", identity(GATEWAY)),
        ".gateway.subscribe".to_owned(),
        format!(".gateway.{b}"),
    ] {
        assert_rejected(&bench.ask(A, &text));
    }
    let saved = SavedRegistration { identity: b, nonce: 0x1122_3344_5566_7788, is_public: true };
    assert!(!bench.node.restore(0, saved));
    let commands = bench.present(socket(B, 1), saved.nonce);
    assert_closed(&commands, socket(B, 1), DropReason::SocketNonceUnknown);
}

#[test]
fn unknown_and_malformed_queries_get_code_1() {
    let mut bench = bench();
    let zero = "0".repeat(66);
    for text in ["nodes.new_link", "", "gateway", "gateway.node_registers"] {
        assert_rejected(&bench.ask(A, text));
    }
    assert_eq!(bench.node.counts().refusals.events(DropReason::UnknownQuery), 4);
    for text in [
        "gateway.node_connect".to_owned(),
        "gateway.node_connect?target=02".to_owned(),
        format!("gateway.node_connect?target={zero}"),
        format!("gateway.node_route?target={zero}"),
        "gateway.node_route?targets=1".to_owned(),
        ".gateway.someone".to_owned(),
    ] {
        assert_rejected(&bench.ask(A, &text));
    }
    assert_eq!(bench.node.counts().refusals.events(DropReason::MalformedQuery), 6);
}

#[test]
fn cancelled_query_changes_nothing() {
    let mut bench = bench();
    bench.registered(B, 1);
    let query = bench.query(A, link_of(A), &format!("gateway.node_connect?target={}", identity(B)));
    let (leg, commands) = bench.ask_as(query);
    let before = bench.node.counts();
    assert!(bench.tell(&Report::QueryCancelled { leg }).is_empty());
    assert_eq!(bench.node.counts(), before);
    let nonce = nonce_of(&one(commands));
    assert_joined(&bench.present(socket(A, 1), nonce), (socket(A, 1), socket(B, 1)));
}

#[test]
fn node_that_dialed_a_private_address_registers_and_is_told_that_one_port() {
    let mut bench = bench();
    let mut up = bench.up(B, link_of(B), false);
    (up.local, up.remote) =
        ("192.168.7.1:1791".parse().unwrap(), "192.168.7.9:4000".parse().unwrap());
    bench.tell(&Report::LinkUp(up.clone()));
    for text in ["gateway.node_register?visibility=private", "gateway.node_list"] {
        let mut query = bench.query(B, link_of(B), text);
        query.local = up.local;
        let command = one(bench.ask_as(query).1);
        if text == "gateway.node_list" {
            assert_eq!(bytes_of(&command), object::eos(), "it asked not to be listed");
        } else {
            let address = "106d6f642e7463702e656e64706f696e7404c0a8070106ff";
            assert!(
                hex::encode(bytes_of(&command)).contains(address),
                "{}",
                hex::encode(bytes_of(&command))
            );
        }
    }
}
