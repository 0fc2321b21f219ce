//! Stand-ins for `alluvium_index` and `alluvium_store` until those land.
#![expect(missing_docs, reason = "goes away with the real types")]
use alluvium_types::{SeriesId, SeriesKey};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    pub matchers: Vec<Matcher>,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    pub label: Label,
    pub test: Test,
    pub negated: bool,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    Name,
    Measurement,
    Field,
    Tag(String),
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    Equal(String),
    In(Vec<String>),
    Regex(String),
    Exists,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadStats {
    pub leaf_pages: u64,
    pub inner_pages: u64,
    pub cached_pages: u64,
    pub aggregates_used: u64,
    pub points_decoded: u64,
    pub expired_pages: u64,
    pub bad_pages: u64,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}
#[derive(Debug, Clone)]
pub struct SeriesInfo {
    pub id: SeriesId,
    pub key: Arc<SeriesKey>,
    pub field: Arc<str>,
}
impl SeriesInfo {
    pub fn metric_name(&self) -> String {
        self.key.metric_name(&self.field)
    }
}
