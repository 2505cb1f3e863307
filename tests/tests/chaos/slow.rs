//! A PUT whose body stops half way until it is told to go on.

use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The connection, and what is still to be sent.
pub(super) struct SlowPut {
    stream: TcpStream,
    rest: Bytes,
}

impl SlowPut {
    /// Sends the head and half of the body to the bucket `chaos`.
    pub(super) async fn begin(client: &Client, key: &str, if_absent: bool, body: Bytes) -> Result<Self> {
        let condition = if_absent.then(|| "*".to_owned());
        let put = client.put_object().bucket("chaos").key(key).set_if_none_match(condition);
        let signed = put.presigned(PresigningConfig::expires_in(Duration::from_secs(900))?).await?;
        let (host, target) = signed
            .uri()
            .strip_prefix("http://")
            .and_then(|uri| uri.split_once('/'))
            .context("a URL of an object")?;
        let mut head =
            format!("PUT /{target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in signed.headers().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(format!("{head}\r\n").as_bytes()).await?;
        let middle = body.len() / 2;
        stream.write_all(&body[..middle]).await?;
        Ok(Self { stream, rest: body.slice(middle..) })
    }

    /// Sends the rest. The status; 599 if the connection breaks.
    pub(super) async fn finish(mut self) -> Result<u16> {
        // A server that refuses may close before it has read all.
        let _ = self.stream.write_all(&self.rest).await;
        let mut answer = Vec::new();
        let mut piece = [0; 1024];
        let whole = |answer: &[u8]| answer.windows(4).any(|end| end == b"\r\n\r\n");
        while !whole(&answer) {
            match tokio::time::timeout(Duration::from_secs(90), self.stream.read(&mut piece)).await? {
                Ok(0) | Err(_) => return Ok(599),
                Ok(length) => answer.extend_from_slice(&piece[..length]),
            }
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        answer.split(' ').nth(1).context("a status")?.parse().with_context(|| answer.clone())
    }
}
