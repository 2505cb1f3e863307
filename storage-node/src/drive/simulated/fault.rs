//! What goes wrong, where and when.

use rand::RngExt;
use rand::rngs::StdRng;

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Reading bytes, a length, a listing, or opening a file.
    Read,
    /// Writing bytes, or changing or reserving a length.
    Write,
    /// `fdatasync` of a file.
    Sync,
    /// `fsync` of a folder.
    SyncFolder,
    /// Creating, renaming or removing a file or folder.
    Entry,
}

/// What happens to a call. One that makes no sense for it does not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// EIO. A sync that fails drops what it should have written.
    Error,
    /// ENOSPC.
    Full,
    /// A part is read or written, then it fails.
    Short,
    /// One bit is wrong: in what was read, or for good in what was written.
    Flip,
    /// What is written ends up elsewhere, in another place of the file or in another file.
    Misdirect,
    /// What is read is what was there before the last write.
    Stale,
    /// Success is reported and nothing done: a write is lost, a sync does not sync.
    Lost,
    /// The power goes out: the call may have been done, no later one is.
    PowerCut,
}

/// Which of the calls that fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// All of them.
    Always,
    /// The one after this many others.
    After(u64),
    /// Each with this chance.
    Chance(f64),
    /// None any more.
    Over,
}

/// A fault: which calls it strikes, and what happens to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The kind of call; `None`: every kind.
    pub call: Option<Call>,
    /// A file, or a folder with all that is in it; empty: everything.
    pub under: String,
    /// Which of them.
    pub when: When,
    /// What happens.
    pub effect: Effect,
}

impl Fault {
    /// A fault of one kind of call.
    pub fn new(call: Call, under: &str, when: When, effect: Effect) -> Self {
        Self { call: Some(call), under: under.to_owned(), when, effect }
    }

    /// The power goes out after so many calls more.
    pub fn power_cut_after(calls: u64) -> Self {
        Self { call: None, under: String::new(), when: When::After(calls), effect: Effect::PowerCut }
    }

    /// Whether it strikes this call.
    pub(super) fn strikes(&mut self, call: Call, path: &str, random: &mut StdRng) -> bool {
        let fits = self.call.is_none_or(|kind| kind == call) && self.effect.fits(call);
        if !fits || !lies_under(path, &self.under) {
            return false;
        }
        match &mut self.when {
            When::Always => true,
            When::Over => false,
            When::Chance(chance) => random.random_bool(*chance),
            When::After(0) => {
                self.when = When::Over;
                true
            }
            When::After(left) => {
                *left -= 1;
                false
            }
        }
    }
}

impl Effect {
    fn fits(self, call: Call) -> bool {
        match self {
            Self::Error | Self::PowerCut => true,
            Self::Full => matches!(call, Call::Write | Call::Entry),
            Self::Short | Self::Flip => matches!(call, Call::Read | Call::Write),
            Self::Misdirect => call == Call::Write,
            Self::Stale => call == Call::Read,
            Self::Lost => matches!(call, Call::Write | Call::Sync | Call::SyncFolder),
        }
    }
}

/// Whether a path is the other one, or in that folder.
pub(super) fn lies_under(path: &str, under: &str) -> bool {
    let rest = path.strip_prefix(under);
    under.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
