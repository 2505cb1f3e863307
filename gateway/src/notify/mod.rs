//! Events of buckets, brought to webhooks: each at least once.
//!
//! Owns: which changes have events ([`rules`], pure), their form ([`record`], pure), the queue ([`queue`]), and bringing what
//! is in it to its targets ([`deliver`], [`webhook`]). Never: knows the documents that rules come in; the edge checks and
//! keeps them.
//!
//! Gateways keep nothing, and a target may be away for hours: the queue is objects in a bucket of the cluster's own
//! ([`QUEUE_BUCKET`]), which no client can name. They are as durable as what they tell of, and take no memory.
//!
//! 1. A request changes an object.
//! 2. Before it is answered, its events are written to the queue, one object for each target. If that fails the answer is
//!    an error, although the change stands: the client's next try has its own event.
//! 3. One gateway at a time for each target (a lock at the coordinator, which only saves work) reads the queue in order of
//!    time, posts each object, and deletes it once the target has said 2xx.
//!
//! **Why after the change and not before.** An event tells the entity tag, the version and the place in the order of the
//! key's writes, which are known when the change is committed. Who was not answered was promised nothing; so nothing has to
//! be written before, and nothing has to be found out about writes of gateways that died. A request whose client goes
//! away is carried on to its end all the same. What lifecycle rules do has nobody who would try again: it is written to the
//! queue before it is done, to be sent a while later, and taken back if it was not done ([`Notifier::foretell`]).
//!
//! **Consistency.** At least once: a delivery whose answer was lost, or whose gateway died before it deleted it, is repeated.
//! Order is not promised; `sequencer` orders the events of a key. Which rules count is what the gateway knew when the request
//! was admitted. **Crash.** Between 1 and 2: the change stands without an event, and was not answered. After 2: another gateway
//! delivers it. **Retries.** A target that does not answer, or answers 5xx or 429, is tried again after 1 s, later 60 s; what
//! it refuses otherwise does not hold up what comes behind it, and is tried again every minute for as long as it is refused.
//! No event is ever given up. **Cancellation**: as a crash. While the coordinator is away events are queued and not delivered.

mod deliver;
mod queue;
mod record;
mod rules;
mod targets;
mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::cluster::Cluster;
use coffer_common::shutdown::Shutdown;
use coffer_common::time::UnixMillis;
use coffer_common::types::ObjectKey;
use futures_util::future::try_join_all;
use tokio::sync::Notify;

use crate::object::{BucketInfo, ObjectStore, Unavailable};

pub(crate) use queue::BUCKET as QUEUE_BUCKET;
pub(crate) use record::{Change, Event, Source};
pub(crate) use rules::{Kind, Known, Rule, Rules, known};
pub(crate) use targets::{InvalidTarget, Webhook, webhooks};

/// The name of the text that carries the rules in a bucket's record, as [`Rules::encode`] writes it.
pub(crate) const DOCUMENT: &str = "notification-rules";

/// Most records of one delivery.
const MAX_RECORDS: usize = 100;
/// How long what is foretold has to be confirmed or withdrawn before it is delivered.
const FORETOLD_FOR: Duration = Duration::from_secs(60);

const QUEUED: &str = "coffer_notify_queued_total";

/// Queues events; cheap to clone.
#[derive(Clone)]
pub(crate) struct Notifier {
    store: ObjectStore,
    /// The targets that this gateway is told to deliver to, and what wakes who does it.
    targets: Arc<BTreeMap<String, Arc<Notify>>>,
}

/// Who told what in which bucket.
#[derive(Clone, Copy)]
pub(crate) struct Told<'a> {
    /// The bucket.
    pub(crate) bucket: &'a BucketInfo,
    /// Its rules.
    pub(crate) rules: &'a Rules,
    /// Who made the changes.
    pub(crate) source: &'a Source,
}

/// Deliveries that wait for what they tell of.
pub(crate) struct Foretold(Vec<ObjectKey>);

