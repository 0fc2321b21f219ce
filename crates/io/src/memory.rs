//! A directory of files in memory, for the tests of every layer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::device::{Completion, Device, FileId, Geometry, Lane, Listed, Op, Read, WriteData};
use crate::error::IoError;
use crate::ticket::{Completer, IoResult, Ticket};

mod content;

use content::{BLOCK, Content};

/// A file.
#[derive(Debug, Default, Clone)]
struct Stored {
    content: Content,
    /// Numbers of the blocks that were given back.
    holes: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Files {
    by_path: BTreeMap<String, Arc<Mutex<Stored>>>,
    open: Vec<Option<(String, Arc<Mutex<Stored>>)>>,
}

/// A [`Device`] in memory: operations complete, in order, when their lane is driven.
#[derive(Debug)]
pub struct MemoryDevice {
    geometry: Geometry,
    files: Mutex<Files>,
    lanes: Vec<Mutex<VecDeque<(Op, Completer)>>>,
    woken: Mutex<bool>,
    bell: Condvar,
}

impl MemoryDevice {
    /// An empty directory with so many lanes, for blocks of 512 bytes.
    pub fn new(lanes: usize) -> Self {
        Self::with_geometry(
            lanes,
            Geometry {
                offset_align: 512,
                memory_align: 512,
                max_vectors: 1024,
            },
        )
    }

    /// An empty directory with a geometry of choice.
    pub fn with_geometry(lanes: usize, geometry: Geometry) -> Self {
        Self {
            geometry,
            files: Mutex::default(),
            lanes: (0..lanes).map(|_| Mutex::default()).collect(),
            woken: Mutex::new(false),
            bell: Condvar::new(),
        }
    }

    /// A directory with the files of this one as they are now, none of them open, and so many lanes. Both share what neither
    /// writes afterwards: the cost is a count for every 4 KiB that were ever written.
    #[must_use]
    pub fn duplicate(&self, lanes: usize) -> Self {
        let twin = Self::with_geometry(lanes, self.geometry);
        let files = self.files.lock();
        let copies = files.by_path.iter().map(|(path, stored)| {
            let copy = stored.lock().clone();
            (path.clone(), Arc::new(Mutex::new(copy)))
        });
        twin.files.lock().by_path = copies.collect();
        twin
    }

    fn file(&self, file: FileId) -> Result<Arc<Mutex<Stored>>, IoError> {
        let files = self.files.lock();
        let entry = files.open.get(file.0 as usize).and_then(Option::as_ref);
        entry.map(|(_, bytes)| Arc::clone(bytes)).ok_or_else(|| {
            IoError::new(
                "use",
                format!("file {}", file.0),
                std::io::ErrorKind::NotFound.into(),
            )
        })
    }

    fn perform(&self, op: Op) -> IoResult {
        match op {
            Op::Open { path, mode } => {
                let mut files = self.files.lock();
                if !mode.create && !files.by_path.contains_key(&path) {
                    return Err(IoError::new(
                        "open",
                        path,
                        std::io::ErrorKind::NotFound.into(),
                    ));
                }
                let bytes = Arc::clone(files.by_path.entry(path.clone()).or_default());
                let len = {
                    let content = &mut bytes.lock().content;
                    content.extend_to(mode.allocate as usize);
                    content.len() as u64
                };
                files.open.push(Some((path, bytes)));
                Ok(Completion::Opened {
                    file: FileId(files.open.len() as u32 - 1),
                    len,
                })
            }
            Op::Close { file } => {
                self.file(file)?;
                self.files.lock().open[file.0 as usize] = None;
                Ok(Completion::Done)
            }
            Op::Write {
                file, offset, data, ..
            } => {
                let bytes = self.file(file)?;
                self.geometry
                    .check("write", &format!("file {}", file.0), offset, data.len())?;
                let Stored { content, holes } = &mut *bytes.lock();
                let end = offset as usize + data.len();
                if !holes.is_empty() {
                    let written = offset / BLOCK..(end as u64).div_ceil(BLOCK);
                    holes.retain(|block| !written.contains(block));
                }
                match data {
                    WriteData::Pages(pages) => {
                        for (i, page) in pages.iter().enumerate() {
                            content.write(offset as usize + i * BLOCK as usize, page.bytes());
                        }
                    }
                    WriteData::Buffer(buffer) => content.write(offset as usize, buffer.bytes()),
                }
                Ok(Completion::Done)
            }
            Op::Sync { file } => self.file(file).map(|_| Completion::Done),
            Op::SyncDir { .. } => Ok(Completion::Done),
            Op::Rename { from, to } => {
                let mut files = self.files.lock();
                match files.by_path.remove(&from) {
                    None => Err(IoError::new(
                        "rename",
                        from,
                        std::io::ErrorKind::NotFound.into(),
                    )),
                    Some(bytes) => {
                        files.by_path.insert(to, bytes);
                        Ok(Completion::Done)
                    }
                }
            }
            Op::Punch { file, offset, len } => {
                let bytes = self.file(file)?;
                let path = format!("file {}", file.0);
                self.geometry.check("punch", &path, offset, len as usize)?;
                let Stored { content, holes } = &mut *bytes.lock();
                let begin = offset.min(content.len() as u64);
                let end = (offset + len).min(content.len() as u64);
                content.clear(begin as usize..end as usize);
                holes.extend(begin.div_ceil(BLOCK)..end / BLOCK);
                Ok(Completion::Done)
            }
            Op::Remove { path } => {
                self.files.lock().by_path.remove(&path);
                Ok(Completion::Done)
            }
        }
    }
}

impl Device for MemoryDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn backend(&self) -> String {
        "memory (nothing outlives the process)".into()
    }

    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn submit(&self, lane: Lane, op: Op) -> Ticket {
        let (ticket, completer) = Ticket::new();
        self.lanes[lane.0].lock().push_back((op, completer));
        self.wake();
        ticket
    }

    fn drive(&self, lane: Lane) -> usize {
        let batch = std::mem::take(&mut *self.lanes[lane.0].lock());
        let count = batch.len();
        for (op, completer) in batch {
            let result = self.perform(op);
            completer.complete(result);
        }
        count
    }

    fn wait(&self, timeout: Duration) {
        let mut woken = self.woken.lock();
        if !*woken {
            self.bell.wait_for(&mut woken, timeout);
        }
        *woken = false;
    }

    fn wake(&self) {
        *self.woken.lock() = true;
        self.bell.notify_all();
    }

    fn read(&self, reads: &mut [Read]) -> Result<(), IoError> {
        for read in reads {
            let bytes = self.file(read.file)?;
            let path = format!("file {}", read.file.0);
            self.geometry
                .check("read", &path, read.offset, read.into.len())?;
            let stored = bytes.lock();
            stored
                .content
                .read(read.offset as usize, read.into.bytes_mut());
        }
        Ok(())
    }

    fn list(&self, path: &str) -> Result<Vec<Listed>, IoError> {
        let files = self.files.lock();
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let inside = files
            .by_path
            .iter()
            .filter_map(|(p, bytes)| Some((p.strip_prefix(&prefix)?, bytes)));
        Ok(inside
            .filter(|(name, _)| !name.contains('/'))
            .map(|(name, bytes)| {
                let stored = bytes.lock();
                let len = stored.content.len() as u64;
                let holes = stored.holes.len() as u64 * BLOCK;
                Listed {
                    name: name.to_owned(),
                    len,
                    allocated: len.saturating_sub(holes),
                }
            })
            .collect())
    }
}
