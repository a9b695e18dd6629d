//! Nothing secret is in what the appliance writes about itself: not its key, not the nonces that let
//! their holder pose as a node's idle connection or as a caller.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use support::appliance::{Appliance, PortName, Settings};
use support::nodes::{connect, relay, route};
use support::streams::exchange;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::Visibility;
use waystation_peer::{IdlePool, RouteForm, secret_key};

const DOCUMENTS: [&str; 6] =
    ["/v1/status", "/v1/links", "/v1/sessions", "/v1/drops?all=true", "/metrics", "/v1/config"];

#[test]
fn nothing_secret_is_logged_or_shown() {
    for format in ["text", "json"] {
        let key = secret_key().unwrap();
        let settings = Settings::new(PortName::Epoll, 3)
            .logging("trace")
            .with("management", &format!("log_format = \"{format}\""))
            .with_key(&key);
        let mut appliance = Appliance::start(&settings);
        let mut secrets = vec![("the key", key.expose_bytes().to_vec())];
        let mut shown = Vec::new();
        for profile in Profile::ALL {
            let (caller, target) = (appliance.node(profile), appliance.node(profile));
            let registration = target.link.register(Visibility::Public).unwrap();
            secrets.push(("a registration", registration.nonce.to_be_bytes().to_vec()));
            let pool = IdlePool::start(registration, 2, true).unwrap();
            pool.wait_idling(2, support::STEP).unwrap();
            let (near, far) = connect(&caller, &target, &pool);
            exchange("a pipe", near, far, 10_000);
            let reserved = support::eventually("a reservation", || {
                caller.link.reserve(&target.identity()).ok()
            });
            secrets.push(("a reservation", reserved.nonce.to_be_bytes().to_vec()));
            let (near, far) = route(&caller, &target, RouteForm::G2);
            exchange("a session", near, far, 10_000);
            let (near, far, _) = relay(&caller, &target, "test.secrets");
            exchange("a relayed session", near, far, 10_000);
            secrets.push(("a node's key", target.key.expose_bytes().to_vec()));
            for path in DOCUMENTS {
                // Not every program has every document.
                shown.extend(appliance.ask(path).unwrap_or_default());
            }
        }
        assert!(appliance.stop().success());
        let log = appliance.process.log();
        assert!(log.len() > 1_000, "hardly anything was logged");
        shown.extend(log.into_bytes());
        for (what, secret) in secrets {
            for (form, text) in spellings(&secret) {
                let found = shown.windows(text.len()).any(|window| window == text);
                assert!(!found, "{what} is shown as {form}");
            }
        }
    }
}

/// The ways in which bytes come into text.
fn spellings(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut spellings = vec![
        ("raw bytes", secret.to_vec()),
        ("hex", hex.clone().into_bytes()),
        ("upper-case hex", hex.to_uppercase().into_bytes()),
        ("hex without zeros", hex.trim_start_matches('0').into()),
        ("a list of numbers", format!("{secret:?}").trim_matches(['[', ']']).into()),
        ("base64", base64(secret)),
    ];
    if let Ok(number) = secret.try_into().map(u64::from_be_bytes) {
        spellings.push(("a number", number.to_string().into_bytes()));
    }
    spellings
}

/// Without padding, which both kinds of base64 share up to two letters.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        let letters = chunk.len() + 1;
        text.extend((0..letters).map(|place| LETTERS[(bits >> (18 - 6 * place)) as usize & 63]));
    }
    text
}

#[test]
fn base64_is_what_others_write() {
    assert_eq!(base64(b"any carnal pleas"), b"YW55IGNhcm5hbCBwbGVhcw");
    assert_eq!(base64(b"any carnal pleasu"), b"YW55IGNhcm5hbCBwbGVhc3U");
}
