//! What happens at the limits: full drives, more uploads than there is memory for, and connections that are cut off.

mod admission;
mod cut_off;
mod full_drive;

use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes that tell their place, so that shifted or foreign ones are seen.
fn bytes(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
}

/// The bytes of an object, or the status of the refusal.
async fn get(client: &Client, key: &str) -> Result<Vec<u8>, u16> {
    let got = client.get_object().bucket("limits").key(key).send().await;
    let got = got.map_err(|error| error.raw_response().map_or(0, |raw| raw.status().as_u16()))?;
    got.body.collect().await.map(|bytes| bytes.to_vec()).map_err(|_| 0)
}

async fn keys(client: &Client) -> Result<Vec<String>> {
    let page = client.list_objects_v2().bucket("limits").send().await?;
    Ok(page.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect())
}

/// A request of this client's as raw bytes on a connection of its own, which a test can stop in the middle.
struct RawRequest {
    address: String,
    path: String,
}

impl RawRequest {
    async fn put(client: &Client, endpoint: &str, key: &str) -> Result<Self> {
        let lifetime = PresigningConfig::expires_in(Duration::from_secs(300))?;
        let url = client.put_object().bucket("limits").key(key).presigned(lifetime).await?.uri().to_owned();
        Ok(Self::new(endpoint, &url))
    }

    async fn get(client: &Client, endpoint: &str, key: &str) -> Result<Self> {
        let lifetime = PresigningConfig::expires_in(Duration::from_secs(300))?;
        let url = client.get_object().bucket("limits").key(key).presigned(lifetime).await?.uri().to_owned();
        Ok(Self::new(endpoint, &url))
    }

    fn new(endpoint: &str, url: &str) -> Self {
        let path = url.trim_start_matches(endpoint).to_owned();
        Self { address: endpoint.trim_start_matches("http://").to_owned(), path }
    }

    /// Sends the head, and what of the body is given.
    async fn begin(&self, method: &str, length: usize, body: &[u8]) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let (path, host) = (&self.path, &self.address);
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        Ok(stream)
    }
}

/// The head of the answer that comes on this connection.
async fn answer_head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = tokio::time::timeout(Duration::from_secs(90), stream.read(&mut piece)).await;
        let count = read.context("no answer")??;
        if count == 0 {
            break;
        }
        head.extend_from_slice(&piece[..count]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
