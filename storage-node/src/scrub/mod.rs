//! Scrub: everything on a drive is re-read and verified once in a period, so that what rots is rebuilt while enough of the
//! others is whole.
//!
//! Owns one task per drive: when a pass begins, its pace and its cursor. Never repairs a shard: the store marks what is
//! damaged as missing, and `crate::heal` rebuilds it. Never judges the register states: those are verified whenever they
//! are read.
//!
//! 1. A pass reads the shards of all registers in the order of their keys, then the journal's segments that are sealed by
//!    then: a journal that grows faster than it is read does not keep a pass from its end. A segment that does not verify
//!    is replaced by what the index knows.
//! 2. **Pace.** A pass is spread over most of the period, but is not slower than `FLOOR`, and gives way to requests. A
//!    pass that an operator asked for only gives way.
//! 3. **Crash consistency.** The cursor lies in a file of the drive (`record`) that is replaced now and then: what was
//!    read since is read again. Losing it costs one pass.
//! 4. An order to pause is looked at every few seconds. While the coordinator is away the last one holds, also after a
//!    start.
//!
//! **Cancellation.** The stop ends the task at once; the next start goes on near where it was.

mod record;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::Cluster;
use coffer_common::cluster::scrub::ScrubOrder;
use coffer_common::node::{DriveScrub, NodeError};
use coffer_common::shutdown::Shutdown;
use coffer_common::time::UnixMillis;
use coffer_common::types::OpId;
use futures_util::FutureExt;
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use self::record::{Finished, Pass, Record};
use crate::image::Entry;
use crate::node::StorageNode;
use crate::pace::{Pace, Turn, Urgency};
use crate::store::{DriveStore, Scrubbed};

/// Bytes in a second that a pass reads at least, unless requests are in the way.
const FLOOR: u64 = 8 << 20;
/// The share of the period that a pass is spread over, in percent: the rest is for pauses and stops.
const SPREAD_PERCENT: u64 = 80;
/// How long after the first start of a drive its first pass begins.
const FIRST_AFTER: Duration = Duration::from_secs(600);
/// How often the order and the clock are looked at.
const TICK: Duration = Duration::from_secs(5);
/// How often the cursor is written.
const KEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Before a drive that could not be read is tried again.
const RETRY: Duration = Duration::from_secs(60);

struct Scrub {
    store: Arc<DriveStore>,
    period: Duration,
    /// Nothing until the coordinator has told it.
    order: watch::Receiver<Option<ScrubOrder>>,
    record: Record,
    kept: Instant,
    pace: Pace,
    /// The turn that runs.
    turn: Mutex<Option<Turn>>,
}

/// Starts on every open drive of the node, each once in `period` (zero: never); ends with `shutdown`, which waits for it.
pub fn start(node: &StorageNode, cluster: &Cluster, period: Duration, shutdown: &Shutdown) {
    if period.is_zero() {
        return;
    }
    let (sender, order) = watch::channel(None);
    let cluster = cluster.clone();
    shutdown.spawn_until_told(async move { follow_order(&cluster, &sender).await });
    for store in node.drives() {
        // Whoever asks before the record is read must not hear that nothing is scrubbed.
        store.tell_scrub(DriveScrub { period_seconds: period.as_secs(), ..DriveScrub::default() });
        let place = (Arc::clone(store), node.pace().clone());
        shutdown.spawn_until_told(run(place, period, order.clone()));
    }
}

