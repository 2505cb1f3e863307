//! The service and the remote node against each other and a real local node.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use coffer_common::node::conformance::{self, Fixture};
use coffer_common::node::{
    FaultPlan, FaultyNode, NodeError, PrepareShard, ShardPiece, SlotAddress, SlotCall, SnapshotKind,
    partition_of,
};
use coffer_common::protocol::message::{SlotReply, SlotRequest};
use coffer_common::rpc::{Caller, ClusterSecret, RemoteNode};
use coffer_common::types::{
    BucketId, ClusterId, DriveId, Epoch, Incarnation, NodeId, ObjectKey, OpId, RegisterKey, SlotIndex,
};

use super::*;
use crate::{NodeConfig, StorageNode};

const CLUSTER: ClusterId = ClusterId(0xC0FFE4);

/// A local node on a temporary drive.
struct Local {
    _dir: tempfile::TempDir,
    drive: DriveId,
    node: Arc<StorageNode>,
}

impl Local {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drive");
        let drive = crate::format(&path, CLUSTER, DriveId::random()).unwrap().drive;
        let config = NodeConfig {
            node: NodeId("node-1".to_owned()),
            drives: vec![path],
            cluster: None,
            replace: Vec::new(),
        };
        Self { _dir: dir, drive, node: StorageNode::open(config).await.unwrap() }
    }

    fn fixture(&self, client: Arc<dyn NodeClient>) -> Fixture {
        Fixture {
            client,
            cluster: CLUSTER,
            drive: self.drive,
            incarnation: Incarnation(0),
            slot: SlotIndex(1),
            epoch: Epoch(0),
        }
    }

    fn query(&self) -> SlotCall {
        let register = RegisterKey::object(BucketId(1), ObjectKey::new("k").unwrap());
        let address = SlotAddress {
            cluster: CLUSTER,
            drive: self.drive,
            incarnation: Incarnation(0),
            partition: partition_of(CLUSTER, register.bucket, &register.key),
            slot: SlotIndex(1),
            epoch: Epoch(0),
        };
        let request = SlotRequest::Query { inline_data: false };
        SlotCall { address, register, bucket_revision: 1, request }
    }
}

/// A service on a free port of loopback.
struct Served {
    address: SocketAddr,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Served {
    async fn start(node: Arc<dyn NodeClient>, security: NodeSecurity) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), node, security).await
    }

    async fn start_on(address: SocketAddr, node: Arc<dyn NodeClient>, security: NodeSecurity) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let task = tokio::spawn(serve(node, listener, security, shutdown.clone()));
        Self { address, shutdown, task }
    }

    fn remote(&self, security: NodeSecurity) -> Arc<RemoteNode> {
        Arc::new(RemoteNode::connect_lazy(self.address.to_string(), security))
    }

    async fn stop(self) {
        self.shutdown.tell();
        // Sooner than a node would give up what does not end.
        let limit = settings::DRAIN_TIMEOUT - Duration::from_secs(1);
        tokio::time::timeout(limit, self.task).await.unwrap().unwrap().unwrap();
    }
}

fn secret(text: &str) -> NodeSecurity {
    NodeSecurity::ClusterSecret(ClusterSecret::new(text).unwrap())
}

