//! A file: what a read sees, what is on the medium, and all that may get there in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::RngExt;
use tokio::time::Instant;

use super::Loss;

/// The unit of the page cache.
pub(super) const PAGE: usize = 4096;
/// The unit that a medium writes whole.
const SECTOR: usize = 512;

const PAGE_BYTES: u64 = PAGE as u64;
/// The share of pages that a crash tears.
const TORN: f64 = 0.2;

/// The bytes of a page; `None`: zeros.
type Page = Option<Arc<[u8; PAGE]>>;

/// A file, whatever its name is.
#[derive(Debug)]
pub(super) struct Inode(Mutex<State>);

#[derive(Clone, Debug, Default)]
struct Content {
    /// Pages that were written or are zeros with room of their own.
    pages: BTreeMap<u64, Page>,
    len: u64,
}

#[derive(Debug)]
struct State {
    cache: Content,
    medium: Content,
    /// Of each page the versions since the last sync, with their stamps.
    dirty: BTreeMap<u64, Vec<(u64, Page)>>,
    /// The lengths since the last sync, with their stamps.
    lens: Vec<(u64, u64)>,
    /// What each page was before its last write.
    before: BTreeMap<u64, Page>,
    /// Counts changes.
    stamp: u64,
    /// Room was reserved up to here.
    reserved: u64,
    /// Whether a folder names it; one that none does takes no room.
    linked: bool,
    modified: Instant,
}

impl Content {
    fn page(&self, number: u64) -> Page {
        self.pages.get(&number).cloned().flatten()
    }

    fn read(&self, buf: &mut [u8], offset: u64) {
        for (number, inside, outside) in pieces(offset, buf.len()) {
            match self.page(number) {
                Some(page) => buf[outside].copy_from_slice(&page[inside]),
                None => buf[outside].fill(0),
            }
        }
    }

    /// Sets the length; what lies behind it is gone.
    fn cut(&mut self, len: u64) {
        self.len = len;
        self.pages.split_off(&len.div_ceil(PAGE_BYTES));
        if let Some(page) = self.pages.get_mut(&(len / PAGE_BYTES)) {
            *page = zeroed_from(page, (len % PAGE_BYTES) as usize);
        }
    }
}

/// The pages that a range of bytes touches: number, range in the page, range in the bytes.
fn pieces(
    offset: u64,
    len: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let end = offset + len as u64;
    (offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES)).map(move |number| {
        let start = number * PAGE_BYTES;
        let (from, to) = (offset.max(start), end.min(start + PAGE_BYTES));
        let inside = (from - start) as usize..(to - start) as usize;
        (number, inside, (from - offset) as usize..(to - offset) as usize)
    })
}

fn page_of(bytes: [u8; PAGE]) -> Page {
    bytes.iter().any(|byte| *byte != 0).then(|| Arc::new(bytes))
}

fn bytes_of(page: &Page) -> [u8; PAGE] {
    page.as_ref().map_or([0; PAGE], |page| **page)
}

fn zeroed_from(page: &Page, from: usize) -> Page {
    let mut bytes = bytes_of(page);
    bytes[from..].fill(0);
    page_of(bytes)
}

impl Inode {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            cache: Content::default(),
            medium: Content::default(),
            dirty: BTreeMap::new(),
            lens: Vec::new(),
            before: BTreeMap::new(),
            stamp: 0,
            reserved: 0,
            linked: true,
            modified: Instant::now(),
        }))
    }

    pub(super) fn len(&self) -> u64 {
        self.0.lock().cache.len
    }

    pub(super) fn age(&self) -> std::time::Duration {
        self.0.lock().modified.elapsed()
    }

    /// Reads what is there; false if the range goes beyond the end.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> bool {
        let state = self.0.lock();
        let inside = offset + buf.len() as u64 <= state.cache.len;
        if inside {
            state.cache.read(buf, offset);
        }
        inside
    }

    /// Like [`Self::read`], but shows what was there before the last write of each page.
    pub(super) fn read_stale(&self, buf: &mut [u8], offset: u64) -> bool {
        let state = self.0.lock();
        let mut old = state.cache.clone();
        old.pages.extend(state.before.clone());
        old.read(buf, offset);
        offset + buf.len() as u64 <= state.cache.len
    }

    /// Bytes of room that a write of this range still needs.
    pub(super) fn missing_room(&self, offset: u64, len: usize) -> u64 {
        let state = self.0.lock();
        let new = pieces(offset, len).filter(|(number, ..)| !state.has_room(*number)).count();
        if state.linked { new as u64 * PAGE_BYTES } else { 0 }
    }

    pub(super) fn write(&self, data: &[u8], offset: u64) {
        self.0.lock().write(data, offset);
    }

    /// Changes the length; returns the bytes of room that are free now.
    pub(super) fn set_len(&self, len: u64) -> u64 {
        let mut state = self.0.lock();
        let before = state.room();
        state.set_len(len);
        before - state.room()
    }

    /// Reserves room up to `len`, for which the caller has taken what is missing.
    pub(super) fn reserve(&self, len: u64) {
        let mut state = self.0.lock();
        state.reserved = state.reserved.max(len);
        if state.cache.len < len {
            state.set_len(len);
        }
    }

    pub(super) fn sync(&self) {
        let mut state = self.0.lock();
        let dirty = std::mem::take(&mut state.dirty);
        for (number, versions) in dirty {
            if let Some((_, page)) = versions.into_iter().last() {
                state.medium.pages.insert(number, page);
            }
        }
        let len = state.cache.len;
        state.medium.cut(len);
        state.lens.clear();
    }

    /// A sync that failed: some of it is on the medium, and none is dirty any more. A read may go on to see all of it.
    pub(super) fn fail_sync(&self, loss: &mut Loss) {
        let mut state = self.0.lock();
        state.settle(loss);
        if loss.keeps() {
            state.cache = state.medium.clone();
        }
    }

    /// The power came back: only what is on the medium is there.
    pub(super) fn crash(&self, loss: &mut Loss) {
        let mut state = self.0.lock();
        state.settle(loss);
        state.cache = state.medium.clone();
        state.before.clear();
        state.reserved = state.reserved.min(state.medium.len);
    }

    /// A folder names it no longer; returns the bytes of room it gives back.
    pub(super) fn unlink(&self) -> u64 {
        let mut state = self.0.lock();
        let room = state.room();
        state.linked = false;
        room
    }

    /// After a crash a folder names it (again); returns the bytes of room it takes.
    pub(super) fn relink(&self) -> u64 {
        let mut state = self.0.lock();
        state.linked = true;
        state.room()
    }

    /// Changes the bytes in cache and medium alike.
    pub(super) fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock();
        let mut bytes = vec![0; state.cache.len as usize];
        state.cache.read(&mut bytes, 0);
        change(&mut bytes);
        state.set_len(bytes.len() as u64);
        state.write(&bytes, 0);
        state.dirty.clear();
        state.lens.clear();
        state.medium = state.cache.clone();
    }
}

