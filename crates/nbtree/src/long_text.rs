//! Long strings: kept in overflow pages, with a reference in the place of the value.
//!
//! A stored text that begins with U+FFFF is either a reference (`>` follows, then 56 hexadecimal digits) or a
//! short text that itself begins with U+FFFF (`=` follows, then the text). Every other stored text is itself,
//! so the escape costs nothing where it is not needed.

use std::borrow::Cow;

use alluvium_block::{
    Appender, BlockStore, Expect, LogicAddr, Page, PageDraft, PageKind, PageMeta, PageRef,
    ReadError, Role,
};
use alluvium_codec::crc32c;
use alluvium_types::{Column, MAX_STRING_BYTES, TimeRange, Values};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::{BadPageCause, BodyError};
use crate::layout::{PagePointer, TextReference};
use crate::stats::ReadStats;

/// Longest text that stays in its leaf, in bytes.
pub(crate) const INLINE_MAX: usize = 1024;

const ESCAPE: char = '\u{ffff}';
const REFERENCE: &str = "\u{ffff}>";
const QUOTED: &str = "\u{ffff}=";

impl PagePointer {
    fn new(page: PageRef) -> Self {
        Self {
            volume: page.addr.volume.into(),
            generation: page.generation.into(),
            page: page.addr.page.into(),
            crc: page.crc.into(),
        }
    }

    fn page_ref(&self) -> PageRef {
        PageRef {
            addr: LogicAddr {
                volume: self.volume.get(),
                page: self.page.get(),
            },
            generation: self.generation.get(),
            crc: self.crc.get(),
        }
    }
}

/// What stands in the leaf for a text that may stay in it.
pub(crate) fn quote(text: &str) -> Cow<'_, str> {
    if text.starts_with(ESCAPE) {
        Cow::Owned(format!("{QUOTED}{text}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// A stored text, told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored<'a> {
    /// The text itself.
    Text(&'a str),
    /// Elsewhere.
    Long(LongText),
}

/// Where a long text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LongText {
    /// Its head page.
    pub(crate) head: PageRef,
    /// Its bytes.
    pub(crate) len: usize,
    /// Oldest volume that holds a part of it.
    pub(crate) oldest_volume: u32,
    crc: u32,
}

/// Whether a stored text needs [`unquote`].
pub(crate) fn is_quoted(stored: &str) -> bool {
    stored.starts_with(ESCAPE)
}

/// Tells a stored text apart.
///
/// # Errors
/// If it is neither.
pub(crate) fn unquote(stored: &str) -> Result<Stored<'_>, BodyError> {
    if !stored.starts_with(ESCAPE) {
        return Ok(Stored::Text(stored));
    }
    if let Some(text) = stored.strip_prefix(QUOTED) {
        return Ok(Stored::Text(text));
    }
    let reference = stored.strip_prefix(REFERENCE).and_then(from_hex);
    let reference = reference.ok_or(BodyError("a reference to a long string is malformed"))?;
    let len = reference.len.get() as usize;
    if len > MAX_STRING_BYTES {
        return Err(BodyError("a long string is longer than any may be"));
    }
    Ok(Stored::Long(LongText {
        head: reference.head.page_ref(),
        len,
        oldest_volume: reference.oldest_volume.get(),
        crc: reference.crc.get(),
    }))
}

fn from_hex(digits: &str) -> Option<TextReference> {
    let mut bytes = [0; size_of::<TextReference>()];
    if digits.len() != 2 * bytes.len() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    TextReference::read_from_bytes(&bytes).ok()
}

fn to_hex(reference: &TextReference) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::from(REFERENCE);
    for byte in reference.as_bytes() {
        out.push(DIGITS[usize::from(byte >> 4)].into());
        out.push(DIGITS[usize::from(byte & 15)].into());
    }
    out
}

