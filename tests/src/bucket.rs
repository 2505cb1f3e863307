//! One bucket as a client sees it: bytes, or the status of the refusal.

use anyhow::Result;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;

/// A bucket through one endpoint. A status of 0 means that there was no answer, or that it broke off.
#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
    name: String,
}

fn status<E>(error: SdkError<E>) -> u16 {
    error.raw_response().map_or(0, |raw| raw.status().as_u16())
}

impl Bucket {
    /// One that is there.
    pub fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// A new one.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn create(client: Client, name: &str) -> Result<Self> {
        client.create_bucket().bucket(name).send().await?;
        Ok(Self::new(client, name))
    }

    /// The same through another endpoint.
    pub fn through(&self, client: Client) -> Self {
        Self::new(client, &self.name)
    }

    /// Writes an object.
    ///
    /// # Errors
    /// The status.
    pub async fn put(&self, key: &str, body: Vec<u8>) -> Result<(), u16> {
        let sent = self.client.put_object().bucket(&self.name).key(key).body(body.into()).send().await;
        sent.map(drop).map_err(status)
    }

    /// Reads a whole object.
    ///
    /// # Errors
    /// The status.
    pub async fn get(&self, key: &str) -> Result<Vec<u8>, u16> {
        let got = self.client.get_object().bucket(&self.name).key(key).send().await.map_err(status)?;
        got.body.collect().await.map(|bytes| bytes.to_vec()).map_err(|_| 0)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// The status.
    pub async fn delete(&self, key: &str) -> Result<(), u16> {
        let sent = self.client.delete_object().bucket(&self.name).key(key).send().await;
        sent.map(drop).map_err(status)
    }

    /// All keys.
    ///
    /// # Errors
    /// The status.
    pub async fn keys(&self) -> Result<Vec<String>, u16> {
        let mut pages = self.client.list_objects_v2().bucket(&self.name).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            keys.extend(page.map_err(status)?.contents().iter().filter_map(|o| o.key().map(str::to_owned)));
        }
        Ok(keys)
    }
}

/// A body that tells its key and round, so that a stale or foreign one is recognised; its size differs by round.
pub fn body(key: &str, round: usize, size: usize) -> Vec<u8> {
    let line = format!("{key} in round {round}\n");
    line.bytes().cycle().take(size + round).collect()
}
