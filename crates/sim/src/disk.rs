//! What programs see, what survives a power cut, and the changes between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use crate::content::Content;
use crate::prng::Prng;

/// Power cuts tear writes at multiples of this.
pub(crate) const SECTOR: usize = 512;
/// Bytes that cannot be read together.
const UNREADABLE: u64 = 4096;

/// A change of a file's content that is not durable yet.
#[derive(Debug, Clone, Hash)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Allocate(u64),
    Punch { offset: u64, len: u64 },
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Self::Write { offset, bytes } => content.write(*offset, bytes),
            Self::Allocate(len) => content.allocate(*len),
            Self::Punch { offset, len } => content.punch(*offset, *len),
        }
    }
}

#[derive(Debug, Clone, Default, Hash)]
struct Inode {
    live: Content,
    durable: Content,
    /// Oldest first, with the number of each.
    volatile: Vec<(u64, Change)>,
    /// Blocks that cannot be read until something is written there.
    unreadable: BTreeSet<u64>,
}

/// A change of names that is not durable yet.
#[derive(Debug, Clone, Hash)]
enum Renaming {
    Create {
        path: String,
        inode: u64,
    },
    Rename {
        from: String,
        to: String,
        inode: u64,
    },
    Remove {
        path: String,
    },
}

impl Renaming {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename { from, to, inode } => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
            Self::Remove { path } => {
                names.remove(path);
            }
        }
    }

    /// Whether a sync of the directory makes it durable.
    fn is_in(&self, dir: &str) -> bool {
        let (Self::Create { path, .. } | Self::Rename { to: path, .. } | Self::Remove { path }) =
            self;
        parent(path) == dir
    }
}

fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |i| &path[..i])
}

/// Files with a live and a durable image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    volatile_names: Vec<(u64, Renaming)>,
    next_inode: u64,
    /// Number of the next change; a sync covers what was numbered before it was submitted.
    pub(crate) next_change: u64,
}

impl Disk {
    pub(crate) fn inode_of(&self, path: &str) -> Option<u64> {
        self.names.get(path).copied()
    }

    pub(crate) fn live(&self, inode: u64) -> Option<&Content> {
        self.inodes.get(&inode).map(|inode| &inode.live)
    }

    fn number(&mut self) -> u64 {
        self.next_change += 1;
        self.next_change - 1
    }

