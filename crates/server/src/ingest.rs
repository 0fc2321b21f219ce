//! One body of line protocol into one database. CPU work; nothing waits but where [`Writer::may_wait`](alluvium_store::Writer::may_wait)
//! says so between the reading of the lines and their commit.

use std::borrow::Cow;

use alluvium_protocol::PartialWrite;
use alluvium_protocol::line::{
    Field, FieldValue, Limits, Line, LineError, LineErrorKind, LineParser, Precision, borrow_key,
    decode_name, decode_string,
};
use alluvium_store::{
    Commit, Durability, LeftOut, LeftOutLines, RefusedLine, ValueRef, WriteError,
};

use crate::writers::PooledWriter;

/// How to read and apply a body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub precision: Precision,
    /// For lines without a timestamp.
    pub now_ns: i64,
    pub line_bytes_max: usize,
    /// Another level than the database's.
    pub durability: Option<Durability>,
    /// Keep good lines beside bad ones; otherwise take all of them or none.
    pub accept_partial: bool,
}

/// What became of a body.
#[derive(Debug)]
pub(crate) struct Ingested {
    pub refused: PartialWrite,
    /// Those of them that the database has no room for.
    pub left_out: u64,
    pub lines: u64,
    pub values: u64,
    /// `None` if there was nothing to write.
    pub commit: Option<Commit>,
}

/// Why a line was not taken.
enum Refusal {
    /// It could not be read.
    Unread(LineErrorKind),
    /// It was read and refused by the store.
    Dropped(RefusedLine),
}

impl From<RefusedLine> for Refusal {
    fn from(refused: RefusedLine) -> Self {
        Self::Dropped(refused)
    }
}

/// What was read of a body: the good lines are with the writer.
#[derive(Debug)]
pub(crate) struct ReadLines {
    refused: PartialWrite,
    values: u64,
}

/// Parses the body.
///
/// # Errors
/// If there is no memory for its lines.
pub(crate) fn read_lines(
    to: &mut PooledWriter,
    body: &[u8],
    settings: Settings,
) -> Result<ReadLines, WriteError> {
    let limits = Limits {
        line_bytes_max: settings.line_bytes_max,
        ..Limits::default()
    };
    let mut parser = LineParser::new(body, settings.precision, settings.now_ns, limits);
    let mut refused = PartialWrite::new();
    let mut values = 0;
    to.writer.clear();
    while let Some(parsed) = parser.next_line() {
        let line = match parsed {
            Ok(line) => line,
            Err(error) => {
                refused.push(error);
                continue;
            }
        };
        to.writer.number_lines(line.number as u32);
        match add(to, &line) {
            Ok(()) => values += line.fields.len() as u64,
            Err(refusal) => {
                to.writer.cancel_line();
                match refusal {
                    Refusal::Unread(kind) => {
                        refused.push(LineError::new(line.number, line.raw, kind));
                    }
                    Refusal::Dropped(why) => {
                        refused.push_dropped(line.number, line.raw, &why.to_string());
                    }
                }
            }
        }
        to.writer.admit_growth()?;
    }
    if !settings.accept_partial && !refused.is_empty() {
        to.writer.clear();
    }
    Ok(ReadLines { refused, values })
}

/// Commits the good lines of a body.
///
/// # Errors
/// If the store refuses the batch as a whole; see [`Writer::commit`](alluvium_store::Writer::commit) for what of it may have been applied then.
pub(crate) fn commit_lines(
    to: &mut PooledWriter,
    body: &[u8],
    settings: Settings,
    read: ReadLines,
) -> Result<Ingested, WriteError> {
    let ReadLines {
        mut refused,
        mut values,
    } = read;
    let mut lines = to.writer.lines() as u64;
    let committed = match (lines, settings.accept_partial) {
        (0, _) => None,
        (_, true) => Some(to.writer.commit(settings.durability)),
        (_, false) => Some(to.writer.commit_whole(settings.durability)),
    };
    let mut without_room = 0;
    let commit = match committed {
        Some(Err(WriteError::Lines(left_out))) => {
            without_room = left_out.lines();
            tell(&left_out, body, &mut refused);
            None
        }
        committed => committed.transpose()?,
    };
    if let Some(left_out) = commit.as_ref().and_then(Commit::left_out) {
        without_room = left_out.lines();
        tell(left_out, body, &mut refused);
        lines -= without_room;
    }
    if !settings.accept_partial && commit.is_none() {
        refused.set_whole();
        (lines, values) = (0, 0);
    }
    Ok(Ingested {
        refused,
        left_out: without_room,
        lines,
        values,
        commit,
    })
}

/// Tells of lines that the store left out, by reason.
fn tell(left_out: &LeftOutLines, body: &[u8], refused: &mut PartialWrite) {
    let mut untold = left_out.lines();
    for LeftOut { why, number, lines } in left_out.reasons() {
        let number = *number as usize;
        let raw = body
            .split(|byte| *byte == b'\n')
            .nth(number.saturating_sub(1));
        let raw = raw.unwrap_or_default();
        refused.push_left_out(*lines as usize, number, raw, &why.to_string());
        untold -= lines;
    }
    refused.count_left_out(untold as usize);
}

fn add(to: &mut PooledWriter, line: &Line<'_, '_>) -> Result<(), Refusal> {
    let row = if let Some(row) = to.writer.cached(line.key) {
        row
    } else {
        let key = borrow_key(line.key, Limits::default().tags_max);
        let key = key.map_err(Refusal::Unread)?;
        to.writer.resolve_borrowed(line.key, &key)
    };
    to.writer.begin_line(row, line.time_ns)?;
    for (at, field) in line.fields.iter().enumerate() {
        let name = name(&mut to.names, at, field).map_err(Refusal::Unread)?;
        let name = &*name;
        match field.value {
            FieldValue::F64(v) => to.writer.field(name, ValueRef::F64(v)),
            FieldValue::I64(v) => to.writer.field(name, ValueRef::I64(v)),
            FieldValue::U64(v) => to.writer.field(name, ValueRef::U64(v)),
            FieldValue::Bool(v) => to.writer.field(name, ValueRef::Bool(v)),
            FieldValue::Str { raw, escaped } => to
                .writer
                .field(name, ValueRef::Str(&decode_string(raw, escaped))),
        }?;
    }
    to.writer.end_line()?;
    Ok(())
}

/// Field names remembered by place; lines of one measurement repeat theirs.
const NAMES_MAX: usize = 256;

/// Bytes of a name that is remembered: a pool keeps its names.
const NAME_BYTES_MAX: usize = 256;

/// The decoded name of a field. A name that stood at the same place of the line before is compared, not
/// checked again.
fn name<'n>(
    names: &'n mut Vec<(Box<[u8]>, Box<str>)>,
    at: usize,
    field: &'n Field<'_>,
) -> Result<Cow<'n, str>, LineErrorKind> {
    if field.name.is_empty() || field.name.len() > NAME_BYTES_MAX {
        return decode_name(field.name);
    }
    let at = at.min(NAMES_MAX - 1);
    if names.get(at).is_none_or(|(raw, _)| **raw != *field.name) {
        let decoded = decode_name(field.name)?.into_owned().into_boxed_str();
        // Fields before it may have had names too long to be here.
        if names.len() <= at {
            names.resize_with(at + 1, Default::default);
        }
        names[at] = (field.name.into(), decoded);
    }
    Ok(Cow::Borrowed(&names[at].1))
}
