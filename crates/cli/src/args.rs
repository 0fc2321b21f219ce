//! Commands and flags.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::memory::parse_size;

/// Alluvium, a time-series database.
#[derive(Debug, Parser)]
#[command(version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Open or create a data directory and serve it
    Serve(ServeArgs),
    /// Serve a database filled with 24 hours of believable hosts, and keep feeding it
    Demo(DemoArgs),
    /// Ask a running server
    Query(QueryArgs),
    /// Delete points of a running server
    Delete(DeleteArgs),
    /// Copy all data to a new directory, while a server writes or of a directory nobody has open
    Backup(BackupArgs),
    /// Make a data directory of a backup, and check all of it
    Restore(RestoreArgs),
    /// Look for damage in a directory that nobody has open, or in a running server
    Verify(VerifyArgs),
    /// Make a new data directory of what is left of a damaged one
    Salvage(SalvageArgs),
    /// Say what makes how many series in a running server
    Cardinality(CardinalityArgs),
    /// Show what a data directory holds, without a server
    Inspect(InspectArgs),
    /// Load a running server, or ask it for figures
    Bench(BenchArgs),
}

/// How to serve. Every flag is also a key of `alluvium.toml` and an environment variable.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServeFlags {
    /// Address of every HTTP interface [default: 127.0.0.1:8181]
    #[arg(long, value_name = "ADDR", env = "ALLUVIUM_HTTP")]
    pub http: Option<String>,
    /// When a write is acknowledged: sync, interval=100ms, os, none [default: sync]
    #[arg(long, value_name = "LEVEL", env = "ALLUVIUM_DURABILITY")]
    pub durability: Option<String>,
    /// What blocks of new databases prefer: balanced, small [default: balanced]
    #[arg(long, value_name = "CHOICE", env = "ALLUVIUM_COMPRESSION")]
    pub compression: Option<String>,
    /// I/O backend: auto, uring, pwritev [default: auto]
    #[arg(long, value_name = "BACKEND", env = "ALLUVIUM_IO")]
    pub io: Option<String>,
    /// Memory budget, such as 2GiB [default: half of the machine or of its cgroup]
    #[arg(long, value_name = "SIZE", env = "ALLUVIUM_MEMORY", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Writer shards, 1 to 16 [default: number of cores]
    #[arg(long, value_name = "N", env = "ALLUVIUM_SHARDS")]
    pub shards: Option<usize>,
    /// Size of one volume [default: 4GiB]
    #[arg(long, value_name = "SIZE", env = "ALLUVIUM_VOLUME_SIZE", value_parser = parse_size)]
    pub volume_size: Option<u64>,
    /// Age at which points of new databases expire, as 30d or 12h [default: ever]
    #[arg(long, value_name = "AGE", env = "ALLUVIUM_RETENTION")]
    pub retention: Option<String>,
    /// Age at which their aggregates expire, or `same` as the points [default: ever]
    #[arg(long, value_name = "AGE", env = "ALLUVIUM_RETENTION_AGGREGATES")]
    pub retention_aggregates: Option<String>,
    /// Size at which the oldest points of new databases expire [default: no bound]
    #[arg(long, value_name = "SIZE", env = "ALLUVIUM_MAX_DISK")]
    pub max_disk: Option<String>,
    /// How far ahead of the clock points may be where they expire by age [default: 1d]
    #[arg(long, value_name = "AGE", env = "ALLUVIUM_FUTURE_MAX")]
    pub future_max: Option<String>,
    /// Series that a new database may have [default: no bound]
    #[arg(long, value_name = "N", env = "ALLUVIUM_SERIES_MAX")]
    pub series_max: Option<u64>,
    /// Series that each measurement of a new database may have [default: no bound]
    #[arg(long, value_name = "N", env = "ALLUVIUM_MEASUREMENT_SERIES_MAX")]
    pub measurement_series_max: Option<u64>,
    /// Any other setting that is a number, such as checkpoint_ms=60000 or queries_max=16; may be given many times
    #[arg(long, value_name = "NAME=NUMBER")]
    pub set: Vec<String>,
    /// Tokens and their rights; without it only loopback addresses may be listened on
    #[arg(long, value_name = "FILE", env = "ALLUVIUM_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// What the scrubber reads in a second, such as 4MiB; 0 turns it off [default: 4MiB]
    #[arg(long, value_name = "SIZE", env = "ALLUVIUM_SCRUB_RATE", value_parser = parse_size)]
    pub scrub_rate: Option<u64>,
    /// Directory below which backups may be made over HTTP [default: none, they are refused]
    #[arg(long, value_name = "DIR", env = "ALLUVIUM_BACKUP_DIR")]
    pub backup_dir: Option<PathBuf>,
    /// Listen on any address without tokens
    #[arg(long, env = "ALLUVIUM_INSECURE")]
    pub insecure: bool,
    /// Settings file [default: alluvium.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "ALLUVIUM_CONFIG")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Data directory
    #[arg(default_value = "./alluvium-data", env = "ALLUVIUM_DIR")]
    pub dir: PathBuf,
    #[command(flatten)]
    pub flags: ServeFlags,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Data directory
    #[arg(default_value = "./alluvium-demo")]
    pub dir: PathBuf,
    /// Fill, show a plot and stop
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub flags: ServeFlags,
}

