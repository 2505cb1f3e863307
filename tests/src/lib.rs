//! What the suites share: [`harness`] starts real Coffer, etcd and load-balancer processes on free ports and can
//! kill, pause, restart and wipe them; [`client`] makes S3 clients for them.

pub mod client;
pub mod harness;
