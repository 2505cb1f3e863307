//! `coffer user`: named users beside root, by a gateway's admin API.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use coffer_gateway::admin::UserView;
use coffer_gateway::users::AddUser;

use crate::admin::{Answer, ReachArgs, ask};
use crate::table::table;

const PATH: &str = "/api/v1/users";

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

/// Prints the users of an answer.
fn show<T: serde::de::DeserializeOwned>(
    reach: &ReachArgs,
    answer: Answer,
    users: impl FnOnce(T) -> Vec<UserView>,
) -> anyhow::Result<ExitCode> {
    answer.show(reach, |answer| screen(&users(answer)))
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
