//! A hot backup: what a superblock names and the log since, as a directory that opens like any other.
//!
//! A checkpoint, then for a moment no other may begin: what its superblock names is opened or gets a second name in the
//! target, so that whatever is removed later stays readable, and the log is pinned. Copying goes on beside writers. No hole
//! is made in any volume until the copy is done; files with a second name get none for as long as they have it. The
//! log is copied up to the last whole frame, so the copy is what a kill at that moment would have left, and everything
//! acknowledged before the backup began is in it. The superblock comes last; until then a file `unfinished` says why the
//! directory does not open.
//!
//! Volumes that take no more pages are linked where the file system lets; the others are copied as far as they are
//! written. Against an earlier backup, volumes and files that are the same are linked from there.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use alluvium_block::{
    Manifest, OtherSlot, Root, RootCommit, RootError, VolumeHead, load_roots, volume_heads,
};
use alluvium_io::{Device, FileId, IoError, IoErrorKind, Lane};
use alluvium_types::PAGE_SIZE;
use alluvium_wal::{LogError, StreamInfo, copy_frames, list_streams};

use crate::copying::{Side, copy_file, copy_readable};
use crate::database::{LogPin, Store};
use crate::error::{OpenError, StoreError, WriteError};
use crate::ledger::{Ledger, NamedFile};
use crate::lineage::Lineage;
use crate::mended_tails::are_mendable;
use crate::open::{StoreInner, salt};

/// Whether a backup is being made: one at a time.
#[derive(Debug, Default)]
pub(crate) struct Backups(AtomicBool);

impl Backups {
    /// Whether volumes are to be left as they are.
    pub(crate) fn is_running(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Where a backup goes.
#[derive(Debug)]
pub struct BackupTarget {
    /// An empty directory, open.
    pub device: Arc<dyn Device>,
    /// Its absolute path, where files may be linked into it; without one everything is copied.
    pub directory: Option<PathBuf>,
    /// An earlier backup: what has not changed since is linked from there, or copied if that cannot be.
    pub base: Option<Arc<dyn Device>>,
}

/// What a backup did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackupReport {
    /// The commit it holds; the log goes on from there.
    pub superblock_seq: u64,
    /// Volumes that have a name in the target now.
    pub volumes_linked: u64,
    /// Volumes and other files linked from the earlier backup.
    pub files_from_base: u64,
    /// Volumes that were copied.
    pub volumes_copied: u64,
    /// Bytes written, of pages, log and all other files.
    pub bytes_copied: u64,
    /// Of them the log's.
    pub log_bytes: u64,
    /// Nanoseconds during which no checkpoint could begin.
    pub held_ns: u64,
    /// Nanoseconds in all.
    pub duration_ns: u64,
}

/// Why a backup or a restore was not made. What stands in the target then is refused by name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// One is being made already.
    #[error("a backup is being made already; wait until it has ended")]
    Busy,
    /// The target holds something.
    #[error("the target holds {example}; choose an empty or a new directory")]
    NotEmpty {
        /// One of the files.
        example: String,
    },
    /// The earlier backup is of another store, or of a later moment.
    #[error("the earlier backup is {problem}; choose another, or none")]
    Base {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There is no backup to restore from.
    #[error("the directory is empty, so there is nothing to restore")]
    Empty,
    /// What was restored does not hold.
    #[error("the copy does not hold: {findings} findings, the first in {place}: {what}")]
    Damaged {
        /// How many.
        findings: u64,
        /// Where the first one is.
        place: String,
        /// What did not hold.
        what: String,
    },
    /// The new store of a salvage refused a batch.
    #[error("the new store refused a batch: {0}")]
    Write(#[source] WriteError),
    /// The store stopped acknowledging, or is closing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What a superblock names cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A superblock, here or there, does not hold.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A device failed; the target's if the path is of a file that was to be written.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Ends what began with a swap of the flag.
struct Running<'a>(&'a Backups);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// No checkpoint begins while it lives.
struct Hold<'a>(&'a StoreInner);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.checkpointer.lock().release();
        self.0.device.wake();
    }
}

