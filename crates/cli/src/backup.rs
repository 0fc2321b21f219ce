//! `alluvium backup` and `alluvium restore`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alluvium_io::{DeviceOptions, SystemClock};
use alluvium_store::{BackupReport, BackupTarget, Device, Store};
use alluvium_types::ByteCount;
use serde_json::Value;

use crate::args::{BackupArgs, RestoreArgs, ServeFlags};
use crate::client::Client;
use crate::error::CliError;
use crate::serve::say;
use crate::settings;

/// How long a server may take for a backup.
const BACKUP_TIME: Duration = Duration::from_hours(24);

pub(crate) fn run(args: &BackupArgs) -> Result<(), CliError> {
    if args.source.starts_with("http://") {
        return of_server(args);
    }
    let report = of_directory(Path::new(&args.source), args)?;
    say(&sentence(&args.target, &report));
    Ok(())
}

/// What a backup did, in a line.
fn sentence(target: &str, r: &BackupReport) -> String {
    format!(
        "backup {target}: commit {}, {} volumes linked, {} copied, {} files from the earlier backup, {} written in {:.3} s",
        r.superblock_seq,
        r.volumes_linked,
        r.volumes_copied,
        r.files_from_base,
        ByteCount(r.bytes_copied),
        r.duration_ns as f64 / 1e9
    )
}

fn of_server(args: &BackupArgs) -> Result<(), CliError> {
    let client = Client::new(&args.source, args.token.as_deref());
    let mut client = client
        .map_err(CliError::io("cannot ask the server"))?
        .patient(BACKUP_TIME);
    let mut path = format!(
        "/api/backup?to={}&link={}",
        escape(&args.target),
        !args.copy
    );
    if let Some(base) = &args.base {
        path.push_str("&base=");
        path.push_str(&escape(base));
    }
    let answer = client
        .request("POST", &path, &[], &[])
        .map_err(CliError::asking(&args.source))?;
    let text = answer.text();
    let answered: Option<Value> = serde_json::from_str(&text).ok();
    let get = |name: &str| answered.as_ref().and_then(|v| v.get(name));
    if answer.status != 200 {
        let error = get("error").and_then(Value::as_str);
        return Err(CliError::said(error.unwrap_or(&text)));
    }
    let count = |name: &str| get(name).and_then(Value::as_u64).unwrap_or_default();
    let seconds = get("seconds").and_then(Value::as_f64).unwrap_or_default();
    let report = BackupReport {
        superblock_seq: count("superblock"),
        volumes_linked: count("volumes_linked"),
        volumes_copied: count("volumes_copied"),
        files_from_base: count("files_from_base"),
        bytes_copied: count("bytes_copied"),
        duration_ns: (seconds * 1e9) as u64,
        ..BackupReport::default()
    };
    let path = get("backup").and_then(Value::as_str);
    say(&sentence(path.unwrap_or(&args.target), &report));
    Ok(())
}

/// A path as a value of a query string.
fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Opens a directory, which locks it.
pub(crate) fn device(path: &Path, lanes: usize) -> Result<Arc<dyn Device>, CliError> {
    let options = DeviceOptions {
        lanes,
        ..DeviceOptions::default()
    };
    alluvium_io::open(path, &options).map_err(|error| CliError::said(error.to_string()))
}

/// As [`device`], of a directory that must be there.
pub(crate) fn existing(path: &Path, lanes: usize) -> Result<Arc<dyn Device>, CliError> {
    if !path.is_dir() {
        let sentence = format!("there is no directory {}; check the path", path.display());
        return Err(CliError::said(sentence));
    }
    device(path, lanes)
}

/// A store on a directory that nobody has open.
pub(crate) fn store(path: &Path) -> Result<Store, CliError> {
    let config = settings::config(path, &ServeFlags::default())?.store;
    let device = existing(path, config.shards + 1)?;
    let opened = Store::open(device, Arc::new(SystemClock), config);
    opened.map_err(|error| CliError::said(format!("{} cannot be opened: {error}", path.display())))
}

fn of_directory(source: &Path, args: &BackupArgs) -> Result<BackupReport, CliError> {
    let store = store(source)?;
    let target = PathBuf::from(&args.target);
    let device = device(&target, 1)?;
    let said = |error: &dyn std::fmt::Display| CliError::said(error.to_string());
    let path = target.canonicalize().map_err(|e| said(&e))?;
    let base = args.base.as_ref().map(|b| existing(Path::new(b), 1));
    let made = store.backup(&BackupTarget {
        device,
        directory: (!args.copy).then_some(path),
        base: base.transpose()?,
    });
    store.close().map_err(|e| said(&e))?;
    made.map_err(|e| said(&e))
}

pub(crate) fn restore(args: &RestoreArgs) -> Result<(), CliError> {
    let report = {
        let (from, to) = (existing(&args.backup, 1)?, device(&args.dir, 1)?);
        let restored = alluvium_store::restore(&from, &to);
        restored.map_err(|error| CliError::said(error.to_string()))?
    };
    // What was checked must also open.
    let store = store(&args.dir)?;
    let databases = store.databases().len();
    store.close().map_err(|e| CliError::said(e.to_string()))?;
    let verified = &report.verified;
    say(&format!(
        "restored commit {} to {}: {} files, {}; {} pages of {} runs and {} log frames are sound, {databases} databases open",
        report.superblock_seq,
        args.dir.display(),
        report.files,
        ByteCount(report.bytes),
        verified.pages,
        verified.runs,
        verified.frames,
    ));
    Ok(())
}
