//! Clients that make and delete one bucket under each other's feet, through any gateway, each with a key of its own in it.
//!
//! What must hold (PROTOCOL §9): no bucket is deleted with an object in it; what was deleted or replaced is never seen
//! again, whatever became of the bucket; an object that is there is never missing, at no gateway: not at one that has not
//! heard of a new bucket of the old name either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coffer_gateway::object::{DeleteObject, WriteCondition};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::body;
use crate::client::{Read, put_request, read, value_of};
use crate::gateway::Gateway;
use crate::history::Value;
use crate::trace::note;
use crate::world::World;

/// The bucket that comes and goes.
const BUCKET: &str = "side";

/// What each keeper knows of its key.
#[derive(Default)]
pub(crate) struct Kept(Mutex<BTreeMap<String, Key>>);

#[derive(Clone, Debug, Default)]
struct Key {
    /// It is there: the write of this value was acknowledged, and no other was begun.
    holds: Option<Value>,
    /// Values that the key may have: of the last acknowledged write, and of those since whose outcome is unknown.
    may_hold: BTreeSet<Value>,
}

/// See the module.
pub(crate) struct Keeper {
    world: Arc<World>,
    random: StdRng,
    key: String,
}

impl Keeper {
    pub(crate) fn new(world: &Arc<World>, number: usize) -> Self {
        let random = StdRng::seed_from_u64(world.plan.seed ^ (0x6b65_6570 + number as u64));
        Self { world: Arc::clone(world), random, key: format!("kept-{number}") }
    }

    pub(crate) async fn run(mut self) {
        for _ in 0..self.world.plan.operations {
            let most = self.world.plan.think.as_secs_f64();
            tokio::time::sleep(Duration::from_secs_f64(self.random.random_range(0.0..=most))).await;
            match self.random.random_range(0..10) {
                0..2 => self.make().await,
                2..5 => self.put().await,
                5..7 => self.look().await,
                7..9 => self.remove().await,
                _ => {
                    let gateway = self.world.any_gateway(&mut self.random);
                    delete_bucket(&self.world, &gateway).await;
                }
            }
        }
    }

    fn update(&self, change: impl FnOnce(&mut Key)) {
        change(self.world.kept.0.lock().entry(self.key.clone()).or_default());
    }

    async fn make(&mut self) {
        let gateway = self.world.any_gateway(&mut self.random);
        let made = gateway.serve(|store| async move { store.create_bucket(body::new_bucket(BUCKET)).await });
        let made = made.await.map(|made| made.map(drop));
        note!(self.world.trace, "{} makes the bucket: {made:?}", self.key);
    }

    async fn put(&mut self) {
        let bytes = body::bytes(self.random.random_range(1..2_000), self.random.random());
        let value = self.world.history.value(|_| Some(bytes.clone()));
        self.update(|key| {
            key.holds = None;
            key.may_hold.insert(value);
        });
        let request = put_request(BUCKET, &self.key, (value, &bytes), WriteCondition::Always);
        let gateway = self.world.any_gateway(&mut self.random);
        let put = gateway.serve(|store| async move { store.put_object(request).await }).await;
        note!(self.world.trace, "{} puts {value}: {:?}", self.key, put.as_ref().map(Result::is_ok));
        if let Some(Ok(_)) = put {
            self.update(|key| *key = Key { holds: Some(value), may_hold: [value].into() });
        }
    }

    async fn remove(&mut self) {
        self.update(|key| key.holds = None);
        let request = DeleteObject {
            bucket: body::name(BUCKET),
            key: body::key(&self.key),
            version: None,
            condition: WriteCondition::Always,
            bypass_governance: false,
        };
        let gateway = self.world.any_gateway(&mut self.random);
        let removed = gateway.serve(|store| async move { store.delete_object(request).await }).await;
        note!(self.world.trace, "{} is deleted: {:?}", self.key, removed.as_ref().map(Result::is_ok));
        if let Some(Ok(_)) = removed {
            self.update(|key| key.may_hold.clear());
        }
    }

    async fn look(&mut self) {
        let gateway = self.world.any_gateway(&mut self.random);
        look_at(&self.world, &gateway, &self.key).await;
    }
}

/// Reads a key; what is seen must be something that it may hold.
async fn look_at(world: &World, gateway: &Gateway, key: &str) -> Option<Read> {
    let known = || world.kept.0.lock().get(key).cloned().unwrap_or_default();
    let Key { holds, may_hold } = known();
    let wanted = key.to_owned();
    let seen = gateway.serve(|store| async move { read(&store, BUCKET, &wanted).await }).await;
    note!(world.trace, "{key} is looked at: {seen:?}");
    if let Some(Read::Found(info, _)) = &seen
        && !may_hold.contains(&value_of(info))
    {
        world.history.violation(format!("`{key}` is value {}, may be {may_hold:?}", value_of(info)));
    }
    if let (Some(Read::Missing), Some(value)) = (&seen, holds)
        && known().holds == holds
    {
        world.history.violation(format!("`{key}` is missing, holds value {value}"));
    }
    seen
}

/// Deletes the bucket, which must not be possible while a key is there.
async fn delete_bucket(world: &World, gateway: &Gateway) {
    let held = |world: &World| -> BTreeMap<String, Value> {
        let kept = world.kept.0.lock();
        kept.iter().filter_map(|(name, key)| Some((name.clone(), key.holds?))).collect()
    };
    let before = held(world);
    let deleted = gateway.serve(|store| async move { store.delete_bucket(&body::name(BUCKET)).await }).await;
    note!(world.trace, "the bucket is deleted: {deleted:?}");
    let after = held(world);
    let lost: Vec<_> = before.iter().filter(|(name, value)| after.get(*name) == Some(*value)).collect();
    if let (Some(Ok(())), false) = (&deleted, lost.is_empty()) {
        world.history.violation(format!("the bucket was deleted with {lost:?} in it"));
    }
}

/// What is wrong with the bucket in the end.
pub(crate) async fn check(world: &World, gateways: &[Arc<Gateway>]) -> Vec<String> {
    let kept = world.kept.0.lock().clone();
    let mut wrong = Vec::new();
    if kept.values().any(|key| key.holds.is_some()) {
        // A deletion that died half-way left the bucket closed; another one opens it again.
        delete_bucket(world, &gateways[0]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for gateway in gateways {
        for (name, key) in &kept {
            let seen = look_at(world, gateway, name).await;
            let Some(value) = key.holds else { continue };
            if !matches!(&seen, Some(Read::Found(info, _)) if value_of(info) == value) {
                wrong.push(format!("`{name}` is {seen:?} in the end, not value {value}"));
            }
        }
    }
    wrong
}
