//! What a run did: the figures of its report.

use std::fmt;
use std::ops::AddAssign;

/// Counts of simulated lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Disks that began empty.
    pub worlds: u64,
    /// Process lives that wrote.
    pub lives: u64,
    /// Power cuts and kills, those of openings included.
    pub crashes: u64,
    /// Pages the device wrote: log, data, tails, manifests.
    pub page_writes: u64,
    /// Of them: leaves, inner and overflow pages.
    pub data_pages: u64,
    /// Operations of the device that failed by plan.
    pub faults: u64,
    /// Values that were acknowledged and had to survive.
    pub acked: u64,
    /// Of them: acknowledged before a flush that had to come.
    pub aged: u64,
    /// Lines left out for a limit of series.
    pub left_out: u64,
    /// Most index segments at the end of a life.
    pub segments: u64,
    /// Deletes that were acknowledged.
    pub deletes: u64,
    /// Merges that ended.
    pub merges: u64,
    /// Volumes that expired.
    pub volumes_freed: u64,
    /// Dead pages given back.
    pub given_back: u64,
    /// Volumes left for that.
    pub left: u64,
    /// Index segments made of rows.
    pub seals: u64,
    /// Index segments made of others.
    pub index_merges: u64,
    /// Series that left memory, and that came back.
    pub spilled: u64,
    /// See `spilled`.
    pub recalled: u64,
    /// Series that were left with a newer part only, and that were made whole again.
    pub parted: u64,
    /// See `parted`.
    pub joined: u64,
    /// Values found after crashes and compared.
    pub compared: u64,
    /// Hot backups begun.
    pub backups: u64,
    /// Those of them that came back on another disk.
    pub backups_restored: u64,
    /// Those that were refused by name.
    pub backups_refused: u64,
    /// Files that a backup and the store, or two backups, had in common.
    pub files_linked: u64,
    /// Backups of links that came back once more after a later life.
    pub linked_again: u64,
    /// Openings that refused a damaged directory, and reads that named a damaged page.
    pub damage_named: u64,
    /// Rot in tails, or in what mends them, that changed nothing.
    pub mended: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.worlds += more.worlds;
        self.lives += more.lives;
        self.crashes += more.crashes;
        self.page_writes += more.page_writes;
        self.data_pages += more.data_pages;
        self.faults += more.faults;
        self.acked += more.acked;
        self.aged += more.aged;
        self.left_out += more.left_out;
        self.segments = self.segments.max(more.segments);
        self.deletes += more.deletes;
        self.merges += more.merges;
        self.volumes_freed += more.volumes_freed;
        self.given_back += more.given_back;
        self.left += more.left;
        self.seals += more.seals;
        self.index_merges += more.index_merges;
        self.compared += more.compared;
        self.spilled += more.spilled;
        self.parted += more.parted;
        self.joined += more.joined;
        self.recalled += more.recalled;
        self.damage_named += more.damage_named;
        self.mended += more.mended;
        self.backups += more.backups;
        self.backups_restored += more.backups_restored;
        self.backups_refused += more.backups_refused;
        self.files_linked += more.files_linked;
        self.linked_again += more.linked_again;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "worlds={} lives={} crashes={} page_writes={} data_pages={} faults={} acked={} deletes={} merges={} \
             volumes_freed={} given_back={} left={} seals={} \
             index_merges={} compared={} damage_named={} spilled={} recalled={} parted={} joined={} \
             backups={} backups_restored={} backups_refused={} files_linked={} linked_again={} aged={} left_out={} \
             segments_max={} mended={}",
            self.worlds,
            self.lives,
            self.crashes,
            self.page_writes,
            self.data_pages,
            self.faults,
            self.acked,
            self.deletes,
            self.merges,
            self.volumes_freed,
            self.given_back,
            self.left,
            self.seals,
            self.index_merges,
            self.compared,
            self.damage_named,
            self.spilled,
            self.recalled,
            self.parted,
            self.joined,
            self.backups,
            self.backups_restored,
            self.backups_refused,
            self.files_linked,
            self.linked_again,
            self.aged,
            self.left_out,
            self.segments,
            self.mended,
        )
    }
}
