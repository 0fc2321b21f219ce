//! Directories in memory that are built once and copied for every input.

use std::sync::Arc;

use alluvium_io::{
    AlignedBuf, Completion, Device, FileId, Lane, MemoryDevice, Op, OpenMode, Read, WriteData,
};

/// A directory as it was, and what its files hold.
pub struct Directory {
    device: MemoryDevice,
    /// Path from the root, and content.
    pub files: Vec<(String, Vec<u8>)>,
}

fn run(device: &MemoryDevice, op: Op) -> Completion {
    let ticket = device.submit(Lane(0), op);
    ticket.wait(device, Lane(0)).expect("memory does not fail")
}

/// Opens a file, which is made if it is not there, and says how long it is.
pub fn open_file(device: &MemoryDevice, path: &str) -> (FileId, u64) {
    let mode = OpenMode {
        create: true,
        ..OpenMode::default()
    };
    let path = path.to_owned();
    match run(device, Op::Open { path, mode }) {
        Completion::Opened { file, len } => (file, len),
        Completion::Done => unreachable!("an opening opens"),
    }
}

/// A whole file.
pub fn read_file(device: &MemoryDevice, path: &str) -> Vec<u8> {
    let (file, len) = open_file(device, path);
    let mut reads = [Read {
        file,
        offset: 0,
        into: AlignedBuf::zeroed(len as usize),
    }];
    device.read(&mut reads).expect("memory does not fail");
    let mut bytes = reads[0].into.bytes().to_vec();
    bytes.truncate(len as usize);
    bytes
}

/// Writes over a file from `offset` on, which is a multiple of 512; what is behind it in the last 512 becomes zeros.
pub fn overwrite(device: &MemoryDevice, path: &str, offset: u64, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let (file, _) = open_file(device, path);
    let mut buffer = AlignedBuf::zeroed(bytes.len());
    buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    let data = WriteData::Buffer(Arc::new(buffer));
    let sync = false;
    let write = Op::Write {
        file,
        offset,
        data,
        sync,
    };
    run(device, write);
    run(device, Op::Close { file });
}

impl Directory {
    /// The files below these folders.
    pub fn of(device: &MemoryDevice, folders: &[&str]) -> Self {
        let mut files = Vec::new();
        for folder in folders {
            for found in device.list(folder).expect("memory does not fail") {
                let path = match *folder {
                    "" => found.name,
                    folder => format!("{folder}/{}", found.name),
                };
                files.push((path.clone(), read_file(device, &path)));
            }
        }
        let device = device.duplicate(1);
        Self { device, files }
    }

    /// A fresh copy, with so many lanes, which shares everything it does not change.
    pub fn copy(&self, lanes: usize) -> Arc<MemoryDevice> {
        Arc::new(self.device.duplicate(lanes))
    }
}
