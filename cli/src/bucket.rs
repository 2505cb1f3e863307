//! `coffer bucket quota`: how much buckets may hold, by a gateway's admin API.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use coffer_common::types::BucketName;
use coffer_gateway::admin::{QuotaView, SetQuota};

use crate::admin::{ReachArgs, ask};
use crate::table::table;
use crate::units::{bytes, parse_bytes};

/// What S3 has no request for.
#[derive(Subcommand)]
pub(crate) enum BucketCommand {
    /// Limit how much a bucket may hold.
    #[command(subcommand)]
    Quota(QuotaCommand),
}

/// Limit how much a bucket may hold: objects, older versions and parts of unfinished uploads, without parity.
///
/// A write that would go over is refused. Every request to the gateway is signed with root's keys, from COFFER_ACCESS_KEY
/// and COFFER_SECRET_KEY as the server has them. A change is in force at every gateway within a second.
#[derive(Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum QuotaCommand {
    /// Set a bucket's quota. One that is below what the bucket holds refuses new writes until enough was deleted.
    Set(SetArgs),
    /// Show a bucket's quota, and how much of it is in use.
    Show(NameArgs),
    /// Take a bucket's quota away.
    Clear(NameArgs),
}

#[derive(Args, Debug)]
pub(crate) struct NameArgs {
    /// The bucket.
    #[arg(value_parser = bucket_name)]
    name: BucketName,

    #[command(flatten)]
    reach: ReachArgs,
}

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// The bucket.
    #[arg(value_parser = bucket_name)]
    name: BucketName,

    /// How much it may hold, such as `10GiB`.
    #[arg(value_parser = parse_bytes)]
    size: u64,

    #[command(flatten)]
    reach: ReachArgs,
}

fn bucket_name(text: &str) -> Result<BucketName, String> {
    BucketName::new(text).map_err(|error| error.to_string())
}

pub(crate) async fn run(BucketCommand::Quota(command): BucketCommand) -> anyhow::Result<ExitCode> {
    let (method, name, body, reach) = match command {
        QuotaCommand::Set(SetArgs { name, size, reach }) => {
            ("PUT", name, serde_json::to_vec(&SetQuota { quota_bytes: size })?, reach)
        }
        QuotaCommand::Show(NameArgs { name, reach }) => ("GET", name, Vec::new(), reach),
        QuotaCommand::Clear(NameArgs { name, reach }) => ("DELETE", name, Vec::new(), reach),
    };
    ask(&reach, method, &format!("/api/v1/buckets/{name}/quota"), body).await?.show(&reach, screen)
}

fn screen(view: QuotaView) -> String {
    let QuotaView { bucket, quota_bytes, usage } = view;
    let Some(quota) = quota_bytes else { return format!("bucket {bucket} has no quota\n") };
    let row = |name: &str, text: String| [name.to_owned(), text];
    let mut rows = vec![row("BUCKET", bucket), row("QUOTA", bytes(quota))];
    match usage {
        None => rows.push(row("USED", "not known yet: it is being counted; writes wait for it".to_owned())),
        Some(usage) => {
            let seconds = usage.age_ms / 1_000;
            let used = format!(
                "{} ({} bytes), as counted {seconds} s ago",
                bytes(usage.used_bytes),
                usage.used_bytes
            );
            rows.push(row("USED", used));
            if usage.pending_bytes > 0 {
                let pending = format!(
                    "up to {}: written since, being written, or set aside for writes",
                    bytes(usage.pending_bytes)
                );
                rows.push(row("PENDING", pending));
            }
            if usage.used_bytes > quota {
                rows.push(row(
                    "",
                    "The bucket holds more than its quota: new writes are refused.".to_owned(),
                ));
            }
        }
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use coffer_gateway::admin::UsageView;

    use super::*;

    #[test]
    fn the_age_of_a_count_is_told() {
        let usage = UsageView { used_bytes: 1536, pending_bytes: 1024, surveyed_ms: 1, age_ms: 7_900 };
        let mut view = QuotaView { bucket: "b".to_owned(), quota_bytes: Some(2048), usage: Some(usage) };
        let shown = screen(view.clone());
        assert!(shown.contains("1.5 KiB (1536 bytes), as counted 7 s ago"), "{shown}");
        assert!(shown.contains("up to 1.0 KiB") && !shown.contains("refused"), "{shown}");
        view.quota_bytes = Some(100);
        assert!(screen(view.clone()).contains("refused"));
        (view.quota_bytes, view.usage) = (None, None);
        assert_eq!(screen(view), "bucket b has no quota\n");
    }
}
