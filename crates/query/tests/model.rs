//! Every plan answers what a model answers that holds all points in one list.

mod common;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use alluvium_query::{
    Alternative, Direction, Fill, Function, Grouping, Label, Matcher, Order, Plan, Selection,
    Selector, Test, Window,
};
use alluvium_types::{Number, SeriesKey, TimeRange, Value, ValueKind};
use common::{Memory, OwnedRow, Series, run};
use proptest::prelude::*;

fn value_of(kind: ValueKind) -> BoxedStrategy<Value> {
    match kind {
        ValueKind::F64 => prop_oneof![
            6 => (-8_i32..8).prop_map(|v| Value::F64(f64::from(v) / 2.0)),
            1 => Just(Value::F64(f64::NAN)),
            1 => Just(Value::F64(-0.0)),
        ]
        .boxed(),
        ValueKind::I64 => (-4_i64..5).prop_map(Value::I64).boxed(),
        ValueKind::U64 => (0_u64..5).prop_map(Value::U64).boxed(),
        ValueKind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        ValueKind::Str => "[a-c]{0,3}".prop_map(|s| Value::Str(s.into())).boxed(),
    }
}

type Points = Vec<(i64, Value)>;

fn points(kind: ValueKind) -> impl Strategy<Value = Points> {
    prop::collection::btree_map(-60_i64..60, value_of(kind), 0..25)
        .prop_map(|m| m.into_iter().collect())
}

/// A database of numeric metrics `a` and `b` and of the string metric `s`, over the same few tag sets.
fn memory() -> impl Strategy<Value = Memory> {
    let numeric = prop::sample::select(vec![
        ValueKind::F64,
        ValueKind::F64,
        ValueKind::I64,
        ValueKind::U64,
        ValueKind::Bool,
    ]);
    let one = |metric: &'static str, kind: BoxedStrategy<ValueKind>| {
        let tags = prop::collection::btree_map(
            prop::sample::select(vec!["dc", "host"]),
            prop::sample::select(vec!["x", "y", "z"]),
            0..3,
        );
        let points = kind.prop_flat_map(points);
        (Just(metric), tags, points)
    };
    let series = prop_oneof![
        3 => one("a", numeric.clone().boxed()),
        2 => one("b", numeric.boxed()),
        2 => one("s", Just(ValueKind::Str).boxed()),
    ];
    (prop::collection::vec(series, 1..12), 1_usize..6).prop_map(|(series, batch)| {
        let mut memory = Memory::new();
        memory.batch = batch;
        let mut seen = std::collections::BTreeSet::new();
        for (metric, tags, points) in series {
            let tags: Vec<(&str, &str)> = tags.into_iter().collect();
            if seen.insert((metric, tags.clone())) {
                memory.add(metric, &tags, "value", &points);
            }
        }
        memory
    })
}

fn functions(strings: bool) -> impl Strategy<Value = Vec<Function>> {
    let all: Vec<Function> = Function::ALL
        .into_iter()
        .filter(|f| !strings || f.takes_strings())
        .collect();
    let count = all.len();
    prop::sample::subsequence(all, 1..=count).prop_shuffle()
}

