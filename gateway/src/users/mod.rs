//! Named users beside root: who they are, and the keys that they sign with.
//!
//! Owns: the records below `iam/` at the coordinator, their changes, and this gateway's copy of them. Never: decides what a
//! user may do, or looks at a request.
//!
//! 1. A user is one record, `iam/users/<name>`; `iam/keys/<access key>` names its user, so that no key is given twice. Both
//!    are written and removed by one transaction.
//! 2. A watch keeps all records in memory: a change is in force here as soon as it is told, well within a second.
//! 3. While the coordinator is away, the users that were known last go on; a gateway that starts then takes the newest
//!    copy that enough nodes agree on. An access key that is not known while the users are not is told as unavailable,
//!    never as unknown.
//!
//! Consistency: a user that was removed may be served for as long as the watch takes. Crash: a transaction was applied or
//! not. Secrets are kept as they are, because signatures are computed with them: who may read the coordinator or the
//! drives can sign as any user.

mod record;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use coffer_common::cluster::{Cluster, user_entries};
use coffer_common::coordination::{Entry, WatchEvent};
use coffer_common::meta::Owner;
use coffer_common::shutdown::Shutdown;

use crate::s3::auth::{Credential, Credentials};

pub use record::{AddUser, UserError, UserRecord, add, list, remove};

use record::{USERS, decode};

/// How long a start waits for the users.
const RECORDS_WAIT: Duration = Duration::from_secs(5);
/// Between two tries to learn the users from the nodes.
const RETRY: Duration = Duration::from_secs(1);

/// The canonical id of the root user: what the gateway's own key pair owns. Fixed, so that a changed key still owns it.
const ROOT_ID: &str = "3f1c0a5be7d24896a1c4d3f0987be25160fd4ab37c9e1d82f5a60b749c13e8d2";

/// Who owns what the gateway's own key pair creates.
pub(crate) fn root_owner() -> Owner {
    Owner { id: ROOT_ID.to_owned(), display_name: record::ROOT_NAME.to_owned() }
}

/// Who an access key belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The gateway's own key pair: may do everything.
    Root,
    /// A user.
    User(Owner),
}

/// All users at one time.
struct Directory {
    records: BTreeMap<String, UserRecord>,
    /// Every key that is accepted, root's among them.
    credentials: Credentials,
    /// Whose key it is.
    owners: BTreeMap<String, Owner>,
}

impl Directory {
    fn new(root: &Credential, records: BTreeMap<String, UserRecord>) -> Self {
        let keys = || records.values().flat_map(|user| user.keys.iter().map(move |key| (user, key)));
        let credential = |(_, key): (_, &record::AccessKey)| {
            Credential::new(key.access_key.clone(), key.secret_key.clone())
        };
        let owner = |(user, key): (&UserRecord, &record::AccessKey)| (key.access_key.clone(), user.owner());
        Self {
            // Root comes last: nobody takes its place.
            credentials: keys().map(credential).chain([root.clone()]).collect(),
            owners: keys().map(owner).collect(),
            records,
        }
    }
}

/// The users as this gateway knows them; cheap to clone.
#[derive(Clone)]
pub(crate) struct Users {
    inner: Arc<Inner>,
}

struct Inner {
    root: Credential,
    directory: ArcSwap<Directory>,
    known: AtomicBool,
}

impl Users {
    /// Begins to follow the users, as far as they can be had now.
    pub(crate) async fn start(cluster: &Cluster, root: Credential, shutdown: &Shutdown) -> Self {
        let directory = ArcSwap::from_pointee(Directory::new(&root, BTreeMap::new()));
        let users = Self { inner: Arc::new(Inner { root, directory, known: AtomicBool::new(false) }) };
        let (told, first) = tokio::sync::oneshot::channel();
        shutdown.spawn(follow(users.clone(), cluster.clone(), shutdown.clone(), told));
        if tokio::time::timeout(RECORDS_WAIT, first).await.is_err() {
            tracing::warn!("the users are not known yet: only root is");
        }
        users
    }

    /// The keys that are accepted now.
    pub(crate) fn credentials(&self) -> Credentials {
        self.inner.directory.load().credentials.clone()
    }

    /// Root's key pair.
    pub(crate) fn root(&self) -> &Credential {
        &self.inner.root
    }