    pub(crate) fn create(&mut self, path: &str) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        let number = self.number();
        self.rename_live(
            number,
            Renaming::Create {
                path: path.to_owned(),
                inode,
            },
        );
        inode
    }

    /// Gives a file one more name, durable once its directory is synced.
    pub(crate) fn link(&mut self, path: &str, to: &str) -> bool {
        let Some(inode) = self.inode_of(path) else {
            return false;
        };
        let number = self.number();
        self.rename_live(
            number,
            Renaming::Create {
                path: to.to_owned(),
                inode,
            },
        );
        true
    }

    /// Whether programs see a file under more than one name.
    pub(crate) fn has_names(&self, inode: u64) -> bool {
        self.names.values().filter(|named| **named == inode).count() > 1
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(inode) = self.inode_of(from) else {
            return false;
        };
        let number = self.number();
        self.rename_live(
            number,
            Renaming::Rename {
                from: from.to_owned(),
                to: to.to_owned(),
                inode,
            },
        );
        true
    }

    pub(crate) fn remove(&mut self, path: &str) {
        if self.names.contains_key(path) {
            let number = self.number();
            self.rename_live(
                number,
                Renaming::Remove {
                    path: path.to_owned(),
                },
            );
        }
    }

    fn rename_live(&mut self, number: u64, change: Renaming) {
        change.apply(&mut self.names);
        self.volatile_names.push((number, change));
    }

    pub(crate) fn write(&mut self, inode: u64, offset: u64, bytes: Vec<u8>) {
        self.change(inode, Change::Write { offset, bytes });
    }

    pub(crate) fn allocate(&mut self, inode: u64, len: u64) {
        self.change(inode, Change::Allocate(len));
    }

    pub(crate) fn punch(&mut self, inode: u64, offset: u64, len: u64) {
        self.change(inode, Change::Punch { offset, len });
    }

    fn change(&mut self, inode: u64, change: Change) {
        let number = self.number();
        if let Some(inode) = self.inodes.get_mut(&inode) {
            if let Change::Write { offset, bytes } = &change {
                let written = blocks(*offset, bytes.len());
                inode.unreadable.retain(|block| !written.contains(block));
            }
            change.apply(&mut inode.live);
            inode.volatile.push((number, change));
        }
    }

    /// Makes changes of the content numbered below `before` durable.
    pub(crate) fn sync(&mut self, inode: u64, before: u64) {
        let Some(inode) = self.inodes.get_mut(&inode) else {
            return;
        };
        let count = inode
            .volatile
            .partition_point(|(number, _)| *number < before);
        for (_, change) in inode.volatile.drain(..count) {
            change.apply(&mut inode.durable);
        }
    }

    /// Forgets that changes are still to be made durable: they never will be.
    pub(crate) fn lose(&mut self, inode: u64, before: u64) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.volatile.retain(|(number, _)| *number >= before);
        }
    }

    /// Makes changes of names in a directory numbered below `before` durable.
    pub(crate) fn sync_dir(&mut self, dir: &str, before: u64) {
        let Self {
            volatile_names,
            durable_names,
            ..
        } = self;
        volatile_names.retain(|(number, change)| {
            let covered = *number < before && change.is_in(dir);
            if covered {
                change.apply(durable_names);
            }
            !covered
        });
    }

    pub(crate) fn lose_dir(&mut self, dir: &str, before: u64) {
        self.volatile_names
            .retain(|(number, change)| *number >= before || !change.is_in(dir));
    }

    /// Names, inodes and contents below a directory, not below those within.
    pub(crate) fn list<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = (&'a str, &'a Content)> {
        self.names
            .iter()
            .filter(move |(path, _)| parent(path) == dir)
            .filter_map(move |(path, inode)| {
                let name = if dir.is_empty() {
                    path
                } else {
                    &path[dir.len() + 1..]
                };
                Some((name, self.live(*inode)?))
            })
    }

    /// Bytes of blocks of all files that have a name or are in `open`.
    pub(crate) fn footprint(&self, open: impl Iterator<Item = u64>) -> u64 {
        let mut inodes: Vec<u64> = self.names.values().copied().chain(open).collect();
        inodes.sort_unstable();
        inodes.dedup();
        inodes
            .iter()
            .filter_map(|inode| self.live(*inode))
            .map(Content::footprint)
            .sum()
    }

    pub(crate) fn flip(&mut self, path: &str, offset: u64, bit: u8) -> bool {
        let Some(inode) = self
            .names
            .get(path)
            .and_then(|inode| self.inodes.get_mut(inode))
        else {
            return false;
        };
        let durable = inode.durable.flip(offset, bit);
        inode.live.flip(offset, bit) || durable
    }

    /// Makes the block of a file unreadable in which `offset` is. False if there is no such file.
    pub(crate) fn spoil(&mut self, path: &str, offset: u64) -> bool {
        let inode = self.names.get(path);
        let inode = inode.and_then(|inode| self.inodes.get_mut(inode));
        inode.is_some_and(|inode| inode.unreadable.insert(offset / UNREADABLE))
    }

    /// Whether all of a range can be read.
    pub(crate) fn is_readable(&self, inode: u64, offset: u64, len: usize) -> bool {
        let inode = self.inodes.get(&inode);
        inode.is_none_or(|inode| inode.unreadable.range(blocks(offset, len)).next().is_none())
    }

    /// The disk after a power cut: of what was volatile, the dice decide what is there.
    pub(crate) fn after_power_cut(&self, dice: &mut Prng) -> Self {
        let mut after = self.clone();
        for (_, change) in std::mem::take(&mut after.volatile_names) {
            if dice.chance(1, 2) {
                change.apply(&mut after.durable_names);
            }
        }
        for inode in after.inodes.values_mut() {
            for (_, change) in std::mem::take(&mut inode.volatile) {
                match change {
                    Change::Write { offset, bytes } => match dice.below(3) {
                        0 => inode.durable.write(offset, &bytes),
                        1 => tear(&bytes, SECTOR, dice, |skip, part| {
                            inode.durable.write(offset + skip as u64, part);
                        }),
                        _ => {}
                    },
                    Change::Allocate(_) | Change::Punch { .. } => {
                        if dice.chance(1, 2) {
                            change.apply(&mut inode.durable);
                        }
                    }
                }
            }
            inode.live = inode.durable.clone();
        }
        after.names = after.durable_names.clone();
        after.forget_nameless();
        after
    }

    /// Drops files without a name: nobody has them open.
    pub(crate) fn forget_nameless(&mut self) {
        let mut held: Vec<u64> = self
            .names
            .values()
            .chain(self.durable_names.values())
            .copied()
            .collect();
        held.extend(
            self.volatile_names
                .iter()
                .filter_map(|(_, change)| match change {
                    Renaming::Create { inode, .. } | Renaming::Rename { inode, .. } => Some(*inode),
                    Renaming::Remove { .. } => None,
                }),
        );
        held.sort_unstable();
        self.inodes
            .retain(|inode, _| held.binary_search(inode).is_ok());
    }
}

fn blocks(offset: u64, len: usize) -> std::ops::Range<u64> {
    offset / UNREADABLE..(offset + len as u64).div_ceil(UNREADABLE)
}

/// Gives a random, perhaps empty, set of a write's units.
pub(crate) fn tear(bytes: &[u8], unit: usize, dice: &mut Prng, mut put: impl FnMut(usize, &[u8])) {
    for (index, part) in bytes.chunks(unit).enumerate() {
        if dice.chance(1, 2) {
            put(index * unit, part);
        }
    }
}

impl Hash for Disk {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (
            &self.inodes,
            &self.names,
            &self.durable_names,
            &self.volatile_names,
        )
            .hash(state);
    }
}
