//! The crash simulator: one seed decides the workload, the faults and the ends of many process lives on one lying disk.
//!
//! [`World`] is a disk with everything that was ever sent to it; `lives` says what a process does there and how it
//! ends; [`Oracle`] says what may be found afterwards; `exhaustive` tries every operation instead of drawing one;
//! `damage` rots what was written; `backups` takes hot backups in the
//! middle of a life. The crash test and the example `simulate` (that is `cargo xtask sim`) run the same.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::unwrap_used,
    reason = "two crates use a part each; what is not so fails the run"
)]

pub mod backups;
pub mod beside;
pub mod counts;
pub mod damage;
pub mod days;
pub mod exhaustive;
pub mod limits;
pub mod lives;
pub mod oracle;
pub mod selections;
pub mod unlogged;
pub mod world;

pub use counts::Counts;
pub use world::{Kind, World};
