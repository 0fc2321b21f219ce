//! Devices that stand before another one and do what it does, but for what they say themselves.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::device::{Device, Geometry, Lane, Listed, Op, Read};
use crate::error::IoError;
use crate::ticket::Ticket;

/// A [`Device`] before another one: of what is not implemented here, that one does all.
pub trait Layer: Send + Sync + fmt::Debug {
    /// The device behind it.
    fn behind(&self) -> &dyn Device;

    /// As [`Device::geometry`].
    fn geometry(&self) -> Geometry {
        self.behind().geometry()
    }

    /// As [`Device::backend`].
    fn backend(&self) -> String {
        self.behind().backend()
    }

    /// As [`Device::lanes`].
    fn lanes(&self) -> usize {
        self.behind().lanes()
    }

    /// As [`Device::submit`].
    fn submit(&self, lane: Lane, op: Op) -> Ticket {
        self.behind().submit(lane, op)
    }

    /// As [`Device::drive`].
    fn drive(&self, lane: Lane) -> usize {
        self.behind().drive(lane)
    }

    /// As [`Device::wait`].
    fn wait(&self, timeout: Duration) {
        self.behind().wait(timeout);
    }

    /// As [`Device::wake`].
    fn wake(&self) {
        self.behind().wake();
    }

    /// As [`Device::read`].
    ///
    /// # Errors
    /// The same.
    fn read(&self, reads: &mut [Read]) -> Result<(), IoError> {
        self.behind().read(reads)
    }

    /// As [`Device::list`].
    ///
    /// # Errors
    /// The same.
    fn list(&self, path: &str) -> Result<Vec<Listed>, IoError> {
        self.behind().list(path)
    }

    /// As [`Device::link`].
    ///
    /// # Errors
    /// The same.
    fn link(&self, path: &str, to: &Path) -> Result<(), IoError> {
        self.behind().link(path, to)
    }
}

impl<L: Layer> Device for L {
    fn geometry(&self) -> Geometry {
        Layer::geometry(self)
    }

    fn backend(&self) -> String {
        Layer::backend(self)
    }

    fn lanes(&self) -> usize {
        Layer::lanes(self)
    }

    fn submit(&self, lane: Lane, op: Op) -> Ticket {
        Layer::submit(self, lane, op)
    }

    fn drive(&self, lane: Lane) -> usize {
        Layer::drive(self, lane)
    }

    fn wait(&self, timeout: Duration) {
        Layer::wait(self, timeout);
    }

    fn wake(&self) {
        Layer::wake(self);
    }

    fn read(&self, reads: &mut [Read]) -> Result<(), IoError> {
        Layer::read(self, reads)
    }

    fn list(&self, path: &str) -> Result<Vec<Listed>, IoError> {
        Layer::list(self, path)
    }

    fn link(&self, path: &str, to: &Path) -> Result<(), IoError> {
        Layer::link(self, path, to)
    }
}