impl Notifier {
    /// Begins to deliver what is queued for these targets, until the stop is told.
    pub(crate) fn start(
        store: &ObjectStore,
        cluster: &Cluster,
        webhooks: Vec<Webhook>,
        shutdown: &Shutdown,
    ) -> Self {
        let mut targets = BTreeMap::new();
        for webhook in webhooks {
            let wake = Arc::new(Notify::new());
            targets.insert(webhook.name.clone(), Arc::clone(&wake));
            let courier = deliver::Courier::new(store.clone(), cluster.clone(), webhook, wake);
            shutdown.spawn_until_told(courier.work());
        }
        Self { store: store.clone(), targets: Arc::new(targets) }
    }

    /// Whether this gateway delivers to a target.
    pub(crate) fn knows(&self, target: &str) -> bool {
        self.targets.contains_key(target)
    }

    /// Makes sure that there is a queue.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub(crate) async fn prepare(&self) -> Result<(), Unavailable> {
        queue::prepare(&self.store).await
    }

    /// Queues the events that the rules ask for. When it returns they will be delivered, whatever becomes of this gateway.
    ///
    /// # Errors
    /// [`Unavailable`]: some may not be queued.
    pub(crate) async fn tell(&self, told: Told<'_>, events: &[Event]) -> Result<(), Unavailable> {
        self.queue(told, events, UnixMillis::now()).await?;
        Ok(())
    }

    /// Queues a test event for each target of the rules. It goes the way of events, so that nobody waits for a target, and shows
    /// the whole way; but it holds up no event, and is given up after an hour.
    ///
    /// # Errors
    /// [`Unavailable`]: some may not be queued.
    pub(crate) async fn test(&self, bucket: &str, rules: &Rules, source: &Source) -> Result<(), Unavailable> {
        let now = UnixMillis::now();
        let message = record::test(bucket, source, now);
        let targets: BTreeSet<&str> = rules.0.iter().map(|rule| rule.target.as_str()).collect();
        try_join_all(targets.iter().map(|target| queue::push(&self.store, target, message.clone(), now)))
            .await?;
        self.wake(targets);
        Ok(())
    }

    /// Queues events of what is about to be done. They are delivered a minute later, unless they are confirmed or withdrawn.
    ///
    /// # Errors
    /// [`Unavailable`]: some may not be queued.
    pub(crate) async fn foretell(&self, told: Told<'_>, events: &[Event]) -> Result<Foretold, Unavailable> {
        let due = UnixMillis(UnixMillis::now().0 + FORETOLD_FOR.as_millis() as u64);
        Ok(Foretold(self.queue(told, events, due).await?))
    }

    /// What was foretold has not been done.
    pub(crate) async fn withdraw(&self, foretold: Foretold) {
        for delivery in foretold.0 {
            if let Err(error) = queue::remove(&self.store, &delivery).await {
                tracing::debug!(%error, "an event of what was not done will be delivered");
            }
        }
    }

    async fn queue(
        &self,
        told: Told<'_>,
        events: &[Event],
        due: UnixMillis,
    ) -> Result<Vec<ObjectKey>, Unavailable> {
        let now = UnixMillis::now();
        let mut by_target: BTreeMap<&str, Vec<record::Record<'_>>> = BTreeMap::new();
        for event in events {
            for rule in told.rules.of(event.kind, event.key.as_str()) {
                let record = record::Record::new(event, (rule, told.bucket), told.source, now);
                by_target.entry(rule.target.as_str()).or_default().push(record);
            }
        }
        let mut deliveries: Vec<(&str, Bytes)> = Vec::new();
        for (target, records) in &by_target {
            metrics::counter!(QUEUED, "target" => (*target).to_owned()).increment(records.len() as u64);
            deliveries.extend(records.chunks(MAX_RECORDS).map(|records| (*target, record::message(records))));
        }
        let pushes = deliveries.into_iter().map(|(target, body)| queue::push(&self.store, target, body, due));
        let queued = try_join_all(pushes).await?;
        self.wake(by_target.into_keys());
        Ok(queued)
    }

    fn wake<'a>(&self, targets: impl IntoIterator<Item = &'a str>) {
        for wake in targets.into_iter().filter_map(|target| self.targets.get(target)) {
            wake.notify_one();
        }
    }
}
