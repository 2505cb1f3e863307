//! The client machines against real slots, one step at a time: what each does in the cases that its head describes.

use bytes::Bytes;

use super::action::{Action, Actions, Lost, Machine, MapEpochs, NoLock, Timer, TimerKind};
use super::fenced::{FencedWriter, Trouble, Verdict, WriteOutcome};
use super::flaw::Flaw;
use super::message::{
    Refusal, RegisterView, SlotReply, SlotRequest, SlotVersion, Version, VersionKind, VersionState,
};
use super::quorum::Geometry;
use super::reader::{ReadOutcome, Reader};
use super::register::{PartitionState, Register};
use super::settler::Settler;
use super::slot::{BucketState, Caller, Slot, serve};
use super::tally::Current;
use super::writer::PlainWriter;
use crate::types::{Epoch, Fence, OpId, RegisterKind, SlotIndex, SlotSet, Tag};

/// Four slots, and who of them is down.
#[derive(Default)]
struct Stripe {
    slots: [(PartitionState, Register); 4],
    down: SlotSet,
    /// Replies to COMMIT do not come back.
    mute: bool,
    map: MapEpochs,
    revision: u64,
    locks: u32,
    backoffs: u32,
    stable: u32,
}

const GEOMETRY: fn() -> Geometry = || Geometry::new(4);

pub(super) fn op(number: u64) -> OpId {
    OpId { session: number, counter: 0 }
}

pub(super) fn fence(revision: u64) -> Fence {
    Fence { generation: 0, revision }
}

pub(super) fn version(number: u64, k: u8) -> Version {
    Version {
        op: op(number),
        kind: if k == 0 { VersionKind::Tombstone } else { VersionKind::Data },
        k,
        shard_len_bytes: u64::from(k > 0),
        block_len_bytes: 4096,
        null_version: true,
        metadata: Bytes::new(),
    }
}

pub(super) fn slots(mask: u16) -> SlotSet {
    SlotSet(mask)
}

impl Stripe {
    fn serve(&mut self, slot: SlotIndex, epoch: Epoch, request: &SlotRequest) -> Result<SlotReply, Lost> {
        if self.down.contains(slot) {
            return Err(Lost);
        }
        let (partition, register) = &mut self.slots[usize::from(slot.0)];
        let slot = Slot { partition, bucket: BucketState::default(), register };
        Ok(serve(slot, Caller { epoch, bucket_revision: 0 }, request).reply)
    }

    /// Carries actions out at once, in order, until the machine ends or only waits for timers that are not fired here.
    fn drive<M: Machine>(&mut self, machine: &mut M, actions: Actions<M::Outcome>) -> Option<M::Outcome> {
        let mut todo: std::collections::VecDeque<_> = actions.into();
        let mut timers = Vec::new();
        loop {
            let Some(action) = todo.pop_front() else {
                let at = timers.iter().position(|timer: &Timer| timer.kind != TimerKind::Resend)?;
                let timer = timers.remove(at);
                self.backoffs += u32::from(matches!(timer.kind, TimerKind::Backoff(_)));
                todo.extend(machine.on_timer(timer));
                continue;
            };
            match action {
                Action::Prepare { round, epoch, slots } => {
                    for slot in slots.iter() {
                        let request = SlotRequest::Prepare { op: op(1), shard: Bytes::from_static(b"s") };
                        let reply = self.serve(slot, epoch, &request);
                        todo.extend(machine.on_reply(round, slot, reply));
                    }
                }
                Action::Send { round, epoch, slots, request } => {
                    for slot in slots.iter() {
                        let reply = self.serve(slot, epoch, &request);
                        if !(self.mute && matches!(request, SlotRequest::Commit { .. })) {
                            todo.extend(machine.on_reply(round, slot, reply));
                        }
                    }
                }
                Action::Notify { epoch, slots, request } => {
                    for slot in slots.iter() {
                        let _ = self.serve(slot, epoch, &request);
                    }
                }
                Action::Stable { epoch, version, tag, acknowledged } => {
                    self.stable += 1;
                    let request = SlotRequest::Stable { version, tag, acknowledged };
                    for slot in GEOMETRY().all().iter() {
                        let _ = self.serve(slot, epoch, &request);
                    }
                }
                Action::SetTimer(timer) => timers.push(timer),
                Action::TakeLock => {
                    self.locks += 1;
                    self.revision += 1;
                    todo.extend(machine.on_lock(Ok(fence(self.revision))));
                }
                Action::RefreshMap(_) => todo.extend(machine.on_map(self.map)),
                Action::Done(outcome) => return Some(outcome),
            }
        }
    }

