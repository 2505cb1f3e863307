//! Asking a gateway's admin API, signed with root's keys.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use coffer_common::time::UnixMillis;
use coffer_gateway::config::root_credential;
use coffer_gateway::s3::auth::{Signer, ToSign};
use http_body_util::{BodyExt, Full};
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::exit::{DENIED, NOT_FOUND, USAGE};

/// How long a gateway may take for an answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(crate) struct ReachArgs {
    /// The admin address of any gateway.
    #[arg(long, env = "COFFER_ENDPOINT", value_name = "URL", default_value = "http://127.0.0.1:9001")]
    endpoint: String,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What a gateway has answered.
pub(crate) struct Answer {
    status: StatusCode,
    body: Bytes,
}

/// Asks a gateway, as root.
pub(crate) async fn ask(
    reach: &ReachArgs,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> anyhow::Result<Answer> {
    let root = root_credential()?;
    let endpoint = reach.endpoint.trim_end_matches('/');
    let uri: Uri = format!("{endpoint}{path}").parse().context("`--endpoint` is no URL")?;
    let host = uri.authority().context("`--endpoint` names no host")?.to_string();
    let to_sign = ToSign { method, path: uri.path(), query: "", body: Some(&body) };
    let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::try_from(host)?)]);
    Signer::new(root, "us-east-1".to_owned()).sign(&to_sign, &mut headers, UnixMillis::now())?;
    let mut request =
        Request::builder().method(method).uri(&uri).body(Full::new(Bytes::from(body.clone())))?;
    *request.headers_mut() = headers;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let asked = async {
        let answer = client.request(request).await?;
        let status = answer.status();
        Ok::<_, anyhow::Error>(Answer { status, body: answer.into_body().collect().await?.to_bytes() })
    };
    let answer = tokio::time::timeout(TIMEOUT, asked).await;
    answer.context("the gateway does not answer")?.with_context(|| {
        format!("no gateway answers at {endpoint}; is it running, and is `--endpoint` its admin address?")
    })
}

impl Answer {
    /// Prints what was asked for, as JSON or as `screen` shows it, or why it was refused.
    pub(crate) fn show<T: serde::de::DeserializeOwned>(
        self,
        reach: &ReachArgs,
        screen: impl FnOnce(T) -> String,
    ) -> anyhow::Result<ExitCode> {
        let Self { status, body } = self;
        let text = String::from_utf8_lossy(&body);
        let code = match status {
            StatusCode::OK => {
                if reach.json {
                    println!("{text}");
                } else {
                    print!("{}", screen(serde_json::from_slice(&body)?));
                }
                return Ok(ExitCode::SUCCESS);
            }
            StatusCode::BAD_REQUEST | StatusCode::CONFLICT => USAGE,
            StatusCode::NOT_FOUND => NOT_FOUND,
            StatusCode::FORBIDDEN => DENIED,
            _ => bail!("{status}: {}", text.trim()),
        };
        eprintln!("coffer: {}", text.trim());
        Ok(ExitCode::from(code))
    }
}
