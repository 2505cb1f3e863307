//! The verdict on every combination of what up to six slots may say, against the rule in the protocol's words; and the
//! machine's order of steps.

use super::*;
use crate::types::Fence;

const RAISED: Epoch = Epoch(7);
const OP: OpId = OpId { session: 1, counter: 1 };
const ORPHAN: Candidate = Candidate::Orphan(OP);

fn tombstone() -> Candidate {
    Candidate::Tombstone(Tag { fence: Fence::default(), seq: 3, writer: OP })
}

/// Everything that a slot may say: silence; each role, below, in and above the epoch, adopted for this purge or not.
fn all_told() -> Vec<Option<Evidence>> {
    let mut all = vec![None];
    for role in [Role::Voter, Role::Joining, Role::Out] {
        for (epoch, purge_epoch) in [(6, 6), (7, 5), (7, 7), (8, 7)] {
            for held in [Held::Nothing, Held::Prepared, Held::Waited, Held::Alone, Held::Other] {
                let (epoch, purge_epoch) = (Epoch(epoch), Epoch(purge_epoch));
                all.push(Some(Evidence { role, epoch, purge_epoch, held }));
            }
        }
    }
    all
}

/// Calls `visit` with every multiset of `n` of these: the verdict knows no order of slots (see the test of that).
fn for_each_multiset(
    of: &[Option<Evidence>],
    chosen: &mut Vec<Option<Evidence>>,
    n: usize,
    visit: &mut dyn FnMut(&[Option<Evidence>]),
) {
    if chosen.len() == n {
        return visit(chosen);
    }
    for (at, told) in of.iter().enumerate() {
        chosen.push(*told);
        for_each_multiset(&of[at..], chosen, n, visit);
        chosen.pop();
    }
}

/// The rule: all n have answered, all VOTER, all in the epoch that was raised and adopted for it; none holds anything
/// but the candidate itself, and one holds that.
fn allowed(candidate: Candidate, told: &[Option<Evidence>]) -> bool {
    let mut holders = 0;
    for slot in told {
        let Some(slot) = slot else { return false };
        if slot.role != Role::Voter || slot.epoch != RAISED || slot.purge_epoch != RAISED {
            return false;
        }
        match (candidate, slot.held) {
            (_, Held::Nothing) => {}
            (Candidate::Orphan(_), Held::Waited) | (Candidate::Tombstone(_), Held::Alone) => holders += 1,
            _ => return false,
        }
    }
    holders > 0
}

fn check_all(n: u8, all: &[Option<Evidence>]) -> (u64, u64) {
    let geometry = Geometry::new(n);
    let (mut looked, mut purged) = (0, 0);
    for_each_multiset(all, &mut Vec::new(), usize::from(n), &mut |told| {
        for candidate in [ORPHAN, tombstone()] {
            let verdict = may_purge(geometry, candidate, Some(RAISED), told) == Verdict::Purge;
            assert_eq!(verdict, allowed(candidate, told), "{candidate:?} {told:?}");
            looked += 1;
            purged += u64::from(verdict);
        }
    });
    (looked, purged)
}

#[test]
fn every_combination_of_evidence_is_judged_as_the_rule_says() {
    let all = all_told();
    for n in 1..=3 {
        let (looked, purged) = check_all(n, &all);
        // n + 1 multisets of the two kinds that allow it, less the one without a holder; for both kinds of candidate.
        assert_eq!(purged, 2 * u64::from(n), "{looked} looked at");
    }
    // What differs from a good answer in two ways at once is left out for more slots: one way forbids the purge already.
    let good = |told: &Evidence| {
        let in_epoch = (told.epoch, told.purge_epoch) == (RAISED, RAISED);
        u32::from(told.role != Role::Voter) + u32::from(!in_epoch)
    };
    let few: Vec<_> = all.into_iter().filter(|told| told.is_none_or(|told| good(&told) <= 1)).collect();
    let fewer: Vec<_> = few
        .iter()
        .copied()
        .filter(|told| {
            told.is_none_or(|told| good(&told) == 0 || told.held == Held::Waited || told.held == Held::Alone)
        })
        .collect();
    for n in 4..=6 {
        let (looked, purged) = check_all(n, if n == 4 { &few } else { &fewer });
        assert_eq!(purged, 2 * u64::from(n), "{looked} looked at");
    }
}

