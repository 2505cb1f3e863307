//! What an operator wants of scrubbing, kept in the coordinator for all drives of the cluster.

use serde::{Deserialize, Serialize};

use crate::coordination::{Coordinator, CoordinatorError, Expected};
use crate::time::UnixMillis;

const SCRUB_KEY: &str = "scrub";

/// The order of the day; the default is what holds if nothing was ever said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubOrder {
    /// Nothing is scrubbed until this is taken back; what runs goes on where it stopped.
    pub paused: bool,
    /// Drives whose last pass began before this begin one, and do not wait between shards: milliseconds since the Unix
    /// epoch.
    pub requested_ms: u64,
}

impl ScrubOrder {
    /// The order as it is now.
    ///
    /// # Errors
    /// [`CoordinatorError`].
    pub async fn read(coordinator: &dyn Coordinator) -> Result<Self, CoordinatorError> {
        let entry = coordinator.get(SCRUB_KEY).await?;
        // What a newer version wrote and this one cannot read is as good as nothing said.
        Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default())
    }

    /// Changes the order, whatever others do at the same time.
    ///
    /// # Errors
    /// [`CoordinatorError`]; the outcome may be unknown.
    pub async fn change(
        coordinator: &dyn Coordinator,
        change: impl Fn(Self) -> Self + Send + Sync,
    ) -> Result<Self, CoordinatorError> {
        loop {
            let entry = coordinator.get(SCRUB_KEY).await?;
            let expected =
                entry.as_ref().map_or(Expected::Absent, |entry| Expected::Revision(entry.revision));
            let known = entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default();
            let order = change(known);
            let value = serde_json::to_vec(&order).unwrap_or_default().into();
            match coordinator.put(SCRUB_KEY, value, expected, false).await {
                Err(CoordinatorError::Conflict { .. }) => {}
                written => return written.map(|_| order),
            }
        }
    }

    /// The same, with a pass of every drive asked for now.
    pub fn requested(self) -> Self {
        Self { paused: false, requested_ms: UnixMillis::now().0 }
    }
}
