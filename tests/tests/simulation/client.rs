//! A client: one request after the other through any gateway, each recorded with what it was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::linearizability::{Call, Return};
use coffer_gateway::object::{
    Attributes, CopyAttributes, CopyError, CopyObject, CopySource, DeleteError, DeleteObject, Encrypt,
    GetError, GetObject, ObjectInfo, ObjectStore, Owner, PutError, PutObject, ReadCondition, Select, Unlock,
    WriteCondition,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::body;
use crate::gateway::Gateway;
use crate::history::{History, Value};
use crate::trace::note;
use crate::world::{BUCKET, World};

/// The name of the user metadata that tells which value an object is.
const VALUE: &str = "value";

/// See the module.
pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) world: Arc<World>,
    pub(crate) random: StdRng,
    /// The entity tag under which each key was seen last.
    seen: BTreeMap<String, (Value, String)>,
}

/// Attributes that carry a value's number.
pub(crate) fn attributes(value: Value) -> Attributes {
    let user_metadata = BTreeMap::from([(VALUE.to_owned(), value.to_string())]);
    Attributes { user_metadata, ..Attributes::default() }
}

/// The number that an object carries.
pub(crate) fn value_of(info: &ObjectInfo) -> Value {
    let number = info.attributes.user_metadata.get(VALUE);
    number.and_then(|number| number.parse().ok()).unwrap_or(Value::MAX)
}

impl Client {
    pub(crate) fn new(world: &Arc<World>, number: usize) -> Self {
        let seed = world.plan.seed.wrapping_mul(31).wrapping_add(number as u64);
        let (world, random) = (Arc::clone(world), StdRng::seed_from_u64(seed));
        Self { number, world, random, seen: BTreeMap::new() }
    }

    pub(crate) fn history(&self) -> &History {
        &self.world.history
    }

    /// Does the planned number of requests.
    pub(crate) async fn run(mut self) {
        for _ in 0..self.world.plan.operations {
            let most = self.world.plan.think.as_secs_f64();
            tokio::time::sleep(Duration::from_secs_f64(self.random.random_range(0.0..=most))).await;
            let key = format!("k{}", self.random.random_range(0..self.world.plan.keys));
            let reads = self.random.random_bool(self.world.plan.reads);
            match self.random.random_range(if reads { 25..52 } else { 0..100 }) {
                0..25 => self.put(&key).await,
                25..45 => self.get(&key).await,
                45..52 => self.head(&key).await,
                52..62 => self.delete(&key).await,
                62..72 => self.put_if(&key).await,
                72..77 => self.delete_if(&key).await,
                77..82 => self.copy(&key).await,
                82..90 => self.list().await,
                _ => self.upload(&key).await,
            }
        }
    }

    pub(crate) fn gateway(&mut self) -> Arc<Gateway> {
        self.world.any_gateway(&mut self.random)
    }

    /// A body of a new value; now and then one whose shards are files.
    pub(crate) fn new_value(&mut self) -> (Value, Bytes) {
        let len = match self.random.random_range(0..20) {
            0 => self.world.plan.file_bytes(),
            1 => 0,
            _ => self.random.random_range(1..3_000),
        };
        let mut made = Bytes::new();
        let value = self.world.history.value(|value| {
            // Its number at the front: no two values have the same bytes, unless they have none.
            if len > 0 {
                made = [&value.to_be_bytes()[..], &body::bytes(len, u64::from(value))].concat().into();
            }
            Some(made.clone())
        });
        (value, made)
    }

    /// Keeps an entity tag for conditions; those of empty objects are all the same.
    fn see(&mut self, key: &str, info: &ObjectInfo) {
        if info.size > 0 {
            self.seen.insert(key.to_owned(), (value_of(info), info.etag.clone()));
        }
    }

    fn told(&self, what: &str, key: &str, told: &dyn std::fmt::Debug) {
        note!(self.world.trace, "client {} {what} {key}: {told:?}", self.number);
    }

