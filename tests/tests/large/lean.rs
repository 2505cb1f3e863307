//! An S3 client that costs little beside the server: one connection, a cached signing key, answers as text.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use coffer_common::time::UnixMillis;
use coffer_tests::bench::sign::{Request as ToSign, Signer, UNSIGNED_PAYLOAD};
use coffer_tests::client::{ACCESS_KEY, SECRET_KEY};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// One connection.
pub(crate) struct Lean {
    authority: String,
    signer: Signer,
    sender: SendRequest<Full<Bytes>>,
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body).context("the answer is not UTF-8")
    }

    pub(crate) fn header(&self, name: &str) -> Result<&str> {
        let value = self.headers.get(name).with_context(|| format!("no `{name}`"))?;
        Ok(value.to_str()?)
    }
}

impl Lean {
    /// Connects to `http://host:port`.
    pub(crate) async fn connect(endpoint: &str) -> Result<Self> {
        let authority = endpoint.trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(&authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            Builder::new().max_buf_size(1 << 20).handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { authority, signer: Signer::new(ACCESS_KEY, SECRET_KEY, "us-east-1"), sender })
    }

    /// Sends a request and waits for the head of its answer; path and query are escaped, the query sorted.
    async fn send(
        &mut self,
        method: &str,
        path: &str,
        query: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let (host, payload_hash) = (self.authority.as_str(), UNSIGNED_PAYLOAD);
        let to_sign = ToSign { method, host, path, query, payload_hash };
        let signed = self.signer.sign(&to_sign, UnixMillis::now().seconds());
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", host)
            .header("authorization", signed.authorization)
            .header("x-amz-date", signed.date)
            .header("x-amz-content-sha256", payload_hash)
            // The library tells it of bodies only, and an object may be empty.
            .header("content-length", body.len())
            .body(Full::new(body))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Does a request. Any answer will do.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, query: &str, body: Bytes) -> Result<Answer> {
        let response = self.send(method, path, query, body).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Answer { status, headers, body })
    }

    /// The same; anything but success is an error.
    pub(crate) async fn expect(
        &mut self,
        method: &str,
        path: &str,
        query: &str,
        body: Bytes,
    ) -> Result<Answer> {
        let answer = self.ask(method, path, query, body).await?;
        if !(200..300).contains(&answer.status) {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            bail!("{method} {path}?{query}: {} {text}", answer.status);
        }
        Ok(answer)
    }

    pub(crate) async fn get(&mut self, path: &str, query: &str) -> Result<Answer> {
        self.expect("GET", path, query, Bytes::new()).await
    }

    pub(crate) async fn put(&mut self, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.expect("PUT", path, "", body.into()).await
    }

    /// Reads a body of this many bytes, all alike, without keeping it.
    pub(crate) async fn read_zeros(&mut self, path: &str, query: &str, size: u64) -> Result<()> {
        let response = self.send("GET", path, query, Bytes::new()).await?;
        ensure!(response.status().is_success(), "GET {path}?{query}: {}", response.status());
        let (mut body, mut read) = (response.into_body(), 0);
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                ensure!(data.iter().all(|byte| *byte == 0), "the body differs near byte {read}");
                read += data.len() as u64;
            }
        }
        ensure!(read == size, "the body has {read} bytes of {size}");
        Ok(())
    }
}

/// Does `work` for each number below `count` on so many connections, and tells how long each took, by number.
pub(crate) async fn each<F>(
    endpoint: &str,
    (count, connections): (usize, usize),
    work: impl Fn(Lean, usize) -> F + Clone + Send + 'static,
) -> Result<Vec<Duration>>
where
    F: Future<Output = Result<Lean>> + Send,
{
    let next = std::sync::Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (next, work) = (next.clone(), work.clone());
        let mut client = Lean::connect(endpoint).await?;
        tasks.spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(times);
                }
                let began = Instant::now();
                client = work(client, number).await?;
                times.push((number, began.elapsed()));
            }
        });
    }
    let mut times = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    times.sort_unstable_by_key(|(number, _)| *number);
    Ok(times.into_iter().map(|(_, time)| time).collect())
}

/// The texts between `<name>` and `</name>`, in order.
pub(crate) fn texts<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let begin = rest.find(&open)? + open.len();
        let end = begin + rest[begin..].find(&close)?;
        let text = &rest[begin..end];
        rest = &rest[end + close.len()..];
        Some(text)
    })
}
