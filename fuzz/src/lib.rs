//! What fuzz targets share: an allocator that refuses what no input may ask for, and directories in memory.

mod allocator;
pub mod compares;
mod directory;
pub mod store;

pub use directory::{Directory, open_file, overwrite, read_file};
