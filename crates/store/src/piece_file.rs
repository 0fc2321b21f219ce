//! A file written in pieces from front to back, and the end of one that nobody wants any more.

use std::collections::VecDeque;
use std::sync::Arc;

use alluvium_block::ParityWriter;
use alluvium_io::{
    AlignedBuf, Completion, Device, FileId, IoError, Lane, Op, OpenMode, Ticket, WriteData,
};

use crate::ledger::NamedFile;

/// Bytes of one write.
const PIECE_BYTES: usize = 1 << 20;
/// Writes in flight; whoever fills the file pauses beyond.
const PIECES_MAX: usize = 4;

/// A file written in pieces from front to back.
#[derive(Debug)]
pub(crate) struct PieceFile {
    path: String,
    seq: u64,
    opening: Option<Ticket>,
    file: Option<FileId>,
    /// What is sent first, as far as `sent` is not past it.
    whole: Arc<Vec<u8>>,
    /// What is still to be sent behind that; its user appends.
    pub pending: Vec<u8>,
    sent: u64,
    len: u64,
    crc: u32,
    writes: VecDeque<Ticket>,
    closing: Option<Ticket>,
    /// Of what is sent, and what of it is ready.
    parity: Option<(ParityWriter, Vec<u8>)>,
}

impl PieceFile {
    pub(crate) fn create(device: &dyn Device, lane: Lane, path: String, seq: u64) -> Self {
        let mode = OpenMode {
            create: true,
            allocate: 0,
            direct: false,
        };
        let opening = Some(device.submit(
            lane,
            Op::Open {
                path: path.clone(),
                mode,
            },
        ));
        let (pending, writes) = (Vec::new(), VecDeque::new());
        Self {
            path,
            seq,
            opening,
            file: None,
            whole: Arc::default(),
            pending,
            sent: 0,
            len: 0,
            crc: 0,
            writes,
            closing: None,
            parity: None,
        }
    }

    /// A file of these bytes.
    pub(crate) fn of(
        device: &dyn Device,
        lane: Lane,
        path: String,
        (seq, whole): (u64, &Arc<Vec<u8>>),
    ) -> Self {
        Self {
            whole: Arc::clone(whole),
            ..Self::create(device, lane, path, seq)
        }
    }

    /// Makes the parity of what is sent, from the begin on, for [`Self::take_parity`].
    pub(crate) fn with_parity(self) -> Self {
        Self {
            parity: Some((ParityWriter::new(self.seq), Vec::new())),
            ..self
        }
    }

    /// Moves what is ready of the parity to `out`.
    pub(crate) fn take_parity(&mut self, out: &mut Vec<u8>) {
        if let Some((_, ready)) = &mut self.parity {
            out.append(ready);
        }
    }

    /// Where what is appended next will stand.
    pub(crate) fn end(&self) -> u64 {
        self.len + self.unsent() as u64
    }

    fn unsent(&self) -> usize {
        let whole = self.whole.len().saturating_sub(self.sent as usize);
        whole + self.pending.len()
    }

    /// The next piece to send, unless less than a whole one is there and `any` may not be sent.
    fn next_piece(&mut self, any: bool) -> Option<AlignedBuf> {
        let whole = self.whole.get(self.sent as usize..).unwrap_or_default();
        let next = if whole.is_empty() {
            &self.pending
        } else {
            whole
        };
        let take = next.len().min(PIECE_BYTES);
        if take == 0 || (take < PIECE_BYTES && whole.is_empty() && !any) {
            return None;
        }
        let mut buffer = AlignedBuf::zeroed(take);
        buffer.bytes_mut()[..take].copy_from_slice(&next[..take]);
        self.crc = alluvium_block::crc32c_append(self.crc, &next[..take]);
        self.len += take as u64;
        if whole.is_empty() {
            self.pending.drain(..take);
        }
        let is_last = any && self.unsent() == 0;
        if let Some((parity, ready)) = &mut self.parity {
            parity.push(buffer.bytes(), ready);
            if is_last {
                parity.finish(ready);
            }
        }
        Some(buffer)
    }

