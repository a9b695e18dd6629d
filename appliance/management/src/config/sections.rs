//! The sections of the configuration, in the order of printing; their keys are in `keys`.

/// One section with the sentence above it in the documented default.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    pub name: &'static str,
    pub meaning: &'static str,
}

/// Every section, in the order of printing.
pub const SECTIONS: &[Section] = &[
    Section { name: "node", meaning: "How this node presents itself." },
    Section { name: "listen", meaning: "Where connections come in." },
    Section { name: "engine", meaning: "The data cores and their memory." },
    Section { name: "relay", meaning: "Links and the sessions on them." },
    Section { name: "gateway", meaning: "Registrations, idle connections and raw pipes." },
    Section { name: "access", meaning: "Who may link to this node." },
    Section {
        name: "limits",
        meaning: "What one identity may use over all its links, unless its [[peer]] says \
            otherwise, and how many links there may be of each network. What is beyond a limit \
            when it is lowered stays.",
    },
    Section { name: "dial", meaning: "Links that this node makes: to [[peer]]s, and on command." },
    Section {
        name: "turn",
        meaning: "The TURN server. There is none unless it has an address to listen on.",
    },
    Section {
        name: "udp",
        meaning: "Opaque UDP sessions between two ends, such as those of a WireGuard tunnel: of \
            [[udp.session]]s, and opened by command. No port is open unless a session has it.",
    },
    Section {
        name: "dht",
        meaning: "A node of the A2AL DHT on the management core. There is none unless it is enabled.",
    },
    Section {
        name: "xdp",
        meaning: "The program that filters and relays UDP before the kernel's network stack. It \
            needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; without them everything works \
            without it, and `waystation xdp status` says why.",
    },
    Section {
        name: "privileges",
        meaning: "What the program gives up once everything is loaded and bound. To switch any of it \
            off is for debugging.",
    },
    Section {
        name: "hub",
        meaning: "The A2AL signalling hub, at which agents register and callers meet them. It \
            comes with the node of the DHT, or with an address of its own.",
    },
    Section { name: "management", meaning: "The management core, its socket, metrics and logs." },
];
