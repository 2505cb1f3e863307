//! What may happen in a schedule besides concurrent operations, loss, duplication, reordering, slow slots and dying
//! gateways, which happen in all of them.

/// A kind of schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// Tombstones are dropped, and other keys of the partition raise floors (§7).
    pub collects: bool,
    /// Slots lose their state and rejoin (§8).
    pub wipes: bool,
    /// Slots move while their old drive still serves callers of an old map (§8).
    pub moves: bool,
    /// Slots move after their old drive has retired (§8).
    pub retires: bool,
    /// Catch-up installs versions (§3.6).
    pub installs: bool,
    /// Begins where a plain write and a fenced create have met disjoint slots and died, COMMITs still under way.
    pub seeded: bool,
    /// Nothing is lost, no slot is slow, no gateway dies: only contention.
    pub calm: bool,
}

impl Scenario {
    const fn named(name: &'static str) -> Self {
        Self {
            name,
            collects: false,
            wipes: false,
            moves: false,
            retires: false,
            installs: false,
            seeded: false,
            calm: false,
        }
    }

    /// Nothing besides.
    pub const BASE: Self = Self::named("base");
    /// Tombstones are dropped.
    pub const COLLECT: Self = Self { collects: true, ..Self::named("collect") };
    /// Slots lose their state.
    pub const REJOIN: Self = Self { wipes: true, collects: true, ..Self::named("rejoin") };
    /// Slots move, the old drive alive somewhere.
    pub const MOVE: Self = Self { moves: true, collects: true, ..Self::named("move") };
    /// Slots move, the old drive retired.
    pub const RETIRE: Self = Self { retires: true, collects: true, ..Self::named("retire") };
    /// The seeded start alone.
    pub const SEEDED: Self = Self { seeded: true, ..Self::named("seeded") };
    /// The seeded start, and slots that lose their state.
    pub const SEEDED_REJOIN: Self = Self { seeded: true, wipes: true, ..Self::named("seeded-rejoin") };
    /// The seeded start, and slots that move.
    pub const SEEDED_MOVE: Self = Self { seeded: true, moves: true, ..Self::named("seeded-move") };
    /// The seeded start, and catch-up.
    pub const SEEDED_INSTALL: Self = Self { seeded: true, installs: true, ..Self::named("seeded-install") };
    /// Catch-up besides all that can go together.
    pub const INSTALL: Self =
        Self { installs: true, wipes: true, collects: true, ..Self::named("install-rejoin") };
    /// Catch-up while slots move.
    pub const INSTALL_MOVE: Self =
        Self { installs: true, moves: true, collects: true, ..Self::named("install-move") };
    /// No faults at all.
    pub const CALM: Self = Self { calm: true, ..Self::named("calm") };

    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::BASE,
        Self::COLLECT,
        Self::REJOIN,
        Self::MOVE,
        Self::RETIRE,
        Self::SEEDED,
        Self::SEEDED_REJOIN,
        Self::SEEDED_MOVE,
        Self::SEEDED_INSTALL,
        Self::INSTALL,
        Self::INSTALL_MOVE,
        Self::CALM,
    ];
}
