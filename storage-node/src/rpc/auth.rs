//! Greets callers, takes their proof, and refuses every other call of a connection that has proved nothing.
//!
//! What was proved is kept with the connection and dies with it. A proof is taken once per hello: a second one, right
//! or wrong, needs a new hello with new random bytes.

use std::sync::Arc;

use coffer_common::node::{NodeClient, NodeError};
use coffer_common::proto::storage_v1 as wire;
use coffer_common::rpc::handshake::{self, Hello, Proof, SESSION_KEY};
use coffer_common::rpc::{NodeSecurity, error_to_status};
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use super::accept::Peer;

/// What one connection has proved so far.
#[derive(Default)]
pub(super) struct Proved(Mutex<State>);

#[derive(Default)]
enum State {
    /// Nothing.
    #[default]
    Stranger,
    /// Both have said hello; the proof is awaited.
    Greeted(Box<(Hello, Hello)>),
    /// Known. With a secret, calls carry the session.
    Known(Option<Proof>),
}

/// The handshake service.
pub(super) struct Greeter {
    node: Arc<dyn NodeClient>,
    security: NodeSecurity,
}

impl Greeter {
    pub(super) fn new(node: Arc<dyn NodeClient>, security: NodeSecurity) -> Self {
        Self { node, security }
    }
}

#[tonic::async_trait]
impl wire::handshake_server::Handshake for Greeter {
    async fn hello(
        &self,
        request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloResponse>, Status> {
        let peer = peer(request.extensions())?;
        *peer.proved.0.lock() = State::Stranger;
        let caller =
            Hello::try_from(request.into_inner()).map_err(|e| error_to_status(NodeError::from(e)))?;
        let info = self.node.info().await.map_err(error_to_status)?;
        let node = Hello::new(&info.id.0, info.cluster, &self.security);
        if let Err(refusal) = handshake::check_compatible(&caller, &node) {
            return Err(deny(&peer, refusal));
        }
        let reply = wire::HelloResponse::from(node.clone());
        *peer.proved.0.lock() = match self.security {
            NodeSecurity::ClusterSecret(_) => State::Greeted(Box::new((caller, node))),
            NodeSecurity::Mtls { .. } | NodeSecurity::Insecure => State::Known(None),
        };
        Ok(Response::new(reply))
    }

    async fn prove(
        &self,
        request: Request<wire::ProveRequest>,
    ) -> Result<Response<wire::ProveResponse>, Status> {
        let peer = peer(request.extensions())?;
        let hellos = std::mem::take(&mut *peer.proved.0.lock());
        let (State::Greeted(hellos), Some(secret)) = (hellos, self.security.secret()) else {
            return Err(deny(&peer, "a proof needs a hello on the same connection before it".to_owned()));
        };
        let (caller, node) = &*hellos;
        let expected = handshake::caller_proof(secret, caller, node);
        if !handshake::matches(&expected, &request.into_inner().proof) {
            return Err(deny(&peer, handshake::wrong_secret(caller, node)));
        }
        *peer.proved.0.lock() = State::Known(Some(handshake::session(secret, caller, node)));
        tracing::debug!(peer = %peer.address, caller = %caller.name, "caller known");
        let proof = handshake::node_proof(secret, caller, node).to_vec().into();
        Ok(Response::new(wire::ProveResponse { proof }))
    }
}

/// Lets a call pass if its connection is known and, with a secret, it carries the connection's session.
pub(super) fn check(request: Request<()>) -> Result<Request<()>, Status> {
    let peer = peer(request.extensions())?;
    let passes = match &*peer.proved.0.lock() {
        State::Stranger | State::Greeted(_) => false,
        State::Known(None) => true,
        State::Known(Some(session)) => {
            let shown = request.metadata().get(SESSION_KEY).map(|value| hex::decode(value.as_bytes()));
            matches!(shown, Some(Ok(shown)) if handshake::matches(session, &shown))
        }
    };
    if passes { Ok(request) } else { Err(deny(&peer, "this connection has proved nothing".to_owned())) }
}

fn peer(extensions: &tonic::Extensions) -> Result<Peer, Status> {
    extensions.get::<Peer>().cloned().ok_or_else(|| Status::internal("the connection is not known"))
}

fn deny(peer: &Peer, reason: String) -> Status {
    tracing::warn!(peer = %peer.address, %reason, "caller refused");
    error_to_status(NodeError::Denied(reason))
}
