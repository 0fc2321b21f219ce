//! What a search counted, and the report that the next piece of a long run goes on from.

use std::io::Write;
use std::path::Path;

const HEAD: &str =
    "# target executions per_second covered_edges features new_inputs rss_mib failures";

/// The counts of one search, as libFuzzer printed them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Found {
    pub executions: u64,
    per_second: u64,
    edges: u64,
    features: u64,
    new_inputs: u64,
    rss_mib: u64,
}

impl Found {
    pub(crate) fn read(said: &str) -> Self {
        let mut found = Self::default();
        for line in said.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [name, number] = words[..]
                && let Some(name) = name.strip_prefix("stat::")
            {
                let number = number.parse().unwrap_or(0);
                match name {
                    "number_of_executed_units:" => found.executions = number,
                    "average_exec_per_sec:" => found.per_second = number,
                    "new_units_added:" => found.new_inputs = number,
                    "peak_rss_mb:" => found.rss_mib = number,
                    _ => {}
                }
            }
            for pair in words.windows(2) {
                match pair {
                    ["cov:", n] => found.edges = n.parse().unwrap_or(found.edges),
                    ["ft:", n] => found.features = n.parse().unwrap_or(found.features),
                    _ => {}
                }
            }
            // A search that fails counts what it had begun: `#12345` in front of its last line.
            if let Some(n) = words.first().and_then(|w| w.strip_prefix('#')) {
                found.executions = found.executions.max(n.parse().unwrap_or(0));
            }
        }
        found
    }

    pub(crate) fn line(&self, target: &str, failures: u32) -> String {
        format!(
            "{target} {} {} {} {} {} {} {failures}",
            self.executions,
            self.per_second,
            self.edges,
            self.features,
            self.new_inputs,
            self.rss_mib
        )
    }
}

/// Executions of a target that stand in the report.
pub(crate) fn executions(path: &Path, target: &str) -> Result<u64, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(count(&text, target)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(format!("cannot read {}: {e}", path.display())),
    }
}

fn count(text: &str, target: &str) -> u64 {
    let of_target = |line: &str| {
        let mut words = line.split(' ');
        let is_it = words.next() == Some(target);
        words.next()?.parse().ok().filter(|_: &u64| is_it)
    };
    text.lines().filter_map(of_target).sum()
}

pub(crate) fn append(path: &Path, line: &str) -> Result<(), String> {
    let is_new = !path.exists();
    let failed = |e: std::io::Error| format!("cannot write {}: {e}", path.display());
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed)?;
    if is_new {
        writeln!(file, "{HEAD}").map_err(failed)?;
    }
    writeln!(file, "{line}").map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_what_the_fuzzer_says() {
        let said = "#2 INITED cov: 5 ft: 6 corp: 1/1b\n\
            #900 NEW    cov: 12 ft: 31 corp: 9/1Kb\n\
            stat::number_of_executed_units: 1000\nstat::average_exec_per_sec:     50\n\
            stat::new_units_added:          8\nstat::peak_rss_mb:              64\n";
        let found = Found::read(said);
        assert_eq!(found.line("a", 0), "a 1000 50 12 31 8 64 0");
        assert_eq!(
            Found::read("#77 pulse cov: 1 ft: 1\n==1== ERROR").executions,
            77
        );
    }

    #[test]
    fn executions_of_pieces_add_up() {
        let text = format!("{HEAD}\na 10 1 1 1 1 1 0\nab 5 1 1 1 1 1 0\na 7 1 1 1 1 1 1\n");
        assert_eq!(
            [count(&text, "a"), count(&text, "ab"), count(&text, "b")],
            [17, 5, 0]
        );
    }
}
