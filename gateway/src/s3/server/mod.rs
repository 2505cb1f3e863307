//! The accept loop: connections in, requests to a service, and a drain at the end.
//!
//! Owns: sockets, TLS ([`tls`]), HTTP versions, time limits ([`activity`], [`answers`]), the number of connections. Never: looks at
//! a request.
//!
//! 1. A connection that sends nothing for [`FIRST_BYTE_LIMIT`] is closed. With certificates it then speaks TLS, and says in the
//!    handshake whether it goes on with HTTP/2 or 1.1; without, its first bytes say so.
//! 2. A request's head must be complete [`activity::HEAD_LIMIT`] after it has begun; a connection without requests is closed after
//!    [`activity::IDLE_LIMIT`], one of HTTP/2 with a GOAWAY. Bodies have limits of their own where they are read.
//! 3. A client that takes nothing of an answer for [`STALL_LIMIT`] is given up: by the kernel with its connection, where the socket
//!    takes nothing, and by [`answers`] where only one answer of HTTP/2 waits.
//! 4. At most [`MAX_CONNECTIONS`] are open: further ones wait in the kernel's queue. One of HTTP/2 has at most [`MAX_STREAMS`]
//!    requests at a time; the others of its limits are in [`Protocols`].
//! 5. When the stop is told, the listener is closed, and running requests finish (the process limits how long). Idle connections
//!    of HTTP/2 end at once, by GOAWAY. Those of HTTP/1.1, and those of which nothing was heard yet, end
//!    [`activity::STOP_GRACE`] later: a balancer sends on them until its checks say that this gateway stops. What they are
//!    answered until then says `Connection: close`.

mod activity;
mod answers;
pub(crate) mod proxies;
pub(crate) mod tls;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::shutdown::Shutdown;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;

use super::interim::{Interim, Wire};
use activity::{Activity, Counted, Watched, drive, stop_is_over};
use answers::Answers;
use tls::Certificates;

/// Connections of one listener.
const MAX_CONNECTIONS: u32 = 8192;
/// A new connection must send something within this time.
const FIRST_BYTE_LIMIT: Duration = Duration::from_secs(60);
/// A handshake of TLS must be over within this time.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Bytes that a peer does not acknowledge for this long end its connection; one of HTTP/2 is asked as often whether it is there, and
/// loses the answers that it takes nothing of.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// Buffer of a connection, and of a request of HTTP/2, in bytes: large reads and writes for large bodies; it grows only where it
/// is used.
const BUFFER_BYTES: usize = 256 * 1024;
/// Longest head of a request, in bytes; HTTP/2 counts 32 for each field besides.
const HEAD_BYTES: usize = 64 * 1024;
/// HTTP/2 window of a stream and of a connection: what may be on its way before anybody has asked for it.
const WINDOW_BYTES: (u32, u32) = (1024 * 1024, 4 * 1024 * 1024);
/// Requests of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 256;
/// Requests of one HTTP/2 connection that are taken back before they were looked at; with one more the connection ends.
const MAX_EARLY_RESETS: usize = 20;
/// Requests of one HTTP/2 connection that break its rules; with one more the connection ends.
const MAX_BROKEN_STREAMS: usize = 256;
/// Pause after `accept` failed (out of file descriptors): it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What HTTP/2 without TLS begins with, and no request of HTTP/1.1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const CLOSE: HeaderValue = HeaderValue::from_static("close");

const CONNECTIONS: &str = "coffer_s3_connections_total";
const FAILED_HANDSHAKES: &str = "coffer_s3_failed_handshakes_total";

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// Its address; port 0 where a proxy has told it.
    pub(crate) address: SocketAddr,
    /// Whether the connection is encrypted.
    pub(crate) secure: bool,
    /// The version of TLS that it speaks with this gateway.
    pub(crate) tls: Option<TlsVersion>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsVersion {
    /// 1.2.
    V1_2,
    /// 1.3.
    V1_3,
}

