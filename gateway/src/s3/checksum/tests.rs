//! Checksum tests.
