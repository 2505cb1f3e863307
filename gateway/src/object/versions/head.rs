//! What the register of a key says of all its versions, and what the next version says in its place: pure.

use coffer_common::meta::{History, NullVersion, ObjectMeta, RegisterMeta};
use coffer_common::protocol::message::{Version, VersionKind};
use coffer_common::protocol::tally::Current;
use coffer_common::types::{OpId, SlotSet, Tag, VersionRef};

use crate::object::bucket::Versioning;
use crate::object::coding::stripes;
use crate::object::delete::tombstone_version;
use crate::object::error::Unavailable;
use crate::object::info::{object_meta, version_id};
use crate::object::multipart::metadata_version;
use crate::object::types::VersionId;

/// The decided current version of a key, and what it says of those below it.
#[derive(Clone, Debug, Default)]
pub(in crate::object) struct Head {
    current: Option<Current>,
    /// Of a tombstone, too.
    object: ObjectMeta,
}

/// What a version id means for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::object) enum Place {
    /// The current version.
    Current,
    /// Perhaps an archived one: its register tells, and [`Head::keeps`].
    Archived(VersionRef),
    /// No version of the key.
    Nowhere,
}

/// What is committed next to a key's register.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::object) struct Plan {
    /// Whether the current version must be archived first.
    pub(in crate::object) archive: bool,
    /// The version.
    pub(in crate::object) version: Version,
}

impl Head {
    /// Of a strict read.
    pub(in crate::object) fn of(current: Option<Current>) -> Result<Self, Unavailable> {
        let object = current.as_ref().map(|current| object_meta(&current.version)).transpose()?;
        Ok(Self { current, object: object.unwrap_or_default() })
    }

    /// Of a version that a listing has decided.
    pub(in crate::object) fn of_decided(version: Version) -> Result<Self, Unavailable> {
        Self::of(Some(Current {
            version,
            tag: Tag::default(),
            holders: SlotSet::default(),
            lacking: SlotSet::default(),
        }))
    }

    /// What was read.
    pub(in crate::object) fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    /// Tells two states of the register apart.
    pub(in crate::object) fn tag(&self) -> Tag {
        self.current.as_ref().map(|current| current.tag).unwrap_or_default()
    }

    /// The current version, a delete marker too; `None` if the key has no version.
    pub(in crate::object) fn version(&self) -> Option<&ObjectMeta> {
        let is_one = self.current.as_ref().is_some_and(|c| c.version.kind == VersionKind::Data);
        is_one.then_some(&self.object)
    }

    /// The current version, unless it is a delete marker.
    pub(in crate::object) fn live(&self) -> Option<&ObjectMeta> {
        self.version().filter(|object| !object.delete_marker)
    }

    /// Where the current version is archived once it is superseded.
    pub(in crate::object) fn at(&self) -> Option<VersionRef> {
        let op = self.current.as_ref()?.version.op;
        self.version().map(|_| VersionRef { ordinal: self.history().ordinal, op })
    }

    /// What it says of all versions.
    pub(in crate::object) fn history(&self) -> History {
        self.object.history.clone().unwrap_or_default()
    }

    /// Versions that may not have been cleared away.
    pub(in crate::object) fn removing(&self) -> &[VersionRef] {
        self.object.history.as_ref().map_or(&[], |history| &history.removing)
    }

    /// Finds a version.
    pub(in crate::object) fn place(&self, id: VersionId) -> Place {
        let Some((object, at)) = self.version().zip(self.at()) else { return Place::Nowhere };
        if version_id(object) == id {
            return Place::Current;
        }
        match id {
            VersionId::Null => self.history().null.map_or(Place::Nowhere, |null| Place::Archived(null.at)),
            VersionId::Op(id) if id.ordinal < at.ordinal && !self.removing().contains(&id) => {
                Place::Archived(id)
            }
            VersionId::Op(_) => Place::Nowhere,
        }
    }

    /// Whether what an archive's register holds is one of the key's versions: it may be of the current one, of one that is
    /// gone, or left by somebody whose write came to nothing.
    pub(in crate::object) fn keeps(&self, at: VersionRef, archived: &ObjectMeta) -> bool {
        let older = self.at().is_some_and(|current| at.ordinal < current.ordinal);
        let null = || self.history().null.is_some_and(|null| null.at == at);
        older && !self.removing().contains(&at) && (archived.version.is_some() || null())
    }

