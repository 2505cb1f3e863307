use super::super::message::RegisterView;
use super::super::register::PartitionState;
use super::super::slot::BucketState;
use super::super::tests::{op, slots, version};
use super::*;

const OBJECT: RegisterKind = RegisterKind::Object;
const OWN: SlotIndex = SlotIndex(3);

fn tag(seq: u64) -> Tag {
    Tag { seq, writer: op(seq), ..Tag::default() }
}

/// A version that its op's number orders, as a slot holds it.
fn held(number: u64, k: u8, state: VersionState, acknowledged: u16) -> SlotVersion {
    SlotVersion {
        version: version(number, k),
        tag: tag(number),
        state,
        shard_present: true,
        acknowledged: slots(acknowledged),
    }
}

fn register(versions: Vec<SlotVersion>) -> Register {
    Register { learn: Some(Tag::default()), versions, ..Register::default() }
}

/// What comes of a request to a slot at epoch 1.
fn serve(register: &mut Register, epoch: u64, request: impl Fn(Slot<'_>, Caller) -> Served) -> Served {
    let mut partition = PartitionState { epoch: Epoch(1), ..PartitionState::default() };
    let slot = Slot { partition: &mut partition, bucket: BucketState::default(), register };
    request(slot, Caller { epoch: Epoch(epoch), bucket_revision: 0 })
}

#[test]
fn only_what_is_stable_and_not_superseded_is_owed() {
    use VersionState::{Committed, Stable};
    let check = |versions: Vec<SlotVersion>, kind, expected: u16| {
        assert_eq!(owed(&register(versions.clone()), kind, slots(0b1111)), slots(expected), "{versions:?}");
    };
    check(vec![], OBJECT, 0);
    check(vec![held(1, 2, Stable, 0b1111)], OBJECT, 0);
    check(vec![held(1, 2, Stable, 0b0111)], OBJECT, 0b1000);
    check(vec![held(1, 0, Stable, 0b0110)], OBJECT, 0b1001);
    check(vec![held(1, 2, Committed, 0b0000)], OBJECT, 0);
    check(vec![held(1, 2, Stable, 0b0111), held(2, 2, Stable, 0b1111)], OBJECT, 0);
    check(vec![held(1, 2, Stable, 0b0111), held(2, 2, Committed, 0)], OBJECT, 0b1000);
    // An earlier attempt at a part may be the one that an object is made of.
    let attempt = |number, acknowledged| {
        let mut held = held(number, 2, Stable, acknowledged);
        held.version.null_version = false;
        held
    };
    check(vec![attempt(1, 0b0111), attempt(2, 0b1111)], RegisterKind::Part, 0b1000);
    check(vec![attempt(1, 0b0111), held(2, 2, Stable, 0b1111)], RegisterKind::Part, 0);
}

#[test]
fn what_a_peer_told_is_recorded_once_without_its_shard_and_in_its_own_epoch() {
    let told = [
        held(1, 2, VersionState::Stable, 0b0111),
        held(2, 2, VersionState::Committed, 0),
        held(3, 0, VersionState::Stable, 0b0111),
    ];
    let mut here = Register::default();
    let refused = serve(&mut here, 0, |slot, caller| learn(slot, caller, &told));
    assert_eq!(refused.reply, SlotReply::Refused(Refusal::WrongEpoch(Epoch(1))));
    assert!(here.is_vacant() && confirmed(&here, &told).next().is_none());

    let served = serve(&mut here, 1, |slot, caller| learn(slot, caller, &told));
    assert!(served.register_changed);
    let recorded: Vec<_> = here.versions.iter().map(|v| (v.tag, v.state, v.shard_present)).collect();
    let stable = VersionState::Stable;
    assert_eq!(recorded, [(tag(1), stable, false), (tag(3), stable, true)]);
    let confirmed: Vec<_> = confirmed(&here, &told).map(|told| told.tag).collect();
    assert_eq!(confirmed, [tag(1), tag(3)]);
    // To those that the peer knows to have it nothing is owed by this slot either.
    assert_eq!(owed(&here, OBJECT, slots(0b1111)), slots(0b1000));
    assert!(!serve(&mut here, 1, |slot, caller| learn(slot, caller, &told)).register_changed);
}

#[test]
fn a_peer_that_is_behind_brings_nothing_back() {
    let mut here = register(vec![held(5, 0, VersionState::Stable, 0b1111)]);
    let before = here.clone();
    let told = [held(4, 2, VersionState::Stable, 0b0111)];
    serve(&mut here, 1, |slot, caller| learn(slot, caller, &told));
    assert_eq!(here, before);
    assert_eq!(confirmed(&here, &told).next(), None);
}

#[test]
fn a_rebuilt_shard_fills_its_version_and_lowers_nothing() {
    let mut here =
        register(vec![held(1, 2, VersionState::Committed, 0), held(2, 2, VersionState::Committed, 0)]);
    here.versions[1].shard_present = false;
    assert_eq!(missing(&here, OBJECT).map(|held| held.tag), Some(tag(2)));
    let rebuilt = Install { version: version(2, 2), tag: tag(2), source_stable: false };
    let served = serve(&mut here, 1, |slot, caller| install(slot, caller, &rebuilt, true));
    assert!(served.register_changed && here.versions[1].shard_present);
    assert_eq!(here.versions[1].state, VersionState::Committed, "LEARNED does not lower it");
    assert_eq!(missing(&here, OBJECT), None);
}

fn machine(first: u16) -> CatchUp {
    let map = MapEpochs { epoch: Epoch(1), purge: Epoch(0), ..MapEpochs::default() };
    let wanted = (version(2, 2), tag(2));
    CatchUp::new((Geometry::new(4), map), OBJECT, (OWN, slots(first)), wanted)
}

fn reply(current: Option<SlotVersion>) -> Result<SlotReply, Lost> {
    Ok(SlotReply::View(RegisterView { current, ..RegisterView::default() }, None))
}

fn verdict(actions: Out) -> Option<Verdict> {
    actions.into_iter().find_map(|action| match action {
        Action::Done(verdict) => Some(verdict),
        _ => None,
    })
}

/// What the answers of slots 0 and 1 lead to.
fn judged(answers: [Option<SlotVersion>; 2]) -> Option<Verdict> {
    let mut machine = machine(0b0011);
    let sent = machine.start();
    assert!(matches!(&sent[0], Action::Send { round: 1, slots: SlotSet(0b0011), .. }), "{sent:?}");
    let [one, other] = answers;
    assert_eq!(verdict(machine.on_reply(1, SlotIndex(0), reply(one))), None);
    verdict(machine.on_reply(1, SlotIndex(1), reply(other)))
}

#[test]
fn a_shard_is_rebuilt_unless_its_version_is_known_to_be_replaced() {
    use VersionState::{Committed, Stable};
    let rebuild =
        |stable, holders| Some(Verdict::Rebuild { epoch: Epoch(1), stable, holders: slots(holders) });
    let same = |state| Some(held(2, 2, state, 0));
    assert_eq!(judged([same(Stable), same(Committed)]), rebuild(true, 0b11));
    assert_eq!(judged([same(Committed), same(Committed)]), rebuild(false, 0b11));
    assert_eq!(judged([None, same(Committed)]), rebuild(false, 0b10));
    // What is only COMMITTED may yet be refused, and an older version replaces nothing.
    assert_eq!(judged([Some(held(3, 2, Committed, 0)), same(Stable)]), rebuild(true, 0b10));
    assert_eq!(judged([Some(held(1, 2, Stable, 0)), same(Stable)]), rebuild(true, 0b10));
    let newer = held(3, 0, Stable, 0b0111);
    let replaced = Some(Verdict::Superseded(Epoch(1), newer.clone()));
    assert_eq!(judged([Some(newer), same(Stable)]), replaced);
}

#[test]
fn the_other_slots_are_asked_once_the_first_are_lost_and_never_the_own() {
    let mut machine = machine(0b0011);
    machine.start();
    machine.on_reply(1, SlotIndex(0), reply(None));
    let more = machine.on_reply(1, SlotIndex(1), Err(Lost));
    let asked = more.iter().find_map(|action| match action {
        Action::Send { slots, .. } => Some(*slots),
        _ => None,
    });
    assert_eq!(asked, Some(slots(0b0100)));
    let done = verdict(machine.on_reply(1, SlotIndex(2), reply(None)));
    assert!(matches!(done, Some(Verdict::Rebuild { .. })), "{done:?}");
}

#[test]
fn a_newer_epoch_is_asked_in_anew_and_a_deadline_ends_it() {
    let mut machine = machine(0b0111);
    machine.start();
    let old = || Ok(SlotReply::Refused(Refusal::WrongEpoch(Epoch(2))));
    let mut actions = Vec::new();
    for slot in 0..3 {
        actions.extend(machine.on_reply(1, SlotIndex(slot), old()));
    }
    assert!(actions.contains(&Action::RefreshMap(Epoch(1))), "{actions:?}");
    let again = machine.on_map(MapEpochs { epoch: Epoch(2), purge: Epoch(0), ..MapEpochs::default() });
    assert!(matches!(&again[0], Action::Send { epoch: Epoch(2), slots: SlotSet(0b0111), .. }), "{again:?}");
    assert_eq!(verdict(machine.give_up()), Some(Verdict::Unavailable(Trouble::GaveUp)));
    assert_eq!(machine.give_up(), [], "it has ended");
}
