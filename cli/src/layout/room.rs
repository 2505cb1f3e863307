//! What to type when a drive is nearly full.

use coffer_common::cluster::staged::NearlyFull;

use crate::units::argument;

/// A line for people.
pub(crate) fn advice(drive: &NearlyFull) -> String {
    let NearlyFull { id: _, node, path, used_percent, share_bytes } = drive;
    match share_bytes {
        Some(share) => format!(
            "drive {node}:{path} is {used_percent} % full: `coffer layout set {node}:{path} --capacity {}` gives part of its \
             slots to emptier ones (then `coffer layout plan`)",
            argument(*share)
        ),
        None => format!(
            "drive {node}:{path} is {used_percent} % full, and no other one could take its slots: delete objects, or add \
             drives with `coffer layout add`"
        ),
    }
}
