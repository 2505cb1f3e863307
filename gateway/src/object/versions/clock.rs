//! What time it is, where that decides how long a version is protected.
//!
//! No gateway's clock alone frees a version: protection ends when this gateway's clock and the one in the middle of the
//! nodes' both say so, and it begins with the later of the two. A single clock that is wrong, this one too, neither ends
//! a protection early nor holds it up. What the nodes' clocks show is known from the last time they were asked.

use coffer_common::cluster::Cluster;
use coffer_common::time::UnixMillis;

/// The earlier of this clock's time and the nodes'.
pub(super) fn earliest(cluster: &Cluster) -> UnixMillis {
    shifted(UnixMillis::now(), ahead_ms(cluster).min(0))
}

/// The later of the two.
pub(in crate::object) fn latest(cluster: &Cluster) -> UnixMillis {
    shifted(UnixMillis::now(), ahead_ms(cluster).max(0))
}

/// How far the nodes' clocks are ahead of this one.
fn ahead_ms(cluster: &Cluster) -> i64 {
    let known = cluster.nodes().into_iter().filter(|node| node.alive && node.info.is_some());
    middle(known.map(|node| node.clock_ahead_ms).collect())
}

/// Of an even number the lower one of the two.
fn middle(mut all: Vec<i64>) -> i64 {
    all.sort_unstable();
    all.get(all.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

fn shifted(time: UnixMillis, by_ms: i64) -> UnixMillis {
    UnixMillis(time.0.saturating_add_signed(by_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_clock_does_not_count() {
        for (ahead, expected) in [
            (vec![], 0),
            (vec![5], 5),
            (vec![-1_000_000, 3], -1_000_000),
            (vec![1_000_000, 3, -2], 3),
            (vec![-1_000_000, 3, -2, 1], -2),
        ] {
            assert_eq!(middle(ahead.clone()), expected, "{ahead:?}");
        }
        assert_eq!(shifted(UnixMillis(10), -20), UnixMillis(0));
    }
}