async fn follow_order(cluster: &Cluster, sender: &watch::Sender<Option<ScrubOrder>>) {
    loop {
        match ScrubOrder::read(&*cluster.coordinator()).await {
            Ok(order) => drop(sender.send_replace(Some(order))),
            Err(error) => tracing::debug!(%error, "the order to scrub is not known anew"),
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn run(
    (store, pace): (Arc<DriveStore>, Pace),
    period: Duration,
    order: watch::Receiver<Option<ScrubOrder>>,
) {
    let record = store.load_scrub().await.unwrap_or_else(|| {
        let began_ms = now_ms().saturating_sub(millis(period)).saturating_add(millis(FIRST_AFTER));
        Record { last: Finished { began_ms, ..Finished::default() }, ..Record::default() }
    });
    let (kept, turn) = (Instant::now(), Mutex::default());
    let mut scrub = Scrub { store, period, order, record, kept, pace, turn };
    scrub.keep().await;
    loop {
        if scrub.record.order != scrub.order() {
            scrub.keep().await;
        }
        scrub.tell();
        if scrub.order().paused || !scrub.is_due() {
            tokio::time::sleep(TICK).await;
            continue;
        }
        let passed = scrub.pass().await;
        scrub.end_turn();
        if let Err(error) = passed {
            tracing::warn!(drive = %scrub.store.id(), %error, "scrubbing stands still");
            tokio::time::sleep(RETRY).await;
        }
    }
}

impl Scrub {
    fn order(&self) -> ScrubOrder {
        self.order.borrow().unwrap_or(self.record.order)
    }

    /// Whether a pass runs, or has to begin. A clock that went back makes one begin early.
    fn is_due(&self) -> bool {
        let (now, last) = (now_ms(), self.record.last.began_ms);
        let over = now >= last.saturating_add(millis(self.period)) || now < last;
        self.record.pass.is_some() || over || self.order().requested_ms > last
    }

    /// Whether an operator waits for this pass.
    fn is_requested(&self) -> bool {
        self.order().requested_ms > self.record.last.began_ms
    }

    /// Goes on with the pass, or begins one, up to its end or a pause.
    async fn pass(&mut self) -> Result<(), NodeError> {
        if self.record.pass.is_none() {
            self.record.pass = Some(Pass { began_ms: now_ms(), ..Pass::default() });
            tracing::debug!(drive = %self.store.id(), "scrubbing begins");
        }
        if !self.shards().await? || !self.segments().await? {
            self.keep().await;
            return Ok(());
        }
        let Some(pass) = self.record.pass.take() else { return Ok(()) };
        let Pass { began_ms, shards, bytes, damaged_shards, damaged_segments, unrepaired_segments, .. } =
            pass;
        let finished_ms = now_ms();
        counter!("coffer_scrub_passes_total").increment(1);
        tracing::info!(
            drive = %self.store.id(), shards, bytes, damaged_shards, damaged_segments,
            seconds = finished_ms.saturating_sub(began_ms) / 1000, "scrubbed"
        );
        self.record.last =
            Finished { began_ms, finished_ms, bytes, damaged_shards, damaged_segments, unrepaired_segments };
        self.keep().await;
        Ok(())
    }

    fn running(&mut self) -> &mut Pass {
        self.record.pass.get_or_insert_default()
    }

    /// All registers' shards; false if it was paused before the end.
    async fn shards(&mut self) -> Result<bool, NodeError> {
        while !self.running().shards_done {
            let after = self.running().cursor.clone();
            let piece = self.store.shards_after(after).await?;
            for (entry, op) in &piece.shards {
                if !self.shard(entry, *op).await? {
                    return Ok(false);
                }
            }
            match piece.last {
                Some(last) => self.running().cursor = last,
                None => self.running().shards_done = true,
            }
            self.keep_sometimes().await;
        }
        Ok(true)
    }

    /// One shard, again until the drive has time for it; false if it was paused before that.
    async fn shard(&mut self, entry: &Entry, op: OpId) -> Result<bool, NodeError> {
        while !self.order().paused {
            let this = &*self;
            let pause = |bytes| this.pause(bytes).boxed();
            let scrubbed = self.store.scrub_shard(entry, op, &pause).await;
            match scrubbed {
                Ok(Scrubbed::Whole(bytes)) => {
                    let pass = self.running();
                    (pass.shards, pass.bytes) = (pass.shards + 1, pass.bytes + bytes);
                    counter!("coffer_scrub_bytes_total").increment(bytes);
                    counter!("coffer_scrub_shards_total").increment(1);
                }
                Ok(Scrubbed::Damaged) => {
                    self.running().damaged_shards += 1;
                    counter!("coffer_scrub_damaged_shards_total").increment(1);
                }
                Ok(Scrubbed::Gone) => {}
                Err(NodeError::Overloaded) => {
                    self.end_turn();
                    tokio::time::sleep(TICK).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// The sealed segments behind the cursor, up to the one that was the newest when they were begun with; false if it was
    /// paused before the end.
    async fn segments(&mut self) -> Result<bool, NodeError> {
        let sealed = self.store.sealed_segments();
        let pass = self.running();
        if pass.last_segment == 0 {
            pass.last_segment = sealed.last().copied().unwrap_or_default();
        }
        loop {
            let Pass { segment: after, last_segment: last, .. } = *self.running();
            let sealed = self.store.sealed_segments();
            let Some(segment) = sealed.into_iter().find(|number| (after + 1..=last).contains(number)) else {
                return Ok(true);
            };
            let mut offset = 0;
            loop {
                if self.order().paused {
                    return Ok(false);
                }
                match self.store.scrub_segment(segment, offset).await? {
                    Ok(None) => break,
                    Ok(Some(next)) => {
                        self.pause(u64::from(next - offset)).await;
                        offset = next;
                    }
                    Err(reason) => {
                        self.rescue(segment, reason).await;
                        break;
                    }
                }
            }
            self.running().segment = segment;
            self.keep_sometimes().await;
        }
    }

    async fn rescue(&mut self, segment: u64, reason: String) {
        let drive = self.store.id();
        counter!("coffer_scrub_damaged_segments_total").increment(1);
        tracing::warn!(%drive, segment, reason, "a journal segment is damaged");
        self.running().damaged_segments += 1;
        // It rests by itself, and may take minutes: others need not wait for that.
        self.end_turn();
        if let Err(error) = self.store.rescue_segment(segment).await {
            tracing::error!(%drive, segment, %error, "the damaged journal segment stays: replace the drive");
            self.running().unrepaired_segments += 1;
        }
    }

    /// After this much was read: waits as long as that may take at the pass's pace, and for the next turn.
    async fn pause(&self, bytes: u64) {
        self.end_turn();
        if !self.is_requested() {
            tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / self.rate() as f64)).await;
        }
        let turn = self.pace.turn(Urgency::Patient).await;
        *self.turn.lock() = Some(turn);
    }

    fn end_turn(&self) {
        drop(self.turn.lock().take());
    }

    /// Bytes in a second.
    fn rate(&self) -> u64 {
        let seconds = (self.period.as_secs() * SPREAD_PERCENT / 100).max(1);
        (self.expected_bytes() / seconds).max(FLOOR)
    }

    /// About what there is to read: what the drive's file system has in use.
    fn expected_bytes(&self) -> u64 {
        let info = self.store.info();
        info.capacity_bytes.saturating_sub(info.free_bytes)
    }

    async fn keep_sometimes(&mut self) {
        if self.kept.elapsed() >= KEEP_INTERVAL {
            self.keep().await;
        }
        self.tell();
    }

    async fn keep(&mut self) {
        self.kept = Instant::now();
        self.record.order = self.order();
        if let Err(error) = self.store.keep_scrub(&self.record).await {
            tracing::warn!(drive = %self.store.id(), error, "how far scrubbing is was not kept");
        }
    }

    fn tell(&self) {
        let (last, pass) = (self.record.last, self.record.pass.clone());
        let running = pass.unwrap_or_default();
        // A pass is expected to be like the last one.
        let expected_bytes = if last.bytes > 0 { last.bytes } else { self.expected_bytes() };
        self.store.tell_scrub(DriveScrub {
            period_seconds: self.period.as_secs(),
            paused: self.order().paused,
            began_ms: running.began_ms,
            shards: running.shards,
            bytes: running.bytes,
            expected_bytes,
            finished_ms: last.finished_ms,
            damaged_shards: last.damaged_shards + running.damaged_shards,
            damaged_segments: last.damaged_segments + running.damaged_segments,
            unrepaired_segments: match self.record.pass {
                Some(_) => running.unrepaired_segments.max(last.unrepaired_segments),
                None => last.unrepaired_segments,
            },
        });
    }
}

fn now_ms() -> u64 {
    UnixMillis::now().0
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
