//! Slots that went to another drive after the newest copy of the map was made. Pure.
//!
//! Owns: where such a slot is, by what drives tell of themselves, and the doubt where that does not follow. Never leaves a slot
//! to a drive that says it votes for it, and may lack what was acknowledged since, unless the operator gives up the drives that
//! would tell.
//!
//! Looked at are the partitions of which some slot has adopted an epoch above the copy's (`known`). A drive that has only
//! begun to take a slot may be in one that never came.
//!
//! 1. **Claims.** A drive that takes part above `known`, and that the copy does not name for the slot, has taken it since: epochs are
//!    only adopted from callers that mean the drive. Which slot it is, its registers tell; where there are none, the target
//!    does. These claim nothing: the drive that the copy has the slot on its way from, if it tells of no take since; one that votes and
//!    has no registers; and one that has only begun to take the slot (JOINING), and has promised nothing that counts, unless
//!    it may have voted and lost its state since: it is damaged, or has a higher incarnation than in the copy.
//! 2. **The last one.** Of the drives that claim a slot, and the one that the copy names, if that votes, the one that was JOINING last
//!    has it, if that was after the copy. Epochs do not decide: a drive that a slot leaves adopts that of the cut-over when it
//!    hands over, and, if its version is an older one, later ones from what its peers say that they owe the slot. Where drives do
//!    not tell when they were JOINING, and the other one is not behind, it is a doubt. The slot is written as it is right
//!    after it was taken, on its way from the drive before. Whether it votes is the drive's own word; one that lost its state
//!    learns anew, as after any loss, if enough others vote.
//! 3. **Drives that run.** One that was JOINING when it was read, and ran, may vote by now if others have adopted its epoch, and
//!    that is not the one in which another drive took a slot.
//! 4. **The unread.** A drive that was not read, or not as it was, and that by the target was to take a slot, may have done so.
//! 5. Neither 3 nor 4 where drives that have taken a slot since account for every epoch since.
//! 6. **Doubts.** Each names what would tell. Where nothing may, `accept_half` decides, and that is told. The drive that was read keeps
//!    the slot, and may lack what was written last: the other one, if it has not begun to take it, would vote at once, without
//!    having learned a thing. So a slot waits for a drive that was not read only if it was taken for certain, because the
//!    drive that had it has taken another one.
//!
//! **Limits.** That the target was replaced too after the copy was made is seen only where a drive that was read has taken a slot
//! by the new one; copies are at most seconds old, and follow a new target at once where nothing else moves. A drive that was
//! JOINING and ran, and whose epoch no other slot had adopted when it was read, is taken to have only begun: it would have had to be
//! cut off from all others since before the loss, and to reach them between the export and the end of the recovery. A drive that
//! has changed its slot, while the drive that took the one before is not known by the target, is a doubt that nothing lifts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::plan::{RecoveryRefusal, is_whole, whereabouts};
use super::report::{DriveReport, PartitionReport};
use crate::cluster::map::ClusterMap;
use crate::layout::{PartitionRecord, SlotMove, SlotRecord, SlotRole};
use crate::limits::PARTITION_COUNT;
use crate::protocol::quorum::Geometry;
use crate::types::{DriveId, Epoch, Incarnation, PartitionId, SlotIndex};

/// Places that a refusal names.
const SHOWN: usize = 20;
/// What helps where an older version has exported a drive.
const EXPORT_AGAIN: &str = "export again with this version; if the drive is gone since, leave its line out, as if it had not \
                            been read";
/// What helps where nothing is left to be read.
const NOTHING_TELLS: &str = "no drive tells more";

/// Puts the slot into its partition's record, as taking it did.
pub(super) fn write(moved: &SlotMove, record: &mut PartitionRecord) {
    let at = usize::from(moved.slot.0);
    if record.slots.len() <= at {
        // To a map, a slot that the record lacks is as new.
        record.slots.resize(at + 1, SlotRecord::default());
    }
    record.slots[at] = SlotRecord { role: SlotRole::Voter, drive: Some(moved.to), source: Some(moved.from) };
}