    fn run<M: Machine>(&mut self, mut machine: M) -> Option<M::Outcome> {
        let actions = machine.start();
        self.drive(&mut machine, actions)
    }

    fn put(&mut self, number: u64) -> WriteOutcome {
        let writer = plain(self.map, number, 2);
        self.run(writer).expect("a write on reachable slots ends")
    }

    fn read(&mut self) -> ReadOutcome {
        let reader = Reader::new(GEOMETRY(), self.map, op(90), GEOMETRY().all(), false);
        self.run(reader).expect("a read on reachable slots ends")
    }

    fn value(&mut self) -> Option<OpId> {
        match self.read() {
            ReadOutcome::Decided(current) => current.map(|current| current.version.op),
            ReadOutcome::Unavailable(trouble) => panic!("unavailable: {trouble:?}"),
        }
    }

    fn commit_at(&mut self, mask: u16, number: u64, tag: Tag) {
        for slot in slots(mask).iter() {
            let _ =
                self.serve(slot, self.map.epoch, &SlotRequest::Commit { version: version(number, 2), tag });
        }
    }

    fn fence_at(&mut self, mask: u16, revision: u64, number: u64) {
        for slot in slots(mask).iter() {
            let request = SlotRequest::Fence { fence: fence(revision), op: op(number) };
            let _ = self.serve(slot, self.map.epoch, &request);
        }
        self.revision = self.revision.max(revision);
    }
}

fn plain(map: MapEpochs, number: u64, k: u8) -> PlainWriter<impl FnMut(Option<&Current>) -> Version> {
    PlainWriter::new(GEOMETRY(), map, op(number), k, move |_: Option<&Current>| version(number, k))
}

fn create(map: MapEpochs, number: u64) -> FencedWriter<impl FnMut(Option<&Current>) -> Verdict> {
    FencedWriter::new(GEOMETRY(), map, op(number), Some(2), true, move |current: Option<&Current>| {
        match current {
            Some(current) if current.version.kind == VersionKind::Data => Verdict::Reject,
            Some(_) | None => Verdict::Commit(version(number, 2)),
        }
    })
}

fn tag(revision: u64, seq: u64, number: u64) -> Tag {
    Tag { fence: fence(revision), seq, writer: op(number) }
}

#[test]
fn plain_writes_follow_each_other_without_a_lock_and_are_told_stable() {
    let mut stripe = Stripe::default();
    assert!(matches!(stripe.put(1), WriteOutcome::Committed { tag: t, .. } if t == tag(0, 1, 1)));
    assert!(matches!(stripe.put(2), WriteOutcome::Committed { tag: t, .. } if t == tag(0, 2, 2)));
    assert_eq!((stripe.value(), stripe.locks, stripe.stable), (Some(op(2)), 0, 2));
    let states = stripe.slots.iter().filter_map(|(_, register)| register.current().map(|v| v.state));
    assert!(states.eq([VersionState::Stable; 4]));
}

#[test]
fn a_write_needs_three_of_four_and_a_stable_read_two() {
    let mut stripe = Stripe { down: slots(0b1000), ..Default::default() };
    assert!(
        matches!(stripe.put(1), WriteOutcome::Committed { acknowledged, .. } if acknowledged == slots(0b0111))
    );
    stripe.down = slots(0b0110);
    assert_eq!(stripe.put(2), WriteOutcome::NotCommitted(Trouble::NoQuorum));
    assert_eq!(stripe.value(), Some(op(1)));
    stripe.down = slots(0b0111);
    assert_eq!(stripe.read(), ReadOutcome::Unavailable(Trouble::NoQuorum));
}

#[test]
fn an_undecided_version_is_written_back_before_it_is_returned() {
    let mut stripe = Stripe::default();
    stripe.commit_at(0b0001, 1, tag(0, 1, 1));
    assert_eq!(stripe.value(), Some(op(1)));
    let held = stripe.slots.iter().filter(|(_, register)| register.current().is_some()).count();
    assert!(held >= GEOMETRY().m());
    stripe.down = slots(0b0001);
    assert_eq!(stripe.value(), Some(op(1)), "a value returned stays visible");
}

