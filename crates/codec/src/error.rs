//! What can be wrong with encoded bytes.

/// Why bytes could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes end before what they announce.
    #[error("the bytes end before what they announce")]
    Truncated,
    /// A variable-length number passes 64 bits.
    #[error("a variable-length number passes 64 bits")]
    Overlong,
    /// A field has a value no encoder writes.
    #[error("{field} is {value}, which no encoder writes")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}
