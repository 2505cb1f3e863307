//! How a caller and a node come to know each other. Pure: bytes and decisions, no I/O.
//!
//! ```text
//! caller → node   hello: protocol, name, cluster, method, 32 random bytes
//! node → caller   hello: the same of the node
//! caller → node   HMAC-SHA256(secret, "caller", both hellos)       with a cluster secret only
//! node → caller   HMAC-SHA256(secret, "node", both hellos)
//! later calls     HMAC-SHA256(secret, "session", both hellos)      as metadata
//! ```
//! - Either side refuses, by the same rule, another cluster, a protocol version more than one away, and another
//!   method; the refusal names both sides.
//! - The secret never travels; every proof covers fresh random bytes of the other side, so that a recorded one is worth
//!   nothing; roles have different labels, so that a proof cannot be sent back; comparison takes constant time.
//! - The node takes one proof per hello, and what a connection proved holds on that connection alone.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::convert::Malformed;
use super::security::{ClusterSecret, NodeSecurity};
use crate::limits::PROTOCOL_VERSION;
use crate::proto::storage_v1 as wire;
use crate::types::ClusterId;

pub use wire::Method;

/// The metadata key of the session.
pub const SESSION_KEY: &str = "coffer-session";

const MAX_NAME_BYTES: usize = 512;

/// What one side says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The protocol version it speaks.
    pub protocol: u32,
    /// Its name, for messages and logs.
    pub name: String,
    /// Its cluster, if it knows one.
    pub cluster: Option<ClusterId>,
    /// How it wants to know the other.
    pub method: Method,
    /// Random, for this handshake only.
    pub nonce: [u8; 32],
}

/// An HMAC-SHA256.
pub type Proof = [u8; 32];

impl Hello {
    /// A hello of this build with fresh random bytes.
    pub fn new(name: &str, cluster: Option<ClusterId>, security: &NodeSecurity) -> Self {
        Self {
            protocol: PROTOCOL_VERSION,
            name: name.to_owned(),
            cluster,
            method: security.method(),
            nonce: crate::random::random(),
        }
    }

    fn transcribe(&self, mac: &mut Hmac<Sha256>) {
        mac.update(&self.protocol.to_be_bytes());
        mac.update(&(self.name.len() as u64).to_be_bytes());
        mac.update(self.name.as_bytes());
        mac.update(&[u8::from(self.cluster.is_some())]);
        mac.update(&self.cluster.map_or([0; 16], ClusterId::to_bytes));
        mac.update(&[self.method as u8]);
        mac.update(&self.nonce);
    }

    fn describe(&self) -> String {
        let cluster = self.cluster.map_or_else(|| "no cluster yet".to_owned(), |id| format!("cluster {id}"));
        format!("`{}` ({cluster}, protocol {}, {})", self.name, self.protocol, method_name(self.method))
    }
}

/// Whether caller and node may talk; if not, a sentence that names both.
///
/// # Errors
/// The sentence.
pub fn check_compatible(caller: &Hello, node: &Hello) -> Result<(), String> {
    let refuse =
        |why: String| Err(format!("caller {} and node {}: {why}", caller.describe(), node.describe()));
    if caller.protocol.abs_diff(node.protocol) > 1 {
        return refuse(format!(
            "protocol versions {} and {} are more than one apart; upgrade the older one first",
            caller.protocol, node.protocol
        ));
    }
    match (caller.cluster, node.cluster) {
        (Some(of_caller), Some(of_node)) if of_caller != of_node => {
            return refuse("they belong to different clusters".to_owned());
        }
        (Some(_) | None, Some(_) | None) => {}
    }
    if caller.method != node.method || caller.method == Method::Unspecified {
        return refuse("both need the same node security (cluster secret, TLS folder, or none)".to_owned());
    }
    Ok(())
}

/// The text of a refused proof; it names both sides.
pub fn wrong_secret(caller: &Hello, node: &Hello) -> String {
    format!("caller {} and node {}: the cluster secrets differ", caller.describe(), node.describe())
}

/// What the caller shows.
pub fn caller_proof(secret: &ClusterSecret, caller: &Hello, node: &Hello) -> Proof {
    proof(secret, b"coffer v1 caller", caller, node)
}

/// What the node shows.
pub fn node_proof(secret: &ClusterSecret, caller: &Hello, node: &Hello) -> Proof {
    proof(secret, b"coffer v1 node", caller, node)
}

/// What later calls on the same connection carry.
pub fn session(secret: &ClusterSecret, caller: &Hello, node: &Hello) -> Proof {
    proof(secret, b"coffer v1 session", caller, node)
}

/// Constant-time comparison; false for any other length.
pub fn matches(expected: &Proof, shown: &[u8]) -> bool {
    expected.as_slice().ct_eq(shown).into()
}

fn proof(secret: &ClusterSecret, label: &[u8], caller: &Hello, node: &Hello) -> Proof {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(label);
    caller.transcribe(&mut mac);
    node.transcribe(&mut mac);
    mac.finalize().into_bytes().into()
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::Unspecified => "unknown security",
        Method::Insecure => "no security",
        Method::ClusterSecret => "cluster secret",
        Method::MutualTls => "mutual TLS",
    }
}