impl TlsVersion {
    fn of(stream: &TlsStream<TcpStream>) -> Option<Self> {
        match stream.get_ref().1.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => Some(Self::V1_2),
            Some(rustls::ProtocolVersion::TLSv1_3) => Some(Self::V1_3),
            Some(_) | None => None,
        }
    }
}

/// Serves `listener`, with TLS if there are certificates, until the stop is told and all connections have ended.
pub(crate) async fn serve<S, F, B>(
    listener: TcpListener,
    certificates: Option<Certificates>,
    service: S,
    shutdown: Shutdown,
) where
    S: Fn(Request<Incoming>, Peer) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let protocols = Arc::new(Protocols::new());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    loop {
        let accepted = tokio::select! {
            // Whoever is connected already, in the kernel's queue, is served, too.
            biased;
            accepted = async {
                let place = places.clone().acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
            () = shutdown.told() => break,
        };
        let (stream, address, place) = match accepted {
            (Ok((stream, address)), Ok(place)) => (stream, address, place),
            (Err(error), _) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            (Ok(_), Err(_)) => break,
        };
        let (service, protocols, stop) = (service.clone(), protocols.clone(), shutdown.clone());
        let certificates = certificates.clone();
        tokio::spawn(async move {
            let _place = place;
            if !sends_something(&stream, &stop).await {
                return;
            }
            let spoken = async {
                match certificates {
                    Some(certificates) => match shake_hands(stream, &certificates, &stop).await? {
                        Some((stream, version)) => {
                            let peer = Peer { address, secure: true, tls: TlsVersion::of(&stream) };
                            let service = move |request| service(request, peer);
                            protocols.speak(version, stream, &[], service, &stop).await
                        }
                        None => Ok(()),
                    },
                    None => match first_bytes(stream, &stop).await? {
                        Some((stream, version, first)) => {
                            let peer = Peer { address, secure: false, tls: None };
                            let service = move |request| service(request, peer);
                            protocols.speak(version, stream, &first, service, &stop).await
                        }
                        None => Ok(()),
                    },
                }
            };
            if let Err(error) = spoken.await {
                tracing::debug!(peer = %address, error, "connection ended");
            }
        });
    }
    drop(listener);
    let _all_ended = places.acquire_many(MAX_CONNECTIONS).await;
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How each version of HTTP is spoken.
struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    fn new() -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            // The limits of activity are narrower, and know when a head has begun.
            .header_read_timeout(activity::IDLE_LIMIT + activity::HEAD_LIMIT)
            .max_header_size(HEAD_BYTES)
            .max_buf_size(BUFFER_BYTES);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_EARLY_RESETS)
            .max_local_error_reset_streams(MAX_BROKEN_STREAMS)
            .max_header_list_size(HEAD_BYTES as u32)
            .max_send_buf_size(BUFFER_BYTES)
            .initial_stream_window_size(WINDOW_BYTES.0)
            .initial_connection_window_size(WINDOW_BYTES.1)
            .keep_alive_interval(STALL_LIMIT);
        Self { http1, http2 }
    }

    /// Serves a connection that began with the bytes `first`.
    async fn speak<S, F, B, I>(
        &self,
        version: Version,
        stream: I,
        first: &[u8],
        service: S,
        stop: &Shutdown,
    ) -> Result<(), BoxError>
    where
        S: Fn(Request<Incoming>) -> F + Send + 'static,
        F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::new();
        let counted = activity.clone();
        let service = move |request| {
            let (running, answer) = (counted.begin(), service(request));
            async move { answer.await.map(|answer| answer.map(|body| Counted::new(body, running))) }
        };
        match version {
            Version::Http1 => {
                metrics::counter!(CONNECTIONS, "protocol" => "HTTP/1.1").increment(1);
                let told = stop.clone();
                if !first.is_empty() {
                    activity.received();
                }
                let interim = Interim::default();
                let wire = Wire::new(Watched::new(stream, first, Some(activity.clone())), interim.clone());
                let handle = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(interim.clone());
                    let (answer, told) = (service(request), told.clone());
                    async move {
                        answer.await.map(|mut answer| {
                            if told.is_told() {
                                answer.headers_mut().insert(CONNECTION, CLOSE);
                            }
                            answer
                        })
                    }
                });
                let connection = self.http1.serve_connection(TokioIo::new(wire), handle);
                drive(connection, &activity, stop_is_over(stop)).await?;
            }
            Version::Http2 => {
                metrics::counter!(CONNECTIONS, "protocol" => "HTTP/2").increment(1);
                let answers = Answers::new();
                let kept = answers.clone();
                let handle = service_fn(move |request: Request<Incoming>| {
                    let (answer, kept) = (service(request), kept.clone());
                    async move { answer.await.map(|answer| answer.map(|body| kept.keep(body))) }
                });
                let wire = TokioIo::new(Watched::new(stream, first, None));
                let connection = self.http2.serve_connection(wire, handle);
                tokio::select! {
                    // What a client has taken meanwhile counts.
                    biased;
                    ended = drive(connection, &activity, stop.told()) => ended?,
                    () = answers.watch() => {}
                }
            }
        }
        Ok(())
    }
}

