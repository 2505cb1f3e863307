//! Sends S3 requests and records, for every key, what was asked, what came back, and when.
//!
//! A mutation that got a 5xx, a timeout or a broken connection is unknown; so is one that got a 409, which says that
//! the outcome cannot be told. A read without an answer says nothing and is left out. Whatever S3 does not know as an
//! answer to the request is remembered as a violation.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::complete_multipart_upload::{
    CompleteMultipartUploadError, CompleteMultipartUploadOutput,
};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use coffer_common::linearizability::{Call, Operation, Return};

use super::body::{body, value_of};

/// The metadata entry that tells the value to a HEAD.
const VALUE: &str = "value";

/// A histories' book for the keys of one bucket.
#[derive(Debug)]
pub struct Recorder {
    bucket: String,
    start: Instant,
    values: AtomicU32,
    /// Reads and beginnings of uploads without an answer.
    unanswered: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    histories: BTreeMap<String, Vec<Operation>>,
    etags: HashMap<u32, String>,
    violations: Vec<String>,
}

/// A moment of the recording.
#[derive(Clone, Copy, Debug)]
pub struct Begun(u64);

impl Recorder {
    /// An empty one for a bucket.
    pub fn new(bucket: &str) -> Self {
        let (start, values) = (Instant::now(), AtomicU32::new(1));
        let (bucket, unanswered, state) = (bucket.to_owned(), AtomicU32::new(0), Mutex::default());
        Self { bucket, start, values, unanswered, state }
    }