    /// Writes under a condition; `call` tells what that means for the register.
    async fn write(&mut self, key: &str, condition: WriteCondition, call: impl Fn(Value) -> Call) {
        let (value, bytes) = self.new_value();
        let (begin, gateway) = (self.history().now(), self.gateway());
        let request = put_request(BUCKET, key, (value, &bytes), condition);
        let answer = gateway.serve(|store| async move { store.put_object(request).await }).await;
        let returned = match &answer {
            Some(Ok(info)) => {
                self.see(key, info);
                Some(Return::Ok)
            }
            Some(Err(PutError::ConditionFailed | PutError::NoSuchKey)) => Some(Return::Rejected),
            Some(Err(PutError::Conflict | PutError::Overloaded)) => None,
            Some(Err(PutError::Unavailable(_))) | None => Some(Return::Unknown),
            Some(Err(error)) => {
                self.history().violation(format!("`{key}`: PUT was told {error:?}"));
                None
            }
        };
        self.told(
            "put",
            key,
            &(value, bytes.len(), call(value), &returned, answer.map(|answer| answer.err())),
        );
        if let Some(returned) = returned {
            self.history().record(key, call(value), returned, begin);
        }
    }

    async fn put(&mut self, key: &str) {
        self.write(key, WriteCondition::Always, Call::Write).await;
    }

    async fn put_if(&mut self, key: &str) {
        match self.seen.get(key).filter(|_| self.random.random_bool(0.6)).cloned() {
            Some((old, etag)) => {
                let condition = WriteCondition::EtagIn(vec![etag]);
                self.write(key, condition, |new| Call::Replace(old, new)).await;
            }
            None => self.write(key, WriteCondition::Absent, |new| Call::Replace(0, new)).await,
        }
    }

    async fn get(&mut self, key: &str) {
        let (begin, gateway) = (self.history().now(), self.gateway());
        let wanted = key.to_owned();
        let answer = gateway.serve(|store| async move { read(&store, BUCKET, &wanted).await }).await;
        match &answer {
            Some(Read::Found(info, bytes)) => {
                self.see(key, info);
                self.history().record_read(key, value_of(info), Some(bytes), begin);
            }
            Some(Read::Missing) => self.history().record_read(key, 0, None, begin),
            Some(Read::Failed(_)) | None => {}
        }
        self.told("get", key, &answer);
    }

    async fn head(&mut self, key: &str) {
        let (begin, gateway) = (self.history().now(), self.gateway());
        let request = get_request(BUCKET, key);
        let answer = gateway.serve(|store| async move { store.head_object(request).await }).await;
        let value = match &answer {
            Some(Ok((info, _))) => Some(value_of(info)),
            Some(Err(GetError::NoSuchKey)) => Some(0),
            Some(Err(_)) | None => None,
        };
        if let Some(value) = value {
            self.history().record_read(key, value, None, begin);
        }
        self.told("head", key, &value);
    }

    async fn remove(&mut self, key: &str, condition: WriteCondition, call: Call) {
        let (begin, gateway) = (self.history().now(), self.gateway());
        let request = DeleteObject {
            bucket: body::name(BUCKET),
            key: body::key(key),
            version: None,
            condition,
            bypass_governance: false,
        };
        let answer = gateway.serve(|store| async move { store.delete_object(request).await }).await;
        let returned = match &answer {
            Some(Ok(_)) => Some(Return::Ok),
            Some(Err(DeleteError::ConditionFailed | DeleteError::NoSuchKey)) => Some(Return::Rejected),
            Some(Err(DeleteError::Conflict)) => None,
            Some(Err(DeleteError::Unavailable(_))) | None => Some(Return::Unknown),
            Some(Err(error)) => {
                self.history().violation(format!("`{key}`: DELETE was told {error:?}"));
                None
            }
        };
        self.told("delete", key, &(call, &answer));
        if let Some(returned) = returned {
            self.history().record(key, call, returned, begin);
        }
    }

    async fn delete(&mut self, key: &str) {
        self.remove(key, WriteCondition::Always, Call::Write(0)).await;
    }

    async fn delete_if(&mut self, key: &str) {
        let Some((old, etag)) = self.seen.get(key).cloned() else { return };
        self.remove(key, WriteCondition::EtagIn(vec![etag]), Call::Replace(old, 0)).await;
    }

