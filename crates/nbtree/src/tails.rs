//! Records of a tails file: what of a series is only in memory, as a checkpoint keeps it.
//!
//! A record is its length, a CRC-32C of what follows, then database, partition, row, field, position, leaves, the runs'
//! states by ordinal, and the late points as blocks, a column per kind. Whoever names the file keeps its length and CRC; a
//! record has its own because it is also read alone.

use alluvium_codec::{
    CodecError, Encoder, Hint, MAX_BLOCK_POINTS, Models, crc32c_append, decode_block, varint,
};
use alluvium_types::{Column, DatabaseId, FieldId, Lsn, Partition, Row, ValueKind};

use crate::error::TreeError;
use crate::owned::Tree;
use crate::snapshot::TreeSnapshot;

const CRC_BYTES: usize = 4;

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailKey {
    /// Owner.
    pub database: DatabaseId,
    /// Partition of the row.
    pub partition: Partition,
    /// Tag set.
    pub row: Row,
    /// Field.
    pub field: FieldId,
    /// Position of the newest batch in the record.
    pub lsn: Lsn,
}

/// What is known of a record without making a series of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailHead {
    /// What it is of.
    pub key: TailKey,
    /// Leaves of all its runs.
    pub leaves: u64,
    /// How many runs it has.
    pub runs: u64,
}

/// One series' record.
#[derive(Debug)]
pub struct TailRecord {
    /// What it is of.
    pub key: TailKey,
    /// Runs by ordinal.
    pub runs: Vec<Tree>,
    /// Late points, a column per kind.
    pub late: Vec<Column>,
}

/// Appends one record: of runs as their writer sees them.
///
/// # Panics
/// If a run was not seen by its writer.
pub fn put_tail_record(
    out: &mut Vec<u8>,
    encoder: &mut Encoder,
    key: &TailKey,
    runs: &[TreeSnapshot],
    late: &[Column],
) {
    let begin = out.len();
    out.extend_from_slice(&[0; CRC_BYTES]);
    for number in [
        u64::from(key.database.0),
        u64::from(key.partition.0),
        u64::from(key.row.0),
        u64::from(key.field.0),
        key.lsn.0,
        runs.iter().map(TreeSnapshot::leaves).sum(),
        runs.len() as u64,
    ] {
        varint::put_u64(out, number);
    }
    for run in runs {
        run.encode_state(encoder, out);
    }
    varint::put_u64(out, late.len() as u64);
    for column in late {
        out.push(column.kind().number());
        varint::put_u64(out, column.len().div_ceil(MAX_BLOCK_POINTS) as u64);
        for begin in (0..column.len()).step_by(MAX_BLOCK_POINTS) {
            let end = column.len().min(begin + MAX_BLOCK_POINTS);
            varint::put_u64(out, (end - begin) as u64);
            varint::put_i64(out, column.times[begin]);
            let mut block = Vec::with_capacity(1024);
            let (mut hint, models) = (Hint::default(), Models::default());
            encoder.encode(column, begin..end, &mut hint, models, &mut block);
            varint::put_bytes(out, &block);
        }
    }
    let body = &mut out[begin..];
    let crc = crc32c_append(0, &body[CRC_BYTES..]);
    body[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    // Its length goes before it.
    let len = body.len() as u64;
    let end = out.len();
    varint::put_u64(out, len);
    let width = out.len() - end;
    out[begin..].rotate_right(width);
}

/// Bytes of the record at the front of `bytes`, its length included; `None` if not even that is whole.
pub fn tail_record_len(bytes: &[u8]) -> Option<u64> {
    let mut rest = bytes;
    let body = varint::get_u64(&mut rest).ok()?;
    Some(body.saturating_add((bytes.len() - rest.len()) as u64))
}

/// What the one record that `bytes` are begins with. Cost: its checksum.
///
/// # Errors
/// If it is damaged.
pub fn tail_record_head(bytes: &[u8]) -> Result<TailHead, TreeError> {
    get_head(&mut checked(bytes)?)
}

/// The one record that `bytes` are.
///
/// # Errors
/// If it is damaged.
pub fn read_tail_record(bytes: &[u8]) -> Result<TailRecord, TreeError> {
    record(checked(bytes)?)
}

/// What stands behind the checksum of a record, which is right.
fn checked(mut bytes: &[u8]) -> Result<&[u8], TreeError> {
    let body = varint::get_bytes(&mut bytes)?;
    let (crc, rest) = body.split_first_chunk().ok_or(CodecError::Truncated)?;
    if u32::from_le_bytes(*crc) == crc32c_append(0, rest) {
        Ok(rest)
    } else {
        Err(TreeError::State("its checksum differs"))
    }
}

/// The records of a file one after the other. One that is damaged is an error, and those behind it follow; where
/// not even a length can be read is the last error. Zeros behind the last record are padding.
pub fn tail_records(mut bytes: &[u8]) -> impl Iterator<Item = Result<TailRecord, TreeError>> {
    std::iter::from_fn(move || {
        if bytes.first().is_none_or(|b| *b == 0) {
            return None;
        }
        let len = tail_record_len(bytes).and_then(|len| usize::try_from(len).ok());
        let Some((record, rest)) = len.and_then(|len| bytes.split_at_checked(len)) else {
            bytes = &[];
            return Some(Err(CodecError::Truncated.into()));
        };
        bytes = rest;
        Some(read_tail_record(record))
    })
}

fn get_head(r: &mut &[u8]) -> Result<TailHead, TreeError> {
    let key = TailKey {
        database: DatabaseId(varint::get_u64(r)? as u32),
        partition: Partition(varint::get_u64(r)? as u8),
        row: Row(varint::get_u64(r)? as u32),
        field: FieldId(varint::get_u64(r)? as u32),
        lsn: Lsn(varint::get_u64(r)?),
    };
    Ok(TailHead {
        key,
        leaves: varint::get_u64(r)?,
        runs: varint::get_u64(r)?,
    })
}

fn record(mut rest: &[u8]) -> Result<TailRecord, TreeError> {
    let r = &mut rest;
    let head = get_head(r)?;
    let mut runs = Vec::new();
    for _ in 0..head.runs {
        let (tree, used) = Tree::decode_state(r)?;
        *r = r.get(used..).unwrap_or_default();
        runs.push(tree);
    }
    let mut late = Vec::new();
    for _ in 0..varint::get_u64(r)? {
        let (kind, behind) = r.split_first().ok_or(CodecError::Truncated)?;
        *r = behind;
        let kind = ValueKind::from_number(*kind).ok_or(CodecError::Truncated)?;
        let mut column = Column::new(kind);
        for _ in 0..varint::get_u64(r)? {
            let points = usize::try_from(varint::get_u64(r)?).unwrap_or(usize::MAX);
            let first_time = varint::get_i64(r)?;
            let block = varint::get_bytes(r)?;
            decode_block(block, points, first_time, Models::default(), &mut column)?;
        }
        late.push(column);
    }
    let key = head.key;
    Ok(TailRecord { key, runs, late })
}
