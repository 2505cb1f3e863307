//! The gateway's admin port: health, metrics, status.
//!
//! Owns:
//! - `/health/live`: the process answers;
//! - `/health/ready`: this gateway can serve now: it is not stopping, knows the buckets, and there are partitions it can
//!   read. 503 if not;
//! - `/health/cluster`: every partition has its write quorum; else 503. With `?maintenance=<node>`: 412 if stopping that
//!   node would take the quorum from a partition;
//! - `/metrics`: Prometheus;
//! - `/api/v1/status`: the same facts as JSON, for `coffer status`;
//! - `/api/v1/users`: the users, for `coffer user`; signed by root;
//! - `/api/v1/buckets/<name>/quota`: a bucket's quota, for `coffer bucket quota`; signed by root.
//!
//! Never changes anything but users and quotas, and never serves objects.

mod proof;
mod quorum;
mod quotas;
mod status;
mod users;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use coffer_common::cluster::Cluster;
use coffer_common::node::DriveState;
use coffer_common::shutdown::Shutdown;
use coffer_common::telemetry::Metrics;
use coffer_common::types::NodeId;
use metrics::gauge;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::object::ObjectStore;
use crate::users::Users;
use quorum::{Obstacle, Quorum};
pub use quotas::{QuotaView, SetQuota, UsageView};
pub use status::{Health, NodeView, Status};
pub use users::UserView;

/// What the admin port tells about.
pub(crate) struct Admin {
    /// The cluster.
    pub(crate) cluster: Cluster,
    /// The object layer of this gateway.
    pub(crate) store: ObjectStore,
    /// The users.
    pub(crate) users: Users,
    /// The metrics of this process.
    pub(crate) metrics: Metrics,
    /// The end of this process.
    pub(crate) shutdown: Shutdown,
}

/// The body of `/health/ready`.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    reason: Option<&'static str>,
}

/// The query of `/health/cluster`.
#[derive(Deserialize)]
struct ClusterQuery {
    maintenance: Option<String>,
}

/// The body of `/health/cluster`.
#[derive(Serialize)]
struct ClusterHealth {
    healthy: bool,
    quorum: Quorum,
    /// The node that is asked about, if one is.
    maintenance: Option<String>,
    /// What keeps partitions from being written without that node.
    obstacles: Vec<Obstacle>,
}

/// Serves until the stop is told.
///
/// # Errors
/// If the listener fails.
pub(crate) async fn serve(listener: TcpListener, admin: Admin) -> std::io::Result<()> {
    let stop = admin.shutdown.told_owned();
    let router = Router::new()
        .route("/health/live", get(|| async { "ok\n" }))
        .route("/health/ready", get(ready))
        .route("/health/cluster", get(cluster_health))
        .route("/metrics", get(render))
        .route("/api/v1/status", get(cluster_status))
        .route("/api/v1/users", get(users::list).post(users::add))
        .route("/api/v1/users/{name}", delete(users::remove))
        .route("/api/v1/buckets/{name}/quota", get(quotas::show).put(quotas::set).delete(quotas::clear))
        .with_state(Arc::new(admin));
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let reason = if admin.shutdown.is_told() {
        Some("this gateway is stopping")
    } else if !admin.store.is_ready() {
        Some("the bucket records are not known yet")
    } else if Quorum::of(&admin.cluster, None).readable == 0 {
        Some("too few drives answer: nothing can be read")
    } else {
        None
    };
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready: reason.is_none(), reason })).into_response()
}

async fn cluster_health(State(admin): State<Arc<Admin>>, Query(query): Query<ClusterQuery>) -> Response {
    let node = query.maintenance.map(NodeId);
    if let Some(node) = &node
        && !admin.cluster.map().nodes.contains_key(node)
    {
        return (StatusCode::NOT_FOUND, format!("no node `{node}` in this cluster\n")).into_response();
    }
    let quorum = Quorum::of(&admin.cluster, node.as_ref());
    let healthy = quorum.all_writable();
    let status = match (healthy, &node) {
        (true, _) => StatusCode::OK,
        (false, Some(_)) => StatusCode::PRECONDITION_FAILED,
        (false, None) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let obstacles = node.iter().flat_map(|node| quorum::obstacles(&admin.cluster, node)).collect();
    let maintenance = node.map(|node| node.0);
    (status, Json(ClusterHealth { healthy, quorum, maintenance, obstacles })).into_response()
}

async fn render(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    record(&admin.cluster);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], admin.metrics.render())
}

/// Records what is only known when somebody asks.
fn record(cluster: &Cluster) {
    let quorum = Quorum::of(cluster, None);
    gauge!("coffer_cluster_partitions").set(quorum.partitions as f64);
    gauge!("coffer_cluster_partitions_writable").set(quorum.writable as f64);
    gauge!("coffer_cluster_partitions_readable").set(quorum.readable as f64);
    let status = Status::of(cluster);
    gauge!("coffer_cluster_capacity_bytes").set(status.capacity_bytes as f64);
    gauge!("coffer_cluster_free_bytes").set(status.free_bytes as f64);
    for node in &status.nodes {
        for drive in &node.drives {
            let labels = [("node", node.id.0.clone()), ("path", drive.path.clone())];
            let writable = matches!(drive.state, DriveState::Online | DriveState::Suspect);
            gauge!("coffer_cluster_drive_writable", &labels).set(if writable { 1.0 } else { 0.0 });
        }
    }
    for node in cluster.nodes() {
        let up = if node.alive { 1.0 } else { 0.0 };
        gauge!("coffer_cluster_node_up", "node" => node.record.id.0.clone()).set(up);
    }
}

async fn cluster_status(State(admin): State<Arc<Admin>>) -> Json<Status> {
    Json(Status::of(&admin.cluster))
}
