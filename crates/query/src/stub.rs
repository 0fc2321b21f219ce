//! Stand-ins for `alluvium_store` until it lands.
#![expect(missing_docs, reason = "goes away with the real types")]
use alluvium_types::{SeriesId, SeriesKey};
use std::sync::Arc;

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
