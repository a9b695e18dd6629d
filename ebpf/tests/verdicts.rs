//! Named frames and what the program in the kernel does with each: verdict, action, and every byte.
//!
//! The same frames go through the classifier, whose answer has to be the same.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use support::world::*;
use waystation_ebpf::{
    abi::{Port, Verdict},
    classifier::Known,
};
use waystation_proving::frame::*;

const WAN: &str = "198.51.100.1:3478";
const WAN6: &str = "[2001:db8:1::1]:3478";
const CLIENT: &str = "198.51.100.7:5000";
const CLIENT6: &str = "[2001:db8:1::7]:5000";
/// A relayed transport address, and the peer behind it.
const RELAYED: &str = "198.51.100.1:49200";
const PEER: &str = "198.51.100.9:9000";

struct Fixture {
    name: &'static str,
    frame: Vec<u8>,
    verdict: Verdict,
}

fn fixture(name: &'static str, frame: Vec<u8>, verdict: Verdict) -> Fixture {
    Fixture { name, frame, verdict }
}

/// A frame with a change.
fn spoilt(udp: &Udp, spoil: impl FnOnce(&mut Vec<u8>, usize)) -> Vec<u8> {
    let mut frame = udp.frame();
    spoil(&mut frame, udp.ip_at());
    frame
}

/// As [`spoilt`], with the checksum of the IPv4 header made right again.
fn mended(udp: &Udp, spoil: impl FnOnce(&mut Vec<u8>, usize)) -> Vec<u8> {
    let mut frame = spoilt(udp, spoil);
    mend_header(&mut frame, udp.ip_at());
    frame
}

/// Sessions of every kind: a client with two channels, a peer, opaque sessions of one and between
/// families, out of other interfaces, on a VLAN, and those that cannot be relayed.
fn staged() -> Stage {
    let mut stage = Stage::new();
    stage.know(CLIENT, WAN, None, Known::Steered);
    stage.know(CLIENT, WAN, Some(0x4001), relayed(RELAYED, PEER, None));
    stage.know(PEER, RELAYED, None, relayed(WAN, CLIENT, Some(0x4001)));
    stage.know(CLIENT, WAN, Some(0x4002), relayed("203.0.113.1:49200", "203.0.113.7:9", None));
    stage.know(CLIENT, WAN, Some(0x4fff), relayed(WAN, PEER, Some(0x4000)));
    stage.know(CLIENT, WAN, Some(0x5000), relayed(RELAYED, PEER, None));
    stage.know(CLIENT, WAN, Some(0x7fff), relayed(WAN, PEER, Some(0x6abc)));
    stage.know(CLIENT6, WAN6, None, Known::Steered);
    let v6_relayed = "[2001:db8:1::1]:49201";
    stage.know(CLIENT6, WAN6, Some(0x4001), relayed(v6_relayed, "[2001:db8:2::7]:9", None));
    stage.know(CLIENT6, WAN6, Some(0x4002), relayed(RELAYED, PEER, None));
    stage.know(
        "198.51.100.7:6000",
        "198.51.100.1:49210",
        None,
        relayed("198.51.100.1:49211", "198.51.100.9:6001", None),
    );
    stage.know(
        "198.51.100.9:6001",
        "198.51.100.1:49211",
        None,
        relayed("198.51.100.1:49210", "198.51.100.7:6000", None),
    );
    stage.know(
        "198.51.100.7:6002",
        "198.51.100.1:49212",
        None,
        relayed(v6_relayed, "[2001:db8:2::7]:6003", None),
    );
    stage.know(
        "[2001:db8:1::7]:6004",
        "[2001:db8:1::1]:49213",
        None,
        relayed("198.51.100.1:49214", "198.51.100.9:6005", None),
    );
    stage.know(
        "[2001:db8:1::7]:6006",
        "[2001:db8:1::1]:49215",
        None,
        relayed(v6_relayed, "[2001:db8:1::7]:6007", None),
    );
    stage.know(
        "10.7.0.7:6008",
        "10.7.0.1:49216",
        None,
        relayed("10.7.0.1:49217", "10.7.0.7:6009", None),
    );
    stage.know(
        "10.7.0.7:6010",
        "10.7.0.1:49218",
        None,
        relayed("198.51.100.1:49219", "198.51.100.9:6011", None),
    );
    stage.know(
        "198.51.100.7:6012",
        "198.51.100.1:49220",
        None,
        relayed("192.0.2.1:49221", "192.0.2.7:6013", None),
    );
    stage.know(
        "198.51.100.7:6014",
        "198.51.100.1:49222",
        None,
        relayed("198.51.100.1:49223", "198.51.100.66:6015", None),
    );
    stage.know(
        "198.51.100.7:6016",
        "198.51.100.1:49224",
        None,
        relayed("198.51.100.1:49225", "172.16.0.1:6017", None),
    );
    stage.know(
        "198.51.100.7:6018",
        "198.51.100.1:49226",
        None,
        Known::Relayed {
            from: socket("198.51.100.1:49227"),
            to: socket("198.51.100.9:6019"),
            channel: None,
            is_over_rate: true,
            transport_for: None,
        },
    );
    let indices = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [9, 10, 11, 12]];
    stage.know(
        "198.51.100.7:6030",
        "198.51.100.1:49230",
        None,
        tunnel("198.51.100.1:49231", "198.51.100.9:6031", indices),
    );
    stage.know(
        "[2001:db8:1::7]:6032",
        "[2001:db8:1::1]:49232",
        None,
        tunnel(v6_relayed, "[2001:db8:2::7]:6033", indices),
    );
    stage.know(
        "[2001:db8:1::7]:6020",
        "[2001:db8:1::1]:49228",
        None,
        relayed(v6_relayed, "[2001:db8:1::66]:6021", None),
    );
    stage.know("10.7.0.9:6022", "10.7.0.1:3478", None, Known::Steered);
    stage.deny("198.51.100.128", 25);
    stage.deny("198.51.100.77", 32);
    stage.deny("2001:db8:1:bad::", 64);
    stage
}

