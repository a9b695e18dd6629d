//! Limits of the configuration and of the stats socket, each with its unit and derivation.
//!
//! Ranges of configuration keys stand in the table of keys (`config::keys`), which prints them too.

use std::time::Duration;

/// Bytes of a configuration file. The documented default is about 10 KiB; ten times that with
/// comments, and then ten times that.
pub const CONFIG_BYTES_MAX: usize = 1024 * 1024;
/// Problems of one configuration file that are reported; more would scroll the first one away.
pub const CONFIG_PROBLEMS_MAX: usize = 20;
/// Bytes of the stats socket's path: `sun_path` has 108 with its closing zero (unix(7)), and the
/// socket is made under a name that is 4 longer.
pub const SOCKET_PATH_BYTES_MAX: usize = 103;
/// How long a drain lasts at most unless it is told otherwise.
pub const DRAIN_DEADLINE_DEFAULT: Duration = Duration::from_secs(3600);
/// The longest that it can be told.
pub const DRAIN_DEADLINE_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Longest name of a user or a group (useradd(8)).
pub const USER_NAME_BYTES_MAX: usize = 32;
/// Bytes of an alias: one length byte in node info (spec §2.1).
pub const ALIAS_BYTES_MAX: usize = 255;
/// Addresses to listen on: a few per interface of a relay box.
pub const LISTEN_ADDRESSES_MAX: usize = 16;
/// Blocks of peers that are opened or denied: what a policy holds.
pub use waystation_relay::limits::ALLOWED_BLOCKS_MAX as PEER_BLOCKS_MAX;
/// Interfaces that the XDP program is put on: those of a large relay box, bonds taken apart.
pub const XDP_INTERFACES_MAX: usize = 16;
/// Bytes of an interface's name (`IFNAMSIZ` less its end).
pub const INTERFACE_NAME_BYTES_MAX: usize = 15;
/// Blocks that the XDP program takes nothing from: a list kept by hand; its maps hold 16 384 of each
/// family.
pub const XDP_DENIED_MAX: usize = 4096;
/// Relayed addresses: one of each family.
pub const RELAY_ADDRESSES_MAX: usize = 2;
/// Bytes of a file of TURN users or secrets: as many users as there may be, with names and passwords
/// of ordinary length.
pub const TURN_FILE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of a file's path (`PATH_MAX`).
pub const FILE_PATH_BYTES_MAX: usize = 4095;
/// CPUs in a list, and data cores: the largest single-socket machines have 384 threads.
pub const CORES_MAX: usize = 1024;
/// Bytes of a log filter: a level and some targets.
pub const LOG_FILTER_BYTES_MAX: usize = 1024;

/// Peers in the configuration: what one box keeps links to or trusts, known to its operator by
/// name. At 200 bytes each that is a fifth of the largest file.
pub const PEERS_MAX: usize = 1024;
/// Endpoints of one peer: a few addresses of each network, one for each of the dials that a stock
/// node makes at a time (spec §9.1).
pub const PEER_ENDPOINTS_MAX: usize = 8;
/// Opaque UDP sessions in the configuration: what one box relays by name. At 200 bytes each that is
/// a fifth of the largest file.
pub const UDP_SESSIONS_CONFIGURED_MAX: usize = 1024;
/// Bytes of the name of such a session: what fits a column.
pub const UDP_SESSION_NAME_BYTES_MAX: usize = 32;
/// Ports that are tried for a session one after the other before it is refused: other programs of
/// the machine may have some of the range.
pub const UDP_PORT_TRIES_MAX: u32 = 16;
/// How long a configured UDP session that cannot be opened waits before it is tried again.
pub const UDP_SESSION_RETRY: Duration = Duration::from_secs(5);
/// Identities in a list of access: at 70 bytes each, two thirds of the largest file.
pub const ACCESS_IDENTITIES_MAX: usize = 10_000;
/// Links of one network over all cores: more than any box has descriptors for, so by default only
/// the caps of the cores hold.
pub const NETWORK_LINKS_MAX: usize = 1_000_000;

/// Connections to the stats socket at a time: a scraper, some terminals and scripts. With one
/// document of at most 20 MiB in flight each, slow readers hold at most 320 MiB.
pub const STATS_CONNECTIONS_MAX: usize = 16;
/// Listeners with that many connections each: the stats socket, and the TCP address for metrics.
pub const STATS_LISTENERS_MAX: usize = 2;
/// Bytes of a request line with all headers: the longest request has about 200, curl adds 100; it
/// is also the least that hyper can be limited to.
pub const STATS_REQUEST_BYTES_MAX: usize = 8192;
/// Headers of a request: browsers send about 20.
pub const STATS_HEADERS_MAX: usize = 32;
/// Time for a request to arrive completely.
pub const STATS_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the management core to answer: listings wait for the data cores' next turn, which is
/// milliseconds away even under load.
pub const STATS_REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a dial by hand, which the dialing room ends much sooner: the longest connect timeout and
/// handshake timeout that can be configured.
pub const STATS_DIAL_TIMEOUT: Duration = Duration::from_secs(720);
/// Time for a whole connection, from accept to the last byte read by the client: what a terminal
/// over a slow line needs for the largest listing. Readers slower than that are cut.
pub const STATS_CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, so that a lack of descriptors does not become a busy loop.
pub const STATS_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Rows of a listing when the request does not say.
pub const LISTING_ROWS_DEFAULT: usize = 1000;
/// Rows of a listing at most: about 20 MiB of JSON.
pub const LISTING_ROWS_MAX: usize = 50_000;

