//! The S3 edge. S3 words (XML, header names, error codes) stop here.

pub mod auth;
pub mod checksum;
pub mod payload;
