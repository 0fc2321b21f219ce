//! From a delete's words to the store's.

use alluvium_index::{Label, Matcher, Selector, Test};
use alluvium_protocol::json::{Comparison as Sign, DeleteRequest};
use alluvium_store::{Comparison, Delete, DeleteSelection, ValueTest};

use crate::error::QueryError;
use crate::lower::alternatives;

/// What a delete asks of the store; series are selected as by a query with the same words.
///
/// # Errors
/// If a regular expression is invalid.
///
/// ```
/// use alluvium_protocol::json::DeleteRequest;
///
/// let request = DeleteRequest::parse(br#"{"measurement": "cpu", "where": {"host": {"regex": "^web"}}}"#, 0)?;
/// let delete = alluvium_query::delete(&request)?;
/// assert_eq!(delete.selections[0].selector.matchers.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn delete(request: &DeleteRequest) -> Result<Delete, QueryError> {
    let named = [
        (Label::Name, &request.metrics),
        (Label::Measurement, &request.measurements),
        (Label::Field, &request.fields),
    ];
    let named: Vec<Matcher> = named
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(label, names)| Matcher::new(label, Test::In(names.clone())))
        .collect();
    let selections = alternatives(&request.filter)?.into_iter().map(|a| {
        let matchers = named.iter().cloned().chain(a.selector.matchers);
        DeleteSelection {
            selector: Selector {
                matchers: matchers.collect(),
            },
            tag_sets: a.tag_sets,
        }
    });
    let comparisons = request.comparisons.iter().map(|(sign, with)| {
        let comparison = match sign {
            Sign::Equal => Comparison::Equal,
            Sign::NotEqual => Comparison::NotEqual,
            Sign::Less => Comparison::Less,
            Sign::LessOrEqual => Comparison::LessOrEqual,
            Sign::Greater => Comparison::Greater,
            Sign::GreaterOrEqual => Comparison::GreaterOrEqual,
        };
        (comparison, *with)
    });
    Ok(Delete {
        selections: selections.collect(),
        range: request.range,
        test: (!request.comparisons.is_empty()).then(|| ValueTest {
            comparisons: comparisons.collect(),
        }),
    })
}
