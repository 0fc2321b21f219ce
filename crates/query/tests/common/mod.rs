//! A source in memory, and what tests need around it.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alluvium_io::{Clock, MemoryDevice, SystemClock};
use alluvium_query::{
    Direction, Execution, Label, Limits, Matcher, Plan, QueryError, ReadStats, RowBatch, Selector,
    SeriesInfo, SeriesReader, SeriesScan, Source, Test,
};
use alluvium_store::{Database, Store, StoreConfig};
use alluvium_types::{
    Aggregate, Column, FieldId, Partition, Row, SeriesId, SeriesKey, TimeRange, Value, ValueKind,
};

/// One series: times ascend strictly, all values are of `kind`.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) info: SeriesInfo,
    pub(crate) points: Vec<(i64, Value)>,
}

/// Series in memory, and counters of what was touched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    pub(crate) series: Vec<Series>,
    pub(crate) scanned: Arc<AtomicU64>,
    pub(crate) binned: Arc<AtomicU64>,
    pub(crate) opened: Arc<AtomicU64>,
    /// Fail the n-th batch from now, counting from 1; 0 is never.
    pub(crate) fail_at: Arc<AtomicU64>,
    pub(crate) batch: usize,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self {
            batch: 3,
            ..Self::default()
        }
    }

    /// Adds points, in any order, to the series of a name such as `cpu host=a`, field `value`.
    pub(crate) fn add(
        &mut self,
        measurement: &str,
        tags: &[(&str, &str)],
        field: &str,
        points: &[(i64, Value)],
    ) {
        let key =
            Arc::new(SeriesKey::new(measurement, tags.iter().copied()).expect("tags are distinct"));
        let mut points = points.to_vec();
        points.sort_by_key(|p| p.0);
        points.dedup_by_key(|p| p.0);
        let kind = points
            .first()
            .map_or(ValueKind::F64, |p| p.1.as_ref().kind());
        let id = SeriesId::new(
            Partition(0),
            Row(self.series.len() as u32),
            FieldId(0),
            kind,
        );
        self.series.push(Series {
            info: SeriesInfo {
                id,
                key,
                field: field.into(),
            },
            points,
        });
    }

    /// Adds points given as line protocol with times in nanoseconds; the last of a time wins.
    pub(crate) fn load(&mut self, lines: &str) {
        each_point(lines, |_, key, field, time, value| {
            self.write(key, field, time, value);
        });
    }

    fn write(&mut self, key: &SeriesKey, field: &str, time: i64, value: Value) {
        let kind = value.as_ref().kind();
        let found = self
            .series
            .iter_mut()
            .find(|s| *s.info.key == *key && &*s.info.field == field && s.info.id.kind() == kind);
        let Some(series) = found else {
            let tags: Vec<(&str, &str)> = key.tags().iter().map(|(k, v)| (&**k, &**v)).collect();
            return self.add(key.measurement(), &tags, field, &[(time, value)]);
        };
        match series.points.binary_search_by_key(&time, |p| p.0) {
            Ok(at) => series.points[at].1 = value,
            Err(at) => series.points.insert(at, (time, value)),
        }
    }

    pub(crate) fn floats(
        &mut self,
        measurement: &str,
        tags: &[(&str, &str)],
        points: &[(i64, f64)],
    ) {
        let points: Vec<(i64, Value)> = points.iter().map(|(t, v)| (*t, Value::F64(*v))).collect();
        self.add(measurement, tags, "value", &points);
    }
}

/// Calls back with raw key, key, field, time and value of every point of some line protocol.
fn each_point(lines: &str, mut point: impl FnMut(&[u8], &SeriesKey, &str, i64, Value)) {
    use alluvium_protocol::line::{self, FieldValue, LineParser, Precision};
    let mut parser = LineParser::new(lines.as_bytes(), Precision::Ns, 0, line::Limits::default());
    while let Some(line) = parser.next_line() {
        let line = line.expect("a valid line");
        let key = line::decode_key(line.key).expect("a valid key");
        for field in line.fields {
            let name = line::decode_name(field.name).expect("a valid field name");
            let value = match field.value {
                FieldValue::F64(v) => Value::F64(v),
                FieldValue::I64(v) => Value::I64(v),
                FieldValue::U64(v) => Value::U64(v),
                FieldValue::Bool(v) => Value::Bool(v),
                FieldValue::Str { raw, escaped } => {
                    Value::Str(line::decode_string(raw, escaped).as_ref().into())
                }
            };
            point(line.key, &key, &name, line.time_ns, value);
        }
    }
}

