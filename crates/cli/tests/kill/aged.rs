//! A database whose points expire after two seconds, under the same kills: what is younger is there, and what has
//! been seen to be gone stays gone.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::client::Client;

const AGE_NS: i64 = 2_000_000_000;

/// Points written at the time they carry.
#[derive(Debug, Default)]
pub(crate) struct Aged {
    acknowledged: BTreeMap<i64, i64>,
    in_doubt: BTreeMap<i64, i64>,
    next_time: i64,
    /// The oldest point of the last answer: nothing before it may come back.
    oldest: i64,
    pub(crate) acked: u64,
    pub(crate) expired: u64,
    /// Whether the disk may fail under the server.
    pub(crate) disk_may_fail: bool,
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_nanos() as i64
}

/// Creates both databases, or finds them.
pub(crate) fn create(url: &str) {
    let mut client = Client::new(url, None).unwrap();
    for name in ["kill", "aged?retention=2s&retention_aggregates=same"] {
        let path = format!("/api/databases/{name}");
        let answer = client.request("PUT", &path, &[], b"").unwrap();
        assert!((200..=201).contains(&answer.status), "{}", answer.text());
    }
}

impl Aged {
    /// Batches of the present until the server is gone.
    pub(crate) fn load(&mut self, url: &str) {
        let mut client = Client::new(url, None).unwrap();
        loop {
            let mut body = String::new();
            let mut batch = BTreeMap::new();
            for _ in 0..20 {
                let time = now_ns().max(self.next_time);
                self.next_time = time + 1;
                // The upper digits repeat for hours: the lower ones are the value.
                let value = time % 1_000_000_007;
                writeln!(body, "a v={value}i {time}").unwrap();
                batch.insert(time, value);
            }
            let answer = client.request("POST", "/write?db=aged", &[], body.as_bytes());
            let is_in_doubt = match &answer {
                Ok(answer) => answer.status == 503 && self.disk_may_fail,
                Err(_) => true,
            };
            let (Ok(answer), false) = (answer, is_in_doubt) else {
                self.in_doubt.append(&mut batch);
                return;
            };
            assert_eq!(answer.status, 204, "{}", answer.text());
            self.acked += batch.len() as u64;
            self.acknowledged.append(&mut batch);
        }
    }

    /// Compares, then forgets what is gone.
    pub(crate) fn compare(&mut self, url: &str) {
        let mut client = Client::new(url, None).unwrap();
        let query = br#"{"select": "a_v", "output": {"format": "csv"}}"#;
        let answer = client
            .request("POST", "/api/query?db=aged", &[], query)
            .unwrap();
        let text = answer.text();
        if answer.status == 404 || text.contains("unknown_metric") {
            // Everything has expired.
            assert!(
                self.acknowledged.keys().all(|t| *t < now_ns() - AGE_NS),
                "{text}"
            );
            return;
        }
        assert_eq!(answer.status, 200, "{text}");
        let mut found = BTreeMap::new();
        for line in text.lines() {
            let cells: Vec<&str> = line.split(',').collect();
            let (time, value): (i64, i64) = (cells[1].parse().unwrap(), cells[2].parse().unwrap());
            let sent = self.acknowledged.get(&time).or(self.in_doubt.get(&time));
            assert_eq!(sent, Some(&value), "at {time}");
            assert!(found.insert(time, value).is_none(), "{time} came twice");
        }
        if let Some((oldest, _)) = found.first_key_value() {
            assert!(*oldest >= self.oldest, "{oldest} has expired and is back");
            self.oldest = *oldest;
        }
        let cut = now_ns() - AGE_NS;
        let missing = self
            .acknowledged
            .range(cut..)
            .find(|(time, _)| !found.contains_key(time));
        assert_eq!(
            missing, None,
            "acknowledged, younger than its age, and lost"
        );
        let lost_from = found.first_key_value().map_or(i64::MAX, |(t, _)| *t);
        // Nothing goes from the middle.
        let hole = self
            .acknowledged
            .range(lost_from..)
            .find(|(time, _)| !found.contains_key(time));
        assert_eq!(hole, None, "gone, though older points are there");
        let before = self.acknowledged.len() + self.in_doubt.len();
        self.expired += before.saturating_sub(found.len()) as u64;
        self.acknowledged = found;
        self.in_doubt.clear();
    }
}
