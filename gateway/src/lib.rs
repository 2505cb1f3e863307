//! Coffer's stateless gateway.

pub mod s3;