fn check(fixtures: Vec<Fixture>) {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    for Fixture { name, frame, verdict } in fixtures {
        let (given, ran) = stage.run(&frame);
        assert_eq!(given, verdict, "{name}");
        assert_eq!(ran.action, action_of(verdict), "{name}");
        let expected = stage.classify(&frame);
        assert_eq!(expected.verdict, verdict, "{name}: the classifier");
        assert_eq!(hex::encode(&ran.frame), hex::encode(&expected.frame), "{name}");
        assert_eq!(ran.frame == frame, !verdict.is_relayed(), "{name}: passed as it came");
    }
}

#[test]
fn what_is_not_a_plain_datagram_is_passed_as_it_came() {
    use Verdict::*;
    let ours = udp(CLIENT, RELAYED, *b"payload");
    let ours6 = udp(CLIENT6, WAN6, *b"payload");
    let next = |header: u8| spoilt(&ours6, |frame, ip| frame[ip + 6] = header);
    let protocol = |number: u8| mended(&ours, |frame, ip| frame[ip + 9] = number);
    let fragment = |word: u16| Udp { fragment: word, ..ours.clone() }.frame();
    let ethertype =
        |kind: u16| spoilt(&ours, |frame, _| frame[12..14].copy_from_slice(&kind.to_be_bytes()));
    check(vec![
        fixture("arp", ethertype(0x0806), PassNotIp),
        fixture("lldp", ethertype(0x88cc), PassNotIp),
        fixture("802.3 length instead of a type", ethertype(0x0040), PassNotIp),
        fixture("shortest runt the kernel takes", ours.frame()[..14].to_vec(), PassNotIp),
        fixture("cut within the ipv4 header", ours.frame()[..30].to_vec(), PassNotIp),
        fixture("cut within the udp header", ours.frame()[..40].to_vec(), PassNotIp),
        fixture("cut within the ipv6 header", ours6.frame()[..50].to_vec(), PassNotIp),
        fixture("version 5", mended(&ours, |frame, ip| frame[ip] = 0x55), PassNotIp),
        fixture("ipv4 header of four words", mended(&ours, |f, ip| f[ip] = 0x44), PassNotIp),
        fixture("ipv6 in an ipv4 frame", mended(&ours, |f, ip| f[ip] = 0x60), PassNotIp),
        fixture("ipv4 in an ipv6 frame", spoilt(&ours6, |f, ip| f[ip] = 0x45), PassNotIp),
        fixture("one option word", mended(&ours, |f, ip| f[ip] = 0x46), PassIpv4Options),
        fixture("all option words", mended(&ours, |f, ip| f[ip] = 0x4f), PassIpv4Options),
        fixture("first fragment", fragment(0x2000), PassFragment),
        fixture("middle fragment", fragment(0x2010), PassFragment),
        fixture("last fragment", fragment(0x0010), PassFragment),
        fixture("reserved bit", fragment(0x8000), PassFragment),
        fixture("tcp", protocol(6), PassNotUdp),
        fixture("icmp that quotes us", protocol(1), PassNotUdp),
        fixture("gre", protocol(47), PassNotUdp),
        fixture("ipv6 tcp", next(6), PassNotUdp),
        fixture("neighbour discovery", next(58), PassNotUdp),
        fixture("ipv6 without next header", next(59), PassNotUdp),
        fixture("hop-by-hop options", next(0), PassIpv6Extension),
        fixture("routing header", next(43), PassIpv6Extension),
        fixture("ipv6 fragment", next(44), PassIpv6Extension),
        fixture("esp", next(50), PassIpv6Extension),
        fixture("authentication header", next(51), PassIpv6Extension),
        fixture("destination options", next(60), PassIpv6Extension),
        fixture("to a group of stations", spoilt(&ours, |f, _| f[0] = 0x33), PassForeign),
        fixture("broadcast", spoilt(&ours, |f, _| f[..6].fill(0xff)), PassForeign),
    ]);
}