fn selection(metric: &str, functions: Vec<Function>, hosts: Option<Vec<&str>>) -> Selection {
    let mut matchers = vec![Matcher {
        label: Label::Name,
        test: Test::Equal(metric.into()),
        negated: false,
    }];
    if let Some(hosts) = hosts {
        let test = Test::In(hosts.into_iter().map(str::to_owned).collect());
        matchers.push(Matcher {
            label: Label::Tag("host".into()),
            test,
            negated: false,
        });
    }
    Selection {
        is_of_every: false,
        metric: metric.into(),
        alternatives: vec![Alternative {
            selector: Selector { matchers },
            tag_sets: None,
        }],
        functions,
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    let bucket =
        (1_i64..40, -5_i64..6, any::<bool>()).prop_map(|(step_ns, origin, time_at_end)| {
            Window::Buckets {
                step_ns,
                origin,
                time_at_end,
            }
        });
    let window = prop_oneof![
        Just(Window::Raw),
        prop::option::of(-9_i64..9).prop_map(|row_time| Window::Whole { row_time }),
        bucket.clone(),
        bucket,
    ];
    let metrics = prop_oneof![
        (functions(false), functions(false)).prop_map(|(f, g)| vec![("a", f), ("b", g)]),
        functions(false).prop_map(|f| vec![("a", f.clone()), ("b", f)]),
        functions(false).prop_map(|f| vec![("a", f)]),
        functions(true).prop_map(|f| vec![("s", f)]),
        functions(true).prop_map(|f| vec![("s", f.clone()), ("a", f)]),
    ];
    let hosts = prop::option::of(prop::sample::subsequence(vec!["x", "y", "z"], 1..3));
    let range = prop_oneof![
        Just(TimeRange::ALL),
        (-70_i64..70, 0_i64..140).prop_map(|(b, n)| TimeRange::new(b, b + n).expect("ordered")),
        (-70_i64..70).prop_map(|b| TimeRange::new(b, i64::MAX).expect("ordered")),
    ];
    let grouping = prop_oneof![
        Just(Grouping::None),
        Just(Grouping::Without(vec!["host".into()])),
        Just(Grouping::Only(vec!["host".into()])),
        Just(Grouping::Only(vec![])),
    ];
    let fill = prop_oneof![
        3 => Just(Fill::None),
        1 => Just(Fill::Null),
        1 => Just(Fill::Previous),
        1 => Just(Fill::Linear),
        1 => Just(Fill::Value(Number::Float(7.0))),
        1 => Just(Fill::Value(Number::Integer(9))),
    ];
    (
        (metrics, hosts, range, any::<bool>(), window),
        (
            grouping,
            any::<bool>(),
            fill,
            0_u64..6,
            prop::option::of(0_u64..40),
        ),
    )
        .prop_map(
            |((metrics, hosts, range, back, window), (grouping, by_time, fill, offset, limit))| {
                Plan {
                    selections: metrics
                        .into_iter()
                        .map(|(m, f)| selection(m, f, hosts.clone()))
                        .collect(),
                    range,
                    direction: if back {
                        Direction::Backward
                    } else {
                        Direction::Forward
                    },
                    window,
                    grouping,
                    order: if by_time { Order::Time } else { Order::Series },
                    fill: if matches!(window, Window::Buckets { .. }) {
                        fill
                    } else {
                        Fill::None
                    },
                    offset,
                    limit,
                }
            },
        )
}

// ---- the model -------------------------------------------------------------------------------------------

/// A point with the position of its series among the group's.
#[derive(Debug, Clone)]
struct At {
    time: i64,
    member: usize,
    value: Value,
}

type Groups<'a> = BTreeMap<(String, Vec<(String, String)>), (usize, Vec<&'a Series>)>;

fn groups<'a>(memory: &'a Memory, plan: &Plan) -> Groups<'a> {
    let mut groups: Groups<'a> = BTreeMap::new();
    for (i, s) in plan.selections.iter().enumerate() {
        for series in &memory.series {
            let key = &series.info.key;
            let hosts_ok = s.alternatives[0].selector.matchers[1..].iter().all(|m| {
                let Test::In(hosts) = &m.test else {
                    panic!("built above")
                };
                hosts
                    .iter()
                    .any(|h| h == key.tag("host").unwrap_or_default())
            });
            if key.measurement() != s.metric || !hosts_ok {
                continue;
            }
            if let Some(tags) = remaining(plan, key) {
                groups
                    .entry((s.metric.clone(), tags))
                    .or_insert((i, Vec::new()))
                    .1
                    .push(series);
            }
        }
    }
    for (_, members) in groups.values_mut() {
        members.sort_by(|a, b| a.info.key.cmp(&b.info.key));
    }
    groups
}

