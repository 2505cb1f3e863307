//! The calls of a store on the drive: each counted, each with a fault if one strikes.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::fault::{Call, Effect, lies_under};
use super::file::{Inode, PAGE};
use super::folder::{Node, split};
use super::{Disk, eio};
use crate::drive::io::{DirItem, DriveFile, DriveIo, Space};

/// The drive, opened.
#[derive(Clone, Debug)]
pub(super) struct Mount {
    disk: Arc<Disk>,
    boot: u64,
}

#[derive(Debug)]
struct OpenFile {
    mount: Mount,
    path: String,
    inode: Arc<Inode>,
}

impl Mount {
    pub(super) fn new(disk: Arc<Disk>, boot: u64) -> Self {
        Self { disk, boot }
    }

    fn admit(&self, call: Call, path: &str) -> io::Result<Option<Effect>> {
        self.disk.admit(self.boot, call, path)
    }

    /// Changes entries; a power cut comes right after it.
    fn change<T>(&self, path: &str, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let effect = self.admit(Call::Entry, path)?;
        let changed = change()?;
        if effect == Some(Effect::PowerCut) { Err(eio()) } else { Ok(changed) }
    }

    fn opened(&self, path: &str, inode: Arc<Inode>) -> Arc<dyn DriveFile> {
        Arc::new(OpenFile { mount: self.clone(), path: path.to_owned(), inode })
    }

    /// A place where a misdirected write of `len` bytes ends up: a page in some file of the same top folder.
    fn elsewhere(&self, path: &str, len: usize) -> Option<(Arc<Inode>, u64)> {
        let top = path.split('/').next().unwrap_or_default();
        let mut places = Vec::new();
        self.disk.root.visit("", &mut |other, inode| {
            if lies_under(other, top) && inode.len() >= len as u64 {
                places.push((Arc::clone(inode), (inode.len() - len as u64) / PAGE as u64 + 1));
            }
        });
        let at = self.disk.random_below(places.len() as u64) as usize;
        let (inode, pages) = places.into_iter().nth(at)?;
        Some((inode, self.disk.random_below(pages) * PAGE as u64))
    }
}

