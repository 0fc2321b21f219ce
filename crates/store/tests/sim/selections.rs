//! Series by matchers on a tag: a selection finds those of all that are listed which it means, and no others.

use std::collections::BTreeSet;

use alluvium_store::{Database, Label, Matcher, Selector, SeriesInfo, Test};
use alluvium_types::{TimeRange, ValueKind};

use super::oracle::Key;
use super::world::host_of;

/// Tag sets that a search may list.
const LIMIT: usize = 5;

fn keys(listed: &[SeriesInfo]) -> BTreeSet<Key> {
    let key = |info: &SeriesInfo| {
        let text = info.id.kind() == ValueKind::Str;
        (host_of(&info.key), info.field.to_string(), text)
    };
    listed.iter().map(key).collect()
}

/// Asks by one matcher that `choice` draws.
pub fn check(database: &Database, choice: u64) {
    let snapshot = database.snapshot();
    let all = keys(&snapshot.select(&Selector::default()).unwrap());
    let hosts: Vec<u32> = all.iter().map(|(host, ..)| *host).collect();
    let Some(one) = hosts.get((choice / 12) as usize % hosts.len().max(1)) else {
        return;
    };
    let (name, next) = (format!("h{one}"), format!("h{}", one + 1));
    let digit = one % 10;
    let (test, meant): (Test, Box<dyn Fn(&str) -> bool>) = match choice % 6 {
        0 => (Test::Equal(name.clone()), Box::new(move |h| h == name)),
        1 => (
            Test::In(vec![next.clone(), "nobody".into(), name.clone()]),
            Box::new(move |h| h == name || h == next),
        ),
        2 => (
            Test::Regex(format!("h{digit}.*")),
            Box::new(move |h| h.starts_with(&format!("h{digit}"))),
        ),
        3 => (
            Test::Regex(format!(".*{digit}.*")),
            Box::new(move |h| h.contains(&digit.to_string())),
        ),
        4 => (Test::Equal("nobody".into()), Box::new(|_| false)),
        _ => (Test::Exists, Box::new(|_| true)),
    };
    let negated = choice / 6 % 2 == 1;
    let selector = Selector {
        matchers: vec![Matcher {
            label: Label::Tag("host".into()),
            test,
            negated,
        }],
    };
    let wanted = all.iter();
    let wanted = wanted.filter(|(host, ..)| meant(&format!("h{host}")) != negated);
    let wanted: BTreeSet<Key> = wanted.cloned().collect();
    let selected = keys(&snapshot.select(&selector).unwrap());
    assert_eq!(
        (
            selected.len(),
            selected.symmetric_difference(&wanted).next()
        ),
        (wanted.len(), None),
        "{selector:?}"
    );
    assert_eq!(snapshot.knows(&selector).unwrap(), !wanted.is_empty());

    let hosts: BTreeSet<u32> = wanted.iter().map(|(host, ..)| *host).collect();
    let found = snapshot.search(&selector, TimeRange::ALL, LIMIT).unwrap();
    assert_eq!(found.matching, hosts.len() as u64, "{selector:?}");
    assert_eq!(found.tag_sets.len(), hosts.len().min(LIMIT));
    for set in found.tag_sets {
        let host = host_of(&set.key);
        let fields: BTreeSet<&str> = set.fields.iter().map(|field| &**field).collect();
        let of_host = wanted.iter().filter(|(of, ..)| *of == host);
        let of_host: BTreeSet<&str> = of_host.map(|(_, field, _)| &**field).collect();
        assert_eq!(fields, of_host, "of h{host} by {selector:?}");
    }
}