fn remaining(plan: &Plan, key: &SeriesKey) -> Option<Vec<(String, String)>> {
    let (listed, keep) = match &plan.grouping {
        Grouping::None => return Some(key.tags().to_vec()),
        Grouping::Without(tags) => (tags, false),
        Grouping::Only(tags) => (tags, true),
    };
    if listed.iter().any(|t| key.tag(t).is_none()) {
        return None;
    }
    Some(
        key.tags()
            .iter()
            .filter(|(k, _)| listed.contains(k) == keep)
            .cloned()
            .collect(),
    )
}

fn number(v: &Value) -> f64 {
    match v {
        Value::F64(v) => *v,
        Value::I64(v) => *v as f64,
        Value::U64(v) => *v as f64,
        Value::Bool(v) => f64::from(u8::from(*v)),
        Value::Str(_) => f64::NAN,
    }
}

fn integral(kind: Option<ValueKind>, v: f64) -> Value {
    match kind {
        Some(ValueKind::U64) => Value::U64(v as u64),
        _ => Value::I64(v as i64),
    }
}

fn function(f: Function, points: &[At]) -> Option<Value> {
    let mut by_time: Vec<&At> = points.iter().collect();
    by_time.sort_by_key(|p| (p.time, p.member));
    let oldest = by_time.first()?.time;
    let first = by_time.iter().find(|p| p.time == oldest)?;
    let last = by_time.last()?;
    let numbers: Vec<&&At> = by_time
        .iter()
        .filter(|p| !number(&p.value).is_nan())
        .collect();
    let kinds: Vec<ValueKind> = numbers.iter().map(|p| p.value.as_ref().kind()).collect();
    let same_kind = kinds
        .first()
        .copied()
        .filter(|k| kinds.iter().all(|o| o == k));
    let has_float = kinds.contains(&ValueKind::F64);
    let n = numbers.len() as f64;
    let sum: f64 = numbers.iter().map(|p| number(&p.value)).sum();
    let mean = sum / n;
    let variance = numbers
        .iter()
        .map(|p| (number(&p.value) - mean).powi(2))
        .sum::<f64>()
        / n;
    // By value, then time, then member; the order of zeros is that of total_cmp.
    let smaller = |a: &&&&At, b: &&&&At| number(&a.value).total_cmp(&number(&b.value));
    let min = numbers.iter().min_by(|a, b| smaller(a, b));
    let max = numbers.iter().min_by(|a, b| smaller(b, a));
    let members = points.iter().map(|p| p.member).max()? + 1;
    let (mut increase, mut rate) = (0.0, None);
    for member in 0..members {
        let own: Vec<&&At> = by_time.iter().filter(|p| p.member == member).collect();
        let mut own_increase = 0.0;
        for pair in own.windows(2) {
            let (a, b) = (number(&pair[0].value), number(&pair[1].value));
            if !a.is_nan() && !b.is_nan() {
                own_increase += if b < a { b } else { b - a };
            }
        }
        increase += own_increase;
        let numeric = own.iter().any(|p| !number(&p.value).is_nan());
        if let (true, Some(a), Some(b)) = (numeric, own.first(), own.last())
            && a.time < b.time
        {
            *rate.get_or_insert(0.0) += own_increase / ((b.time - a.time) as f64 / 1e9);
        }
    }
    let some = !numbers.is_empty();
    match f {
        Function::Count => Some(Value::U64(points.len() as u64)),
        Function::First => Some(first.value.clone()),
        Function::Last => Some(last.value.clone()),
        Function::FirstTimestamp => Some(Value::I64(first.time)),
        Function::LastTimestamp => Some(Value::I64(last.time)),
        Function::Min => min.map(|p| p.value.clone()),
        Function::Max => max.map(|p| p.value.clone()),
        Function::MinTimestamp => min.map(|p| Value::I64(p.time)),
        Function::MaxTimestamp => max.map(|p| Value::I64(p.time)),
        Function::Sum if has_float => Some(Value::F64(sum)),
        Function::Sum => some.then(|| integral(same_kind, sum)),
        Function::Spread => min.zip(max).map(|(a, b)| {
            let spread = number(&b.value) - number(&a.value);
            let float = [a, b]
                .iter()
                .any(|p| p.value.as_ref().kind() == ValueKind::F64);
            if float {
                Value::F64(spread)
            } else {
                integral(same_kind, spread)
            }
        }),
        Function::Mean => some.then_some(Value::F64(mean)),
        Function::Variance => some.then_some(Value::F64(variance)),
        Function::Stddev => some.then(|| Value::F64(variance.sqrt())),
        Function::Increase => some.then_some(Value::F64(increase)),
        Function::Rate => rate.map(Value::F64),
        other => panic!("no model for {other}"),
    }
}

