//! Appends checksummed 4 KiB pages at logical addresses, reads them back, and keeps the root of a data
//! directory.
//!
//! It knows volumes, pages, the times of the points in them and a manifest of opaque sections. It does not know
//! what a page means, what a series is, or when a page may be forgotten.
//!
//! ```
//! use std::sync::Arc;
//! use alluvium_block::{BlockStore, Expect, PageDraft, PageKind, PageMeta, Role};
//! use alluvium_io::{Lane, MemoryDevice};
//! use alluvium_types::{DatabaseId, Lsn, TimeRange};
//!
//! let store = BlockStore::ephemeral(Arc::new(MemoryDevice::new(1)));
//! let mut appender = store.appender(Lane(0));
//! let mut draft = PageDraft::new();
//! draft.body_mut()[..5].copy_from_slice(b"hello");
//! draft.set_used(5);
//! let meta = PageMeta {
//!     kind: PageKind::Leaf, database: DatabaseId(1), series: 17, run_ordinal: 0, leaf_ordinal: 0,
//!     lsn: Lsn(1), items: 1, level: 0, flags: 0,
//! };
//! let page = appender.append(Role::Leaves, meta, TimeRange::inclusive(5, 9), draft);
//! let read = store.read(page, Expect { kind: PageKind::Leaf, series: 17 }).unwrap();
//! assert_eq!(read.body(), b"hello");
//! ```

mod appender;
mod cache;
mod error;
mod layout;
mod logic_addr;
mod manifest;
mod page;
mod parity;
mod retention;
mod scrub;
mod space;
mod store;
mod superblock;
mod volume;
mod volume_head;
mod volume_set;

pub use alluvium_codec::crc32c_append;
pub use appender::Appender;
pub use error::{Damage, ReadError, RootError};
pub use logic_addr::{LogicAddr, PageRef};
pub use manifest::{Manifest, Sections};
pub use page::{Page, PageDraft, PageKind, PageMeta};
pub use parity::{
    PARITY_BYTES, PARITY_STRIPE_BYTES, ParityWriter, StripeDamage, StripeParity, parity_group,
    parity_len,
};
pub use retention::VolumeInfo;
pub use space::{PageRange, PunchBatch, SpaceSurvey, VolumeSpace};
pub use store::{
    BAD_PAGES_MAX, BlockConfig, BlockMetrics, BlockStore, Expect, OpenExtent, SyncBatch,
    named_volumes,
};
pub use superblock::{
    OtherSlot, RESERVE_FILE, Root, RootCommit, Roots, UNFINISHED_FILE, load_root, load_roots,
    load_unfinished_roots, manifest_path, numbered, settle_root,
};
pub use volume::{Role, VolumeSetId, volume_path};
pub use volume_head::{VolumeHead, volume_heads};
pub use volume_set::SetUsage;
