//! Why a request was refused.

use crate::time::TimeError;

/// Why a request was refused. The text is one sentence that names the field and the way out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The body is larger than a query may be.
    #[error("query of {bytes} bytes is longer than {limit}")]
    TooLong {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not JSON, nested too deeply, or a field occurs twice.
    #[error("query is not valid JSON: {reason}")]
    Json {
        /// What and where.
        reason: String,
    },
    /// A field that does not exist.
    #[error("unknown field {field:?} in {place} (allowed: {allowed})")]
    UnknownField {
        /// The field.
        field: String,
        /// Where it stands.
        place: &'static str,
        /// What could stand there.
        allowed: String,
    },
    /// A field, query type or function that is planned.
    #[error("{what} is not supported yet")]
    NotSupported {
        /// What was asked for.
        what: String,
    },
    /// No query type, or several.
    #[error("a query needs exactly one of {allowed}; this one has {found}")]
    QueryType {
        /// The query types.
        allowed: String,
        /// Those that were given.
        found: String,
    },
    /// A field of the wrong type or without meaning.
    #[error("field {field:?} must be {expected}")]
    Expected {
        /// The field.
        field: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A word that is none of those allowed.
    #[error("unknown {what} {word:?} (allowed: {allowed})")]
    UnknownWord {
        /// What the word should name.
        what: &'static str,
        /// The word.
        word: String,
        /// What could stand there.
        allowed: String,
    },
    /// The same thing is listed twice.
    #[error("{what} {word:?} is listed twice")]
    Repeated {
        /// What is listed.
        what: &'static str,
        /// The word.
        word: String,
    },
    /// Two fields that contradict each other, or a field that the query type has no use for.
    #[error("field {field:?} cannot be used with {other:?}")]
    Conflict {
        /// The field.
        field: &'static str,
        /// What it contradicts.
        other: &'static str,
    },
    /// A list is longer than allowed.
    #[error("field {field:?} lists more than {limit} items")]
    TooMany {
        /// The field.
        field: String,
        /// The limit.
        limit: usize,
    },
    /// A time or duration.
    #[error("field {field:?}: {source}")]
    Time {
        /// The field.
        field: &'static str,
        /// Why.
        source: TimeError,
    },
}

impl RequestError {
    /// The stable code of this error in answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "query_too_long",
            Self::Json { .. } => "invalid_json",
            Self::UnknownField { .. } => "unknown_field",
            Self::NotSupported { .. } => "not_supported",
            Self::QueryType { .. } => "query_type",
            Self::UnknownWord {
                what: "function", ..
            } => "unknown_function",
            Self::Time { .. } => "invalid_time",
            _ => "invalid_query",
        }
    }
}
