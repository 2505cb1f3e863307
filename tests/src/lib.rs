//! What the suites share: [`harness`] starts real Coffer, etcd and load-balancer processes on free ports and can
//! kill, pause, restart and wipe them; [`proxy`] is a network between them that breaks; [`client`] makes S3 clients for
//! them, [`bucket`] is what they see; [`mod@bench`] is the load generator.

pub mod bench;
pub mod bucket;
pub mod chaos;
pub mod client;
pub mod harness;
pub mod proxy;