fn name(metric: &str, tags: &[(String, String)]) -> String {
    SeriesKey::new(metric, tags.to_vec())
        .expect("distinct")
        .to_string()
}

fn model(memory: &Memory, plan: &Plan) -> Vec<OwnedRow> {
    // Rows with the key that sorts them: group number, time, member.
    let mut rows: Vec<((usize, i64, usize), OwnedRow)> = Vec::new();
    let width = plan.columns().len();
    let shared = matches!(plan.window, Window::Buckets { .. })
        && plan.selections.len() > 1
        && plan
            .selections
            .iter()
            .all(|s| s.functions == plan.selections[0].functions);
    for (g, ((metric, tags), (selection, members))) in groups(memory, plan).into_iter().enumerate()
    {
        let series = name(&metric, &tags);
        let points: Vec<At> = members
            .iter()
            .enumerate()
            .flat_map(|(member, s)| {
                s.points.iter().map(move |(time, value)| At {
                    time: *time,
                    member,
                    value: value.clone(),
                })
            })
            .filter(|p| plan.range.contains(p.time))
            .collect();
        let functions = &plan.selections[selection].functions;
        let offset = if shared {
            0
        } else {
            plan.selections[..selection]
                .iter()
                .map(|s| s.functions.len())
                .sum()
        };
        let row = |points: &[At]| {
            let mut values = vec![None; width];
            for (i, f) in functions.iter().enumerate() {
                values[offset + i] = function(*f, points);
            }
            values
        };
        let Some(oldest) = points.iter().map(|p| p.time).min() else {
            continue;
        };
        let newest = points.iter().map(|p| p.time).max().unwrap_or(oldest);
        match plan.window {
            Window::Raw => rows.extend(points.into_iter().map(|p| {
                let row = OwnedRow {
                    series: series.clone(),
                    time: p.time,
                    values: vec![Some(p.value)],
                };
                ((g, p.time, p.member), row)
            })),
            Window::Whole { row_time } => {
                let row = OwnedRow {
                    series,
                    time: row_time.unwrap_or(oldest),
                    values: row(&points),
                };
                rows.push(((g, 0, 0), row));
            }
            Window::Buckets {
                step_ns,
                origin,
                time_at_end,
            } => {
                let bin = |t: i64| (t - origin).div_euclid(step_ns);
                let mut bins: BTreeMap<i64, Vec<At>> = BTreeMap::new();
                for p in &points {
                    bins.entry(bin(p.time)).or_default().push(p.clone());
                }
                let bins: BTreeMap<i64, Vec<Option<Value>>> =
                    bins.into_iter().map(|(b, p)| (b, row(&p))).collect();
                let begin = if plan.range.begin() == i64::MIN {
                    oldest
                } else {
                    plan.range.begin()
                };
                let end = if plan.range.end() == i64::MAX {
                    newest
                } else {
                    plan.range.end() - 1
                };
                for b in bin(begin)..=bin(end) {
                    let values = if let Some(values) = bins.get(&b) {
                        values.clone()
                    } else {
                        let older = bins.range(..b).next_back();
                        let newer = bins.range(b..).next();
                        match plan.fill {
                            Fill::None => continue,
                            Fill::Null => vec![None; width],
                            Fill::Previous => older.map_or(vec![None; width], |o| o.1.clone()),
                            Fill::Value(v) => {
                                let v = match v {
                                    Number::Integer(v) => v as f64,
                                    Number::Float(v) => v,
                                };
                                let mut values = vec![None; width];
                                for cell in &mut values[offset..offset + functions.len()] {
                                    *cell = Some(Value::F64(v));
                                }
                                values
                            }
                            Fill::Linear => linear(plan, width, b, older, newer),
                        }
                    };
                    let at = origin + b * step_ns;
                    let time = if time_at_end { at + step_ns - 1 } else { at };
                    rows.push((
                        (g, at, 0),
                        OwnedRow {
                            series: series.clone(),
                            time,
                            values,
                        },
                    ));
                }
            }
        }
    }
    let back = plan.direction == Direction::Backward;
    let whole = matches!(plan.window, Window::Whole { .. });
    rows.sort_by(|((g1, t1, m1), _), ((g2, t2, m2), _)| {
        let time = if back { t2.cmp(t1) } else { t1.cmp(t2) };
        let rest = m1.cmp(m2);
        if plan.order == Order::Series || whole {
            g1.cmp(g2).then(time).then(rest)
        } else {
            time.then(g1.cmp(g2)).then(rest)
        }
    });
    rows.into_iter()
        .map(|(_, row)| row)
        .skip(plan.offset as usize)
        .take(plan.limit.map_or(usize::MAX, |l| l as usize))
        .collect()
}

