//! The smallest S3 client that can be measured with: one connection, opened again after an error.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use coffer_common::time::UnixMillis;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;

use super::plan::Op;
use super::sign::{Request as ToSign, Signer, UNSIGNED_PAYLOAD, escape};

const PIECE_BYTES: usize = 256 * 1024;
const PATTERN_BYTES: u64 = 4 * 1024 * 1024;
/// Error bodies are read no further.
const MAX_ERROR_BYTES: usize = 16 * 1024;

/// The content of every object of a run: a random pattern, repeated to the object's size.
#[derive(Clone)]
pub struct Content {
    pattern: Bytes,
    size_bytes: u64,
    sha256: Arc<str>,
}

impl Content {
    /// Content of this size; its hash is computed only if it will be signed.
    pub fn new(size_bytes: u64, signed: bool) -> Self {
        let len = size_bytes.min(PATTERN_BYTES) as usize;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut pattern = Vec::with_capacity(len + 8);
        while pattern.len() < len {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            pattern.extend_from_slice(&state.to_le_bytes());
        }
        pattern.truncate(len);
        let mut content = Self { pattern: pattern.into(), size_bytes, sha256: UNSIGNED_PAYLOAD.into() };
        if signed {
            let mut hash = Sha256::new();
            let mut at = 0;
            while let Some(piece) = content.piece_at(at) {
                hash.update(&piece);
                at += piece.len() as u64;
            }
            content.sha256 = hex::encode(hash.finalize()).into();
        }
        content
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// A slice of the content from here on, as long as is handy; `None` at its end.
    fn piece_at(&self, at: u64) -> Option<Bytes> {
        let left = self.size_bytes.checked_sub(at).filter(|&left| left > 0)?;
        let start = (at % PATTERN_BYTES) as usize;
        let len = (PIECE_BYTES as u64).min(left).min((self.pattern.len() - start) as u64) as usize;
        Some(self.pattern.slice(start..start + len))
    }

    /// Whether these bytes stand at this place of the content.
    fn matches(&self, mut at: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let Some(piece) = self.piece_at(at) else { return false };
            let len = piece.len().min(bytes.len());
            if piece[..len] != bytes[..len] {
                return false;
            }
            at += len as u64;
            bytes = &bytes[len..];
        }
        true
    }
}

/// A request's body: the content, or nothing.
pub struct Payload {
    content: Option<Content>,
    at: u64,
}

impl Body for Payload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = self.content.as_ref().and_then(|content| content.piece_at(self.at));
        self.at += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.content.as_ref().is_none_or(|content| self.at >= content.size_bytes)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.content.as_ref().map_or(0, |content| content.size_bytes - self.at))
    }
}

/// What every connection of a run shares.
#[derive(Clone)]
pub struct Target {
    /// `host:port` of an endpoint.
    pub authority: String,
    /// The bucket.
    pub bucket: String,
    /// Signs.
    pub signer: Signer,
    /// What objects contain.
    pub content: Content,
    /// Whether GET compares what it reads.
    pub verify: bool,
    /// A request that takes longer is an error.
    pub timeout: Duration,
}

/// Reads `http://host[:port]`.
///
/// # Errors
/// If it is something else.
pub fn authority_of(endpoint: &str) -> Result<String> {
    let uri: Uri = endpoint.parse().with_context(|| format!("`{endpoint}` is no URL"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            bail!("`{endpoint}`: TLS is not measured here; name the plain HTTP endpoint behind it")
        }
        _ => bail!("`{endpoint}` does not begin with http://"),
    }
    ensure!(uri.path() == "/" || uri.path().is_empty(), "`{endpoint}` must not have a path");
    let host = uri.host().with_context(|| format!("`{endpoint}` names no host"))?;
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(80)))
}

/// What a successful request moved.
#[derive(Debug, Default)]
pub struct Moved {
    /// Object bytes up or down.
    pub bytes: u64,
    /// Objects listed.
    pub keys: u64,
    /// The listing's next page, if there is one.
    pub next: Option<String>,
}

/// One connection.
pub struct Client {
    target: Target,
    sender: Option<SendRequest<Payload>>,
}

impl Client {
    /// A client that connects at its first request.
    pub fn new(target: Target) -> Self {
        Self { target, sender: None }
    }

    /// Makes the bucket, unless it is there.
    ///
    /// # Errors
    /// What the endpoint answered.
    pub async fn make_bucket(&mut self) -> Result<()> {
        let path = format!("/{}", self.target.bucket);
        match self.exchange("PUT", &path, "", false).await {
            Err(error) if error.to_string().contains("BucketAlreadyOwnedByYou") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Does one request about a key (for listings: the prefix, and the token of the page).
    ///
    /// # Errors
    /// Anything but the expected answer, in time, of the expected length.
    pub async fn request(&mut self, op: Op, key: &str, token: Option<&str>) -> Result<Moved> {
        let limit = self.target.timeout;
        let result = match tokio::time::timeout(limit, self.request_in_time(op, key, token)).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("no answer in {} s", limit.as_secs())),
        };
        if result.is_err() {
            self.sender = None;
        }
        result
    }

