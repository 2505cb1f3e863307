//! How many answers each step needs (PROTOCOL §1).
//!
//! `R0 + W > n`, `R0 + M > n` and `2M > n` hold for every geometry and every k: whatever M or W slots hold, R0
//! answers meet. Only W depends on the version; everything else on n alone.

use crate::limits::MAX_SLOTS;
use crate::types::SlotSet;

use super::flaw::Flaw;

/// The stripe width of a partition, and the counts that follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    n: u8,
    /// A bit per [`Flaw`].
    #[cfg(any(test, feature = "simulation"))]
    flaws: u32,
}

impl Geometry {
    /// The counts of a stripe of `n` slots.
    ///
    /// # Panics
    /// If `n` is 0 or above [`MAX_SLOTS`]: a layout never has such a stripe.
    pub fn new(n: u8) -> Self {
        assert!((1..=MAX_SLOTS).contains(&usize::from(n)), "a stripe has 1 to {MAX_SLOTS} slots, not {n}");
        Self {
            n,
            #[cfg(any(test, feature = "simulation"))]
            flaws: crate::simulated::broken_rules(),
        }
    }

    /// The same counts with a rule broken.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn with_flaw(self, flaw: Flaw) -> Self {
        Self { flaws: self.flaws | 1 << flaw as u8, ..self }
    }

    /// Whether the rule is broken, which only the simulation does.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn breaks(self, flaw: Flaw) -> bool {
        self.flaws >> flaw as u8 & 1 == 1
    }

    /// Whether the rule is broken, which only the simulation does.
    #[cfg(not(any(test, feature = "simulation")))]
    pub(super) const fn breaks(self, _: Flaw) -> bool {
        false
    }

    /// Slots of the stripe.
    pub fn n(self) -> usize {
        usize::from(self.n)
    }

    /// `M = ⌊n/2⌋ + 1`: fences, write-backs, re-stamps, and the COMMITTED answers that decide a read.
    pub fn m(self) -> usize {
        self.n() / 2 + 1
    }

    /// `R0 = n − ⌊n/2⌋`: answers without which nothing is decided.
    pub fn r0(self) -> usize {
        self.n() - self.n() / 2
    }

    /// Views that decide a read: R0.
    pub(super) fn read_quorum(self) -> usize {
        if self.breaks(Flaw::ReadsOnTooFew) { (self.r0() - 1).max(1) } else { self.r0() }
    }

    /// COMMITTED answers that decide a read by rule 5.2: M.
    pub(super) fn commit_evidence(self) -> usize {
        if self.breaks(Flaw::DecidesOnTooFew) { (self.m() - 1).max(1) } else { self.m() }
    }

    /// Slots that must promise a fence: M.
    pub(super) fn fence_quorum(self) -> usize {
        if self.breaks(Flaw::FencesOnTooFew) { (self.r0() - 1).max(1) } else { self.m() }
    }

    /// Voters that must hand over to a slot that has lost its state: R0.
    pub(super) fn join_quorum(self) -> usize {
        if self.breaks(Flaw::JoinsFromOne) { 1 } else { self.r0() }
    }

    /// Slots, the old drive among them, that must hand over to a moved slot, whose old drive may still serve old callers: M.
    pub(super) fn move_quorum(self) -> usize {
        if self.breaks(Flaw::MovesWithoutAdopters) { 1 } else { self.m() }
    }

    /// Voters that must adopt a bucket's revision before a change that protects data returns: M. Any R0 would stop old
    /// callers, whose writes need W; but one of those may lose its state, and of n − 1 others R0 need not meet R0 − 1.
    pub fn adopt_quorum(self) -> usize {
        match () {
            () if self.breaks(Flaw::AdoptsOnTooFew) => (self.r0() - 1).max(1),
            () if self.breaks(Flaw::AdoptsOnReadQuorum) => self.r0(),
            () => self.m(),
        }
    }

    /// Slots that must adopt the epoch of a purge: all.
    pub(super) fn purge_adopters(self) -> usize {
        if self.breaks(Flaw::PurgesPartlyAdopted) { (self.n() - 1).max(1) } else { self.n() }
    }

    /// Views that a plain tag is chosen from: M (R0 would do; W slots have prepared anyway).
    pub(super) fn tag_quorum(self) -> usize {
        if self.breaks(Flaw::TagsOnTooFew) { (self.r0() - 1).max(1) } else { self.m() }
    }

    /// `W = max(k + 1, M)`: prepares and commits that a new version of `k` data shards needs (a tombstone has
    /// k = 0); 1 on a single slot, which has no parity.
    pub fn write_quorum(self, k: u8) -> usize {
        if self.breaks(Flaw::WritesOnTooFew) {
            return (self.n() / 2).max(1);
        }
        if self.n == 1 { 1 } else { (usize::from(k) + 1).max(self.m()) }
    }

    /// All slots.
    pub fn all(self) -> SlotSet {
        SlotSet((u32::from(u16::MAX) >> (MAX_SLOTS - self.n())) as u16)
    }

    /// Whether a version of `k` data shards is allowed: at least ⌊n/2⌋ and 1, with parity wherever n allows.
    pub fn allows(self, k: u8) -> bool {
        let k = usize::from(k);
        k >= (self.n() / 2).max(1) && (k < self.n() || self.n == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_quorums_that_must_meet_do() {
        for n in 1..=MAX_SLOTS as u8 {
            let geometry = Geometry::new(n);
            let n = geometry.n();
            assert!(geometry.r0() + geometry.m() > n && 2 * geometry.m() > n);
            for k in (0..=n as u8).filter(|&k| k == 0 || geometry.allows(k)) {
                let w = geometry.write_quorum(k);
                assert!(w <= n && w > usize::from(k) - usize::from(n == 1 && k == 1), "n {n} k {k}");
                assert!(geometry.r0() + w > n && w >= geometry.m(), "n {n} k {k}");
            }
        }
    }

    #[test]
    fn counts_of_the_usual_geometries() {
        let counts = |n, k| {
            let geometry = Geometry::new(n);
            (geometry.m(), geometry.r0(), geometry.write_quorum(k), geometry.write_quorum(0))
        };
        assert_eq!(counts(1, 1), (1, 1, 1, 1));
        assert_eq!(counts(4, 2), (3, 2, 3, 3));
        assert_eq!(counts(5, 3), (3, 3, 4, 3));
        assert_eq!(counts(8, 4), (5, 4, 5, 5));
        assert_eq!(counts(8, 6), (5, 4, 7, 5));
    }
}
