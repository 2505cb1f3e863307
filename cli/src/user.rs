//! `coffer user`: named users beside root, by a gateway's admin API.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use coffer_common::time::UnixMillis;
use coffer_gateway::admin::UserView;
use coffer_gateway::config::root_credential;
use coffer_gateway::s3::auth::{Signer, ToSign};
use coffer_gateway::users::AddUser;
use http_body_util::{BodyExt, Full};
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::table::table;

const TIMEOUT: Duration = Duration::from_secs(10);
const PATH: &str = "/api/v1/users";
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;
const DENIED: u8 = 5;

/// Make, list and remove users: who else than root signs requests and owns buckets.
///
/// Every request to the gateway is signed with root's keys, from COFFER_ACCESS_KEY and COFFER_SECRET_KEY as the server has
/// them. A change is in force at every gateway within a second.
#[derive(Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum UserCommand {
    /// Make a user; prints its keys. What is not given is chosen.
    Add(AddArgs),
    /// List the users.
    List(ReachArgs),
    /// Remove a user and its keys. What it owns stays.
    Rm(RemoveArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ReachArgs {
    /// The admin address of any gateway.
    #[arg(long, env = "COFFER_ENDPOINT", value_name = "URL", default_value = "http://127.0.0.1:9001")]
    endpoint: String,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    /// The user's name.
    name: String,

    /// Its access key.
    #[arg(long, value_name = "KEY")]
    access_key: Option<String>,

    /// Its secret key; a terminal's history and the list of processes show it if it is given as an argument.
    #[arg(long, env = "COFFER_USER_SECRET_KEY", value_name = "KEY", hide_env_values = true)]
    secret_key: Option<String>,

    #[command(flatten)]
    reach: ReachArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// The user's name.
    name: String,

    #[command(flatten)]
    reach: ReachArgs,
}

pub(crate) async fn run(command: UserCommand) -> anyhow::Result<ExitCode> {
    match command {
        UserCommand::Add(AddArgs { name, access_key, secret_key, reach }) => {
            let body = serde_json::to_vec(&AddUser { name, access_key, secret_key })?;
            show(&reach, ask(&reach, "POST", PATH, body).await?, |user| vec![user])
        }
        UserCommand::List(reach) => show(&reach, ask(&reach, "GET", PATH, Vec::new()).await?, |users| users),
        UserCommand::Rm(RemoveArgs { name, reach }) => {
            let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            let name: String = name
                .chars()
                .map(|c| if known(c) { c.to_string() } else { format!("%{:02X}", u32::from(c)) })
                .collect();
            let answer = ask(&reach, "DELETE", &format!("{PATH}/{name}"), Vec::new()).await?;
            show(&reach, answer, |user| vec![user])
        }
    }
}

/// What a gateway has answered.
struct Answer {
    status: StatusCode,
    body: Bytes,
}

async fn ask(reach: &ReachArgs, method: &str, path: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
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

/// Prints the users of an answer.
fn show<T: serde::de::DeserializeOwned>(
    reach: &ReachArgs,
    answer: Answer,
    users: impl FnOnce(T) -> Vec<UserView>,
) -> anyhow::Result<ExitCode> {
    let Answer { status, body } = answer;
    let text = String::from_utf8_lossy(&body);
    let code = match status {
        StatusCode::OK => {
            if reach.json {
                println!("{text}");
                return Ok(ExitCode::SUCCESS);
            }
            print!("{}", screen(&users(serde_json::from_slice(&body)?)));
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

fn screen(users: &[UserView]) -> String {
    let mut cells = vec![["USER", "ACCESS KEY", "CANONICAL ID"].map(str::to_owned)];
    let row = |user: &UserView| [user.name.clone(), user.access_keys.join(", "), user.id.clone()];
    cells.extend(users.iter().map(row));
    let mut out = table(&cells);
    for secret in users.iter().filter_map(|user| user.secret_key.as_ref()) {
        out.push_str(&format!("\nSECRET KEY (shown only now): {secret}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_shown_only_when_they_were_just_made() {
        let user = |secret: Option<&str>| UserView {
            name: "alice".to_owned(),
            id: "a11ce".to_owned(),
            created_ms: 1,
            access_keys: vec!["KEY".to_owned()],
            secret_key: secret.map(str::to_owned),
        };
        let made = screen(&[user(Some("hush"))]);
        assert!(made.contains("SECRET KEY") && made.contains("hush"), "{made}");
        let listed = screen(&[user(None)]);
        assert!(!listed.contains("SECRET") && listed.contains("a11ce"), "{listed}");
    }
}
