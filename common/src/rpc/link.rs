//! Keeps one connection to a node: made when first needed, shared, replaced when broken.
//!
//! One attempt runs at a time, in a task of its own: a caller that gives up does not end it. The first attempt is waited
//! for by everybody. After a failure everybody else fails at once with the same reason, while the backoff lasts and while
//! the next attempt runs, so that a dead node costs its callers nothing. Once any connection to the node is made, what
//! others failed with before tells nothing any more.

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
    /// When a connection was made last.
    reached: Mutex<Option<Instant>>,
}

impl Target {
    /// A node at `host:port`.
    pub(super) fn new(address: String, security: NodeSecurity, caller: Caller) -> Self {
        Self { address, security, caller, reached: Mutex::default() }
    }
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
    at: Instant,
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
        let fresh = self.standing(&state).filter(|failure| Instant::now() < failure.retry_at);
        fresh.map(|failure| Err(failure.error.clone()))
    }

    fn last_error(&self) -> Option<NodeError> {
        self.standing(&self.state.lock()).map(|failure| failure.error.clone())
    }

    /// The last failure, unless another link has reached the node since.
    fn standing<'a>(&self, state: &'a State) -> Option<&'a Failure> {
        let reached = *self.target.reached.lock();
        state.failure.as_ref().filter(|failure| reached.is_none_or(|reached| failure.at > reached))
    }

    async fn connect(&self) -> Result<Connection, NodeError> {
        let Target { address, security, caller, reached } = &*self.target;
        let connected = Connection::open(address, security, caller).await;
        let mut state = self.state.lock();
        match &connected {
            Ok(connection) => {
                *reached.lock() = Some(Instant::now());
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
        let at = Instant::now();
        self.failure = Some(Failure { in_a_row, at, retry_at: at + backoff::pause(in_a_row), error });
    }
}