    /// Copies a key to one that only copies write: two values of one key never have the same entity tag.
    async fn copy(&mut self, key: &str) {
        let target = format!("copy-{}", self.random.random_range(0..2));
        let value = self.history().value(|_| None);
        let (begin, gateway) = (self.history().now(), self.gateway());
        let request = CopyObject {
            source: CopySource {
                bucket: body::name(BUCKET),
                key: body::key(key),
                version: None,
                condition: ReadCondition::default(),
                customer_key: None,
            },
            bucket: body::name(BUCKET),
            key: body::key(&target),
            attributes: CopyAttributes::Replace { attributes: attributes(value), keep_tags: false },
            owner: Owner::default(),
            condition: WriteCondition::Always,
            encrypt: Encrypt::No,
            digester: Box::new(|_, _| Ok(body::digester())),
        };
        let answer = gateway.serve(|store| async move { store.copy_object(request).await }).await;
        match &answer {
            Some(Ok(_)) => self.history().record(&target, Call::Write(value), Return::Ok, begin),
            Some(Err(CopyError::Source(GetError::NoSuchKey))) => {
                self.history().record_read(key, 0, None, begin);
            }
            Some(Err(CopyError::Target(PutError::Unavailable(_)))) | None => {
                self.history().record(&target, Call::Write(value), Return::Unknown, begin);
            }
            Some(Err(_)) => {}
        }
        self.told("copy", &target, &(key, value, answer.map(|answer| answer.err())));
    }

    async fn list(&mut self) {
        let (begin, gateway) = (self.history().now(), self.gateway());
        let limit = [2, 1_000][self.random.random_range(0..2)];
        let listed = gateway.serve(|store| async move { list(&store, limit).await }).await.flatten();
        if let Some(listed) = &listed {
            for key in self.history().keys() {
                let value = listed.get(&key).copied().unwrap_or(0);
                self.history().record_read(&key, value, None, begin);
            }
        }
        self.told("list", "", &listed);
    }
}

/// What became of a read.
pub(crate) enum Read {
    Found(Box<ObjectInfo>, Bytes),
    Missing,
    Failed(String),
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Found(info, bytes) => write!(f, "value {} of {} bytes", value_of(info), bytes.len()),
            Self::Missing => f.write_str("missing"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// A write of a value.
pub(crate) fn put_request(
    bucket: &str,
    key: &str,
    (value, bytes): (Value, &Bytes),
    condition: WriteCondition,
) -> PutObject {
    let request = body::put_request(bucket, key, body::body(bytes));
    PutObject { attributes: attributes(value), condition, ..request }
}

fn get_request(bucket: &str, key: &str) -> GetObject {
    GetObject {
        bucket: body::name(bucket),
        key: body::key(key),
        version: None,
        select: Select::All,
        condition: ReadCondition::default(),
        unlock: Unlock::default(),
    }
}

/// Reads an object to its end.
pub(crate) async fn read(store: &ObjectStore, bucket: &str, key: &str) -> Read {
    let mut object = match store.get_object(get_request(bucket, key)).await {
        Ok(object) => object,
        Err(GetError::NoSuchKey) => return Read::Missing,
        Err(error) => return Read::Failed(error.to_string()),
    };
    let mut bytes = Vec::new();
    loop {
        match object.bytes.next().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return Read::Found(Box::new(object.info), bytes.into()),
            Err(broken) => return Read::Failed(broken.reason),
        }
    }
}

/// All keys of the bucket with their values; `None` if a page could not be had.
pub(crate) async fn list(store: &ObjectStore, limit: u32) -> Option<BTreeMap<String, Value>> {
    let mut request = body::list_request(BUCKET, "", "", limit);
    let mut all = BTreeMap::new();
    loop {
        let page = store.list_objects(request.clone()).await.ok()?;
        let values =
            page.objects.iter().map(|object| (object.key.as_str().to_owned(), value_of(&object.info)));
        all.extend(values);
        match page.next {
            Some(next) => request.start_after = next,
            None => return Some(all),
        }
    }
}
