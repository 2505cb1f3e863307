//! A gateway's own room in one bucket: what it has taken, and what it has admitted from it. Pure.
//!
//! ```text
//! taken ≥ returned + admitted        admitted ≥ done
//! ```
//!
//! All are totals since the purse began; it belongs to one account of one [`super::ledger::Ledger`]. A purse whose account
//! is gone is worth nothing any more: requests that were admitted from it go on, and end in it; new ones need another.

/// See the module. In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Purse {
    /// Handed out, as far as is known here.
    taken: u64,
    /// Given back unused, or about to be.
    returned: u64,
    /// Admitted to be written.
    admitted: u64,
    /// Of requests that have ended.
    done: u64,
}

impl Purse {
    /// What can be admitted.
    pub(super) fn free(&self) -> u64 {
        self.taken - self.returned - self.admitted
    }

    /// Whether anything was ever taken.
    pub(super) fn is_used(&self) -> bool {
        self.taken > 0
    }

    /// The account says that so much was taken.
    pub(super) fn learn(&mut self, taken: u64) {
        self.taken = self.taken.max(taken);
    }

    /// Sets room aside for a request.
    pub(super) fn admit(&mut self, size: u64) -> bool {
        let fits = size <= self.free();
        if fits {
            self.admitted += size;
        }
        fits
    }

    /// A request has ended, and may have stored its bytes.
    pub(super) fn finish(&mut self, size: u64) {
        self.done += size;
        assert!(self.done <= self.admitted, "what ends was admitted");
    }

    /// A request has ended, and has certainly stored nothing.
    pub(super) fn release(&mut self, size: u64) {
        self.admitted -= size;
        assert!(self.done <= self.admitted, "what ends was admitted");
    }

    /// Sets all that is free aside to be given back.
    pub(super) fn give_back(&mut self) {
        self.returned += self.free();
    }

    /// What the account is told: all that was given back, and all that ended.
    pub(super) fn told(&self) -> (u64, u64) {
        (self.returned, self.done)
    }
}
