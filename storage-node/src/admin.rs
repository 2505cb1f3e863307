//! The node's admin server: health and metrics.
//!
//! Owns: `/health/live` (the process answers), `/health/ready` (at least one drive serves; else 503 and why not, drive by
//! drive) and `/metrics` (Prometheus). Never changes anything.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use coffer_common::node::{DriveInfo, DriveState};
use coffer_common::shutdown::Shutdown;
use coffer_common::telemetry::Metrics;
use metrics::{counter, gauge};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::node::StorageNode;

#[derive(Clone)]
struct Admin {
    node: Arc<StorageNode>,
    metrics: Metrics,
}

/// The body of `/health/ready`.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    drives: Vec<DriveInfo>,
}

/// Serves until the shutdown is told.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    node: Arc<StorageNode>,
    metrics: Metrics,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    publish(&node, &metrics);
    let router = Router::new()
        .route("/health/live", get(|| async { "ok\n" }))
        .route("/health/ready", get(ready))
        .route("/metrics", get(render))
        .with_state(Admin { node, metrics });
    axum::serve(listener, router).with_graceful_shutdown(shutdown.told_owned()).await
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let drives = admin.node.drive_infos();
    let ready = drives.iter().any(|drive| drive.state.serves());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, drives }))
}

async fn render(State(admin): State<Admin>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], admin.metrics.render())
}

/// Has what is only known when somebody asks, drive by drive, among this process's metrics.
pub fn publish(node: &Arc<StorageNode>, metrics: &Metrics) {
    let node = Arc::clone(node);
    metrics.collect(move || record(&node));
}

fn record(node: &StorageNode) {
    for drive in node.drive_infos() {
        let labels = [("node", node.id().0.clone()), ("drive", drive.id.to_string()), ("path", drive.path)];
        let (up, suspect) = (drive.state.serves(), drive.state == DriveState::Suspect);
        gauge!("coffer_drive_up", &labels).set(if up { 1.0 } else { 0.0 });
        gauge!("coffer_drive_suspect", &labels).set(if suspect { 1.0 } else { 0.0 });
        gauge!("coffer_drive_capacity_bytes", &labels).set(drive.capacity_bytes as f64);
        gauge!("coffer_drive_free_bytes", &labels).set(drive.free_bytes as f64);
        gauge!("coffer_drive_registers", &labels).set(drive.registers as f64);
        gauge!("coffer_drive_unstable_versions", &labels).set(drive.unstable as f64);
        gauge!("coffer_drive_missing_shards", &labels).set(drive.missing_shards as f64);
        gauge!("coffer_drive_join_partitions", &labels).set(f64::from(drive.join.partitions));
        gauge!("coffer_drive_join_waiting_partitions", &labels).set(f64::from(drive.join.waiting));
        gauge!("coffer_heal_missing_shards", &labels).set(drive.heal.missing as f64);
        gauge!("coffer_heal_owed_registers", &labels).set(drive.heal.owed as f64);
        counter!("coffer_drive_journal_records_total", &labels).absolute(drive.journal_sequence);
        if let Some(store) = node.drives().find(|store| store.id() == drive.id) {
            counter!("coffer_drive_journal_syncs_total", &labels).absolute(store.journal_syncs());
            if let Some(quarantined) = store.quarantined_shards() {
                gauge!("coffer_drive_quarantined_shards", &labels).set(quarantined as f64);
            }
        }
        counter!("coffer_drive_boots_total", &labels).absolute(drive.boot_count);
    }
}
