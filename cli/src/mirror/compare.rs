//! What is copied: decided from what both stores say of an object. Pure.
//!
//! An object is one with the other if size and ETag are the same. Where they differ, the later one is right: what was written to the
//! destination after the source's last change is left alone, and told, because a mirror that runs once more than it should must not undo
//! what clients have written since they moved.

use super::list::Listed;

/// Largest object that is copied in one piece, in bytes (S3).
pub(super) const MAX_PUT_BYTES: u64 = 5 << 30;

/// What is to be done about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Copy(Reason),
    /// It is there.
    Same,
    /// Another one is there, and was written later.
    NewerThere,
}

/// Why an object is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Missing,
    /// The source's was written later; perhaps only its metadata differ.
    Newer,
    /// They differ, and are of the same second, or it was asked for.
    Differs,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Newer => "newer",
            Self::Differs => "differs",
        })
    }
}

/// What to do about an object of the source, and what the destination has under its key.
pub(super) fn verdict(source: &Listed, there: Option<&Listed>, overwrite: bool) -> Verdict {
    let Some(there) = there else { return Verdict::Copy(Reason::Missing) };
    let same = source.size == there.size && (source.etag == there.etag || split(source, there));
    match source.modified.cmp(&there.modified) {
        std::cmp::Ordering::Greater => Verdict::Copy(Reason::Newer),
        _ if same => Verdict::Same,
        std::cmp::Ordering::Less if !overwrite => Verdict::NewerThere,
        _ => Verdict::Copy(Reason::Differs),
    }
}

/// Whether the object came in one piece that only fits in parts, so that its copy has another ETag.
fn split(source: &Listed, there: &Listed) -> bool {
    source.size > MAX_PUT_BYTES && part_count(&source.etag).is_none() && part_count(&there.etag).is_some()
}

/// The number of parts that an ETag tells: that of an object which came in parts ends with it.
pub(super) fn part_count(etag: &str) -> Option<u64> {
    etag.rsplit_once('-')?.1.parse().ok().filter(|count| (1..=10_000).contains(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(size: u64, etag: &str, second: u32) -> Listed {
        let modified = format!("2026-11-02T00:00:{second:02}");
        Listed { key: "k".to_owned(), size, etag: etag.to_owned(), modified }
    }

    #[test]
    fn what_differs_is_copied_unless_it_is_newer_there() {
        let source = listed(5, "a", 10);
        let against = |there: Listed| verdict(&source, Some(&there), false);
        assert_eq!(verdict(&source, None, false), Verdict::Copy(Reason::Missing));
        assert_eq!(against(listed(5, "a", 10)), Verdict::Same);
        assert_eq!(against(listed(5, "a", 11)), Verdict::Same);
        assert_eq!(against(listed(5, "a", 9)), Verdict::Copy(Reason::Newer), "its metadata may differ");
        assert_eq!(against(listed(5, "b", 9)), Verdict::Copy(Reason::Newer));
        assert_eq!(against(listed(6, "b", 10)), Verdict::Copy(Reason::Differs));
        for there in [listed(5, "b", 11), listed(6, "a", 11), listed(5, "a-2", 11)] {
            assert_eq!(against(there.clone()), Verdict::NewerThere);
            assert_eq!(verdict(&source, Some(&there), true), Verdict::Copy(Reason::Differs));
        }
    }

    #[test]
    fn a_large_object_that_was_copied_in_parts_is_there() {
        let size = MAX_PUT_BYTES + 1;
        let source = listed(size, "a", 10);
        let against = |there: Listed| verdict(&source, Some(&there), true);
        assert_eq!(against(listed(size, "b-41", 11)), Verdict::Same);
        assert_eq!(against(listed(size, "b-41", 9)), Verdict::Copy(Reason::Newer));
        assert_eq!(against(listed(size, "b", 11)), Verdict::Copy(Reason::Differs));
        assert_eq!(against(listed(size + 1, "b-41", 11)), Verdict::Copy(Reason::Differs));
    }

    #[test]
    fn etags_tell_how_many_parts_there_were() {
        let counts = ["a-2", "a-1", "a-10000", "a-10001", "a-0", "a", "", "a-x"].map(part_count);
        assert_eq!(counts, [Some(2), Some(1), Some(10_000), None, None, None, None, None]);
    }
}