fn denied<T: std::fmt::Debug>(result: Result<T, NodeError>) -> String {
    match result {
        Err(NodeError::Denied(reason)) => reason,
        other => panic!("a refusal was expected, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_node_conforms() {
    let local = Local::open().await;
    conformance::run(&local.fixture(local.node.clone())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_remote_node_conforms() {
    let local = Local::open().await;
    let security = secret("a secret of the whole cluster");
    let served = Served::start(local.node.clone(), security.clone()).await;
    conformance::run(&local.fixture(served.remote(security))).await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_node_without_faults_conforms() {
    let local = Local::open().await;
    let faulty = FaultyNode::new(local.node.clone(), "node-1", FaultPlan::default(), 1);
    let served = Served::start(Arc::new(faulty), NodeSecurity::Insecure).await;
    let remote = served.remote(NodeSecurity::Insecure);
    let faulty = FaultyNode::new(remote, "node-1", FaultPlan::default(), 2);
    conformance::run(&local.fixture(Arc::new(faulty))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_both_sides_are_named() {
    let local = Local::open().await;
    let served = Served::start(local.node.clone(), secret("a secret of the whole cluster")).await;
    let attempt = |security: NodeSecurity, cluster| {
        let caller = Caller { name: "gateway-7".to_owned(), cluster };
        RemoteNode::connect_lazy_as(served.address.to_string(), security, caller)
    };
    for (security, cluster) in [
        (secret("another secret of the same length"), Some(CLUSTER)),
        (secret("a secret of the whole cluster"), Some(ClusterId(1))),
        (NodeSecurity::Insecure, Some(CLUSTER)),
    ] {
        let remote = attempt(security, cluster);
        for reason in [denied(remote.info().await), denied(remote.call(local.query()).await)] {
            assert!(reason.contains("`gateway-7`") && reason.contains("`node-1`"), "{reason}");
        }
    }
    let remote = attempt(secret("a secret of the whole cluster"), Some(CLUSTER));
    assert_eq!(remote.info().await.unwrap().id, NodeId("node-1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn insecure_nodes_do_not_listen_beyond_loopback() {
    let local = Local::open().await;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = serve(local.node.clone(), listener, NodeSecurity::Insecure, Shutdown::new()).await;
    assert!(matches!(refused, Err(ServeError::Security(SecurityError::InsecureNotLoopback(_)))));
}

/// Raw calls, to do what the remote node never does.
mod handshake {
    use coffer_common::proto::storage_v1 as wire;
    use coffer_common::rpc::handshake::{Hello, Method, SESSION_KEY, caller_proof, session};
    use coffer_common::rpc::status_to_error;
    use tonic::transport::{Channel, Endpoint};
    use tonic::{Request, Status};
    use wire::handshake_client::HandshakeClient;
    use wire::storage_node_client::StorageNodeClient;

    use super::*;

    async fn connect(address: SocketAddr) -> Channel {
        Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap()
    }

    fn info(session: Option<&[u8]>) -> Request<wire::InfoRequest> {
        let mut request = Request::new(wire::InfoRequest {});
        if let Some(session) = session {
            request.metadata_mut().insert(SESSION_KEY, hex::encode(session).parse().unwrap());
        }
        request
    }

    fn refused<T: std::fmt::Debug>(result: Result<T, Status>) {
        denied(result.map_err(|status| status_to_error("node-1", &status)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_proved_is_worth_anything_twice_or_elsewhere() {
        let local = Local::open().await;
        let key = ClusterSecret::new("a secret of the whole cluster").unwrap();
        let security = NodeSecurity::ClusterSecret(key.clone());
        let served = Served::start(local.node.clone(), security.clone()).await;
        let (first, second) = (connect(served.address).await, connect(served.address).await);
        let (mut greeter, mut node) = (HandshakeClient::new(first.clone()), StorageNodeClient::new(first));

        refused(node.info(info(None)).await);
        let ours = Hello::new("gateway", Some(CLUSTER), &security);
        let theirs = greeter.hello(wire::HelloRequest::from(ours.clone())).await.unwrap().into_inner();
        let theirs = Hello::try_from(theirs).unwrap();
        let proof = wire::ProveRequest { proof: caller_proof(&key, &ours, &theirs).to_vec().into() };
        let session = session(&key, &ours, &theirs);
        refused(node.info(info(Some(&session))).await);
        greeter.prove(proof.clone()).await.unwrap();
        node.info(info(Some(&session))).await.unwrap();
        refused(node.info(info(None)).await);
        refused(node.info(info(Some(&session[..31]))).await);
        refused(node.info(info(Some(&[0; 32]))).await);

        // On another connection: neither the session nor the recorded proof, even after the recorded hello.
        let (mut other, mut stranger) =
            (HandshakeClient::new(second.clone()), StorageNodeClient::new(second));
        refused(stranger.info(info(Some(&session))).await);
        refused(other.prove(proof.clone()).await);
        other.hello(wire::HelloRequest::from(ours.clone())).await.unwrap();
        refused(other.prove(proof.clone()).await);
        refused(stranger.info(info(Some(&session))).await);

        // On the same connection: a proof is taken once, and a wrong one ends what was known.
        refused(greeter.prove(proof).await);
        refused(node.info(info(Some(&session))).await);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn protocol_versions_more_than_one_apart_are_refused() {
        let local = Local::open().await;
        let served = Served::start(local.node.clone(), NodeSecurity::Insecure).await;
        let mut greeter = HandshakeClient::new(connect(served.address).await);
        let mut hello = wire::HelloRequest::from(Hello::new("gateway", None, &NodeSecurity::Insecure));
        let current = hello.protocol;
        for (protocol, welcome) in
            [(current - 1, true), (current + 1, true), (current + 2, false), (u32::MAX, false)]
        {
            hello.protocol = protocol;
            let answer = greeter.hello(hello.clone()).await;
            assert_eq!(answer.is_ok(), welcome, "{protocol}: {answer:?}");
        }
        hello.method = Method::Unspecified.into();
        refused(greeter.hello(hello).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_fails_fast_and_is_found_again() {
    let local = Local::open().await;
    let security = secret("a secret of the whole cluster");
    let served = Served::start(local.node.clone(), security.clone()).await;
    let address = served.address;
    let remote = served.remote(security.clone());
    assert!(matches!(remote.call(local.query()).await, Ok(SlotReply::View(..))));
    served.stop().await;

    let begun = std::time::Instant::now();
    for _ in 0..1000 {
        let lost = remote.call(local.query()).await;
        assert!(matches!(lost, Err(NodeError::Unreachable { .. })), "{lost:?}");
    }
    // None waits for the next try, which alone would be 50 s.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());

    let served = Served::start_on(address, local.node.clone(), security).await;
    for attempt in 0.. {
        match remote.call(local.query()).await {
            Ok(reply) => {
                assert!(matches!(reply, SlotReply::View(..)));
                break;
            }
            Err(error) => assert!(attempt < 300, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_answers_again_is_asked_at_once_on_every_connection() {
    let local = Local::open().await;
    let served = Served::start(local.node.clone(), NodeSecurity::Insecure).await;
    let address = served.address;
    let remote = served.remote(NodeSecurity::Insecure);
    let bulk = || remote.snapshot(SnapshotKind::Layout);
    served.stop().await;

    // Until the pauses between two tries are the longest: the last were a second or more.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        assert!(bulk().await.is_err());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let served = Served::start_on(address, local.node.clone(), NodeSecurity::Insecure).await;
    assert!(matches!(remote.call(local.query()).await, Ok(SlotReply::View(..))));
    for _ in 0..2 * settings::BULK_CONNECTIONS {
        bulk().await.unwrap();
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_answers_what_runs_and_closes_its_streams() {
    let local = Local::open().await;
    let slow = Duration::from_secs(2);
    let plan = FaultPlan { delay: slow..slow, ..FaultPlan::default() };
    let node = Arc::new(FaultyNode::new(local.node.clone(), "node-1", FaultPlan::default(), 1));
    let served = Served::start(node.clone(), NodeSecurity::Insecure).await;
    let remote = served.remote(NodeSecurity::Insecure);
    remote.call(local.query()).await.unwrap();

    node.set_plan(plan);
    let call = local.query();
    let running = tokio::spawn({
        let remote = remote.clone();
        async move { remote.call(call).await }
    });
    tokio::time::sleep(slow / 2).await;
    served.stop().await;
    assert!(matches!(running.await.unwrap(), Ok(SlotReply::View(..))));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stalled_call_delays_no_other() {
    let local = Local::open().await;
    let patience = Duration::from_secs(4);
    let plan = FaultPlan { stall: 0.5, patience, ..FaultPlan::default() };
    let node = Arc::new(FaultyNode::new(local.node.clone(), "node-1", FaultPlan::default(), 5));
    let served = Served::start(node.clone(), NodeSecurity::Insecure).await;
    let remote = served.remote(NodeSecurity::Insecure);
    remote.call(local.query()).await.unwrap();
    node.set_plan(plan);
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let (remote, call) = (remote.clone(), local.query());
            tokio::spawn(async move {
                let begun = std::time::Instant::now();
                (remote.call(call).await, begun.elapsed())
            })
        })
        .collect();
    let (mut fast, mut stalled) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            (Ok(_), elapsed) => {
                assert!(elapsed < patience, "{elapsed:?}");
                fast += 1;
            }
            (Err(NodeError::Timeout { .. }), _) => stalled += 1,
            (Err(error), _) => panic!("{error}"),
        }
    }
    assert!(fast > 10 && stalled > 10, "{fast} {stalled}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_give_up_do_not_keep_a_slow_node_away() {
    let local = Local::open().await;
    let slow = Duration::from_millis(400);
    let plan = FaultPlan { delay: slow..slow, ..FaultPlan::default() };
    let node = Arc::new(FaultyNode::new(local.node.clone(), "node-1", plan, 1));
    let served = Served::start(node.clone(), NodeSecurity::Insecure).await;
    let remote = served.remote(NodeSecurity::Insecure);
    let begun = std::time::Instant::now();
    // The greeting takes longer than anybody waits; once it is done, a call does not.
    loop {
        let patience = Duration::from_millis(if begun.elapsed() < slow * 2 { 50 } else { 1000 });
        if let Ok(reply) = tokio::time::timeout(patience, remote.call(local.query())).await {
            assert!(matches!(reply, Ok(SlotReply::View(..))), "{reply:?}");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_whose_caller_leaves_is_given_up_by_the_node() {
    let local = Local::open().await;
    let served = Served::start(local.node.clone(), NodeSecurity::Insecure).await;
    let remote = served.remote(NodeSecurity::Insecure);
    let SlotCall { address, register, bucket_revision, .. } = local.query();
    let header = PrepareShard { address, register, bucket_revision, op: OpId { session: 1, counter: 1 } };
    let (sender, pieces) = tokio::sync::mpsc::channel(1);
    let running = tokio::spawn(async move { remote.prepare_shard(header, pieces).await });
    sender.send(ShardPiece::Data(bytes::Bytes::from_static(b"half a header"))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.abort();
    // The node lets go of the stream: nothing keeps it from stopping at once.
    drop(sender);
    served.stop().await;
}

fn write_certificates(dir: &Path, authority: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    std::fs::write(dir.join("ca.crt"), authority.pem()).unwrap();
    std::fs::write(dir.join("node.crt"), certificate.pem()).unwrap();
    std::fs::write(dir.join("node.key"), key.serialize_pem()).unwrap();
}

fn tls_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    write_certificates(dir.path(), &authority);
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_conforms_and_refuses_other_authorities() {
    let local = Local::open().await;
    let (ours, theirs) = (tls_folder(), tls_folder());
    let security = |dir: &tempfile::TempDir| NodeSecurity::Mtls { dir: dir.path().to_owned() };
    let served = Served::start(local.node.clone(), security(&ours)).await;
    conformance::run(&local.fixture(served.remote(security(&ours)))).await;

    let stranger = served.remote(security(&theirs)).info().await;
    assert!(matches!(stranger, Err(NodeError::Unreachable { .. })), "{stranger:?}");
    let plain = served.remote(NodeSecurity::Insecure).info().await;
    assert!(matches!(plain, Err(NodeError::Unreachable { .. })), "{plain:?}");

    let empty = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = serve(local.node.clone(), listener, security(&empty), Shutdown::new()).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("ca.crt"), "{refused}");
}