impl DriveIo for Mount {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DriveFile>> {
        let inode = self.change(path, || {
            let (folder, name) = split(path);
            let folder = self.disk.root.below(folder)?;
            if let Some(Node::File(inode)) = folder.entry(name) {
                self.disk.give_room(inode.set_len(0));
                return Ok(inode);
            }
            let inode = Arc::new(Inode::new());
            folder.change(vec![(name.to_owned(), Some(Node::File(Arc::clone(&inode))))]);
            Ok(inode)
        })?;
        Ok(self.opened(path, inode))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DriveFile>> {
        self.admit(Call::Read, path)?;
        Ok(self.opened(path, self.disk.root.file(path)?))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.change(path, || {
            if let Ok(inode) = self.disk.root.file(path) {
                let (folder, name) = split(path);
                self.disk.root.below(folder)?.change(vec![(name.to_owned(), None)]);
                self.disk.give_room(inode.unlink());
            }
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(from, || {
            let ((folder, from_name), (to_folder, to_name)) = (split(from), split(to));
            assert_eq!(folder, to_folder, "files are renamed within their folder");
            let inode = self.disk.root.file(from)?;
            if let Ok(replaced) = self.disk.root.file(to) {
                self.disk.give_room(replaced.unlink());
            }
            let renamed = (to_name.to_owned(), Some(Node::File(inode)));
            self.disk.root.below(folder)?.change(vec![(from_name.to_owned(), None), renamed]);
            Ok(())
        })
    }

    fn create_dir(&self, path: &str) -> io::Result<bool> {
        self.change(path, || {
            let (folder, name) = split(path);
            let folder = self.disk.root.below(folder)?;
            let new = folder.entry(name).is_none();
            if new {
                folder.change(vec![(name.to_owned(), Some(Node::Folder(Arc::default())))]);
            }
            Ok(new)
        })
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let effect = self.admit(Call::SyncFolder, path)?;
        let folder = self.disk.root.below(path)?;
        match effect {
            Some(Effect::Lost) => Ok(()),
            // The file system keeps the changes in a log of its own, or stops altogether.
            Some(_) => Err(eio()),
            None => {
                folder.sync();
                Ok(())
            }
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirItem>> {
        self.admit(Call::Read, path)?;
        let items = self.disk.root.below(path)?.entries().into_iter().map(|(name, node)| match node {
            Node::File(inode) => DirItem { name, is_dir: false, age: inode.age() },
            Node::Folder(_) => DirItem { name, is_dir: true, age: Default::default() },
        });
        Ok(items.collect())
    }

    fn space(&self) -> io::Result<Space> {
        self.admit(Call::Read, ".")?;
        let control = self.disk.control.lock();
        let free = control.capacity.saturating_sub(control.used);
        Ok(Space { capacity: control.capacity, free, file_system: 0 })
    }

    fn root(&self) -> &Path {
        Path::new("/simulated")
    }
}

impl OpenFile {
    fn admit(&self, call: Call) -> io::Result<Option<Effect>> {
        self.mount.admit(call, &self.path)
    }

    fn write_whole(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let disk = &self.mount.disk;
        disk.take_room(self.inode.missing_room(offset, data.len()))?;
        self.inode.write(data, offset);
        Ok(())
    }
}

impl DriveFile for OpenFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let disk = &self.mount.disk;
        let inside = match self.admit(Call::Read)? {
            Some(Effect::Stale) => self.inode.read_stale(buf, offset),
            Some(Effect::Short) => {
                let part = disk.random_below(buf.len() as u64) as usize;
                self.inode.read(&mut buf[..part], offset);
                false
            }
            Some(Effect::Flip) => {
                let inside = self.inode.read(buf, offset);
                flip(buf, disk.random_below(buf.len() as u64 * 8));
                inside
            }
            Some(_) => return Err(eio()),
            None => self.inode.read(buf, offset),
        };
        if inside { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let disk = &self.mount.disk;
        match self.admit(Call::Write)? {
            None => self.write_whole(data, offset),
            Some(Effect::Lost) => Ok(()),
            Some(Effect::Flip) => {
                let mut data = data.to_vec();
                let bits = data.len() as u64 * 8;
                flip(&mut data, disk.random_below(bits));
                self.write_whole(&data, offset)
            }
            Some(Effect::Misdirect) => match self.mount.elsewhere(&self.path, data.len()) {
                Some((inode, at)) => {
                    inode.write(data, at);
                    Ok(())
                }
                None => Ok(()),
            },
            Some(Effect::PowerCut) => {
                self.write_whole(data, offset)?;
                Err(eio())
            }
            Some(_) => {
                let part = disk.random_below(data.len() as u64) as usize;
                self.write_whole(&data[..part], offset)?;
                Err(eio())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.admit(Call::Sync)? {
            None => self.inode.sync(),
            Some(Effect::Lost) => {}
            Some(Effect::PowerCut) => return Err(eio()),
            Some(_) => {
                self.inode.fail_sync(&mut self.mount.disk.loss());
                return Err(eio());
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.admit(Call::Read)?;
        Ok(self.inode.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let effect = self.admit(Call::Write)?;
        self.mount.disk.give_room(self.inode.set_len(len));
        if effect == Some(Effect::PowerCut) { Err(eio()) } else { Ok(()) }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let effect = self.admit(Call::Write)?;
        self.mount.disk.take_room(self.inode.missing_room(0, len as usize))?;
        self.inode.reserve(len);
        if effect == Some(Effect::PowerCut) { Err(eio()) } else { Ok(()) }
    }
}

fn flip(bytes: &mut [u8], bit: u64) {
    if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
        *byte ^= 1 << (bit % 8);
    }
}