#[test]
fn a_write_back_that_a_fence_refuses_is_settled_under_the_lock() {
    let mut stripe = Stripe::default();
    stripe.commit_at(0b0001, 1, tag(0, 1, 1));
    stripe.fence_at(0b1110, 5, 9);
    assert_eq!(stripe.value(), Some(op(1)));
    assert_eq!(stripe.locks, 1);
    stripe.down = slots(0b0001);
    assert_eq!(stripe.value(), Some(op(1)));
}

#[test]
fn what_a_dead_fenced_owner_committed_is_written_back_without_a_lock() {
    let mut stripe = Stripe::default();
    stripe.fence_at(0b1110, 5, 9);
    stripe.commit_at(0b0010, 9, tag(5, 1, 9));
    assert_eq!(stripe.value(), Some(op(9)));
    assert_eq!(stripe.locks, 0, "the owner's own COMMIT passes its exclusive fence, whoever repeats it");
}

#[test]
fn a_plain_write_backs_off_from_an_exclusive_fence_and_then_takes_the_lock() {
    let mut stripe = Stripe::default();
    stripe.fence_at(0b1111, 5, 9);
    assert!(matches!(stripe.put(1), WriteOutcome::Committed { tag: t, .. } if t == tag(6, 1, 1)));
    assert_eq!((stripe.backoffs, stripe.locks), (5, 1));
}

#[test]
fn a_refused_plain_write_is_unknown_and_never_tagged_anew() {
    let mut stripe = Stripe::default();
    let mut writer = plain(stripe.map, 1, 2);
    let actions = writer.start();
    // A fence passes between the writer's query and its COMMIT.
    let Action::Prepare { round, slots: all, .. } = actions[0] else { panic!("no prepare: {actions:?}") };
    let mut commit = Vec::new();
    for slot in all.iter() {
        let request = SlotRequest::Prepare { op: op(1), shard: Bytes::from_static(b"s") };
        let reply = stripe.serve(slot, Epoch(0), &request);
        commit = writer.on_reply(round, slot, reply);
    }
    stripe.fence_at(0b1111, 5, 9);
    assert_eq!(stripe.drive(&mut writer, commit), Some(WriteOutcome::Unknown(Trouble::Fenced)));
}

#[test]
fn a_create_wins_once_and_the_loser_has_no_effect() {
    let mut stripe = Stripe::default();
    let (first, second) = (create(stripe.map, 1), create(stripe.map, 2));
    assert!(matches!(stripe.run(first), Some(WriteOutcome::Committed { .. })));
    let locks = stripe.locks;
    assert!(matches!(stripe.run(second), Some(WriteOutcome::Rejected(Some(c))) if c.version.op == op(1)));
    assert_eq!(stripe.locks, locks, "clearly false: answered by the read, without the lock");
}

/// Floors of other registers can carry the very fence that an op holds; a plain write that takes its tag from such a floor
/// is above what the op would commit, and would supersede the op that builds on it.
#[test]
fn a_fenced_op_does_not_build_on_a_version_above_its_fence() {
    for (geometry, builds) in [(GEOMETRY(), false), (GEOMETRY().with_flaw(Flaw::BuildsAboveFence), true)] {
        let decide = |_: Option<&Current>| Verdict::Commit(version(1, 0));
        let mut writer = FencedWriter::new(geometry, MapEpochs::default(), op(1), None, false, decide);
        assert_eq!(writer.start(), [Action::TakeLock]);
        let sent = writer.on_lock(Ok(fence(5)));
        let Action::Send { round, .. } = sent[0] else { panic!("no fence: {sent:?}") };
        let current = SlotVersion {
            version: version(2, 2),
            tag: tag(5, 2, 2),
            state: VersionState::Committed,
            shard_present: true,
            acknowledged: SlotSet::default(),
        };
        let view = RegisterView {
            fence: fence(5),
            exclusive: Some((fence(5), op(1))),
            current: Some(current),
            ..RegisterView::default()
        };
        let mut actions = Vec::new();
        for slot in 0..3 {
            let reply = Ok(SlotReply::View(view.clone(), None));
            actions.extend(writer.on_reply(round, SlotIndex(slot), reply));
        }
        let commits = |a: &Action<_>| matches!(a, Action::Send { request: SlotRequest::Commit { .. }, .. });
        assert_eq!(actions.iter().any(commits), builds);
        assert_eq!(actions.contains(&Action::TakeLock), !builds);
    }
}

