//! Sizes and times of the transport, the same on both sides, with their reasons.

use std::time::Duration;

/// HTTP/2 frames: the one setting that matters for bulk (16 KiB by default costs twice the CPU).
pub const MAX_FRAME_BYTES: u32 = 1024 * 1024;

/// What one stream may have under way: a few messages of 1 MiB.
pub const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// What one connection may have under way.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// What one stream keeps waiting to be written before its sender waits: one piece, so that hundreds of uploads do not
/// hold hundreds of megabytes here.
pub const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Bulk messages are closed at this size: a piece of 1 MiB goes alone, small ones go together.
pub const BULK_MESSAGE_BYTES: usize = 256 * 1024;

/// A control frame is closed at this size, so that a large call delays small ones little.
pub const CONTROL_FRAME_BYTES: usize = 256 * 1024;

/// A control frame holds at most this many calls or replies.
pub const CONTROL_FRAME_CALLS: usize = 256;

/// Largest message of a known peer: a call with the longest metadata and an inline shard, a page of a listing, a
/// snapshot.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// Largest message before a caller is known.
pub const MAX_HANDSHAKE_BYTES: usize = 16 * 1024;

/// Calls that one control stream carries at the same time; further ones wait.
pub const MAX_CALLS_IN_FLIGHT: usize = 1024;

/// Bytes of calls that one control stream carries at the same time.
pub const MAX_CALL_BYTES_IN_FLIGHT: usize = 32 * 1024 * 1024;

/// Streams that one connection may have open.
pub const MAX_STREAMS: u32 = 1024;

/// Bulk connections per node: one TCP connection is one flow, and one core of a peer.
pub const BULK_CONNECTIONS: usize = 4;

/// Name resolution, TCP and TLS together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Greeting and proofs together.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// First and longest pause before a lost node is tried again.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A silent connection is asked for a sign of life after this long, …
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// … and given up after this long without one.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A small call that has no answer by then is given up: two rounds of this stay below a client's patience.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A bulk stream that the peer leaves silent for this long is given up.
pub const BULK_STALL: Duration = Duration::from_secs(10);

/// After the last byte of a shard: fsync of the file and its folder under load.
pub const SHARD_SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// A page of a listing, a snapshot.
pub const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// A stopping node lets running requests end for this long.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Certificates are read anew this often.
pub const CERTIFICATE_RELOAD: Duration = Duration::from_secs(60);
