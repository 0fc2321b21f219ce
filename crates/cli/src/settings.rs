//! Flags, environment and `alluvium.toml` into the settings of a server.

use std::path::{Path, PathBuf};

use alluvium_io::{Backend, DeviceOptions};
use alluvium_server::{Config, Storage};
use serde::Deserialize;

use crate::args::ServeFlags;
use crate::error::CliError;
use crate::memory::{available, default_budget, parse_size};

/// The settings file. Flags and environment win over it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SettingsFile {
    http: Option<String>,
    durability: Option<String>,
    compression: Option<String>,
    io: Option<String>,
    memory: Option<String>,
    shards: Option<usize>,
    volume_size: Option<String>,
    retention: Option<String>,
    retention_aggregates: Option<String>,
    max_disk: Option<String>,
    future_max: Option<String>,
    token_file: Option<PathBuf>,
    scrub_rate: Option<String>,
    backup_dir: Option<PathBuf>,
    insecure: Option<bool>,
    series_max: Option<u64>,
    measurement_series_max: Option<u64>,
    /// Settings that are numbers, by name.
    #[serde(default)]
    set: std::collections::BTreeMap<String, u64>,
}

impl SettingsFile {
    fn load(path: Option<&Path>) -> Result<Self, CliError> {
        let given = path.is_some();
        let path = path.unwrap_or(Path::new("alluvium.toml"));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if !given && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(CliError::io(format!(
                    "cannot read the settings file {}",
                    path.display()
                ))(error));
            }
        };
        Self::parse(&text).map_err(|reason| {
            CliError::said(format!(
                "the settings file {} is refused: {reason}",
                path.display()
            ))
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| e.message().to_owned())
    }
}

