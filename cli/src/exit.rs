//! The exit codes of all commands; 0 is success.

/// It failed for a reason that was told.
pub(crate) const FAILED: u8 = 1;
/// It was used wrongly, or asks for what cannot be.
pub(crate) const USAGE: u8 = 2;
/// What it is about is not there.
pub(crate) const NOT_FOUND: u8 = 3;
/// What it looked at is not whole.
pub(crate) const DEGRADED: u8 = 4;
/// It may not.
pub(crate) const DENIED: u8 = 5;
/// What it had to ask did not answer.
pub(crate) const NO_ANSWER: u8 = 6;
