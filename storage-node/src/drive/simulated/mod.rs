//! A drive in memory that does whatever a POSIX file system may do, and fails on command: for tests and simulation.
//!
//! Owns: files with a page cache ([`file`]), folders whose entries are not durable yet ([`folder`]), the calls on them
//! ([`mount`]), injected faults ([`fault`]) and power cuts. Never runs in a server.
//!
//! | what was done and not synced | what [`SimulatedDrive::crash`] keeps of it, each choice by itself |
//! |---|---|
//! | bytes of a file | of each 4 KiB page any version since the last sync, or one torn between two of them at 512-byte sectors |
//! | a file's length | any length since the last sync; bytes that did not arrive are zeros |
//! | entries of a folder | any subset of what was created, renamed and removed; a rename alone is whole or not at all |
//!
//! `sync_data` covers the file, not its name; `sync_dir` covers the names in one folder, not what they name. What was
//! synced is always kept. A `sync_data` that fails drops what it should have written, as Linux does: a read may go on to
//! see it, later syncs succeed, and a crash shows that it never reached the medium.
//!
//! A drive belongs to one open store at a time: opening it again, or a crash, makes every call of the earlier one fail.

pub(crate) mod fault;
mod file;
mod folder;
mod mount;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coffer_common::types::{ClusterId, DriveId, Incarnation};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub use self::fault::{Call, Effect, Fault, When};
use self::folder::Folder;
use self::mount::Mount;
use super::identity::{self, DriveIdentity};
use super::threads::{HANGING, Inline, Threads};

/// A drive in memory. Clones are the same drive.
#[derive(Clone, Debug)]
pub struct SimulatedDrive {
    disk: Arc<Disk>,
}

/// What the drive's calls share.
#[derive(Debug)]
struct Disk {
    root: Arc<Folder>,
    /// Counts openings and crashes; calls of an earlier one fail.
    boot: AtomicU64,
    control: Mutex<Control>,
    inline: Arc<Inline>,
}

#[derive(Debug)]
struct Control {
    random: StdRng,
    faults: Vec<Fault>,
    powered: bool,
    calls: u64,
    strikes: u64,
    capacity: u64,
    used: u64,
}

/// What a crash, or a sync that fails, loses.
#[derive(Debug)]
struct Loss {
    random: StdRng,
    /// The chance that something reached the medium in its newest state.
    keep: f64,
}

impl Loss {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let keep = [0.0, 0.2, 0.5, 0.8, 1.0][random.random_range(0..5)];
        Self { random, keep }
    }

    fn keeps(&mut self) -> bool {
        self.random.random_bool(self.keep)
    }

    /// Picks one of several states, the oldest first.
    fn pick(&mut self, states: usize) -> usize {
        if self.keeps() {
            states - 1
        } else if self.keep == 0.0 {
            0
        } else {
            self.random.random_range(0..states)
        }
    }
}

impl SimulatedDrive {
    /// A formatted drive without end, for `cluster`, with journal segments of `segment_bytes`. `seed` decides what faults
    /// with a chance do.
    ///
    /// # Panics
    /// Never: nothing fails yet.
    pub fn format(cluster: ClusterId, drive: DriveId, segment_bytes: u32, seed: u64) -> Self {
        Self::format_again(cluster, (drive, Incarnation(0)), segment_bytes, seed)
    }

    /// The same for a drive that takes the place of an earlier incarnation.
    ///
    /// # Panics
    /// Never: nothing fails yet.
    pub fn format_again(
        cluster: ClusterId,
        (drive, incarnation): (DriveId, Incarnation),
        segment_bytes: u32,
        seed: u64,
    ) -> Self {
        let control = Control {
            random: StdRng::seed_from_u64(seed),
            faults: Vec::new(),
            powered: true,
            calls: 0,
            strikes: 0,
            capacity: 1 << 50,
            used: 0,
        };
        let disk = Arc::new(Disk {
            root: Arc::default(),
            boot: AtomicU64::new(0),
            control: Mutex::new(control),
            inline: Arc::default(),
        });
        let formatted = Self { disk };
        let identity = DriveIdentity {
            format: identity::FORMAT,
            cluster,
            drive,
            incarnation,
            segment_bytes,
            known_paths: Vec::new(),
        };
        identity::write(&formatted.mount(), &identity).expect("a new drive in memory takes its identity");
        formatted
    }

    /// Cuts the power now and brings it back: of what was not synced some is kept, by the seed. Whoever had the drive open
    /// has it no more.
    pub fn crash(&self, seed: u64) {
        let disk = &self.disk;
        disk.boot.fetch_add(1, Ordering::SeqCst);
        disk.root.settle(&mut Loss::new(seed));
        let mut used = 0;
        disk.root.visit("", &mut |_, file| used += file.relink());
        let mut control = disk.control.lock();
        (control.powered, control.used) = (true, used);
    }

