//! A file and its copy: what is in no log any more and stands nowhere else is written twice.
//!
//! Either of them may be lost or rot anywhere; nothing is unless both rot in one place. Whoever opens a directory takes what holds,
//! and the scrubber writes anew what does not (see [`crate::copies`]).

use std::sync::Arc;

use alluvium_io::{Device, FileId, IoError, Lane, Ticket};

use crate::ledger::NamedFile;
use crate::piece_file::{Abandoned, PieceFile};

/// Two files of the same bytes that are being written.
#[derive(Debug)]
pub(crate) struct TwinFile([PieceFile; 2]);

impl TwinFile {
    /// Begins to write `bytes` into both.
    pub(crate) fn create(
        device: &dyn Device,
        lane: Lane,
        paths: [String; 2],
        (seq, bytes): (u64, &Arc<Vec<u8>>),
    ) -> Self {
        Self(paths.map(|path| PieceFile::of(device, lane, path, (seq, bytes))))
    }

    pub(crate) fn named(&self) -> NamedFile {
        self.0[0].named()
    }

    /// Sends what is left to be sent, as far as there is room.
    pub(crate) fn drive(&mut self, device: &dyn Device, lane: Lane) -> Result<(), IoError> {
        let mut files = self.0.iter_mut();
        files.try_for_each(|file| file.drive(device, lane, true).map(drop))
    }

    pub(crate) fn is_written(&self) -> bool {
        self.0.iter().all(PieceFile::is_written)
    }

    /// Makes what is written durable.
    pub(crate) fn sync(&self, device: &dyn Device, lane: Lane) -> impl Iterator<Item = Ticket> {
        self.0
            .iter()
            .filter_map(move |file| file.sync(device, lane))
    }

    /// Begins to close both.
    pub(crate) fn close(&mut self, device: &dyn Device, lane: Lane) {
        self.0.iter_mut().for_each(|file| file.close(device, lane));
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.iter().all(PieceFile::is_closed)
    }

    /// The first of them, for whoever reads it; the copy is closed.
    pub(crate) fn take_first(mut self, device: &dyn Device, lane: Lane) -> Option<FileId> {
        let [first, copy] = &mut self.0;
        copy.close(device, lane);
        first.take_file()
    }

    /// Gives both up, and their names if `remove`.
    pub(crate) fn abandon(self, remove: bool) -> impl Iterator<Item = Abandoned> {
        self.0.into_iter().map(move |file| file.abandon(remove))
    }
}