impl From<Hello> for wire::HelloRequest {
    fn from(hello: Hello) -> Self {
        let Hello { protocol, name, cluster, method, nonce } = hello;
        Self {
            protocol,
            caller: name,
            cluster: cluster_to_wire(cluster),
            method: method.into(),
            nonce: nonce.to_vec().into(),
        }
    }
}

impl From<Hello> for wire::HelloResponse {
    fn from(hello: Hello) -> Self {
        let Hello { protocol, name, cluster, method, nonce } = hello;
        Self {
            protocol,
            node: name,
            cluster: cluster_to_wire(cluster),
            method: method.into(),
            nonce: nonce.to_vec().into(),
        }
    }
}

impl TryFrom<wire::HelloRequest> for Hello {
    type Error = Malformed;

    fn try_from(hello: wire::HelloRequest) -> Result<Self, Malformed> {
        from_wire(hello.protocol, hello.caller, &hello.cluster, hello.method, &hello.nonce)
    }
}

impl TryFrom<wire::HelloResponse> for Hello {
    type Error = Malformed;

    fn try_from(hello: wire::HelloResponse) -> Result<Self, Malformed> {
        from_wire(hello.protocol, hello.node, &hello.cluster, hello.method, &hello.nonce)
    }
}

fn cluster_to_wire(cluster: Option<ClusterId>) -> String {
    cluster.map(|id| id.to_string()).unwrap_or_default()
}

fn from_wire(
    protocol: u32,
    name: String,
    cluster: &str,
    method: i32,
    nonce: &[u8],
) -> Result<Hello, Malformed> {
    let cluster = match cluster {
        "" => None,
        text => Some(text.parse().map_err(|_| Malformed("hello.cluster"))?),
    };
    if name.len() > MAX_NAME_BYTES {
        return Err(Malformed("hello.name"));
    }
    // A method that a later version adds is no reason to misread the hello: the comparison refuses it with both names.
    let method = Method::try_from(method).unwrap_or(Method::Unspecified);
    let nonce = nonce.try_into().map_err(|_| Malformed("hello.nonce"))?;
    Ok(Hello { protocol, name, cluster, method, nonce })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str, nonce: u8) -> Hello {
        Hello {
            protocol: 5,
            name: name.to_owned(),
            cluster: Some(ClusterId(1)),
            method: Method::ClusterSecret,
            nonce: [nonce; 32],
        }
    }

    #[test]
    fn proofs_differ_by_role_secret_and_every_field_of_either_hello() {
        let (secret, other) = (
            ClusterSecret::new("0123456789abcdef").unwrap(),
            ClusterSecret::new("0123456789abcdeF").unwrap(),
        );
        let (caller, node) = (hello("gateway", 1), hello("node", 2));
        let mut proofs = vec![
            caller_proof(&secret, &caller, &node),
            node_proof(&secret, &caller, &node),
            session(&secret, &caller, &node),
            caller_proof(&other, &caller, &node),
            caller_proof(&secret, &node, &caller),
        ];
        for changed in [
            Hello { protocol: 6, ..node.clone() },
            Hello { name: "mode".to_owned(), ..node.clone() },
            Hello { cluster: None, ..node.clone() },
            Hello { cluster: Some(ClusterId(0)), ..node.clone() },
            Hello { method: Method::Insecure, ..node.clone() },
            Hello { nonce: [3; 32], ..node.clone() },
        ] {
            proofs.push(caller_proof(&secret, &caller, &changed));
        }
        let distinct: std::collections::HashSet<_> = proofs.iter().collect();
        assert_eq!(distinct.len(), proofs.len());
        assert!(matches(&proofs[0], &caller_proof(&secret, &caller, &node)));
        assert!(!matches(&proofs[0], &proofs[0][..31]));
    }

    #[test]
    fn versions_one_apart_talk_and_refusals_name_both_sides() {
        let caller = hello("gateway", 1);
        for protocol in 4..=6 {
            assert_eq!(check_compatible(&caller, &Hello { protocol, ..hello("node", 2) }), Ok(()));
        }
        for node in [
            Hello { protocol: 3, ..hello("node", 2) },
            Hello { protocol: 7, ..hello("node", 2) },
            Hello { cluster: Some(ClusterId(2)), ..hello("node", 2) },
            Hello { method: Method::Insecure, ..hello("node", 2) },
        ] {
            let refusal = check_compatible(&caller, &node).unwrap_err();
            assert!(refusal.contains("`gateway`") && refusal.contains("`node`"), "{refusal}");
        }
        assert_eq!(check_compatible(&caller, &Hello { cluster: None, ..hello("node", 2) }), Ok(()));
    }

    #[test]
    fn hellos_survive_the_wire() {
        let sent = hello("gateway", 1);
        assert_eq!(Hello::try_from(wire::HelloRequest::from(sent.clone())), Ok(sent.clone()));
        assert_eq!(Hello::try_from(wire::HelloResponse::from(sent.clone())), Ok(sent));
    }
}
