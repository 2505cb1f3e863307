//! How background work gives way to requests.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::DriveStore;

/// How often it is looked whether requests still wait for the drive.
const PATIENCE_STEP: Duration = Duration::from_millis(10);
/// Longest that one step waits for requests: background work never stands still.
const MOST_PATIENCE: Duration = Duration::from_millis(200);

/// Waits while requests wait for the drive's threads, but not for long.
pub(crate) async fn let_requests_pass(store: &DriveStore) {
    let began = Instant::now();
    while store.is_busy() && began.elapsed() < MOST_PATIENCE {
        tokio::time::sleep(PATIENCE_STEP).await;
    }
}
