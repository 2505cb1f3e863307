//! Posts to a target.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::targets::Webhook;

/// How long a target may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a target said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has it.
    Taken,
    /// It does not want this one.
    Refused(StatusCode),
    /// It takes nothing now.
    Away,
}

/// The way to a target.
pub(super) struct Post {
    webhook: Webhook,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Post {
    /// Connects when there is something to post.
    pub(super) fn new(webhook: Webhook) -> Self {
        // A connection for each message: one that was kept while the target went away would cost a try, and the pause after it.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        Self { webhook, client }
    }

    /// Posts a message.
    pub(super) async fn post(&self, message: Bytes) -> Answer {
        let Webhook { name, endpoint, authorization } = &self.webhook;
        let mut request = Request::new(Full::new(message));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = endpoint.clone();
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, header::HeaderValue::from_static("Coffer"));
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        match tokio::time::timeout(PATIENCE, self.client.request(request)).await {
            Ok(Ok(answer)) => judge(answer.status()),
            Ok(Err(error)) => {
                tracing::debug!(webhook = name, %error, "a target of events does not answer");
                Answer::Away
            }
            Err(_) => {
                tracing::debug!(webhook = name, "a target of events does not answer in time");
                Answer::Away
            }
        }
    }
}

fn judge(status: StatusCode) -> Answer {
    if status.is_success() {
        Answer::Taken
    } else if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        Answer::Away
    } else {
        Answer::Refused(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_takes_a_message() {
        for (status, expected) in [
            (200, Answer::Taken),
            (204, Answer::Taken),
            (301, Answer::Refused(StatusCode::MOVED_PERMANENTLY)),
            (400, Answer::Refused(StatusCode::BAD_REQUEST)),
            (401, Answer::Refused(StatusCode::UNAUTHORIZED)),
            (429, Answer::Away),
            (503, Answer::Away),
        ] {
            assert_eq!(judge(StatusCode::from_u16(status).unwrap()), expected);
        }
    }
}