#[test]
fn frames_of_other_vlans_are_passed_as_they_came() {
    use Verdict::*;
    let ours = udp("10.7.0.7:6008", "10.7.0.1:49216", *b"payload");
    let tagged = |id| Udp { vlan: Some(id), ..ours.clone() };
    check(vec![
        fixture("vlan not told of", tagged(8).frame(), PassVlan),
        fixture("priority tag", tagged(0x6000).frame(), PassVlan),
        fixture("told vlan with priority", tagged(0xa000 | VLAN).frame(), RelayedBack),
        fixture("two tags", spoilt(&tagged(VLAN), |f, _| f[16..18].fill(0x81)), PassNotIp),
        fixture(
            "customer tag inside",
            spoilt(&tagged(VLAN), |f, _| f[16..18].copy_from_slice(&[0x81, 0x00])),
            PassVlan,
        ),
        fixture(
            "provider tag",
            spoilt(&tagged(VLAN), |f, _| f[12..14].copy_from_slice(&[0x88, 0xa8])),
            PassVlan,
        ),
        fixture("cut within the tag", tagged(VLAN).frame()[..17].to_vec(), PassVlan),
        fixture(
            "arp in a told vlan",
            spoilt(&tagged(VLAN), |f, _| f[16..18].copy_from_slice(&[0x08, 0x06])),
            PassNotIp,
        ),
    ]);
}

#[test]
fn what_is_not_for_the_relay_is_passed_as_it_came() {
    use Verdict::*;
    let to = |address: &str| udp("198.51.100.50:4000", address, *b"hello").frame();
    let bad =
        |address: &str| spoilt(&udp("198.51.100.50:4000", address, *b"x"), |f, ip| f[ip + 25] = 3);
    check(vec![
        fixture("dns answer", to("198.51.100.1:53"), PassForeign),
        fixture("port below the range", to("198.51.100.1:49151"), PassForeign),
        fixture("port above the range", to("198.51.100.1:49408"), PassForeign),
        fixture("port zero", to("198.51.100.1:0"), PassForeign),
        fixture("our port at another address", to("198.51.100.2:3478"), PassForeign),
        fixture("multicast address", to("224.0.0.251:3478"), PassForeign),
        fixture("bad lengths on a foreign port", bad("198.51.100.1:53"), PassForeign),
        fixture("bad lengths for another address", bad("198.51.100.2:3478"), PassForeign),
        fixture(
            "denied source of a routed packet",
            udp("198.51.100.200:4000", "198.51.100.2:3478", *b"x").frame(),
            PassForeign,
        ),
        fixture("lowest port of the range", to("198.51.100.1:49152"), PassStranger),
        fixture("highest port of the range", to("198.51.100.1:49407"), PassStranger),
    ]);
}

#[test]
fn malformed_and_denied_datagrams_are_dropped_by_reason() {
    use Verdict::*;
    let ours = udp(CLIENT, RELAYED, *b"payload");
    let ours6 = udp(CLIENT6, WAN6, *b"payload");
    let long = udp(CLIENT, RELAYED, [7; 100]);
    let from = |source: &str| udp(source, WAN, [0, 1, 0, 0]).frame();
    let from6 = |source: &str| udp(source, WAN6, [0, 1, 0, 0]).frame();
    let client = |payload: Vec<u8>| udp(CLIENT, WAN, payload).frame();
    check(vec![
        fixture("header checksum", spoilt(&ours, |f, ip| f[ip + 10] ^= 1), DropMalformed),
        fixture("total length short", mended(&ours, |f, ip| f[ip + 3] = 27), DropMalformed),
        fixture("total length beyond", mended(&ours, |f, ip| f[ip + 3] += 1), DropMalformed),
        fixture("udp length 7", spoilt(&ours, |f, ip| f[ip + 25] = 7), DropMalformed),
        fixture("udp length 0", spoilt(&ours, |f, ip| f[ip + 25] = 0), DropMalformed),
        fixture("udp length beyond", spoilt(&ours, |f, ip| f[ip + 25] += 1), DropMalformed),
        fixture("source port 0", from("198.51.100.50:0"), DropMalformed),
        fixture("ipv6 payload beyond", spoilt(&ours6, |f, ip| f[ip + 5] += 1), DropMalformed),
        fixture("ipv6 jumbogram", spoilt(&ours6, |f, ip| f[ip + 4..ip + 6].fill(0)), DropMalformed),
        fixture("ipv6 longest", spoilt(&ours6, |f, ip| f[ip + 4..ip + 6].fill(255)), DropMalformed),
        fixture(
            "ipv6 without checksum",
            Udp { has_checksum: false, ..ours6.clone() }.frame(),
            DropMalformed,
        ),
        fixture("channel longer than datagram", client(vec![0x40, 1, 0, 9, 1, 2]), DropMalformed),
        fixture(
            "high channel longer than datagram",
            client(vec![0x7f, 0xff, 0, 9, 1, 2]),
            DropMalformed,
        ),
        fixture("udp shorter than packet", spoilt(&long, |f, ip| f[ip + 25] -= 1), PassTrailer),
        fixture("trailer", spoilt(&long, |f, _| f.extend([1, 2, 3])), PassTrailer),
        // Its first two letters are a channel, and the next two more bytes than there are.
        fixture("text on a turn port", client(b"hello".to_vec()), DropMalformed),
        fixture("this network", from("0.1.2.3:5"), DropMartian),
        fixture("loopback", from("127.0.0.1:5"), DropMartian),
        fixture("multicast source", from("224.0.0.1:5"), DropMartian),
        fixture("broadcast source", from("255.255.255.255:5"), DropMartian),
        fixture("ipv6 unspecified", from6("[::]:5"), DropMartian),
        fixture("ipv6 loopback", from6("[::1]:5"), DropMartian),
        fixture("ipv6 multicast source", from6("[ff02::1]:5"), DropMartian),
        fixture("mapped ipv4 source", from6("[::ffff:198.51.100.7]:5000"), DropMartian),
        fixture("compatible ipv4 source", from6("[::198.51.100.7]:5000"), DropMartian),
        fixture("first of a denied prefix", from("198.51.100.128:5"), DropDenied),
        fixture("last of a denied prefix", from("198.51.100.255:5"), DropDenied),
        fixture("denied address", from("198.51.100.77:5"), DropDenied),
        fixture("beside a denied address", from("198.51.100.78:5"), PassStranger),
        fixture("denied ipv6 prefix", from6("[2001:db8:1:bad::9]:5"), DropDenied),
        fixture("beside a denied ipv6 prefix", from6("[2001:db8:1:bae::9]:5"), PassStranger),
    ]);
}

