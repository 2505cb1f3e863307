//! The cryptography of encryption at rest: the one place that names its library.
//!
//! - A **data key**, 256 random bits for one object or upload, is sealed with AES-256-GCM under a key that HKDF-SHA-256 makes of the
//!   sealing key and 256 random bits of salt. Each sealing so has a key of its own, used once, and its nonce may be zero: however
//!   many objects a key seals, none of them shares a (key, nonce) pair. What the data key belongs to is the additional data.
//! - The **bytes** of an op are XORed with AES-256-CTR under a key that HKDF makes of the data key and the op. The counter is the
//!   byte's place divided by 16, so that any range can be read alone. An op is given to one body in its life, so that
//!   no (key, counter) pair meets two different plaintexts.
//!
//! ```text
//! sealed data key (80 bytes):  salt 32 | data key, encrypted 32 | GCM tag 16
//! ```
//! CTR proves nothing about the bytes. That they are those that were written is what the shards' checksums say, which keep out
//! decay and mix-ups, and not somebody who can write to drives.
//!
//! Sources: NIST SP 800-38A (CTR), SP 800-38D (GCM), RFC 5869 (HKDF).

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::iv::FixedLength;
use bytes::{Bytes, BytesMut};
use coffer_common::random;
use coffer_common::types::OpId;
use zeroize::Zeroizing;

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;
/// Bytes of a sealed data key.
const SEALED_BYTES: usize = KEY_BYTES + KEY_BYTES + 16;
/// Bytes of a block of the cipher.
const BLOCK_BYTES: usize = 16;

/// 256 bits that nobody is to see: overwritten when they are dropped, and not printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(Zeroizing<[u8; KEY_BYTES]>);

impl Secret {
    /// A key of these bytes; `None` if there are more or fewer than 32.
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        let mut secret = Self(Zeroizing::new([0; KEY_BYTES]));
        if bytes.len() != KEY_BYTES {
            return None;
        }
        secret.0.copy_from_slice(bytes);
        Some(secret)
    }

    fn random() -> Self {
        Self(Zeroizing::new(random::random()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The library refused what it never refuses: nothing may go on.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the cipher failed")]
pub(in crate::object) struct CipherFailed;

impl From<aws_lc_rs::error::Unspecified> for CipherFailed {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

/// The length of a key, for the derivation.
struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

fn derive(salt: &[u8], secret: &Secret, info: &[&[u8]]) -> Result<Secret, CipherFailed> {
    let mut derived = Secret(Zeroizing::new([0; KEY_BYTES]));
    let extracted = Salt::new(HKDF_SHA256, salt).extract(&secret.0[..]);
    extracted.expand(info, KeyLength)?.fill(&mut derived.0[..])?;
    Ok(derived)
}

/// The key of one object or upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::object) struct DataKey(Secret);

impl DataKey {
    pub(super) fn random() -> Self {
        Self(Secret::random())
    }

    /// Seals it: only the same `by` with the same `context` opens it.
    pub(super) fn seal(&self, by: &Secret, context: &[u8]) -> Result<Bytes, CipherFailed> {
        let salt: [u8; KEY_BYTES] = random::random();
        let mut sealed = Zeroizing::new(self.0.0.to_vec());
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        sealing_key(by, &salt)?.seal_in_place_append_tag(nonce, Aad::from(context), &mut *sealed)?;
        Ok([&salt[..], &sealed[..]].concat().into())
    }

    /// The inverse; `None` if it was sealed by another key, for something else, or is not whole.
    pub(super) fn open(sealed: &[u8], by: &Secret, context: &[u8]) -> Option<Self> {
        if sealed.len() != SEALED_BYTES {
            return None;
        }
        let (salt, sealed) = sealed.split_at(KEY_BYTES);
        let mut opened = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let key = sealing_key(by, salt).ok()?;
        Secret::new(key.open_in_place(nonce, Aad::from(context), &mut opened).ok()?).map(Self)
    }

    /// What the bytes of an op are encrypted with.
    pub(in crate::object) fn keystream(&self, op: OpId) -> Result<Keystream, CipherFailed> {
        let key = derive(&[], &self.0, &[b"coffer: the bytes of an op, 1", &op.to_bytes()])?;
        Ok(Keystream { key: EncryptingKey::ctr(UnboundCipherKey::new(&AES_256, &key.0[..])?)? })
    }
}

fn sealing_key(by: &Secret, salt: &[u8]) -> Result<LessSafeKey, CipherFailed> {
    let key = derive(salt, by, &[b"coffer: a sealed data key, 1"])?;
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key.0[..])?))
}

/// Encrypts and decrypts the bytes of one op, which is the same.
pub(in crate::object) struct Keystream {
    key: EncryptingKey,
}

impl fmt::Debug for Keystream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keystream(..)")
    }
}

impl Keystream {
    /// Encrypts or decrypts, in place, bytes that begin at `offset` of the op's bytes. What it was given must not be used after
    /// an error.
    pub(in crate::object) fn apply(&self, offset: u64, mut data: &mut [u8]) -> Result<(), CipherFailed> {
        let mut block = offset / BLOCK_BYTES as u64;
        let skip = (offset % BLOCK_BYTES as u64) as usize;
        if skip > 0 {
            let mut pad = [0; BLOCK_BYTES];
            self.blocks(block, &mut pad)?;
            let (head, rest) = data.split_at_mut(data.len().min(BLOCK_BYTES - skip));
            head.iter_mut().zip(&pad[skip..]).for_each(|(byte, pad)| *byte ^= pad);
            (data, block) = (rest, block + 1);
        }
        self.blocks(block, data)
    }