/// A real store on a device in memory, with one database.
pub(crate) struct Real {
    pub(crate) store: Store,
    pub(crate) database: Database,
}

impl Real {
    pub(crate) fn new() -> Self {
        let config = StoreConfig {
            shards: 2,
            volume_bytes: 1 << 20,
            extent_pages: 4,
            segment_bytes: 1 << 20,
            ..StoreConfig::default()
        };
        let device = Arc::new(MemoryDevice::new(3));
        let store =
            Store::open(device, Arc::new(SystemClock), config).expect("an empty device opens");
        let (database, created) = store.create_database("db").expect("the name is good");
        created.wait().expect("memory takes everything");
        Self { store, database }
    }

    pub(crate) fn load(&self, lines: &str) {
        let mut writer = self.database.writer();
        each_point(lines, |raw, key, field, time, value| {
            let row = writer
                .cached(raw)
                .unwrap_or_else(|| writer.resolve(raw, key.clone()));
            writer.begin_line(row, time).expect("a good time");
            writer.field(field, value.as_ref()).expect("a good field");
            writer.end_line().expect("a good line");
        });
        writer
            .commit(None)
            .expect("room")
            .wait()
            .expect("memory takes everything");
    }
}

/// All rows a source gives, and the warnings.
pub(crate) fn answer(
    source: Box<dyn Source>,
    plan: Plan,
) -> Result<(Vec<OwnedRow>, Vec<String>), QueryError> {
    let mut execution = Execution::start(source, plan, limits(), Arc::default())?;
    let rows = drain(&mut execution)?;
    Ok((rows, execution.warnings().to_vec()))
}

fn matches(m: &Matcher, info: &SeriesInfo) -> bool {
    let name = info.metric_name();
    let value = match &m.label {
        Label::Name => name.as_str(),
        Label::Measurement => info.key.measurement(),
        Label::Field => &info.field,
        Label::Tag(key) => info.key.tag(key).unwrap_or_default(),
    };
    let holds = match &m.test {
        Test::Equal(text) => text == value,
        Test::In(texts) => texts.iter().any(|t| t == value),
        Test::Exists => !value.is_empty(),
        Test::Regex(text) => {
            let whole = regex::Regex::new(&format!("^(?s:{text})$")).expect("checked when lowered");
            whole.is_match(value)
        }
    };
    holds != m.negated
}

impl Source for Memory {
    fn select(
        &self,
        selector: &Selector,
        _: TimeRange,
        _: u64,
    ) -> Result<Vec<SeriesInfo>, QueryError> {
        Ok(self
            .series
            .iter()
            .map(|s| &s.info)
            .filter(|info| selector.matchers.iter().all(|m| matches(m, info)))
            .cloned()
            .collect())
    }

    fn open(&self, series: &SeriesInfo) -> Result<Box<dyn SeriesReader>, QueryError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let found = self
            .series
            .iter()
            .find(|s| s.info.id == series.id)
            .expect("selected series exist");
        Ok(Box::new(Reader {
            series: found.clone(),
            memory: self.clone(),
        }))
    }
}

struct Reader {
    series: Series,
    memory: Memory,
}

fn push(column: &mut Column, point: &(i64, Value)) {
    column.push(point.0, point.1.as_ref());
}

impl Reader {
    fn inside(&self, range: TimeRange) -> impl Iterator<Item = &(i64, Value)> {
        self.series
            .points
            .iter()
            .filter(move |p| range.contains(p.0))
    }

    fn aggregate_of(&self, range: TimeRange) -> Aggregate {
        let mut a = Aggregate::empty(self.series.info.id.kind());
        self.inside(range)
            .for_each(|(t, v)| a.push(*t, v.as_ref().bits().unwrap_or(0)));
        a
    }
}

impl SeriesReader for Reader {
    fn bounds(&self) -> Option<(i64, i64)> {
        Some((self.series.points.first()?.0, self.series.points.last()?.0))
    }

    fn aggregate(&self, range: TimeRange, stats: &mut ReadStats) -> Result<Aggregate, QueryError> {
        stats.aggregates_used += 1;
        Ok(self.aggregate_of(range))
    }

