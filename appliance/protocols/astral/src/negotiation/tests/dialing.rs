//! The initiator's side: greetings of every family, whole and in pieces.

use super::*;

/// Everything a stock responder sends, early frames before its answer to our ping and late ones
/// behind it; and what is left over of it.
fn stock_responder(greeting: &[u8], profile: Profile, pong: bool) -> (Vec<u8>, Vec<u8>) {
    let id = LINK_ID.to_be_bytes();
    let opening = match profile {
        Profile::P0 => vec![0],
        Profile::P2 => [&[0], &id[..]].concat(),
        Profile::P4 => {
            [&b"\x05uint8\x00\x00\x00\x01\x00"[..], &crate::object::nonce64(LINK_ID)].concat()
        }
    };
    let early = encoded(profile, &early_frames());
    let late = encoded(profile, &late_frames());
    let pong = if pong { encoded(profile, &[ping(PING_NONCE, true)]) } else { Vec::new() };
    ([greeting, &opening, &early, &pong, &late].concat(), [early, late].concat())
}

#[test]
fn dialer_recognises_stock_responders_of_every_profile() {
    let vectors = vectors();
    for profile in Profile::ALL {
        let (greetings, choice): (Vec<Vec<u8>>, &[u8]) = match profile {
            Profile::P0 | Profile::P2 => (
                vec![RAW_GREETING.to_vec(), unhex(&vectors["extra_features_example_raw"])],
                RAW_CHOICE,
            ),
            Profile::P4 => (
                vec![OBJECT_GREETING.to_vec(), unhex(&vectors["extra_features_example_P4"])],
                OBJECT_CHOICE,
            ),
        };
        let our_ping = match profile {
            Profile::P0 | Profile::P2 => encoded(profile, &[ping(PING_NONCE, false)]),
            Profile::P4 => Vec::new(),
        };
        let link_id = (profile != Profile::P0).then_some(LINK_ID);
        for greeting in greetings {
            let (stream, leftover) = stock_responder(&greeting, profile, profile != Profile::P4);
            let outcome = in_every_segmentation(|| Dialer::new(PING_NONCE), &stream);
            assert_eq!(outcome.reply, [choice, &our_ping].concat());
            assert_eq!(outcome.result, Ok(up(profile, link_id, leftover)));

            let (stream, leftover) = stock_responder(&greeting, profile, false);
            let outcome = in_every_segmentation(|| Dialer::fixed(profile), &stream);
            assert_eq!(outcome.reply, choice);
            assert_eq!(outcome.result, Ok(up(profile, link_id, leftover)));
        }
    }
}

#[test]
fn dialer_finds_the_pong_behind_link_ids_that_look_like_frames() {
    // A ping's and a query's opcode, and a query whose length swallows everything.
    for link_id in
        [0_u64, 0x01ff_ffff_ffff_ffff, 0x0001_0203_0405_0607, 0x0100_0000_0000_0000, 2 << 56]
    {
        let pong = encoded(Profile::P2, &[ping(PING_NONCE, true)]);
        let early = encoded(Profile::P2, &early_frames());
        let id = link_id.to_be_bytes();
        let stream = [RAW_GREETING, &[0], &id, &early, &pong].concat();
        let outcome = in_every_segmentation(|| Dialer::new(PING_NONCE), &stream);
        assert_eq!(outcome.result, Ok(up(Profile::P2, Some(link_id), early)));
    }
}

#[test]
fn dialer_sends_its_choice_and_ping_as_soon_as_they_are_due() {
    let mut dialer = Dialer::new(PING_NONCE);
    let mut reply = Vec::new();
    assert_eq!(dialer.receive(RAW_GREETING, &mut reply), Ok(Progress::More));
    assert_eq!(reply, RAW_CHOICE);
    reply.clear();
    assert_eq!(dialer.receive(&[0], &mut reply), Ok(Progress::More));
    assert_eq!(reply, encoded(Profile::P0, &[ping(PING_NONCE, false)]));
}

#[test]
fn dialer_refuses_greetings_without_the_feature() {
    for make in [|| Dialer::new(PING_NONCE), || Dialer::fixed(Profile::P0)] {
        for greeting in [&b"\x00\x00"[..], b"\x00\x02\x04mux3\x00"] {
            let (error, farewell) = refused_by(make, greeting);
            assert_eq!(error, NegotiationError::FeatureMissing { family: Family::Raw });
            assert_eq!(farewell, close());
        }
    }
    for make in [|| Dialer::new(PING_NONCE), || Dialer::fixed(Profile::P4)] {
        let greeting = b"\x06uint16\x00\x00\x00\x02\x00\x01\x07string8\x00\x00\x00\x05\x04mux3";
        let (error, farewell) = refused_by(make, greeting);
        assert_eq!(error, NegotiationError::FeatureMissing { family: Family::Object });
        assert_eq!(farewell, Farewell::refusal("mux2 is required"));
        assert!(farewell.bytes.starts_with(b"\x0derror_message"));
    }
}