/// What a drive tells of a partition.
type Word<'a> = (&'a DriveReport, &'a PartitionReport);

/// The slots that are not as the map has them.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Those that are not decided too, as `accept_half` would have them.
    pub(super) slots: Vec<SlotMove>,
    /// Places that drives do not tell of, and what `accept_half` has made of them.
    pub(super) decided: Vec<String>,
    /// Places that are not decided.
    doubts: Vec<Doubt>,
}

/// Finds them. `accept_half`: what was not read is gone for good.
pub(super) fn moved_since(map: &ClusterMap, reports: &[&DriveReport], accept_half: bool) -> Moved {
    let mut words: HashMap<PartitionId, Vec<Word<'_>>> = HashMap::new();
    for report in reports.iter().copied() {
        for word in &report.partitions {
            words.entry(word.partition).or_default().push((report, word));
        }
    }
    let mut moved = Moved::default();
    for partition in (0..PARTITION_COUNT).map(PartitionId) {
        let Some(words) = words.get(&partition) else { continue };
        let ahead = Ahead::of(map, reports, partition, words);
        if ahead.highest <= ahead.known {
            continue;
        }
        let found = ahead.found();
        moved.slots.extend(found.moved.into_values());
        moved.doubts.extend(found.doubts);
    }
    if accept_half {
        moved.decided = moved.doubts.iter().filter_map(Doubt::decided).collect();
        moved.doubts.retain(|doubt| doubt.decision.is_none());
    }
    moved
}

impl Moved {
    /// Refuses if anything is not decided.
    pub(super) fn refuse_undecided(&self) -> Result<(), RecoveryRefusal> {
        let Self { doubts, .. } = self;
        if doubts.is_empty() {
            return Ok(());
        }
        let mut places = doubts.iter().take(SHOWN).map(Doubt::open).collect::<Vec<_>>().join("\n");
        if doubts.len() > SHOWN {
            places.push_str(&format!("\n  and {} more", doubts.len() - SHOWN));
        }
        let lifted = doubts.iter().filter(|doubt| doubt.decision.is_some()).count();
        Err(RecoveryRefusal::Undecided { slots: doubts.len(), lifted, places })
    }
}

/// A place of which drives do not tell who has it.
#[derive(Debug)]
struct Doubt {
    place: String,
    reason: String,
    /// What would tell.
    remedy: &'static str,
    /// What `accept_half` makes of it; nothing where the remedy is always at hand, or no drive can be named.
    decision: Option<String>,
}

impl Doubt {
    fn open(&self) -> String {
        let Self { place, reason, remedy, decision } = self;
        let decision = decision.iter().map(|decision| format!("; with `--accept-half`, {decision}"));
        format!("  {place}: {reason}: {remedy}{}", decision.collect::<String>())
    }

    fn decided(&self) -> Option<String> {
        let decision = self.decision.as_ref()?;
        Some(format!("  {}: {}: {decision}", self.place, self.reason))
    }
}

/// What there is of a partition: where slots are, if every doubt is decided, and the doubts.
#[derive(Debug, Default)]
struct Found {
    moved: BTreeMap<SlotIndex, SlotMove>,
    doubts: Vec<Doubt>,
}

/// A drive that has, or had, a slot.
#[derive(Clone, Copy, Debug)]
struct Claim {
    slot: SlotIndex,
    drive: DriveId,
    /// The epoch in which it last began to learn, if that was after the copy. The later drive has the higher one.
    taken: Option<Epoch>,
    epoch: Epoch,
    /// Whether it votes, and nothing of it is lost.
    votes: bool,
}

/// A partition of which slots know more than the copy.
struct Ahead<'a> {
    map: &'a ClusterMap,
    reports: &'a [&'a DriveReport],
    partition: PartitionId,
    words: &'a [Word<'a>],
    /// The copy's epoch.
    known: Epoch,
    /// The highest that a slot has adopted.
    highest: Epoch,
}

