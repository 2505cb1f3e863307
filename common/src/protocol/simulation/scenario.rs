//! What may happen in a schedule besides concurrent operations, loss, duplication, reordering, slow slots and dying
//! gateways, which happen in all of them.

/// Where a schedule begins. The seeded ones are states that random schedules reach too seldom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing was ever here.
    Fresh,
    /// A plain write and a fenced create have met disjoint slots and died, COMMITs still under way.
    Disjoint,
    /// A write has been committed, read, and deleted for good; all its acknowledgements were lost, and its gateway may
    /// still be waiting for them.
    Deleted,
    /// A write has been acknowledged by one slot, and that slot loses its state at once.
    Acknowledged,
}

/// A kind of schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// Tombstones are dropped, and other keys of the partition raise floors (§7).
    pub collects: bool,
    /// Orphaned shards are purged, however young (§7).
    pub sweeps: bool,
    /// Slots lose their state and rejoin (§8).
    pub wipes: bool,
    /// Slots move while their old drive still serves callers of an old map (§8).
    pub moves: bool,
    /// Slots move after their old drive has retired (§8).
    pub retires: bool,
    /// Catch-up installs versions (§3.6).
    pub installs: bool,
    /// The bucket's record changes: it is protected, deleted, created anew (§9).
    pub buckets: bool,
    /// Where it begins.
    pub start: Start,
    /// Nothing is lost, no slot is slow, no gateway dies: only contention.
    pub calm: bool,
}

impl Scenario {
    const fn named(name: &'static str) -> Self {
        Self {
            name,
            collects: false,
            sweeps: false,
            wipes: false,
            moves: false,
            retires: false,
            installs: false,
            buckets: false,
            start: Start::Fresh,
            calm: false,
        }
    }

    /// Nothing besides.
    pub const BASE: Self = Self::named("base");
    /// Tombstones are dropped.
    pub const COLLECT: Self = Self { collects: true, ..Self::named("collect") };
    /// Orphaned shards are purged, and tombstones dropped.
    pub const SWEEP: Self = Self { sweeps: true, collects: true, ..Self::named("sweep") };
    /// The same, while slots lose their state and catch up.
    pub const SWEEP_REJOIN: Self =
        Self { sweeps: true, collects: true, wipes: true, installs: true, ..Self::named("sweep-rejoin") };
    /// The same, while slots move.
    pub const SWEEP_MOVE: Self =
        Self { sweeps: true, collects: true, moves: true, installs: true, ..Self::named("sweep-move") };
    /// Slots lose their state.
    pub const REJOIN: Self = Self { wipes: true, collects: true, ..Self::named("rejoin") };
    /// Slots move, the old drive alive somewhere.
    pub const MOVE: Self = Self { moves: true, collects: true, ..Self::named("move") };
    /// Slots move, and back, while others lose their state and catch up.
    pub const MOVE_REJOIN: Self =
        Self { moves: true, wipes: true, collects: true, installs: true, ..Self::named("move-rejoin") };
    /// The start after a delete, and slots that move, and back, while the tombstone is dropped.
    pub const SEEDED_PURGE_MOVE: Self = Self {
        start: Start::Deleted,
        collects: true,
        moves: true,
        installs: true,
        ..Self::named("seeded-purge-move")
    };
    /// Slots move, the old drive retired.
    pub const RETIRE: Self = Self { retires: true, collects: true, ..Self::named("retire") };
    /// The seeded start alone.
    pub const SEEDED: Self = Self { start: Start::Disjoint, ..Self::named("seeded") };
    /// The seeded start, and slots that lose their state.
    pub const SEEDED_REJOIN: Self =
        Self { start: Start::Disjoint, wipes: true, ..Self::named("seeded-rejoin") };
    /// The seeded start, and slots that move.
    pub const SEEDED_MOVE: Self = Self { start: Start::Disjoint, moves: true, ..Self::named("seeded-move") };
    /// The seeded start, and catch-up.
    pub const SEEDED_INSTALL: Self =
        Self { start: Start::Disjoint, installs: true, ..Self::named("seeded-install") };
    /// The start after a delete, and purges.
    pub const SEEDED_PURGE: Self =
        Self { start: Start::Deleted, collects: true, ..Self::named("seeded-purge") };
    /// The same, while slots lose their state and catch up.
    pub const SEEDED_PURGE_REJOIN: Self = Self {
        start: Start::Deleted,
        collects: true,
        wipes: true,
        installs: true,
        ..Self::named("seeded-purge-rejoin")
    };
    /// The start where an acknowledgement is lost with its slot.
    pub const SEEDED_EPOCH: Self =
        Self { start: Start::Acknowledged, wipes: true, ..Self::named("seeded-epoch") };
    /// Catch-up besides all that can go together.
    pub const INSTALL: Self =
        Self { installs: true, wipes: true, collects: true, ..Self::named("install-rejoin") };
    /// Catch-up while slots move.
    pub const INSTALL_MOVE: Self =
        Self { installs: true, moves: true, collects: true, ..Self::named("install-move") };
    /// The bucket's record changes.
    pub const BUCKET: Self = Self { buckets: true, ..Self::named("bucket") };
    /// The bucket's record changes while slots lose their state.
    pub const BUCKET_REJOIN: Self = Self { buckets: true, wipes: true, ..Self::named("bucket-rejoin") };
    /// No faults at all.
    pub const CALM: Self = Self { calm: true, ..Self::named("calm") };

    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::BASE,
        Self::COLLECT,
        Self::SWEEP,
        Self::SWEEP_REJOIN,
        Self::SWEEP_MOVE,
        Self::REJOIN,
        Self::MOVE,
        Self::MOVE_REJOIN,
        Self::RETIRE,
        Self::SEEDED,
        Self::SEEDED_REJOIN,
        Self::SEEDED_MOVE,
        Self::SEEDED_INSTALL,
        Self::SEEDED_PURGE,
        Self::SEEDED_PURGE_REJOIN,
        Self::SEEDED_PURGE_MOVE,
        Self::SEEDED_EPOCH,
        Self::INSTALL,
        Self::INSTALL_MOVE,
        Self::BUCKET,
        Self::BUCKET_REJOIN,
        Self::CALM,
    ];
}
