//! Series of the shapes that occur.

use alluvium_types::{Column, ValueKind};

use crate::random::Random;

/// Time of the first point, nanoseconds.
pub const BEGIN_NS: i64 = 1_700_000_000_000_000_000;

/// From one point to the next, nanoseconds, but for the jitter of [`Shape::Gauge`].
pub const STEP_NS: i64 = 10_000_000_000;

/// What a series looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Floats of two decimals that wander, at times with milliseconds of jitter: a sensor.
    Gauge,
    /// Floats of all digits that wander: a computed value.
    Walk,
    /// Integers that rise by up to a thousand: bytes sent.
    Counter,
    /// Few words that recur.
    States,
    /// Texts each of which is new.
    Texts,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Self; 5] = [
        Self::Gauge,
        Self::Walk,
        Self::Counter,
        Self::States,
        Self::Texts,
    ];

    /// The name of its benchmarks.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Walk => "walk",
            Self::Counter => "counter",
            Self::States => "states",
            Self::Texts => "texts",
        }
    }

    /// The kind of its values.
    pub fn kind(self) -> ValueKind {
        match self {
            Self::Gauge | Self::Walk => ValueKind::F64,
            Self::Counter => ValueKind::I64,
            Self::States | Self::Texts => ValueKind::Str,
        }
    }

    /// So many points.
    pub fn column(self, points: usize) -> Column {
        let mut random = Random::new(7);
        let mut column = Column::new(self.kind());
        let (mut level, mut full, mut total) = (500_000_i64, 100.0_f64, 0_u64);
        for i in 0..points as i64 {
            let time = BEGIN_NS + i * STEP_NS;
            match self {
                Self::Gauge => {
                    level += random.below(15) as i64 - 7;
                    let jitter = random.below(20) as i64 * 1_000_000;
                    column.push_bits(time + jitter, (level as f64 / 100.0).to_bits());
                }
                Self::Walk => {
                    full += random.roll() as f64 / 4_294_967_296.0 - 0.25;
                    column.push_bits(time, full.to_bits());
                }
                Self::Counter => {
                    total += random.below(1_000);
                    column.push_bits(time, total);
                }
                Self::States => {
                    let state = ["starting", "running", "stopping", "failed"];
                    column.push_str(time, state[random.below(4) as usize]);
                }
                Self::Texts => {
                    let (id, ms) = (random.roll(), random.below(1_000));
                    column.push_str(time, &format!("request {id} took {ms} ms"));
                }
            }
        }
        column
    }
}