impl Store {
    /// Copies the whole store as it is, while it is written to, to a directory from which [`restore`](crate::restore)
    /// makes a store again. Everything acknowledged before the call is in it. Waits: a checkpoint, then as long as copying takes.
    /// The pump must be running, or this drives the store by itself.
    ///
    /// # Errors
    /// See [`BackupError`]. The store goes on; the target is to be removed.
    pub fn backup(&self, target: &BackupTarget) -> Result<BackupReport, BackupError> {
        let inner = &self.0;
        if inner.backups.0.swap(true, Ordering::AcqRel) {
            return Err(BackupError::Busy);
        }
        let running = Running(&inner.backups);
        let begun = inner.clock.monotonic_ns();
        let to = Side {
            device: target.device.as_ref(),
            lane: Lane(0),
        };
        refuse_filled(to.device)?;
        to.begin()?;
        self.checkpoint().wait()?;
        let mut copy = Copy {
            inner,
            from: Side {
                device: inner.device.as_ref(),
                lane: Lane(inner.shards.len()),
            },
            to,
            target,
            base: Base::load(target.base.as_ref())?,
            waiting: Vec::new(),
            without: Vec::new(),
            report: BackupReport::default(),
        };
        let (root, manifest, ledger, _pin) = copy.name_files()?;
        copy.copy_files()?;
        copy.copy_log(&root, &ledger)?;
        to.sync_dir("vol").or_else(absent)?;
        to.sync_dir("wal").or_else(absent)?;
        commit_root(to, root, &manifest)?;
        to.end()?;
        drop(running);
        copy.report.superblock_seq = root.seq;
        copy.report.duration_ns = inner.clock.monotonic_ns() - begun;
        Ok(copy.report)
    }
}

/// A directory that was never made needs no sync.
pub(crate) fn absent(error: IoError) -> Result<(), IoError> {
    if error.kind == IoErrorKind::NotFound {
        return Ok(());
    }
    Err(error)
}

/// Refuses a directory that holds anything but its lock.
pub(crate) fn refuse_filled(device: &dyn Device) -> Result<(), BackupError> {
    for dir in ["", "vol", "wal"] {
        let mut files = device.list(dir)?;
        files.retain(|f| f.name != "LOCK");
        if let Some(file) = files.pop() {
            let example = if dir.is_empty() {
                file.name
            } else {
                format!("{dir}/{}", file.name)
            };
            return Err(BackupError::NotEmpty { example });
        }
    }
    Ok(())
}

/// Writes manifest and superblock, and waits until they are durable.
pub(crate) fn commit_root(to: Side<'_>, root: Root, manifest: &Manifest) -> Result<(), IoError> {
    let mut commit = RootCommit::start(to.device, to.lane, root, manifest);
    loop {
        if let Poll::Ready(result) = commit.poll(to.device) {
            result?;
            // The name of the superblock: a commit that is not the first takes it for durable.
            return to.sync_dir("");
        }
        if to.device.drive(to.lane) == 0 {
            to.device.wait(std::time::Duration::from_millis(1));
        }
    }
}

/// The files beside volumes and log that a ledger names, with their lengths.
pub(crate) fn plain_files(ledger: &Ledger) -> Vec<(String, NamedFile)> {
    let tails = ledger.tails.iter();
    let tails = tails.flat_map(|f| [(f.tails_path(), *f), (f.mending_path(), f.mending())]);
    let two = |paths: [String; 2], file| paths.map(|path| (path, file));
    let series = ledger.series.iter();
    let series = series.flat_map(|f| two(f.series_paths(), *f));
    let index = ledger.segments.iter();
    let index = index.flat_map(|s| two(s.file.index_paths(), s.file));
    tails.chain(series).chain(index).collect()
}

/// An earlier backup.
struct Base {
    device: Arc<dyn Device>,
    root: Root,
    heads: Vec<VolumeHead>,
    files: Vec<(String, NamedFile)>,
    lineage: Lineage,
}

impl Base {
    fn load(device: Option<&Arc<dyn Device>>) -> Result<Option<Self>, BackupError> {
        let Some(device) = device else {
            return Ok(None);
        };
        let Some(roots) = load_roots(device.as_ref())? else {
            let problem = "empty";
            return Err(BackupError::Base { problem });
        };
        // A backup has one superblock: a directory that somebody opened may have changed since.
        if roots.other != OtherSlot::Blank {
            let problem = "a data directory that has been opened";
            return Err(BackupError::Base { problem });
        }
        let ledger = Ledger::load(&roots.manifest)?;
        Ok(Some(Self {
            device: Arc::clone(device),
            root: roots.root,
            heads: volume_heads(&roots.manifest)?,
            files: plain_files(&ledger),
            lineage: ledger.lineage,
        }))
    }
}

/// A file to be copied when the hold has ended. It is open, so it stays although its name may go.
struct Waiting {
    path: String,
    file: FileId,
    len: u64,
    /// What it is, unless it is a volume.
    named: Option<NamedFile>,
}

impl Waiting {
    /// A file of which a restore makes what is missing of the one beside it, which follows.
    fn twin(&self) -> Option<NamedFile> {
        self.named.filter(|file| !file.is_tails(&self.path))
    }

    /// The mending file of a tails file.
    fn mending(&self) -> Option<NamedFile> {
        let tails = self.named.filter(|file| file.is_tails(&self.path));
        tails.map(NamedFile::mending)
    }
}

