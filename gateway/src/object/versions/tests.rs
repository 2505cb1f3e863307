//! The rules of [`Head`] over registers that are kept in memory, against a plain list of versions: with changes that break off,
//! and archives that come too late.

use std::collections::BTreeMap;

use coffer_common::meta::{Coding, History, ObjectMeta, PartTable, RegisterMeta};
use coffer_common::protocol::message::{Version, VersionKind};
use coffer_common::protocol::tally::Current;
use coffer_common::types::{Fence, OpId, SlotSet, Tag, UploadId, VersionRef};
use proptest::prelude::*;

use super::head::{Head, Place, Plan, without_shards};
use crate::object::bucket::Versioning;
use crate::object::delete::tombstone_version;
use crate::object::info::{object_meta, version_id};
use crate::object::types::VersionId;

/// A version as a client knows it.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    id: VersionId,
    etag: String,
    marker: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put,
    Mark,
    /// One of the versions, counted from the newest.
    Remove(usize),
    Amend(usize),
    /// A write that breaks off after its archive.
    Broken,
    /// An archive by somebody who has read the key so many changes ago.
    Late(usize),
    /// Versioning is switched.
    Switch,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Put),
        2 => Just(Step::Mark),
        4 => (0..4_usize).prop_map(Step::Remove),
        2 => (0..4_usize).prop_map(Step::Amend),
        1 => Just(Step::Broken),
        2 => (1..4_usize).prop_map(Step::Late),
        1 => Just(Step::Switch),
    ]
}

/// The registers of one key.
#[derive(Default)]
struct Registers {
    /// The object's register: what is not freed, oldest first.
    object: Vec<(Tag, Version)>,
    /// Archives; `None` for one that was cleared away.
    archives: BTreeMap<VersionRef, Option<ObjectMeta>>,
    /// Heads as they were read before each change.
    read: Vec<Head>,
    changes: u64,
}

impl Registers {
    fn head(&self) -> Head {
        let current = self.object.last().map(|(tag, version)| Current {
            version: version.clone(),
            tag: *tag,
            holders: SlotSet::default(),
            lacking: SlotSet::default(),
        });
        Head::of(current).unwrap()
    }

    /// As a change reads it: what is being removed is cleared away.
    fn begin(&mut self) -> Head {
        let head = self.head();
        for at in head.removing() {
            self.archives.insert(*at, None);
        }
        self.read.push(head.clone());
        head
    }

    fn archive(&mut self, head: &Head) {
        let Some((object, at)) = head.version().zip(head.at()) else { return };
        let edits = head.history().edits;
        let known = |object: &ObjectMeta| object.history.as_ref().map_or(0, |history| history.edits);
        let newer =
            self.archives.get(&at).is_none_or(|old| old.as_ref().is_some_and(|old| known(old) < edits));
        if newer {
            let history = Some(History { ordinal: at.ordinal, edits, ..History::default() });
            self.archives.insert(at, Some(ObjectMeta { history, ..object.clone() }));
        }
    }

    /// Commits, and frees as slots do.
    fn commit(&mut self, head: &Head, plan: Plan) {
        assert_eq!(head.tag(), self.head().tag());
        if plan.archive {
            self.archive(head);
        }
        self.changes += 1;
        let fence = Fence { generation: 1, revision: self.changes };
        let tag = Tag { fence, seq: 1, writer: plan.version.op };
        self.object.retain(|(_, version)| version.op != plan.version.op);
        self.object.push((tag, plan.version));
        let newest_null = self.object.iter().rposition(|(_, version)| version.null_version).unwrap_or(0);
        let last = self.object.len() - 1;
        let mut place = 0;
        self.object.retain(|(_, version)| {
            let newest = if version.null_version { newest_null } else { last };
            let freed = place < newest && (version.null_version || !version.has_shards());
            place += 1;
            !freed
        });
        assert!(self.object.len() <= 2, "a register that grows: {:?}", self.object);
    }

    fn older(&self, head: &Head) -> Vec<(VersionRef, ObjectMeta)> {
        let live = self.archives.iter().rev();
        let live = live.filter_map(|(at, archived)| Some((*at, archived.clone()?)));
        live.filter(|(at, object)| head.keeps(*at, object)).collect()
    }

    /// What a client sees.
    fn versions(&self) -> Vec<Known> {
        let head = self.head();
        let current = head.version().cloned();
        let older = self.older(&head).into_iter().map(|(at, object)| {
            assert_eq!(head.place(version_id(&object)), Place::Archived(at));
            if object.version.is_none() && object.size > 0 && object.parts.is_none() {
                let held = self.object.iter().any(|(_, version)| version.op == at.op && version.has_shards());
                assert!(held, "the shards of the null version are freed");
            }
            object
        });
        let known = |object: ObjectMeta| Known {
            id: version_id(&object),
            etag: object.etag.clone(),
            marker: object.delete_marker,
        };
        current.into_iter().chain(older).map(known).collect()
    }
}

/// The object that was there before the bucket kept versions.
fn before(op: OpId, shards: bool) -> Version {
    let (k, size) = if shards { (2, 100) } else { (0, 0) };
    let coding = Coding { codec: 1, k, m: 2, block_len_bytes: 131_072 };
    let object = ObjectMeta { size, etag: "before".to_owned(), coding, ..ObjectMeta::default() };
    let shard_len_bytes = if shards { 50 } else { 0 };
    Version { k, shard_len_bytes, block_len_bytes: 131_072, ..without_shards(op, object) }
}

fn object(op: OpId, etag: String) -> ObjectMeta {
    let parts = Some(PartTable { upload: UploadId::from_bytes(op.to_bytes()), parts: Vec::new() });
    ObjectMeta { size: 9, etag, parts, ..ObjectMeta::default() }
}

