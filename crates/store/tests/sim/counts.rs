//! What a run did: the figures of its report.

use std::fmt;
use std::ops::AddAssign;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident: $join:ident;)*) => {
        /// Counts of simulated lives.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Each with its name, in the order of the report.
            fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }

        impl AddAssign for Counts {
            fn add_assign(&mut self, more: Self) {
                $(self.$name = $join(self.$name, more.$name);)*
            }
        }
    };
}

fn sum(a: u64, b: u64) -> u64 {
    a + b
}

fn most(a: u64, b: u64) -> u64 {
    a.max(b)
}

counts! {
    /// Disks that began empty.
    worlds: sum;
    /// Process lives that wrote.
    lives: sum;
    /// Power cuts and kills, those of openings included.
    crashes: sum;
    /// Pages the device wrote: log, data, tails, manifests.
    page_writes: sum;
    /// Of them: leaves, inner and overflow pages.
    data_pages: sum;
    /// Operations of the device that failed by plan.
    faults: sum;
    /// Values that were acknowledged and had to survive.
    acked: sum;
    /// Deletes that were acknowledged.
    deletes: sum;
    /// Merges that ended.
    merges: sum;
    /// Volumes that expired.
    volumes_freed: sum;
    /// Dead pages given back.
    given_back: sum;
    /// Volumes left for that.
    left: sum;
    /// Index segments made of rows.
    seals: sum;
    /// Index segments made of others.
    index_merges: sum;
    /// Values found after crashes and compared.
    compared: sum;
    /// Openings that refused a damaged directory, and reads that named a damaged page.
    damage_named: sum;
    /// Series that left memory, and that came back.
    spilled: sum;
    /// See `spilled`.
    recalled: sum;
    /// Series that were left with a newer part only, and that were made whole again.
    parted: sum;
    /// See `parted`.
    joined: sum;
    /// Hot backups begun.
    backups: sum;
    /// Those of them that came back on another disk.
    backups_restored: sum;
    /// Those that were refused by name.
    backups_refused: sum;
    /// Files that a backup and the store, or two backups, had in common.
    files_linked: sum;
    /// Backups of links that came back once more after a later life.
    linked_again: sum;
    /// Of what was acknowledged: before a flush that had to come.
    aged: sum;
    /// Lines left out for a limit of series.
    left_out: sum;
    /// Most index segments at the end of a life.
    segments_max: most;
    /// Rows that fell silent in a running store.
    silenced: sum;
    /// Silent rows that a write found again and brought back.
    silent_written: sum;
    /// Silent rows that a comparison found, which brings none back.
    silent_read: sum;
    /// Of the series that came back into memory: those that a comparison brought back.
    recalled_read: sum;
    /// Rot in tails, or in what mends them, that changed nothing.
    mended: sum;
}

/// Worlds from which on everything that is counted must have happened.
pub const WORLDS_OF_ALL: u64 = 200;

impl Counts {
    /// What never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        let none = self.named().filter(|(_, count)| *count == 0);
        none.map(|(name, _)| name).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, count)) in self.named().enumerate() {
            let space = if i > 0 { " " } else { "" };
            write!(f, "{space}{name}={count}")?;
        }
        Ok(())
    }
}
