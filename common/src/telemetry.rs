//! Logs and metrics of a process. Set up once, in `main`, from settings that `main` read.
//!
//! Logs go to standard error: text for people on a terminal, one JSON object a line otherwise. Metrics are
//! recorded through the `metrics` facade everywhere and rendered for Prometheus by [`Metrics::render`].

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::shutdown::Shutdown;

/// What is logged when nothing else is asked for.
pub const DEFAULT_FILTER: &str = "info,h2=warn,hyper=warn,tonic=warn,tower=warn,rustls=warn";

/// Upper bounds, in seconds, of the buckets of every metric named `…_seconds`.
const LATENCY_BUCKETS: &[f64] =
    &[0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The recorder's histograms are folded, and idle ones dropped, this often.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text if standard error is a terminal, else JSON.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter does not parse.
    #[error("log filter `{filter}` is not valid: {reason}")]
    Filter {
        /// The filter.
        filter: String,
        /// Why.
        reason: String,
    },
    /// Set up twice, or by someone else.
    #[error("{0} is set up already")]
    AlreadySet(&'static str),
    /// The metric buckets were refused.
    #[error("metrics cannot be set up: {0}")]
    Metrics(String),
}

/// Starts logging. `filter` is a directive list such as `info,coffer_gateway=debug`; `None` means
/// [`DEFAULT_FILTER`].
///
/// # Errors
/// [`TelemetryError`] if the filter does not parse or logging is set up already.
pub fn init_logs(filter: Option<&str>, format: LogFormat) -> Result<(), TelemetryError> {
    let text = filter.unwrap_or(DEFAULT_FILTER);
    let filter = EnvFilter::try_new(text)
        .map_err(|e| TelemetryError::Filter { filter: text.to_owned(), reason: e.to_string() })?;
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).finish().try_init()
    } else {
        builder.with_target(false).finish().try_init()
    };
    set.map_err(|_| TelemetryError::AlreadySet("logging"))
}

type Collector = Box<dyn Fn() + Send + Sync>;

/// The process's metrics, ready to be rendered.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    collectors: Arc<Mutex<Vec<Collector>>>,
}

impl Metrics {
    /// Installs the process-wide recorder and starts its upkeep, which ends with `shutdown`.
    ///
    /// # Errors
    /// [`TelemetryError`] if a recorder is installed already.
    pub fn install(shutdown: &Shutdown) -> Result<Self, TelemetryError> {
        let recorder = builder()?.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder)
            .map_err(|_| TelemetryError::AlreadySet("the metrics recorder"))?;
        let (upkeep, stop) = (handle.clone(), shutdown.clone());
        shutdown.spawn(async move {
            let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
            loop {
                tokio::select! {
                    () = stop.told() => return,
                    _ = tick.tick() => upkeep.run_upkeep(),
                }
            }
        });
        Ok(Self::of(handle))
    }

    fn of(handle: PrometheusHandle) -> Self {
        Self { handle, collectors: Arc::default() }
    }

    /// A recorder of its own that nothing records into by itself: for processes that run without metrics, and tests.
    ///
    /// # Errors
    /// [`TelemetryError`] if the buckets are refused.
    pub fn detached() -> Result<Self, TelemetryError> {
        Ok(Self::of(builder()?.build_recorder().handle()))
    }

    /// Has what is only known when somebody asks recorded before each rendering.
    pub fn collect(&self, record: impl Fn() + Send + Sync + 'static) {
        self.collectors.lock().push(Box::new(record));
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.collectors.lock().iter().for_each(|record| record());
        self.handle.render()
    }
}

fn builder() -> Result<PrometheusBuilder, TelemetryError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), LATENCY_BUCKETS)
        .map_err(|e| TelemetryError::Metrics(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let error = init_logs(Some("info,=="), LogFormat::Json).unwrap_err();
        assert!(error.to_string().contains("`info,==`"), "{error}");
    }

    #[test]
    fn seconds_are_rendered_as_buckets() {
        let recorder = builder().unwrap().build_recorder();
        let metrics = Metrics::of(recorder.handle());
        metrics.collect(|| metrics::gauge!("coffer_test_now").set(7.0));
        let text = metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("coffer_test_seconds").record(0.003);
            metrics::counter!("coffer_test_total").increment(2);
            metrics.render()
        });
        assert!(text.contains("coffer_test_now 7"), "{text}");
        assert!(text.contains("coffer_test_seconds_bucket{le=\"0.005\"} 1"), "{text}");
        assert!(text.contains("coffer_test_total 2"), "{text}");
    }
}