    /// An empty drive takes its place, so many incarnations later (with 0 it hides what it has lost). Whoever had the drive
    /// open has it no more.
    ///
    /// # Panics
    /// If the drive has no identity that can be read.
    pub fn replace(&self, later: u32) {
        self.clear_faults();
        self.restart();
        let lost = super::OpenDrive::simulated(self).expect("a drive in memory says who it is").identity;
        for (name, _) in self.disk.root.entries() {
            self.disk.root.forget(&name);
        }
        self.disk.control.lock().used = 0;
        let identity = DriveIdentity { incarnation: Incarnation(lost.incarnation.0 + later), ..lost };
        identity::write(&self.mount(), &identity).expect("a new drive in memory takes its identity");
    }

    /// The process that has the drive open dies, the machine does not: nothing is lost, and nothing more is synced.
    pub fn restart(&self) {
        self.disk.boot.fetch_add(1, Ordering::SeqCst);
        self.disk.control.lock().powered = true;
    }

    /// Whether the power is on: it is not after [`Effect::PowerCut`], until [`Self::crash`] or
    /// [`Self::restart`].
    pub fn has_power(&self) -> bool {
        self.disk.control.lock().powered
    }

    /// Adds a fault. The first that fits a call is the one that happens.
    pub fn inject(&self, fault: Fault) {
        self.disk.control.lock().faults.push(fault);
    }

    /// Nothing fails any more.
    pub fn clear_faults(&self) {
        self.disk.control.lock().faults.clear();
    }

    /// Calls so far, to cut the power at one of the next ones.
    pub fn calls(&self) -> u64 {
        self.disk.control.lock().calls
    }

    /// How many calls a fault has struck, those that reported success not counted.
    pub fn strikes(&self) -> u64 {
        self.disk.control.lock().strikes
    }

    /// Leaves room for so many bytes more.
    pub fn set_room(&self, bytes: u64) {
        let mut control = self.disk.control.lock();
        control.capacity = control.used.saturating_add(bytes);
    }

    /// Every job waits so long, in the runtime's time, before it is done. Recovery does not.
    pub fn set_latency(&self, latency: Duration) {
        self.disk.inline.set_latency(latency);
    }

    /// No job is done until [`Self::set_latency`].
    pub fn hang(&self) {
        self.disk.inline.set_latency(HANGING);
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.disk.root.visit("", &mut |path, _| paths.push(path.to_owned()));
        paths
    }

    /// Changes a file's bytes behind everybody's back, cache and medium alike; false if it is not there.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        match self.disk.root.file(path) {
            Ok(file) => {
                file.damage(change);
                true
            }
            Err(_) => false,
        }
    }

    /// Removes every file under a path behind everybody's back.
    pub fn lose(&self, under: &str) {
        for path in self.paths().iter().filter(|path| fault::lies_under(path, under)) {
            self.disk.root.forget(path);
        }
    }

    /// Takes the drive from whoever had it open.
    fn mount(&self) -> Mount {
        let boot = self.disk.boot.fetch_add(1, Ordering::SeqCst) + 1;
        Mount::new(Arc::clone(&self.disk), boot)
    }

    /// The drive's files and who does its work, for a store that opens it now.
    pub(crate) fn open(&self) -> (Arc<dyn super::DriveIo>, Threads) {
        (Arc::new(self.mount()), Threads::Inline(Arc::clone(&self.disk.inline)))
    }
}

impl Disk {
    /// Counts a call and tells what is to go wrong with it.
    fn admit(&self, boot: u64, call: Call, path: &str) -> io::Result<Option<Effect>> {
        let mut control = self.control.lock();
        if !control.powered || self.boot.load(Ordering::SeqCst) != boot {
            return Err(eio());
        }
        control.calls += 1;
        let Control { faults, random, .. } = &mut *control;
        let mut effect = None;
        for fault in faults {
            if fault.strikes(call, path, random) {
                effect = effect.or(Some(fault.effect));
            }
        }
        control.strikes += u64::from(effect.is_some_and(|effect| effect != Effect::Lost));
        match effect {
            Some(Effect::Error) if call != Call::Sync => Err(eio()),
            Some(Effect::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(Effect::PowerCut) => {
                control.powered = false;
                Ok(effect)
            }
            effect => Ok(effect),
        }
    }

    fn take_room(&self, bytes: u64) -> io::Result<()> {
        let mut control = self.control.lock();
        if bytes > 0 && control.used.saturating_add(bytes) > control.capacity {
            control.strikes += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        control.used += bytes;
        Ok(())
    }

    fn give_room(&self, bytes: u64) {
        let mut control = self.control.lock();
        control.used = control.used.saturating_sub(bytes);
    }

    fn loss(&self) -> Loss {
        Loss::new(self.control.lock().random.random())
    }

    fn random_below(&self, limit: u64) -> u64 {
        self.control.lock().random.random_range(0..limit.max(1))
    }
}

fn eio() -> io::Error {
    rustix::io::Errno::IO.into()
}
