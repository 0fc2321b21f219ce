//! `GET /api/search` and `GET /api/suggest`: which series there are, and how names go on.
#![expect(
    clippy::result_large_err,
    reason = "a refusal is the answer itself, moved once"
)]

use std::sync::Arc;

use alluvium_protocol::FoundWriter;
use alluvium_query::{Label, Losses, Matcher, Test};
use alluvium_store::{Found, NameKind, Snapshot};
use axum::extract::{Request, State};
use serde_json::json;

use crate::app::App;
use crate::asked::{Asked, LimitRange, bad};
use crate::reply::Reply;

const KINDS: &str = "must be one of metric, measurement, tag, value, field";

/// `GET /api/search?db=&match=&from=&to=&limit=`.
pub(crate) async fn search(State(app): State<Arc<App>>, request: Request) -> Reply {
    let inner = async {
        let asked = Asked::new(&app, &request.into_parts().0)?;
        asked.only(&["match", "from", "to", "limit"])?;
        let (selector, range) = (asked.selector()?, asked.range()?);
        let limits = LimitRange {
            default: app.limits.search_default,
            max: app.limits.search_max,
        };
        let limit = asked.limit("limit", limits)?;
        let work = move |database: &alluvium_store::Database| {
            let snapshot = database.snapshot().tolerant();
            let found = snapshot.search(&selector, range, limit)?;
            Ok(found_text(&found, limit, &missing(&snapshot)))
        };
        asked.answer(work).await
    };
    inner.await.unwrap_or_else(|reply: Reply| reply)
}

/// What answers of a snapshot may lack.
pub(crate) fn missing(snapshot: &Snapshot) -> Vec<String> {
    let losses = Losses::default();
    losses.note_index(&snapshot.index_losses());
    losses.sentences()
}

fn found_text(found: &Found, limit: usize, missing: &[String]) -> Vec<u8> {
    let mut writer = FoundWriter::new();
    for set in &found.tag_sets {
        let tags = set.key.tags().iter().map(|(k, v)| (&**k, &**v));
        let fields = set.fields.iter().map(|f| &**f);
        writer.tag_set(set.key.measurement(), tags, fields);
    }
    writer.finish(found.matching, limit, missing)
}

/// What `kind` asks for.
enum Kind {
    Metric,
    Measurement,
    Tag,
    Value(String),
    Field,
}

/// `GET /api/suggest?db=&kind=&tag=&measurement=&match=&prefix=&limit=&from=&to=`.
pub(crate) async fn suggest(State(app): State<Arc<App>>, request: Request) -> Reply {
    let inner = async {
        let asked = Asked::new(&app, &request.into_parts().0)?;
        asked.only(&[
            "kind",
            "tag",
            "measurement",
            "match",
            "prefix",
            "limit",
            "from",
            "to",
        ])?;
        let kind = kind_of(&asked)?;
        let (mut selector, range) = (asked.selector()?, asked.range()?);
        if let Some(name) = asked.get("measurement") {
            let is_it = Test::Equal(name.to_owned());
            selector
                .matchers
                .push(Matcher::new(Label::Measurement, is_it));
        }
        let limits = LimitRange {
            default: app.limits.suggest_default,
            max: app.limits.suggest_max,
        };
        let limit = asked.limit("limit", limits)?;
        let prefix = asked.get("prefix").unwrap_or_default().to_owned();
        let work = move |database: &alluvium_store::Database| {
            let kind = match &kind {
                Kind::Metric => NameKind::Metric,
                Kind::Measurement => NameKind::Measurement,
                Kind::Tag => NameKind::Tag,
                Kind::Value(tag) => NameKind::Value(tag),
                Kind::Field => NameKind::Field,
            };
            // One more tells whether that is all.
            let snapshot = database.snapshot().tolerant();
            let mut names = snapshot.suggest(kind, &selector, range, &prefix, limit + 1)?;
            let missing = missing(&snapshot);
            let is_complete = names.len() <= limit && missing.is_empty();
            names.truncate(limit);
            let mut answer = json!({ "names": names, "is_complete": is_complete, "limit": limit });
            if !missing.is_empty() {
                answer["partial"] = true.into();
                answer["warnings"] = missing.into();
            }
            Ok(answer.to_string().into_bytes())
        };
        asked.answer(work).await
    };
    inner.await.unwrap_or_else(|reply: Reply| reply)
}

fn kind_of(asked: &Asked) -> Result<Kind, Reply> {
    let kind = match asked.get("kind") {
        Some("metric") => Kind::Metric,
        Some("measurement") => Kind::Measurement,
        Some("tag") => Kind::Tag,
        Some("field") => Kind::Field,
        Some("value") => {
            let tag = asked.get("tag");
            let tag = tag.ok_or_else(|| bad("tag", "is needed: which tag's values are meant"))?;
            return Ok(Kind::Value(tag.to_owned()));
        }
        _ => return Err(bad("kind", KINDS)),
    };
    match asked.get("tag") {
        None => Ok(kind),
        Some(_) => Err(bad("tag", "goes with kind=value; leave it out")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use alluvium_store::FoundTagSet;
    use alluvium_types::SeriesKey;
    use serde_json::{Map, Value};

    use super::*;

    fn some(tag_sets: u32) -> Found {
        let tag_set = |i: u32| {
            let tags = (0..10).map(|t| (format!("tag\"{t}"), format!("välue {}\n", i * t)));
            let key = SeriesKey::new("cpu", tags).unwrap();
            let fields = ["idle", "us\\er"].map(Arc::from).to_vec();
            let key = Arc::new(key);
            FoundTagSet { key, fields }
        };
        Found {
            tag_sets: (0..tag_sets).map(tag_set).collect(),
            matching: 7,
        }
    }

    fn by_values(found: &Found, limit: usize) -> Value {
        let series = found.tag_sets.iter().map(|set| {
            let tags = set.key.tags().iter();
            let tags: Map<String, Value> =
                tags.map(|(k, v)| (k.clone(), v.clone().into())).collect();
            let fields: Vec<&str> = set.fields.iter().map(|f| &**f).collect();
            json!({ "measurement": set.key.measurement(), "tags": tags, "fields": fields })
        });
        let series: Vec<Value> = series.collect();
        json!({
            "is_complete": found.matching == series.len() as u64,
            "series": series, "matching": found.matching, "limit": limit,
        })
    }

    #[test]
    fn what_is_written_piece_by_piece_is_the_json_it_should_be() {
        for tag_sets in [0, 1, 6, 7] {
            let found = some(tag_sets);
            let text = found_text(&found, 100, &[]);
            let read: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(read, by_values(&found, 100), "{tag_sets}");
        }
    }
}