impl State {
    fn has_room(&self, page: u64) -> bool {
        page * PAGE_BYTES < self.reserved || self.cache.pages.contains_key(&page)
    }

    fn room(&self) -> u64 {
        let reserved = self.reserved.div_ceil(PAGE_BYTES);
        let more = self.cache.pages.range(reserved..).count() as u64;
        if self.linked { (reserved + more) * PAGE_BYTES } else { 0 }
    }

    fn write(&mut self, data: &[u8], offset: u64) {
        self.stamp += 1;
        self.modified = Instant::now();
        for (number, inside, outside) in pieces(offset, data.len()) {
            let mut bytes = bytes_of(&self.cache.page(number));
            bytes[inside].copy_from_slice(&data[outside]);
            self.put(number, page_of(bytes));
        }
        let end = offset + data.len() as u64;
        if end > self.cache.len {
            self.cache.len = end;
            self.lens.push((self.stamp, end));
        }
    }

    fn put(&mut self, number: u64, page: Page) {
        let before = self.cache.pages.insert(number, page.clone()).flatten();
        self.before.insert(number, before);
        self.dirty.entry(number).or_default().push((self.stamp, page));
    }

    fn set_len(&mut self, len: u64) {
        self.stamp += 1;
        self.modified = Instant::now();
        if len < self.cache.len {
            let touched: Vec<u64> =
                self.cache.pages.range(len / PAGE_BYTES..).map(|(number, _)| *number).collect();
            for number in touched {
                let keep = len.saturating_sub(number * PAGE_BYTES).min(PAGE_BYTES) as usize;
                let page = zeroed_from(&self.cache.page(number), keep);
                self.put(number, page);
            }
            self.cache.cut(len);
            self.reserved = self.reserved.min(len);
        }
        self.cache.len = len;
        self.lens.push((self.stamp, len));
    }

    /// Decides what of the changes since the last sync is on the medium.
    fn settle(&mut self, loss: &mut Loss) {
        let lens = std::mem::take(&mut self.lens);
        let kept = loss.pick(lens.len() + 1);
        // A page from before a truncation is never seen behind it, nor the other way round.
        let mut len = self.medium.len;
        let (mut first, mut end) = (0, u64::MAX);
        for (index, (stamp, next)) in lens.iter().enumerate() {
            match (*next < len, index < kept) {
                (true, true) => first = *stamp,
                (true, false) => {
                    end = *stamp;
                    break;
                }
                (false, _) => {}
            }
            len = *next;
        }
        let len = kept.checked_sub(1).map_or(self.medium.len, |last| lens[last].1);
        for (number, versions) in std::mem::take(&mut self.dirty) {
            let oldest = versions.iter().rfind(|(stamp, _)| *stamp <= first);
            let mut states = vec![oldest.map_or_else(|| self.medium.page(number), |(_, page)| page.clone())];
            let later = versions.into_iter().filter(|(stamp, _)| (first + 1..end).contains(stamp));
            states.extend(later.map(|(_, page)| page));
            self.medium.pages.insert(number, pick_page(&states, loss));
        }
        self.medium.cut(len);
    }
}

fn pick_page(states: &[Page], loss: &mut Loss) -> Page {
    let page = &states[loss.pick(states.len())];
    let certain = loss.keep == 0.0 || loss.keep == 1.0;
    if certain || states.len() == 1 || !loss.random.random_bool(TORN) {
        return page.clone();
    }
    let (mut bytes, other) = (bytes_of(page), bytes_of(&states[loss.random.random_range(0..states.len())]));
    for (sector, other) in bytes.chunks_mut(SECTOR).zip(other.chunks(SECTOR)) {
        if loss.random.random_bool(0.5) {
            sector.copy_from_slice(other);
        }
    }
    page_of(bytes)
}