#[test]
fn clients_and_strangers_reach_user_space() {
    use Verdict::*;
    let client = |payload: Vec<u8>| udp(CLIENT, WAN, payload).frame();
    check(vec![
        fixture("stun of a client", client(vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]), Steered),
        fixture("empty datagram of a client", client(vec![]), Steered),
        fixture("three bytes of a client", client(vec![0x40, 1, 0]), Steered),
        fixture("channel that user space relays", client(channel(0x4003, b"x")), Steered),
        fixture("channel number too low", client(channel(0x3fff, b"x")), Steered),
        fixture("channel number too high", client(channel(0x8000, b"x")), Steered),
        fixture("high channel that user space relays", client(channel(0x6000, b"x")), Steered),
        fixture(
            "client on a vlan",
            Udp { vlan: Some(VLAN), ..udp("10.7.0.9:6022", "10.7.0.1:3478", [0, 1]) }.frame(),
            Steered,
        ),
        fixture("ipv6 client", udp(CLIENT6, WAN6, [0, 1, 0, 0]).frame(), Steered),
        fixture(
            "padded channel",
            client({
                let mut framed = channel(0x4001, b"hello");
                framed.extend([0, 0, 0]);
                framed
            }),
            PassChannelPadding,
        ),
        fixture("stranger", stranger(), PassStranger),
        fixture(
            "stranger's channel",
            udp("198.51.100.50:4000", WAN, channel(0x4001, b"x")).frame(),
            PassStranger,
        ),
        fixture(
            "client's address, another port",
            udp("198.51.100.7:5001", WAN, channel(0x4001, b"x")).frame(),
            PassStranger,
        ),
        fixture(
            "client at our other address",
            udp(CLIENT, "203.0.113.1:3478", channel(0x4001, b"x")).frame(),
            PassStranger,
        ),
        fixture(
            "peer without permission",
            udp("198.51.100.9:9001", RELAYED, *b"x").frame(),
            PassStranger,
        ),
        fixture(
            "channel framing on a relayed port",
            udp("198.51.100.9:9001", RELAYED, channel(0x4001, b"x")).frame(),
            PassStranger,
        ),
    ]);
}