    async fn request_in_time(&mut self, op: Op, key: &str, token: Option<&str>) -> Result<Moved> {
        let path = format!("/{}/{key}", self.target.bucket);
        let size = self.target.content.size_bytes;
        match op {
            Op::Put => {
                drain(self.exchange("PUT", &path, "", true).await?).await?;
                Ok(Moved { bytes: size, ..Moved::default() })
            }
            Op::Get => {
                let response = self.exchange("GET", &path, "", false).await?;
                let content = self.target.verify.then(|| self.target.content.clone());
                let bytes = read(response, content.as_ref()).await?;
                ensure!(bytes == size, "GET: body has {bytes} bytes, the object {size}");
                Ok(Moved { bytes, ..Moved::default() })
            }
            Op::Stat => {
                let response = self.exchange("HEAD", &path, "", false).await?;
                let len = response.headers().get("content-length").and_then(|value| value.to_str().ok());
                ensure!(
                    len == Some(size.to_string().as_str()),
                    "HEAD: content-length is {len:?}, not {size}"
                );
                drain(response).await?;
                Ok(Moved::default())
            }
            Op::Delete => {
                drain(self.exchange("DELETE", &path, "", false).await?).await?;
                Ok(Moved::default())
            }
            Op::List => self.list(key, token).await,
        }
    }

    async fn list(&mut self, prefix: &str, token: Option<&str>) -> Result<Moved> {
        let token = token.map(|token| format!("continuation-token={}&", escape(token))).unwrap_or_default();
        let query = format!("{token}list-type=2&max-keys=1000&prefix={}", escape(prefix));
        let path = format!("/{}", self.target.bucket);
        let response = self.exchange("GET", &path, &query, false).await?;
        let body = response.into_body().collect().await?.to_bytes();
        let text = std::str::from_utf8(&body).context("the listing is not UTF-8")?;
        ensure!(text.contains("<ListBucketResult"), "the answer is no listing");
        let next = text.split_once("<NextContinuationToken>").and_then(|(_, rest)| rest.split_once('<'));
        let keys = text.matches("<Key>").count() as u64;
        Ok(Moved { keys, next: next.map(|(token, _)| token.replace("&amp;", "&")), ..Moved::default() })
    }

    /// Sends a request; an answer that is no success becomes an error with its S3 code.
    async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        query: &str,
        with_content: bool,
    ) -> Result<Response<Incoming>> {
        let content = with_content.then(|| self.target.content.clone());
        // Bodies of no bytes have the hash of no bytes, which UNSIGNED-PAYLOAD stands for just as well.
        let payload_hash = content.as_ref().map_or_else(|| UNSIGNED_PAYLOAD.into(), |c| c.sha256.clone());
        let to_sign =
            ToSign { method, host: &self.target.authority, path, query, payload_hash: &payload_hash };
        let signed = self.target.signer.sign(&to_sign, UnixMillis::now().seconds());
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", &self.target.authority)
            .header("authorization", signed.authorization)
            .header("x-amz-date", signed.date)
            .header("x-amz-content-sha256", &*payload_hash)
            .body(Payload { content, at: 0 })?;
        let response = self.connected().await?.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), MAX_ERROR_BYTES).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let code =
            text.split_once("<Code>").and_then(|(_, rest)| rest.split_once('<')).map_or("", |(code, _)| code);
        bail!("{method}: {status} {code}")
    }

    async fn connected(&mut self) -> Result<&mut SendRequest<Payload>> {
        let usable = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let authority = &self.target.authority;
            let stream =
                TcpStream::connect(authority).await.with_context(|| format!("connect to {authority}"))?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) =
                Builder::new().max_buf_size(1024 * 1024).handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender.ready().await?;
            self.sender = Some(sender);
        }
        self.sender.as_mut().context("not connected")
    }
}

/// Reads a body to its end, so that the connection can be used again.
async fn drain(response: Response<Incoming>) -> Result<u64> {
    read(response, None).await
}

async fn read(response: Response<Incoming>, content: Option<&Content>) -> Result<u64> {
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if let Some(content) = content {
                ensure!(
                    content.matches(bytes, &data),
                    "GET: the body differs from what was put, near byte {bytes}"
                );
            }
            bytes += data.len() as u64;
        }
    }
    Ok(bytes)
}
