//! Coffer's stateless gateway.

pub mod config;
pub mod object;
pub mod s3;
