//! Why a query was refused or ended early.

use alluvium_types::BudgetExceeded;

/// A refusal, with a stable code for programs and one sentence for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// No series has the name.
    #[error(
        "no series is named \"{metric}\"; a name is measurement_field, or the measurement alone when the field is called value"
    )]
    UnknownMetric {
        /// The name as asked for.
        metric: String,
    },
    /// A function over numbers met strings only.
    #[error(
        "function {function} needs numbers, but {series} holds strings; count, first, last, first_timestamp and last_timestamp take strings"
    )]
    StringSeries {
        /// The function.
        function: &'static str,
        /// One such series.
        series: String,
    },
    /// A function nobody knows.
    #[error(
        "function \"{function}\" is not known; the functions are {}",
        crate::Function::list()
    )]
    UnknownFunction {
        /// The name as asked for.
        function: String,
    },
    /// A metric without a function.
    #[error(
        "no function is given for \"{metric}\"; name at least one of {}",
        crate::Function::list()
    )]
    NoFunction {
        /// The metric.
        metric: String,
    },
    /// A query of nothing.
    #[error("the query names no metric; give at least one")]
    NoMetric,
    /// The same metric, or the same function of a metric, twice.
    #[error("\"{name}\" is asked for twice; name it once")]
    Repeated {
        /// What was repeated.
        name: String,
    },
    /// A step that makes no bins.
    #[error("a step of {step_ns} ns makes no bins; give a positive duration such as \"1m\"")]
    BadStep {
        /// The step.
        step_ns: i64,
    },
    /// Bins counted from an edge that the range does not have.
    #[error(
        "\"align\": \"from\" needs a range with \"from\"; give one, or leave align out for bins at the epoch"
    )]
    NoAlignment,
    /// Fill without bins to fill.
    #[error("fill needs bins; use it with group-aggregate")]
    FillWithoutBins,
    /// A part of the language that is not built.
    #[error("{what} is not supported yet; leave it out")]
    Unsupported {
        /// The part.
        what: &'static str,
    },
    /// An invalid regular expression.
    #[error(
        "the regular expression for tag \"{tag}\" is refused: {}",
        last_line(source)
    )]
    Regex {
        /// The tag.
        tag: String,
        /// What is wrong with it.
        source: Box<regex::Error>,
    },
    /// The selector does not compile.
    #[error("the selection is refused: {0}")]
    Selector(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The query's own memory limit.
    #[error(
        "the query needs more than its {limit} bytes of memory; ask for fewer series at once, a shorter range, or order-by series"
    )]
    Memory {
        /// Bytes asked for on top.
        asked: u64,
        /// Bytes the query held.
        used: u64,
        /// The limit.
        limit: u64,
    },
    /// The process-wide memory budget.
    #[error("the server is short of memory: {0}; try again later")]
    Budget(#[source] BudgetExceeded),
    /// The database was dropped while it was read.
    #[error("the database was dropped meanwhile; the rows so far may lack points")]
    Dropped,
    /// More metrics than a query takes without naming them.
    #[error(
        "\"*\" stands for more than {limit} metrics; narrow it by __name__, __measurement__ or __field__ in where"
    )]
    TooManyMetrics {
        /// The limit.
        limit: usize,
    },
    /// Each metric is looked for with every value of the filter.
    #[error(
        "{metrics} metrics with {values} values in where are more than {limit} looks into the index; ask for fewer at once"
    )]
    TooManyLooks {
        /// Metrics that are named, or that `*` stands for.
        metrics: usize,
        /// Values of tags, and tags of complete tag sets.
        values: usize,
        /// The limit.
        limit: usize,
    },
    /// The query's row limit.
    #[error(
        "the answer has more than {limit} rows; ask for fewer with limit, range or a longer step"
    )]
    TooManyRows {
        /// The limit.
        limit: u64,
    },
    /// The query's time limit.
    #[error(
        "the query ran longer than {limit_ms} ms; ask for less or raise the setting query_deadline_ms"
    )]
    Deadline {
        /// The limit.
        limit_ms: u64,
    },
    /// Whoever asked is gone.
    #[error("the query was cancelled")]
    Cancelled,
    /// A series could not be read.
    #[error("reading {series} failed: {source}")]
    Storage {
        /// The series, or what was attempted.
        series: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl QueryError {
    /// The stable name of the refusal; `docs/QUERY.md` lists them all.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownMetric { .. } => "unknown_metric",
            Self::StringSeries { .. } => "string_series",
            Self::UnknownFunction { .. } => "unknown_function",
            Self::NoFunction { .. } => "no_function",
            Self::NoMetric => "no_metric",
            Self::Repeated { .. } => "repeated",
            Self::BadStep { .. } => "bad_step",
            Self::NoAlignment => "no_alignment",
            Self::FillWithoutBins => "fill_without_bins",
            Self::Unsupported { .. } => "unsupported",
            Self::Regex { .. } => "bad_regex",
            Self::Selector(_) => "bad_selector",
            Self::Memory { .. } => "query_memory",
            Self::Budget(_) => "memory_budget",
            Self::Dropped => "database_dropped",
            Self::TooManyMetrics { .. } => "too_many_metrics",
            Self::TooManyLooks { .. } => "too_many_looks",
            Self::TooManyRows { .. } => "too_many_rows",
            Self::Deadline { .. } => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::Storage { .. } => "storage",
        }
    }

    /// Whether the request itself is at fault, so that sending it again cannot help.
    pub fn is_request_error(&self) -> bool {
        !matches!(
            self,
            Self::Budget(_) | Self::Deadline { .. } | Self::Cancelled | Self::Storage { .. }
        )
    }
}

/// The engine draws the expression with a mark under the fault; its last line says what the fault is.
fn last_line(error: &regex::Error) -> String {
    error
        .to_string()
        .lines()
        .last()
        .unwrap_or_default()
        .trim_start_matches("error: ")
        .to_owned()
}
