//! Targets, as the environment names them: pure.
//!
//! `COFFER_NOTIFY_WEBHOOK_ENDPOINT_<NAME>` is a target's address, `COFFER_NOTIFY_WEBHOOK_AUTH_TOKEN_<NAME>` what it is shown
//! (also `…_FILE`), `COFFER_NOTIFY_WEBHOOK_CA_<NAME>` a file of the authorities that its certificate may be of, instead of those
//! of the system. The name of the target is `<NAME>` in lower case.

use http::{HeaderValue, Uri};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const ENDPOINT: &str = "COFFER_NOTIFY_WEBHOOK_ENDPOINT_";
const TOKEN: &str = "COFFER_NOTIFY_WEBHOOK_AUTH_TOKEN_";
const AUTHORITIES: &str = "COFFER_NOTIFY_WEBHOOK_CA_";
/// Longest name.
const MAX_NAME_CHARS: usize = 64;

/// A target that events are posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its name in ARNs: `arn:coffer:sqs::<name>:webhook`.
    pub name: String,
    /// Where events are posted to.
    pub endpoint: Uri,
    /// The value of `Authorization`, if it is to be shown one.
    pub authorization: Option<HeaderValue>,
    /// Of whom its certificate may be; empty for the authorities of the system.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// A target cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{variable}` is not usable: {reason}")]
pub struct InvalidTarget {
    variable: String,
    reason: String,
}

/// The targets that the environment names; `setting` gives the value of a variable, also from the file that
/// `<variable>_FILE` names, and `file` the content of a file.
///
/// # Errors
/// [`InvalidTarget`], or that of `setting`.
pub(crate) fn webhooks<E: From<InvalidTarget>>(
    variables: impl Iterator<Item = String>,
    setting: impl Fn(&str) -> Result<Option<String>, E>,
    file: impl Fn(&str) -> Result<String, String>,
) -> Result<Vec<Webhook>, E> {
    let mut names: Vec<String> = variables
        .filter_map(|variable| variable.strip_prefix(ENDPOINT).map(str::to_owned))
        .map(|name| name.strip_suffix("_FILE").map(str::to_owned).unwrap_or(name))
        .collect();
    names.sort_unstable();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        let [endpoint_variable, token_variable, authorities_variable] =
            [ENDPOINT, TOKEN, AUTHORITIES].map(|variable| format!("{variable}{name}"));
        let Some(address) = setting(&endpoint_variable)? else { continue };
        let invalid = |variable: &str, reason: &str| InvalidTarget {
            variable: variable.to_owned(),
            reason: reason.to_owned(),
        };
        let endpoint = endpoint(&address).map_err(|reason| invalid(&endpoint_variable, reason))?;
        let known = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > MAX_NAME_CHARS || !name.chars().all(known) {
            return Err(
                invalid(&endpoint_variable, "a target's name is 1 to 64 letters, digits, _ and -").into()
            );
        }
        let authorization = match setting(&token_variable)? {
            None => None,
            Some(token) => {
                let value = authorization(&token);
                Some(value.ok_or_else(|| invalid(&token_variable, "a header cannot carry it"))?)
            }
        };
        let authorities = match setting(&authorities_variable)? {
            None => Vec::new(),
            Some(_) if endpoint.scheme_str() != Some("https") => {
                return Err(invalid(&authorities_variable, "its endpoint is not an https one").into());
            }
            Some(path) => file(&path)
                .and_then(|text| authorities(&text))
                .map_err(|reason| invalid(&authorities_variable, &format!("`{path}`: {reason}")))?,
        };
        let name = name.to_ascii_lowercase();
        if found.iter().any(|known: &Webhook| known.name == name) {
            return Err(invalid(&endpoint_variable, "another target has this name").into());
        }
        found.push(Webhook { name, endpoint, authorization, authorities });
    }
    Ok(found)
}

