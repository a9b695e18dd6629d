//! The responder's side: dual greeting, prelude, refusals.

use super::*;

#[test]
fn fixed_acceptors_send_the_stock_bytes() {
    let vectors = vectors();
    let late = late_frames();
    for profile in Profile::ALL {
        let vector = &vectors[profile.name().to_uppercase()];
        let (greeting, choice, answer) = match profile {
            Profile::P0 => (
                unhex(&vector["responder_1_features"]),
                &vector["initiator_2_choice"],
                unhex(&vector["responder_3_status_ok"]),
            ),
            Profile::P2 => (
                unhex(&vector["responder_1_features"]),
                &vector["initiator_2_choice"],
                [&vector["responder_3_status_ok"], &vector["responder_4_link_id"]]
                    .map(unhex)
                    .concat(),
            ),
            Profile::P4 => (
                [&vector["responder_1_count"], &vector["responder_2_feature"]].map(unhex).concat(),
                &vector["initiator_3_choice"],
                [&vector["responder_4_status_ok"], &vector["responder_5_link_id"]]
                    .map(unhex)
                    .concat(),
            ),
        };
        let make = || Acceptor::fixed(profile, LINK_ID);
        assert_eq!(make().greeting(), greeting);
        let frames = encoded(profile, &late);
        let outcome = in_every_segmentation(make, &[unhex(choice), frames.clone()].concat());
        let link_id = (profile != Profile::P0).then_some(LINK_ID);
        assert_eq!(outcome, Outcome { reply: answer, result: Ok(up(profile, link_id, frames)) });
    }
}

#[test]
fn raw_answer_to_the_dual_greeting_is_the_prelude_of_the_vectors() {
    let outcome = negotiate(&mut Acceptor::new(LINK_ID, RANDOM), [&b"\x04mux2"[..]]);
    let prelude = unhex(&vectors()["raw_prelude_after_dual_greeting"]["hex"]);
    assert_eq!(outcome, Outcome { reply: prelude, result: Ok(None) });
}

#[test]
fn stock_initiators_of_every_profile_are_recognised() {
    for profile in Profile::ALL {
        for (early, late) in [(false, false), (true, false), (false, true), (true, true)] {
            let make = || Acceptor::new(LINK_ID, RANDOM);
            let mut stock = StockInitiator::greeted(profile, make().greeting());
            let answer = negotiate(&mut make(), [&stock.sent[..]]).reply;
            stock.answered(&answer);
            let early = if early { encoded(profile, &early_frames()) } else { Vec::new() };
            let late = if late { encoded(profile, &late_frames()) } else { Vec::new() };
            let pongs = stock.pongs.concat();
            let stream = [&stock.sent[..], &early, &pongs, &late].concat();
            let outcome = in_every_segmentation(make, &stream);
            assert_eq!(outcome.reply, answer);
            let (link_id, pongs, later_pongs) = match profile {
                Profile::P0 => (None, 1, Vec::new()),
                Profile::P2 => (Some(PRELUDE_LINK_ID), 2, stock.pongs[1].clone()),
                Profile::P4 => (Some(LINK_ID), 0, Vec::new()),
            };
            assert_eq!(stock.pongs.len(), pongs);
            assert_eq!(stock.link_id, link_id);
            let leftover = [early, later_pongs, late].concat();
            assert_eq!(outcome.result, Ok(up(profile, link_id, leftover)));
        }
    }
}

#[test]
fn acceptor_waits_for_a_slow_pong_and_ignores_strange_ones() {
    for profile in [Profile::P0, Profile::P2] {
        let mut acceptor = Acceptor::new(LINK_ID, RANDOM);
        let mut stock = StockInitiator::greeted(profile, acceptor.greeting());
        let mut answer = Vec::new();
        assert_eq!(acceptor.receive(&stock.sent, &mut answer), Ok(Progress::More));
        stock.answered(&answer);
        answer.clear();
        let mut expected = Vec::new();
        for round in 0..50 {
            let frames = encoded(profile, &[ping(round, false), ping(!round, true), push_query()]);
            assert_eq!(acceptor.receive(&frames, &mut answer), Ok(Progress::More));
            expected.extend_from_slice(&frames);
        }
        let link_id = (profile == Profile::P2).then_some(PRELUDE_LINK_ID);
        let (cut, end) = stock.pongs[0].split_at(9);
        assert_eq!(acceptor.receive(cut, &mut answer), Ok(Progress::More));
        let done = acceptor.receive(end, &mut answer);
        assert_eq!(done, Ok(Progress::Done(up(profile, link_id, expected).unwrap())));
        assert!(answer.is_empty(), "until then nothing is answered");
    }
}

