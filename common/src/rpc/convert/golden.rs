//! Representative messages, byte for byte: a change here changes what peers of other versions read
//! (see `proto/README.md`).

use bytes::Bytes;
use prost::Message;

use crate::node::*;
use crate::proto::storage_v1 as wire;
use crate::protocol::message::*;
use crate::types::*;

fn address() -> SlotAddress {
    SlotAddress {
        cluster: ClusterId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        drive: DriveId(0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20),
        incarnation: Incarnation(3),
        partition: PartitionId(4095),
        slot: SlotIndex(15),
        epoch: Epoch(7),
    }
}

fn register() -> RegisterKey {
    RegisterKey::object(BucketId(5), ObjectKey::new("a/b").unwrap())
}

fn op() -> OpId {
    OpId { session: 0xaabb, counter: 300 }
}

fn tag() -> Tag {
    Tag { fence: Fence { generation: 1, revision: 9 }, seq: 2, writer: op() }
}

fn version() -> Version {
    Version {
        op: op(),
        kind: VersionKind::Data,
        k: 2,
        shard_len_bytes: 4096,
        block_len_bytes: 131_072,
        null_version: true,
        metadata: Bytes::from_static(b"meta"),
    }
}

fn check(message: &impl Message, expected: &str) {
    assert_eq!(hex::encode(message.encode_to_vec()), expected.replace(char::is_whitespace, ""));
}

#[test]
fn a_commit_call() {
    let call = SlotCall {
        address: address(),
        register: register(),
        bucket_revision: 11,
        request: SlotRequest::Commit { version: version(), tag: tag() },
    };
    let call = wire::ControlCall { id: 77, deadline_ms: 10_000, call: Some(call.into()) };
    check(
        &wire::ControlRequest { calls: vec![call] },
        "0a9201084d10904e1a8a010a310a1209080706050403020111100f0e0d0c0b0a09121209181716151413121111201f1e\
         1d1c1b1a19180320ff1f280f300712160000000000000000000000000000000501612f620001180b623b0a210a0c09bb\
         aa00000000000010ac02100118022080202880800832046d657461380112160a040801100910021a0c09bbaa00000000\
         000010ac02",
    );
}

#[test]
fn a_view_reply() {
    let held = SlotVersion {
        version: version(),
        tag: tag(),
        state: VersionState::Stable,
        shard_present: true,
        acknowledged: SlotSet(0b1011),
    };
    let view = RegisterView {
        fence: Fence { generation: 1, revision: 9 },
        exclusive: Some((Fence { generation: 1, revision: 8 }, op())),
        current: Some(held),
        learn: tag(),
        unstable: vec![],
    };
    let reply = SlotReply::View(view, Some(Bytes::from_static(b"shard")));
    let reply =
        wire::ControlReply { id: 77, outcome: Some(wire::control_reply::Outcome::Reply(reply.into())) };
    check(
        &wire::ControlResponse { replies: vec![reply] },
        "0a8801084d1283010a80010a770a040801100912140a0408011008120c09bbaa00000000000010ac021a410a210a0c09\
         bbaa00000000000010ac02100118022080202880800832046d657461380112160a040801100910021a0c09bbaa000000\
         00000010ac0218032001280b22160a040801100910021a0c09bbaa00000000000010ac0212057368617264",
    );
}

#[test]
fn an_error_and_a_refusal() {
    let error = NodeError::DriveUnavailable { drive: address().drive, reason: "failed".to_owned() };
    check(&wire::NodeError::from(error), "221c0a1209181716151413121111201f1e1d1c1b1a1912066661696c6564");
    check(&wire::SlotReply::from(SlotReply::Refused(Refusal::WrongEpoch(Epoch(8)))), "22021808");
}

#[test]
fn the_header_of_a_large_shard() {
    let header = PrepareShard { address: address(), register: register(), bucket_revision: 11, op: op() };
    let part = wire::write_shard_request::Part::Header(header.into());
    check(
        &wire::WriteShardRequest { part: Some(part) },
        "0a5b0a310a1209080706050403020111100f0e0d0c0b0a09121209181716151413121111201f1e1d1c1b1a19180320ff\
         1f280f300712160000000000000000000000000000000501612f620001180b220c09bbaa00000000000010ac02",
    );
}

#[test]
fn a_page_of_a_listing() {
    let entry = ListEntry { register: register(), partition: PartitionId(4), slots: vec![] };
    let page = ListPage {
        items: vec![ListItem::CommonPrefix { prefix: Bytes::from_static(b"a/"), witness: entry }],
        truncated: true,
        walked: Bytes::new(),
        drives: vec![(address().drive, Incarnation(1))],
        not_voting: vec![(address().drive, PartitionId(2))],
        epochs: vec![(address().drive, PartitionId(3), Epoch(9))],
        newer_bucket: 0,
    };
    check(
        &wire::ListResponse::from(page),
        "0a2212200a02612f121a0a160000000000000000000000000000000501612f620001100410011a160a12091817161514\
         13121111201f1e1d1c1b1a19100122160a1209181716151413121111201f1e1d1c1b1a1910022a180a12091817161514\
         13121111201f1e1d1c1b1a1910031809",
    );
}

#[test]
fn a_request_for_a_page() {
    let request = ListRequest {
        cluster: address().cluster,
        bucket: BucketId(5),
        bucket_revision: 11,
        kind: RegisterKind::Object,
        prefix: Bytes::from_static(b"a"),
        after: Bytes::new(),
        delimiter: Bytes::from_static(b"/"),
        limit: 3,
        resumes: false,
    };
    check(
        &wire::ListRequest::from(request.clone()),
        "0a1209080706050403020111100f0e0d0c0b0a0912091105000000000000001801220161\
         32012f3803400b",
    );
    let resuming = ListRequest { resumes: true, ..request };
    check(
        &wire::ListRequest::from(resuming),
        "0a1209080706050403020111100f0e0d0c0b0a0912091105000000000000001801220161\
         32012f3803400b4801",
    );
}

#[test]
fn a_page_that_speaks_behind_its_last_item() {
    let page = ListPage { truncated: true, walked: Bytes::from_static(b"ab"), ..ListPage::default() };
    check(&wire::ListResponse::from(page), "10013a026162");
}
