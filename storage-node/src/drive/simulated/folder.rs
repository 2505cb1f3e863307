//! A folder: its entries as a program sees them, those on the medium, and the changes in between.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Loss;
use super::file::Inode;

/// What an entry names.
#[derive(Clone, Debug)]
pub(super) enum Node {
    File(Arc<Inode>),
    Folder(Arc<Folder>),
}

/// Entries that change together: a rename is two.
type Change = Vec<(String, Option<Node>)>;

#[derive(Debug, Default)]
pub(super) struct Folder(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    now: BTreeMap<String, Node>,
    medium: BTreeMap<String, Node>,
    /// Since the last sync.
    changes: Vec<Change>,
}

fn apply(entries: &mut BTreeMap<String, Node>, change: Change) {
    for (name, node) in change {
        match node {
            Some(node) => entries.insert(name, node),
            None => entries.remove(&name),
        };
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// The folder's path and the name in it.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or((".", path))
}

impl Folder {
    pub(super) fn entry(&self, name: &str) -> Option<Node> {
        self.0.lock().now.get(name).cloned()
    }

    pub(super) fn entries(&self) -> Vec<(String, Node)> {
        self.0.lock().now.iter().map(|(name, node)| (name.clone(), node.clone())).collect()
    }

    /// The folder of this path below this one.
    pub(super) fn below(self: &Arc<Self>, path: &str) -> io::Result<Arc<Self>> {
        let mut found = Arc::clone(self);
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            let Some(Node::Folder(next)) = found.entry(name) else { return Err(not_found()) };
            found = next;
        }
        Ok(found)
    }

    /// The file of this path.
    pub(super) fn file(self: &Arc<Self>, path: &str) -> io::Result<Arc<Inode>> {
        let (folder, name) = split(path);
        match self.below(folder)?.entry(name) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(not_found()),
        }
    }

    pub(super) fn change(&self, change: Change) {
        let mut entries = self.0.lock();
        apply(&mut entries.now, change.clone());
        entries.changes.push(change);
    }

    pub(super) fn sync(&self) {
        let mut entries = self.0.lock();
        for change in std::mem::take(&mut entries.changes) {
            apply(&mut entries.medium, change);
        }
    }

    /// The power came back: only what is on the medium is there, in this folder and all below.
    pub(super) fn settle(&self, loss: &mut Loss) {
        let nodes: Vec<Node> = {
            let mut entries = self.0.lock();
            for change in std::mem::take(&mut entries.changes) {
                if loss.keeps() {
                    apply(&mut entries.medium, change);
                }
            }
            entries.now = entries.medium.clone();
            entries.now.values().cloned().collect()
        };
        for node in nodes {
            match node {
                Node::File(file) => file.crash(loss),
                Node::Folder(folder) => folder.settle(loss),
            }
        }
    }

    /// Drops an entry from what is seen and from the medium alike.
    pub(super) fn forget(self: &Arc<Self>, path: &str) {
        let (folder, name) = split(path);
        if let Ok(folder) = self.below(folder) {
            folder.change(vec![(name.to_owned(), None)]);
            folder.sync();
        }
    }

    /// Visits every file below; `path` is this folder's own.
    pub(super) fn visit(&self, path: &str, visit: &mut dyn FnMut(&str, &Arc<Inode>)) {
        for (name, node) in self.entries() {
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            match node {
                Node::File(file) => visit(&path, &file),
                Node::Folder(folder) => folder.visit(&path, visit),
            }
        }
    }
}
