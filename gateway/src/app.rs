//! Builds a gateway from its settings and starts it.
//!
//! 1. Both listeners are bound first: a port in use is told before anything runs.
//! 2. The object layer is put on the cluster, the S3 edge on the object layer.
//! 3. Both servers run until the [`Shutdown`] is told: readiness turns false, running requests finish.

use std::net::SocketAddr;
use std::path::Path;

use coffer_common::cluster::Cluster;
use coffer_common::layout::InvalidParity;
use coffer_common::shutdown::Shutdown;
use coffer_common::telemetry::Metrics;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::admin;
use crate::lifecycle;
use crate::notify::Notifier;
use crate::object::{ObjectStore, StoreSettings};
use crate::s3::server::tls::{Certificates, InvalidCertificate};
use crate::s3::{S3Service, S3Settings, server};
use crate::users::Users;

pub use crate::config::{ConfigError, GatewayArgs, GatewayConfig};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// The region of new buckets where none is set.
const DEFAULT_REGION: &str = "us-east-1";

/// A gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on `{address}` for {purpose}: {reason}; choose another with `{option}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// S3 or the admin API.
        purpose: &'static str,
        /// Why.
        reason: String,
        /// The argument that changes it.
        option: &'static str,
    },
    /// The parity of a storage class does not fit the cluster's stripes.
    #[error(transparent)]
    Parity(#[from] InvalidParity),
    /// S3 cannot be served with the certificate that is given.
    #[error(transparent)]
    Certificate(#[from] InvalidCertificate),
}

/// A running gateway. Its servers end with the shutdown it was started with.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Where S3 is served.
    pub s3_address: SocketAddr,
    /// Where the admin API, health and metrics are served.
    pub admin_address: SocketAddr,
}

impl Gateway {
    /// Starts a gateway on a cluster.
    ///
    /// # Errors
    /// [`StartError`] if a port is taken or a setting does not fit the cluster.
    pub async fn start(
        config: GatewayConfig,
        cluster: Cluster,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> Result<Self, StartError> {
        let (s3_listener, s3_address) = listen(config.s3_address, "S3", "--address")?;
        let (admin_listener, admin_address) =
            listen(config.admin_address, "the admin API", "--console-address")?;
        config.parity.check(cluster.map().layout.n())?;
        let certificates = certificates(config.s3_tls_dir.as_deref(), &shutdown).await?;
        let layer = StoreSettings { parity: config.parity, keys: config.encryption_keys };
        let store = ObjectStore::start(cluster.clone(), layer, shutdown.clone()).await;
        let region_fixed = config.region.is_some();
        let settings = S3Settings {
            domains: config.domains,
            sigv2: config.sigv2,
            region: config.region.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
            region_fixed,
            ownership: config.ownership,
            proxies: config.trusted_proxies,
        };
        let users = Users::start(&cluster, config.root, &shutdown).await;
        let notifier = Notifier::start(&store, &cluster, config.webhooks, &shutdown);
        lifecycle::start((store.clone(), notifier.clone()), cluster.clone(), config.lifecycle_day, &shutdown);
        let service = S3Service::new((store.clone(), users.clone(), notifier), settings);
        shutdown.spawn(server::serve(
            s3_listener,
            certificates,
            move |request, peer| service.clone().call(request, peer),
            shutdown.clone(),
        ));
        let parity = config.parity;
        let admin = admin::Admin { cluster, parity, store, users, metrics, shutdown: shutdown.clone() };
        shutdown.spawn(async move {
            if let Err(error) = admin::serve(admin_listener, admin).await {
                tracing::error!(%error, "the admin API ended");
            }
        });
        tracing::info!(s3 = %s3_address, admin = %admin_address, "gateway started");
        Ok(Self { s3_address, admin_address })
    }
}

/// What S3 is served with, if a folder is given; looked after until the stop is told.
async fn certificates(
    folder: Option<&Path>,
    shutdown: &Shutdown,
) -> Result<Option<Certificates>, InvalidCertificate> {
    let Some(folder) = folder else { return Ok(None) };
    let (certificates, kept) = Certificates::read(folder).await?;
    shutdown.spawn_until_told(kept);
    Ok(Some(certificates))
}

fn listen(
    address: SocketAddr,
    purpose: &'static str,
    option: &'static str,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = bind(address).and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.map_err(|error| StartError::Listen { address, purpose, reason: error.to_string(), option })
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for old connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_way_out() {
        let (_held, address) = listen("127.0.0.1:0".parse().unwrap(), "S3", "--address").unwrap();
        let error = listen(address, "S3", "--address").unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--address"), "{error}");
    }
}
