//! Why the coordinator did not do what was asked.

/// An error of a coordinator call.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CoordinatorError {
    /// An expectation does not hold: read again and decide anew.
    #[error("`{key}` was changed by somebody else")]
    Conflict {
        /// The key, or the first of a transaction's keys.
        key: String,
    },
    /// Another holds the lock and kept it for the whole wait.
    #[error("lock `{name}` is held by another process")]
    Locked {
        /// The lock.
        name: String,
    },
    /// No answer in time: the outcome of a change is unknown.
    #[error("coordinator did not answer within {0:?}")]
    Timeout(std::time::Duration),
    /// No quorum or no connection: the outcome of a change is unknown.
    #[error("coordinator is unavailable: {0}")]
    Unavailable(String),
    /// The session is gone, so that nothing can be leased now.
    #[error("coordinator session is lost; it is being renewed")]
    SessionLost,
    /// The coordinator refuses these credentials or this request: trying again does not help.
    #[error("coordinator refuses: {0}")]
    Refused(String),
}

impl CoordinatorError {
    /// Whether the same call may succeed later without anything else changing.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Locked { .. } | Self::Timeout(_) | Self::Unavailable(_) | Self::SessionLost => true,
            Self::Conflict { .. } | Self::Refused(_) => false,
        }
    }
}
