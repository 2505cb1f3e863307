//! Uploads: begun by one client, completed and aborted by any, more than once.

use coffer_common::linearizability::Return;
use coffer_gateway::object::{
    ChosenPart, CompleteError, CompleteUpload, CreateUpload, Encrypt, Owner, PartError, PutError,
    UploadError, UploadPart, UploadRef, WriteCondition,
};
use rand::RngExt;

use crate::body;
use crate::client::{Client, attributes};
use crate::history::Value;
use crate::trace::note;
use crate::world::BUCKET;

/// An upload whose part is there.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    key: String,
    value: Value,
    upload: UploadRef,
    part: ChosenPart,
}

impl Client {
    /// Begins an upload, or ends one that anybody has begun.
    pub(crate) async fn upload(&mut self, key: &str) {
        let known = {
            let uploads = self.world.uploads.lock();
            let index = self.random.random_range(0..=uploads.len() * 2);
            uploads.get(index).cloned()
        };
        match known {
            None => self.begin_upload(key).await,
            Some(upload) if self.random.random_bool(0.7) => self.complete(&upload).await,
            Some(upload) => self.abort(&upload).await,
        }
    }

    async fn begin_upload(&mut self, key: &str) {
        let ((value, bytes), gateway) = (self.new_value(), self.gateway());
        let request = CreateUpload {
            bucket: body::name(BUCKET),
            key: body::key(key),
            attributes: attributes(value),
            owner: Owner::default(),
            initiator: Owner::default(),
            checksum: None,
            encrypt: Encrypt::No,
        };
        let created = gateway.serve(|store| async move { store.create_upload(request).await }).await;
        let Some(Ok(id)) = created else { return };
        let upload = UploadRef { bucket: body::name(BUCKET), key: body::key(key), upload: id };
        for _ in 0..self.random.random_range(1..=2) {
            let gateway = self.gateway();
            let request = UploadPart {
                upload: upload.clone(),
                number: 1,
                customer_key: None,
                body: body::body(&bytes),
            };
            let written = gateway.serve(|store| async move { store.upload_part(request).await }).await;
            note!(self.world.trace, "client {} part of {key}: {value} {:?}", self.number, written.is_some());
            match written {
                Some(Ok(info)) => {
                    let part = ChosenPart { number: 1, etag: info.etag, checksums: Vec::new() };
                    let upload = Upload { key: key.to_owned(), value, upload: upload.clone(), part };
                    self.world.uploads.lock().push(upload);
                }
                Some(Err(PartError::Write(PutError::Unavailable(_) | PutError::Overloaded))) | None => {}
                // Somebody has ended it already.
                Some(Err(PartError::NoSuchUpload)) => {}
                Some(Err(error)) => {
                    self.history().violation(format!("`{key}`: UploadPart was told {error:?}"));
                }
            }
        }
    }

    async fn complete(&mut self, upload: &Upload) {
        let (begin, gateway) = (self.history().now(), self.gateway());
        let request = CompleteUpload {
            upload: upload.upload.clone(),
            parts: vec![upload.part.clone()],
            condition: WriteCondition::Always,
            expected_size: None,
            customer_key: None,
            expected_checksum: None,
            combine: body::combine(),
        };
        let answer = gateway.serve(|store| async move { store.complete_upload(request).await }).await;
        let (key, value) = (&upload.key, upload.value);
        note!(self.world.trace, "client {} complete {key}: {value} {:?}", self.number, answer);
        let returned = match answer {
            Some(Ok(_)) => Return::Ok,
            Some(Err(CompleteError::NoSuchUpload | CompleteError::Conflict)) => return,
            Some(Err(CompleteError::Unavailable(_))) | None => Return::Unknown,
            Some(Err(error)) => {
                return self.history().violation(format!("`{key}`: Complete was told {error:?}"));
            }
        };
        self.history().record_complete(key, value, returned, begin);
    }

    async fn abort(&mut self, upload: &Upload) {
        let (gateway, named) = (self.gateway(), upload.upload.clone());
        let answer = gateway.serve(|store| async move { store.abort_upload(&named).await }).await;
        let (key, value) = (&upload.key, upload.value);
        note!(self.world.trace, "client {} abort {key}: {value} {:?}", self.number, answer);
        match answer {
            Some(Ok(())) => self.history().record_abort(key, value),
            Some(Err(UploadError::NoSuchUpload | UploadError::Conflict | UploadError::Unavailable(_)))
            | None => {}
            Some(Err(error)) => self.history().violation(format!("`{key}`: Abort was told {error:?}")),
        }
    }
}