fn endpoint(text: &str) -> Result<Uri, &'static str> {
    let uri: Uri = text.trim().parse().map_err(|_| "it is not a URL")?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
        _ => Err("it must be a URL such as https://hooks.example.com/events or http://10.0.0.9:8080/events"),
    }
}

/// Certificates of authorities, in PEM.
fn authorities(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    for certificate in &found {
        RootCertStore::empty().add(certificate.clone()).map_err(|error| error.to_string())?;
    }
    if found.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(found) }
}

/// A token alone is a bearer's; what has a scheme before it stays as it is.
fn authorization(token: &str) -> Option<HeaderValue> {
    let token = token.trim();
    let text = if token.contains(' ') { token.to_owned() } else { format!("Bearer {token}") };
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Vec<Webhook>, InvalidTarget> {
        let names = variables.iter().map(|(name, _)| (*name).to_owned());
        let setting = |wanted: &str| {
            let file = format!("{wanted}_FILE");
            let found = variables.iter().find(|(name, _)| *name == wanted || *name == file);
            Ok(found.map(|(_, value)| (*value).to_owned()))
        };
        webhooks(names, setting, |path| match path {
            "/empty" => Ok(String::new()),
            _ => Err("no such file".to_owned()),
        })
    }

    #[test]
    fn targets_are_named_by_variables() {
        let found = read(&[
            ("COFFER_NOTIFY_WEBHOOK_ENDPOINT_MAIN", "http://h:1/p?q=1"),
            ("COFFER_NOTIFY_WEBHOOK_AUTH_TOKEN_MAIN_FILE", "secret"),
            ("COFFER_NOTIFY_WEBHOOK_ENDPOINT_B_FILE", "https://h"),
            ("COFFER_NOTIFY_WEBHOOK_AUTH_TOKEN_B", "Basic abc"),
            ("COFFER_NOTIFY_WEBHOOK_AUTH_TOKEN_NOBODY", "x"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|target| {
                let authorization = target.authorization.as_ref().map(|value| value.to_str().unwrap());
                (target.name.as_str(), target.endpoint.to_string(), authorization)
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("b", "https://h/".to_owned(), Some("Basic abc")),
                ("main", "http://h:1/p?q=1".to_owned(), Some("Bearer secret")),
            ]
        );
        assert_eq!(read(&[]), Ok(Vec::new()));
    }

    #[test]
    fn what_cannot_be_used_is_told_at_the_start() {
        for (variable, value) in [
            ("COFFER_NOTIFY_WEBHOOK_ENDPOINT_A", "ftp://h"),
            ("COFFER_NOTIFY_WEBHOOK_ENDPOINT_A", "h:80"),
            ("COFFER_NOTIFY_WEBHOOK_ENDPOINT_A", "/path"),
            ("COFFER_NOTIFY_WEBHOOK_ENDPOINT_", "http://h"),
            ("COFFER_NOTIFY_WEBHOOK_ENDPOINT_A:B", "http://h"),
        ] {
            assert!(
                read(&[(variable, value)]).unwrap_err().to_string().contains(variable),
                "{variable} {value}"
            );
        }
        for (endpoint, path, reason) in [
            ("http://h", "/empty", "not an https one"),
            ("https://h", "/empty", "no certificate"),
            ("https://h", "/none", "no such file"),
        ] {
            let with_authorities =
                [("COFFER_NOTIFY_WEBHOOK_ENDPOINT_A", endpoint), ("COFFER_NOTIFY_WEBHOOK_CA_A", path)];
            let error = read(&with_authorities).unwrap_err().to_string();
            assert!(error.contains("COFFER_NOTIFY_WEBHOOK_CA_A") && error.contains(reason), "{error}");
        }
        let twice = [
            ("COFFER_NOTIFY_WEBHOOK_ENDPOINT_A", "http://h"),
            ("COFFER_NOTIFY_WEBHOOK_ENDPOINT_a", "http://i"),
        ];
        assert!(read(&twice).is_err());
    }
}
