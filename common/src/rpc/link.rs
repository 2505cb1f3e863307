//! Keeps one connection to a node: made when first needed, shared, replaced when broken.
//!
//! One caller connects, the others wait for it. After a failure everybody fails at once with the same reason until the
//! backoff is over, so that a dead node costs its callers nothing.

use std::sync::Arc;
use std::time::Instant;

use super::backoff;
use super::connection::Connection;
use super::remote::Caller;
use super::security::NodeSecurity;
use crate::node::NodeError;

/// Whom to reach, and as whom.
#[derive(Debug)]
pub(super) struct Target {
    /// `host:port`.
    pub(super) address: String,
    pub(super) security: NodeSecurity,
    pub(super) caller: Caller,
}

/// One connection, kept.
pub(super) struct Link {
    target: Arc<Target>,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    failure: Option<Failure>,
}

struct Failure {
    in_a_row: u32,
    retry_at: Instant,
    error: NodeError,
}

impl Link {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target, state: tokio::sync::Mutex::default() }
    }

    /// The connection, made if there is none.
    pub(super) async fn get(&self) -> Result<Connection, NodeError> {
        let mut state = self.state.lock().await;
        if let Some(connection) = state.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        state.connection = None;
        if let Some(failure) = state.failure.as_ref().filter(|failure| Instant::now() < failure.retry_at) {
            return Err(failure.error.clone());
        }
        let Target { address, security, caller } = &*self.target;
        match Connection::open(address, security, caller).await {
            Ok(connection) => {
                if state.failure.take().is_some() {
                    tracing::info!(node = %address, "node answers again");
                }
                state.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                state.failed(address, error.clone());
                Err(error)
            }
        }
    }

    /// The address, for errors.
    pub(super) fn address(&self) -> &str {
        &self.target.address
    }
}

impl State {
    fn failed(&mut self, address: &str, error: NodeError) {
        let in_a_row = self.failure.as_ref().map_or(0, |failure| failure.in_a_row).saturating_add(1);
        if in_a_row == 1 {
            tracing::warn!(node = %address, %error, "no connection to node");
        }
        let retry_at = Instant::now() + backoff::pause(in_a_row);
        self.failure = Some(Failure { in_a_row, retry_at, error });
    }
}
