//! `POST /api/backup`: a copy of the store in a directory of this machine, while it is written to.
#![expect(
    clippy::result_large_err,
    reason = "a refusal is the answer itself, moved once"
)]

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use alluvium_io::{DeviceOptions, IoErrorKind};
use alluvium_store::{BackupError, BackupReport, BackupTarget, Store, StoreError};
use axum::extract::{Request, State};
use axum::http::StatusCode;

use crate::app::App;
use crate::params::Params;
use crate::reply::{self, Reply};
use crate::tokens::Right;

/// `POST /api/backup?to=DIRECTORY&base=EARLIER&link=false`: answers when the backup is durable.
pub(crate) async fn backup(State(app): State<Arc<App>>, request: Request) -> Reply {
    answer(&app, request).await.unwrap_or_else(|reply| reply)
}

/// What is asked for, below the one directory where backups may be made.
struct Asked {
    to: PathBuf,
    base: Option<PathBuf>,
    link: bool,
}

async fn answer(app: &Arc<App>, request: Request) -> Result<Reply, Reply> {
    let (head, _) = request.into_parts();
    let params = Params::parse(head.uri.query().unwrap_or_default().as_bytes());
    let store = app.store_or_reply()?;
    app.authorize_or_reply(&head.headers, &params, Some((Right::Admin, "*")))?;
    let Some(root) = &app.backup_dir else {
        let sentence = "backups are not allowed here; start the server with --backup-dir DIRECTORY";
        return Err(reply::error(
            StatusCode::FORBIDDEN,
            "no_backup_dir",
            sentence,
        ));
    };
    let asked = asked(root, &params)?;
    let path = asked.to.display().to_string();
    let store = store.clone();
    let work = tokio::task::spawn_blocking(move || make(&store, &asked)).await;
    let bug = |_| {
        reply::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the backup met a bug; see the server's log",
        )
    };
    match work.map_err(bug)? {
        Ok(report) => Ok(reply::json(StatusCode::OK, text(&path, &report))),
        Err(error) => {
            tracing::warn!(%error, %path, "a backup failed");
            Err(refusal(&error))
        }
    }
}

fn make(store: &Store, asked: &Asked) -> Result<BackupReport, BackupError> {
    let options = DeviceOptions::default();
    let open = |path: &Path| alluvium_io::open(path, &options);
    store.backup(&BackupTarget {
        device: open(&asked.to)?,
        directory: asked.link.then(|| asked.to.clone()),
        base: asked.base.as_deref().map(open).transpose()?,
    })
}

fn asked(root: &Path, params: &Params) -> Result<Asked, Reply> {
    let bad = |sentence: &str| reply::error(StatusCode::BAD_REQUEST, "bad_parameter", sentence);
    let missing =
        "parameter to is missing: the directory of the backup, below that of --backup-dir";
    let to = params
        .get("to")
        .filter(|t| !t.is_empty())
        .ok_or_else(|| bad(missing))?;
    let link = match params.get("link") {
        None | Some("true" | "") => true,
        Some("false") => false,
        Some(_) => return Err(bad("parameter link is true or false")),
    };
    if let Err(error) = std::fs::create_dir_all(root) {
        let sentence = format!("the directory of --backup-dir cannot be made ({error})");
        let (status, code) = if error.kind() == std::io::ErrorKind::StorageFull {
            (StatusCode::INSUFFICIENT_STORAGE, "disk_full")
        } else {
            (StatusCode::INTERNAL_SERVER_ERROR, "storage")
        };
        return Err(reply::error(status, code, &sentence));
    }
    let inside = |asked: &str| {
        confined(root, Path::new(asked)).map_err(|reason| {
            let sentence = format!("{asked:?} is refused: {reason}");
            reply::error(StatusCode::FORBIDDEN, "outside_backup_dir", &sentence)
        })
    };
    let base = params.get("base").filter(|b| !b.is_empty());
    let base = base.map(inside).transpose()?;
    if base.as_ref().is_some_and(|base| !base.is_dir()) {
        return Err(bad(
            "there is no such earlier backup as parameter base says",
        ));
    }
    Ok(Asked {
        to: inside(to)?,
        base,
        link,
    })
}

/// The absolute path of what is asked for, if it is below `root` and no symbolic link leads out.
fn confined(root: &Path, asked: &Path) -> Result<PathBuf, String> {
    let gone = |e: std::io::Error| format!("the directory of --backup-dir cannot be used ({e})");
    std::fs::create_dir_all(root).map_err(gone)?;
    let real_root = root.canonicalize().map_err(gone)?;
    let below = match asked
        .strip_prefix(root)
        .or_else(|_| asked.strip_prefix(&real_root))
    {
        Ok(below) => below,
        Err(_) if asked.is_relative() => asked,
        Err(_) => return Err("it is not below the directory of --backup-dir".into()),
    };
    let plain = below
        .components()
        .all(|c| matches!(c, Component::Normal(_)));
    if !plain || below.as_os_str().is_empty() {
        return Err("it is not a name or path below the directory of --backup-dir".into());
    }
    let path = real_root.join(below);
    // What exists of it, with links followed, must still be inside.
    let there = path.ancestors().find(|p| p.symlink_metadata().is_ok());
    let real = there.and_then(|p| p.canonicalize().ok());
    if real.is_some_and(|real| real.starts_with(&real_root)) {
        return Ok(path);
    }
    Err("a symbolic link leads out of the directory of --backup-dir".into())
}

/// A report as JSON.
fn text(path: &str, r: &BackupReport) -> String {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let body = serde_json::json!({
        "backup": path, "superblock": r.superblock_seq, "volumes_linked": r.volumes_linked,
        "volumes_copied": r.volumes_copied, "files_from_base": r.files_from_base, "bytes_copied": r.bytes_copied,
        "log_bytes": r.log_bytes, "held_seconds": seconds(r.held_ns), "seconds": seconds(r.duration_ns),
    });
    body.to_string()
}

fn refusal(error: &BackupError) -> Reply {
    let (status, code) = match error {
        BackupError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        BackupError::NotEmpty { .. } => (StatusCode::CONFLICT, "not_empty"),
        BackupError::Base { .. } | BackupError::Root(_) => (StatusCode::BAD_REQUEST, "bad_base"),
        BackupError::Store(StoreError::Full | StoreError::NoRoom { .. }) => {
            (StatusCode::INSUFFICIENT_STORAGE, "disk_full")
        }
        BackupError::Io(error) => match error.kind {
            IoErrorKind::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            IoErrorKind::Foreign | IoErrorKind::Locked => (StatusCode::CONFLICT, "not_empty"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "storage"),
        },
        BackupError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "storage"),
    };
    reply::error(status, code, &error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_directory_are_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("backups");
        let inside = |asked: &str| confined(&root, Path::new(asked)).is_ok();
        assert!(inside("monday") && inside("2026/monday"));
        assert!(inside(root.join("monday").to_str().unwrap()));
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/../../x",
            "/etc/x",
            root.to_str().unwrap(),
        ] {
            assert!(!inside(bad), "{bad:?}");
        }
        std::os::unix::fs::symlink(dir.path(), root.join("out")).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", root.join("dangling")).unwrap();
        assert!(!inside("out/x") && !inside("out") && !inside("dangling") && !inside("dangling/x"));
    }
}
