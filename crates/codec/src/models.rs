//! What blocks of one page share: the models of their columns.

use crate::block::ValueParts;
use crate::error::CodecError;
use crate::integers::LENT;
use crate::varint::get_u64;

/// The latest blocks of a page that brought models of their own: a later block that says so uses these.
///
/// Models never cross a page: its first block has them all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Models<'a> {
    /// Time column, from its first byte on.
    pub(crate) times: Option<&'a [u8]>,
    /// Main column of the values, from its first byte on.
    pub(crate) main: Option<&'a [u8]>,
    /// What follows the main column: the distances of decimals or the words of a dictionary.
    pub(crate) second: Option<&'a [u8]>,
    /// The form of the block that `second` is of.
    pub(crate) second_form: u8,
}

impl<'a> Models<'a> {
    /// The models in force behind a block. Cost: a few nanoseconds.
    ///
    /// # Errors
    /// If the bytes end within the heads of its columns.
    pub fn after(self, block: &'a [u8]) -> Result<Self, CodecError> {
        let mut models = self;
        let (times, values) = columns(block)?;
        if brings(times)? {
            models.times = Some(times);
        }
        let parts = ValueParts::of(values)?;
        if let Some(main) = parts.main {
            if brings(main)? {
                models.main = Some(main);
            }
            if let Some(second) = parts.second
                && brings(second)?
            {
                models.second = Some(second);
                models.second_form = parts.form;
            }
        }
        Ok(models)
    }
}

/// The time column and the values of a block.
pub(crate) fn columns(block: &[u8]) -> Result<(&[u8], &[u8]), CodecError> {
    let mut rest = block;
    let times = usize::try_from(get_u64(&mut rest)?).map_err(|_| CodecError::Truncated)?;
    rest.split_at_checked(times).ok_or(CodecError::Truncated)
}

fn brings(column: &[u8]) -> Result<bool, CodecError> {
    Ok(column.first().ok_or(CodecError::Truncated)? & LENT == 0)
}
