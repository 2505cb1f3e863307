//! One HTTP/2 connection to a node, greeted and proved. It never reconnects by itself: what was proved holds for this
//! connection only, so a broken one is replaced by a new one (see `link`).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::HeaderValue;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tonic::body::Body;

use super::handshake::{self, Hello, SESSION_KEY};
use super::io::Io;
use super::remote::Caller;
use super::security::NodeSecurity;
use super::status::status_to_error;
use super::{settings, tls};
use crate::node::NodeError;
use crate::proto::storage_v1 as wire;
use wire::handshake_client::HandshakeClient;

/// A connection; clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    requests: SendRequest<Body>,
    origin: http::Uri,
    session: Option<HeaderValue>,
}

impl Connection {
    /// Resolves the name, connects, greets and proves.
    pub(super) async fn open(
        address: &str,
        security: &NodeSecurity,
        caller: &Caller,
    ) -> Result<Self, NodeError> {
        let unreachable = |reason: String| NodeError::Unreachable { node: address.to_owned(), reason };
        let io = tokio::time::timeout(settings::CONNECT_TIMEOUT, connect(address, security))
            .await
            .map_err(|_| unreachable("no connection in time".to_owned()))?
            .map_err(|error| unreachable(error.to_string()))?;
        let origin =
            format!("http://{address}").parse().map_err(|_| NodeError::Invalid(bad_address(address)))?;
        let greeted = async {
            let requests = http2(io).await.map_err(|error| unreachable(error.to_string()))?;
            let mut connection = Self { requests, origin, session: None };
            connection.session = connection.greet(address, security, caller).await?;
            Ok(connection)
        };
        tokio::time::timeout(settings::HANDSHAKE_TIMEOUT, greeted)
            .await
            .map_err(|_| unreachable("no greeting in time".to_owned()))?
    }

    /// Whether it broke.
    pub(super) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Where requests go, for clients that need to know.
    pub(super) fn origin(&self) -> http::Uri {
        self.origin.clone()
    }

    async fn greet(
        &self,
        address: &str,
        security: &NodeSecurity,
        caller: &Caller,
    ) -> Result<Option<HeaderValue>, NodeError> {
        let mut client = HandshakeClient::with_origin(self.clone(), self.origin())
            .max_decoding_message_size(settings::MAX_HANDSHAKE_BYTES);
        let ours = Hello::new(&caller.name, caller.cluster, security);
        let reply = client
            .hello(wire::HelloRequest::from(ours.clone()))
            .await
            .map_err(|status| status_to_error(address, &status))?;
        let theirs = Hello::try_from(reply.into_inner())?;
        handshake::check_compatible(&ours, &theirs).map_err(NodeError::Denied)?;
        let Some(secret) = security.secret() else { return Ok(None) };

        let proof = handshake::caller_proof(secret, &ours, &theirs).to_vec().into();
        let reply = client
            .prove(wire::ProveRequest { proof })
            .await
            .map_err(|status| status_to_error(address, &status))?
            .into_inner();
        if !handshake::matches(&handshake::node_proof(secret, &ours, &theirs), &reply.proof) {
            return Err(NodeError::Denied(handshake::wrong_secret(&ours, &theirs)));
        }
        let session = hex::encode(handshake::session(secret, &ours, &theirs));
        let mut value = HeaderValue::try_from(session).map_err(|e| NodeError::Invalid(e.to_string()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl tower::Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(session) = &self.session {
            request.headers_mut().insert(SESSION_KEY, session.clone());
        }
        Box::pin(self.requests.send_request(request))
    }
}

async fn connect(
    address: &str,
    security: &NodeSecurity,
) -> Result<Io, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    match security {
        NodeSecurity::ClusterSecret(_) | NodeSecurity::Insecure => Ok(Io::Plain(stream)),
        NodeSecurity::Mtls { dir } => {
            let name = ServerName::try_from(host(address).to_owned())?;
            let stream = tls::connector(dir).await?.connect(name, stream).await?;
            Ok(Io::Tls(Box::new(stream.into())))
        }
    }
}

async fn http2(io: Io) -> Result<SendRequest<Body>, hyper::Error> {
    let (requests, driver) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(settings::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(settings::CONNECTION_WINDOW_BYTES)
        .max_frame_size(settings::MAX_FRAME_BYTES)
        .max_send_buf_size(settings::SEND_BUFFER_BYTES)
        .keep_alive_interval(settings::KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(settings::KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(io))
        .await?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "node connection ended");
        }
    });
    Ok(requests)
}

/// `host` of `host:port` or `[v6]:port`.
pub(super) fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn bad_address(address: &str) -> String {
    format!("`{address}` is not a node address of the form host:port")
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn the_host_of_an_address() {
        assert_eq!(host("node-1.coffer:9100"), "node-1.coffer");
        assert_eq!(host("127.0.0.1:9100"), "127.0.0.1");
        assert_eq!(host("[::1]:9100"), "::1");
    }
}