#[test]
fn sessions_are_rewritten_to_the_byte() {
    use Verdict::*;
    let client = |number, payload: &[u8]| udp(CLIENT, WAN, channel(number, payload));
    let client6 = |number, payload: &[u8]| udp(CLIENT6, WAN6, channel(number, payload));
    let peer = |payload: &[u8]| udp(PEER, RELAYED, payload);
    let opaque = udp("198.51.100.7:6000", "198.51.100.1:49210", *b"opaque payload");
    let to_v6 = udp("198.51.100.7:6002", "198.51.100.1:49212", *b"four to six");
    let to_v4 = udp("[2001:db8:1::7]:6004", "[2001:db8:1::1]:49213", *b"six to four");
    let v6 = udp("[2001:db8:1::7]:6006", "[2001:db8:1::1]:49215", *b"six to six");
    let vlan = Udp { vlan: Some(VLAN), ..udp("10.7.0.7:6008", "10.7.0.1:49216", *b"tagged") };
    let plain = |udp: &Udp| Udp { has_checksum: false, ..udp.clone() }.frame();
    check(vec![
        fixture("channel to peer", client(0x4001, b"hello").frame(), RelayedBack),
        fixture("empty channel to peer", client(0x4001, b"").frame(), RelayedBack),
        fixture("odd channel to peer", client(0x4001, b"odd").frame(), RelayedBack),
        fixture("peer to channel", peer(b"hello back").frame(), RelayedBack),
        fixture("empty peer to channel", peer(b"").frame(), RelayedBack),
        fixture(
            "peer's payload that looks framed",
            peer(&channel(0x4001, b"x")).frame(),
            RelayedBack,
        ),
        fixture("channel out of another interface", client(0x4002, b"lan").frame(), RelayedOn),
        fixture("channel to channel", client(0x4fff, b"renumbered").frame(), RelayedBack),
        fixture("first channel of RFC 5766 alone", client(0x5000, b"hello").frame(), RelayedBack),
        fixture("last channel to channel", client(0x7fff, b"renumbered").frame(), RelayedBack),
        fixture("ipv6 channel to peer", client6(0x4001, b"hello").frame(), RelayedOn),
        fixture("ipv6 channel to ipv4 peer", client6(0x4002, b"hello").frame(), RelayedBack),
        fixture("opaque", opaque.frame(), RelayedBack),
        fixture(
            "opaque, the other way",
            udp("198.51.100.9:6001", "198.51.100.1:49211", *b"answer").frame(),
            RelayedBack,
        ),
        fixture("opaque ipv6", v6.frame(), RelayedBack),
        fixture("ipv4 to ipv6", to_v6.frame(), RelayedOn),
        fixture("ipv6 to ipv4", to_v4.frame(), RelayedBack),
        fixture("within a vlan", vlan.frame(), RelayedBack),
        fixture("no checksum stays none", plain(&opaque), RelayedBack),
        fixture("no channel checksum stays none", plain(&client(0x4001, b"x")), RelayedBack),
        fixture("no checksum to ipv6", plain(&to_v6), PassNoChecksum),
        fixture(
            "wrong checksum stays wrong",
            spoilt(&opaque, |f, ip| f[ip + 30] ^= 0xff),
            RelayedBack,
        ),
        fixture("may be fragmented", Udp { fragment: 0, ..opaque.clone() }.frame(), RelayedBack),
        fixture(
            "congestion mark",
            Udp { traffic_class: 0xbb, ..opaque.clone() }.frame(),
            RelayedBack,
        ),
        fixture(
            "congestion mark to ipv6",
            Udp { traffic_class: 0x2f, ..to_v6.clone() }.frame(),
            RelayedOn,
        ),
        fixture(
            "congestion mark to ipv4",
            Udp { traffic_class: 0xf1, ..to_v4.clone() }.frame(),
            RelayedBack,
        ),
        fixture(
            "padding to the shortest frame",
            spoilt(&udp("198.51.100.7:6000", "198.51.100.1:49210", *b"x"), |f, _| {
                f.resize(60, 0xee)
            }),
            RelayedBack,
        ),
        fixture("padding of a tagged frame", spoilt(&vlan, |f, _| f.resize(64, 0)), RelayedBack),
        fixture("one hop left", Udp { hop_limit: 2, ..opaque.clone() }.frame(), RelayedBack),
        fixture("no hop left", Udp { hop_limit: 1, ..opaque.clone() }.frame(), DropHopLimit),
        fixture("hop limit zero", Udp { hop_limit: 0, ..v6.clone() }.frame(), DropHopLimit),
        fixture("longest that leaves", udp(PEER, RELAYED, vec![9; 1368]).frame(), RelayedBack),
        fixture(
            "too long with its header",
            udp(PEER, RELAYED, vec![9; 1369]).frame(),
            PassOversize,
        ),
        fixture(
            "too long as ipv6",
            udp("198.51.100.7:6002", "198.51.100.1:49212", vec![9; 1353]).frame(),
            PassOversize,
        ),
    ]);
}

#[test]
fn what_cannot_leave_goes_to_user_space_as_it_came() {
    use Verdict::*;
    let vlan = Udp { vlan: Some(VLAN), ..udp("10.7.0.7:6010", "10.7.0.1:49218", *b"x") };
    check(vec![
        fixture(
            "interface not for us",
            udp("198.51.100.7:6012", "198.51.100.1:49220", *b"x").frame(),
            PassNoEgress,
        ),
        fixture("out of a vlan", vlan.frame(), PassNoEgress),
        fixture(
            "neighbour unresolved",
            udp("198.51.100.7:6014", "198.51.100.1:49222", *b"x").frame(),
            PassNoNeighbour,
        ),
        fixture(
            "ipv6 neighbour unresolved",
            udp("[2001:db8:1::7]:6020", "[2001:db8:1::1]:49228", *b"x").frame(),
            PassNoNeighbour,
        ),
        fixture(
            "no route",
            udp("198.51.100.7:6016", "198.51.100.1:49224", *b"x").frame(),
            PassNoRoute,
        ),
        fixture(
            "over the session's rate",
            udp("198.51.100.7:6018", "198.51.100.1:49226", *b"x").frame(),
            DropSessionOverRate,
        ),
    ]);
}

