//! What a server is told before it starts. Every limit of the outside has its name here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alluvium_io::DeviceOptions;
use alluvium_store::{Device, HeapProbe, StoreConfig};

/// Room kept in a directory for giving room back on a full disk: some checkpoints, and a thousand pages.
const RESERVE_BYTES: u64 = 64 << 20;

/// What the scrubber reads in a second: a terabyte in three days.
const SCRUB_BYTES_PER_S: u64 = 4 << 20;

/// Where the data lies.
#[derive(Debug, Clone)]
pub enum Storage {
    /// A directory, created if absent and locked while open.
    Directory {
        /// Its path.
        path: PathBuf,
        /// Which backend and how.
        options: DeviceOptions,
    },
    /// A device that is open already: tests and embedders. It needs one lane more than there are shards.
    Device(Arc<dyn Device>),
}

/// Settings of a server. Plain data; see [`Config::new`] for the defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// `HOST:PORT` of the HTTP interface; port 0 takes a free one.
    pub http: String,
    /// Where the data lies.
    pub storage: Storage,
    /// Settings of the store.
    pub store: StoreConfig,
    /// Tokens and their rights; `None` lets everybody in, on loopback addresses only.
    pub token_file: Option<PathBuf>,
    /// Allows other addresses than loopback without tokens.
    pub insecure: bool,
    /// Directory below which backups may be made; `None` refuses them.
    pub backup_dir: Option<PathBuf>,
    /// Limits of requests.
    pub limits: Limits,
}

/// Limits of requests, each with its default. [`Config::set_number`] takes them by name; of times the name ends with `_ms`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request body, before and after decompression: 25,000,000. More is 413.
    pub body_bytes_max: usize,
    /// Bytes of one line of line protocol: 1 MiB.
    pub line_bytes_max: usize,
    /// Bytes of the head of a request: 64 KiB. More is 431.
    pub header_bytes_max: usize,
    /// How long the head of a request may take: 30 s.
    pub header_time: Duration,
    /// How long a body may make no progress before 408: 30 s.
    pub body_idle: Duration,
    /// How long the other end may take nothing of an answer before its connection is closed: 20 s.
    pub answer_idle: Duration,
    /// Connections at once: 4096. More wait in the listener's queue.
    pub connections_max: usize,
    /// Bodies up to this many bytes are parsed where they arrived, larger ones on a thread for it: 256 KiB.
    pub inline_bytes_max: usize,
    /// Bodies parsed at once: twice the processors, at least 4. Also how many writers a database pools.
    pub parallel_writes_max: usize,
    /// Queries that run at once: twice the processors, at least 4. More wait.
    pub queries_max: usize,
    /// Queries that may wait for their turn: 256. More are 503.
    pub queries_waiting_max: usize,
    /// Longest run of a query: 60 s.
    pub query_deadline: Duration,
    /// Memory of one query: 256 MiB.
    pub query_memory_bytes: u64,
    /// Tag sets that a search answers if it does not say how many: 100.
    pub search_default: usize,
    /// Tag sets that a search may ask for: 10,000. More is 400.
    pub search_max: usize,
    /// Names that a suggestion answers if it does not say how many: 100.
    pub suggest_default: usize,
    /// Names that a suggestion may ask for: 10,000. More is 400.
    pub suggest_max: usize,
    /// Entries of each list of `/api/cardinality` if `top` does not say how many: 10.
    pub cardinality_default: usize,
    /// Entries of each list that may be asked for: 1,000. More is 400.
    pub cardinality_max: usize,
    /// Days of growth if `days` does not say how many: 30.
    pub cardinality_days_default: usize,
    /// Days of growth that may be asked for: 3,660. More is 400.
    pub cardinality_days_max: usize,
    /// How long a write, or the creation or removal of a database, waits for the device before 503: 30 s.
    pub commit_time: Duration,
    /// How long a stop waits for requests under way: 10 s.
    pub stop_time: Duration,
}

impl Config {
    /// A server for `storage` on the default address, `127.0.0.1:8181`.
    pub fn new(storage: Storage) -> Self {
        let reserve_bytes = match storage {
            Storage::Directory { .. } => RESERVE_BYTES,
            Storage::Device(_) => 0,
        };
        Self {
            http: "127.0.0.1:8181".into(),
            storage,
            store: StoreConfig {
                heap: Some(HeapProbe::SYSTEM),
                reserve_bytes,
                scrub_bytes_per_s: SCRUB_BYTES_PER_S,
                ..StoreConfig::default()
            },
            token_file: None,
            insecure: false,
            backup_dir: None,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            body_bytes_max: 25_000_000,
            line_bytes_max: 1 << 20,
            header_bytes_max: 64 << 10,
            header_time: Duration::from_secs(30),
            body_idle: Duration::from_secs(30),
            answer_idle: Duration::from_secs(20),
            connections_max: 4096,
            inline_bytes_max: 256 << 10,
            parallel_writes_max: (2 * processors).max(4),
            queries_max: (2 * processors).max(4),
            queries_waiting_max: 256,
            query_deadline: Duration::from_mins(1),
            query_memory_bytes: 256 << 20,
            search_default: 100,
            search_max: 10_000,
            suggest_default: 100,
            suggest_max: 10_000,
            cardinality_default: 10,
            cardinality_max: 1_000,
            cardinality_days_default: 30,
            cardinality_days_max: 3_660,
            commit_time: Duration::from_secs(30),
            stop_time: Duration::from_secs(10),
        }
    }
}
