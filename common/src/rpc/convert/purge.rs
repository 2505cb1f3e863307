//! What slots do for a purge.

use super::{Malformed, register_from_wire, register_to_wire, required};
use crate::node::{PurgeRequest, PurgeStep};
use crate::proto::storage_v1 as wire;
use crate::protocol::purge::{Candidate, Evidence, Held};
use crate::protocol::register::Role;
use crate::types::{Epoch, RegisterKey};

impl From<(RegisterKey, Candidate)> for wire::PurgeCandidate {
    fn from((key, candidate): (RegisterKey, Candidate)) -> Self {
        let what = match candidate {
            Candidate::Tombstone(tag) => wire::purge_candidate::What::Tombstone(tag.into()),
            Candidate::Orphan(op) => wire::purge_candidate::What::Orphan(op.into()),
        };
        Self { register: register_to_wire(&key), what: Some(what) }
    }
}

impl TryFrom<wire::PurgeCandidate> for (RegisterKey, Candidate) {
    type Error = Malformed;

    fn try_from(candidate: wire::PurgeCandidate) -> Result<Self, Malformed> {
        let what = match candidate.what.ok_or(Malformed("purge.what"))? {
            wire::purge_candidate::What::Tombstone(tag) => Candidate::Tombstone(tag.try_into()?),
            wire::purge_candidate::What::Orphan(op) => Candidate::Orphan(op.try_into()?),
        };
        Ok((register_from_wire(&candidate.register)?, what))
    }
}

impl From<PurgeRequest> for wire::PurgeRequest {
    fn from(request: PurgeRequest) -> Self {
        let PurgeRequest { address, step, candidates, grace_ms } = request;
        let step = match step {
            PurgeStep::Look => wire::PurgeStep::Look,
            PurgeStep::Adopt => wire::PurgeStep::Adopt,
            PurgeStep::Drop => wire::PurgeStep::Drop,
        };
        Self {
            address: Some(address.into()),
            step: step.into(),
            candidates: candidates.into_iter().map(Into::into).collect(),
            grace_ms,
        }
    }
}

impl TryFrom<wire::PurgeRequest> for PurgeRequest {
    type Error = Malformed;

    fn try_from(request: wire::PurgeRequest) -> Result<Self, Malformed> {
        let step = match wire::PurgeStep::try_from(request.step) {
            Ok(wire::PurgeStep::Look) => PurgeStep::Look,
            Ok(wire::PurgeStep::Adopt) => PurgeStep::Adopt,
            Ok(wire::PurgeStep::Drop) => PurgeStep::Drop,
            Ok(wire::PurgeStep::Unspecified) | Err(_) => return Err(Malformed("purge.step")),
        };
        Ok(Self {
            address: required(request.address, "purge.address")?,
            step,
            candidates: request.candidates.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            grace_ms: request.grace_ms,
        })
    }
}

impl From<Evidence> for wire::PurgeEvidence {
    fn from(evidence: Evidence) -> Self {
        let Evidence { role, epoch, purge_epoch, held } = evidence;
        let role = match role {
            Role::Voter => wire::SlotRole::Voter,
            Role::Joining => wire::SlotRole::Joining,
            Role::Out => wire::SlotRole::Out,
        };
        let held = match held {
            Held::Nothing => wire::Held::Nothing,
            Held::Prepared => wire::Held::Prepared,
            Held::Waited => wire::Held::Waited,
            Held::Alone => wire::Held::Alone,
            Held::Other => wire::Held::Other,
        };
        Self { held: held.into(), role: role.into(), epoch: epoch.0, purge_epoch: purge_epoch.0 }
    }
}

impl TryFrom<wire::PurgeEvidence> for Evidence {
    type Error = Malformed;

    fn try_from(evidence: wire::PurgeEvidence) -> Result<Self, Malformed> {
        let role = match wire::SlotRole::try_from(evidence.role) {
            Ok(wire::SlotRole::Voter) => Role::Voter,
            Ok(wire::SlotRole::Joining) => Role::Joining,
            Ok(wire::SlotRole::Out) => Role::Out,
            Ok(wire::SlotRole::Unspecified) | Err(_) => return Err(Malformed("evidence.role")),
        };
        let held = match wire::Held::try_from(evidence.held) {
            Ok(wire::Held::Nothing) => Held::Nothing,
            Ok(wire::Held::Prepared) => Held::Prepared,
            Ok(wire::Held::Waited) => Held::Waited,
            Ok(wire::Held::Alone) => Held::Alone,
            Ok(wire::Held::Other) => Held::Other,
            Ok(wire::Held::Unspecified) | Err(_) => return Err(Malformed("evidence.held")),
        };
        let (epoch, purge_epoch) = (Epoch(evidence.epoch), Epoch(evidence.purge_epoch));
        Ok(Self { role, epoch, purge_epoch, held })
    }
}

impl From<Vec<Evidence>> for wire::PurgeResponse {
    fn from(evidence: Vec<Evidence>) -> Self {
        Self { evidence: evidence.into_iter().map(Into::into).collect() }
    }
}

impl TryFrom<wire::PurgeResponse> for Vec<Evidence> {
    type Error = Malformed;

    fn try_from(response: wire::PurgeResponse) -> Result<Self, Malformed> {
        response.evidence.into_iter().map(TryInto::try_into).collect()
    }
}
