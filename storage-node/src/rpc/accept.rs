//! Takes connections. Each is set up in a task of its own, so that a slow TLS handshake holds up nobody.

use std::io::{IoSlice, Result};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use coffer_common::rpc::{Acceptor, Io};
use coffer_common::shutdown::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::auth::Proved;

/// Connections that are set up and wait for the server.
const READY: usize = 16;

/// After a failed accept (too many open files): time for some to close.
const PAUSE: Duration = Duration::from_millis(50);

/// What requests learn of the connection they came on.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) proved: Arc<Proved>,
}

/// A connection with a place for what it proves.
pub(super) struct Accepted {
    io: Io,
    peer: Peer,
}

/// Connections as they are set up, until the stop is told; the port is closed then.
pub(super) fn incoming(
    listener: TcpListener,
    acceptor: Acceptor,
    shutdown: Shutdown,
) -> ReceiverStream<Result<Accepted>> {
    let (ready, stream) = mpsc::channel(READY);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = shutdown.told() => return,
                () = ready.closed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    tokio::spawn(set_up(stream, address, acceptor.clone(), ready.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection could be taken");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(stream)
}

async fn set_up(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: Acceptor,
    ready: mpsc::Sender<Result<Accepted>>,
) {
    match acceptor.accept(stream).await {
        Ok(io) => {
            let peer = Peer { address, proved: Arc::default() };
            // The server is gone only when the node stops.
            let _ = ready.send(Ok(Accepted { io, peer })).await;
        }
        Err(error) => tracing::warn!(peer = %address, %error, "connection refused"),
    }
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
