//! The fault matrix on real processes: nodes, drives and networks that fail. Each test is named by what must come out of
//! a fault; the table in `tests/tests/chaos/README.md` has the rows. What takes long or needs privileges runs on demand.

mod drive;
mod image;
mod join;
mod load;
mod network;
mod power;
mod process;
mod rot;

/// One cluster at a time: many processes share few cores, and a slot that is too slow is dropped from a write.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