#[test]
fn a_rejection_on_an_undecided_version_restamps_it_first() {
    let mut stripe = Stripe::default();
    stripe.commit_at(0b0001, 1, tag(0, 1, 1));
    assert!(matches!(stripe.run(create(stripe.map, 2)), Some(WriteOutcome::Rejected(Some(_)))));
    stripe.down = slots(0b0001);
    assert_eq!(stripe.value(), Some(op(1)), "its existence was revealed");
}

#[test]
fn without_a_lock_a_conditional_write_has_no_effect() {
    let mut stripe = Stripe::default();
    let mut writer = create(stripe.map, 1);
    let mut actions = writer.start();
    while !actions.contains(&Action::TakeLock) {
        let mut next = Vec::new();
        for action in actions {
            let (round, epoch, slots, request) = match action {
                Action::Send { round, epoch, slots, request } => (round, epoch, slots, request),
                Action::Prepare { round, epoch, slots } => {
                    (round, epoch, slots, SlotRequest::Prepare { op: op(1), shard: Bytes::from_static(b"s") })
                }
                _ => continue,
            };
            for slot in slots.iter() {
                let reply = stripe.serve(slot, epoch, &request);
                next.extend(writer.on_reply(round, slot, reply));
            }
        }
        actions = next;
    }
    let actions = writer.on_lock(Err(NoLock));
    assert!(actions.contains(&Action::Done(WriteOutcome::NotCommitted(Trouble::NoLock))));
    assert_eq!(stripe.drive(&mut writer, actions), Some(WriteOutcome::NotCommitted(Trouble::NoLock)));
    assert!(
        stripe.slots.iter().all(|(_, register)| register.prepared.is_empty()),
        "prepared shards are abandoned"
    );
}

#[test]
fn a_reader_asks_the_other_slots_when_the_first_do_not_answer() {
    let mut stripe = Stripe::default();
    stripe.put(1);
    stripe.down = slots(0b0001);
    let reader = Reader::new(GEOMETRY(), stripe.map, op(90), slots(0b0011), false);
    assert!(matches!(stripe.run(reader), Some(ReadOutcome::Decided(Some(_)))));
}

#[test]
fn a_settler_tells_stable_what_its_writer_left_committed() {
    let mut stripe = Stripe::default();
    stripe.commit_at(0b0111, 1, tag(0, 1, 1));
    let settler = Settler::new(GEOMETRY(), stripe.map, op(91));
    assert!(matches!(stripe.run(settler), Some(ReadOutcome::Decided(Some(_)))));
    let stable = |(_, register): &(PartitionState, Register)| {
        register.current().is_some_and(|v| v.state == VersionState::Stable)
    };
    assert!(stripe.slots.iter().all(stable));
}

/// Whether a slot's current version is this op's, and STABLE.
fn settled_on(number: u64) -> impl Fn(&(PartitionState, Register)) -> bool {
    move |(_, register)| {
        register.current().is_some_and(|v| v.version.op == op(number) && v.state == VersionState::Stable)
    }
}

#[test]
fn a_settler_waits_for_the_slot_that_has_something_to_settle() {
    let mut stripe = Stripe::default();
    stripe.put(1);
    stripe.commit_at(0b1000, 2, tag(0, 2, 2));
    // R0 of the others say that version 1 is STABLE before slot 3 is heard.
    let settler = Settler::new(GEOMETRY(), stripe.map, op(91));
    assert!(matches!(stripe.run(settler), Some(ReadOutcome::Decided(Some(_)))));
    assert!(stripe.slots.iter().all(settled_on(2)));
}

#[test]
fn a_settler_waits_for_that_slot_under_the_lock_too() {
    let mut stripe = Stripe::default();
    stripe.put(1);
    stripe.commit_at(0b1000, 2, tag(0, 2, 2));
    stripe.fence_at(0b0111, 5, 9);
    // The others refuse what slot 3 holds, and are enough to promise the settler's own fence before slot 3 is heard.
    let settler = Settler::new(GEOMETRY(), stripe.map, op(91));
    assert!(matches!(stripe.run(settler), Some(ReadOutcome::Decided(Some(_)))));
    assert_eq!(stripe.locks, 1);
    assert!(stripe.slots.iter().all(settled_on(2)));
}

