//! Whom a request comes from, where proxies stand between the client and this gateway.
//!
//! Owns: the networks of the proxies that are believed, and the reading of `X-Forwarded-For` and `X-Forwarded-Proto`. Never:
//! believes these headers of anybody else: a client can send what it likes.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue};

use super::Peer;
use crate::policy::Network;

/// The networks of the proxies that are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    /// Reads addresses, and networks in CIDR form.
    ///
    /// # Errors
    /// The text that is neither.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, String> {
        let texts = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        texts
            .map(|text| Network::parse(text).ok_or_else(|| text.to_owned()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Who is at the other end of the proxies. Each appends to `X-Forwarded-For` whom it has the request from, so that the list
    /// is believed from its end on, as far as those who wrote it are believed. The scheme is that of the last proxy: what stands
    /// before may be the client's.
    pub(crate) fn behind(&self, peer: Peer, headers: &HeaderMap) -> Peer {
        if !self.trusts(peer.address.ip()) {
            return peer;
        }
        let list = |name: &str| -> Vec<&str> {
            // Item by item: what a client sent before a proxy's own may be any bytes.
            let lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
            let items = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
            items.filter(|item| !item.is_empty()).map(|item| str::from_utf8(item).unwrap_or("?")).collect()
        };
        // The version of TLS is the proxy's; the client's is not known.
        let mut behind = Peer { tls: None, ..peer };
        for item in list("x-forwarded-for").into_iter().rev() {
            let Some(address) = address_of(item) else { break };
            behind.address = SocketAddr::new(address, 0);
            if !self.trusts(address) {
                break;
            }
        }
        if let Some(scheme) = list("x-forwarded-proto").last() {
            behind.secure = scheme.eq_ignore_ascii_case("https");
        }
        behind
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.holds(address))
    }
}

/// An address as proxies write it: with a port or without, of IPv6 also in brackets.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(texts: &[&str]) -> TrustedProxies {
        TrustedProxies::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn behind(peer: &str, lines: &[(&'static str, &str)]) -> (String, bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let peer = Peer { address: SocketAddr::new(peer.parse().unwrap(), 1), secure: false, tls: None };
        let found = trusted(&["10.0.0.0/8", "2001:db8::1", ""]).behind(peer, &headers);
        (found.address.ip().to_string(), found.secure)
    }

    #[test]
    fn the_last_address_that_is_no_proxys_is_the_clients() {
        let of = |lines: &[&str]| {
            behind("10.0.0.1", &lines.iter().map(|line| ("x-forwarded-for", *line)).collect::<Vec<_>>()).0
        };
        for (lines, expected) in [
            (vec![], "10.0.0.1"),
            (vec!["192.0.2.7"], "192.0.2.7"),
            (vec!["10.9.9.9, 192.0.2.7"], "192.0.2.7"),
            (vec!["192.0.2.7,10.0.0.2 , 10.0.0.3"], "192.0.2.7"),
            (vec!["203.0.113.1", "192.0.2.7", "10.0.0.2"], "192.0.2.7"),
            (vec!["10.0.0.3,10.0.0.2"], "10.0.0.3"),
            (vec!["192.0.2.7:4711"], "192.0.2.7"),
            (vec!["2001:db8::2"], "2001:db8::2"),
            (vec!["[2001:db8::2]:4711, [2001:db8::1]"], "2001:db8::2"),
            (vec!["::ffff:10.0.0.2", "::ffff:192.0.2.7"], "::ffff:192.0.2.7"),
            // Nobody knows who is before what cannot be read.
            (vec!["192.0.2.7, unknown, 10.0.0.2"], "10.0.0.2"),
            (vec!["192.0.2.7, \u{fc}"], "10.0.0.1"),
            (vec!["\u{fc}, 192.0.2.7"], "192.0.2.7"),
            (vec![" , "], "10.0.0.1"),
        ] {
            assert_eq!(of(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_a_client_sent_hides_no_address_that_a_proxy_appended() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", HeaderValue::from_bytes(b"\xff,192.0.2.7").unwrap());
        let peer = Peer { address: "10.0.0.1:1".parse().unwrap(), secure: true, tls: None };
        let found = trusted(&["10.0.0.0/8"]).behind(peer, &headers);
        assert_eq!(found.address.ip().to_string(), "192.0.2.7");
    }

    #[test]
    fn the_scheme_is_the_last_proxys() {
        let of = |line: &str| behind("10.0.0.1", &[("x-forwarded-proto", line)]).1;
        assert_eq!(["https", "HTTPS", "http,https"].map(of), [true; 3]);
        assert_eq!(["http", "https, http", "", "wss"].map(of), [false; 4]);
    }

    #[test]
    fn nobody_else_is_believed() {
        let lines = [("x-forwarded-for", "10.0.0.2"), ("x-forwarded-proto", "https")];
        assert_eq!(behind("192.0.2.7", &lines), ("192.0.2.7".to_owned(), false));
        let peer = Peer { address: "10.0.0.1:1".parse().unwrap(), secure: true, tls: None };
        let headers = lines.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let found = TrustedProxies::default().behind(peer, &headers.into_iter().collect());
        assert_eq!((found.address, found.secure), (peer.address, true));
    }

    #[test]
    fn what_is_no_network_is_told() {
        for text in ["10.0.0.0/33", "10.0.0/8", "balancer", "10.0.0.1/", "2001:db8::/129"] {
            assert_eq!(
                TrustedProxies::parse(&["10.0.0.1".to_owned(), text.to_owned()]),
                Err(text.to_owned())
            );
        }
    }
}