#[test]
fn only_data_that_names_its_receiver_passes_a_wireguard_session() {
    use Verdict::*;
    let packet = |kind: [u8; 4], receiver: [u8; 4], bytes: usize| {
        let mut packet = [kind, receiver].concat();
        packet.resize(bytes, 0x55);
        packet
    };
    let v4 = |payload: Vec<u8>| udp("198.51.100.7:6030", "198.51.100.1:49230", payload).frame();
    let v6 = |payload| udp("[2001:db8:1::7]:6032", "[2001:db8:1::1]:49232", payload).frame();
    let (data, known) = ([4, 0, 0, 0], [1, 2, 3, 4]);
    check(vec![
        fixture("data for the first index", v4(packet(data, known, 1200)), RelayedBack),
        fixture("data for the second", v4(packet(data, [5, 6, 7, 8], 96)), RelayedBack),
        fixture("data for the third", v4(packet(data, [9, 10, 11, 12], 96)), RelayedBack),
        fixture("a keep-alive", v4(packet(data, known, 32)), RelayedBack),
        fixture("data over ipv6", v6(packet(data, known, 32)), RelayedOn),
        fixture("a byte less than data has", v4(packet(data, known, 31)), PassNotTransport),
        fixture("nothing", v4(Vec::new()), PassNotTransport),
        fixture("the head alone", v4(packet(data, known, 8)), PassNotTransport),
        fixture("an unknown index", v4(packet(data, [1, 2, 3, 5], 96)), PassNotTransport),
        fixture(
            "an index in the other order",
            v4(packet(data, [4, 3, 2, 1], 96)),
            PassNotTransport,
        ),
        fixture("an initiation", v4(packet([1, 0, 0, 0], known, 148)), PassNotTransport),
        fixture("a response", v4(packet([2, 0, 0, 0], known, 92)), PassNotTransport),
        fixture("a cookie reply", v4(packet([3, 0, 0, 0], known, 64)), PassNotTransport),
        fixture("reserved bytes", v4(packet([4, 0, 0, 1], known, 96)), PassNotTransport),
        fixture("junk over ipv6", v6(packet([9; 4], known, 96)), PassNotTransport),
    ]);
}

#[test]
fn a_checksum_that_is_left_to_the_card_goes_to_the_kernel_that_knows() {
    use Verdict::*;
    let unfinished = |udp: &Udp| {
        let mut frame = Udp { has_checksum: false, ..udp.clone() }.frame();
        let at = udp.udp_at();
        let addresses = if udp.to.is_ipv4() { at - 8..at } else { at - 32..at };
        let mut pseudo = frame[addresses].to_vec();
        pseudo.extend([0, 17, frame[at + 4], frame[at + 5]]);
        frame[at + 6..at + 8].copy_from_slice(&internet_sum(&pseudo).to_be_bytes());
        frame
    };
    let v4 = udp("198.51.100.7:6000", "198.51.100.1:49210", *b"to be summed up");
    let v6 = udp("[2001:db8:1::7]:6006", "[2001:db8:1::1]:49215", *b"odd");
    let framed = udp(CLIENT, WAN, channel(0x4001, b"hello"));
    check(vec![
        fixture("unfinished", unfinished(&v4), PassUnfinishedChecksum),
        fixture("unfinished over ipv6", unfinished(&v6), PassUnfinishedChecksum),
        fixture("unfinished, of a channel", unfinished(&framed), PassUnfinishedChecksum),
        fixture("unfinished, of a client", unfinished(&udp(CLIENT, WAN, [0, 1])), Steered),
        fixture("finished", v4.frame(), RelayedBack),
    ]);
}

#[test]
fn only_ports_of_a_kind_that_is_served_on_an_address_are_judged_there() {
    use Verdict::*;
    let at = |local: &str| udp("198.51.100.50:4000", local, [0, 1, 0, 0]);
    let mangled = |local: &str| mended(&at(local), |frame, ip| frame[ip + 25] = 3);
    check(vec![
        fixture("a session's port", at("192.0.2.1:49200").frame(), PassStranger),
        fixture("the TURN server's port elsewhere", at("192.0.2.1:3478").frame(), PassForeign),
        fixture("malformed, for the relay", mangled("192.0.2.1:49200"), DropMalformed),
        fixture("malformed, for somebody else", mangled("192.0.2.1:3478"), PassForeign),
    ]);
}

#[test]
fn a_session_counts_what_it_carried_and_when() {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    let frame = udp("198.51.100.7:6000", "198.51.100.1:49210", [1; 100]).frame();
    for _ in 0..3 {
        assert_eq!(stage.run(&frame).0, Verdict::RelayedBack);
    }
    let session = stage.session("198.51.100.7:6000", "198.51.100.1:49210", None);
    assert_eq!((session.packets, session.bytes, session.dropped_packets), (3, 3 * 128, 0));
    assert!(session.last_seen_ns > 0 && session.hop_checked_ns > 0);
    assert_eq!(session.hop_mtu_bytes, 1400);
    let over = udp("198.51.100.7:6018", "198.51.100.1:49226", *b"x").frame();
    assert_eq!(stage.run(&over).0, Verdict::DropSessionOverRate);
    let session = stage.session("198.51.100.7:6018", "198.51.100.1:49226", None);
    assert_eq!((session.packets, session.dropped_packets), (0, 1));
}

