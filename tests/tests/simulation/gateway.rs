//! A gateway process: its view of the cluster, its object layer, and the clients that it serves.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::{Cluster, ClusterOptions};
use coffer_common::coordination::simulated::SimulatedCoordinator;
use coffer_common::node::{Door, Stand};
use coffer_common::shutdown::Shutdown;
use coffer_gateway::object::{ObjectStore, StoreSettings};

use crate::network::Place;
use crate::trace::note;
use crate::world::World;

const MAP_PATIENCE: Duration = Duration::from_secs(600);
/// How long a client waits for an answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(40);

/// See the module.
pub(crate) struct Gateway {
    /// Everything from and to it passes this door: to clients, to nodes, to etcd.
    life: Arc<Door>,
    stop: Shutdown,
    pub(crate) coordinator: Arc<SimulatedCoordinator>,
    store: ObjectStore,
    pub(crate) cluster: Cluster,
}

impl Gateway {
    /// Starts one at a place; it comes back when it is ready.
    pub(crate) async fn start(world: &Arc<World>, index: usize) -> Arc<Self> {
        let (life, stop, here) = (Arc::<Door>::default(), Shutdown::new(), Place::Gateway(index));
        let doors = vec![Arc::clone(&life), world.network.way(here, Place::Etcd)];
        let coordinator = world.etcd.connect(doors).await;
        let options = ClusterOptions {
            coordinator: Arc::clone(&coordinator) as _,
            clients: world.network.clients(here, &life),
            seeds: Vec::new(),
            local: None,
        };
        let cluster = Cluster::start(options, MAP_PATIENCE).await.expect("there is a map");
        let store = ObjectStore::start(cluster.clone(), StoreSettings::default(), stop.clone()).await;
        note!(world.trace, "gateway {index} serves");
        Arc::new(Self { life, stop, coordinator, store, cluster })
    }

    /// Has the gateway do something for a client; `None` if the client does not learn what became of it.
    pub(crate) async fn serve<T, F>(&self, request: impl FnOnce(ObjectStore) -> F) -> Option<T>
    where
        F: Future<Output = T>,
    {
        let served = async {
            if !self.life.pass().await {
                return None;
            }
            let answer = request(self.store.clone()).await;
            self.life.pass().await.then_some(answer)
        };
        tokio::select! {
            biased;
            () = self.stop.told() => None,
            answer = tokio::time::timeout(CLIENT_PATIENCE, served) => answer.ok().flatten(),
        }
    }

    /// Stops or continues the process.
    pub(crate) fn hold(&self, stand: Stand) {
        if !self.stop.is_told() {
            self.life.set(stand);
        }
    }

    /// The process dies in the middle of whatever it does.
    pub(crate) fn kill(&self) {
        self.life.set(Stand::Shut);
        self.coordinator.kill();
        self.stop.tell();
    }
}
