//! How etcd is called: options, the limit of a call, and what its errors mean.

use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Error, GetResponse, Identity, TlsOptions, TxnOpResponse};
use tokio::time::timeout;

use super::super::{CoordinatorError, EtcdOptions, Revision};

/// A call that etcd has not answered by then is given up.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// HTTP/2 pings; etcd refuses clients that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);

pub(super) fn connect_options(options: &EtcdOptions) -> ConnectOptions {
    let mut connect = ConnectOptions::new()
        .with_connect_timeout(CALL_TIMEOUT)
        .with_keep_alive(PING_INTERVAL, CALL_TIMEOUT)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true)
        .with_auto_token_refresh(options.user.is_some());
    if let Some((user, password)) = &options.user {
        connect = connect.with_user(user, password);
    }
    if let Some(tls) = &options.tls {
        let mut config = TlsOptions::new();
        if let Some(ca) = &tls.ca_pem {
            config = config.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &tls.identity_pem {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        connect = connect.with_tls(config);
    }
    connect
}

pub(super) fn get_response(answer: TxnOpResponse) -> Option<GetResponse> {
    match answer {
        TxnOpResponse::Get(read) => Some(read),
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
    }
}

pub(super) async fn call<T>(reply: impl Future<Output = Result<T, Error>>) -> Result<T, CoordinatorError> {
    match timeout(CALL_TIMEOUT, reply).await {
        Ok(reply) => reply.map_err(explain),
        Err(_) => Err(CoordinatorError::Timeout(CALL_TIMEOUT)),
    }
}

pub(super) fn explain(error: Error) -> CoordinatorError {
    match &error {
        // Written without the status codes' type, which belongs to the transport's crate.
        Error::GRpcStatus(status) if status.message().contains("requested lease not found") => {
            CoordinatorError::SessionLost
        }
        Error::GRpcStatus(status) => match i32::from(status.code()) {
            // INVALID_ARGUMENT, PERMISSION_DENIED, UNIMPLEMENTED, UNAUTHENTICATED.
            3 | 7 | 12 | 16 => CoordinatorError::Refused(status.message().to_owned()),
            _ => CoordinatorError::Unavailable(status.message().to_owned()),
        },
        Error::LeaseKeepAliveError(reason) if reason.contains("lease not found") => {
            CoordinatorError::SessionLost
        }
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
            CoordinatorError::Refused(error.to_string())
        }
        _ => CoordinatorError::Unavailable(error.to_string()),
    }
}

pub(super) fn unavailable(reason: &str) -> CoordinatorError {
    CoordinatorError::Unavailable(reason.to_owned())
}

pub(super) fn revision(value: i64) -> Revision {
    Revision::try_from(value).unwrap_or(0)
}

pub(super) fn ttl(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
