//! The accept loop: connections in, requests to a service, and a drain at the end.
//!
//! Owns: sockets, timeouts, HTTP versions (1.1, and 2 without TLS), the number of connections. Never: looks at a request.
//!
//! 1. A connection that sends nothing for [`FIRST_BYTE_LIMIT`] is closed; a request head must come within
//!    [`HEAD_LIMIT`].
//! 2. At most [`MAX_CONNECTIONS`] are open: further ones wait in the kernel's queue.
//! 3. When the stop is told, the listener is closed, idle connections end, running requests finish (the process limits
//!    how long).

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::shutdown::Shutdown;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::interim::{Interim, Wire};

/// Connections of one listener.
const MAX_CONNECTIONS: usize = 8192;
/// A new connection must send something within this time.
const FIRST_BYTE_LIMIT: Duration = Duration::from_secs(60);
/// A request's head must be complete within this time.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Bytes that a peer does not acknowledge for this long end its connection.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// Buffer of a connection, in bytes: large reads and writes for large bodies; it grows only where it is used.
const BUFFER_BYTES: usize = 256 * 1024;
/// HTTP/2 window of a stream and of a connection.
const WINDOW_BYTES: (u32, u32) = (1024 * 1024, 4 * 1024 * 1024);
/// Requests of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 256;
/// Pause after `accept` failed (out of file descriptors): it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `listener` until the stop is told and all connections have ended.
pub(crate) async fn serve<S, F, B>(listener: TcpListener, service: S, shutdown: Shutdown)
where
    S: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let builder = builder();
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.told() => break,
            accepted = async {
                let place = places.clone().acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        let (stream, peer, place) = match accepted {
            (Ok((stream, peer)), Ok(place)) => (stream, peer, place),
            (Err(error), _) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            (Ok(_), Err(_)) => break,
        };
        let service = service.clone();
        let (builder, watcher, stop) = (builder.clone(), graceful.watcher(), shutdown.clone());
        tokio::spawn(async move {
            let _place = place;
            if !sends_something(&stream, &stop).await {
                return;
            }
            let interim = Interim::default();
            let wire = Wire::new(stream, interim.clone());
            let handle = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(interim.clone());
                service(request, peer)
            });
            let connection = builder.serve_connection(TokioIo::new(wire), handle).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%peer, error, "connection ended");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(WINDOW_BYTES.0)
        .initial_connection_window_size(WINDOW_BYTES.1)
        .keep_alive_interval(Some(HEAD_LIMIT));
    builder
}

/// Small answers leave at once; a peer that takes nothing, or is gone without a word, does not hold its place for ever.
fn tune(stream: &TcpStream) -> std::io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(STALL_LIMIT))?;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(STALL_LIMIT))
}

/// Waits for the first byte; false if none comes.
async fn sends_something(stream: &TcpStream, stop: &Shutdown) -> bool {
    if let Err(error) = tune(stream) {
        tracing::debug!(%error, "a socket option is refused");
    }
    tokio::select! {
        () = stop.told() => false,
        ready = tokio::time::timeout(FIRST_BYTE_LIMIT, stream.readable()) => matches!(ready, Ok(Ok(()))),
    }
}
