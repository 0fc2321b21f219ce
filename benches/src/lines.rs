//! Lines and tag sets of the TSBS cpu-only load: ten tags, ten fields, a host a line.

use std::fmt::Write as _;

use alluvium_types::SeriesKey;

use crate::random::Random;
use crate::shapes::{BEGIN_NS, STEP_NS};

/// Names of the fields.
pub const FIELDS: [&str; 10] = [
    "usage_user",
    "usage_system",
    "usage_idle",
    "usage_nice",
    "usage_iowait",
    "usage_irq",
    "usage_softirq",
    "usage_steal",
    "usage_guest",
    "usage_guest_nice",
];

/// The tags of a host, in the order of line protocol.
fn tags(host: usize) -> [(&'static str, String); 10] {
    let region = ["eu-central-1", "us-east-1", "ap-southeast-2"][host % 3];
    [
        ("hostname", format!("host_{host}")),
        ("region", region.to_owned()),
        ("datacenter", format!("{region}{}", ["a", "b"][host % 2])),
        ("rack", (host % 100).to_string()),
        ("os", "Ubuntu15.10".to_owned()),
        ("arch", ["x64", "x86"][host % 2].to_owned()),
        ("team", ["SF", "NYC", "LON", "CHI"][host % 4].to_owned()),
        ("service", (host % 20).to_string()),
        ("service_version", (host % 2).to_string()),
        ("service_environment", "test".to_owned()),
    ]
}

/// The tag sets of so many hosts.
///
/// # Panics
/// Never: the tags differ.
pub fn keys(hosts: usize) -> Vec<SeriesKey> {
    let key = |host| SeriesKey::new("cpu", tags(host)).expect("ten different tags");
    (0..hosts).map(key).collect()
}

/// A body with a line of each host at the step `round`; integers from 0 to 100, as TSBS sends them.
pub fn tsbs_body(hosts: usize, round: usize) -> String {
    let mut random = Random::new(42 + round as u64);
    let mut out = String::new();
    let time = BEGIN_NS + round as i64 * STEP_NS;
    for host in 0..hosts {
        out.push_str("cpu");
        for (tag, value) in tags(host) {
            let _ = write!(out, ",{tag}={value}");
        }
        for (i, field) in FIELDS.iter().enumerate() {
            let separator = if i == 0 { ' ' } else { ',' };
            let _ = write!(out, "{separator}{field}={}i", random.below(101));
        }
        let _ = writeln!(out, " {time}");
    }
    out
}
