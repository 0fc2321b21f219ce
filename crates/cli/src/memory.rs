//! Sizes, and how much memory there is.

use std::fs;

/// Reads `4096`, `64KiB`, `2GiB`, `1.5GB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "kb" => 1e3,
        "m" | "mib" => 1_048_576.0,
        "mb" => 1e6,
        "g" | "gib" => 1_073_741_824.0,
        "gb" => 1e9,
        "t" | "tib" => 1_099_511_627_776.0,
        "tb" => 1e12,
        _ => {
            return Err(format!(
                "{text:?} is no size; write it like 64MiB, 2GiB or 1000000"
            ));
        }
    };
    match number.parse::<f64>() {
        Ok(number) if number * scale < 9e18 => Ok((number * scale) as u64),
        _ => Err(format!(
            "{text:?} is no size; write it like 64MiB, 2GiB or 1000000"
        )),
    }
}

/// Files that may limit a process whose `/proc/self/cgroup` this is: of its group and of all groups around it, in either
/// version. Inside a container the group's own path is not there, but what is at the top is its.
fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            c if c.split(',').any(|c| c == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{file}"));
            let Some((around, _)) = path.rsplit_once('/') else {
                break;
            };
            path = around;
        }
    }
    files
}

/// Half of what there is; 1 GiB where nobody tells.
pub(crate) fn default_budget() -> u64 {
    available().map_or(1 << 30, |bytes| bytes / 2)
}

/// Memory of the machine or of the tightest control group around, whichever is smaller.
pub(crate) fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
        line.split_whitespace()
            .nth(1)?
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    });
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = limit_files(&groups).into_iter();
    let groups = groups.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    machine.into_iter().chain(groups).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_all_groups_around_count_in_both_versions() {
        let files = limit_files("4:cpu,memory:/a/b\n3:cpu:/c\n0::/d\n");
        let wanted = [
            "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/d/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(files, wanted);
        assert_eq!(limit_files("garbage"), Vec::<String>::new());
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("4MiB"), Ok(4 << 20));
        assert_eq!(parse_size("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(parse_size("2g"), Ok(2 << 30));
        for bad in ["", "MiB", "4 bananas", "1e3", "99999999TiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert!(default_budget() > 1 << 20);
    }
}
