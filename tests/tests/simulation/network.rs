//! Doors on every way between processes, and the links of those who call nodes.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use coffer_common::cluster::ClientFactory;
use coffer_common::node::{Door, Doors, FaultPlan, FaultyNode, NodeClient, Stand};
use coffer_common::types::NodeId;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::node::Host;

/// A place in the network: processes come and go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Node(usize),
    Gateway(usize),
    Etcd,
}

/// See the module.
pub(crate) struct Network {
    hosts: Vec<Arc<Host>>,
    ways: Mutex<BTreeMap<(Place, Place), Arc<Door>>>,
    links: Mutex<Links>,
}

struct Links {
    plan: FaultPlan,
    seeds: StdRng,
    all: Vec<Weak<FaultyNode>>,
}

impl Network {
    pub(crate) fn new(hosts: Vec<Arc<Host>>, plan: FaultPlan, seed: u64) -> Arc<Self> {
        let links = Links { plan, seeds: StdRng::seed_from_u64(seed), all: Vec::new() };
        Arc::new(Self { hosts, ways: Mutex::default(), links: Mutex::new(links) })
    }

    /// The door on the way from one place to another.
    pub(crate) fn way(&self, from: Place, to: Place) -> Arc<Door> {
        Arc::clone(self.ways.lock().entry((from, to)).or_default())
    }

    /// How a process at a place, alive as long as `life` is not shut, calls nodes.
    pub(crate) fn clients(self: &Arc<Self>, from: Place, life: &Arc<Door>) -> ClientFactory {
        let (network, life) = (Arc::clone(self), Arc::clone(life));
        Arc::new(move |record| network.link(from, &life, &record.id))
    }

    fn link(&self, from: Place, life: &Arc<Door>, node: &NodeId) -> Arc<dyn NodeClient> {
        let to = self.hosts.iter().position(|host| host.id() == node).expect("every node has a host");
        let host = &self.hosts[to];
        let doors = Doors {
            there: vec![Arc::clone(life), self.way(from, Place::Node(to)), Arc::clone(host.door())],
            back: vec![Arc::clone(host.door()), self.way(Place::Node(to), from), Arc::clone(life)],
        };
        let mut links = self.links.lock();
        let (plan, seed) = (links.plan.clone(), links.seeds.random());
        let link =
            FaultyNode::new(Arc::clone(host) as Arc<dyn NodeClient>, &node.0, plan, seed).behind(doors);
        let link = Arc::new(link);
        links.all.push(Arc::downgrade(&link));
        link
    }

    /// Everything is open and nothing is lost from now on.
    pub(crate) fn calm(&self, plan: &FaultPlan) {
        self.ways.lock().values().for_each(|door| door.set(Stand::Open));
        let mut links = self.links.lock();
        links.plan = plan.clone();
        links.all.iter().filter_map(Weak::upgrade).for_each(|link| link.set_plan(plan.clone()));
    }
}
