//! The gRPC service of a storage node: calls from gateways and peers, handed to whatever implements
//! [`NodeClient`] here.
//!
//! It owns listening, authentication, flow control and the order to stop in. It never touches a drive and decides
//! nothing about slots.
//!
//! 1. `accept`: a connection is taken, with TLS where asked for, and gets a place for what it will prove.
//! 2. `auth`: greeting and proofs fill that place; every other call is refused before its body is read.
//! 3. `control`: frames of calls run side by side, replies leave coalesced in any order.
//! 4. `bulk`: shards in and out, one message at a time, at the pace of the slower side.
//! 5. `service`: listings, state and snapshots, one call each.
//! 6. Told to stop: the port closes, control streams end after their running calls, other requests end, and after a
//!    limit the rest is cut.

mod accept;
mod auth;
mod bulk;
mod control;
mod service;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coffer_common::node::NodeClient;
use coffer_common::proto::storage_v1::handshake_server::HandshakeServer;
use coffer_common::proto::storage_v1::storage_node_server::StorageNodeServer;
use coffer_common::rpc::{Acceptor, NodeSecurity, SecurityError, settings};
use coffer_common::shutdown::Shutdown;
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

/// Why serving ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Security cannot be set up as asked.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The listener does not work.
    #[error("node port: {0}")]
    Listen(#[from] std::io::Error),
    /// The transport gave up.
    #[error("node service: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves `node` on the listener until `shutdown` is told and running requests have ended.
///
/// # Errors
/// [`ServeError`] if security cannot be set up, or the transport gives up.
pub async fn serve(
    node: Arc<dyn NodeClient>,
    listener: TcpListener,
    security: NodeSecurity,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    security.check_listen(address)?;
    let acceptor = Acceptor::new(&security).await?;
    let incoming = accept::incoming(listener, acceptor, shutdown.clone());

    let handshake = HandshakeServer::new(auth::Greeter::new(node.clone(), security.clone()))
        .max_decoding_message_size(settings::MAX_HANDSHAKE_BYTES);
    let calls = StorageNodeServer::new(service::Service::new(node, shutdown.clone()))
        .max_decoding_message_size(settings::MAX_MESSAGE_BYTES);
    let server = Server::builder()
        .max_frame_size(settings::MAX_FRAME_BYTES)
        .initial_stream_window_size(settings::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(settings::CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(settings::MAX_STREAMS)
        .http2_keepalive_interval(Some(settings::KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(settings::KEEP_ALIVE_TIMEOUT))
        .add_service(handshake)
        .add_service(InterceptedService::new(calls, auth::check))
        .serve_with_incoming_shutdown(incoming, shutdown.told_owned());
    tracing::info!(%address, security = ?security.method(), "node port open");

    let cut = async {
        shutdown.told().await;
        tokio::time::sleep(settings::DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        ended = server => ended?,
        () = cut => tracing::warn!(%address, "requests still ran at the end of the drain and are cut"),
    }
    Ok(())
}
