//! The first layout of a cluster: made once, by whichever node sees all expected ones first; one coordinator
//! transaction decides.

use bytes::Bytes;

use super::record::{ClusterRecord, LAYOUT_KEY, NodeRecord};
use crate::coordination::{CLUSTER_KEY, Change, Coordinator, CoordinatorError, Expected, Write};
use crate::layout::{Layout, LayoutDrive, LayoutError, stripe_width};
use crate::limits::PARTITION_COUNT;
use crate::time::UnixMillis;
use crate::types::ClusterId;

/// There is no first layout.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// These drives allow none.
    #[error("no layout for these drives: {0}")]
    Layout(#[from] LayoutError),
    /// The coordinator did not take it.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
}

/// A cluster record and a layout that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstLayout {
    /// The cluster.
    pub record: ClusterRecord,
    /// Its layout.
    pub layout: Layout,
}

/// Makes the first layout over all drives of these nodes.
///
/// # Errors
/// [`LayoutError`] if the drives allow none.
pub fn first_layout(nodes: &[NodeRecord], cluster: ClusterId) -> Result<FirstLayout, LayoutError> {
    let per_node: Vec<usize> = nodes.iter().map(|node| node.drives.len()).collect();
    let n = stripe_width(&per_node);
    let drives = nodes.iter().flat_map(|node| {
        node.drives.iter().map(|drive| LayoutDrive {
            id: drive.id,
            node: node.id.clone(),
            zone: node.zone.clone(),
            capacity_bytes: drive.capacity_bytes,
        })
    });
    let layout = Layout::assign(drives.collect(), n, None)?;
    let created_ms = UnixMillis::now().0;
    let record = ClusterRecord { id: cluster, generation: 1, partitions: PARTITION_COUNT, n, created_ms };
    Ok(FirstLayout { record, layout })
}

impl FirstLayout {
    /// Writes it unless another node was faster; tells whether this one was taken.
    ///
    /// # Errors
    /// [`BootstrapError::Coordinator`] if the coordinator does not answer.
    pub async fn apply(&self, coordinator: &dyn Coordinator) -> Result<bool, BootstrapError> {
        let record = serde_json::to_vec(&self.record).expect("plain data is always JSON");
        let write = |key: &str, value: Vec<u8>| Write {
            key: key.to_owned(),
            expected: Expected::Absent,
            change: Change::Put { value: Bytes::from(value), leased: false },
        };
        let writes = vec![write(CLUSTER_KEY, record), write(LAYOUT_KEY, self.layout.encode())];
        match coordinator.transaction(writes).await {
            Ok(_) => Ok(true),
            Err(CoordinatorError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