/// Writes a text into overflow pages. Returns what stands for it in the leaf.
///
/// The head page names the other pages, holds what room it has left of the text, and the others follow: two
/// round trips to the device read any text. `meta` is that of the head but for kind, items and flags; `time` is the
/// point's.
pub(crate) fn write(appender: &mut Appender, meta: PageMeta, time: i64, text: &str) -> String {
    let times = TimeRange::inclusive(time, time);
    let body = PageDraft::BODY_BYTES;
    let bytes = text.as_bytes();
    let mut parts = 0;
    while bytes.len() > head_room(parts) + parts * body {
        parts += 1;
    }
    let meta = PageMeta {
        kind: PageKind::Overflow,
        level: 0,
        flags: 0,
        items: 0,
        ..meta
    };
    let (in_head, mut rest) = bytes.split_at(head_room(parts).min(bytes.len()));
    let mut draft = PageDraft::new();
    let mut oldest = u32::MAX;
    let mut at = 0;
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(body.min(rest.len()));
        let mut page = PageDraft::new();
        page.body_mut()[..part.len()].copy_from_slice(part);
        page.set_used(part.len());
        let page = appender.append(Role::Leaves, meta, times, page);
        oldest = oldest.min(page.addr.volume);
        draft.body_mut()[at..at + 16].copy_from_slice(PagePointer::new(page).as_bytes());
        at += 16;
        rest = behind;
    }
    draft.body_mut()[at..at + in_head.len()].copy_from_slice(in_head);
    draft.set_used(at + in_head.len());
    let meta = PageMeta {
        items: (at / 16) as u16,
        flags: HEAD,
        ..meta
    };
    let head = appender.append(Role::Leaves, meta, times, draft);
    let reference = TextReference {
        head: PagePointer::new(head),
        len: (bytes.len() as u32).into(),
        crc: crc32c(bytes).into(),
        oldest_volume: oldest.min(head.addr.volume).into(),
    };
    to_hex(&reference)
}

/// Flag of the page that names the others.
const HEAD: u8 = 1;

fn head_room(parts: usize) -> usize {
    PageDraft::BODY_BYTES - parts * size_of::<PagePointer>()
}

/// The long strings of a column, each with its time.
pub(crate) fn long_ones(column: &Column) -> impl Iterator<Item = (i64, LongText)> {
    let texts = match &column.values {
        Values::Strings(texts) => Some(texts),
        Values::Numeric(_) => None,
    };
    let each = move |(i, time): (usize, &i64)| match unquote(texts?.get(i)?) {
        Ok(Stored::Long(long)) => Some((*time, long)),
        _ => None,
    };
    column.times.iter().enumerate().filter_map(each)
}

/// The oldest volume that holds a part of a long text of points `begin..end`; the largest number if none does.
pub(crate) fn oldest_volume(column: &Column, begin: usize, end: usize) -> u32 {
    let Values::Strings(texts) = &column.values else {
        return u32::MAX;
    };
    let long = |i| match unquote(texts.get(i)?) {
        Ok(Stored::Long(long)) => Some(long.oldest_volume),
        _ => None,
    };
    (begin..end).filter_map(long).min().unwrap_or(u32::MAX)
}

/// Why a long text could not be read.
#[derive(Debug)]
pub(crate) enum LongTextError {
    /// Its volume is gone.
    Expired,
    /// It was written anew elsewhere since whoever asks learned where it was.
    GivenBack(ReadError),
    /// One of its pages is damaged.
    Bad(LogicAddr, BadPageCause),
    /// The device failed.
    Io(alluvium_io::IoError),
}

impl LongTextError {
    fn new(addr: LogicAddr, error: ReadError) -> Self {
        match error {
            ReadError::Expired { .. } => Self::Expired,
            ReadError::Io(error) => Self::Io(error),
            error @ ReadError::GivenBack { .. } => Self::GivenBack(error),
            other => Self::Bad(addr, BadPageCause::Page(other)),
        }
    }
}

/// Reads a long text back.
pub(crate) fn read(
    pages: &BlockStore,
    series: u64,
    long: LongText,
    stats: &mut ReadStats,
) -> Result<String, LongTextError> {
    read_by(
        &|refs, expect| pages.read_many(refs, expect),
        series,
        long,
        stats,
    )
}

/// How pages are fetched, in order.
type Fetch<'a> = dyn Fn(&[PageRef], Expect) -> Vec<Result<Page, ReadError>> + 'a;