/// The settings of a server for `dir`.
pub(crate) fn config(dir: &Path, flags: &ServeFlags) -> Result<Config, CliError> {
    let file = SettingsFile::load(flags.config.as_deref())?;
    let size = |flag: Option<u64>, text: &Option<String>| match (flag, text) {
        (None, Some(text)) => parse_size(text).map(Some),
        (flag, _) => Ok(flag),
    };
    let io = flags.io.as_deref().or(file.io.as_deref()).unwrap_or("auto");
    let backend = match io {
        "auto" => Backend::Auto,
        "uring" => Backend::Uring,
        "pwritev" => Backend::Pwritev,
        other => {
            return Err(CliError::said(format!(
                "I/O backend {other:?} is unknown; use auto, uring or pwritev"
            )));
        }
    };
    let options = DeviceOptions {
        backend,
        ..DeviceOptions::default()
    };
    let mut config = Config::new(Storage::Directory {
        path: dir.to_owned(),
        options,
    });
    if let Some(http) = flags.http.as_ref().or(file.http.as_ref()) {
        config.http.clone_from(http);
    }
    if let Some(level) = flags.durability.as_ref().or(file.durability.as_ref()) {
        config.store.durability = level.parse().map_err(|e| CliError::said(format!("{e}")))?;
    }
    if let Some(choice) = flags.compression.as_ref().or(file.compression.as_ref()) {
        config.store.compression = choice.parse().map_err(|e| CliError::said(format!("{e}")))?;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    config.store.shards = flags.shards.or(file.shards).unwrap_or(processors.min(16));
    if !(1..=16).contains(&config.store.shards) {
        return Err(CliError::said(format!(
            "{} shards are not possible; give 1 to 16",
            config.store.shards
        )));
    }
    config.store.memory_bytes = size(flags.memory, &file.memory)
        .map_err(CliError::Said)?
        .unwrap_or_else(default_budget);
    if let Some(available) = available().filter(|bytes| config.store.memory_bytes > *bytes) {
        tracing::warn!(
            "--memory {} is more than the {available} bytes that the machine or its control group has: the kernel may end this \
             process; give less",
            config.store.memory_bytes
        );
    }
    if let Some(bytes) = size(flags.volume_size, &file.volume_size).map_err(CliError::Said)? {
        config.store.volume_bytes = bytes;
    }
    if let Some(bytes) = size(flags.scrub_rate, &file.scrub_rate).map_err(CliError::Said)? {
        config.store.scrub_bytes_per_s = bytes;
    }
    set_retention(&mut config, &file, flags)?;
    let limits = &mut config.store.series_limits;
    limits.database = flags.series_max.or(file.series_max);
    limits.measurement = flags.measurement_series_max.or(file.measurement_series_max);
    let of_file = file
        .set
        .iter()
        .map(|(name, n)| (name.as_str(), n.to_string()));
    for (name, text) in of_file {
        config
            .set_number(name, &text)
            .map_err(|e| CliError::said(format!("{e}")))?;
    }
    set_numbers(&flags.set, |name, text| config.set_number(name, text))?;
    config.token_file = flags.token_file.clone().or(file.token_file);
    config.backup_dir = flags.backup_dir.clone().or(file.backup_dir);
    config.insecure = flags.insecure || file.insecure.unwrap_or(false);
    Ok(config)
}

/// Settings given as `--set NAME=NUMBER`.
pub(crate) fn set_numbers<E: std::fmt::Display>(
    given: &[String],
    mut set: impl FnMut(&str, &str) -> Result<(), E>,
) -> Result<(), CliError> {
    for given in given {
        let (name, text) = given.split_once('=').ok_or_else(|| {
            CliError::said(format!(
                "--set {given:?} is refused; write it as NAME=NUMBER"
            ))
        })?;
        set(name, text).map_err(|e| CliError::said(format!("{e}")))?;
    }
    Ok(())
}

/// What new databases keep.
fn set_retention(
    config: &mut Config,
    file: &SettingsFile,
    flags: &ServeFlags,
) -> Result<(), CliError> {
    let said = |e: alluvium_store::RetentionError| CliError::said(format!("{e}"));
    let retention = &mut config.store.retention;
    for (name, flag, key) in [
        ("retention", &flags.retention, &file.retention),
        (
            "retention_aggregates",
            &flags.retention_aggregates,
            &file.retention_aggregates,
        ),
        ("max_disk", &flags.max_disk, &file.max_disk),
        ("future_max", &flags.future_max, &file.future_max),
    ] {
        if let Some(text) = flag.as_ref().or(key.as_ref()) {
            retention.set(name, text).map_err(said)?;
        }
    }
    retention.check().map_err(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "http = \"127.0.0.1:1\"\nshards = 3\nmemory = \"64MiB\"\ndurability = \"os\"\nretention = \"7d\"\n\
             max-disk = \"1GiB\"\nseries-max = 9\n[set]\nmerge_runs_max = 5\nlate_points_max = 99\n\
             queries_max = 7\nquery_deadline_ms = 1500\n",
        )
        .unwrap();
        let flags = ServeFlags {
            config: Some(file.path().into()),
            shards: Some(2),
            retention: Some("30d".into()),
            set: vec!["merge_runs_max=6".into(), "queries_max=9".into()],
            ..ServeFlags::default()
        };
        let config = config(Path::new("d"), &flags).unwrap();
        assert_eq!(
            (config.http.as_str(), config.store.shards),
            ("127.0.0.1:1", 2)
        );
        assert_eq!(config.store.memory_bytes, 64 << 20);
        let store = &config.store;
        assert_eq!((store.merge_runs_max, store.late_points_max), (6, 99));
        assert_eq!(store.series_limits.database, Some(9));
        let limits = &config.limits;
        assert_eq!(
            (limits.queries_max, limits.query_deadline.as_millis()),
            (9, 1500)
        );
        assert_eq!(config.store.durability.to_string(), "os");
        let retention = config.store.retention;
        assert_eq!(
            (retention.get("retention"), retention.max_disk),
            ("30d".into(), Some(1 << 30))
        );
    }

    #[test]
    fn unknown_keys_and_words_are_refused_by_name() {
        assert!(
            SettingsFile::parse("htp = \"x\"")
                .unwrap_err()
                .contains("htp")
        );
        let refused = |flags: ServeFlags| config(Path::new("d"), &flags).unwrap_err().to_string();
        assert!(
            refused(ServeFlags {
                io: Some("aio".into()),
                ..ServeFlags::default()
            })
            .contains("aio")
        );
        assert!(
            refused(ServeFlags {
                durability: Some("much".into()),
                ..ServeFlags::default()
            })
            .contains("much")
        );
        assert!(
            refused(ServeFlags {
                retention: Some("30 days".into()),
                ..ServeFlags::default()
            })
            .contains("30 days")
        );
        assert!(
            refused(ServeFlags {
                shards: Some(0),
                ..ServeFlags::default()
            })
            .contains("1 to 16")
        );
        for (given, told) in [
            ("merge_runs=3", "merge_runs_max"),
            ("merge_runs_max=1", "2 to 64"),
            ("merge_runs_max", "NAME=NUMBER"),
            ("search_max=0", "1 to 1000000"),
            ("queries=3", "queries_max"),
        ] {
            let set = vec![given.into()];
            let refusal = refused(ServeFlags {
                set,
                ..ServeFlags::default()
            });
            assert!(refusal.contains(told), "{refusal}");
        }
    }
}
