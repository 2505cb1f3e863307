//! The S3 edge. S3 words (XML, header names, error codes) stop here.
//!
//! Owns: HTTP, request resolution, the documents and headers of S3. Never: stores anything, knows shards or nodes; all
//! of that is behind [`crate::object::ObjectStore`].
//!
//! A request runs so:
//! 1. `server` accepts a connection and reads a request; `service` gives it an id, a span and a place among those admitted;
//! 2. `operation` finds bucket and key and picks the operation; `auth` verifies the signature; `access` decides whether the
//!    caller may;
//! 3. a handler in `bucket`, `object`, `list` or `multipart`, by resource, calls the object layer;
//! 4. `error` turns what fails into S3's codes; `service` counts the answer and sends it.

pub mod auth;
pub mod checksum;
pub mod payload;

mod access;
mod acl;
mod attributes;
mod body;
mod bucket;
mod condition;
mod convert;
mod cors;
mod encryption;
mod error;
mod events;
mod interim;
mod list;
mod lock;
mod metered;
mod multipart;
mod object;
mod operation;
mod post;
mod query;
mod range;
mod request;
mod response;
pub(crate) mod server;
mod service;
mod settings;
mod tagging;
mod xml;

pub use acl::Ownership;
pub use bucket::create::record_of as bucket_record_of;
pub use server::proxies::TrustedProxies;
pub(crate) use service::{S3Service, S3Settings};
pub use xml::Element;
