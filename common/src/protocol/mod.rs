//! The commit protocol, tag and fence, as pure state machines: PROTOCOL in ARCHITECTURE.md tells the rules.
//! Nothing here does I/O, knows a clock or is `async`; production, simulation and model run the same code.
//!
//! | module | owns |
//! |---|---|
//! | [`message`] | what clients and slots say to each other about one register |
//! | [`quorum`] | how many answers each step needs |
//! | [`register`] | a slot's state and rules; the node makes it durable |
//! | [`join`] | how a slot that has lost its state, or was moved, gets its vote |
//! | [`slot`] | who is let in: epochs and bucket revisions; what a node calls |
//! | [`action`] | what a client machine asks of its driver |
//! | `round`, [`tally`] | one broadcast and its answers; what they say together |
//! | [`writer`] | plain writes, without a lock |
//! | [`fenced`] | conditional writes and read-modify-write, under the lock |
//! | [`reader`], [`settler`] | strict reads; settling what a dead writer left |
//! | [`purge`] | when tombstones and orphaned shards may go, on the evidence of all slots |
//! | [`catch_up`] | what a slot that lacks something takes over from others, and what they owe it |
//! | `simulation` | random schedules of exactly this code, checked for linearizability, and rules broken on purpose |

pub mod action;
pub mod catch_up;
pub mod fenced;
pub mod flaw;
pub mod join;
pub mod message;
pub mod purge;
pub mod quorum;
pub mod reader;
pub mod register;
mod round;
pub mod settler;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
pub mod slot;
pub mod tally;
pub mod writer;

#[cfg(test)]
mod tests;
