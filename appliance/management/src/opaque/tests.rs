//! Which core and ports sessions get, and what is done when a core refuses.

use super::*;
use std::io;
use waystation_engine::core::PortError;

fn wish(ends: [&str; 2], ports: [Option<u16>; 2]) -> Wish {
    Wish {
        name: None,
        ends: ends.map(|end| end.parse().unwrap()),
        ports,
        protocol: UdpProtocol::Opaque,
        public_keys: [None; 2],
        rate: RateLimit::default(),
        idle_limit_ns: 600_000_000_000,
    }
}

fn plain() -> Wish {
    wish(["9.9.9.9:1", "9.9.9.8:1"], [None; 2])
}

fn table(cores: usize) -> OpaqueTable {
    OpaqueTable::new(cores, 2, 100..=109)
}

fn open(table: &mut OpaqueTable, wish: Wish) -> (OpaqueRequest, CoreId, Box<Settings>) {
    match table.open(wish, &mut || [7; 32]).unwrap() {
        (request, core, Command::OpenUdp { request: asked, settings }) if request == asked => {
            (request, core, settings)
        }
        other => panic!("{other:?}"),
    }
}

fn ports(settings: &Settings) -> [u16; 2] {
    [settings.legs[0].port.0, settings.legs[1].port.0]
}

fn tag(core: CoreId, slot: u32) -> UdpSessionTag {
    UdpSessionTag { core, slot, generation: 0 }
}

#[test]
fn sessions_spread_over_cores_until_all_are_full() {
    let mut table = table(2);
    let mut cores = Vec::new();
    for slot in 0..4 {
        let (request, core, _) = open(&mut table, plain());
        table.opened(request, Ok(tag(core, slot))).unwrap();
        cores.push((core, slot));
    }
    assert_eq!(cores.iter().filter(|(core, _)| *core == CoreId(0)).count(), 2);
    let full = table.open(plain(), &mut || [7; 32]);
    assert_eq!(full.unwrap_err(), OpenRefusal::TooManySessions);
    let (core, slot) = cores[0];
    assert_eq!(table.ended(tag(core, slot)).unwrap().ports, [100, 101]);
    assert_eq!(open(&mut table, plain()).1, core);
    assert_eq!(table.ended(tag(core, slot)), None, "it has ended already");
}

#[test]
fn only_ends_that_prove_something_get_a_token() {
    let mut table = table(1);
    let (request, core, settings) =
        open(&mut table, wish(["learn", "9.9.9.9:1"], [Some(105), None]));
    assert!(matches!(settings.legs[0].learning, Learning::Proof { first: None, .. }));
    assert!(matches!(settings.legs[1].learning, Learning::Fixed(_)));
    assert_eq!(ports(&settings), [105, 100]);
    let Some(Opening::Opened { session, tokens: [Some(token), None] }) =
        table.opened(request, Ok(tag(core, 3)))
    else {
        panic!("no session");
    };
    // The name of the leg as proofs carry it, then the secret.
    assert_eq!(*token.text(), format!("0000{:08x}00000000{}", 6, "07".repeat(32)));
    assert_eq!(format!("{token:?}"), "Token");
    assert_eq!(table.get(session).unwrap().wish.learning_name(Side::A), "token");
    assert_eq!(table.get(session).unwrap().wish.learning_name(Side::B), "fixed");
}

#[test]
fn port_of_another_program_is_passed_over_but_not_one_that_was_named() {
    let refused = |port: u16| {
        let source = io::Error::from(io::ErrorKind::AddrInUse);
        Err(PortError { port: LocalPort(port), address: [0, 0, 0, 0].into(), source }.into())
    };
    let mut table = table(1);
    let (request, core, settings) = open(&mut table, plain());
    assert_eq!(ports(&settings), [100, 101]);
    let Some(Opening::Again(again, Command::OpenUdp { request, settings })) =
        table.opened(request, refused(100))
    else {
        panic!("given up");
    };
    assert_eq!((again, ports(&settings)), (core, [102, 103]));
    table.opened(request, Ok(tag(core, 0))).unwrap();

    let (request, _, _) = open(&mut table, wish(["9.9.9.9:1", "9.9.9.8:1"], [Some(108), None]));
    let Some(Opening::Failed { message, .. }) = table.opened(request, refused(108)) else {
        panic!("not given up");
    };
    assert!(message.contains("108"), "{message}");
    assert_eq!(open(&mut table, plain()).2.legs.len(), 2, "the place is free again");
}

#[test]
fn tries_have_an_end() {
    let mut table = OpaqueTable::new(1, 2, 100..=199);
    let (mut request, _, mut settings) = open(&mut table, plain());
    for tries in 1.. {
        let source = io::Error::from(io::ErrorKind::AddrInUse);
        let port = settings.legs[0].port;
        let error = PortError { port, address: [0, 0, 0, 0].into(), source };
        match table.opened(request, Err(error.into())).unwrap() {
            Opening::Again(_, Command::OpenUdp { request: next, settings: other }) => {
                (request, settings) = (next, other);
            }
            Opening::Failed { .. } => {
                assert_eq!(tries, UDP_PORT_TRIES_MAX);
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn sessions_of_the_configuration_are_found_by_name() {
    let mut table = table(1);
    let named = Wish { name: Some("hub".into()), ..plain() };
    let (request, core, _) = open(&mut table, named.clone());
    assert!(table.has_name("hub") && table.named().next().is_none());
    table.opened(request, Ok(tag(core, 0))).unwrap();
    assert_eq!(table.named().next().unwrap(), (tag(core, 0), "hub", &named));
    table.moved(tag(core, 0), [None, Some("9.9.9.7:2".parse().unwrap())]);
    let known = table.ended(tag(core, 0)).unwrap();
    assert_eq!(known.addresses, [None, Some("9.9.9.7:2".parse().unwrap())]);
    assert!(!table.has_name("hub"));
}