    /// [`Self::apply`] where the bytes are, if nobody else has them, else on a copy.
    pub(in crate::object) fn applied(&self, offset: u64, data: Bytes) -> Result<Bytes, CipherFailed> {
        let mut data = data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        self.apply(offset, &mut data)?;
        Ok(data.freeze())
    }

    /// [`Self::apply`] from the beginning of a block.
    fn blocks(&self, block: u64, data: &mut [u8]) -> Result<(), CipherFailed> {
        let counter = u128::from(block).to_be_bytes();
        self.key.less_safe_encrypt(data, EncryptionContext::Iv128(FixedLength::from(counter)))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> Secret {
        Secret::new(&[byte; KEY_BYTES]).unwrap()
    }

    fn op(counter: u64) -> OpId {
        OpId { session: 7, counter }
    }

    #[test]
    fn the_cipher_is_ctr_of_sp_800_38a() {
        // F.5.5 CTR-AES256.Encrypt.
        let bytes = |text: &str| hex::decode(text).unwrap();
        let key = bytes("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let key = EncryptingKey::ctr(UnboundCipherKey::new(&AES_256, &key).unwrap()).unwrap();
        let mut counter = [0; 16];
        counter.copy_from_slice(&bytes("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"));
        let mut data = bytes(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
             30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
        );
        key.less_safe_encrypt(&mut data, EncryptionContext::Iv128(FixedLength::from(counter))).unwrap();
        let expected = bytes(
            "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5\
             2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6",
        );
        assert_eq!(data, expected);
    }

    #[test]
    fn the_form_of_what_is_kept_stays() {
        // Computed apart, from HMAC-SHA-256 and the AES of single blocks.
        let data_key = DataKey(secret(1));
        let mut bytes = [0; 24];
        data_key.keystream(op(2)).unwrap().apply(0, &mut bytes).unwrap();
        assert_eq!(hex::encode(bytes), "63ebacb5dceb7ee30f23d16232262a15527706984a96cbd3");
        let salt = [3; KEY_BYTES];
        let mut sealed = data_key.0.0.to_vec();
        let key = sealing_key(&secret(4), &salt).unwrap();
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        key.seal_in_place_append_tag(nonce, Aad::from(b"context"), &mut sealed).unwrap();
        assert_eq!(
            hex::encode(&sealed),
            "98cb0258e2771052e2a3fabefb0963d1281891a0ff9e5959f1dfebd061c1304c0c253ccee0708e2a8ec7c307c23062a2"
        );
        let whole = [&salt[..], &sealed].concat();
        assert_eq!(DataKey::open(&whole, &secret(4), b"context"), Some(data_key));
    }

    #[test]
    fn every_range_decrypts_alone() {
        let keystream = DataKey::random().keystream(op(1)).unwrap();
        let plain: Vec<u8> = (0..300_u32).map(|n| n as u8).collect();
        let mut whole = plain.clone();
        keystream.apply(0, &mut whole).unwrap();
        assert_ne!(whole, plain);
        for first in (0..50).chain([255, 256, 299, 300]) {
            for length in (0..40).chain([100, 250]) {
                let end = (first + length).min(plain.len());
                let mut range = whole[first..end].to_vec();
                keystream.apply(first as u64, &mut range).unwrap();
                assert_eq!(range, plain[first..end], "{first}..{end}");
            }
        }
    }

    #[test]
    fn places_beyond_32_bits_of_blocks_have_a_keystream_of_their_own() {
        let keystream = DataKey::random().keystream(op(1)).unwrap();
        let at = |offset: u64| {
            let mut zeros = [0; 64];
            keystream.apply(offset, &mut zeros).unwrap();
            zeros
        };
        let wrap = 1_u64 << 36;
        assert_ne!(at(0), at(wrap));
        assert_eq!(at(wrap - 32)[32..], at(wrap)[..32], "across the wrap of a 32-bit counter");
    }

    #[test]
    fn ops_and_data_keys_have_keystreams_of_their_own() {
        let (one, other) = (DataKey::random(), DataKey::random());
        let of = |key: &DataKey, counter| {
            let mut zeros = [0; 32];
            key.keystream(op(counter)).unwrap().apply(0, &mut zeros).unwrap();
            zeros
        };
        assert_eq!(of(&one, 1), of(&one, 1));
        assert_ne!(of(&one, 1), of(&one, 2));
        assert_ne!(of(&one, 1), of(&other, 1));
    }

    #[test]
    fn a_sealed_key_opens_for_its_key_and_place_only_and_unchanged() {
        let key = DataKey::random();
        let sealed = key.seal(&secret(1), b"here").unwrap();
        assert_eq!(sealed.len(), SEALED_BYTES);
        assert_eq!(DataKey::open(&sealed, &secret(1), b"here"), Some(key.clone()));
        assert_eq!(DataKey::open(&sealed, &secret(2), b"here"), None);
        assert_eq!(DataKey::open(&sealed, &secret(1), b"there"), None);
        assert_eq!(DataKey::open(&sealed[1..], &secret(1), b"here"), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert_eq!(DataKey::open(&changed, &secret(1), b"here"), None, "byte {at}");
        }
        assert_ne!(key.seal(&secret(1), b"here").unwrap(), sealed, "each sealing has its salt");
    }

    #[test]
    fn secrets_are_not_printed() {
        let text =
            format!("{:?} {:?} {:?}", secret(0xAB), DataKey::random(), DataKey::random().keystream(op(1)));
        assert!(!text.contains("171") && !text.contains("ab"), "{text}");
    }
}