#[test]
fn machines_go_on_in_a_newer_epoch() {
    let mut stripe = Stripe::default();
    stripe.put(1);
    for (partition, _) in &mut stripe.slots {
        partition.epoch = Epoch(3);
    }
    let old = MapEpochs::default();
    stripe.map = MapEpochs { epoch: Epoch(3), purge: Epoch(0), ..MapEpochs::default() };
    assert!(matches!(stripe.run(plain(old, 2, 2)), Some(WriteOutcome::Committed { .. })));
    assert!(matches!(stripe.run(create(old, 3)), Some(WriteOutcome::Rejected(_))));
    let reader = Reader::new(GEOMETRY(), old, op(90), GEOMETRY().all(), false);
    assert!(matches!(stripe.run(reader), Some(ReadOutcome::Decided(Some(_)))));
    stripe.map = old;
    assert_eq!(stripe.run(plain(old, 4, 2)), Some(WriteOutcome::NotCommitted(Trouble::StaleMap)));
}

/// A write is committed everywhere but hears nothing; it is read, deleted, and its tombstone is purged. Then it finds
/// out that its epoch is old.
fn resend_over_a_purge(geometry: Geometry) -> (Option<WriteOutcome>, Option<OpId>) {
    let mut stripe = Stripe { mute: true, ..Default::default() };
    let make = |_: Option<&Current>| version(1, 2);
    let mut writer = PlainWriter::new(geometry, stripe.map, op(1), 2, make);
    let actions = writer.start();
    assert_eq!(stripe.drive(&mut writer, actions), None, "it waits");
    stripe.mute = false;
    assert_eq!(stripe.value(), Some(op(1)));
    assert!(matches!(stripe.run(plain(stripe.map, 2, 0)), Some(WriteOutcome::Committed { .. })));
    stripe.map = MapEpochs { epoch: Epoch(1), purge: Epoch(1), ..MapEpochs::default() };
    for (partition, register) in &mut stripe.slots {
        partition.adopt_purge(Epoch(1));
        let tombstone = register.current().map(|v| v.tag).unwrap_or_default();
        let below: Vec<_> = register.freeable(RegisterKind::Object).map(|v| v.version.op).collect();
        for op in below {
            register.free(RegisterKind::Object, op);
        }
        partition.floor = register.floor_to_drop(tombstone).unwrap_or_default();
        assert!(register.drop_tombstone(partition, tombstone));
    }
    let resend = Timer { round: 2, kind: TimerKind::Resend };
    let actions = writer.on_timer(resend);
    let outcome = stripe.drive(&mut writer, actions);
    (outcome, stripe.value())
}

#[test]
fn a_commit_is_not_sent_again_over_a_purge_or_a_deleted_object_comes_back() {
    assert_eq!(resend_over_a_purge(GEOMETRY()), (Some(WriteOutcome::Unknown(Trouble::StaleMap)), None));
    let (_, value) = resend_over_a_purge(GEOMETRY().with_flaw(Flaw::ResendsOverPurge));
    assert_eq!(value, Some(op(1)), "with the rule as it first stood, what was read, then deleted, is back");
}

#[test]
fn a_write_that_only_full_slots_prevent_says_so() {
    let full = || Ok(SlotReply::Refused(Refusal::Full));
    let ends_with = |first: Result<SlotReply, Lost>| {
        let mut writer = plain(MapEpochs::default(), 1, 2);
        let actions = writer.start();
        let Some(Action::Prepare { round, .. }) = actions.first() else { panic!("{actions:?}") };
        let mut out = writer.on_reply(*round, SlotIndex(0), first);
        out.append(&mut writer.on_reply(*round, SlotIndex(1), full()));
        out
    };
    assert!(ends_with(full()).contains(&Action::Done(WriteOutcome::NotCommitted(Trouble::Full))));
    assert!(ends_with(Err(Lost)).contains(&Action::Done(WriteOutcome::NotCommitted(Trouble::NoQuorum))));
}

#[test]
fn giving_up_is_truthful() {
    let mut stripe = Stripe::default();
    let mut writer = plain(stripe.map, 1, 2);
    writer.start();
    let done = writer.give_up();
    assert!(done.contains(&Action::Done(WriteOutcome::NotCommitted(Trouble::GaveUp))));
    assert_eq!(writer.give_up(), [], "a machine ends once");

    stripe.mute = true;
    let mut writer = plain(stripe.map, 2, 2);
    let actions = writer.start();
    assert_eq!(stripe.drive(&mut writer, actions), None);
    assert!(writer.give_up().contains(&Action::Done(WriteOutcome::Unknown(Trouble::GaveUp))));
}
