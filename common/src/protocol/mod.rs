//! The commit protocol, tag and fence, as pure state machines: PROTOCOL in ARCHITECTURE.md tells the rules.
//! Nothing here does I/O, knows a clock or is `async`; production, simulation and model run the same code.

pub mod message;
pub mod quorum;
pub mod register;