type Bin<'a> = Option<(&'a i64, &'a Vec<Option<Value>>)>;

fn linear(
    plan: &Plan,
    width: usize,
    bin: i64,
    older: Bin<'_>,
    newer: Bin<'_>,
) -> Vec<Option<Value>> {
    let columns = plan.columns();
    (0..width)
        .map(|i| {
            let ((a, x), (b, y)) = (older?, newer?);
            let (x, y) = (x[i].as_ref()?, y[i].as_ref()?);
            if columns[i].times || matches!(x, Value::Str(_)) || matches!(y, Value::Str(_)) {
                return None;
            }
            let part = (bin - a) as f64 / (b - a) as f64;
            Some(Value::F64(number(x) + (number(y) - number(x)) * part))
        })
        .collect()
}

/// Equal, floats within rounding. A filled number may carry the kind of its column.
fn same(a: Option<&Value>, b: Option<&Value>, filled: bool) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(Value::F64(x)), Some(Value::F64(y))) => {
            x.total_cmp(y) == Ordering::Equal
                || x.is_nan() && y.is_nan()
                || (x - y).abs() <= 1e-9 * (1.0 + x.abs().max(y.abs()))
        }
        (Some(x), Some(y))
            if filled && !matches!((x, y), (Value::Str(_), _) | (_, Value::Str(_))) =>
        {
            number(x) == number(y)
        }
        (Some(x), Some(y)) => x == y,
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_answer_what_the_model_answers(memory in memory(), plan in plan()) {
        let expected = model(&memory, &plan);
        let got = match run(&memory, plan.clone()) {
            Ok(rows) => rows,
            Err(error) => {
                prop_assert_eq!(error.code(), "unknown_metric");
                let known = memory.series.iter().any(|s| {
                    plan.selections.iter().any(|p| p.metric == s.info.key.measurement())
                });
                prop_assert!(!known);
                return Ok(());
            }
        };
        prop_assert_eq!(got.len(), expected.len(), "rows {:#?} for {:#?}", &got, &expected);
        let filled = matches!(plan.fill, Fill::Value(_));
        for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
            prop_assert_eq!((&g.series, g.time), (&e.series, e.time), "row {}", i);
            for (c, (x, y)) in g.values.iter().zip(&e.values).enumerate() {
                prop_assert!(same(x.as_ref(), y.as_ref(), filled), "row {i} column {c}: {x:?} for {y:?} in {:?}", e);
            }
        }
    }
}