struct Copy<'a> {
    inner: &'a Arc<StoreInner>,
    from: Side<'a>,
    to: Side<'a>,
    target: &'a BackupTarget,
    base: Option<Base>,
    waiting: Vec<Waiting>,
    /// Of these one of two, or the mending file, is not in the copy.
    without: Vec<NamedFile>,
    report: BackupReport,
}

impl Copy<'_> {
    /// Opens or links everything that the last superblock names.
    fn name_files(&mut self) -> Result<(Root, Manifest, Ledger, LogPin), BackupError> {
        let inner = self.inner;
        let hold = hold(inner)?;
        let begun = inner.clock.monotonic_ns();
        let Some(roots) = load_roots(inner.device.as_ref())? else {
            let section = "its superblock, which is gone";
            return Err(RootError::Manifest { section }.into());
        };
        let (root, manifest) = (roots.root, roots.manifest);
        let ledger = Ledger::load(&manifest)?;
        if let Some(base) = &self.base {
            let problem = if base.root.instance != root.instance {
                Some("of another store")
            } else if base.root.seq > root.seq {
                Some("of a later moment than the store is in")
            } else if !ledger.lineage.went_through(&base.lineage, base.root.seq) {
                Some("of what became of the store without the restore that this one came through")
            } else {
                None
            };
            if let Some(problem) = problem {
                return Err(BackupError::Base { problem });
            }
        }
        let pin = LogPin::new(inner, ledger.redo_from.clone());
        for head in volume_heads(&manifest)? {
            self.name_volume(&head)?;
        }
        for (path, file) in plain_files(&ledger) {
            let of_base = |base: &&Base| base.files.contains(&(path.clone(), file));
            let base = self.base.as_ref().filter(of_base);
            if base.is_some_and(|base| self.link(base.device.as_ref(), &path)) {
                self.report.files_from_base += 1;
                continue;
            }
            let twin = (!file.is_tails(&path)).then_some(file);
            let awaited = self.await_copy(path, file.len, Some(file));
            match awaited {
                // As one that cannot be read.
                Err(BackupError::Io(error))
                    if error.kind == IoErrorKind::NotFound
                        && twin.is_some_and(|twin| self.may_lack(twin)) => {}
                awaited => awaited?,
            }
        }
        drop(hold);
        self.report.held_ns = inner.clock.monotonic_ns() - begun;
        // Pages in front of the heads that were on their way reach the device before they are copied.
        settle_pages(inner)?;
        Ok((root, manifest, ledger, pin))
    }

    fn name_volume(&mut self, head: &VolumeHead) -> Result<(), BackupError> {
        let path = head.path();
        let same = |base: &&Base| base.heads.iter().any(|h| h.has_all_of(head));
        let base = self.base.as_ref().filter(same);
        if base.is_some_and(|base| self.link(base.device.as_ref(), &path)) {
            self.report.files_from_base += 1;
            return Ok(());
        }
        if !head.is_filling && self.link(self.from.device, &path) {
            self.report.volumes_linked += 1;
            return Ok(());
        }
        let len = u64::from(head.end) * PAGE_SIZE as u64;
        self.await_copy(path, len, None)
    }

    /// Gives a file a name in the target, if that can be.
    fn link(&self, device: &dyn Device, path: &str) -> bool {
        let directory = self.target.directory.as_ref();
        directory.is_some_and(|dir| device.link(path, &dir.join(path)).is_ok())
    }

    fn await_copy(
        &mut self,
        path: String,
        len: u64,
        named: Option<NamedFile>,
    ) -> Result<(), BackupError> {
        let (file, _) = self.from.open(&path, false)?;
        self.waiting.push(Waiting {
            path,
            file,
            len,
            named,
        });
        Ok(())
    }

    /// Notes that one of these two is missing; `false` if both are.
    fn may_lack(&mut self, twin: NamedFile) -> bool {
        let is_first = !self.without.contains(&twin);
        self.without.push(twin);
        is_first
    }

    /// Whether it is the first that is missing of a file and its copy.
    fn is_spare(&mut self, file: &Waiting) -> bool {
        file.twin().is_some_and(|twin| self.may_lack(twin))
    }

    /// Copies what can be read of a tails file, if its mending file, which is in the copy by now, is known to give back the rest.
    fn copy_what_is_left(&self, file: &Waiting, error: IoError) -> Result<u64, IoError> {
        let is_there = |mending| !self.without.contains(&mending);
        if !file.mending().is_some_and(is_there) {
            return Err(error);
        }
        let from = (self.from, file.file);
        let (written, unread) = copy_readable(from, self.to, &file.path, file.len)?;
        match unread {
            Some((pages, error)) if !are_mendable(&pages) => Err(error),
            _ => Ok(written),
        }
    }

    fn copy_files(&mut self) -> Result<(), BackupError> {
        while let Some(next) = self.waiting.pop() {
            let mut copied = copy_file((self.from, next.file), self.to, &next.path, next.len);
            if let Err(error) = &copied
                && error.attempt == "read"
            {
                copied = self.copy_what_is_left(&next, error.clone());
            }
            self.from.close(next.file)?;
            match copied {
                // One of two that cannot be read: a restore makes it anew of the other.
                Err(error) if error.attempt == "read" && self.is_spare(&next) => {
                    let path = next.path;
                    self.to.run(alluvium_io::Op::Remove { path })?;
                    continue;
                }
                copied => self.report.bytes_copied += copied?,
            }
            self.report.volumes_copied += u64::from(next.named.is_none());
        }
        Ok(())
    }

    /// Copies the log from where redo begins.
    fn copy_log(&mut self, root: &Root, ledger: &Ledger) -> Result<(), BackupError> {
        // The catalogue's comes last: what any other stream speaks of was created in it before, and what a delete in another
        // stream let be because it had expired, a cut in it says. So each is listed when its turn comes: the segments that
        // it went on to while the others were copied are part of it.
        for (shard, from) in ledger.redo_from.iter().enumerate().rev() {
            let streams = list_streams(self.from.device)?;
            let of_life = |s: &&StreamInfo| s.incarnation == ledger.incarnation;
            let mut of_life = streams.iter().filter(of_life);
            let Some(stream) = of_life.find(|s| usize::from(s.shard) == shard) else {
                continue;
            };
            self.report.log_bytes += copy_stream(
                self.from.device,
                self.to,
                stream,
                salt(root.instance),
                *from,
            )?;
        }
        self.report.bytes_copied += self.report.log_bytes;
        Ok(())
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        for left in self.waiting.drain(..) {
            // That the backup failed matters more than a file left open.
            let _ = self.from.close(left.file);
        }
    }
}