/// A version of HTTP.
#[derive(Clone, Copy)]
enum Version {
    Http1,
    Http2,
}

/// The handshake of TLS, which says the version; nothing if the stop is over first.
async fn shake_hands(
    stream: TcpStream,
    certificates: &Certificates,
    stop: &Shutdown,
) -> Result<Option<(TlsStream<TcpStream>, Version)>, BoxError> {
    let shaken = tokio::time::timeout(HANDSHAKE_LIMIT, certificates.acceptor().accept(stream));
    let shaken = tokio::select! {
        biased;
        shaken = shaken => shaken,
        () = stop_is_over(stop) => return Ok(None),
    };
    let stream = shaken.map_err(BoxError::from).and_then(|shaken| Ok(shaken?));
    let stream = stream.inspect_err(|_| metrics::counter!(FAILED_HANDSHAKES).increment(1))?;
    let version = match stream.get_ref().1.alpn_protocol() {
        Some(tls::HTTP_2) => Version::Http2,
        _ => Version::Http1,
    };
    Ok(Some((stream, version)))
}

/// As many bytes as tell the version of a connection without TLS; nothing if the stop is over first.
async fn first_bytes(
    mut stream: TcpStream,
    stop: &Shutdown,
) -> Result<Option<(TcpStream, Version, Vec<u8>)>, BoxError> {
    let mut first = Vec::with_capacity(PREFACE.len());
    let read = async {
        while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
            let missing = (PREFACE.len() - first.len()) as u64;
            if (&mut stream).take(missing).read_buf(&mut first).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    tokio::select! {
        biased;
        read = tokio::time::timeout(activity::HEAD_LIMIT, read) => read??,
        () = stop_is_over(stop) => return Ok(None),
    }
    let version = if first == PREFACE { Version::Http2 } else { Version::Http1 };
    Ok(Some((stream, version, first)))
}

/// Small answers leave at once; a peer that takes nothing, or is gone without a word, does not hold its place for ever.
fn tune(stream: &TcpStream) -> std::io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(STALL_LIMIT))?;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(STALL_LIMIT))
}

/// Waits for the first byte; false if none comes, or not before the stop is over.
async fn sends_something(stream: &TcpStream, stop: &Shutdown) -> bool {
    if let Err(error) = tune(stream) {
        tracing::debug!(%error, "a socket option is refused");
    }
    tokio::select! {
        biased;
        ready = tokio::time::timeout(FIRST_BYTE_LIMIT, stream.readable()) => matches!(ready, Ok(Ok(()))),
        () = stop_is_over(stop) => false,
    }
}
