//! `coffer mirror`: copies objects from one S3 store to another, such as from MinIO to Coffer, and again what has changed since.
//!
//! Owns: buckets, order, counts and what is told. What is copied is [`compare`]'s to say, how, [`copy`]'s.
//!
//! 1. Both sides are listed in key order, a page at a time, and merged: memory does not grow with the buckets.
//! 2. What differs is copied, several objects at a time; bytes stream through.
//!
//! Never deletes, never keeps a state of its own: what has been done is what the destination has. **Consistency.** An object counts as copied only
//! when its bytes have been verified and the source still has it (see [`copy`]). **Retries.** A few for each request, page and object; what
//! fails is told by its key, and the exit code says so. **Crash consistency, cancellation.** An object is there as a whole or not: run it again.

mod body;
mod client;
mod compare;
mod copy;
mod list;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use coffer_common::shutdown::Shutdown;
use futures_util::stream::{self, Stream, StreamExt};
use hyper::StatusCode;

use self::client::{Ask, Location, Store, http_client, retried, status_of};
use self::compare::{Verdict, verdict};
use self::copy::{Copier, Outcome};
use self::list::{Listed, Listing, buckets};
use crate::exit::FAILED;
use crate::units::bytes;

/// How often a long run says how far it is.
const NEWS_INTERVAL: Duration = Duration::from_secs(30);

/// Copy objects from one S3 store to another: all buckets, one, or what begins with a prefix. What is there already is left alone.
///
///   export COFFER_SOURCE_ACCESS_KEY=… COFFER_SOURCE_SECRET_KEY=… COFFER_ACCESS_KEY=… COFFER_SECRET_KEY=…
///   coffer mirror http://minio:9000 http://coffer:9000
///   coffer mirror http://minio:9000/photos/2025/ https://coffer:9000/archive/photos/2025/ --ca authority.pem
///
/// Copies bytes, content headers, user metadata and tags of current versions, and makes buckets that are missing when it copies all.
/// Not copied: older versions, locks, access lists, storage classes, users, policies and settings of buckets. Nothing is deleted, and
/// what was written to the destination later than to the source is left alone, and told.
///
/// It may be stopped at any time, and goes on where it was when it is run again. Run it while clients still write to the source, and
/// once more when they have stopped. Exit code 0: the destination has everything that is not told to be newer there.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct MirrorArgs {
    /// From where: `http://HOST:PORT`, `…/BUCKET` or `…/BUCKET/PREFIX`.
    #[arg(value_name = "SOURCE", value_parser = Location::parse)]
    source: Location,

    /// To where; what follows SOURCE's prefix in a key follows this one's.
    #[arg(value_name = "DESTINATION", value_parser = Location::parse)]
    destination: Location,

    /// The source's access key.
    #[arg(long, env = "COFFER_SOURCE_ACCESS_KEY", value_name = "KEY")]
    source_access_key: String,

    /// The source's secret key; better in the environment than here.
    #[arg(long, env = "COFFER_SOURCE_SECRET_KEY", value_name = "KEY", hide_env_values = true)]
    source_secret_key: String,

    /// The region that the source expects.
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    source_region: String,

    /// The destination's access key.
    #[arg(long, env = "COFFER_ACCESS_KEY", value_name = "KEY")]
    access_key: String,

    /// The destination's secret key.
    #[arg(long, env = "COFFER_SECRET_KEY", value_name = "KEY", hide_env_values = true)]
    secret_key: String,

    /// The region that the destination expects.
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    region: String,

    /// Authorities of `https` locations, PEM, instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Objects that are copied at the same time.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    transfers: u16,

    /// Only tell what would be copied.
    #[arg(long)]
    dry_run: bool,

    /// Also copy over what is newer at the destination, if it differs.
    #[arg(long)]
    overwrite: bool,

    /// Do not take it for damage when an ETag is not the MD5 of its bytes (MinIO with `--no-compat`). Where a store says that it encrypts,
    /// this is so anyway.
    #[arg(long)]
    ignore_etag: bool,
}

/// What has come of it so far.
#[derive(Debug, Default)]
struct Counts {
    copied: AtomicU64,
    copied_bytes: AtomicU64,
    same: AtomicU64,
    newer_there: AtomicU64,
    gone: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    fn one(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn text(&self, copied: &str) -> String {
        let [objects, size, same, newer, gone, failed] =
            [&self.copied, &self.copied_bytes, &self.same, &self.newer_there, &self.gone, &self.failed]
                .map(|counter| counter.load(Ordering::Relaxed));
        let gone = if gone > 0 { format!(", {gone} deleted meanwhile") } else { String::new() };
        format!(
            "{objects} {copied} ({}), {same} already there, {newer} newer at the destination{gone}, {failed} failed",
            bytes(size)
        )
    }
}

/// A run.
struct Mirror<'a> {
    args: &'a MirrorArgs,
    counts: Counts,
    stop: Shutdown,
}

