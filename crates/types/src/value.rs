//! Kinds of values and single values.
//!
//! Below the query engine every numeric value is carried as 64 raw bits beside its kind: the IEEE bits of a
//! float (NaN payloads and the sign of zero kept), the two's complement of an integer, 0 or 1 for a boolean.

use std::fmt;

/// Longest string value, in bytes.
pub const MAX_STRING_BYTES: usize = 65_536;

/// What a series holds. Stored on disk by its number; 0 is never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ValueKind {
    /// 64-bit float, bit-exact.
    F64 = 1,
    /// Signed 64-bit integer.
    I64 = 2,
    /// Unsigned 64-bit integer.
    U64 = 3,
    /// Boolean.
    Bool = 4,
    /// UTF-8 text of at most [`MAX_STRING_BYTES`].
    Str = 5,
}

impl ValueKind {
    /// Every kind, by number.
    pub const ALL: [Self; 5] = [Self::F64, Self::I64, Self::U64, Self::Bool, Self::Str];

    /// The kind with this number on disk.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The number on disk, 1 to 5.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Whether values are carried as 64 raw bits: everything but strings.
    pub fn is_numeric(self) -> bool {
        self != Self::Str
    }

    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "float",
            Self::I64 => "integer",
            Self::U64 => "unsigned",
            Self::Bool => "boolean",
            Self::Str => "string",
        }
    }
}

impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A borrowed value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueRef<'a> {
    /// See [`ValueKind::F64`].
    F64(f64),
    /// See [`ValueKind::I64`].
    I64(i64),
    /// See [`ValueKind::U64`].
    U64(u64),
    /// See [`ValueKind::Bool`].
    Bool(bool),
    /// See [`ValueKind::Str`].
    Str(&'a str),
}

impl ValueRef<'_> {
    /// The kind of this value.
    pub fn kind(self) -> ValueKind {
        match self {
            Self::F64(_) => ValueKind::F64,
            Self::I64(_) => ValueKind::I64,
            Self::U64(_) => ValueKind::U64,
            Self::Bool(_) => ValueKind::Bool,
            Self::Str(_) => ValueKind::Str,
        }
    }

    /// The 64 raw bits of a numeric value; `None` for a string.
    pub fn bits(self) -> Option<u64> {
        match self {
            Self::F64(v) => Some(v.to_bits()),
            Self::I64(v) => Some(v as u64),
            Self::U64(v) => Some(v),
            Self::Bool(v) => Some(u64::from(v)),
            Self::Str(_) => None,
        }
    }

    /// The numeric value with these raw bits.
    ///
    /// # Panics
    /// If `kind` is a string.
    pub fn from_bits(kind: ValueKind, bits: u64) -> Self {
        match kind {
            ValueKind::F64 => Self::F64(f64::from_bits(bits)),
            ValueKind::I64 => Self::I64(bits as i64),
            ValueKind::U64 => Self::U64(bits),
            ValueKind::Bool => Self::Bool(bits != 0),
            ValueKind::Str => panic!("a string has no raw bits"),
        }
    }

    /// The same value, owned.
    pub fn to_owned(self) -> Value {
        match self {
            Self::F64(v) => Value::F64(v),
            Self::I64(v) => Value::I64(v),
            Self::U64(v) => Value::U64(v),
            Self::Bool(v) => Value::Bool(v),
            Self::Str(v) => Value::Str(v.into()),
        }
    }

    /// Whether both are the same kind and the same bits: NaN equals itself, -0.0 differs from 0.0.
    pub fn same(self, other: Self) -> bool {
        match (self, other) {
            (Self::Str(a), Self::Str(b)) => a == b,
            _ => self.kind() == other.kind() && self.bits() == other.bits(),
        }
    }
}

/// An owned value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// See [`ValueKind::F64`].
    F64(f64),
    /// See [`ValueKind::I64`].
    I64(i64),
    /// See [`ValueKind::U64`].
    U64(u64),
    /// See [`ValueKind::Bool`].
    Bool(bool),
    /// See [`ValueKind::Str`].
    Str(Box<str>),
}

impl Value {
    /// The same value, borrowed.
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::F64(v) => ValueRef::F64(*v),
            Self::I64(v) => ValueRef::I64(*v),
            Self::U64(v) => ValueRef::U64(*v),
            Self::Bool(v) => ValueRef::Bool(*v),
            Self::Str(v) => ValueRef::Str(v),
        }
    }
}
