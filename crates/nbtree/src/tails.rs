//! Records of a tails file: what of a series is only in memory, as a checkpoint keeps it.
//!
//! A record is its length, then database, partition, row, field, position, the runs' states by ordinal, and
//! the late points as blocks, a column per kind. Whoever names the file keeps its length and CRC.

use alluvium_codec::{CodecError, Encoder, Hint, MAX_BLOCK_POINTS, Models, decode_block, varint};
use alluvium_types::{Column, DatabaseId, FieldId, Lsn, Partition, Row, ValueKind};

use crate::error::TreeError;
use crate::owned::Tree;
use crate::snapshot::TreeSnapshot;

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
    let mut body = Vec::with_capacity(256);
    for number in [
        u64::from(key.database.0),
        u64::from(key.partition.0),
        u64::from(key.row.0),
        u64::from(key.field.0),
        key.lsn.0,
        runs.len() as u64,
    ] {
        varint::put_u64(&mut body, number);
    }
    for run in runs {
        run.encode_state(encoder, &mut body);
    }
    varint::put_u64(&mut body, late.len() as u64);
    for column in late {
        body.push(column.kind().number());
        varint::put_u64(&mut body, column.len().div_ceil(MAX_BLOCK_POINTS) as u64);
        for begin in (0..column.len()).step_by(MAX_BLOCK_POINTS) {
            let end = column.len().min(begin + MAX_BLOCK_POINTS);
            varint::put_u64(&mut body, (end - begin) as u64);
            varint::put_i64(&mut body, column.times[begin]);
            let mut block = Vec::with_capacity(1024);
            let (mut hint, models) = (Hint::default(), Models::default());
            encoder.encode(column, begin..end, &mut hint, models, &mut block);
            varint::put_bytes(&mut body, &block);
        }
    }
    varint::put_bytes(out, &body);
}

/// Reads the records of a file one after the other.
///
/// # Errors
/// If a record does not parse; `visit` may fail, too.
pub fn read_tail_records<E: From<TreeError>>(
    mut bytes: &[u8],
    mut visit: impl FnMut(TailRecord) -> Result<(), E>,
) -> Result<(), E> {
    while !bytes.is_empty() {
        let body = varint::get_bytes(&mut bytes).map_err(TreeError::from)?;
        visit(record(body)?)?;
    }
    Ok(())
}

fn record(mut rest: &[u8]) -> Result<TailRecord, TreeError> {
    let r = &mut rest;
    let key = TailKey {
        database: DatabaseId(varint::get_u64(r)? as u32),
        partition: Partition(varint::get_u64(r)? as u8),
        row: Row(varint::get_u64(r)? as u32),
        field: FieldId(varint::get_u64(r)? as u32),
        lsn: Lsn(varint::get_u64(r)?),
    };
    let mut runs = Vec::new();
    for _ in 0..varint::get_u64(r)? {
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
    Ok(TailRecord { key, runs, late })
}
