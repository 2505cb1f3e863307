//! Coffer's stateless gateway.

pub mod object;
pub mod s3;
