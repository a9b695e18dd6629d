//! The table of a core's counters: the name of each in JSON and as a metric, its kind and unit.
//!
//! The documents of the stats socket and the metrics are both made from it, so a counter cannot be
//! in one and missing in the other.

use waystation_engine::statistics::CoreCounters;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the core runs.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// The unit of a metric. The table's numbers are in nanoseconds where this says seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricUnit {
    /// Things that the name says.
    Things,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

/// One counter.
#[derive(Clone, Copy, Debug)]
pub struct CounterField {
    /// The field of [`CoreCounters`] and the name in JSON.
    pub key: &'static str,
    /// The name as a metric, without prefix, unit and `_total`.
    pub metric: &'static str,
    pub unit: MetricUnit,
    pub kind: Kind,
    /// One sentence without a full stop.
    pub help: &'static str,
    /// Reads it.
    pub read: fn(&CoreCounters) -> u64,
}

macro_rules! field {
    ($kind:ident $key:ident as $metric:literal $unit:ident: $help:literal) => {
        CounterField {
            key: stringify!($key),
            metric: $metric,
            unit: MetricUnit::$unit,
            kind: Kind::$kind,
            help: $help,
            read: |counters| counters.$key,
        }
    };
}

/// Every counter of a core, in the order of [`CoreCounters`].
pub const FIELDS: &[CounterField] = &[
    field!(Counter turns as "turns" Things: "Turns of the loop of a data core"),
    field!(Counter busy_ns as "busy" Seconds: "Time spent outside of waiting"),
    field!(Counter cpu_ns as "cpu" Seconds: "CPU time of the thread as the kernel accounts it"),
    field!(Counter up_ns as "up" Seconds: "Time since the core started"),
    field!(Counter connections_accepted as "accepted_connections" Things: "Connections accepted"),
    field!(Counter links_opened as "opened_links" Things: "Links that finished their negotiation"),
    field!(Counter links_closed as "closed_links" Things: "Links that ended"),
    field!(Counter links_moved_in as "moved_in_links" Things:
        "Links that came from another core, or back from one"),
    field!(Counter links_moved_out as "moved_out_links" Things:
        "Links that left for another core"),
    field!(Counter link_moves_refused as "refused_link_moves" Things:
        "Links that were to move to another core and stayed"),
    field!(Gauge links_open as "open_links" Things: "Links that are open"),
    field!(Gauge half_open as "half_open_connections" Things:
        "Connections that have not finished their handshake"),
    field!(Counter sessions_opened as "opened_sessions" Things: "Sessions opened"),
    field!(Gauge sessions_open as "open_sessions" Things: "Sessions that are open"),
    field!(Gauge sockets_open as "open_sockets" Things: "Raw sockets that are open"),
    field!(Counter pipes_opened as "opened_pipes" Things: "Raw pipes opened"),
    field!(Gauge pipes_open as "open_pipes" Things: "Raw pipes that are open"),
    field!(Counter queries_received as "received_queries" Things: "Queries received"),
    field!(Counter records_opened as "opened_records" Things: "Records opened"),
    field!(Counter records_sealed as "sealed_records" Things: "Records sealed"),
    field!(Counter records_sealed_in_place as "sealed_in_place_records" Things:
        "Records sealed where they were received"),
    field!(Counter frames_in as "received_frames" Things: "Frames received on links"),
    field!(Counter frames_out as "sent_frames" Things: "Frames sent on links"),
    field!(Counter wire_bytes_in as "wire_received" Bytes:
        "Bytes received on the sockets of links"),
    field!(Counter wire_bytes_out as "wire_sent" Bytes: "Bytes sent on the sockets of links"),
    field!(Counter payload_bytes_in as "payload_received" Bytes: "Payload of data frames received"),
    field!(Counter payload_bytes_out as "payload_sent" Bytes: "Payload of data frames sent"),
    field!(Counter same_core_bytes as "same_core" Bytes:
        "Payload joined to a leg on the same core"),
    field!(Counter cross_core_bytes as "cross_core" Bytes:
        "Payload joined to a leg on another core"),
    field!(Counter pipe_bytes as "pipe" Bytes: "Bytes that went through raw pipes"),
    field!(Counter queued_bytes_total as "queued" Bytes:
        "Payload that had to wait in the queue of a session"),
    field!(Gauge queued_bytes as "queue" Bytes: "Payload that waits in the queues of sessions"),
    field!(Counter receives as "receives" Things: "Receives completed"),
    field!(Counter sends as "sends" Things: "Sends completed"),
    field!(Counter port_syscalls as "port_syscalls" Things:
        "System calls of the port: waits, and sends of the epoll port"),
    field!(Gauge receive_buffers_total as "receive_buffers" Things: "Receive buffers there are"),
    field!(Gauge receive_buffers_free as "free_receive_buffers" Things:
        "Receive buffers the kernel can receive into"),
    field!(Gauge blocks_total as "blocks" Things: "Blocks for outgoing records there are"),
    field!(Gauge blocks_free as "free_blocks" Things: "Blocks for outgoing records that are free"),
    field!(Gauge block_bytes as "block_memory" Bytes: "Memory of the blocks for outgoing records"),
    field!(Counter mesh_batches_out as "sent_mesh_batches" Things: "Batches sent to other cores"),
    field!(Counter reports_lost as "lost_reports" Things:
        "Reports to the management core that found their ring full"),
    field!(Gauge link_state_bytes as "link_state" Bytes:
        "Memory of the links that are open, besides buffers and sessions"),
    field!(Gauge timers as "timers" Things: "Timers that have not fired yet"),
    field!(Counter spinning_ns as "spinning" Seconds:
        "Time in which a core asked for events again before it slept"),
    field!(Counter gathering_ns as "gathering" Seconds:
        "Time in which a core slept through several events at a time"),
    field!(Counter run_delay_ns as "run_delay" Seconds:
        "Time in which the thread had something to do and another one had its CPU"),
    field!(Counter empty_spins_ns as "empty_spins" Seconds:
        "Time in which a core asked for events again and none had come"),
    field!(Counter pipe_receives as "pipe_receives" Things:
        "Receives completed on raw pipes, counted among all receives too"),
    field!(Gauge turn_allocations_open as "turn_open_allocations" Things: "TURN allocations that there are"),
    field!(Counter turn_allocations_opened as "turn_opened_allocations" Things:
        "TURN allocations made"),
    field!(Counter turn_answers as "turn_answers" Things: "Answers to STUN and TURN requests"),
    field!(Counter turn_refusals as "turn_refusals" Things:
        "Those of the answers that say no, or how to authenticate"),
    field!(Counter turn_keep_alives as "turn_keep_alives" Things:
        "Binding indications, which keep a client's address translation alive"),
    field!(Counter turn_datagrams_to_peers as "turn_datagrams_to_peers" Things:
        "Datagrams relayed from TURN clients to peers"),
    field!(Counter turn_bytes_to_peers as "turn_to_peers" Bytes:
        "Payload relayed from TURN clients to peers"),
    field!(Counter turn_datagrams_to_clients as "turn_datagrams_to_clients" Things:
        "Datagrams relayed from peers to TURN clients"),
    field!(Counter turn_bytes_to_clients as "turn_to_clients" Bytes:
        "Payload relayed from peers to TURN clients"),
    field!(Counter turn_icmp_errors_told as "turn_icmp_errors" Things:
        "ICMP errors about their datagrams that TURN clients were told of"),
    field!(Gauge turn_streams_open as "turn_open_streams" Things:
        "TCP connections of TURN clients that there are"),
    field!(Counter turn_streams_accepted as "turn_accepted_streams" Things:
        "TCP connections of TURN clients accepted"),
    field!(Counter turn_stream_receives as "turn_stream_receives" Things:
        "Receives completed on TCP connections of TURN clients"),
    field!(Counter turn_stream_messages as "turn_stream_messages" Things:
        "Messages in the streams of TURN clients"),
    field!(Gauge opaque_sessions_open as "opaque_open_sessions" Things:
        "Opaque UDP sessions that there are"),
    field!(Counter opaque_sessions_opened as "opaque_opened_sessions" Things:
        "Opaque UDP sessions made"),
    field!(Counter opaque_datagrams as "opaque_datagrams" Things:
        "Datagrams of opaque UDP sessions passed on"),
    field!(Counter opaque_bytes as "opaque" Bytes: "Payload of opaque UDP sessions passed on"),
    field!(Counter opaque_answers as "opaque_answers" Things:
        "Answers to ends of opaque UDP sessions that proved where they are"),
    field!(Gauge udp_sockets_open as "udp_open_sockets" Things: "UDP sockets that are open"),
    field!(Counter udp_messages_received as "udp_received_messages" Things:
        "Messages received from UDP sockets, each a datagram or a train of them"),
    field!(Counter udp_datagrams_received as "udp_received_datagrams" Things:
        "Datagrams received from UDP sockets"),
    field!(Counter udp_datagrams_sent_plainly as "udp_plain_datagrams" Things:
        "Relayed datagrams sent each by itself: tier plain"),
    field!(Counter udp_datagrams_sent_in_trains as "udp_gso_datagrams" Things:
        "Relayed datagrams sent in trains: tier gso"),
    field!(Counter udp_datagrams_offloaded as "udp_xdp_datagrams" Things:
        "Datagrams that the XDP program relayed: tier xdp"),
    field!(Counter udp_trains_sent as "udp_gso_trains" Things: "Trains of datagrams sent"),
    field!(Counter udp_trains_refused as "udp_refused_trains" Things:
        "Trains that a route did not take, sent as single datagrams instead"),
    field!(Counter udp_syscalls as "udp_syscalls" Things: "System calls for UDP sockets"),
    field!(Counter udp_frames_received as "udp_received_frames" Things:
        "Datagrams that came in frames: tier af_xdp; the received ones count them too"),
    field!(Counter udp_frames_lost as "udp_lost_frames" Things:
        "Datagrams that came in frames and were lost, since the core's memory for them was full"),
    field!(Counter udp_datagrams_sent_in_frames as "udp_af_xdp_datagrams" Things:
        "Relayed datagrams sent as frames: tier af_xdp"),
    field!(Counter udp_frames_no_hop as "udp_unframed_no_hop" Things:
        "Datagrams that left by a socket, not as frames: the kernel knows no next hop, or is to look for it again"),
    field!(Counter udp_frames_other_interface as "udp_unframed_other_interface" Things:
        "Datagrams that left by a socket, not as frames: their way is by another interface"),
    field!(Counter udp_frames_too_long as "udp_unframed_too_long" Things:
        "Datagrams that left by a socket, not as frames: too long"),
    field!(Counter udp_frames_no_room as "udp_unframed_no_room" Things:
        "Datagrams that left by a socket, not as frames: no room"),
    field!(Counter udp_watch_failures as "udp_watch_failures" Things:
        "Times that UDP sockets had to be watched anew after an error"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Counters whose fields, in the order of declaration, are 1, 2, 3 and so on. There is no
    /// `..` in it: a counter that is new in the engine does not compile here before it is known.
    fn numbered() -> CoreCounters {
        CoreCounters {
            turns: 1,
            busy_ns: 2,
            cpu_ns: 3,
            up_ns: 4,
            connections_accepted: 5,
            links_opened: 6,
            links_closed: 7,
            links_moved_in: 8,
            links_moved_out: 9,
            link_moves_refused: 10,
            links_open: 11,
            half_open: 12,
            sessions_opened: 13,
            sessions_open: 14,
            sockets_open: 15,
            pipes_opened: 16,
            pipes_open: 17,
            queries_received: 18,
            records_opened: 19,
            records_sealed: 20,
            records_sealed_in_place: 21,
            frames_in: 22,
            frames_out: 23,
            wire_bytes_in: 24,
            wire_bytes_out: 25,
            payload_bytes_in: 26,
            payload_bytes_out: 27,
            same_core_bytes: 28,
            cross_core_bytes: 29,
            pipe_bytes: 30,
            queued_bytes_total: 31,
            queued_bytes: 32,
            receives: 33,
            sends: 34,
            port_syscalls: 35,
            receive_buffers_total: 36,
            receive_buffers_free: 37,
            blocks_total: 38,
            blocks_free: 39,
            block_bytes: 40,
            mesh_batches_out: 41,
            reports_lost: 42,
            link_state_bytes: 43,
            timers: 44,
            spinning_ns: 45,
            gathering_ns: 46,
            run_delay_ns: 47,
            empty_spins_ns: 48,
            pipe_receives: 49,
            turn_allocations_open: 50,
            turn_allocations_opened: 51,
            turn_answers: 52,
            turn_refusals: 53,
            turn_keep_alives: 54,
            turn_datagrams_to_peers: 55,
            turn_bytes_to_peers: 56,
            turn_datagrams_to_clients: 57,
            turn_bytes_to_clients: 58,
            turn_icmp_errors_told: 59,
            turn_streams_open: 60,
            turn_streams_accepted: 61,
            turn_stream_receives: 62,
            turn_stream_messages: 63,
            opaque_sessions_open: 64,
            opaque_sessions_opened: 65,
            opaque_datagrams: 66,
            opaque_bytes: 67,
            opaque_answers: 68,
            udp_sockets_open: 69,
            udp_messages_received: 70,
            udp_datagrams_received: 71,
            udp_datagrams_sent_plainly: 72,
            udp_datagrams_sent_in_trains: 73,
            udp_datagrams_offloaded: 74,
            udp_trains_sent: 75,
            udp_trains_refused: 76,
            udp_syscalls: 77,
            udp_frames_received: 78,
            udp_frames_lost: 79,
            udp_datagrams_sent_in_frames: 80,
            udp_frames_no_hop: 81,
            udp_frames_other_interface: 82,
            udp_frames_too_long: 83,
            udp_frames_no_room: 84,
            udp_watch_failures: 85,
        }
    }

    #[test]
    fn table_reads_every_counter_exactly_once() {
        let read: Vec<_> = FIELDS.iter().map(|field| (field.read)(&numbered())).collect();
        let wanted: Vec<_> = (1..=FIELDS.len() as u64).collect();
        assert_eq!(read, wanted);
        // The struct holds nothing but these numbers.
        assert_eq!(size_of::<CoreCounters>(), FIELDS.len() * size_of::<u64>());
    }

    #[test]
    fn names_are_unique() {
        let keys: BTreeSet<_> = FIELDS.iter().map(|field| field.key).collect();
        let metrics: BTreeSet<_> =
            FIELDS.iter().map(|field| (field.metric, field.unit as u8)).collect();
        assert_eq!(keys.len(), FIELDS.len());
        assert_eq!(metrics.len(), FIELDS.len());
    }
}
