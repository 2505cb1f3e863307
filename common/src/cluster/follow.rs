//! Following the coordinator: first map, watch, new clients. One task owns the table and is the only one that makes maps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::map::ClusterMap;
use super::record::{LIVE_PREFIX, PREFIXES};
use super::snapshot::{Changes, Table, map_from_nodes};
use super::{ClientFactory, ClusterError, Inner};
use crate::coordination::{Coordinator, CoordinatorError, WatchEvent};
use crate::node::NodeClient;
use crate::types::NodeId;

const RETRY: Duration = Duration::from_millis(250);
/// Whether the session (and so the leases) can be seen is looked at this often.
const SESSION_CHECK: Duration = Duration::from_millis(500);
const QUEUE: usize = 256;

/// What a merged watch tells: the prefix and the event.
pub(super) type Followed = (&'static str, WatchEvent);

/// Watches several prefixes as one stream.
pub(super) fn watch_all(
    coordinator: &dyn Coordinator,
    prefixes: &'static [&'static str],
) -> mpsc::Receiver<Followed> {
    let (sender, merged) = mpsc::channel(QUEUE);
    for prefix in prefixes {
        let (mut events, sender) = (coordinator.watch(prefix), sender.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    event = events.recv() => {
                        let Some(event) = event else { return };
                        if sender.send((*prefix, event)).await.is_err() {
                            return;
                        }
                    }
                    () = sender.closed() => return,
                }
            }
        });
    }
    merged
}

async fn read_all(coordinator: &dyn Coordinator) -> Result<Vec<Followed>, CoordinatorError> {
    let mut listings = Vec::with_capacity(PREFIXES.len());
    for prefix in PREFIXES {
        listings.push((prefix, WatchEvent::Reset(coordinator.list(prefix).await?)));
    }
    Ok(listings)
}

/// Waits for the first map.
pub(super) async fn first_map(
    coordinator: &dyn Coordinator,
    (seeds, clients): (&[Arc<dyn NodeClient>], &ClientFactory),
    wait: Duration,
) -> Result<ClusterMap, ClusterError> {
    let deadline = Instant::now() + wait;
    loop {
        let reason = match read_all(coordinator).await {
            Ok(listings) => {
                let mut table = Table::default();
                listings.into_iter().for_each(|listing| table.apply(listing));
                if let Some(map) = ClusterMap::from_entries(table.entries())? {
                    return Ok(map);
                }
                "the cluster has no layout yet: its nodes have not all registered".to_owned()
            }
            Err(unavailable) => match map_from_nodes(seeds.to_vec(), clients).await {
                Ok(map) => {
                    tracing::warn!(error = %unavailable, "starting with the map that the nodes keep");
                    coordinator.vouch(map.generation);
                    return Ok(map);
                }
                Err(error) => format!("{unavailable}; {error}"),
            },
        };
        if Instant::now() >= deadline {
            return Err(ClusterError::NoMap { waited: wait, reason });
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Applies what the coordinator tells, until the handle is dropped.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut events = watch_all(&*inner.coordinator, &PREFIXES);
    let (mut table, mut made) = (Table::default(), None);
    let mut session = tokio::time::interval(SESSION_CHECK);
    loop {
        tokio::select! {
            biased;
            event = events.recv() => {
                let Some(event) = event else { return };
                table.apply(event);
                while let Ok(event) = events.try_recv() {
                    table.apply(event);
                }
                if table.complete(&PREFIXES) {
                    made = adopt(&inner, &mut table, made);
                }
            }
            _ = session.tick() => {
                let visible = inner.coordinator.session_alive();
                inner.liveness.lock().set_leases_visible(visible && table.complete(&PREFIXES));
            }
        }
    }
}

/// Reads the map now: from the coordinator, else from the nodes.
pub(super) async fn refresh(inner: &Inner) -> Result<(), ClusterError> {
    match read_all(&*inner.coordinator).await {
        Ok(listings) => {
            let mut table = Table::default();
            listings.into_iter().for_each(|listing| table.apply(listing));
            if let Some(map) = ClusterMap::decode(table.entries(), &mut inner.decoded.lock())? {
                install(inner, map);
            }
            Ok(())
        }
        Err(unavailable) => {
            let clients = inner.clients.load_full();
            let nodes = clients.values().cloned().collect();
            let map = map_from_nodes(nodes, &inner.factory).await.map_err(|error| ClusterError::NoMap {
                waited: Duration::ZERO,
                reason: format!("{unavailable}; {error}"),
            })?;
            install(inner, map);
            Ok(())
        }
    }
}

/// Puts the table's map in place. `made` is the map of the table as it was; the one as it is now is returned.
pub(super) fn adopt(inner: &Inner, table: &mut Table, made: Option<ClusterMap>) -> Option<ClusterMap> {
    let map = match (table.take_changes(), made) {
        // Meanwhile a copy of the nodes may have been put in its place.
        (Changes::None, Some(map)) => Ok(Some(map)),
        (Changes::Records(keys), Some(mut map)) => map.update(table.records(&keys)).map(|()| Some(map)),
        _ => {
            let leases = table.below(LIVE_PREFIX).filter_map(|entry| entry.key.strip_prefix(LIVE_PREFIX));
            inner.liveness.lock().set_leases(leases.map(|id| NodeId(id.to_owned())).collect());
            ClusterMap::decode(table.entries(), &mut inner.decoded.lock())
        }
    };
    match map {
        Ok(Some(map)) => {
            install(inner, map.clone());
            return Some(map);
        }
        Ok(None) => {
            tracing::error!("the coordinator has no layout any more; the last known one stays in use")
        }
        Err(error) => tracing::error!(%error, "the last known cluster map stays in use"),
    }
    None
}

/// Puts a map in place unless the present one is newer (maps move only forward), with a client for each of its nodes.
pub(super) fn install(inner: &Inner, mut map: ClusterMap) {
    let mut addresses = inner.addresses.lock();
    let present = inner.map.load_full();
    let age = |map: &ClusterMap| (map.generation, map.layout.version());
    if map.cluster != present.cluster || age(&map) < age(&present) {
        let (present, offered) = (present.layout.version(), map.layout.version());
        tracing::error!(present, offered, "the coordinator offers an older map, which is not taken");
        return;
    }
    map.keep_higher_epochs(&present);
    let wanted: BTreeMap<NodeId, String> =
        map.nodes.values().map(|node| (node.id.clone(), node.address.clone())).collect();
    if wanted != *addresses {
        let old = inner.clients.load_full();
        let clients: BTreeMap<_, _> = map
            .nodes
            .values()
            .map(|node| {
                let kept = old.get(&node.id).filter(|_| addresses.get(&node.id) == Some(&node.address));
                (node.id.clone(), kept.cloned().unwrap_or_else(|| (inner.factory)(node)))
            })
            .collect();
        inner.clients.store(Arc::new(clients));
        *addresses = wanted;
    }
    if map != *present {
        inner.map.store(Arc::new(map));
    }
}
