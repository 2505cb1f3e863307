//! Bodies that tell the value they stand for, and their length.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

/// The body of a value, of about this many bytes.
pub fn body(value: u32, size: usize) -> Bytes {
    let line = line(value, size);
    line.bytes().cycle().take(size.max(line.len())).collect()
}

fn line(value: u32, size: usize) -> String {
    format!("value {value} of {size} bytes\n")
}

/// The value that a body stands for.
///
/// # Errors
/// If it is not, byte by byte, the body of one value.
pub fn value_of(bytes: &[u8]) -> Result<u32> {
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let words: Vec<_> = std::str::from_utf8(first)?.split(' ').collect();
    let ["value", value, "of", size, "bytes"] = words[..] else {
        anyhow::bail!("no body of ours: {:?}", String::from_utf8_lossy(&first[..first.len().min(80)]));
    };
    let (value, size) = (value.parse()?, size.parse().context("a size")?);
    ensure!(body(value, size) == bytes, "a torn body of value {value}: {} bytes", bytes.len());
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_tells_its_value_and_a_torn_one_is_noticed() {
        for size in [0, 17, 100, 70_000] {
            assert_eq!(value_of(&body(42, size)).ok(), Some(42), "{size}");
        }
        let (whole, other) = (body(1, 5_000), body(2, 5_000));
        assert!(value_of(&whole[..4_000]).is_err());
        assert!(value_of(&[&whole[..3_000], &other[3_000..]].concat()).is_err());
        assert!(value_of(b"").is_err());
    }
}
