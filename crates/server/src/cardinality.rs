//! `GET /api/cardinality`: what makes how many series.

use std::sync::Arc;

use alluvium_protocol::time::write_rfc3339;
use alluvium_query::Losses;
use alluvium_store::{Cardinality, Count, Database};
use axum::extract::{Request, State};
use serde_json::{Value, json};

use crate::app::App;
use crate::asked::{Asked, LimitRange};
use crate::reply::Reply;

const DAY_NS: i64 = 86_400_000_000_000;

/// `GET /api/cardinality?db=&top=&days=`.
pub(crate) async fn cardinality(State(app): State<Arc<App>>, request: Request) -> Reply {
    let inner = async {
        let asked = Asked::new(&app, &request.into_parts().0)?;
        asked.only(&["top", "days"])?;
        let limits = &app.limits;
        let top = LimitRange {
            default: limits.cardinality_default,
            max: limits.cardinality_max,
        };
        let days = LimitRange {
            default: limits.cardinality_days_default,
            max: limits.cardinality_days_max,
        };
        let (top, days) = (asked.limit("top", top)?, asked.limit("days", days)?);
        let work = move |database: &Database| {
            let counted = database.cardinality(top, days)?;
            let mut answer = value(&counted);
            let missing = Losses::default();
            missing.note_index(&counted.losses);
            if !missing.is_empty() {
                answer["partial"] = true.into();
                answer["warnings"] = missing.sentences().into();
            }
            Ok(answer.to_string().into_bytes())
        };
        asked.answer(work).await
    };
    inner.await.unwrap_or_else(|reply: Reply| reply)
}

fn exact(count: u64) -> Value {
    json!({ "count": count, "exact": true })
}

fn count(count: Count) -> Value {
    json!({ "count": count.count, "exact": count.is_exact })
}

fn value(c: &Cardinality) -> Value {
    let (measurement_count, measurements) = &c.measurements;
    let measurements = measurements.iter().map(|m| {
        json!({ "measurement": m.name, "series": exact(m.series), "tag_sets": exact(m.tag_sets) })
    });
    let (tag_count, tags) = &c.tags;
    let tags = tags
        .iter()
        .map(|t| json!({ "tag": t.key, "values": count(t.values), "tag_sets": exact(t.tag_sets) }));
    let values = c
        .values
        .iter()
        .map(|v| json!({ "tag": v.key, "value": v.value, "tag_sets": count(v.tag_sets) }));
    let of_day = |n: u64| Count {
        count: n,
        is_exact: c.days_are_exact,
    };
    let days = c.days.iter().map(|d| {
        json!({ "day": date(d.day), "tag_sets": count(of_day(d.rows)), "new": count(of_day(d.new)) })
    });
    let rate = &c.rate;
    let minutes = rate.minutes.len().max(1) as f64;
    json!({
        "tag_sets": exact(c.tag_sets),
        "series": exact(c.series),
        "measurement_count": exact(*measurement_count),
        "measurements": measurements.collect::<Vec<_>>(),
        "tag_count": exact(*tag_count),
        "tags": tags.collect::<Vec<_>>(),
        "values": values.collect::<Vec<_>>(),
        "days": days.collect::<Vec<_>>(),
        "days_are_of": "points",
        "new_series": {
            "this_minute": exact(rate.this_minute),
            "last_minutes": rate.minutes,
            "per_minute": rate.minutes.iter().sum::<u64>() as f64 / minutes,
            "exact": true,
        },
    })
}

/// The date of a day since 1970; its number where years end.
fn date(day: i64) -> String {
    let Some(time) = day.checked_mul(DAY_NS) else {
        return day.to_string();
    };
    let mut text = Vec::new();
    write_rfc3339(&mut text, time);
    let text = String::from_utf8_lossy(&text).into_owned();
    text.split('T').next().unwrap_or_default().to_owned()
}
