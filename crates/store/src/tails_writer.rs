//! A tails file while it is written, and its mending file beside it, which is made of the same bytes on their way: nothing is
//! read again.

use alluvium_io::{Device, IoError, Lane, Ticket};

use crate::ledger::NamedFile;
use crate::piece_file::{Abandoned, PieceFile};

/// The two files, of one commit.
#[derive(Debug)]
pub(crate) struct TailsWriter {
    pub tails: PieceFile,
    mending: PieceFile,
}

impl TailsWriter {
    pub(crate) fn create(device: &dyn Device, lane: Lane, seq: u64) -> Self {
        let file = NamedFile {
            seq,
            len: 0,
            crc: 0,
        };
        let create = |path| PieceFile::create(device, lane, path, seq);
        Self {
            tails: create(file.tails_path()).with_parity(),
            mending: create(file.mending_path()),
        }
    }

    pub(crate) fn named(&self) -> NamedFile {
        self.tails.named()
    }

    /// Sends what has gathered; everything if `all`, and then nothing may be appended. Returns whether there is room for more.
    pub(crate) fn drive(
        &mut self,
        device: &dyn Device,
        lane: Lane,
        all: bool,
    ) -> Result<bool, IoError> {
        let room = self.tails.drive(device, lane, all)?;
        self.tails.take_parity(&mut self.mending.pending);
        let beside = self.mending.drive(device, lane, all)?;
        Ok(room && beside)
    }

    pub(crate) fn is_written(&self) -> bool {
        self.tails.is_written() && self.mending.is_written()
    }

    /// Makes what is written of both durable.
    pub(crate) fn sync(&self, device: &dyn Device, lane: Lane) -> impl Iterator<Item = Ticket> {
        let files = [&self.tails, &self.mending];
        files
            .into_iter()
            .filter_map(move |file| file.sync(device, lane))
    }

    /// Begins to close the mending file; the other one stays open for its records.
    pub(crate) fn close_mending(&mut self, device: &dyn Device, lane: Lane) {
        self.mending.close(device, lane);
    }

    pub(crate) fn is_mending_closed(&self) -> bool {
        self.mending.is_closed()
    }

    /// Gives both up, and their names if `remove`.
    pub(crate) fn abandon(self, remove: bool) -> [Abandoned; 2] {
        [self.tails, self.mending].map(|file| file.abandon(remove))
    }
}
