//! From a plan to the series it speaks of, and which of them become one.

use std::collections::HashSet;
use std::sync::Arc;

use alluvium_types::{SeriesId, TimeRange, ValueKind};

use crate::error::QueryError;
use crate::limits::Guard;
use crate::output_series::{OutputSeries, Tags, write_name};
use crate::plan::{EVERY_METRIC, Plan, Selection, Window};
use crate::source::Source;
use crate::{Label, Matcher, Selector, SeriesInfo, Test};

/// Series that answer as one.
#[derive(Debug)]
pub(crate) struct Group {
    pub output: Arc<OutputSeries>,
    /// Which selection of the plan it belongs to.
    pub selection: usize,
    /// Sorted by key, field and kind.
    pub members: Vec<SeriesInfo>,
}

/// A series on its way into a group.
struct Entry {
    selection: usize,
    metric: Arc<str>,
    tags: Tags,
    info: SeriesInfo,
}

/// The groups of a plan in the order of series: metric, then tags.
pub(crate) fn resolve(
    source: &dyn Source,
    plan: &Plan,
    guard: &mut Guard,
    warnings: &mut Vec<String>,
) -> Result<Vec<Group>, QueryError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut unknown: Vec<&str> = Vec::new();
    for (index, selection) in plan.selections.iter().enumerate() {
        guard.check()?;
        let found = select(source, selection, plan.range, guard)?;
        let is_every = selection.metric == EVERY_METRIC;
        if found.is_empty() && !is_every && !is_known(source, &selection.metric)? {
            unknown.push(&selection.metric);
            continue;
        }
        let metric: Arc<str> = selection.metric.as_str().into();
        for info in without_strings(plan, selection, found, warnings)? {
            if let Some(tags) = plan.grouping.remaining(&info.key) {
                entries.push(Entry {
                    selection: index,
                    metric: Arc::clone(&metric),
                    tags,
                    info,
                });
            }
        }
    }
    if let Some(metric) = unknown.first()
        && unknown.len() == plan.selections.len()
    {
        return Err(QueryError::UnknownMetric {
            metric: (*metric).into(),
        });
    }
    for metric in unknown {
        warnings.push(format!(
            "no series is named \"{metric}\"; the others are answered"
        ));
    }
    // Sources give series sorted by key, which a stable sort takes in one pass.
    entries.sort_by(|a, b| {
        let group = (&a.metric, a.tags.as_slice()).cmp(&(&b.metric, b.tags.as_slice()));
        group.then_with(|| {
            let (a, b) = (&a.info, &b.info);
            (&a.key, &a.field, a.id.kind()).cmp(&(&b.key, &b.field, b.id.kind()))
        })
    });
    let mut groups: Vec<Group> = Vec::new();
    for entry in entries {
        match groups.last_mut() {
            Some(group)
                if group.selection == entry.selection
                    && group.output.tags() == entry.tags.as_slice() =>
            {
                group.members.push(entry.info);
            }
            _ => {
                let output = OutputSeries::new(entry.metric, entry.tags);
                guard.reserve((output.heap_bytes() + size_of::<Group>()) as u64)?;
                groups.push(Group {
                    output: Arc::new(output),
                    selection: entry.selection,
                    members: vec![entry.info],
                });
            }
        }
    }
    Ok(groups)
}

fn select(
    source: &dyn Source,
    selection: &Selection,
    range: TimeRange,
    guard: &mut Guard,
) -> Result<Vec<SeriesInfo>, QueryError> {
    let mut seen: HashSet<SeriesId> = HashSet::new();
    let several = selection.alternatives.len() > 1;
    let mut found = Vec::new();
    for alternative in &selection.alternatives {
        let before = found.len();
        let selected = source.select(&alternative.selector, range, guard.left());
        let selected = selected.or_else(|error| match error {
            // Says whose limit it is.
            QueryError::Memory { asked, .. } => guard.reserve(asked).and(Err(error)),
            error => Err(error),
        })?;
        for info in selected {
            if alternative.admits(&info.key) && (!several || seen.insert(info.id)) {
                found.push(info);
            }
        }
        let bytes: usize = found[before..].iter().map(info_bytes).sum();
        guard.reserve(bytes as u64)?;
    }
    source.prepare(&found);
    Ok(found)
}

fn info_bytes(info: &SeriesInfo) -> usize {
    let tags: usize = info
        .key
        .tags()
        .iter()
        .map(|(k, v)| k.len() + v.len() + 48)
        .sum();
    size_of::<SeriesInfo>() + 64 + info.key.measurement().len() + tags
}

fn is_known(source: &dyn Source, metric: &str) -> Result<bool, QueryError> {
    let name = Matcher {
        label: Label::Name,
        test: Test::Equal(metric.into()),
        negated: false,
    };
    source.knows(&Selector {
        matchers: vec![name],
    })
}

/// Leaves out string series where numbers are meant: siblings of a numeric series (asked for by kind only), and
/// any string series once a function needs numbers. Strings alone are refused by such functions.
fn without_strings(
    plan: &Plan,
    selection: &Selection,
    found: Vec<SeriesInfo>,
    warnings: &mut Vec<String>,
) -> Result<Vec<SeriesInfo>, QueryError> {
    let is_text = |info: &SeriesInfo| info.id.kind() == ValueKind::Str;
    if !found.iter().any(is_text) {
        return Ok(found);
    }
    let numeric_only = (plan.window != Window::Raw)
        .then(|| selection.functions.iter().find(|f| !f.takes_strings()))
        .flatten();
    let numeric: HashSet<_> = found
        .iter()
        .filter(|i| !is_text(i))
        .map(|i| (Arc::clone(&i.key), Arc::clone(&i.field)))
        .collect();
    if let (Some(function), true, Some(info)) = (numeric_only, numeric.is_empty(), found.first())
        && !selection.is_of_every
    {
        return Err(QueryError::StringSeries {
            function: function.name(),
            series: write_name(&info.metric_name(), info.key.tags()),
        });
    }
    let before = found.len();
    let kept: Vec<SeriesInfo> = found
        .into_iter()
        .filter(|i| {
            !is_text(i)
                || numeric_only.is_none()
                    && !numeric.contains(&(Arc::clone(&i.key), Arc::clone(&i.field)))
        })
        .collect();
    if kept.len() < before {
        warnings.push(format!(
            "{} series of \"{}\" hold strings beside numbers and are left out",
            before - kept.len(),
            selection.metric
        ));
    }
    Ok(kept)
}