#[test]
fn a_session_may_send_its_burst_and_then_its_rate() {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    let (source, local) = ("198.51.100.7:6000", "198.51.100.1:49210");
    let key = waystation_ebpf::abi::SessionKey::new(socket(source), socket(local), None);
    // 4 s for each KiB: the clock of the test adds nothing.
    let session = stage.session(source, local, None).limited(1, 4096);
    stage.programs.tables.sessions.insert(key, session).unwrap();
    let frame = udp(source, local, [1; 996]).frame();
    let relayed = (0..8).filter(|_| stage.run(&frame).0 == Verdict::RelayedBack).count();
    // Whole packets of 1 KiB until more than the burst of four is owed.
    assert_eq!(relayed, 5);
    assert_eq!(stage.session(source, local, None).dropped_packets, 3);
}

#[test]
fn strangers_have_a_rate_each_and_newcomers_one_together() {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    let day_ns = 86_400_000_000_000;
    let mut settings = stage.settings;
    settings.stranger_cost_ns = day_ns;
    settings.stranger_burst_ns = 2 * day_ns;
    settings.newcomer_cost_ns = day_ns;
    settings.newcomer_burst_ns = 3 * day_ns;
    stage.programs.tables.settings.set(settings).unwrap();
    let from = |source: &str| udp(source, WAN, [0, 1, 0, 0]).frame();
    // One address in three ports: its own allowance of three.
    for port in [1, 2, 3] {
        assert_eq!(stage.run(&from(&format!("198.51.100.50:{port}"))).0, Verdict::PassStranger);
    }
    assert_eq!(stage.run(&from("198.51.100.50:4")).0, Verdict::DropStrangerOverRate);
    // Three more may be new; the kernel may run each on any processor, so each has its own count.
    let mut let_in = 0;
    let processors = std::thread::available_parallelism().unwrap().get();
    for last in 51..67 {
        let verdict = stage.run(&from(&format!("198.51.100.{last}:1"))).0;
        let_in += usize::from(verdict == Verdict::PassStranger);
        assert!(matches!(verdict, Verdict::PassStranger | Verdict::DropNewcomersOverRate));
    }
    assert!((3..=4 * processors).contains(&let_in), "{let_in}");
    // Who is known goes on: a session, a client, and a source within its own rate.
    assert_eq!(stage.run(&udp(PEER, RELAYED, *b"x").frame()).0, Verdict::RelayedBack);
    assert_eq!(stage.run(&from(CLIENT)).0, Verdict::Steered);
    assert_eq!(stage.run(&from("198.51.100.51:2")).0, Verdict::PassStranger);
}

#[test]
fn sources_of_one_64_share_their_rate() {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    let mut settings = stage.settings;
    settings.stranger_cost_ns = 86_400_000_000_000;
    stage.programs.tables.settings.set(settings).unwrap();
    let from = |source: &str| udp(source, WAN6, [0, 1]).frame();
    assert_eq!(stage.run(&from("[2001:db8:5::1]:1")).0, Verdict::PassStranger);
    assert_eq!(stage.run(&from("[2001:db8:5::2:1]:2")).0, Verdict::DropStrangerOverRate);
    assert_eq!(stage.run(&from("[2001:db8:5:1::1]:1")).0, Verdict::PassStranger);
}

#[test]
fn a_prefix_that_is_allowed_again_is_heard() {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    let frame = udp("198.51.100.77:5", WAN, *b"x").frame();
    assert_eq!(stage.run(&frame).0, Verdict::DropDenied);
    let address = "198.51.100.77".parse().unwrap();
    // Denied twice is denied once.
    stage.programs.tables.settings.deny(address, 32).unwrap();
    stage.programs.tables.settings.allow(address, 32).unwrap();
    assert_eq!(stage.run(&frame).0, Verdict::PassStranger);
    // Allowed twice is allowed once: what else is denied stays so.
    stage.programs.tables.settings.allow(address, 32).unwrap();
    assert_eq!(stage.run(&udp("198.51.100.130:5", WAN, *b"x").frame()).0, Verdict::DropDenied);
}

#[test]
fn whole_blocks_of_addresses_are_denied_and_allowed_again() {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    let mut run = |source: &str, local: &str, prefix: Option<(&str, u8, bool)>| {
        if let Some((prefix, bits, is_denied)) = prefix {
            let settings = &mut stage.programs.tables.settings;
            let prefix = prefix.parse().unwrap();
            if is_denied { settings.deny(prefix, bits) } else { settings.allow(prefix, bits) }
                .unwrap();
        }
        stage.run(&udp(source, local, *b"x").frame()).0
    };
    let (far, far6) = ("10.77.0.9:5", "[2a01:7::9]:5");
    assert_eq!(run(far, WAN, None), Verdict::PassStranger);
    assert_eq!(run(far, WAN, Some(("10.0.0.0", 8, true))), Verdict::DropDenied);
    assert_eq!(run("11.0.0.1:5", WAN, None), Verdict::PassStranger);
    assert_eq!(run(far, WAN, Some(("10.77.0.0", 24, true))), Verdict::DropDenied);
    // Of two prefixes that hold it one is left.
    assert_eq!(run(far, WAN, Some(("10.0.0.0", 8, false))), Verdict::DropDenied);
    assert_eq!(run("10.78.0.9:5", WAN, None), Verdict::PassStranger);
    assert_eq!(run(far, WAN, Some(("10.77.0.0", 24, false))), Verdict::PassStranger);
    assert_eq!(run(far6, WAN6, None), Verdict::PassStranger);
    assert_eq!(run(far6, WAN6, Some(("2a00::", 12, true))), Verdict::DropDenied);
    assert_eq!(run("[2b01:7::9]:5", WAN6, None), Verdict::PassStranger);
    assert_eq!(run(far6, WAN6, Some(("2a00::", 12, false))), Verdict::PassStranger);
    assert_eq!(run(far6, WAN6, Some(("::", 0, true))), Verdict::DropDenied);
}