/// The least time over which the growth of a row is told: less says little about a rate.
pub const RECENT_AGE_MIN: Duration = Duration::from_millis(500);
/// How long rows of listings in order are remembered: two listings of [`LISTING_ROWS_MAX`] rows with
/// 64 bytes each, in tables that are half full, take 13 MiB.
pub const RECENT_AGE_MAX: Duration = Duration::from_secs(60);

/// Bytes of an answer the client takes: three times the largest listing.
pub const CLIENT_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Time the client gives a request as a whole: a little more than the server takes at most before
/// it answers in the negative.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(15);

/// Accounts of identities without a link, which are kept for the next one: 7 MiB. Each takes 425
/// bytes: 169 with its key in a tree whose nodes are two thirds full, 64 for its quota, and 48 for
/// its place among the others in a tree whose nodes are half full. A day's visitors of a busy box.
pub const ACCOUNTS_KEPT_DEFAULT: usize = 16_384;
/// The least number of them: four times [`ACCOUNTS_EVICTION_TRIES_MAX`], so that one in use goes
/// only where pipes are nearly all there is.
pub const ACCOUNTS_KEPT_MIN: usize = 4 * ACCOUNTS_EVICTION_TRIES_MAX;
/// The greatest number of them: 405 MiB.
pub const ACCOUNTS_KEPT_MAX: usize = 1_000_000;
/// Accounts in use that are passed over for one to give up: ends of pipes whose node has no link.
pub const ACCOUNTS_EVICTION_TRIES_MAX: usize = 64;
/// Events that are kept for whoever asks later: a quarter of a KiB each, so 1 MiB. A quiet day, or a
/// minute of nodes coming and going by the dozen each second.
pub const EVENTS_KEPT_MAX: usize = 4096;
/// Events in one answer, or one piece of a stream: half a MiB at most.
pub const EVENTS_PER_ANSWER_MAX: usize = 1024;
/// Events of one kind and identity within [`EVENT_QUIET_TIME`]: what happens more often is counted
/// and told with the next one.
pub const EVENT_BURST_MAX: u32 = 4;
/// How long a kind of event that came too often stays quiet about an identity.
pub const EVENT_QUIET_TIME: Duration = Duration::from_secs(60);
/// Pairs of kind and identity that are watched for coming too often; the rest share one.
pub const EVENT_SUBJECTS_MAX: usize = 4096;
/// Readers that follow the events at a time, of the connections to the stats socket.
pub const EVENT_FOLLOWERS_MAX: usize = 4;
/// How long a request for newer events waits before it is asked again, so that the runtime forgets
/// those whose reader has gone.
pub const EVENT_WAIT: Duration = Duration::from_secs(30);
/// How long such a reader may leave a piece of the stream unread.
pub const EVENT_READER_TIMEOUT: Duration = Duration::from_secs(10);

/// Columns of everything printed for a terminal, except values that are meant to be copied.
pub const TERMINAL_COLUMNS: usize = 80;

/// The least time between two looks of `waystation top`: each makes every data core report once.
pub const TOP_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The greatest.
pub const TOP_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// The time between its first two looks, so that rates are there at once.
pub const TOP_FIRST_INTERVAL: Duration = Duration::from_millis(300);
/// Rows it asks for at least: those of a small terminal, so that one that grows has some to show.
pub const TOP_ROWS_MIN: usize = 100;
/// Keys that wait to be acted upon: those of a second of the fastest repeating key.
pub const TOP_KEYS_WAITING: usize = 32;

/// How old may be what is told of the traffic of links: somewhat more than the interval at whose end
/// placement asks for it, so that a listing then takes what placement was told.
pub const LINK_TRAFFIC_AGE_MAX: Duration = Duration::from_millis(1500);
/// How long the data cores may take to answer before an answer is made without them.
pub const CORE_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long commands wait for a full ring before they are tried again: some turns of a data core.
pub const COMMAND_RETRY_PAUSE: Duration = Duration::from_millis(1);

/// How long links stand still while one of them may still come to do so, as its last send has to
/// reach its peer or a query of it has to be answered: what a peer that reads takes in the worst of
/// round trips. Those that have not by then stay with the process that ends.
pub const LINKS_BUSY_MAX: Duration = Duration::from_millis(300);

/// How long they stand still at most before they are told of; if something is on its way between
/// cores even then, none is.
pub const LINKS_SETTLE_MAX: Duration = Duration::from_secs(2);

/// Times that cores are asked at least before what may still come is given up, so that threads that
/// wait for a processor are no reason.
pub const LINKS_FREEZE_ROUNDS_MIN: usize = 10;

/// How long cores are left alone before they are asked again whether links stand still.
pub const LINKS_FREEZE_PAUSE: Duration = Duration::from_millis(1);

/// Bytes of payload that links take to the next process, all together: a fraction of a second to
/// write and read, and four times as much memory for as long. Links with more stay.
pub const LINKS_OVER_BYTES_MAX: usize = 64 << 20;
/// How long the data cores may take to acknowledge a new configuration before the reload counts as
/// done without them: some waits of an idle core, which are half a second.
pub const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Reports taken from one core before the next has its turn: half a ring.
pub const REPORTS_PER_ROUND: usize = 2048;
/// How long the data cores may take to close everything when the program ends.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Targets whose level is set over the configuration: more than anybody keeps in mind.
pub const LOG_DIRECTIVES_MAX: usize = 64;
/// Bytes of a target: the longest path of a module has about 60.
pub const LOG_TARGET_BYTES_MAX: usize = 128;
/// How often the log tells how many lines were held back, if any were.
pub const LOG_HELD_BACK_EVERY: Duration = Duration::from_secs(60);

/// Bytes of a frame that somebody asks about: more than the longest that the XDP program looks at
/// on Ethernet, and in hex digits half of [`STATS_REQUEST_BYTES_MAX`].
pub const EXPLAINED_FRAME_BYTES_MAX: usize = 2048;
