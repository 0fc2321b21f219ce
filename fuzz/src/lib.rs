//! What fuzz targets share: an allocator that refuses what no input may ask for, and directories in memory.

mod allocator;
pub mod compares;
mod directory;
pub mod store;

pub use directory::{Directory, open_file, overwrite, read_file};

/// Chooses among inputs by the sum of their bytes: a number below 32. What is chosen for one mostly says nothing of what grows out of it,
/// so that what costs more does not become what most inputs do.
pub fn share(data: &[u8]) -> u8 {
    data.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)) % 32
}
