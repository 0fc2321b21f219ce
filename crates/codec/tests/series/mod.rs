//! Reads the recorded series: zstd-compressed CSV, `timestamp_ns,value`, sorted by time.

use std::path::Path;

use alluvium_types::{Column, ValueKind};

/// One recorded series.
pub(crate) struct Series {
    /// File name without its endings.
    pub(crate) name: String,
    /// Points; of equal times the last one.
    pub(crate) column: Column,
}

/// Every `.csv.zst` of a directory in the order of names; `None` if there is no such directory.
pub(crate) fn read_all(dir: &Path) -> Option<Vec<Series>> {
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".csv.zst"))
        .collect();
    paths.sort();
    let about = std::fs::read_to_string(dir.join("README.md")).unwrap_or_default();
    Some(paths.iter().map(|path| read(path, &about)).collect())
}

/// The kind a table of the directory's README names, else what the values look like.
fn kind_of(file: &str, about: &str, values: &[&str]) -> ValueKind {
    let named = about
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .find_map(|row| row.strip_prefix(file)?.split('|').nth(1));
    match named.map(str::trim) {
        Some("f64") => ValueKind::F64,
        Some("i64") => ValueKind::I64,
        Some("u64") => ValueKind::U64,
        Some("bool") => ValueKind::Bool,
        Some("str") => ValueKind::Str,
        _ if values.iter().all(|v| v.parse::<i64>().is_ok()) => ValueKind::I64,
        _ if values.iter().all(|v| v.parse::<f64>().is_ok()) => ValueKind::F64,
        _ => ValueKind::Str,
    }
}

fn read(path: &Path, about: &str) -> Series {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let packed = std::fs::read(path).expect("a series that was just listed");
    let text = zstd::decode_all(packed.as_slice()).expect("zstd");
    let text = String::from_utf8(text).expect("UTF-8");
    let rows: Vec<(&str, &str)> = text
        .lines()
        .skip(1)
        .map(|line| line.split_once(',').expect("time and value"))
        .collect();
    let values: Vec<&str> = rows.iter().map(|(_, value)| *value).collect();
    let kind = kind_of(&file, about, &values);
    let mut column = Column::new(kind);
    for (i, (time, value)) in rows.iter().enumerate() {
        if rows.get(i + 1).is_some_and(|(next, _)| next == time) {
            continue;
        }
        let time = time.parse().expect("a time");
        match kind {
            ValueKind::Str => column.push_str(time, value),
            ValueKind::F64 => {
                column.push_bits(time, value.parse::<f64>().expect("a float").to_bits());
            }
            ValueKind::I64 => {
                column.push_bits(time, value.parse::<i64>().expect("an integer") as u64);
            }
            ValueKind::U64 | ValueKind::Bool => {
                column.push_bits(time, value.parse().expect("an integer"));
            }
        }
    }
    Series {
        name: file.trim_end_matches(".csv.zst").to_owned(),
        column,
    }
}
