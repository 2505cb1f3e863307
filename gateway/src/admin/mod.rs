//! The gateway's admin port: health, metrics, status.
//!
//! Owns:
//! - `/health/live`: the process answers;
//! - `/health/ready`: this gateway can serve now: it is not stopping, knows the buckets, and there are partitions it can
//!   read. 503 if not;
//! - `/health/cluster`: every partition can be written, and read as far as is known; else 503. With `?maintenance=<node>`: 412 if
//!   that would not be so without the node, or if some object might not be readable then, because other drives still lack shards;
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

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use coffer_common::cluster::Cluster;
use coffer_common::layout::ParitySettings;
use coffer_common::node::DriveState;
use coffer_common::shutdown::Shutdown;
use coffer_common::telemetry::Metrics;
use coffer_common::types::NodeId;
use metrics::gauge;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::object::ObjectStore;
use crate::users::Users;
use quorum::{Obstacle, Quorum, View};
pub use quotas::{QuotaView, SetQuota, UsageView};
pub use status::{Health, NodeView, Status};
pub use users::UserView;

/// What the admin port tells about.
pub(crate) struct Admin {
    /// The cluster.
    pub(crate) cluster: Cluster,
    /// The parity of each class.
    pub(crate) parity: ParitySettings,
    /// The object layer of this gateway.
    pub(crate) store: ObjectStore,
    /// The users.
    pub(crate) users: Users,
    /// The metrics of this process.
    pub(crate) metrics: Metrics,
    /// The end of this process.
    pub(crate) shutdown: Shutdown,
}

impl Admin {
    fn view(&self) -> View {
        View::of(&self.cluster, &self.parity)
    }

    fn status(&self) -> Status {
        Status::of(&self.cluster, &self.parity)
    }
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
    /// What keeps partitions from being written, or read for certain, without that node.
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
    } else if !admin.view().any_decided() {
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
    let view = admin.view();
    let quorum = node.as_ref().map_or_else(|| view.quorum(), |node| view.quorum_without(node));
    let healthy = if node.is_some() { quorum.all_certain() } else { quorum.all_served() };
    let status = match (healthy, &node) {
        (true, _) => StatusCode::OK,
        (false, Some(_)) => StatusCode::PRECONDITION_FAILED,
        (false, None) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let obstacles = node.iter().flat_map(|node| view.obstacles(node)).collect();
    let maintenance = node.map(|node| node.0);
    (status, Json(ClusterHealth { healthy, quorum, maintenance, obstacles })).into_response()
}

async fn render(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let status = admin.status();
    record(&status);
    let text = admin.metrics.render() + &nodes_text(&status.nodes);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

/// Records what is only known when somebody asks.
fn record(status: &Status) {
    let quorum = &status.quorum;
    gauge!("coffer_cluster_partitions").set(quorum.partitions as f64);
    gauge!("coffer_cluster_partitions_writable").set(quorum.writable as f64);
    gauge!("coffer_cluster_partitions_readable").set(quorum.readable as f64);
    gauge!("coffer_cluster_partitions_certain").set(quorum.certain as f64);
    gauge!("coffer_cluster_spare_drives_for_reads").set(quorum.spare_for_reads as f64);
    gauge!("coffer_cluster_spare_drives_for_writes").set(quorum.spare_for_writes as f64);
    gauge!("coffer_cluster_healthy").set(if status.health == Health::Healthy { 1.0 } else { 0.0 });
    gauge!("coffer_cluster_capacity_bytes").set(status.capacity_bytes as f64);
    gauge!("coffer_cluster_free_bytes").set(status.free_bytes as f64);
}

/// What is told of each node, as text: a recorder would go on telling it of nodes that have been forgotten.
fn nodes_text(nodes: &[NodeView]) -> String {
    let escaped = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    let mut up = "# TYPE coffer_cluster_node_up gauge\n".to_owned();
    let mut writable = "# TYPE coffer_cluster_drive_writable gauge\n".to_owned();
    for node in nodes {
        let name = escaped(&node.id.0);
        let _ = writeln!(up, "coffer_cluster_node_up{{node=\"{name}\"}} {}", u8::from(node.alive));
        for drive in &node.drives {
            let takes = matches!(drive.state, DriveState::Online | DriveState::Suspect);
            let (path, takes) = (escaped(&drive.path), u8::from(takes));
            let _ = writeln!(
                writable,
                "coffer_cluster_drive_writable{{node=\"{name}\",path=\"{path}\"}} {takes}"
            );
        }
    }
    up + &writable
}

async fn cluster_status(State(admin): State<Arc<Admin>>) -> Json<Status> {
    Json(admin.status())
}

#[cfg(test)]
mod tests {
    use coffer_common::node::DriveInfo;
    use coffer_common::types::{DriveId, Incarnation};

    use super::*;

    #[test]
    fn each_node_and_drive_is_told_with_its_labels() {
        let drive =
            |path: &str, state| DriveInfo::unknown(DriveId(1), Incarnation(0), path.to_owned(), state);
        let node = NodeView {
            id: NodeId("a".to_owned()),
            address: String::new(),
            zone: String::new(),
            alive: true,
            version: String::new(),
            clock_ahead_ms: 0,
            slots: 0,
            copied_from: 0,
            file_systems: Vec::new(),
            drives: vec![drive("/a\"b", DriveState::Online), drive("/c", DriveState::ReadOnly)],
        };
        let away = NodeView { id: NodeId("b".to_owned()), alive: false, drives: Vec::new(), ..node.clone() };
        let expected = [
            "# TYPE coffer_cluster_node_up gauge",
            r#"coffer_cluster_node_up{node="a"} 1"#,
            r#"coffer_cluster_node_up{node="b"} 0"#,
            "# TYPE coffer_cluster_drive_writable gauge",
            r#"coffer_cluster_drive_writable{node="a",path="/a\"b"} 1"#,
            r#"coffer_cluster_drive_writable{node="a",path="/c"} 0"#,
        ];
        assert_eq!(nodes_text(&[node, away]).lines().collect::<Vec<_>>(), expected);
    }
}