fn write(
    registers: &mut Registers,
    model: &mut Vec<Known>,
    versioning: Versioning,
    written: (OpId, ObjectMeta),
) {
    let head = registers.begin();
    let (op, object) = written;
    let (etag, marker) = (object.etag.clone(), object.delete_marker);
    let plan = head.written(versioning, op, object);
    let id = version_id(&object_meta(&plan.version).unwrap());
    registers.commit(&head, plan);
    if id == VersionId::Null {
        model.retain(|known| known.id != VersionId::Null);
    }
    assert!(!model.iter().any(|known| known.id == id), "an id is given twice");
    model.insert(0, Known { id, etag, marker });
}

fn remove(registers: &mut Registers, model: &mut Vec<Known>, which: usize, op: OpId) {
    let Some(known) = model.get(which).cloned() else { return };
    let head = registers.begin();
    let plan = match head.place(known.id) {
        Place::Nowhere => panic!("{known:?} is not found"),
        Place::Archived(at) => head.without_archived(at).unwrap(),
        Place::Current => match registers.older(&head).into_iter().next() {
            Some(next) => head.without_current(next).unwrap(),
            None => head.without_any(tombstone_version(op, head.current())).unwrap(),
        },
    };
    registers.commit(&head, plan);
    model.remove(which);
    // Sometimes at once, else the next change or the sweep does it.
    if op.counter.is_multiple_of(2) {
        let head = registers.begin();
        if let Some(plan) = head.forgotten(OpId { session: 3, ..op }) {
            registers.commit(&head, plan);
            // Purged (§7).
            registers.object.clear();
        }
    }
}

fn amend(registers: &mut Registers, model: &mut [Known], which: usize, etag: String) {
    let Some(known) = model.get_mut(which).filter(|known| !known.marker) else { return };
    let head = registers.begin();
    let change = |object: &mut ObjectMeta| {
        object.etag = etag.clone();
        object.history.get_or_insert_default().edits += 1;
    };
    match head.place(known.id) {
        Place::Nowhere => panic!("{known:?} is not found"),
        Place::Current => {
            let plan = head.restated(change).unwrap();
            registers.commit(&head, plan);
        }
        Place::Archived(at) => {
            let mut object = registers.archives[&at].clone().unwrap();
            change(&mut object);
            registers.archives.insert(at, Some(object));
            let plan = head.restated(|_| {}).unwrap();
            registers.commit(&head, plan);
        }
    }
    known.etag = etag;
}

fn run(shards: Option<bool>, steps: Vec<Step>) {
    let mut registers = Registers::default();
    let mut model = Vec::new();
    let mut versioning = Versioning::Enabled;
    if let Some(shards) = shards {
        let version = before(OpId { session: 9, counter: 9 }, shards);
        registers.object.push((Tag { seq: 1, ..Tag::default() }, version));
        model.push(Known { id: VersionId::Null, etag: "before".to_owned(), marker: false });
    }
    for (count, step) in steps.into_iter().enumerate() {
        let op = OpId { session: 1, counter: count as u64 };
        let etag = format!("e{count}");
        match step {
            Step::Put => write(&mut registers, &mut model, versioning, (op, object(op, etag))),
            Step::Mark => {
                let marker = ObjectMeta { delete_marker: true, ..ObjectMeta::default() };
                write(&mut registers, &mut model, versioning, (op, marker));
            }
            Step::Remove(which) => remove(&mut registers, &mut model, which, op),
            Step::Amend(which) => amend(&mut registers, &mut model, which, etag),
            Step::Broken => {
                let head = registers.begin();
                registers.archive(&head);
            }
            Step::Late(ago) => {
                let read = registers.read.len().checked_sub(ago);
                if let Some(head) = read.and_then(|at| registers.read.get(at)).cloned() {
                    registers.archive(&head);
                }
            }
            Step::Switch => {
                versioning = match versioning {
                    Versioning::Enabled => Versioning::Suspended,
                    _ => Versioning::Enabled,
                };
            }
        }
        assert_eq!(registers.versions(), model, "after {step:?}, which is number {count}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_key_has_the_versions_that_it_should(
        shards in proptest::option::of(any::<bool>()),
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        run(shards, steps);
    }
}

#[test]
fn a_delete_marker_is_a_version_and_a_tombstone_is_not() {
    let op = OpId { session: 1, counter: 1 };
    let marker = ObjectMeta { delete_marker: true, ..ObjectMeta::default() };
    let plan = Head::default().written(Versioning::Enabled, op, marker);
    assert_eq!(plan.version.kind, VersionKind::Data, "it must not be purged");
    let current = |version| Current {
        version,
        tag: Tag::default(),
        holders: SlotSet::default(),
        lacking: SlotSet::default(),
    };
    let head = Head::of(Some(current(plan.version))).unwrap();
    assert!(head.version().is_some() && head.live().is_none());
    let last = head.without_any(tombstone_version(op, head.current())).unwrap();
    assert!(!last.version.null_version, "it must not be purged before what it removes is gone");
    let head = Head::of(Some(current(last.version))).unwrap();
    assert!(head.version().is_none() && head.at().is_none());
    assert_eq!(head.removing(), [VersionRef { ordinal: 1, op }]);
    let forgotten = head.forgotten(op).unwrap().version;
    assert!(forgotten.null_version && forgotten.kind == VersionKind::Tombstone);
    assert!(
        matches!(RegisterMeta::decode(forgotten.metadata), Ok(RegisterMeta::Object(meta)) if meta.history.is_none())
    );
}
