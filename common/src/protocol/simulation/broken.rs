//! The rules that the simulation can break, one at a time, and in which schedules each must be noticed.

use super::super::flaw::Flaw;
use super::scenario::Scenario;

/// A rule of the client machines, of the slots, or of what surrounds them, that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// A client machine's.
    Client(Flaw),
    /// FENCE makes nobody exclusive.
    NoExclusivity,
    /// COMMIT does not look at fences.
    NoFenceCheck,
    /// A COMMIT below the floor of a slot without a record is called superseded.
    FloorSupersedes,
    /// Versions that arrive by hand-over count as COMMITTED.
    LearnedVotes,
    /// Versions that arrive by INSTALL count as COMMITTED.
    InstalledVotes,
    /// Slots do not look at epochs.
    NoEpochs,
    /// STABLE is accepted whatever its epoch.
    StableInAnyEpoch,
    /// INSTALL is accepted whatever its epoch.
    InstallsInAnyEpoch,
    /// A purge drops prepared ops that it did not see before its epoch was raised.
    DropsUnseen,
    /// A drop does not raise the floor.
    NoFloor,
    /// A slot that is learning votes.
    JoiningVotes,
    /// Slots do not look at bucket revisions.
    IgnoresBucket,
    /// FENCE does not look at bucket revisions.
    FencesAnyBucket,
    /// QUERY does not look at bucket revisions.
    QueriesAnyBucket,
    /// A voter does not hand over bucket revisions.
    HandsOverNoBucket,
    /// A bucket is listed before its revision is adopted.
    ListsFirst,
    /// A listing that a deletion rests on counts slots that have not adopted the revision.
    ListsAnybody,
    /// A change that protects data does not settle what is undecided.
    ProtectsUnsettled,
    /// A bucket that is created anew has the id of the one that was deleted.
    ReusesBucketId,
}

/// A broken rule, its name, and the kind of schedule in which it shows.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The name on the command line.
    pub name: &'static str,
    pub(super) broken: Broken,
    /// The schedules.
    pub scenario: Scenario,
}

const fn client(name: &'static str, flaw: Flaw, scenario: Scenario) -> Case {
    Case { name, broken: Broken::Client(flaw), scenario }
}

const fn case(name: &'static str, broken: Broken, scenario: Scenario) -> Case {
    Case { name, broken, scenario }
}

/// Every broken rule.
pub const CASES: &[Case] = &[
    client("no-write-back", Flaw::NoWriteBack, Scenario::BASE),
    client("reads-on-too-few", Flaw::ReadsOnTooFew, Scenario::BASE),
    client("decides-on-too-few", Flaw::DecidesOnTooFew, Scenario::BASE),
    client("writes-on-too-few", Flaw::WritesOnTooFew, Scenario::BASE),
    client("stable-too-early", Flaw::StableTooEarly, Scenario::BASE),
    client("tags-on-too-few", Flaw::TagsOnTooFew, Scenario::BASE),
    client("fences-on-too-few", Flaw::FencesOnTooFew, Scenario::BASE),
    client("retags", Flaw::Retags, Scenario::BASE),
    client("no-restamp", Flaw::NoRestamp, Scenario::BASE),
    client("adds-up-epochs", Flaw::AddsUpEpochs, Scenario::SEEDED_EPOCH),
    client("resends-over-purge", Flaw::ResendsOverPurge, Scenario::SEEDED_PURGE),
    client("ignores-floor", Flaw::IgnoresFloor, Scenario::COLLECT),
    case("no-exclusivity", Broken::NoExclusivity, Scenario::BASE),
    case("no-fence-check", Broken::NoFenceCheck, Scenario::BASE),
    case("floor-supersedes", Broken::FloorSupersedes, Scenario::COLLECT),
    case("learned-votes", Broken::LearnedVotes, Scenario::SEEDED_REJOIN),
    case("installed-votes", Broken::InstalledVotes, Scenario::SEEDED_INSTALL),
    case("no-epochs", Broken::NoEpochs, Scenario::MOVE),
    case("stable-in-any-epoch", Broken::StableInAnyEpoch, Scenario::SEEDED_PURGE),
    case("installs-in-any-epoch", Broken::InstallsInAnyEpoch, Scenario::SEEDED_PURGE),
    client("purges-without-epoch", Flaw::PurgesWithoutEpoch, Scenario::SEEDED_PURGE),
    client("purges-partly-adopted", Flaw::PurgesPartlyAdopted, Scenario::SEEDED_PURGE),
    client("purges-on-too-few", Flaw::PurgesOnTooFew, Scenario::COLLECT),
    client("sweeps-without-epoch", Flaw::PurgesWithoutEpoch, Scenario::SWEEP),
    client("sweeps-partly-adopted", Flaw::PurgesPartlyAdopted, Scenario::SWEEP),
    client("sweeps-on-too-few", Flaw::PurgesOnTooFew, Scenario::SWEEP),
    client("commits-over-sweep", Flaw::CommitsOverSweep, Scenario::SWEEP),
    case("sweeps-unseen", Broken::DropsUnseen, Scenario::SWEEP),
    case("no-floor", Broken::NoFloor, Scenario::COLLECT),
    client("joins-from-one", Flaw::JoinsFromOne, Scenario::REJOIN),
    case("joining-votes", Broken::JoiningVotes, Scenario::REJOIN),
    client("moves-without-adopters", Flaw::MovesWithoutAdopters, Scenario::MOVE),
    client("bucket-adopted-by-too-few", Flaw::AdoptsOnTooFew, Scenario::BUCKET_REJOIN),
    client("bucket-adopted-by-r0", Flaw::AdoptsOnReadQuorum, Scenario::BUCKET_REJOIN),
    case("bucket-ignored", Broken::IgnoresBucket, Scenario::BUCKET),
    case("bucket-ignored-by-fence", Broken::FencesAnyBucket, Scenario::BUCKET),
    case("bucket-ignored-by-query", Broken::QueriesAnyBucket, Scenario::BUCKET),
    case("bucket-not-handed-over", Broken::HandsOverNoBucket, Scenario::BUCKET_REJOIN),
    case("bucket-listed-first", Broken::ListsFirst, Scenario::BUCKET),
    case("bucket-listed-by-anybody", Broken::ListsAnybody, Scenario::BUCKET),
    case("bucket-protected-unsettled", Broken::ProtectsUnsettled, Scenario::BUCKET),
    case("bucket-id-reused", Broken::ReusesBucketId, Scenario::BUCKET),
];
