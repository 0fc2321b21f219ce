//! The `io_uring` backend.
use std::sync::Arc;
use std::time::Duration;

use crate::device::{Device, Geometry, Lane, Listed, Op, Read};
use crate::error::IoError;
use crate::files::Files;
use crate::open::PageWriteMode;
use crate::ticket::Ticket;

#[derive(Debug)]
pub(crate) struct UringDevice(crate::sync_engine::SyncDevice);

impl UringDevice {
    pub(crate) fn new(_: Arc<Files>, _: usize, _: PageWriteMode) -> Result<Self, String> {
        Err("io_uring is not built yet".into())
    }
}

impl Device for UringDevice {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn backend(&self) -> String {
        self.0.backend()
    }
    fn lanes(&self) -> usize {
        self.0.lanes()
    }
    fn submit(&self, lane: Lane, op: Op) -> Ticket {
        self.0.submit(lane, op)
    }
    fn drive(&self, lane: Lane) -> usize {
        self.0.drive(lane)
    }
    fn wait(&self, timeout: Duration) {
        self.0.wait(timeout);
    }
    fn wake(&self) {
        self.0.wake();
    }
    fn read(&self, reads: &mut [Read]) -> Result<(), IoError> {
        self.0.read(reads)
    }
    fn list(&self, path: &str) -> Result<Vec<Listed>, IoError> {
        self.0.list(path)
    }
}
