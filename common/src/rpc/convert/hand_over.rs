//! What a voter hands over.

use prost::Message as _;
use wire::hand_over_answer::Answer;

use super::{Malformed, optional, register_from_wire, register_to_wire, required};
use crate::node::{HandOverAnswers, HandOverPage, HandOverRequest, NodeError};
use crate::proto::storage_v1 as wire;
use crate::protocol::message::SlotVersion;
use crate::protocol::register::Register;
use crate::types::{Epoch, RegisterKey};

impl From<HandOverRequest> for wire::HandOverRequest {
    fn from(request: HandOverRequest) -> Self {
        let HandOverRequest { address, after, buckets_after } = request;
        Self { address: Some(address.into()), after, buckets_after }
    }
}

impl TryFrom<wire::HandOverRequest> for HandOverRequest {
    type Error = Malformed;

    fn try_from(request: wire::HandOverRequest) -> Result<Self, Malformed> {
        Ok(Self {
            address: required(request.address, "hand-over.address")?,
            after: request.after,
            buckets_after: request.buckets_after,
        })
    }
}

impl From<(RegisterKey, Register)> for wire::HeldRegister {
    fn from((key, register): (RegisterKey, Register)) -> Self {
        let Register { fence, exclusive, learn, versions, prepared: _ } = register;
        Self {
            register: register_to_wire(&key),
            fence: Some(fence.into()),
            exclusive: exclusive.map(Into::into),
            learn: learn.map(Into::into),
            versions: versions.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::HeldRegister> for (RegisterKey, Register) {
    type Error = Malformed;

    fn try_from(held: wire::HeldRegister) -> Result<Self, Malformed> {
        let versions = held.versions.into_iter().map(SlotVersion::try_from).collect::<Result<Vec<_>, _>>()?;
        if !versions.is_sorted_by(|a, b| a.tag < b.tag) {
            return Err(Malformed("register.versions"));
        }
        let register = Register {
            fence: required(held.fence, "register.fence")?,
            exclusive: optional(held.exclusive)?,
            learn: optional(held.learn)?,
            versions,
            prepared: Vec::new(),
        };
        Ok((register_from_wire(&held.register)?, register))
    }
}

impl From<HandOverPage> for wire::HandOverResponse {
    fn from(page: HandOverPage) -> Self {
        let HandOverPage {
            epoch,
            purge_epoch,
            floor,
            registers,
            position,
            complete,
            buckets,
            buckets_position,
        } = page;
        let bucket = |(bucket, revision): (crate::types::BucketId, u64)| wire::BucketRevision {
            bucket: Some(bucket.into()),
            revision,
        };
        Self {
            epoch: epoch.0,
            purge_epoch: purge_epoch.0,
            floor: Some(floor.into()),
            registers: registers.into_iter().map(Into::into).collect(),
            position,
            complete,
            buckets: buckets.into_iter().map(bucket).collect(),
            buckets_position,
        }
    }
}

impl TryFrom<wire::HandOverResponse> for HandOverPage {
    type Error = Malformed;

    fn try_from(page: wire::HandOverResponse) -> Result<Self, Malformed> {
        let bucket = |held: wire::BucketRevision| Ok((required(held.bucket, "bucket")?, held.revision));
        Ok(Self {
            epoch: Epoch(page.epoch),
            purge_epoch: Epoch(page.purge_epoch),
            floor: required(page.floor, "page.floor")?,
            registers: page.registers.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            position: page.position,
            complete: page.complete,
            buckets: page.buckets.into_iter().map(bucket).collect::<Result<_, Malformed>>()?,
            buckets_position: page.buckets_position,
        })
    }
}

/// Of what several voters hand over at once: when so much is told, further answers are empty and not complete.
const MOST_BYTES: usize = 4 << 20;

/// The requests for several voters of a node.
pub fn hand_over_requests(all: wire::HandOverAllRequest) -> Result<Vec<HandOverRequest>, Malformed> {
    all.requests.into_iter().map(TryInto::try_into).collect()
}

/// What several voters answer to these requests, as much of it as fits into a message.
pub fn hand_over_answers(
    requests: &[HandOverRequest],
    answers: HandOverAnswers,
) -> wire::HandOverAllResponse {
    let mut bytes = 0;
    let answers = requests.iter().zip(answers).map(|(request, answer)| {
        let answer = match answer {
            Ok(page) => {
                let mut page = wire::HandOverResponse::from(page);
                if bytes >= MOST_BYTES {
                    (page.registers, page.buckets, page.complete) = (Vec::new(), Vec::new(), false);
                    (page.position, page.buckets_position) = (request.after, request.buckets_after);
                }
                bytes += page.encoded_len();
                Answer::Page(page)
            }
            Err(error) => Answer::Error(error.into()),
        };
        wire::HandOverAnswer { answer: Some(answer) }
    });
    wire::HandOverAllResponse { answers: answers.collect() }
}

impl TryFrom<wire::HandOverAllResponse> for HandOverAnswers {
    type Error = Malformed;

    fn try_from(all: wire::HandOverAllResponse) -> Result<Self, Malformed> {
        let answer = |answer: wire::HandOverAnswer| {
            Ok(match answer.answer.ok_or(Malformed("hand-over.answer"))? {
                Answer::Page(page) => Ok(HandOverPage::try_from(page)?),
                Answer::Error(error) => Err(NodeError::try_from(error)?),
            })
        };
        all.answers.into_iter().map(answer).collect()
    }
}
