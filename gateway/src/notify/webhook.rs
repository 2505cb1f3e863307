//! Posts to a target.
//!
//! A target at an `https` address must show a certificate for the name in it, of an authority that is trusted: else it gets
//! nothing, and is away. That a target has gone away, and why, is logged once, and that it is back; what is in between is not.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};

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
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// The last one did not answer.
    silent: AtomicBool,
}

impl Post {
    /// Connects when there is something to post.
    pub(super) fn new(webhook: Webhook) -> Self {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls(&webhook));
        let connector = connector.https_or_http().enable_http1().build();
        // A connection for each message: one that was kept while the target went away would cost a try, and the pause after it.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { webhook, client, silent: AtomicBool::new(false) }
    }

    /// Posts a message.
    pub(super) async fn post(&self, message: Bytes) -> Answer {
        let Webhook { name, endpoint, authorization, .. } = &self.webhook;
        let mut request = Request::new(Full::new(message));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = endpoint.clone();
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, header::HeaderValue::from_static("Coffer"));
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let silence = match tokio::time::timeout(PATIENCE, self.client.request(request)).await {
            Ok(Ok(answer)) => {
                if self.silent.swap(false, Ordering::Relaxed) {
                    tracing::info!(webhook = name, %endpoint, "a target of events answers again");
                }
                return judge(answer.status());
            }
            Ok(Err(error)) => reasons(&error),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        if self.silent.swap(true, Ordering::Relaxed) {
            tracing::debug!(webhook = name, %endpoint, "a target of events does not answer: {silence}");
        } else {
            tracing::warn!(webhook = name, %endpoint, "a target of events does not answer, its events wait: {silence}");
        }
        Answer::Away
    }
}

/// How a target's certificate is judged.
fn tls(webhook: &Webhook) -> ClientConfig {
    let builder = || {
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks the versions of TLS that are safe")
    };
    let own = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(webhook.authorities.iter().cloned());
        builder().with_root_certificates(roots)
    };
    let of_the_system = webhook.endpoint.scheme_str() == Some("https") && webhook.authorities.is_empty();
    let config = match of_the_system.then(|| builder().with_native_roots()) {
        None => own(),
        Some(Ok(config)) => config,
        Some(Err(error)) => {
            tracing::warn!(webhook = webhook.name, %error, "this system knows no authorities: no certificate is trusted");
            own()
        }
    };
    config.with_no_client_auth()
}

/// An error with what caused it.
fn reasons(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
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