#[test]
fn a_session_of_a_source_that_is_denied_ends_with_that() {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    let frame = udp(PEER, RELAYED, *b"x").frame();
    assert_eq!(stage.run(&frame).0, Verdict::RelayedBack);
    let source = socket(PEER).ip();
    stage.programs.tables.settings.deny(source, 32).unwrap();
    assert_eq!(stage.run(&frame).0, Verdict::DropDenied);
    stage.programs.tables.settings.allow(source, 32).unwrap();
    assert_eq!(stage.run(&frame).0, Verdict::RelayedBack);
}

#[test]
fn addresses_beyond_those_that_are_compared_are_this_machines_too() {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    let v4 = |last: u8| std::net::IpAddr::from([10, 9, 0, last]);
    let v6 = |last: u8| format!("2001:db8:99::{last:x}").parse::<std::net::IpAddr>().unwrap();
    let all: Vec<_> = (1..=20).flat_map(|last| [v4(last), v6(last)]).collect();
    let verdict = |stage: &mut Stage, address: std::net::IpAddr| {
        let from = if address.is_ipv4() { "198.51.100.50:4" } else { "[2001:db8:5::1]:4" };
        let local = std::net::SocketAddr::new(address, TURN).to_string();
        stage.run(&udp(from, &local, [0, 1, 0, 0]).frame()).0
    };
    let table = |stage: &mut Stage, address, kinds: &[Port]| {
        stage.programs.tables.local_addresses.insert(address, kinds).unwrap();
    };
    for address in &all {
        assert_eq!(verdict(&mut stage, *address), Verdict::PassForeign, "{address}");
        table(&mut stage, *address, &[Port::Turn]);
        assert_eq!(verdict(&mut stage, *address), Verdict::PassStranger, "{address}");
    }
    // What kinds are served may change wherever an address is, and any may go.
    for address in &all {
        table(&mut stage, *address, &[Port::Session]);
        assert_eq!(verdict(&mut stage, *address), Verdict::PassForeign, "{address}");
        table(&mut stage, *address, &[Port::Turn]);
        assert_eq!(verdict(&mut stage, *address), Verdict::PassStranger, "{address}");
        stage.programs.tables.local_addresses.remove(*address).unwrap();
        assert_eq!(verdict(&mut stage, *address), Verdict::PassForeign, "{address}");
    }
    assert_eq!(stage.run(&stranger()).0, Verdict::PassStranger);
}

#[test]
fn without_forwarding_on_loopback_sessions_go_to_user_space() {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    std::fs::write("/proc/sys/net/ipv4/conf/lo/forwarding", "0").unwrap();
    assert_eq!(
        waystation_ebpf::forwarding::switches_off().collect::<Vec<_>>(),
        ["/proc/sys/net/ipv4/conf/lo/forwarding"]
    );
    let frame = udp(PEER, RELAYED, *b"x").frame();
    assert_eq!(stage.run(&frame).0, Verdict::PassForwardingOff);
}

#[test]
fn a_session_shows_user_space_a_packet_now_and_then() {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    let mut settings = stage.settings;
    settings.neighbour_refresh_ns = 1;
    stage.programs.tables.settings.set(settings).unwrap();
    let frame = udp(PEER, RELAYED, *b"x").frame();
    assert_eq!(stage.run(&frame).0, Verdict::RelayedBack);
    let shown = |stage: &mut Stage| stage.run(&frame).0 == Verdict::PassNeighbourRefresh;
    // The coarse clock ticks every few milliseconds.
    assert!((0..1_000_000).any(|_| shown(&mut stage)));
}

#[test]
fn ports_that_are_foreign_again_are_left_alone() {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    assert_eq!(stage.run(&stranger()).0, Verdict::PassStranger);
    stage.programs.tables.ports.set(0..=u16::MAX, Port::Foreign).unwrap();
    assert_eq!(stage.run(&stranger()).0, Verdict::PassForeign);
}

#[test]
fn a_removed_session_is_a_stranger() {
    if !support::given_root() {
        return;
    }
    let mut stage = staged();
    let key = waystation_ebpf::abi::SessionKey::new(socket(PEER), socket(RELAYED), None);
    assert!(stage.programs.tables.sessions.iter().any(|(found, _)| found == key));
    assert!(stage.programs.tables.sessions.remove(&key).unwrap());
    assert!(!stage.programs.tables.sessions.remove(&key).unwrap());
    assert_eq!(stage.programs.tables.sessions.find(&key).unwrap(), None);
    assert_eq!(stage.run(&udp(PEER, RELAYED, *b"x").frame()).0, Verdict::PassStranger);
}
