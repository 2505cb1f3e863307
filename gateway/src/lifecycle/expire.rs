//! Deletes what is due, and tells of it.
//!
//! Nobody would do it again for the sake of an event, so the event is queued before, to be delivered a minute later. When
//! the version is gone the event takes its place that says all; when it was not due after all it is withdrawn. If the gateway
//! dies in between, what was foretold is delivered, and the next pass does what it tells of, or finds that it was done.

use crate::notify::{Change, Event, Foretold, Kind, Notifier, Rules, Source, Told};
use crate::object::{
    BucketInfo, BucketVersioning, DeleteError, DeleteObject, Deleted, ListedVersion, ObjectStore,
    Unavailable, WriteCondition,
};

use super::walk::{Action, Due};
use super::worker::{FAILED, Worker};

const EXPIRED: &str = "coffer_lifecycle_expired_objects_total";
const EXPIRED_VERSIONS: &str = "coffer_lifecycle_expired_versions_total";
const REMOVED_MARKERS: &str = "coffer_lifecycle_removed_delete_markers_total";
/// Who asks, where no one does.
const NOBODY: &str = "lifecycle.coffer";

/// Deletes in one bucket.
pub(super) struct Expirer<'a> {
    store: &'a ObjectStore,
    notifier: &'a Notifier,
    bucket: &'a BucketInfo,
    /// Which events go where.
    rules: Rules,
    source: Source,
}

impl<'a> Expirer<'a> {
    /// Of a pass that begins.
    pub(super) fn new(worker: &'a Worker, bucket: &'a BucketInfo) -> Self {
        let text = bucket.documents.get(crate::notify::DOCUMENT);
        let rules = text.and_then(Rules::decode).unwrap_or_default();
        let [principal, address, request_id, host_id] = [NOBODY, NOBODY, "", ""].map(str::to_owned);
        let source = Source { principal, address, request_id, host_id };
        Self { store: &worker.store, notifier: &worker.notifier, bucket, rules, source }
    }

    /// Deletes a version that is due, if it is still what was listed.
    pub(super) async fn carry_out(&self, due: Due) {
        let Due { action, version } = due;
        let (counter, named) = match action {
            Action::Expire => (EXPIRED, None),
            Action::RemoveVersion => (EXPIRED_VERSIONS, Some(version.info.version)),
            Action::RemoveMarker => (REMOVED_MARKERS, Some(version.info.version)),
        };
        let key = version.key.clone();
        let foretold = match self.foretell(action, &version).await {
            Ok(foretold) => foretold,
            Err(error) => return failed(&key, &error),
        };
        let request = DeleteObject {
            bucket: self.bucket.name.clone(),
            key: key.clone(),
            version: named,
            condition: WriteCondition::Unchanged(Box::new(version)),
            bypass_governance: false,
        };
        match self.store.delete_object(request).await {
            Ok(deleted) => {
                metrics::counter!(counter).increment(1);
                let kind =
                    if action == Action::Expire { expired_by(deleted.delete_marker) } else { Kind::Expired };
                let event = Event { kind, key: key.clone(), change: Change::from(&deleted) };
                self.confirm(foretold, event).await;
            }
            // It was written, changed or deleted meanwhile, or it is protected now.
            Err(
                DeleteError::ConditionFailed
                | DeleteError::NoSuchKey
                | DeleteError::NoSuchBucket
                | DeleteError::Lock(_),
            ) => self.notifier.withdraw(foretold).await,
            // It may have been done.
            Err(error) => failed(&key, &error),
        }
    }

    fn told(&self) -> Told<'_> {
        Told { bucket: self.bucket, rules: &self.rules, source: &self.source }
    }

    async fn foretell(&self, action: Action, version: &ListedVersion) -> Result<Foretold, Unavailable> {
        let keeps_versions = self.bucket.versioning != BucketVersioning::Never;
        let (kind, deleted) = match action {
            Action::Expire => (expired_by(keeps_versions), Deleted::default()),
            Action::RemoveVersion | Action::RemoveMarker => {
                (Kind::Expired, Deleted { version: Some(version.info.version), ..Deleted::default() })
            }
        };
        let event = Event { kind, key: version.key.clone(), change: Change::from(&deleted) };
        self.notifier.foretell(self.told(), &[event]).await
    }

    /// Puts the event that says all in the place of what was foretold.
    async fn confirm(&self, foretold: Foretold, event: Event) {
        match self.notifier.tell(self.told(), &[event]).await {
            Ok(()) => self.notifier.withdraw(foretold).await,
            Err(error) => tracing::debug!(%error, "an event will be delivered as it was foretold"),
        }
    }
}

fn expired_by(marker: bool) -> Kind {
    if marker { Kind::ExpiredByMarker } else { Kind::Expired }
}

fn failed(key: &dyn std::fmt::Display, error: &dyn std::fmt::Display) {
    metrics::counter!(FAILED).increment(1);
    tracing::debug!(%key, %error, "not expired; the next pass tries again");
}