#[test]
fn the_order_of_the_slots_is_of_no_consequence() {
    let all = all_told();
    for first in &all {
        for second in &all {
            for third in
                [None, Some(voter(Held::Waited)), Some(voter(Held::Alone)), Some(voter(Held::Nothing))]
            {
                for candidate in [ORPHAN, tombstone()] {
                    let judge = |told: [Option<Evidence>; 3]| {
                        may_purge(Geometry::new(3), candidate, Some(RAISED), &told) == Verdict::Purge
                    };
                    let one = judge([*first, *second, third]);
                    assert_eq!(one, judge([third, *second, *first]));
                    assert_eq!(one, judge([*second, *first, third]));
                }
            }
        }
    }
}

fn voter(held: Held) -> Evidence {
    Evidence { role: Role::Voter, epoch: RAISED, purge_epoch: RAISED, held }
}

#[test]
fn before_the_epoch_is_raised_all_slots_must_be_in_one() {
    let geometry = Geometry::new(3);
    let at = |epoch| Some(Evidence { epoch: Epoch(epoch), purge_epoch: Epoch(0), ..voter(Held::Waited) });
    let judge = |told: &[Option<Evidence>]| may_purge(geometry, ORPHAN, None, told);
    assert_eq!(judge(&[at(4), at(4), at(4)]), Verdict::Purge);
    assert_eq!(judge(&[at(4), at(4), at(5)]), Verdict::OtherEpoch);
    assert_eq!(judge(&[at(4), at(4), None]), Verdict::Silent);
    assert_eq!(judge(&[at(4), at(4)]), Verdict::Silent);
    assert_eq!(judge(&[Some(voter(Held::Nothing)); 3]), Verdict::Nothing);
}

fn evidence(held: [Held; 3], epoch: u64, purge_epoch: u64) -> [Evidence; 3] {
    let (epoch, purge_epoch) = (Epoch(epoch), Epoch(purge_epoch));
    held.map(|held| Evidence { epoch, purge_epoch, ..voter(held) })
}

/// Answers of three slots, to two candidates.
fn answer(machine: &mut Purge<u8>, first: [Evidence; 3], second: [Evidence; 3]) {
    for slot in 0..3 {
        let told = [first[slot], second[slot]];
        let known = machine.candidates().len();
        machine.answered(SlotIndex(slot as u8), told[..known].to_vec());
    }
}

#[test]
fn a_purge_looks_raises_the_epoch_looks_again_and_drops_what_is_left() {
    use Held::{Alone, Nothing, Other, Waited};
    let mut machine = Purge::new(Geometry::new(3), vec![(1, ORPHAN), (2, tombstone())]);
    machine.published(RAISED);
    assert_eq!(machine.action(), Action::Look, "nothing is published before everybody was asked");
    answer(&mut machine, evidence([Waited, Nothing, Waited], 6, 0), evidence([Alone; 3], 6, 0));
    assert_eq!(machine.action(), Action::Publish { tombstones: true, orphans: true });
    machine.published(RAISED);
    assert_eq!(machine.action(), Action::Adopt(RAISED));
    // The tombstone was written over meanwhile.
    answer(&mut machine, evidence([Waited, Nothing, Waited], 7, 7), evidence([Alone, Other, Alone], 7, 7));
    assert_eq!((machine.action(), machine.candidates()), (Action::Drop(RAISED), &[(1, ORPHAN)][..]));
}

#[test]
fn a_purge_that_finds_a_commit_ends() {
    use Held::{Nothing, Other, Waited};
    let mut machine = Purge::new(Geometry::new(3), vec![(1, ORPHAN)]);
    let committed = evidence([Waited, Nothing, Other], 6, 0);
    answer(&mut machine, committed, committed);
    assert_eq!(machine.action(), Action::Done);

    // One that was committed before the last slot adopted the epoch.
    let mut machine = Purge::new(Geometry::new(3), vec![(1, ORPHAN)]);
    let prepared = evidence([Waited, Nothing, Waited], 6, 0);
    answer(&mut machine, prepared, prepared);
    assert_eq!(machine.action(), Action::Publish { tombstones: false, orphans: true });
    machine.published(RAISED);
    let committed = evidence([Waited, Nothing, Other], 7, 7);
    answer(&mut machine, committed, committed);
    assert_eq!(machine.action(), Action::Done);
}
