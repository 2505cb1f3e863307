//! From stored metadata to what callers see, and the conditions on it.

use coffer_common::meta::{ObjectMeta, RegisterMeta};
use coffer_common::protocol::message::{Version, VersionKind};
use coffer_common::protocol::tally::Current;
use coffer_common::types::VersionRef;

use super::encryption::seen;
use super::error::{GetError, Unavailable};
use super::types::{
    EtagSet, ListedVersion, ObjectInfo, ObjectPartInfo, ReadCondition, Select, Selected, VersionId,
    WriteCondition,
};

/// The object of a version; an error if its metadata cannot be read, which must never look like "not found".
pub(super) fn object_meta(version: &Version) -> Result<ObjectMeta, Unavailable> {
    match RegisterMeta::decode(version.metadata.clone()) {
        Ok(RegisterMeta::Object(object)) => Ok(*object),
        Ok(_) => Err(Unavailable::new(format!("op {} holds no object", version.op))),
        Err(error) => Err(Unavailable::new(format!("op {}: {error}", version.op))),
    }
}

/// The live object of a decided register; `None` if there is none or it is deleted.
pub(super) fn live_object(current: Option<&Current>) -> Result<Option<ObjectMeta>, Unavailable> {
    match current {
        Some(current) if current.version.kind == VersionKind::Data => {
            let object = object_meta(&current.version)?;
            Ok((!object.delete_marker).then_some(object))
        }
        _ => Ok(None),
    }
}

/// What callers see of an object.
pub(super) fn object_info(object: ObjectMeta) -> ObjectInfo {
    let version = version_id(&object);
    // Part 0 is all of a version that came in one piece.
    let parts = object.parts.into_iter().flat_map(|table| table.parts).filter(|part| part.number > 0);
    ObjectInfo {
        versioned: object.history.is_some(),
        archived: false,
        size: object.size,
        etag: object.etag,
        last_modified: object.last_modified,
        owner: object.owner,
        attributes: object.attributes,
        checksums: object.checksums,
        version,
        sequence: None,
        encryption: object.encryption.as_ref().map(seen),
        parts: parts
            .map(|part| ObjectPartInfo { number: part.number, size: part.size, checksums: part.checksums })
            .collect(),
    }
}

/// What listings tell of an object: all but its parts, of which there may be 10,000.
pub(super) fn listed_info(object: ObjectMeta) -> ObjectInfo {
    object_info(ObjectMeta { parts: None, ..object })
}

/// The id of a version.
pub(super) fn version_id(object: &ObjectMeta) -> VersionId {
    let ordinal = object.history.as_ref().map_or(0, |history| history.ordinal);
    object.version.map_or(VersionId::Null, |op| VersionId::Op(VersionRef { ordinal, op }))
}

/// Whether a version is still what was listed, current or not as it was then.
pub(super) fn is_as_listed(listed: &ListedVersion, object: &ObjectMeta, latest: bool) -> bool {
    (listed.latest, listed.delete_marker) == (latest, object.delete_marker)
        && listed_info(object.clone()) == listed.info
}

/// Why a write condition does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unmet {
    /// It names an object that is not there.
    Missing,
    /// Something else is there.
    Differs,
}

/// Judges a write condition on the live object.
pub(super) fn check_write(condition: &WriteCondition, live: Option<&ObjectMeta>) -> Result<(), Unmet> {
    match (condition, live) {
        (WriteCondition::Always, _) | (WriteCondition::Absent, None) | (WriteCondition::Present, Some(_)) => {
            Ok(())
        }
        (WriteCondition::Absent, Some(_)) => Err(Unmet::Differs),
        (WriteCondition::Present | WriteCondition::EtagIn(_) | WriteCondition::Unchanged(_), None) => {
            Err(Unmet::Missing)
        }
        (WriteCondition::Unchanged(listed), Some(object)) => {
            if is_as_listed(listed, object, true) {
                Ok(())
            } else {
                Err(Unmet::Differs)
            }
        }
        (WriteCondition::EtagIn(etags), Some(object)) => {
            if etags.contains(&object.etag) {
                Ok(())
            } else {
                Err(Unmet::Differs)
            }
        }
    }
}

/// Judges a read condition by RFC 9110 §13.2.2.
pub(super) fn check_read(condition: &ReadCondition, info: &ObjectInfo) -> Result<(), GetError> {
    let matches = |set: &EtagSet| match set {
        EtagSet::Any => true,
        EtagSet::Of(etags) => etags.contains(&info.etag),
    };
    match (&condition.if_match, condition.if_unmodified_since) {
        (Some(set), _) if !matches(set) => return Err(GetError::ConditionFailed),
        (None, Some(since)) if info.last_modified.seconds() > since.seconds() => {
            return Err(GetError::ConditionFailed);
        }
        _ => {}
    }
    match (&condition.if_none_match, condition.if_modified_since) {
        (Some(set), _) if matches(set) => Err(GetError::NotModified(Box::new(info.clone()))),
        (None, Some(since)) if info.last_modified.seconds() <= since.seconds() => {
            Err(GetError::NotModified(Box::new(info.clone())))
        }
        _ => Ok(()),
    }
}

/// Which bytes a selection means.
pub(super) fn select(select: Select, info: &ObjectInfo) -> Result<Selected, GetError> {
    let size = info.size;
    match select {
        Select::All => Ok(Selected { first: 0, length: size, partial: false }),
        Select::Range { first, last } => {
            let last = last.map_or(u64::MAX, |last| last).min(size.saturating_sub(1));
            if first >= size || last < first {
                return Err(GetError::RangeNotSatisfiable { size });
            }
            Ok(Selected { first, length: last - first + 1, partial: true })
        }
        Select::Suffix(count) => {
            if count == 0 || size == 0 {
                return Err(GetError::RangeNotSatisfiable { size });
            }
            let length = count.min(size);
            Ok(Selected { first: size - length, length, partial: true })
        }
        Select::Part(number) => select_part(number, info),
    }
}

fn select_part(number: u16, info: &ObjectInfo) -> Result<Selected, GetError> {
    if info.parts.is_empty() && number == 1 {
        return Ok(Selected { first: 0, length: info.size, partial: true });
    }
    let mut first = 0;
    for part in &info.parts {
        if part.number == number {
            return Ok(Selected { first, length: part.size, partial: true });
        }
        first += part.size;
    }
    Err(GetError::NoSuchPart { number, count: info.parts.len().max(1) as u32 })
}
