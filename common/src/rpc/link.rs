//! Keeps one connection to a node: made when first needed, shared, replaced when broken.
//!
//! One attempt runs at a time, in a task of its own: a caller that gives up does not end it. The first attempt is waited
//! for by everybody. After a failure everybody else fails at once with the same reason, while the backoff lasts and while
//! the next attempt runs, so that a dead node costs its callers nothing.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

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
    shared: Arc<Shared>,
}

struct Shared {
    target: Arc<Target>,
    state: Mutex<State>,
    attempt: Arc<tokio::sync::Mutex<()>>,
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
        let shared = Shared { target, state: Mutex::default(), attempt: Arc::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The connection, made if there is none.
    pub(super) async fn get(&self) -> Result<Connection, NodeError> {
        if let Some(known) = self.shared.known() {
            return known;
        }
        let attempt = match self.shared.attempt.clone().try_lock_owned() {
            Ok(attempt) => attempt,
            Err(_) => match self.shared.last_error() {
                Some(error) => return Err(error),
                None => self.shared.attempt.clone().lock_owned().await,
            },
        };
        if let Some(known) = self.shared.known() {
            return known;
        }
        let shared = self.shared.clone();
        let connecting = tokio::spawn(async move {
            let connected = shared.connect().await;
            drop(attempt);
            connected
        });
        connecting.await.unwrap_or_else(|error| {
            Err(NodeError::Unreachable { node: self.address().to_owned(), reason: error.to_string() })
        })
    }

    /// The address, for errors.
    pub(super) fn address(&self) -> &str {
        &self.shared.target.address
    }
}

impl Shared {
    /// A connection that lives, or a failure that is too fresh to try again.
    fn known(&self) -> Option<Result<Connection, NodeError>> {
        let mut state = self.state.lock();
        if state.connection.as_ref().is_some_and(Connection::is_closed) {
            state.connection = None;
        }
        if let Some(connection) = &state.connection {
            return Some(Ok(connection.clone()));
        }
        let fresh = state.failure.as_ref().filter(|failure| Instant::now() < failure.retry_at);
        fresh.map(|failure| Err(failure.error.clone()))
    }

    fn last_error(&self) -> Option<NodeError> {
        self.state.lock().failure.as_ref().map(|failure| failure.error.clone())
    }

    async fn connect(&self) -> Result<Connection, NodeError> {
        let Target { address, security, caller } = &*self.target;
        let connected = Connection::open(address, security, caller).await;
        let mut state = self.state.lock();
        match &connected {
            Ok(connection) => {
                if state.failure.take().is_some() {
                    tracing::info!(node = %address, "node answers again");
                }
                state.connection = Some(connection.clone());
            }
            Err(error) => state.failed(address, error.clone()),
        }
        connected
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
