//! redb's file, through the drive layer.

use std::io;
use std::sync::Arc;

use redb::StorageBackend;

use crate::drive::DriveFile;

/// A drive's file as redb's storage. The drive's own lock keeps other processes out.
#[derive(Debug)]
pub(super) struct Backend {
    file: Arc<dyn DriveFile>,
}

impl Backend {
    pub(super) fn new(file: Arc<dyn DriveFile>) -> Self {
        Self { file }
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
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.file.write_at(data, offset)
    }
}