    /// Whether the current version is a null version whose shards lie in the object's register.
    pub(in crate::object) fn has_shards(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.version.has_shards())
    }

    /// A new version by op `op`: an object, or a delete marker.
    pub(in crate::object) fn written(&self, versioning: Versioning, op: OpId, object: ObjectMeta) -> Plan {
        let before = self.history();
        let mut history = History { ordinal: before.high + 1, high: before.high + 1, ..History::default() };
        let replaces = self.version().zip(self.at());
        let mut archive = replaces.is_some();
        let version = match versioning {
            Versioning::Enabled => {
                history.null = match replaces {
                    Some((old, at)) if old.version.is_none() => {
                        Some(NullVersion { at, has_shards: self.has_shards() })
                    }
                    _ => before.null,
                };
                Some(op)
            }
            Versioning::Unversioned | Versioning::Enabling | Versioning::Suspended => {
                history.removing.extend(before.null.map(|null| null.at));
                if let Some((old, at)) = replaces
                    && old.version.is_none()
                {
                    // What it is made of is freed by what its archive says of it.
                    archive = old.parts.is_some();
                    history.removing.push(at);
                }
                None
            }
        };
        Plan {
            archive,
            version: without_shards(op, ObjectMeta { version, history: Some(history), ..object }),
        }
    }

    /// The current version with something else said about it.
    pub(in crate::object) fn restated(&self, change: impl FnOnce(&mut ObjectMeta)) -> Option<Plan> {
        let current = &self.current.as_ref()?.version;
        let mut object = self.version()?.clone();
        change(&mut object);
        let version = if current.has_shards() {
            let metadata = RegisterMeta::Object(Box::new(object)).encode();
            Version { metadata, ..current.clone() }
        } else {
            without_shards(current.op, object)
        };
        Some(Plan { archive: false, version })
    }

    /// The same without an archived version.
    pub(in crate::object) fn without_archived(&self, at: VersionRef) -> Option<Plan> {
        self.restated(|object| {
            let history = object.history.get_or_insert_default();
            history.null = history.null.filter(|null| null.at != at);
            history.removing = vec![at];
        })
    }

    /// The next older version in place of the current one, which is gone.
    ///
    /// # Errors
    /// [`Unavailable`] if that one's coding makes no sense.
    pub(in crate::object) fn without_current(
        &self,
        next: (VersionRef, ObjectMeta),
    ) -> Result<Plan, Unavailable> {
        let (at, object) = next;
        let before = self.history();
        let null = before.null.filter(|null| null.at != at);
        let has_shards = before.null.is_some_and(|null| null.at == at && null.has_shards);
        let edits = object.history.as_ref().map_or(0, |history| history.edits);
        let removing = self.at().into_iter().collect();
        let history = History { ordinal: at.ordinal, edits, high: before.high, null, removing };
        let object = ObjectMeta { history: Some(history), ..object };
        let version = if has_shards { with_shards(at.op, object)? } else { without_shards(at.op, object) };
        Ok(Plan { archive: self.is_made_of_parts(), version })
    }

    /// A tombstone in place of the last version. It stays until what it says is being removed is gone: without it the places
    /// of versions would be given away once more.
    ///
    /// # Errors
    /// [`Unavailable`] if the tombstone cannot be read.
    pub(in crate::object) fn without_any(&self, tombstone: Version) -> Result<Plan, Unavailable> {
        let object = object_meta(&tombstone)?;
        let removing = self.at().into_iter().collect();
        let history = History { high: self.history().high, removing, ..History::default() };
        let object = ObjectMeta { history: Some(history), ..object };
        let metadata = RegisterMeta::Object(Box::new(object)).encode();
        let version = Version { metadata, null_version: false, ..tombstone };
        Ok(Plan { archive: self.is_made_of_parts(), version })
    }

    /// The tombstone that nothing needs any more, in place of such a one.
    pub(in crate::object) fn forgotten(&self, op: OpId) -> Option<Plan> {
        let current = &self.current.as_ref()?.version;
        let waits = current.kind == VersionKind::Tombstone && !current.null_version;
        waits.then(|| Plan { archive: false, version: tombstone_version(op, self.current()) })
    }

    fn is_made_of_parts(&self) -> bool {
        self.version().is_some_and(|object| object.parts.is_some())
    }
}

/// An object whose bytes lie elsewhere, as a version of a key's register.
pub(in crate::object) fn without_shards(op: OpId, object: ObjectMeta) -> Version {
    let keeps = object.history.as_ref().and_then(|history| history.null).is_some_and(|null| null.has_shards);
    let metadata = RegisterMeta::Object(Box::new(object)).encode();
    Version { null_version: !keeps, ..metadata_version(op, metadata) }
}

/// A null version whose shards lie in the key's register, once more.
fn with_shards(op: OpId, object: ObjectMeta) -> Result<Version, Unavailable> {
    let stripes = stripes(object.coding, object.size).map_err(|error| Unavailable::new(error.to_string()))?;
    Ok(Version {
        k: object.coding.k,
        shard_len_bytes: stripes.shard_len_bytes(),
        block_len_bytes: stripes.block_len_bytes(),
        ..without_shards(op, object)
    })
}