/// Copies the whole frames of a stream from the segment on in which `redo_from` is. Returns their bytes.
pub(crate) fn copy_stream(
    from: &dyn Device,
    to: Side<'_>,
    stream: &StreamInfo,
    salt: u64,
    redo_from: u64,
) -> Result<u64, BackupError> {
    let mut open: Option<(String, FileId)> = None;
    let mut bytes = 0;
    let finish = |file| {
        to.run(alluvium_io::Op::Sync { file })?;
        to.close(file)
    };
    copy_frames::<BackupError>(from, stream, salt, redo_from, &mut |path, offset, frame| {
        let file = match &open {
            Some((of, file)) if of == path => *file,
            _ => {
                if let Some((_, file)) = open.take() {
                    finish(file)?;
                }
                let (file, _) = to.open(path, true)?;
                open = Some((path.to_owned(), file));
                file
            }
        };
        bytes += frame.len() as u64;
        Ok(to.write(file, offset, frame)?)
    })?;
    if let Some((_, file)) = open {
        finish(file)?;
    }
    Ok(bytes)
}

/// Waits until no checkpoint runs and lets none begin.
fn hold(inner: &Arc<StoreInner>) -> Result<Hold<'_>, StoreError> {
    loop {
        if let Some(error) = inner.failure() {
            return Err(error);
        }
        if inner.checkpointer.lock().hold() {
            return Ok(Hold(inner));
        }
        if !inner.drive() {
            inner.device.wait(std::time::Duration::from_millis(1));
        }
    }
}

/// Waits until every page appended so far has reached the device.
fn settle_pages(inner: &Arc<StoreInner>) -> Result<(), StoreError> {
    let mut marks = Vec::new();
    for shard in &inner.shards {
        let mut state = shard.state.lock();
        state.appender.flush();
        state.appender.drive();
        marks.push(state.appender.mark());
    }
    let merged = {
        let mut merger = inner.merger.lock();
        merger.appender.flush();
        merger.appender.drive();
        merger.appender.mark()
    };
    loop {
        let mut written = true;
        for (shard, mark) in inner.shards.iter().zip(&marks) {
            let mut state = shard.state.lock();
            state.appender.drive();
            if state.appender.is_full() {
                return Err(StoreError::Full);
            }
            written &= state.appender.is_written(*mark);
        }
        let mut merger = inner.merger.lock();
        merger.appender.drive();
        if merger.appender.is_full() {
            return Err(StoreError::Full);
        }
        written &= merger.appender.is_written(merged);
        drop(merger);
        if written {
            return Ok(());
        }
        if let Some(error) = inner.failure() {
            return Err(error);
        }
        if !inner.drive() {
            inner.device.wait(std::time::Duration::from_millis(1));
        }
    }
}