impl<'a> Ahead<'a> {
    fn of(
        map: &'a ClusterMap,
        reports: &'a [&'a DriveReport],
        partition: PartitionId,
        words: &'a [Word<'a>],
    ) -> Self {
        let known = map.epochs(partition).epoch;
        let mut ahead = Self { map, reports, partition, words, known, highest: known };
        let has_come = |(report, word): &&Word<'_>| {
            map.slot_on(partition, report.drive).is_some() || !ahead.has_only_begun(report, word)
        };
        let highest = words.iter().filter(has_come).map(|(_, word)| word.epoch).max();
        ahead.highest = highest.unwrap_or(known);
        ahead
    }
}

impl Ahead<'_> {
    fn found(&self) -> Found {
        let mut found = Found::default();
        let claims = self.claims(&mut found.doubts);
        for slot in self.slots() {
            self.give_to_last(slot, &claims, &mut found);
        }
        for lost in claims.iter().filter(|claim| !claim.votes) {
            self.keep_voter(lost, &claims, &mut found);
        }
        if !self.is_explained() {
            self.doubt_running(&mut found);
            self.doubt_unread(&mut found);
        }
        self.doubt_changed(&mut found);
        found
    }

    fn slots(&self) -> impl Iterator<Item = SlotIndex> + use<> {
        (0..self.map.layout.n()).map(SlotIndex)
    }

    /// The drives that have taken a slot since the copy was made.
    fn claims(&self, doubts: &mut Vec<Doubt>) -> Vec<Claim> {
        let mut claims = Vec::new();
        for (report, word) in self.words {
            let takes_part = word.epoch > self.known && word.role != SlotRole::Out;
            let votes = self.votes(report, word);
            // Whoever had the slot before lacks nothing of what it has promised.
            let nothing = votes && self.has_nothing(word);
            if !takes_part || nothing || self.has_only_begun(report, word) {
                continue;
            }
            match self.slot_of(report.drive, word) {
                Some(slot) if self.is_in_copy(slot, report.drive, word) => {}
                Some(slot) => claims.push(self.claim(slot, report.drive, word, votes)),
                None => doubts.push(self.nameless(report.drive, word)),
            }
        }
        claims
    }

    fn claim(&self, slot: SlotIndex, drive: DriveId, word: &PartitionReport, votes: bool) -> Claim {
        let taken = (word.taken > self.known).then_some(word.taken);
        Claim { slot, drive, taken, epoch: word.epoch, votes }
    }

    /// Whether a drive votes, and nothing of it is lost.
    fn votes(&self, report: &DriveReport, word: &PartitionReport) -> bool {
        word.role == SlotRole::Voter && is_whole(self.map, report)
    }

    /// Whether a drive has no registers, and may not have lost any to a purge since.
    fn has_nothing(&self, word: &PartitionReport) -> bool {
        word.slots.as_ref().is_some_and(Vec::is_empty) && word.purge_epoch <= self.known
    }

    /// Whether the copy accounts for what a drive says of a slot: it names the drive, or has the slot moving away from it, and
    /// the drive tells of no take since.
    fn is_in_copy(&self, slot: SlotIndex, drive: DriveId, word: &PartitionReport) -> bool {
        let gave = self.map.source_of(self.partition, slot) == Some(drive);
        let has_not_taken = word.slots.is_some() && word.taken <= self.known;
        self.map.drive_of(self.partition, slot) == drive || gave && has_not_taken
    }

    /// Whether the drive is about to take a slot, and has promised nothing yet that counts.
    fn has_only_begun(&self, report: &DriveReport, word: &PartitionReport) -> bool {
        word.role == SlotRole::Joining && self.is_read(report.drive)
    }

    /// The slot that a drive speaks of.
    fn slot_of(&self, drive: DriveId, word: &PartitionReport) -> Option<SlotIndex> {
        let held = self.map.slot_on(self.partition, drive);
        match word.slots.as_deref() {
            Some([slot]) if slot.0 < self.map.layout.n() => return Some(*slot),
            Some([]) | None => {}
            Some(several) => return held.filter(|slot| several.contains(slot)),
        }
        let left = || self.slots().find(|slot| self.map.source_of(self.partition, *slot) == Some(drive));
        held.or_else(|| self.map.target.as_ref()?.slot_on(self.partition, drive)).or_else(left)
    }

    /// What the drive that the copy names says of the slot.
    fn named(&self, slot: SlotIndex) -> Claim {
        let drive = self.map.drive_of(self.partition, slot);
        let word = self.words.iter().find(|(report, word)| {
            let is_its = report.drive == drive && self.votes(report, word);
            is_its && self.slot_of(drive, word).is_none_or(|told| told == slot)
        });
        let silent = Claim { slot, drive, taken: None, epoch: Epoch(0), votes: false };
        word.map_or(silent, |(_, word)| self.claim(slot, drive, word, true))
    }

    /// All that may have the slot, the last one first.
    fn candidates(&self, slot: SlotIndex, claims: &[Claim]) -> Vec<Claim> {
        let (named, source) = (self.named(slot), self.map.source_of(self.partition, slot));
        // Of those that do not tell when they took it, it is rather the one that the copy does not know.
        let rank = |claim: &Claim| match claim.taken {
            None if source == Some(claim.drive) => 0,
            None if named.drive == claim.drive => 1,
            None | Some(_) => 2,
        };
        let claims = claims.iter().filter(|claim| claim.slot == slot).copied();
        let mut all: Vec<Claim> = claims.chain([named]).collect();
        all.sort_by_key(|claim| Reverse((claim.taken, rank(claim), claim.epoch, claim.votes)));
        all
    }

    fn give_to_last(&self, slot: SlotIndex, claims: &[Claim], found: &mut Found) {
        let all = self.candidates(slot, claims);
        let [first, before, ..] = all[..] else { return };
        let named = self.map.drive_of(self.partition, slot);
        let is_rival = |other: &Claim| {
            // The one that the copy names need not have taken the slot since.
            let may_not_have = other.drive == named && !self.is_told_by_older(named);
            let told = first.taken.is_some() && (other.taken.is_some() || may_not_have);
            let alike = (other.taken, other.epoch, other.votes) == (first.taken, first.epoch, first.votes);
            other.epoch >= first.epoch && (!told || alike)
        };
        if let Some(rival) = all[1..].iter().copied().find(is_rival) {
            let (one, other) = (self.name(first.drive), self.name(rival.drive));
            let old = self.is_told_by_older(first.drive) || self.is_told_by_older(rival.drive);
            found.doubts.push(Doubt {
                place: self.place(slot),
                reason: format!("either {one} or {other} has it"),
                remedy: if old { EXPORT_AGAIN } else { NOTHING_TELLS },
                decision: (!old).then(|| format!("{one} has it")),
            });
        }
        found.moved.insert(slot, self.going(slot, before.drive, first.drive));
    }

    /// Lets a slot that has gone to a drive which lost its state not go there, if too few other slots vote.
    fn keep_voter(&self, lost: &Claim, claims: &[Claim], found: &mut Found) {
        let slot = lost.slot;
        let voter = self.candidates(slot, claims).into_iter().find(|claim| claim.votes);
        let Some(voter) = voter.filter(|_| self.holder(slot, found) == lost.drive) else { return };
        if self.may_wait(slot, found) {
            return;
        }
        let (kept, gone) = (self.name(voter.drive), self.name(lost.drive));
        found.doubts.push(Doubt {
            place: self.place(slot),
            reason: format!("{gone} took it from {kept}, and is damaged or replaced"),
            remedy: "read the drives of the other slots, too few of which vote",
            decision: Some(keeps(&kept)),
        });
        found.moved.insert(slot, self.going(slot, lost.drive, voter.drive));
    }

    /// Whether each epoch since the copy is that in which one of these drives took its slot: nothing else has happened then.
    fn is_explained(&self) -> bool {
        let has_taken = |(report, word): &&Word<'_>| {
            let is_named = self.map.slot_on(self.partition, report.drive).is_some();
            !is_named && self.votes(report, word) && word.taken > self.known
        };
        let took = self.words.iter().filter(has_taken).count() as u64;
        self.highest.0 - self.known.0 <= took
    }

    /// Drives that were about to take a slot when they were read, and may have gone on.
    fn doubt_running(&self, found: &mut Found) {
        for (report, word) in self.words {
            let begun = report.in_use && word.epoch > self.known && self.has_only_begun(report, word);
            let others = self.words.iter().filter(|(other, _)| other.drive != report.drive);
            let voters: Vec<_> = others.filter(|(_, told)| told.role == SlotRole::Voter).collect();
            let is_heard_of = voters.iter().any(|(_, told)| told.epoch >= word.epoch);
            // An epoch is that of one change: this drive has lost the race for it.
            let is_anothers = voters.iter().any(|(_, told)| told.taken == word.epoch);
            if begun && is_heard_of && !is_anothers && !self.is_held(report.drive, found) {
                found.doubts.push(Doubt {
                    place: format!("partition {}", self.partition.0),
                    reason: format!("{} is about to take a slot, and runs", self.name(report.drive)),
                    remedy: "stop that node and export it again; then it may run, as it gets no vote without etcd. If it is gone \
                             since, leave its line out",
                    decision: None,
                });
            }
        }
    }

    /// The slots that may be at drives which were not read.
    fn doubt_unread(&self, found: &mut Found) {
        let Some(target) = &self.map.target else { return };
        for (slot, goal) in self.slots().zip(target.drives_of(self.partition)) {
            let (from, to) = (self.holder(slot, found), goal.id);
            if from == to || self.is_read(to) {
                continue;
            }
            // A drive that has another slot now has left this one, which was taken then.
            let has_left = self.slots().any(|other| other != slot && self.holder(other, found) == from);
            let waits = has_left && !self.is_held(to, found);
            let (before, after) = (self.name(from), self.name(to));
            let (why, remedy) = self.unread(to);
            let waiting = format!("it has no vote until {after} is back or replaced");
            found.doubts.push(Doubt {
                place: self.place(slot),
                reason: format!("{before} had it; {after} was to take it, and {why}"),
                remedy,
                decision: Some(if waits { waiting } else { keeps(&before) }),
            });
            if waits {
                found.moved.insert(slot, self.going(slot, from, to));
            }
        }
    }

    /// Why it is not known what a drive has promised, and what would tell.
    fn unread(&self, drive: DriveId) -> (&'static str, &'static str) {
        match self.report(drive) {
            None => ("was not read", "read that drive"),
            Some(report) if report.incarnation < self.known_incarnation(drive) => {
                ("only an older copy of it was read", "read the drive that is in its place")
            }
            Some(_) => ("is damaged or replaced", NOTHING_TELLS),
        }
    }

    /// The slots whose drives have taken another one of the partition since.
    fn doubt_changed(&self, found: &mut Found) {
        for slot in self.slots().filter(|slot| !found.moved.contains_key(slot)) {
            let drive = self.holder(slot, found);
            if found.moved.values().any(|moved| moved.to == drive) {
                let reason = format!(
                    "{} has left it for another one, and the drive that took it was not read",
                    self.name(drive)
                );
                let remedy = "read that drive, which the target of the copy may not have";
                found.doubts.push(Doubt { place: self.place(slot), reason, remedy, decision: None });
            }
        }
    }

    /// Whether the slot may wait for a drive that lost its state: enough others vote and were read, M of them can tell it what it has
    /// promised, and none waits like it, as two would wait for each other.
    fn may_wait(&self, slot: SlotIndex, found: &Found) -> bool {
        let geometry = Geometry::new(self.map.layout.n());
        let others = || self.slots().filter(move |other| *other != slot);
        let voters = others().filter(|other| self.is_voter(*other, found)).count();
        let waits = |other: SlotIndex| {
            let moves =
                found.moved.contains_key(&other) || self.map.source_of(self.partition, other).is_some();
            moves && !self.is_read(self.holder(other, found))
        };
        voters >= geometry.r0() && others().count() >= geometry.m() && !others().any(waits)
    }

    /// Whether the drive that has a slot was read, and says that it votes as that slot.
    fn is_voter(&self, slot: SlotIndex, found: &Found) -> bool {
        let drive = self.holder(slot, found);
        let word = self.words.iter().find(|(report, _)| report.drive == drive).map(|(_, word)| *word);
        let votes = match word {
            Some(word) => {
                let is_its = self.slot_of(drive, word).is_none_or(|told| told == slot);
                word.role == SlotRole::Voter && is_its
            }
            // Without a record, only a drive that has never lost its state.
            None => self.report(drive).is_some_and(|report| report.incarnation == Incarnation(0)),
        };
        votes && self.is_read(drive)
    }

    /// The drive that has a slot, by what was found.
    fn holder(&self, slot: SlotIndex, found: &Found) -> DriveId {
        let moved = found.moved.get(&slot);
        moved.map_or_else(|| self.map.drive_of(self.partition, slot), |moved| moved.to)
    }

    fn is_held(&self, drive: DriveId, found: &Found) -> bool {
        self.slots().any(|slot| self.holder(slot, found) == drive)
    }

    fn going(&self, slot: SlotIndex, from: DriveId, to: DriveId) -> SlotMove {
        SlotMove { partition: self.partition, slot, from, to }
    }

    fn report(&self, drive: DriveId) -> Option<&DriveReport> {
        self.reports.iter().copied().find(|report| report.drive == drive)
    }

    /// Whether all that a drive has promised was read: an earlier incarnation may have promised more.
    fn is_read(&self, drive: DriveId) -> bool {
        let known = self.known_incarnation(drive);
        self.report(drive).is_some_and(|report| report.incarnation == known && is_whole(self.map, report))
    }

    fn known_incarnation(&self, drive: DriveId) -> Incarnation {
        self.map.locate(drive).map_or(Incarnation(0), |(_, incarnation)| incarnation)
    }

    /// Whether what the drive tells was exported by a version that did not know of slots.
    fn is_told_by_older(&self, drive: DriveId) -> bool {
        self.words.iter().any(|(report, word)| report.drive == drive && word.slots.is_none())
    }

    /// A drive that has taken a slot, nobody knows which.
    fn nameless(&self, drive: DriveId, word: &PartitionReport) -> Doubt {
        let old = word.slots.is_none();
        Doubt {
            place: format!("partition {}", self.partition.0),
            reason: format!("{} has taken a slot, and does not tell which", self.name(drive)),
            remedy: if old { EXPORT_AGAIN } else { NOTHING_TELLS },
            decision: (!old).then(|| "every slot stays with the drive that the copy has".to_owned()),
        }
    }

    fn place(&self, slot: SlotIndex) -> String {
        format!("partition {}, slot {}", self.partition.0, slot.0)
    }

    fn name(&self, drive: DriveId) -> String {
        let recorded = whereabouts(self.map, drive).map_or("", |(_, path, _)| path);
        let path = self.report(drive).map_or(recorded, |report| report.path.as_str());
        format!("drive {drive} (`{path}` on node {})", self.map.node_of(drive))
    }
}

/// What becomes of a slot that cannot do without the drive that votes.
fn keeps(drive: &str) -> String {
    format!("{drive} keeps it, and may lack what was written last")
}
