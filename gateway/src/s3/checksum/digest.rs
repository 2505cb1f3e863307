//! Several hashers over the same bytes in one pass.

use super::md5::Md5;
use super::{Checksum, ChecksumAlgorithm};
use crc_fast::CrcAlgorithm;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Bytes hashed by all hashers before the next: stays in the L1/L2 cache.
const STRIDE: usize = 64 * 1024;

/// Hashers that run side by side. Plain data: it may move to another thread between updates.
pub struct DigestSet {
    md5: Option<Md5>,
    hashers: Vec<Hasher>,
    len: u64,
}

enum Hasher {
    Crc(ChecksumAlgorithm, crc_fast::Digest),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl DigestSet {
    /// Hashers for `algorithms` (duplicates count once), and MD5 if `md5`.
    pub fn new(md5: bool, algorithms: impl IntoIterator<Item = ChecksumAlgorithm>) -> Self {
        let mut wanted: Vec<_> = algorithms.into_iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let hashers = wanted.into_iter().map(Hasher::new).collect();
        Self { md5: md5.then(Md5::new), hashers, len: 0 }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.len += data.len() as u64;
        for piece in data.chunks(STRIDE) {
            if let Some(md5) = &mut self.md5 {
                md5.update(piece);
            }
            for hasher in &mut self.hashers {
                hasher.update(piece);
            }
        }
    }

    /// The MD5 of the set, for one who advances many together; [`update_rest`](Self::update_rest) must get
    /// the same bytes.
    pub(super) fn md5_mut(&mut self) -> Option<&mut Md5> {
        self.md5.as_mut()
    }

    /// Adds the next bytes to all but MD5.
    pub(super) fn update_rest(&mut self, data: &[u8]) {
        self.len += data.len() as u64;
        for hasher in &mut self.hashers {
            hasher.update(data);
        }
    }

    /// The values.
    pub fn finish(self) -> Digests {
        Digests {
            md5: self.md5.map(|md5| md5.finish()),
            checksums: self.hashers.into_iter().filter_map(Hasher::finish).collect(),
            len: self.len,
        }
    }
}

impl std::fmt::Debug for DigestSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DigestSet").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Hasher {
    fn new(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c | ChecksumAlgorithm::Crc64Nvme => {
                Self::Crc(algorithm, crc_fast::Digest::new(crc_kind(algorithm)))
            }
            ChecksumAlgorithm::Sha1 => Self::Sha1(Sha1::new()),
            ChecksumAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Self::Crc(_, crc) => crc.update(data),
            Self::Sha1(sha) => sha.update(data),
            Self::Sha256(sha) => sha.update(data),
        }
    }

    fn finish(self) -> Option<Checksum> {
        match self {
            Self::Crc(algorithm, crc) => Some(crc_value(algorithm, crc.finalize())),
            Self::Sha1(sha) => Checksum::from_bytes(ChecksumAlgorithm::Sha1, &sha.finalize()),
            Self::Sha256(sha) => Checksum::from_bytes(ChecksumAlgorithm::Sha256, &sha.finalize()),
        }
    }
}

/// The CRC's parameters; CRC-64/NVME for what is no CRC, which no caller passes.
pub(super) fn crc_kind(algorithm: ChecksumAlgorithm) -> CrcAlgorithm {
    match algorithm {
        ChecksumAlgorithm::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
        ChecksumAlgorithm::Crc32c => CrcAlgorithm::Crc32Iscsi,
        ChecksumAlgorithm::Crc64Nvme | ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => {
            CrcAlgorithm::Crc64Nvme
        }
    }
}

/// A CRC register as a checksum value.
pub(super) fn crc_value(algorithm: ChecksumAlgorithm, register: u64) -> Checksum {
    let mut bytes = [0; 32];
    let len = algorithm.value_len().min(8);
    bytes[..len].copy_from_slice(&register.to_be_bytes()[8 - len..]);
    Checksum { algorithm, bytes }
}

/// What a [`DigestSet`] computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    md5: Option<[u8; 16]>,
    checksums: Vec<Checksum>,
    len: u64,
}

impl Digests {
    /// The MD5, if it was asked for.
    pub fn md5(&self) -> Option<[u8; 16]> {
        self.md5
    }

    /// The ETag of an object written in one piece: the MD5 in hex, without quotes.
    pub fn etag(&self) -> Option<String> {
        self.md5.map(hex::encode)
    }

    /// The value of `algorithm`, if it was asked for.
    pub fn get(&self, algorithm: ChecksumAlgorithm) -> Option<Checksum> {
        self.checksums.iter().find(|checksum| checksum.algorithm == algorithm).copied()
    }

    /// Number of bytes hashed.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no bytes were hashed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