pub(crate) async fn run(args: MirrorArgs) -> anyhow::Result<ExitCode> {
    if args.source.bucket.is_empty() != args.destination.bucket.is_empty() {
        anyhow::bail!("name a bucket on both sides, or on neither for all buckets");
    }
    let client = http_client(args.ca.as_deref())?;
    let source = Store::signer(&args.source_access_key, &args.source_secret_key, &args.source_region);
    let source = Store::new(args.source.clone(), source, client.clone());
    let destination = Store::signer(&args.access_key, &args.secret_key, &args.region);
    let destination = Store::new(args.destination.clone(), destination, client);
    let mirror = Mirror { args: &args, counts: Counts::default(), stop: Shutdown::new() };
    mirror.stop.listen_for_signals()?;
    let copied = if args.dry_run { "would be copied" } else { "copied" };
    let news = async {
        loop {
            tokio::time::sleep(NEWS_INTERVAL).await;
            eprintln!("so far: {}", mirror.counts.text(copied));
        }
    };
    tokio::select! {
        done = mirror.all(&source, &destination) => done?,
        () = news => {}
    }
    let stopped = mirror.stop.is_told();
    let begin = if stopped { "stopped before the end: " } else { "" };
    println!("{begin}{}", mirror.counts.text(copied));
    let good = !stopped && mirror.counts.failed.load(Ordering::Relaxed) == 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

impl Mirror<'_> {
    async fn all(&self, source: &Store, destination: &Store) -> anyhow::Result<()> {
        if !source.location.bucket.is_empty() {
            self.bucket(source, destination, Listing::of(destination)).await;
            return Ok(());
        }
        let there = buckets(destination).await?;
        for name in buckets(source).await? {
            if self.stop.is_told() {
                break;
            }
            let (source, destination) = (source.bucket(&name), destination.bucket(&name));
            if there.contains(&name) {
                self.bucket(&source, &destination, Listing::of(&destination)).await;
            } else if self.args.dry_run {
                println!("{name}/ (the bucket would be made)");
                self.bucket(&source, &destination, Listing::empty(&destination)).await;
            } else if let Err(error) = make(&destination).await {
                self.failed(&format!("{name}/"), &error.context("the bucket cannot be made"));
            } else {
                self.bucket(&source, &destination, Listing::of(&destination)).await;
            }
        }
        Ok(())
    }

    /// Copies one bucket, or what begins with the source's prefix.
    async fn bucket(&self, source: &Store, destination: &Store, there: Listing<'_>) {
        let MirrorArgs { overwrite, ignore_etag, .. } = *self.args;
        let copier = Copier { source, destination, overwrite, ignore_etag, stop: &self.stop };
        let wanted = pairs(&copier, there).take_until(self.stop.told());
        let copied = wanted.for_each_concurrent(usize::from(self.args.transfers), |pair| async {
            match pair {
                Ok((listed, there)) => self.object(&copier, listed, there).await,
                Err(error) => {
                    let name = format!("{}/", source.location.bucket);
                    self.failed(
                        &name,
                        &error.context("a listing ended early, so that not all objects were seen"),
                    );
                }
            }
        });
        copied.await;
    }

    async fn object(&self, copier: &Copier<'_>, listed: Listed, there: Option<Listed>) {
        let name = format!("{}/{}", copier.source.location.bucket, listed.key);
        let outcome = if self.args.dry_run {
            Ok(match verdict(&listed, there.as_ref(), self.args.overwrite) {
                Verdict::Copy(reason) => {
                    println!("{name} ({reason}, {})", bytes(listed.size));
                    Outcome::Copied(listed.size)
                }
                Verdict::Same => Outcome::Same,
                Verdict::NewerThere => Outcome::NewerThere,
            })
        } else {
            copier.object(listed, there).await
        };
        let counts = &self.counts;
        match outcome {
            Ok(Outcome::Copied(size)) => {
                Counts::one(&counts.copied);
                counts.copied_bytes.fetch_add(size, Ordering::Relaxed);
            }
            Ok(Outcome::Same) => Counts::one(&counts.same),
            Ok(Outcome::NewerThere) => {
                Counts::one(&counts.newer_there);
                eprintln!("coffer: `{name}`: another object at the destination is newer: left alone");
            }
            Ok(Outcome::Gone) => Counts::one(&counts.gone),
            Err(_) if self.stop.is_told() => {}
            Err(error) => self.failed(&name, &error),
        }
    }

    fn failed(&self, name: &str, error: &anyhow::Error) {
        Counts::one(&self.counts.failed);
        eprintln!("coffer: `{name}`: {error:#}");
    }
}

/// Makes a bucket; it may be there by now.
async fn make(store: &Store) -> anyhow::Result<()> {
    match retried(async || store.ask(Ask::new("PUT", "")).await).await {
        Err(error) if status_of(&error) != Some(StatusCode::CONFLICT) => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The source's objects, each with what the destination has under that key. A listing that fails ends it with an error.
fn pairs<'a>(
    copier: &'a Copier<'a>,
    there: Listing<'a>,
) -> impl Stream<Item = anyhow::Result<(Listed, Option<Listed>)>> + 'a {
    let state = (Listing::of(copier.source), there, false);
    stream::unfold(state, move |(mut source, mut there, over)| async move {
        if over {
            return None;
        }
        let pair = async {
            let Some(listed) = source.next().await? else { return Ok(None) };
            let found = there.find(&copier.key(&listed)).await?;
            Ok(Some((listed, found)))
        };
        let pair: anyhow::Result<_> = pair.await;
        let over = pair.is_err();
        pair.transpose().map(|pair| (pair, (source, there, over)))
    })
}
