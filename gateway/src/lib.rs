//! Coffer's stateless gateway: the S3 edge, the object layer behind it, and the admin port beside it.
//!
//! Import directions: `app` → `s3`, `admin` → `users`, `lifecycle` → `notify` → `object` → `coffer_common`; `policy` imports nothing of it. This crate never imports the storage node.

pub mod admin;
pub mod app;
pub mod config;
mod lifecycle;
mod notify;
pub mod object;
pub mod policy;
pub mod process;
pub mod s3;
pub mod users;
