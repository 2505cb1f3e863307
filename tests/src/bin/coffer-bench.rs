//! `coffer-bench`: how fast does an S3 endpoint answer?

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use coffer_tests::bench::client::{Content, Target, authority_of};
use coffer_tests::bench::plan::{Mix, Op, Size};
use coffer_tests::bench::report::Report;
use coffer_tests::bench::run::{Run, run};
use coffer_tests::bench::sign::Signer;

/// Puts load on any S3 endpoint and prints throughput, latency percentiles and errors.
///
/// Exit codes: 0 all requests succeeded, 1 some failed or the run could not start, 2 usage.
#[derive(Parser)]
#[command(name = "coffer-bench", version)]
struct Arguments {
    /// What to do.
    work: Work,
    /// Where: http://host:port. Several, by comma or repetition, are used in turn.
    #[arg(long = "endpoint", short = 'e', env = "COFFER_ENDPOINT", value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// Access key.
    #[arg(long, env = "COFFER_ACCESS_KEY")]
    access_key: String,
    /// Secret key.
    #[arg(long, env = "COFFER_SECRET_KEY", hide_env_values = true)]
    secret_key: String,
    /// Region to sign for.
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// Bucket; made if it is not there.
    #[arg(long, default_value = "coffer-bench")]
    bucket: String,
    /// What all keys begin with; by default unique for each run.
    #[arg(long)]
    prefix: Option<String>,
    /// Size of an object: 4096, 4KiB, 64MiB, 1GB.
    #[arg(long, short = 's', default_value = "4KiB")]
    size: Size,
    /// Requests at a time, each on its own connection.
    #[arg(long, short = 'c', default_value_t = 32)]
    concurrency: usize,
    /// Seconds that count.
    #[arg(long, short = 'd', default_value_t = 10.0)]
    duration: f64,
    /// Seconds before them that do not; none where objects are only deleted.
    #[arg(long, short = 'w', default_value_t = 2.0)]
    warm_up: f64,
    /// Objects to prepare for get, stat, list, delete and mixed.
    #[arg(long, short = 'n', default_value_t = 1000)]
    objects: u64,
    /// Weights of `mixed`.
    #[arg(long, default_value = "get=45,stat=30,put=15,delete=10")]
    mix: Mix,
    /// Sign the SHA-256 of each body, instead of UNSIGNED-PAYLOAD.
    #[arg(long)]
    signed_payload: bool,
    /// Compare what get reads with what was put.
    #[arg(long)]
    verify: bool,
    /// Seconds after which a request is an error.
    #[arg(long, default_value_t = 60.0)]
    timeout: f64,
    /// Threads of the client.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Leave the objects there.
    #[arg(long)]
    keep: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Work {
    Put,
    Get,
    Stat,
    List,
    Delete,
    Mixed,
}

impl Work {
    fn name(self) -> &'static str {
        self.op().map_or("mixed", Op::name)
    }

    fn op(self) -> Option<Op> {
        match self {
            Self::Put => Some(Op::Put),
            Self::Get => Some(Op::Get),
            Self::Stat => Some(Op::Stat),
            Self::List => Some(Op::List),
            Self::Delete => Some(Op::Delete),
            Self::Mixed => None,
        }
    }
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("coffer-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.threads.max(1))
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(run(&plan(arguments)?))?;
    let report = Report::new(settings(arguments), &outcome);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(report.is_clean())
}

fn plan(arguments: &Arguments) -> Result<Run> {
    ensure!(arguments.concurrency > 0, "--concurrency must be at least 1");
    let content = Content::new(arguments.size.0, arguments.signed_payload);
    let signer = Signer::new(&arguments.access_key, &arguments.secret_key, &arguments.region);
    let target = |endpoint: &String| {
        Ok(Target {
            authority: authority_of(endpoint)?,
            bucket: arguments.bucket.clone(),
            signer: signer.clone(),
            content: content.clone(),
            verify: arguments.verify,
            timeout: seconds(arguments.timeout)?,
        })
    };
    let unique = || format!("run-{:016x}", coffer_common::random::random::<u64>());
    Ok(Run {
        targets: arguments.endpoints.iter().map(target).collect::<Result<_>>()?,
        mix: arguments.work.op().map_or(arguments.mix, Mix::only),
        concurrency: arguments.concurrency,
        warm_up: seconds(arguments.warm_up)?,
        duration: seconds(arguments.duration)?,
        objects: arguments.objects,
        prefix: arguments.prefix.clone().unwrap_or_else(unique),
        keep: arguments.keep,
    })
}

fn seconds(value: f64) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(value)?)
}

fn settings(arguments: &Arguments) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("work", arguments.work.name().to_owned()),
        ("endpoints", arguments.endpoints.join(" ")),
        ("size", arguments.size.0.to_string()),
        ("concurrency", arguments.concurrency.to_string()),
        ("payload", if arguments.signed_payload { "signed" } else { "unsigned" }.to_owned()),
    ])
}
