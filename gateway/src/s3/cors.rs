//! Cross-origin requests of browsers: a bucket's rules, preflights, and the headers of actual answers.
//!
//! Owns: the rules and which of them a request meets. Never: lets a request through or refuses it; browsers do, by the
//! headers. The first rule that matches counts.
//!
//! Source: "Using cross-origin resource sharing (CORS)" of the Amazon S3 User Guide; the Fetch standard.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::error::{Code, S3Error};
use super::xml::{DECLARATION, Element, NAMESPACE, malformed, push_element};

/// Most rules of a bucket (S3).
const MAX_RULES: usize = 100;
const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];

/// The rules of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cors {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rule {
    id: Option<String>,
    origins: Vec<String>,
    methods: Vec<String>,
    headers: Vec<String>,
    expose: Vec<String>,
    max_age_seconds: Option<u32>,
}

/// What a browser asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// Where its page comes from.
    pub(crate) origin: &'a str,
    /// Which method it uses, or means to.
    pub(crate) method: &'a str,
    /// Which headers it means to send, in a preflight.
    pub(crate) headers: Option<&'a str>,
}

impl Cors {
    /// Reads `<CORSConfiguration>`.
    ///
    /// # Errors
    /// `MalformedXML` or `InvalidRequest`.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, S3Error> {
        let document = Element::parse(body, "CORSConfiguration")?;
        let rules = document.children_of("CORSRule").map(Rule::parse).collect::<Result<Vec<_>, _>>()?;
        if rules.is_empty() || rules.len() > MAX_RULES {
            return Err(malformed());
        }
        Ok(Self { rules })
    }

    /// Writes `<CORSConfiguration>`.
    pub(crate) fn document(&self) -> String {
        let mut out = format!("{DECLARATION}<CORSConfiguration xmlns=\"{NAMESPACE}\">");
        for rule in &self.rules {
            out.push_str("<CORSRule>");
            let id = rule.id.iter().map(|id| ("ID", id));
            let headers = rule.headers.iter().map(|text| ("AllowedHeader", text));
            let methods = rule.methods.iter().map(|text| ("AllowedMethod", text));
            let origins = rule.origins.iter().map(|text| ("AllowedOrigin", text));
            let expose = rule.expose.iter().map(|text| ("ExposeHeader", text));
            for (name, text) in id.chain(headers).chain(methods).chain(origins).chain(expose) {
                push_element(&mut out, name, text);
            }
            if let Some(seconds) = rule.max_age_seconds {
                push_element(&mut out, "MaxAgeSeconds", &seconds.to_string());
            }
            out.push_str("</CORSRule>");
        }
        out.push_str("</CORSConfiguration>");
        out
    }

    /// The headers of the answer to what a browser asks; `None` if no rule matches.
    pub(crate) fn answer(&self, asked: &Asked<'_>) -> Option<HeaderMap> {
        let rule = self.rules.iter().find(|rule| rule.matches(asked))?;
        let mut headers = HeaderMap::new();
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        let anywhere = rule.origins.iter().any(|origin| origin == "*");
        set(header::ACCESS_CONTROL_ALLOW_ORIGIN, if anywhere { "*" } else { asked.origin });
        if !anywhere {
            set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        set(header::ACCESS_CONTROL_ALLOW_METHODS, &rule.methods.join(", "));
        if let Some(wanted) = asked.headers {
            set(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
        }
        if !rule.expose.is_empty() {
            set(header::ACCESS_CONTROL_EXPOSE_HEADERS, &rule.expose.join(", "));
        }
        if let Some(seconds) = rule.max_age_seconds {
            set(header::ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
        }
        set(header::VARY, "Origin, Access-Control-Request-Headers, Access-Control-Request-Method");
        Some(headers)
    }
}

impl Rule {
    fn parse(rule: &Element) -> Result<Self, S3Error> {
        let all = |name: &str| -> Vec<String> {
            rule.children_of(name).map(|element| element.text.trim().to_owned()).collect()
        };
        let (origins, methods) = (all("AllowedOrigin"), all("AllowedMethod"));
        if origins.is_empty() || methods.is_empty() {
            return Err(malformed());
        }
        if let Some(method) = methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
            let message =
                format!("Found unsupported HTTP method in CORS config. Unsupported method is {method}");
            return Err(S3Error::with(Code::InvalidRequest, message));
        }
        let headers = all("AllowedHeader");
        for (what, texts) in [("AllowedOrigin", &origins), ("AllowedHeader", &headers)] {
            if let Some(text) = texts.iter().find(|text| text.matches('*').count() > 1) {
                let message = format!("{what} \"{text}\" can not have more than one wildcard.");
                return Err(S3Error::with(Code::InvalidRequest, message));
            }
        }
        let expose = all("ExposeHeader");
        if let Some(text) = expose.iter().find(|text| text.contains('*')) {
            let message = format!(
                "ExposeHeader \"{text}\" contains wildcard. We currently do not support wildcard for ExposeHeader."
            );
            return Err(S3Error::with(Code::InvalidRequest, message));
        }
        let max_age_seconds = match rule.text_of("MaxAgeSeconds") {
            None => None,
            Some(text) => Some(text.trim().parse().map_err(|_| malformed())?),
        };
        let id = rule.text_of("ID").map(|id| id.trim().to_owned());
        if id.as_ref().is_some_and(|id| id.len() > 255) {
            return Err(malformed());
        }
        Ok(Self { id, origins, methods, headers, expose, max_age_seconds })
    }

    fn matches(&self, asked: &Asked<'_>) -> bool {
        let header = |wanted: &str| {
            let wanted = wanted.trim().to_ascii_lowercase();
            wanted.is_empty() || self.headers.iter().any(|known| wild(&known.to_ascii_lowercase(), &wanted))
        };
        self.origins.iter().any(|origin| wild(origin, asked.origin))
            && self.methods.iter().any(|method| method == asked.method)
            && asked.headers.is_none_or(|wanted| wanted.split(',').all(header))
    }
}

/// Whether `text` matches a pattern with at most one `*`.
fn wild(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            text.len() >= before.len() + after.len() && text.starts_with(before) && text.ends_with(after)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(rules: &str) -> Result<Cors, S3Error> {
        Cors::parse(format!("<CORSConfiguration>{rules}</CORSConfiguration>").as_bytes())
    }

    const RULES: &str = "<CORSRule><ID>one</ID><AllowedOrigin>https://*.example.com</AllowedOrigin>\
         <AllowedMethod>PUT</AllowedMethod><AllowedHeader>x-amz-*</AllowedHeader><ExposeHeader>ETag</ExposeHeader>\
         <MaxAgeSeconds>60</MaxAgeSeconds></CORSRule><CORSRule><AllowedOrigin>*</AllowedOrigin>\
         <AllowedMethod>GET</AllowedMethod></CORSRule>";

    #[test]
    fn rules_read_back_as_they_were_written() {
        let rules = cors(RULES).unwrap();
        assert_eq!(Cors::parse(rules.document().as_bytes()).unwrap(), rules);
    }

    #[test]
    fn the_first_rule_that_matches_answers() {
        let rules = cors(RULES).unwrap();
        let ask = |origin, method, headers| rules.answer(&Asked { origin, method, headers });
        let put = ask("https://a.example.com", "PUT", Some("X-Amz-Date, x-amz-acl")).unwrap();
        assert_eq!(put["access-control-allow-origin"], "https://a.example.com");
        assert_eq!(put["access-control-allow-credentials"], "true");
        assert_eq!(put["access-control-allow-headers"], "X-Amz-Date, x-amz-acl");
        assert_eq!(put["access-control-expose-headers"], "ETag");
        assert_eq!(put["access-control-max-age"], "60");
        let get = ask("http://elsewhere", "GET", None).unwrap();
        assert_eq!(get["access-control-allow-origin"], "*");
        assert!(!get.contains_key("access-control-allow-credentials"));
        assert!(ask("http://elsewhere", "PUT", None).is_none());
        assert!(ask("https://a.example.com", "PUT", Some("content-type")).is_none());
        assert!(ask("https://example.com", "PUT", None).is_none());
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        let code = |rules: &str| cors(rules).unwrap_err().code();
        let rule = |inner: &str| format!("<CORSRule>{inner}</CORSRule>");
        let (origin, get) = ("<AllowedOrigin>*</AllowedOrigin>", "<AllowedMethod>GET</AllowedMethod>");
        assert_eq!(code(""), Code::MalformedXML);
        assert_eq!(code(&rule(origin)), Code::MalformedXML);
        assert_eq!(code(&rule(get)), Code::MalformedXML);
        let patch = rule(&format!("{origin}<AllowedMethod>PATCH</AllowedMethod>"));
        assert_eq!(code(&patch), Code::InvalidRequest);
        assert_eq!(code(&rule(&format!("{get}<AllowedOrigin>*.*</AllowedOrigin>"))), Code::InvalidRequest);
        let expose = format!("{origin}{get}<ExposeHeader>x-*</ExposeHeader>");
        assert_eq!(code(&rule(&expose)), Code::InvalidRequest);
        assert_eq!(code(&rule(&format!("{origin}{get}")).repeat(101)), Code::MalformedXML);
    }
}
