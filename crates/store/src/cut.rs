//! How far a database has expired: logged before it is honoured, so that a restart answers the same.

use alluvium_codec::{CodecError, varint};
use alluvium_nbtree::Expiry;
use alluvium_types::TimeRange;
use parking_lot::Mutex;

use crate::retention_settings::Retention;

/// What has expired. It only goes on: a longer retention brings nothing back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Points before this instant have expired.
    pub points: i64,
    /// Aggregates before this instant have expired; at most `points`.
    pub aggregates: i64,
    /// Volumes up to this one went with points behind the cut; 0 if none did.
    pub gone_volume: u32,
    /// First instant behind those points.
    pub gone_end: i64,
}

impl Default for Cut {
    fn default() -> Self {
        Self {
            points: i64::MIN,
            aggregates: i64::MIN,
            gone_volume: 0,
            gone_end: i64::MIN,
        }
    }
}

impl Cut {
    /// The later of both.
    #[must_use]
    pub(crate) fn join(self, other: Self) -> Self {
        Self {
            points: self.points.max(other.points),
            aggregates: self.aggregates.max(other.aggregates),
            gone_volume: self.gone_volume.max(other.gone_volume),
            gone_end: self.gone_end.max(other.gone_end),
        }
    }

    /// Whether aggregates outlive their points.
    pub(crate) fn keeps_aggregates(&self) -> bool {
        self.aggregates < self.points
    }

    /// Whether nothing has expired.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// When points are readable.
    pub(crate) fn live_points(&self) -> TimeRange {
        range_from(self.points)
    }

    /// When aggregates are.
    pub(crate) fn live_aggregates(&self) -> TimeRange {
        range_from(self.aggregates)
    }

    /// What a run is read with.
    pub(crate) fn expiry(&self) -> Expiry {
        Expiry {
            compound_before: if self.keeps_aggregates() {
                self.points
            } else {
                i64::MIN
            },
            gone_volume: self.gone_volume,
            gone_end: self.gone_end,
        }
    }

    /// The bytes of a log entry: the cut and the volumes that go with it.
    pub(crate) fn encode(&self, volumes: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        for time in [self.points, self.aggregates, self.gone_end] {
            varint::put_i64(&mut out, time);
        }
        varint::put_u64(&mut out, u64::from(self.gone_volume));
        varint::put_u64(&mut out, volumes.len() as u64);
        for id in volumes {
            varint::put_u64(&mut out, u64::from(*id));
        }
        out
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<(Self, Vec<u32>), CodecError> {
        let r = &mut bytes;
        let (points, aggregates) = (varint::get_i64(r)?, varint::get_i64(r)?);
        let cut = Self {
            points,
            aggregates,
            gone_end: varint::get_i64(r)?,
            gone_volume: varint::get_u64(r)? as u32,
        };
        let mut volumes = Vec::new();
        for _ in 0..varint::get_u64(r)? {
            volumes.push(varint::get_u64(r)? as u32);
        }
        Ok((cut, volumes))
    }
}

fn range_from(begin: i64) -> TimeRange {
    TimeRange::new(begin, i64::MAX).unwrap_or(TimeRange::ALL)
}

#[derive(Debug, Default)]
struct State {
    settings: Retention,
    /// In the log, or about to be.
    logged: Cut,
    /// Volumes that go as soon as `logged` is durable.
    going: Vec<u32>,
    /// Durable: what reads go by.
    honoured: Cut,
    volumes_freed: u64,
    bytes_freed: u64,
}

/// Retention of one database: its settings and how far it went.
#[derive(Debug)]
pub(crate) struct DatabaseRetention(Mutex<State>);

impl DatabaseRetention {
    pub(crate) fn new(settings: Retention) -> Self {
        Self(Mutex::new(State {
            settings,
            ..State::default()
        }))
    }

    pub(crate) fn settings(&self) -> Retention {
        self.0.lock().settings
    }

    pub(crate) fn set_settings(&self, settings: Retention) {
        self.0.lock().settings = settings;
    }

    /// What reads go by.
    pub(crate) fn cut(&self) -> Cut {
        self.0.lock().honoured
    }

    /// What is logged, with the volumes that go once it is durable: for a checkpoint, which may cover that entry.
    pub(crate) fn logged(&self) -> (Cut, Vec<u32>) {
        let state = self.0.lock();
        (state.logged, state.going.clone())
    }

    /// Before the entry is logged, so that a checkpoint never covers an entry it does not have.
    pub(crate) fn log(&self, cut: Cut, going: &[u32]) {
        let mut state = self.0.lock();
        state.logged = state.logged.join(cut);
        state.going = going.to_vec();
    }

    /// The entry is durable.
    pub(crate) fn honour(&self, cut: Cut) {
        let mut state = self.0.lock();
        state.honoured = state.honoured.join(cut);
    }

    /// The volumes of the entry are gone.
    pub(crate) fn freed(&self, volumes: u64, bytes: u64) {
        let mut state = self.0.lock();
        state.going.clear();
        state.volumes_freed += volumes;
        state.bytes_freed += bytes;
    }

    /// From the manifest or the log, both durable.
    pub(crate) fn restore(&self, cut: Cut) {
        let mut state = self.0.lock();
        state.logged = state.logged.join(cut);
        state.honoured = state.logged;
    }

    /// Volumes and bytes freed since opening.
    pub(crate) fn freed_so_far(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.volumes_freed, state.bytes_freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_come_back_and_cut_ones_are_refused() {
        let cut = Cut {
            points: 1 << 60,
            aggregates: -5,
            gone_volume: 7,
            gone_end: i64::MAX,
        };
        let bytes = cut.encode(&[1, 300]);
        assert_eq!(Cut::decode(&bytes).unwrap(), (cut, vec![1, 300]));
        for len in 0..bytes.len() {
            assert!(Cut::decode(&bytes[..len]).is_err(), "{len}");
        }
        let join = Cut::default().join(cut).join(Cut::default());
        assert_eq!(join, cut);
        assert!(cut.keeps_aggregates() && Cut::default().is_none());
    }
}