#[test]
fn prelude_nonces_differ_whatever_the_random_bytes() {
    for random in [[0; PRELUDE_RANDOM_BYTES], [5; PRELUDE_RANDOM_BYTES], [0xff; 20]] {
        for profile in [Profile::P0, Profile::P2] {
            let mut acceptor = Acceptor::new(LINK_ID, random);
            let mut stock = StockInitiator::greeted(profile, acceptor.greeting());
            let answer = negotiate(&mut acceptor, [&stock.sent[..]]).reply;
            stock.answered(&answer);
            let mut reply = Vec::new();
            let Ok(Progress::Done(link)) = acceptor.receive(&stock.pongs[0], &mut reply) else {
                panic!("{profile} {random:?}")
            };
            assert_eq!((link.profile, link.link_id), (profile, stock.link_id));
        }
    }
}

#[test]
fn acceptor_refuses_other_choices_as_stock_does() {
    let vectors = vectors();
    let dual = || Acceptor::new(LINK_ID, RANDOM);
    let raw_status = unhex(&vectors["P0"]["responder_3_status_refused"]);
    for choice in [&b"\x04mux3"[..], b"\x00", b"\x03abc", b"\x05uint9", b"\x0derror_messagf"] {
        let (error, farewell) = refused_by(dual, choice);
        assert_eq!(error, NegotiationError::ChoiceRefused { family: Family::Raw });
        assert_eq!(farewell, Farewell { bytes: raw_status.clone(), reset: false });
        assert_eq!(refused_by(|| Acceptor::fixed(Profile::P2, 1), choice), (error, farewell));
    }
    let object_status = unhex(&vectors["P4"]["responder_4_status_refused"]);
    for make in [dual, || Acceptor::fixed(Profile::P4, LINK_ID)] {
        let (error, farewell) = refused_by(make, b"\x07string8\x00\x00\x00\x05\x04mux3");
        assert_eq!(error, NegotiationError::ChoiceRefused { family: Family::Object });
        assert_eq!(farewell, Farewell { bytes: object_status.clone(), reset: false });
    }
}

#[test]
fn acceptor_takes_an_error_message_for_the_peers_refusal() {
    let refusal = unhex(&vectors()["P4"]["refusal_instead_of_any_object"]);
    for make in [|| Acceptor::new(LINK_ID, RANDOM), || Acceptor::fixed(Profile::P4, LINK_ID)] {
        let (error, farewell) = refused_by(make, &refusal);
        assert_eq!(error, NegotiationError::PeerRefused { text: "not welcome".to_owned() });
        assert_eq!(farewell, Farewell::RESET);
    }
}

#[test]
fn acceptor_resets_after_objects_that_are_no_choice() {
    let awaited = "string8";
    let too_long = NegotiationError::Object(ObjectError::PayloadTooLong {
        bytes: 0xffff_ffff,
        limit_bytes: 4096,
    });
    for (stream, error) in [
        (&b"\x05uint8\x00\x00\x00\x01\x00"[..], NegotiationError::UnexpectedObject { awaited }),
        (b"\x07string8\x00\x00\x00\x00", NegotiationError::ValueTooShort { awaited }),
        (b"\x07string8\x00\x00\x00\x04\x04mux", NegotiationError::ValueTooShort { awaited }),
        (b"\x07string8\xff\xff\xff\xff", too_long),
    ] {
        let discovering = refused_by(|| Acceptor::new(LINK_ID, RANDOM), stream);
        assert_eq!(discovering, (error, Farewell::RESET), "{}", stream.escape_ascii());
        assert_eq!(refused_by(|| Acceptor::fixed(Profile::P4, 1), stream), discovering);
    }
    for stream in [&b"\x00\x00\x00\x00\x00"[..], b"\x03ack\x00\x00\x00\x00"] {
        let refused = refused_by(|| Acceptor::fixed(Profile::P4, 1), stream);
        assert_eq!(refused, (NegotiationError::UnexpectedObject { awaited }, Farewell::RESET));
    }
}

#[test]
fn choice_with_surplus_bytes_is_a_choice() {
    let choice = b"\x07string8\x00\x00\x00\x08\x04mux2abc";
    let outcome = in_every_segmentation(|| Acceptor::new(LINK_ID, RANDOM), choice);
    assert_eq!(outcome.result, Ok(up(Profile::P4, Some(LINK_ID), Vec::new())));
}

#[test]
fn other_frames_before_the_prelude_pong_are_refused() {
    let pong = encoded(Profile::P0, &[ping(9, true)]);
    let stream = [RAW_CHOICE, &pong, b"\x02"].concat();
    let (error, farewell) = refused_by(|| Acceptor::new(LINK_ID, RANDOM), &stream);
    assert_eq!(error, NegotiationError::UnexpectedFrame { opcode: 2 });
    assert_eq!(farewell, close());
}
