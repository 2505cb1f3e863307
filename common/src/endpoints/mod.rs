//! The drives named on the command line of `coffer server`.
//!
//! Owns: the expansion of `{1...n}` ([`expand`]), the decision between standalone and distributed, and errors
//! that say what to type instead. Never: I/O, name resolution, which node this process is.
//!
//! 1. Each argument is expanded; the leftmost range varies slowest.
//! 2. All paths: [`Endpoints::Standalone`]. All URLs: [`Endpoints::Distributed`]. Both: an error.
//! 3. The same drive twice is an error.

use std::collections::HashSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

mod expand;
#[cfg(test)]
mod tests;

pub use expand::{ExpandError, expand};

/// The port of a node where a URL names none.
pub const DEFAULT_NODE_PORT: u16 = 9100;

/// Why the arguments name no drives.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    /// No arguments.
    #[error("no drives given: name folders (`/data{{1...4}}`) or URLs (`http://host{{1...4}}/data`)")]
    None,
    /// A range is malformed.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// Paths and URLs.
    #[error(
        "`{path}` is a folder and `{url}` is a URL: give only folders (one server on its own) or only URLs (a cluster)"
    )]
    Mixed {
        /// A path among the arguments.
        path: String,
        /// A URL among the arguments.
        url: String,
    },
    /// http and https.
    #[error(
        "`{0}` has another scheme than the URLs before it: a cluster uses http or https for all of its nodes"
    )]
    MixedSchemes(String),
    /// The same drive twice.
    #[error("drive `{0}` is named twice")]
    Duplicate(String),
    /// The argument is empty.
    #[error("an empty argument names no drive")]
    Empty,
    /// A URL that is none.
    #[error("`{url}` is no endpoint: {reason}")]
    Url {
        /// The argument, expanded.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// http or https.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

/// One drive of a cluster: `scheme://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// http or https; the same for all.
    pub scheme: Scheme,
    /// Host name or address, lower case; an IPv6 address without its brackets.
    pub host: String,
    /// The node's gRPC port.
    pub port: u16,
    /// The drive's folder on that node.
    pub path: PathBuf,
}

impl Endpoint {
    /// `host:port`, which stands for the node.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}{}", self.address(), self.path.display())
    }
}

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// Folders of this machine: one process is the whole cluster.
    Standalone(Vec<PathBuf>),
    /// Drives of all nodes of a cluster, in the order given.
    Distributed(Vec<Endpoint>),
}

impl Endpoints {
    /// Expands and classifies the arguments.
    ///
    /// # Errors
    /// [`EndpointError`], fit to be shown to the person who typed them.
    pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Result<Self, EndpointError> {
        let mut expanded = Vec::new();
        for argument in arguments {
            expanded.extend(expand(argument.as_ref())?);
        }
        if expanded.iter().any(|argument| argument.trim().is_empty()) {
            return Err(EndpointError::Empty);
        }
        let (urls, paths): (Vec<&String>, Vec<&String>) =
            expanded.iter().partition(|text| text.contains("://"));
        match (urls.first(), paths.first()) {
            (None, None) => Err(EndpointError::None),
            (Some(url), Some(path)) => {
                Err(EndpointError::Mixed { path: (*path).clone(), url: (*url).clone() })
            }
            (None, Some(_)) => standalone(&paths),
            (Some(_), None) => distributed(&urls),
        }
    }

    /// The drives of each node by its `host:port`, in the order of first mention; empty if standalone.
    pub fn nodes(&self) -> Vec<(String, Vec<Endpoint>)> {
        let Self::Distributed(endpoints) = self else {
            return Vec::new();
        };
        let mut nodes: Vec<(String, Vec<Endpoint>)> = Vec::new();
        for endpoint in endpoints {
            let address = endpoint.address();
            match nodes.iter_mut().find(|(known, _)| *known == address) {
                Some((_, drives)) => drives.push(endpoint.clone()),
                None => nodes.push((address, vec![endpoint.clone()])),
            }
        }
        nodes
    }
}

fn standalone(paths: &[&String]) -> Result<Endpoints, EndpointError> {
    let mut seen = HashSet::new();
    let mut drives = Vec::with_capacity(paths.len());
    for path in paths {
        refuse_bare_address(path)?;
        let drive = tidy_path(path);
        if !seen.insert(drive.clone()) {
            return Err(EndpointError::Duplicate(drive.display().to_string()));
        }
        drives.push(drive);
    }
    Ok(Endpoints::Standalone(drives))
}

fn distributed(urls: &[&String]) -> Result<Endpoints, EndpointError> {
    let mut seen = HashSet::new();
    let mut drives: Vec<Endpoint> = Vec::with_capacity(urls.len());
    for url in urls {
        let endpoint = parse_url(url).map_err(|reason| EndpointError::Url { url: (*url).clone(), reason })?;
        if drives.first().is_some_and(|first| first.scheme != endpoint.scheme) {
            return Err(EndpointError::MixedSchemes((*url).clone()));
        }
        if !seen.insert(endpoint.clone()) {
            return Err(EndpointError::Duplicate(endpoint.to_string()));
        }
        drives.push(endpoint);
    }
    Ok(Endpoints::Distributed(drives))
}

/// `host:9100/data` would be taken for a folder; nobody means that.
fn refuse_bare_address(path: &str) -> Result<(), EndpointError> {
    let head = path.split('/').next().unwrap_or_default();
    let port = head.rsplit_once(':').map_or("", |(_, port)| port);
    if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) {
        let reason = "an address needs `http://` or `https://` before it, a folder of that name `./`";
        return Err(EndpointError::Url { url: path.to_owned(), reason });
    }
    Ok(())
}

/// Without `.`, doubled and trailing slashes, so that one folder has one name.
fn tidy_path(path: &str) -> PathBuf {
    let tidy: PathBuf = Path::new(path).components().filter(|part| *part != Component::CurDir).collect();
    if tidy.as_os_str().is_empty() { PathBuf::from(".") } else { tidy }
}

fn parse_url(url: &str) -> Result<Endpoint, &'static str> {
    let (scheme, rest) = url.split_once("://").ok_or("it has no scheme")?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return Err("the scheme must be http or https"),
    };
    if rest.contains(['?', '#']) {
        return Err("it must not have `?` or `#`");
    }
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if authority.contains('@') {
        return Err("it must not have a user name");
    }
    let (host, port) = split_authority(authority)?;
    let path = tidy_path(path);
    if !path.has_root() || path == Path::new("/") {
        return Err("it names no folder: add the path of the drive, for example `/data`");
    }
    Ok(Endpoint { scheme, host: host.to_ascii_lowercase(), port, path })
}

fn split_authority(authority: &str) -> Result<(&str, u16), &'static str> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("`[` without `]`")?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| "only an IPv6 address stands in `[ ]`")?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err("only `:port` may follow `]`"),
        }
    } else {
        let (host, port) = authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(p)));
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if port.is_some_and(|port| port.contains(':')) {
            return Err("an IPv6 address stands in `[ ]`");
        }
        if host.is_empty() {
            return Err("it names no host");
        }
        if !host.bytes().all(allowed) {
            return Err("the host has characters that no host name has");
        }
        (host, port)
    };
    let Some(port) = port else {
        return Ok((host, DEFAULT_NODE_PORT));
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok((host, port)),
        _ => Err("the port must be a number from 1 to 65535"),
    }
}
