//! A folder of a simulated disk as a device of its own: files may have names in both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium_io::{Device, IoError, Lane, Layer, Listed, Op, Ticket};

use crate::device::SimDevice;

/// A [`Device`] on a folder of a [`SimDevice`]: what goes wrong with the disk goes wrong with it, and [`Device::link`] reaches
/// from one to the other.
#[derive(Debug, Clone)]
pub struct SimFolder {
    disk: Arc<SimDevice>,
    folder: String,
}

impl SimFolder {
    /// The folder of this name, in which nothing is if nobody wrote there. `folder` has no slash at its end.
    pub fn new(disk: Arc<SimDevice>, folder: &str) -> Self {
        let folder = folder.to_owned();
        Self { disk, folder }
    }

    /// Where it is in the file system that [`Device::link`] speaks of, see [`SimDevice::path`].
    pub fn path(&self) -> PathBuf {
        self.disk.path().join(&self.folder)
    }

    fn inside(&self, path: &str) -> String {
        match path {
            "" => self.folder.clone(),
            path => format!("{}/{path}", self.folder),
        }
    }
}

impl Layer for SimFolder {
    fn behind(&self) -> &dyn Device {
        &*self.disk
    }

    fn submit(&self, lane: Lane, op: Op) -> Ticket {
        let op = match op {
            Op::Open { path, mode } => Op::Open {
                path: self.inside(&path),
                mode,
            },
            Op::SyncDir { path } => Op::SyncDir {
                path: self.inside(&path),
            },
            Op::Rename { from, to } => Op::Rename {
                from: self.inside(&from),
                to: self.inside(&to),
            },
            Op::Remove { path } => Op::Remove {
                path: self.inside(&path),
            },
            op @ (Op::Close { .. } | Op::Write { .. } | Op::Sync { .. } | Op::Punch { .. }) => op,
        };
        self.disk.submit(lane, op)
    }

    fn list(&self, path: &str) -> Result<Vec<Listed>, IoError> {
        self.disk.list(&self.inside(path))
    }

    fn link(&self, path: &str, to: &Path) -> Result<(), IoError> {
        self.disk.link(&self.inside(path), to)
    }
}
