//! Metrics that are not spelt out: one selection for each that the filter leaves.

use std::collections::BTreeSet;

use crate::error::QueryError;
use crate::lower::check_looks;
use crate::plan::{EVERY_METRIC, Plan, Selection};
use crate::source::Source;
use crate::{Label, Matcher, Test};

/// Most metrics that a query takes without spelling them out.
pub const EVERY_METRIC_MAX: usize = 1000;

/// Puts the metrics that there are in the place of [`EVERY_METRIC`], sorted; those that the plan names besides keep their
/// places. Where there are none the selection stays and finds nothing.
pub(crate) fn expand(plan: &mut Plan, source: &dyn Source) -> Result<(), QueryError> {
    let is_every = |s: &Selection| s.metric == EVERY_METRIC;
    if !plan.selections.iter().any(is_every) {
        return Ok(());
    }
    let named = plan.selections.iter().filter(|s| !is_every(s));
    let named: BTreeSet<String> = named.map(|s| s.metric.clone()).collect();
    let mut selections = Vec::with_capacity(plan.selections.len());
    for selection in std::mem::take(&mut plan.selections) {
        if !is_every(&selection) {
            selections.push(selection);
            continue;
        }
        let mut names = BTreeSet::new();
        for alternative in &selection.alternatives {
            // One more tells that there are too many.
            let limit = EVERY_METRIC_MAX + 1;
            names.extend(source.metrics(&alternative.selector, plan.range, limit)?);
        }
        if names.len() > EVERY_METRIC_MAX {
            let limit = EVERY_METRIC_MAX;
            return Err(QueryError::TooManyMetrics { limit });
        }
        if names.is_empty() {
            selections.push(selection);
            continue;
        }
        check_looks(names.len(), &selection.alternatives)?;
        for metric in names.difference(&named) {
            let mut of_metric = selection.clone();
            of_metric.metric.clone_from(metric);
            of_metric.is_of_every = true;
            for alternative in &mut of_metric.alternatives {
                let is_it = Matcher::new(Label::Name, Test::Equal(metric.clone()));
                alternative.selector.matchers.insert(0, is_it);
            }
            selections.push(of_metric);
        }
    }
    plan.selections = selections;
    Ok(())
}
