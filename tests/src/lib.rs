//! What the suites share: [`harness`] starts real Coffer, etcd and load-balancer processes on free ports and can
//! kill, pause, restart and wipe them; [`client`] makes S3 clients for them; [`mod@bench`] is the load generator.

pub mod bench;
pub mod client;
pub mod harness;