#[test]
fn dialer_refuses_a_refusing_status() {
    let (error, farewell) = refused_by(|| Dialer::new(PING_NONCE), b"\x00\x01\x04mux2\x01");
    assert_eq!(error, NegotiationError::StatusRefused { family: Family::Raw, status: 1 });
    assert_eq!(farewell, close());
    let refused = unhex(&vectors()["P4"]["responder_4_status_refused"]);
    let stream = [OBJECT_GREETING, &refused].concat();
    let (error, farewell) = refused_by(|| Dialer::new(PING_NONCE), &stream);
    assert_eq!(error, NegotiationError::StatusRefused { family: Family::Object, status: 1 });
    assert_eq!(farewell, Farewell::RESET, "a clean close here could kill a stock node");
}

#[test]
fn dialer_takes_an_error_message_for_a_refusal_at_every_step() {
    let refusal = unhex(&vectors()["P4"]["refusal_instead_of_any_object"]);
    let status = unhex(&vectors()["P4"]["responder_4_status_ok"]);
    let count = &OBJECT_GREETING[..13];
    for before in [&[][..], count, OBJECT_GREETING, &[OBJECT_GREETING, &status].concat()] {
        let stream = [before, &refusal].concat();
        let (error, farewell) = refused_by(|| Dialer::new(PING_NONCE), &stream);
        assert_eq!(error, NegotiationError::PeerRefused { text: "not welcome".to_owned() });
        assert_eq!(farewell, Farewell::RESET);
    }
}

#[test]
fn long_texts_of_a_refusing_peer_are_cut() {
    let refusal = crate::object::error_message(&"x".repeat(3000));
    let (error, _) = refused_by(|| Dialer::new(PING_NONCE), &refusal);
    assert_eq!(error, NegotiationError::PeerRefused { text: "x".repeat(PEER_TEXT_BYTES_MAX) });
}

#[test]
fn dialer_resets_after_objects_out_of_place() {
    let count = &OBJECT_GREETING[..13];
    let nonce = crate::object::nonce64(1);
    for (before, awaited) in [
        (&[][..], "uint16"),
        (count, "string8"),
        (OBJECT_GREETING, "uint8"),
        (&[OBJECT_GREETING, b"\x05uint8\x00\x00\x00\x01\x00"].concat(), "nonce64"),
    ] {
        let stranger: &[u8] = if awaited == "nonce64" { OBJECT_CHOICE } else { &nonce };
        let stream = [before, stranger].concat();
        let refused = refused_by(|| Dialer::fixed(Profile::P4), &stream);
        assert_eq!(refused, (NegotiationError::UnexpectedObject { awaited }, Farewell::RESET));

        let tag = [&[awaited.len() as u8], awaited.as_bytes()].concat();
        let stream = [before, &tag, &[0, 0, 0, 0]].concat();
        let refused = refused_by(|| Dialer::fixed(Profile::P4), &stream);
        assert_eq!(refused, (NegotiationError::ValueTooShort { awaited }, Farewell::RESET));
    }
}

#[test]
fn greetings_are_bounded() {
    let (error, farewell) = refused_by(|| Dialer::new(PING_NONCE), b"\x10\x01");
    assert_eq!(error, NegotiationError::TooManyFeatures { family: Family::Raw, count: 4097 });
    assert_eq!(farewell, close());
    let (error, farewell) =
        refused_by(|| Dialer::new(PING_NONCE), b"\x06uint16\x00\x00\x00\x02\x10\x01");
    assert_eq!(error, NegotiationError::TooManyFeatures { family: Family::Object, count: 4097 });
    assert_eq!(farewell, Farewell::RESET);

    let mut long = vec![0x10, 0x00];
    for _ in 0..4096 {
        long.push(255);
        long.extend_from_slice(&[b'f'; 255]);
    }
    let outcome = negotiate(&mut Dialer::new(PING_NONCE), long.chunks(1000));
    assert_eq!(outcome.result, Err(NegotiationError::GreetingTooLong { family: Family::Raw }));
    assert!(outcome.reply.is_empty());
}

#[test]
fn bytes_that_fit_no_raw_profile_are_refused() {
    let stream = [RAW_GREETING, &[0], &[9; 9]].concat();
    let (error, farewell) = refused_by(|| Dialer::new(PING_NONCE), &stream);
    assert_eq!(error, NegotiationError::NoProfileFits);
    assert_eq!(farewell, close());
}

#[test]
fn every_truncation_waits_for_more() {
    for profile in Profile::ALL {
        let greeting = if profile == Profile::P4 { OBJECT_GREETING } else { RAW_GREETING };
        let (stream, leftover) = stock_responder(greeting, profile, true);
        let late_bytes = encoded(profile, &late_frames()).len();
        let done_at = match profile {
            Profile::P0 | Profile::P2 => stream.len() - late_bytes,
            Profile::P4 => stream.len() - leftover.len() - encoded(profile, &[ping(1, true)]).len(),
        };
        for end in 0..stream.len() {
            let outcome = negotiate(&mut Dialer::new(PING_NONCE), [&stream[..end]]);
            assert_eq!(outcome.result.unwrap().is_some(), end >= done_at, "{profile} to {end}");
        }
    }
}