    /// Whose key this is.
    pub(crate) fn identity(&self, access_key: &str) -> Option<Identity> {
        if access_key == self.inner.root.access_key() {
            return Some(Identity::Root);
        }
        self.inner.directory.load().owners.get(access_key).cloned().map(Identity::User)
    }

    /// Whether all users are known.
    pub(crate) fn are_known(&self) -> bool {
        self.inner.known.load(Ordering::Acquire)
    }

    fn replace(&self, records: BTreeMap<String, UserRecord>) {
        self.inner.directory.store(Arc::new(Directory::new(&self.inner.root, records)));
    }

    fn take_all<'a>(&self, entries: impl Iterator<Item = &'a Entry>) {
        let records = entries.filter_map(readable);
        self.replace(records.map(|record| (record.name.clone(), record)).collect());
        self.inner.known.store(true, Ordering::Release);
    }

    /// Takes what a watch tells.
    fn apply(&self, event: &WatchEvent) {
        let mut records = match event {
            WatchEvent::Reset(listing) => return self.take_all(listing.entries.iter()),
            WatchEvent::Put(_) | WatchEvent::Delete { .. } => self.inner.directory.load().records.clone(),
        };
        match event {
            WatchEvent::Put(entry) => {
                if let Some(record) = readable(entry) {
                    records.insert(record.name.clone(), record);
                }
            }
            WatchEvent::Delete { key, .. } => {
                records.remove(key.strip_prefix(USERS).unwrap_or(key));
            }
            WatchEvent::Reset(_) => {}
        }
        self.replace(records);
    }
}

fn readable(entry: &Entry) -> Option<UserRecord> {
    decode(entry).inspect_err(|error| tracing::error!(key = entry.key, %error, "user ignored")).ok()
}

/// Keeps the users: the coordinator's watch, and until it first speaks the nodes' copies.
async fn follow(users: Users, cluster: Cluster, shutdown: Shutdown, told: tokio::sync::oneshot::Sender<()>) {
    let coordinator = cluster.coordinator();
    let mut events = coordinator.watch(USERS);
    let mut told = Some(told);
    loop {
        if users.are_known()
            && let Some(told) = told.take()
        {
            // Nobody waits any more: the start went on without the users.
            let _ = told.send(());
        }
        tokio::select! {
            biased;
            () = shutdown.told() => return,
            event = events.recv() => match event {
                Some(event) => users.apply(&event),
                None => {
                    tokio::time::sleep(RETRY).await;
                    events = coordinator.watch(USERS);
                }
            },
            () = tokio::time::sleep(RETRY), if !users.are_known() => match user_entries(&cluster).await {
                Ok(entries) => users.take_all(entries.iter().filter(|entry| entry.key.starts_with(USERS))),
                Err(error) => tracing::debug!(%error, "no users from the nodes"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::record::{AccessKey, encode};
    use super::*;

    fn users() -> Users {
        let root = Credential::new("root-key", "secret");
        let directory = ArcSwap::from_pointee(Directory::new(&root, BTreeMap::new()));
        Users { inner: Arc::new(Inner { root, directory, known: AtomicBool::new(false) }) }
    }

    fn put(name: &str, key: &str) -> WatchEvent {
        let keys = vec![AccessKey { access_key: key.to_owned(), secret_key: "long-secret".to_owned() }];
        let record = UserRecord { name: name.to_owned(), id: format!("id-{name}"), created_ms: 1, keys };
        let (key, value) = (format!("{USERS}{name}"), encode(&record));
        WatchEvent::Put(Entry { key, value, revision: 2, create_revision: 2 })
    }

    #[test]
    fn users_come_and_go_with_the_watch_and_root_stays() {
        let users = users();
        assert!(!users.are_known());
        users.apply(&WatchEvent::Reset(Default::default()));
        assert!(users.are_known() && users.credentials().find("a-key").is_none());
        users.apply(&put("alice", "a-key"));
        let alice = Owner { id: "id-alice".to_owned(), display_name: "alice".to_owned() };
        assert_eq!(users.identity("a-key"), Some(Identity::User(alice)));
        assert!(users.credentials().find("a-key").is_some());
        users.apply(&put("mallory", "root-key"));
        assert_eq!(users.identity("root-key"), Some(Identity::Root));
        users.apply(&WatchEvent::Delete { key: format!("{USERS}alice"), revision: 3 });
        assert_eq!(users.identity("a-key"), None);
        assert!(
            users.credentials().find("a-key").is_none() && users.credentials().find("root-key").is_some()
        );
    }
}