/// As [`read`], with pages that `fetch` gives.
pub(crate) fn read_by(
    fetch: &Fetch<'_>,
    series: u64,
    long: LongText,
    stats: &mut ReadStats,
) -> Result<String, LongTextError> {
    let expect = expected(series);
    let addr = long.head.addr;
    let bad = |what| LongTextError::Bad(addr, BadPageCause::Body(BodyError(what)));
    let failed = |e| LongTextError::new(addr, e);
    let head = fetch(&[long.head], expect).pop();
    let head = head.ok_or_else(|| bad("a long string has no head"))?;
    let head = head.map_err(failed)?;
    stats.overflow_pages += 1;
    stats.cached_pages += u64::from(head.was_cached());
    let (refs, in_head) = parse_head(&head).map_err(bad)?;
    let mut text = Vec::with_capacity(long.len);
    text.extend_from_slice(in_head);
    if !refs.is_empty() {
        for page in fetch(&refs, expect) {
            let page = page.map_err(failed)?;
            stats.overflow_pages += 1;
            stats.cached_pages += u64::from(page.was_cached());
            text.extend_from_slice(page.body());
        }
    }
    if text.len() != long.len || crc32c(&text) != long.crc {
        return Err(bad("a long string is not the one its leaf remembers"));
    }
    String::from_utf8(text).map_err(|_| bad("a long string is not UTF-8"))
}

fn expected(series: u64) -> Expect {
    Expect {
        kind: PageKind::Overflow,
        series,
    }
}

/// The other pages of a text, and what the head holds of it.
fn parse_head(head: &Page) -> Result<(Vec<PageRef>, &[u8]), &'static str> {
    const CUT: &str = "a long string's list of pages is cut short";
    let pointers = usize::from(head.meta().items) * size_of::<PagePointer>();
    let (pointers, in_head) = head.body().split_at_checked(pointers).ok_or(CUT)?;
    let pointers = <[PagePointer]>::ref_from_bytes(pointers).map_err(|_| CUT)?;
    if pointers.len() > MAX_STRING_BYTES.div_ceil(PageDraft::BODY_BYTES) {
        return Err("a long string has too many pages");
    }
    let refs = pointers.iter().map(PagePointer::page_ref).collect();
    Ok((refs, in_head))
}

/// Shows the address of each page of a text. Cost: reading its head.
pub(crate) fn show_pages(
    pages: &BlockStore,
    series: u64,
    long: LongText,
    seen: &mut dyn FnMut(LogicAddr),
) -> Result<(), LongTextError> {
    let addr = long.head.addr;
    seen(addr);
    let head = pages.read(long.head, expected(series));
    let head = head.map_err(|e| LongTextError::new(addr, e))?;
    let bad = |what| LongTextError::Bad(addr, BadPageCause::Body(BodyError(what)));
    let (refs, _) = parse_head(&head).map_err(bad)?;
    refs.iter().for_each(|page| seen(page.addr));
    Ok(())
}

impl LongText {
    /// Whether a page of it may be in one of these volumes, which ascend: its pages were written one after the other.
    pub(crate) fn may_be_in(&self, volumes: &[u32]) -> bool {
        let from = volumes.partition_point(|v| *v < self.oldest_volume);
        volumes
            .get(from)
            .is_some_and(|v| *v <= self.head.addr.volume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_stand_for_themselves_unless_they_look_like_references() {
        for text in [
            "",
            "a",
            "\u{ffff}",
            "\u{ffff}>00",
            "\u{ffff}=x",
            "é\u{ffff}",
        ] {
            let stored = quote(text).into_owned();
            assert_eq!(unquote(&stored), Ok(Stored::Text(text)), "{text:?}");
        }
        assert_eq!(quote("plain"), "plain");
        for bad in ["\u{ffff}", "\u{ffff}>", "\u{ffff}>0g", "\u{ffff}?"] {
            assert!(unquote(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn references_read_back() {
        let reference = TextReference {
            head: PagePointer::new(PageRef {
                addr: LogicAddr { volume: 1, page: 2 },
                generation: 3,
                crc: 0xdead_beef,
            }),
            len: 5000.into(),
            crc: 77.into(),
            oldest_volume: 1.into(),
        };
        let hex = to_hex(&reference);
        assert_eq!(
            hex,
            "\u{ffff}>010000000300000002000000efbeadde881300004d00000001000000"
        );
        let Ok(Stored::Long(long)) = unquote(&hex) else {
            panic!("not a reference")
        };
        assert_eq!(long.head.addr, LogicAddr { volume: 1, page: 2 });
        assert_eq!((long.len, long.crc), (5000, 77));
    }
}
