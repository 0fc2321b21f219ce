//! Which series match: the index of one (database, partition).
//!
//! A [`PartitionIndex`] gives each tag set a [`Row`](alluvium_types::Row), each field name of a measurement a
//! [`FieldId`](alluvium_types::FieldId), remembers which series (row, field, kind) exist, finds a row by the hash of its tag
//! set on the way of every write, and answers selectors with the rows and fields that match.
//!
//! It is a plain data structure. It does no I/O, takes no locks and starts no threads: its owner guards it,
//! writes the parts that [`PartitionIndex::encode_part`] returns and gives them back to
//! [`PartitionIndex::apply_part`] in order. It knows no points. Series may go, rows and
//! fields never do; no number is reused, and all of them depend only on the order of the calls.
//!
//! The newest tag sets are in memory; older ones are sealed in immutable [`Segment`]s, whose bytes the owner keeps in
//! files and reads when asked ([`SegmentFile`]). What needs those bytes returns a [`Result`] and may wait, and can be done
//! beside the index without its lock: [`PartitionIndex::plan`], [`SealedPlan::rows`], then
//! [`PartitionIndex::select_with`]. Sealed rows that fell silent may leave the name table
//! ([`PartitionIndex::silence`]). [`Liveness`] says which rows have points on which day.
//!
//! ```
//! use alluvium_index::{KeyHash, Label, Matcher, PartitionIndex, Selector, Test};
//! use alluvium_types::{SeriesKey, ValueKind};
//!
//! let mut index = PartitionIndex::new();
//! let key = SeriesKey::new("cpu", [("host", "a"), ("dc", "berlin")]).unwrap();
//! let hash = KeyHash::of(42, &key, &mut Vec::new());
//! assert_eq!(index.lookup(hash), None);
//! let row = index.insert_row(hash, &key)?;
//! let cpu = index.measurement("cpu").unwrap();
//! let idle = index.insert_field(cpu, "idle")?;
//! index.add_series(row, idle, ValueKind::F64)?;
//!
//! let selector = Selector {
//!     matchers: vec![
//!         Matcher::new(Label::Name, Test::Equal("cpu_idle".into())),
//!         Matcher::new(Label::Tag("host".into()), Test::Regex("a|b.*".into())),
//!         Matcher::new(Label::Tag("rack".into()), Test::Equal("7".into())).negated(),
//!     ],
//! };
//! let found = index.select(&selector.compile()?)?;
//! assert_eq!((found[0].row, found[0].field), (row, idle));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Limits: 2^32 - 1 rows, 2^20 fields of a measurement, names of 64 KiB, 4096 tags of a tag set. In memory a row with ten
//! tags takes about 60 bytes before it is sealed, 24 after, 3.5 once it is silent (see the example `cardinality`).

mod alike;
mod automaton;
mod blobs;
mod cardinality;
mod catalog;
mod dictionary;
mod error;
mod evaluate;
mod field_sets;
mod flat_key;
mod gathered;
mod hash;
mod head;
mod journal;
mod kind_set;
mod layout;
mod liveness;
mod paged;
mod palette;
mod part;
mod partition;
mod postings;
mod recent;
mod removal;
mod schema;
mod segment;
mod selector;
mod silence;
mod sparse;
mod steps;
mod table;
mod tag_rows;
mod varint;

pub use cardinality::{DistinctSketch, MeasurementSize, TagSize};
pub use error::{IndexError, LoadError, PartError, SegmentError, SelectorError};
pub use evaluate::{SealedPlan, SealedRows, SelectedRow};
pub use flat_key::{FlatKey, FlatKeyParts};
pub use hash::KeyHash;
pub use kind_set::KindSet;
pub use liveness::{ChangedDays, DAY_NS, DayGrowth, LiveDays, Liveness, LivenessMark};
pub use part::{DefinitionMark, begins_anew, rows_after};
pub use partition::{MAX_NAME_BYTES, MAX_TAGS, MeasurementId, PartitionIndex};
pub use segment::{LostRows, MergeJob, SealJob, Segment, SegmentFile, merge_segments};
pub use selector::{
    CompiledSelector, Label, MAX_REGEX_BYTES, MAX_REGEXES, Matcher, Selector, Test,
};
pub use silence::find_in;
