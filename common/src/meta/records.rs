//! The protobuf records of register metadata; `disk` joins them to the domain types and states the rules.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskEnvelope {
    #[prost(uint32, tag = "1")]
    pub(super) format: u32,
    #[prost(oneof = "Body", tags = "2, 3, 4")]
    pub(super) body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(clippy::large_enum_variant, reason = "one per record, gone as soon as it is converted")]
pub(super) enum Body {
    #[prost(message, tag = "2")]
    Object(DiskObject),
    #[prost(message, tag = "3")]
    Upload(DiskUpload),
    #[prost(message, tag = "4")]
    Part(DiskPart),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskOwner {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) display_name: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct DiskOp {
    #[prost(fixed64, tag = "1")]
    pub(super) session: u64,
    #[prost(uint64, tag = "2")]
    pub(super) counter: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskChecksum {
    /// 1 CRC32, 2 CRC32C, 3 CRC64NVME, 4 SHA1, 5 SHA256.
    #[prost(uint32, tag = "1")]
    pub(super) algorithm: u32,
    /// 1 full object, 2 composite.
    #[prost(uint32, tag = "2")]
    pub(super) scope: u32,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) value: Bytes,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct DiskCoding {
    #[prost(uint32, tag = "1")]
    pub(super) codec: u32,
    #[prost(uint32, tag = "2")]
    pub(super) k: u32,
    #[prost(uint32, tag = "3")]
    pub(super) m: u32,
    #[prost(uint32, tag = "4")]
    pub(super) block_len_bytes: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct DiskRetention {
    /// 1 governance, 2 compliance.
    #[prost(uint32, tag = "1")]
    pub(super) mode: u32,
    #[prost(uint64, tag = "2")]
    pub(super) until_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskAttributes {
    #[prost(string, optional, tag = "1")]
    pub(super) content_type: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) content_encoding: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(super) content_language: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(super) content_disposition: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub(super) cache_control: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub(super) expires: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub(super) website_redirect: Option<String>,
    #[prost(btree_map = "string, string", tag = "8")]
    pub(super) user_metadata: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "9")]
    pub(super) tags: BTreeMap<String, String>,
    /// 1 standard, 2 reduced redundancy.
    #[prost(uint32, tag = "10")]
    pub(super) storage_class: u32,
    #[prost(message, optional, tag = "11")]
    pub(super) retention: Option<DiskRetention>,
    #[prost(bool, tag = "12")]
    pub(super) legal_hold: bool,
    /// 0 private, 1 public read, 2 public read and write, 3 authenticated read, 4 bucket owner read, 5 bucket owner full control.
    #[prost(uint32, tag = "13")]
    pub(super) access: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskEncryption {
    /// `customer-1`, `managed-1`, `named-1`: whose key, and the form of what is sealed and of the bytes.
    #[prost(string, tag = "1")]
    pub(super) scheme: String,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) sealed_key: Bytes,
    // 4 (`customer_key_md5`) and 5 (`plain_size`) are reserved: they were defined, and never written.
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskObjectPart {
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
    #[prost(uint64, tag = "2")]
    pub(super) size: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) md5: Bytes,
    #[prost(message, repeated, tag = "4")]
    pub(super) checksums: Vec<DiskChecksum>,
    #[prost(message, optional, tag = "5")]
    pub(super) op: Option<DiskOp>,
    #[prost(message, optional, tag = "6")]
    pub(super) coding: Option<DiskCoding>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskPartTable {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) upload: Bytes,
    #[prost(message, repeated, tag = "2")]
    pub(super) parts: Vec<DiskObjectPart>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskObject {
    #[prost(uint64, tag = "1")]
    pub(super) size: u64,
    #[prost(string, tag = "2")]
    pub(super) etag: String,
    #[prost(uint64, tag = "3")]
    pub(super) last_modified_ms: u64,
    #[prost(message, optional, tag = "4")]
    pub(super) owner: Option<DiskOwner>,
    #[prost(message, optional, tag = "5")]
    pub(super) attributes: Option<DiskAttributes>,
    #[prost(message, repeated, tag = "6")]
    pub(super) checksums: Vec<DiskChecksum>,
    #[prost(message, optional, tag = "7")]
    pub(super) coding: Option<DiskCoding>,
    #[prost(message, optional, tag = "8")]
    pub(super) parts: Option<DiskPartTable>,
    #[prost(message, optional, tag = "9")]
    pub(super) version: Option<DiskOp>,
    #[prost(bool, tag = "10")]
    pub(super) delete_marker: bool,
    #[prost(message, optional, tag = "11")]
    pub(super) encryption: Option<DiskEncryption>,
    #[prost(message, optional, tag = "12")]
    pub(super) history: Option<DiskHistory>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct DiskVersionRef {
    #[prost(uint64, tag = "1")]
    pub(super) ordinal: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) op: Option<DiskOp>,
    /// Of a null version: its shards lie in the object's register.
    #[prost(bool, tag = "3")]
    pub(super) has_shards: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskHistory {
    #[prost(uint64, tag = "1")]
    pub(super) ordinal: u64,
    #[prost(uint32, tag = "2")]
    pub(super) edits: u32,
    #[prost(uint64, tag = "3")]
    pub(super) high: u64,
    #[prost(message, optional, tag = "4")]
    pub(super) null: Option<DiskVersionRef>,
    #[prost(message, repeated, tag = "5")]
    pub(super) removing: Vec<DiskVersionRef>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskCompletion {
    #[prost(message, optional, tag = "1")]
    pub(super) op: Option<DiskOp>,
    #[prost(message, optional, tag = "2")]
    pub(super) object: Option<DiskObject>,
    #[prost(uint64, tag = "3")]
    pub(super) decided_ms: u64,
    /// 16 bytes, big-endian.
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) request_digest: Bytes,
    /// Absent if the key had no version.
    #[prost(message, optional, tag = "5")]
    pub(super) before: Option<DiskTag>,
    #[prost(bool, tag = "6")]
    pub(super) applied: bool,
    #[prost(bool, tag = "7")]
    pub(super) taken_over: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskTag {
    #[prost(uint32, tag = "1")]
    pub(super) generation: u32,
    #[prost(uint64, tag = "2")]
    pub(super) revision: u64,
    #[prost(uint64, tag = "3")]
    pub(super) seq: u64,
    #[prost(message, optional, tag = "4")]
    pub(super) writer: Option<DiskOp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskUpload {
    #[prost(uint64, tag = "1")]
    pub(super) initiated_ms: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) owner: Option<DiskOwner>,
    #[prost(message, optional, tag = "3")]
    pub(super) attributes: Option<DiskAttributes>,
    /// A checksum without a value: algorithm and scope.
    #[prost(message, optional, tag = "4")]
    pub(super) checksum: Option<DiskChecksum>,
    #[prost(message, optional, tag = "5")]
    pub(super) completion: Option<DiskCompletion>,
    #[prost(message, optional, tag = "6")]
    pub(super) encryption: Option<DiskEncryption>,
    /// Absent if it is the owner.
    #[prost(message, optional, tag = "7")]
    pub(super) initiator: Option<DiskOwner>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DiskPart {
    #[prost(uint64, tag = "1")]
    pub(super) size: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) md5: Bytes,
    #[prost(message, repeated, tag = "3")]
    pub(super) checksums: Vec<DiskChecksum>,
    #[prost(message, optional, tag = "4")]
    pub(super) coding: Option<DiskCoding>,
    #[prost(uint64, tag = "5")]
    pub(super) last_modified_ms: u64,
    #[prost(bool, tag = "6")]
    pub(super) replaces: bool,
}