    /// How many reads, listings and uploads got no answer; mutations without one are in the histories.
    pub fn unanswered(&self) -> u32 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Counts a request that got no answer.
    fn without_answer<T>(&self) -> Option<T> {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The histories so far.
    pub fn histories(&self) -> BTreeMap<String, Vec<Operation>> {
        self.state().histories.clone()
    }

    /// Answers that no request may get.
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// A value that nobody has written.
    pub fn fresh(&self) -> u32 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    /// Now: what begins now is recorded as begun now.
    pub fn begin(&self) -> Begun {
        Begun(self.start.elapsed().as_micros() as u64)
    }

    /// Writes an operation down that ends now.
    pub fn record(&self, key: &str, call: Call, returned: Return, begun: Begun) {
        let end = self.start.elapsed().as_micros() as u64;
        let operation = Operation { call, returned, begin: begun.0, end };
        self.state().histories.entry(key.to_owned()).or_default().push(operation);
    }

    /// Remembers an answer that cannot be.
    pub fn violation(&self, what: String) {
        self.state().violations.push(what);
    }

    /// One ETag for one value, always.
    fn learn(&self, value: u32, etag: Option<&str>) {
        let Some(etag) = etag else { return };
        let known = self.state().etags.entry(value).or_insert_with(|| etag.to_owned()).clone();
        if known != etag {
            self.violation(format!("value {value} has the ETags {known} and {etag}"));
        }
    }

    /// The ETag of a value that was written or read.
    pub fn etag(&self, value: u32) -> Option<String> {
        self.state().etags.get(&value).cloned()
    }

    /// PUT of a fresh value. What came of it, and the value.
    pub async fn put(&self, client: &Client, key: &str, size: usize) -> (Return, u32) {
        let value = self.fresh();
        (self.write(client, key, Call::Write(value), size).await, value)
    }

    /// PUT of a fresh value if the key is absent.
    pub async fn create(&self, client: &Client, key: &str, size: usize) -> (Return, u32) {
        let value = self.fresh();
        (self.write(client, key, Call::Replace(0, value), size).await, value)
    }

    /// PUT of a fresh value if the key has the value `old`, whose ETag is known.
    pub async fn replace(&self, client: &Client, key: &str, old: u32, size: usize) -> (Return, u32) {
        let value = self.fresh();
        (self.write(client, key, Call::Replace(old, value), size).await, value)
    }

    async fn write(&self, client: &Client, key: &str, call: Call, size: usize) -> Return {
        let (Call::Write(value) | Call::Replace(_, value) | Call::Swap(value)) = call else {
            return Return::Unknown;
        };
        let mut put = client.put_object().bucket(&self.bucket).key(key).metadata(VALUE, value.to_string());
        put = match call {
            Call::Replace(0, _) => put.if_none_match("*"),
            Call::Replace(old, _) => put.if_match(self.etag(old).unwrap_or_default()),
            _ => put,
        };
        let begun = self.begin();
        let sent = put.body(body(value, size).into()).send().await;
        self.learn(value, sent.as_ref().ok().and_then(|put| put.e_tag()));
        self.conclude(key, call, begun, sent)
    }

    /// DELETE, whatever is there.
    pub async fn delete(&self, client: &Client, key: &str) -> Return {
        let begun = self.begin();
        let sent = client.delete_object().bucket(&self.bucket).key(key).send().await;
        self.conclude(key, Call::Write(0), begun, sent)
    }

    /// DELETE if the key has this value, whose ETag is known.
    pub async fn delete_value(&self, client: &Client, key: &str, old: u32) -> Return {
        let etag = self.etag(old).unwrap_or_default();
        let begun = self.begin();
        let sent = client.delete_object().bucket(&self.bucket).key(key).if_match(etag).send().await;
        self.conclude(key, Call::Replace(old, 0), begun, sent)
    }

    /// COPY of another key, which always has this value.
    pub async fn copy(&self, client: &Client, key: &str, (source, value): (&str, u32)) -> Return {
        let source = format!("{}/{source}", self.bucket);
        let begun = self.begin();
        let sent = client.copy_object().bucket(&self.bucket).key(key).copy_source(source).send().await;
        self.conclude(key, Call::Write(value), begun, sent)
    }

    /// Begins an upload and writes its only part, of a fresh value. `None` if that did not succeed: then nothing of it
    /// can become visible.
    pub async fn prepare_upload(&self, client: &Client, key: &str, size: usize) -> Option<Upload> {
        let value = self.fresh();
        let create = client.create_multipart_upload().bucket(&self.bucket).key(key);
        let id = create.metadata(VALUE, value.to_string()).send().await.ok()?.upload_id?;
        let part = client.upload_part().bucket(&self.bucket).key(key).upload_id(&id).part_number(1);
        let etag = part.body(body(value, size).into()).send().await.ok()?.e_tag?;
        let part = CompletedPart::builder().part_number(1).e_tag(etag).build();
        Some(Upload {
            key: key.to_owned(),
            value,
            id,
            parts: CompletedMultipartUpload::builder().parts(part).build(),
        })
    }

    /// Complete; on condition that the key is absent, if so wished.
    pub async fn complete(&self, client: &Client, upload: &Upload, if_absent: bool) -> Return {
        let begun = self.begin();
        let (call, sent) = self.send_complete(client, upload, if_absent).await;
        self.conclude(&upload.key, call, begun, sent)
    }

    /// Complete, sent again through the next client until it is answered; one operation, whatever was sent how often.
    pub async fn complete_persistently(&self, clients: &[Client], upload: &Upload) -> Return {
        let begun = self.begin();
        for client in clients {
            let (call, sent) = self.send_complete(client, upload, false).await;
            let gone = sent.as_ref().err().is_some_and(|error| error.code() == Some("NoSuchUpload"));
            if gone || status(&sent).is_some_and(|status| status < 500) {
                return self.conclude(&upload.key, call, begun, sent);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.record(&upload.key, Call::Write(upload.value), Return::Unknown, begun);
        Return::Unknown
    }

    async fn send_complete(
        &self,
        client: &Client,
        upload: &Upload,
        if_absent: bool,
    ) -> (Call, Result<CompleteMultipartUploadOutput, SdkError<CompleteMultipartUploadError>>) {
        let complete = client.complete_multipart_upload().bucket(&self.bucket).key(&upload.key);
        let complete = complete.upload_id(&upload.id).multipart_upload(upload.parts.clone());
        let (call, complete) = if if_absent {
            (Call::Replace(0, upload.value), complete.if_none_match("*"))
        } else {
            (Call::Write(upload.value), complete)
        };
        let sent = complete.send().await;
        self.learn(upload.value, sent.as_ref().ok().and_then(|done| done.e_tag()));
        (call, sent)
    }

    fn conclude<T, E>(&self, key: &str, call: Call, begun: Begun, sent: Result<T, SdkError<E>>) -> Return
    where
        E: ProvideErrorMetadata + std::fmt::Debug,
    {
        let conditional = matches!(call, Call::Replace(..));
        let returned = match status(&sent) {
            Some(200..300) if sent.is_ok() => Return::Ok,
            Some(412) if conditional => Return::Rejected,
            Some(404) if conditional && !matches!(call, Call::Replace(0, _)) => Return::Rejected,
            None | Some(200 | 409 | 500..) => Return::Unknown,
            Some(status) => {
                let code = sent.as_ref().err().and_then(|error| error.code()).unwrap_or_default();
                self.violation(format!("{call:?} of `{key}` got {status} {code}"));
                Return::Unknown
            }
        };
        self.record(key, call, returned, begun);
        returned
    }

    /// GET. The value, 0 if the key is absent; `None` without an answer.
    pub async fn get(&self, client: &Client, key: &str) -> Option<u32> {
        let begun = self.begin();
        let sent = client.get_object().bucket(&self.bucket).key(key).send().await;
        let value = match (status(&sent), sent) {
            (_, Ok(got)) => {
                let (etag, length) = (got.e_tag().map(str::to_owned), got.content_length());
                let bytes = got.body.collect().await.ok()?.into_bytes();
                if length != i64::try_from(bytes.len()).ok() {
                    self.violation(format!("GET of `{key}`: {} bytes, {length:?} told", bytes.len()));
                }
                match value_of(&bytes) {
                    Ok(value) => {
                        self.learn(value, etag.as_deref());
                        value
                    }
                    Err(error) => {
                        self.violation(format!("GET of `{key}`: {error:#}"));
                        return None;
                    }
                }
            }
            (Some(404), _) => 0,
            (None | Some(500..), _) => return self.without_answer(),
            (Some(status), _) => {
                self.violation(format!("GET of `{key}` got {status}"));
                return None;
            }
        };
        self.record(key, Call::Read, Return::Value(value), begun);
        Some(value)
    }

    /// HEAD, like [`Self::get`].
    pub async fn head(&self, client: &Client, key: &str) -> Option<u32> {
        let begun = self.begin();
        let sent = client.head_object().bucket(&self.bucket).key(key).send().await;
        let value = match (status(&sent), sent) {
            (_, Ok(head)) => {
                let value = head.metadata().and_then(|metadata| metadata.get(VALUE)?.parse().ok())?;
                self.learn(value, head.e_tag());
                value
            }
            (Some(404), _) => 0,
            (_, _) => return self.without_answer(),
        };
        self.record(key, Call::Read, Return::Value(value), begun);
        Some(value)
    }

    /// All keys below a prefix; `None` without an answer.
    pub async fn list(&self, client: &Client, prefix: &str) -> Option<Vec<String>> {
        let list = client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        let mut pages = list.into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let Ok(page) = page else { return self.without_answer() };
            keys.extend(page.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
        }
        Some(keys)
    }
}

/// An upload with its only part.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Its key.
    pub key: String,
    /// What its part stands for.
    pub value: u32,
    id: String,
    parts: CompletedMultipartUpload,
}

/// The HTTP status of an answer, if there was one.
fn status<T, E>(sent: &Result<T, SdkError<E>>) -> Option<u16> {
    match sent {
        Ok(_) => Some(200),
        Err(error) => error.raw_response().map(|raw| raw.status().as_u16()),
    }
}
