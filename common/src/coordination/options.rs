//! Settings of the coordinator on etcd.

/// How to reach etcd.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// URLs of the members.
    pub endpoints: Vec<String>,
    /// All keys of the cluster begin with this and a slash.
    pub prefix: String,
    /// User and password, if etcd asks for them.
    pub user: Option<(String, String)>,
    /// For `https` endpoints.
    pub tls: Option<EtcdTls>,
}

/// TLS towards etcd, PEM encoded.
#[derive(Clone, Debug, Default)]
pub struct EtcdTls {
    /// The authority that signed etcd's certificates.
    pub ca_pem: Option<Vec<u8>>,
    /// This client's certificate and key.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
}
