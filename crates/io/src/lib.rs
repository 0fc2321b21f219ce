//! Moves aligned pages between memory and files, and says when they are durable.
mod buffer;
mod clock;
mod device;
mod error;
mod memory;
mod ticket;

pub use buffer::{AlignedBuf, BUFFER_ALIGN, PageBuf};
pub use clock::{Clock, SystemClock};
pub use device::{
    Completion, Device, FileId, Geometry, Lane, Listed, Op, OpenMode, Read, WriteData,
};
pub use error::{IoError, IoErrorKind};
pub use memory::MemoryDevice;
pub use ticket::{Completer, IoResult, Ticket};
