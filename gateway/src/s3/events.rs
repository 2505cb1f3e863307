//! Events of what a request has done, queued before it is answered ([`crate::notify`]).

use coffer_common::types::ObjectKey;

use super::error::S3Error;
use super::request::S3Request;
use crate::notify::{Change, Event, Kind, Notifier, Source, Told};
use crate::object::{Deleted, ObjectInfo};

/// How the events of a request are told.
pub(crate) struct Events {
    /// Queues them.
    pub(crate) notifier: Notifier,
    /// The id of the request.
    pub(crate) request_id: String,
    /// The id of this gateway.
    pub(crate) host_id: String,
}

/// Tells of a change of an object.
///
/// # Errors
/// 503: the change stands, and has no event.
pub(crate) async fn changed(
    request: &S3Request,
    kind: Kind,
    key: &ObjectKey,
    info: &ObjectInfo,
) -> Result<(), S3Error> {
    let event = || Event { kind, key: key.clone(), change: info.into() };
    tell(request, if are_asked_for(request)? { vec![event()] } else { Vec::new() }).await
}

/// Tells of removals: each of a key, whether a version of it was named, and what was done.
///
/// # Errors
/// As [`changed`].
pub(crate) async fn removed(
    request: &S3Request,
    removals: &[(ObjectKey, bool, Deleted)],
) -> Result<(), S3Error> {
    let event = |(key, named, deleted): &(ObjectKey, bool, Deleted)| {
        let kind = if deleted.delete_marker && !named { Kind::Marked } else { Kind::Removed };
        Event { kind, key: key.clone(), change: Change::from(deleted) }
    };
    let asked = are_asked_for(request)?;
    tell(request, removals.iter().filter(|_| asked).map(event).collect()).await
}

/// Whether anybody wants to know what a request does.
///
/// # Errors
/// If its caller is not known yet.
pub(crate) fn are_asked_for(request: &S3Request) -> Result<bool, S3Error> {
    Ok(request.access()?.settings().notifications.is_some())
}

async fn tell(request: &S3Request, events: Vec<Event>) -> Result<(), S3Error> {
    let access = request.access()?;
    let Some(rules) = access.settings().notifications.as_ref().filter(|_| !events.is_empty()) else {
        return Ok(());
    };
    let told = Told { bucket: access.bucket(), rules, source: &source(request) };
    request.events().notifier.tell(told, &events).await?;
    Ok(())
}

/// Who asks.
pub(crate) fn source(request: &S3Request) -> Source {
    let Events { request_id, host_id, .. } = request.events();
    Source {
        principal: request.caller().owner().id,
        address: request.peer().address.ip().to_canonical().to_string(),
        request_id: request_id.clone(),
        host_id: host_id.clone(),
    }
}
