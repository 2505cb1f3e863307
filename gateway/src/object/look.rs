//! A close look at one key: what each slot of its partition says of its register, and which slots hold shards that verify.
//!
//! Owns: asking every slot, voter or not, and putting what they say side by side. Never decides which version is current,
//! never settles or repairs anything: slots that differ are shown as they are. Shards are read as in a
//! [census](super::census), of the version with the highest tag.

use coffer_common::driver::{Peer, Peers, Target};
use coffer_common::node::{SlotAddress, SlotCall};
use coffer_common::protocol::message::{RegisterView, SlotReply, SlotRequest, Version, VersionKind};
use coffer_common::types::{
    BucketId, BucketName, DriveId, Epoch, Incarnation, NodeId, ObjectKey, PartitionId, RegisterKey,
};
use futures_util::future::join_all;

use super::census::{Holding, SlotFinding, examine, finding, in_time, no_client, of_object};
use super::core::Core;
use super::error::HeadBucketError;

/// What one slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotLook {
    /// The node that has its drive.
    pub node: NodeId,
    /// The drive.
    pub drive: DriveId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Where the drive is, if its node has told.
    pub path: Option<String>,
    /// Its register, or why it does not tell.
    pub register: Result<RegisterView, String>,
}

/// A key as its slots hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLook {
    /// The bucket's id.
    pub bucket: BucketId,
    /// The revision of its record.
    pub bucket_revision: u64,
    /// The key's partition.
    pub partition: PartitionId,
    /// Its epoch in the map.
    pub epoch: Epoch,
    /// By slot.
    pub slots: Vec<SlotLook>,
    /// The version with the highest tag that a slot told.
    pub newest: Option<Version>,
    /// The shards of that version, or of its parts.
    pub holdings: Vec<Holding>,
}

/// Looks at a key.
pub(super) async fn at(core: &Core, bucket: &BucketName, key: ObjectKey) -> Result<KeyLook, HeadBucketError> {
    let bucket = core.bucket(bucket).await?;
    let register = RegisterKey::object(bucket.id(), key);
    let target = core.target(&bucket, register.clone());
    let peers = core.peers(&target);
    let slots = join_all(peers.slots.iter().map(|peer| slot(core, &peers, peer, &target))).await;
    let told = slots.iter().filter_map(|slot| slot.register.as_ref().ok()?.current.as_ref());
    let newest = told.max_by_key(|held| held.tag).map(|held| held.version.clone());
    let mut holdings = Vec::new();
    if let Some(version) = newest.as_ref().filter(|version| version.kind == VersionKind::Data) {
        for subject in of_object(core, &bucket, register, version)? {
            holdings.push(examine(core, &bucket, subject).await?);
        }
    }
    Ok(KeyLook {
        bucket: bucket.id(),
        bucket_revision: bucket.revision,
        partition: target.partition,
        epoch: peers.epochs.epoch,
        slots,
        newest,
        holdings,
    })
}

async fn slot(core: &Core, peers: &Peers, peer: &Peer, target: &Target) -> SlotLook {
    let (drive, incarnation) = (peer.address.drive, peer.address.incarnation);
    let map = core.cluster.map();
    let record = map.nodes.get(&peer.node).and_then(|node| node.drives.iter().find(|d| d.id == drive));
    let register = ask(peers, peer, target).await.map_err(|found| match found {
        SlotFinding::Verified => String::new(),
        SlotFinding::Lacking(reason) | SlotFinding::Silent(reason) => reason,
    });
    let path = record.map(|record| record.path.clone());
    SlotLook { node: peer.node.clone(), drive, incarnation, path, register }
}

async fn ask(peers: &Peers, peer: &Peer, target: &Target) -> Result<RegisterView, SlotFinding> {
    let client = peer.client.as_ref().ok_or_else(no_client)?;
    let call = SlotCall {
        address: SlotAddress { epoch: peers.epochs.epoch, ..peer.address },
        register: target.register.clone(),
        bucket_revision: target.bucket_revision,
        request: SlotRequest::Query { inline_data: false },
    };
    match in_time(client.call(call)).await?.map_err(finding)? {
        SlotReply::View(view, _) => Ok(view),
        SlotReply::Refused(refusal) => Err(SlotFinding::Silent(format!("it refuses: {refusal:?}"))),
        SlotReply::Committed { .. } | SlotReply::Done => {
            Err(SlotFinding::Silent("it answers another question".to_owned()))
        }
    }
}