    fn buckets(
        &self,
        range: TimeRange,
        step_ns: i64,
        origin: i64,
        _stats: &mut ReadStats,
        emit: &mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
    ) -> Result<(), QueryError> {
        self.memory.binned.fetch_add(1, Ordering::Relaxed);
        let mut open: Option<(i64, Aggregate)> = None;
        for (t, v) in self.inside(range) {
            let begin = origin + (t - origin).div_euclid(step_ns) * step_ns;
            if let Some((at, a)) = &open
                && *at != begin
            {
                if emit(*at, a).is_break() {
                    return Ok(());
                }
                open = None;
            }
            let (_, a) =
                open.get_or_insert_with(|| (begin, Aggregate::empty(self.series.info.id.kind())));
            a.push(*t, v.as_ref().bits().unwrap_or(0));
        }
        if let Some((at, a)) = open {
            let _ = emit(at, &a);
        }
        Ok(())
    }

    fn scan(&self, range: TimeRange, direction: Direction) -> Box<dyn SeriesScan> {
        self.memory.scanned.fetch_add(1, Ordering::Relaxed);
        let mut points: Vec<(i64, Value)> = self.inside(range).cloned().collect();
        if direction == Direction::Backward {
            points.reverse();
        }
        Box::new(Scan {
            points,
            at: 0,
            memory: self.memory.clone(),
        })
    }
}

struct Scan {
    points: Vec<(i64, Value)>,
    at: usize,
    memory: Memory,
}

#[derive(Debug, thiserror::Error)]
#[error("page is gone")]
struct PageGone;

impl SeriesScan for Scan {
    fn next_batch(&mut self, stats: &mut ReadStats, out: &mut Column) -> Result<bool, QueryError> {
        if self.memory.fail_at.load(Ordering::Relaxed) > 0
            && self.memory.fail_at.fetch_sub(1, Ordering::Relaxed) == 1
        {
            return Err(QueryError::Storage {
                series: "a series".into(),
                source: Box::new(PageGone),
            });
        }
        out.clear();
        let end = (self.at + self.memory.batch.max(1)).min(self.points.len());
        self.points[self.at..end].iter().for_each(|p| push(out, p));
        stats.points_decoded += (end - self.at) as u64;
        self.at = end;
        Ok(!out.is_empty())
    }
}

/// A clock that advances by `tick` at each look.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    pub(crate) now: AtomicU64,
    pub(crate) tick: u64,
}

impl Clock for Steps {
    fn wall_ns(&self) -> i64 {
        0
    }

    fn monotonic_ns(&self) -> u64 {
        self.now.fetch_add(self.tick, Ordering::Relaxed)
    }
}

pub(crate) fn limits() -> Limits {
    Limits::new(Arc::new(Steps::default()))
}

/// A row, owned: name, time, values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OwnedRow {
    pub(crate) series: String,
    pub(crate) time: i64,
    pub(crate) values: Vec<Option<Value>>,
}

pub(crate) fn start(memory: &Memory, plan: Plan, limits: Limits) -> Result<Execution, QueryError> {
    Execution::start(
        Box::new(memory.clone()),
        plan,
        limits,
        Arc::new(AtomicBool::new(false)),
    )
}

/// All rows of an execution.
pub(crate) fn drain(execution: &mut Execution) -> Result<Vec<OwnedRow>, QueryError> {
    let mut batch = RowBatch::new();
    let mut rows = Vec::new();
    while execution.next_batch(&mut batch)? {
        rows.extend(batch.rows().map(|row| {
            OwnedRow {
                series: row.series().name().to_owned(),
                time: row.time(),
                values: row
                    .values()
                    .map(|v| v.map(alluvium_types::ValueRef::to_owned))
                    .collect(),
            }
        }));
    }
    Ok(rows)
}

pub(crate) fn run(memory: &Memory, plan: Plan) -> Result<Vec<OwnedRow>, QueryError> {
    drain(&mut start(memory, plan, limits())?)
}

/// Rows as lines: name, time, values, separated by `|`; missing is `-`.
pub(crate) fn lines(rows: &[OwnedRow]) -> Vec<String> {
    rows.iter()
        .map(|row| {
            let mut line = format!("{}|{}", row.series, row.time);
            for value in &row.values {
                let text = match value {
                    None => "-".into(),
                    Some(Value::F64(v)) => format!("{v:?}"),
                    Some(Value::I64(v)) => v.to_string(),
                    Some(Value::U64(v)) => v.to_string(),
                    Some(Value::Bool(v)) => v.to_string(),
                    Some(Value::Str(v)) => format!("{v:?}"),
                };
                line.push('|');
                line.push_str(&text);
            }
            line
        })
        .collect()
}
