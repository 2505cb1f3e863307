//! Listings.

use super::id::{kind_from_wire, kind_to_wire, partition, slot};
use super::{Malformed, register_from_wire, register_to_wire, required};
use crate::node::{ListEntry, ListItem, ListPage, ListRequest};
use crate::proto::storage_v1 as wire;
use crate::types::{DriveId, Epoch, Incarnation};
use wire::list_item::Item;

impl From<ListRequest> for wire::ListRequest {
    fn from(request: ListRequest) -> Self {
        let ListRequest { cluster, bucket, bucket_revision, kind, prefix, after, delimiter, limit, resumes } =
            request;
        Self {
            cluster: Some(cluster.into()),
            bucket: Some(bucket.into()),
            kind: kind_to_wire(kind),
            prefix,
            after,
            delimiter,
            limit,
            bucket_revision,
            resumes,
        }
    }
}

impl TryFrom<wire::ListRequest> for ListRequest {
    type Error = Malformed;

    fn try_from(request: wire::ListRequest) -> Result<Self, Malformed> {
        Ok(Self {
            cluster: required(request.cluster, "list.cluster")?,
            bucket: required(request.bucket, "list.bucket")?,
            bucket_revision: request.bucket_revision,
            kind: kind_from_wire(request.kind)?,
            prefix: request.prefix,
            after: request.after,
            delimiter: request.delimiter,
            limit: request.limit,
            resumes: request.resumes,
        })
    }
}

impl From<ListEntry> for wire::ListEntry {
    fn from(entry: ListEntry) -> Self {
        let ListEntry { register, partition, slots } = entry;
        let slots = slots
            .into_iter()
            .map(|(slot, version)| wire::ListSlot { slot: slot.0.into(), version: Some(version.into()) })
            .collect();
        Self { register: register_to_wire(&register), partition: partition.0.into(), slots }
    }
}

impl TryFrom<wire::ListEntry> for ListEntry {
    type Error = Malformed;

    fn try_from(entry: wire::ListEntry) -> Result<Self, Malformed> {
        let slots = entry
            .slots
            .into_iter()
            .map(|held| Ok((slot(held.slot)?, required(held.version, "entry.version")?)))
            .collect::<Result<_, Malformed>>()?;
        Ok(Self {
            register: register_from_wire(&entry.register)?,
            partition: partition(entry.partition)?,
            slots,
        })
    }
}

impl From<ListItem> for wire::ListItem {
    fn from(item: ListItem) -> Self {
        let item = match item {
            ListItem::Entry(entry) => Item::Entry(entry.into()),
            ListItem::CommonPrefix { prefix, witness } => {
                Item::CommonPrefix(wire::CommonPrefix { prefix, witness: Some(witness.into()) })
            }
        };
        Self { item: Some(item) }
    }
}

impl TryFrom<wire::ListItem> for ListItem {
    type Error = Malformed;

    fn try_from(item: wire::ListItem) -> Result<Self, Malformed> {
        Ok(match item.item.ok_or(Malformed("item"))? {
            Item::Entry(entry) => Self::Entry(entry.try_into()?),
            Item::CommonPrefix(common) => Self::CommonPrefix {
                prefix: common.prefix,
                witness: required(common.witness, "prefix.witness")?,
            },
        })
    }
}

impl From<ListPage> for wire::ListResponse {
    fn from(page: ListPage) -> Self {
        let ListPage { items, truncated, walked, drives, not_voting, epochs, newer_bucket } = page;
        Self {
            items: items.into_iter().map(Into::into).collect(),
            truncated,
            drives: drives
                .into_iter()
                .map(|(drive, incarnation)| wire::DriveIncarnation {
                    drive: Some(drive.into()),
                    incarnation: incarnation.0,
                })
                .collect(),
            not_voting: not_voting
                .into_iter()
                .map(|(drive, partition)| wire::DrivePartition {
                    drive: Some(drive.into()),
                    partition: partition.0.into(),
                })
                .collect(),
            epochs: epochs
                .into_iter()
                .map(|(drive, partition, epoch)| wire::DriveEpoch {
                    drive: Some(drive.into()),
                    partition: partition.0.into(),
                    epoch: epoch.0,
                })
                .collect(),
            newer_bucket,
            walked,
        }
    }
}

impl TryFrom<wire::ListResponse> for ListPage {
    type Error = Malformed;

    fn try_from(page: wire::ListResponse) -> Result<Self, Malformed> {
        let drive = |id| required::<_, DriveId>(id, "page.drive");
        Ok(Self {
            items: page.items.into_iter().map(ListItem::try_from).collect::<Result<_, _>>()?,
            truncated: page.truncated,
            walked: page.walked,
            drives: page
                .drives
                .into_iter()
                .map(|d| Ok((drive(d.drive)?, Incarnation(d.incarnation))))
                .collect::<Result<_, Malformed>>()?,
            not_voting: page
                .not_voting
                .into_iter()
                .map(|d| Ok((drive(d.drive)?, partition(d.partition)?)))
                .collect::<Result<_, Malformed>>()?,
            epochs: page
                .epochs
                .into_iter()
                .map(|d| Ok((drive(d.drive)?, partition(d.partition)?, Epoch(d.epoch))))
                .collect::<Result<_, Malformed>>()?,
            newer_bucket: page.newer_bucket,
        })
    }
}
