//! redb's file, through the drive layer.
//!
//! A file whose sync failed is removed: the page cache would show it whole to the next process, which would go on with it,
//! while the medium lacks pages for good. The index is a view, and is built anew.

use std::io;
use std::sync::Arc;

use redb::StorageBackend;

use super::{FILE, FOLDER};
use crate::drive::{DriveFile, DriveIo};

/// A drive's file as redb's storage. The drive's own lock keeps other processes out.
#[derive(Debug)]
pub(super) struct Backend {
    io: Arc<dyn DriveIo>,
    file: Arc<dyn DriveFile>,
}

impl Backend {
    pub(super) fn new(io: &Arc<dyn DriveIo>, file: Arc<dyn DriveFile>) -> Self {
        Self { io: Arc::clone(io), file }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.file.sync_data().inspect_err(|error| {
            let removed = self.io.remove(FILE).and_then(|()| self.io.sync_dir(FOLDER));
            tracing::error!(%error, ?removed, "syncing the index failed; it is removed");
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.file.write_at(data, offset)
    }
}