    pub(crate) fn named(&self) -> NamedFile {
        NamedFile {
            seq: self.seq,
            len: self.len,
            crc: self.crc,
        }
    }

    /// Sends what has gathered; everything if `all`. Returns whether there is room for more.
    pub(crate) fn drive(
        &mut self,
        device: &dyn Device,
        lane: Lane,
        all: bool,
    ) -> Result<bool, IoError> {
        if let Some(ticket) = &self.opening {
            match ticket.result() {
                None => return Ok(self.unsent() < PIECE_BYTES * PIECES_MAX),
                Some(Ok(Completion::Opened { file, .. })) => self.file = Some(file),
                Some(Ok(Completion::Done)) => {}
                Some(Err(error)) => return Err(error),
            }
            self.opening = None;
        }
        while let Some(result) = self.writes.front().and_then(Ticket::result) {
            result?;
            self.writes.pop_front();
        }
        let Some(file) = self.file else {
            return Ok(false);
        };
        while self.writes.len() < PIECES_MAX
            && let Some(buffer) = self.next_piece(all)
        {
            let offset = self.sent;
            self.sent += buffer.len() as u64;
            let data = WriteData::Buffer(Arc::new(buffer));
            self.writes.push_back(device.submit(
                lane,
                Op::Write {
                    file,
                    offset,
                    data,
                    sync: false,
                },
            ));
        }
        Ok(self.writes.len() < PIECES_MAX)
    }

    pub(crate) fn is_written(&self) -> bool {
        self.opening.is_none() && self.unsent() == 0 && self.writes.is_empty()
    }

    /// Makes what is written durable, if the file is open.
    pub(crate) fn sync(&self, device: &dyn Device, lane: Lane) -> Option<Ticket> {
        self.file.map(|file| device.submit(lane, Op::Sync { file }))
    }

    /// Begins to close the file, if it is open.
    pub(crate) fn close(&mut self, device: &dyn Device, lane: Lane) {
        if let Some(file) = self.file.take() {
            self.closing = Some(device.submit(lane, Op::Close { file }));
        }
    }

    /// The open file, for whoever goes on with it; it is not closed then.
    pub(crate) fn take_file(&mut self) -> Option<FileId> {
        self.file.take()
    }

    /// Whether no closing is under way.
    pub(crate) fn is_closed(&self) -> bool {
        self.file.is_none() && self.closing.as_ref().is_none_or(Ticket::is_ended)
    }

    /// Gives the file up, and its name if `remove`.
    pub(crate) fn abandon(self, remove: bool) -> Abandoned {
        Abandoned {
            opening: self.opening,
            file: self.file,
            path: remove.then_some(self.path),
            awaited: self.writes.into_iter().chain(self.closing).collect(),
        }
    }
}

/// A file that was given up while operations on it were in flight. Until its end is over its name must not be
/// used again: a device that reorders would remove the file that came after.
#[derive(Debug)]
pub(crate) struct Abandoned {
    opening: Option<Ticket>,
    file: Option<FileId>,
    /// To be removed.
    path: Option<String>,
    awaited: Vec<Ticket>,
}

impl Abandoned {
    /// Waits for what is in flight, then closes and removes, and waits for that. Returns whether all is over;
    /// failures do not matter any more.
    pub(crate) fn drive(&mut self, device: &dyn Device, lane: Lane) -> bool {
        if let Some(ticket) = &self.opening {
            match ticket.result() {
                None => return false,
                Some(Ok(Completion::Opened { file, .. })) => self.file = Some(file),
                Some(_) => {}
            }
            self.opening = None;
        }
        self.awaited.retain(|ticket| !ticket.is_ended());
        if !self.awaited.is_empty() {
            return false;
        }
        let close = self.file.take().map(|file| Op::Close { file });
        let remove = self.path.take().map(|path| Op::Remove { path });
        let ops = close.into_iter().chain(remove);
        self.awaited.extend(ops.map(|op| device.submit(lane, op)));
        self.awaited.is_empty()
    }
}