/// Which server, and with which token.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// Address of the server
    #[arg(long, default_value = "http://127.0.0.1:8181", env = "ALLUVIUM_URL")]
    pub url: String,
    /// Token, where the server asks for one
    #[arg(long, env = "ALLUVIUM_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Csv,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Database
    #[arg(long, default_value = "default")]
    pub db: String,
    /// How to print rows
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
    /// A JSON query, or words: `mean cpu_usage_user where host=a by host every 1h since 1d`
    #[arg(required = true)]
    pub query: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Database
    #[arg(long, default_value = "default")]
    pub db: String,
    /// Metric, as queries name it; any of several
    #[arg(long, value_name = "NAME")]
    pub metric: Vec<String>,
    /// Measurement; any of several
    #[arg(long, value_name = "NAME")]
    pub measurement: Vec<String>,
    /// Field; any of several
    #[arg(long, value_name = "NAME")]
    pub field: Vec<String>,
    /// A tag and its value; of one tag given several times any value
    #[arg(long = "where", value_name = "TAG=VALUE")]
    pub tags: Vec<String>,
    /// First time deleted: nanoseconds, a date, now-1h [default: the oldest point]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub from: Option<String>,
    /// First time kept behind it [default: behind the newest point]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub to: Option<String>,
    /// Only numbers for which this holds, such as ">100"; all of several
    #[arg(long, value_name = "COMPARISON")]
    pub value: Vec<String>,
    /// Every series of the database
    #[arg(long)]
    pub all: bool,
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Address of a running server, or a data directory
    pub source: String,
    /// Directory of the backup: with a server, one of its machine below its --backup-dir
    pub target: String,
    /// An earlier backup: what is the same is linked from there
    #[arg(long, value_name = "DIR")]
    pub base: Option<String>,
    /// Copy everything, so that the backup shares no block with the data
    #[arg(long)]
    pub copy: bool,
    /// Token, where the server asks for one
    #[arg(long, env = "ALLUVIUM_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    pub backup: PathBuf,
    /// New data directory
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Data directory, backup, or address of a server
    pub target: String,
    /// Token, where the server asks for one
    #[arg(long, env = "ALLUVIUM_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SalvageArgs {
    /// Damaged data directory; nothing in it is changed
    pub dir: PathBuf,
    /// New data directory
    pub target: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CardinalityArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Database
    #[arg(long, default_value = "default")]
    pub db: String,
    /// Entries of each list
    #[arg(long, default_value_t = 10)]
    pub top: usize,
    /// Days of growth
    #[arg(long, default_value_t = 30)]
    pub days: usize,
    /// Print the server's JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(subcommand)]
    pub what: Inspect,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Inspect {
    /// One page: its header and what it holds
    Page {
        /// Data directory
        dir: PathBuf,
        /// Number of the volume
        volume: u32,
        /// Number of the page
        page: u32,
    },
    /// Pages of one series, by level and order
    Tree {
        /// Data directory
        dir: PathBuf,
        /// Number of the database
        database: u32,
        /// Packed number of the series, as `inspect volume` prints them; the largest if left out
        series: Option<u64>,
    },
    /// Volumes, their pages by kind, and damaged pages
    Volume {
        /// Data directory
        dir: PathBuf,
        /// Number of one volume; all if left out
        volume: Option<u32>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub what: Bench,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Write a deterministic load and say what it cost
    Load(LoadArgs),
    /// Ask for random unaligned ranges and buckets of one series
    Query(BenchQueryArgs),
    /// Create series in a new directory, without a server, and say what they cost
    Cardinality(BenchCardinalityArgs),
}

/// What a load looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// TSBS cpu-only: ten tags, ten integers
    Tsbs,
    /// One float of two decimals
    Gauge,
    /// One float of full precision
    Walk,
    /// One growing integer
    Counter,
    /// Float, integer, bool and text
    Mixed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadOrder {
    /// All hosts of one time, then the next
    Time,
    /// As `time`, but the newer half before the older one
    Halves,
    /// All times of one host, then the next
    Series,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Database
    #[arg(long, default_value = "bench")]
    pub db: String,
    #[arg(long, value_enum, default_value = "tsbs")]
    pub shape: Shape,
    /// Hosts
    #[arg(long, default_value_t = 100)]
    pub hosts: u32,
    /// Points of each host
    #[arg(long, default_value_t = 8640)]
    pub points: u32,
    /// Ten tags a host, as `tsbs` has them, whatever the shape
    #[arg(long)]
    pub ten_tags: bool,
    /// Seconds between points
    #[arg(long, default_value_t = 10)]
    pub interval_s: u32,
    /// Time of the first point, seconds since 1970
    #[arg(long, default_value_t = 1_767_225_600)]
    pub start_s: i64,
    /// Lines of one request
    #[arg(long, default_value_t = 5000)]
    pub batch_lines: usize,
    #[arg(long, default_value_t = 2)]
    pub connections: usize,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[arg(long, value_enum, default_value = "time")]
    pub order: LoadOrder,
    /// Percent of the lines that come late; with `--order time`
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub late: u32,
    /// Seconds by which they are late at most
    #[arg(long, default_value_t = 10_800)]
    pub late_s: u32,
    /// Send bodies with gzip
    #[arg(long)]
    pub gzip: bool,
    /// End without a checkpoint: everything is in the log, as recovery after a kill would find it
    #[arg(long)]
    pub no_checkpoint: bool,
    /// Durability of the requests, if more than the server's
    #[arg(long)]
    pub durability: Option<String>,
    /// Bodies up to this size in all are prepared before the clock starts
    #[arg(long, default_value = "1GiB", value_parser = parse_size)]
    pub prepare: u64,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BenchCardinalityArgs {
    /// Directory to make; it is left there
    pub dir: PathBuf,
    /// Make nothing: open what an earlier run with as many series has left there, and ask it
    #[arg(long)]
    pub again: bool,
    /// Series, each a tag set of its own
    #[arg(long, default_value_t = 1_000_000)]
    pub series: u64,
    /// Series of one batch
    #[arg(long, default_value_t = 10_000)]
    pub batch: usize,
    /// Memory budget of the store
    #[arg(long, default_value = "8GiB", value_parser = parse_size)]
    pub memory: u64,
    /// Times that each selection is matched
    #[arg(long, default_value_t = 9)]
    pub runs: usize,
    /// Any other setting of the store that is a number, such as index_segment_rows=4096; may be given many times
    #[arg(long, value_name = "NAME=NUMBER")]
    pub set: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BenchQueryArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Database
    #[arg(long, default_value = "bench")]
    pub db: String,
    /// Metric whose first series is asked
    #[arg(long, default_value = "cpu_usage_user")]
    pub metric: String,
    /// One tag that picks the series
    #[arg(long, default_value = "hostname=host_0", value_name = "TAG=VALUE")]
    pub series: String,
    /// Random ranges
    #[arg(long, default_value_t = 1000)]
    pub ranges: usize,
    /// Queries of a thousand buckets
    #[arg(long, default_value_t = 20)]
    pub buckets: usize,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Answers checked against a raw select
    #[arg(long, default_value_t = 10)]
    pub check: usize,
}
