//! The credential scope: `<access key>/<day>/<region>/s3/aws4_request`.

/// A parsed credential; region and day are not judged yet.
pub(in crate::s3::auth) struct Scope<'a> {
    pub(in crate::s3::auth) access_key: &'a str,
    pub(in crate::s3::auth) day: &'a str,
    pub(in crate::s3::auth) region: &'a str,
}

impl<'a> Scope<'a> {
    /// Parses from the right, since an access key may hold a `/`. The error is the text S3 puts after
    /// "malformed;".
    pub(in crate::s3::auth) fn parse(credential: &'a str) -> Result<Self, &'static str> {
        let mut parts = credential.rsplitn(5, '/');
        let (Some(terminal), Some(service), Some(region), Some(day), Some(access_key)) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(
                "the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
            );
        };
        if terminal != "aws4_request" {
            return Err("the Credential must end with \"aws4_request\"");
        }
        if service != "s3" {
            return Err("incorrect service in the Credential. This endpoint belongs to \"s3\".");
        }
        if day.len() != 8 || !day.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("the Credential's date must be in YYYYMMDD form");
        }
        if access_key.is_empty() || region.is_empty() {
            return Err("the Credential has an empty access key or region");
        }
        Ok(Self { access_key, day, region })
    }

    /// The configured region, if the scope names another.
    pub(in crate::s3::auth) fn wrong_region(&self, expected: Option<&str>) -> Option<String> {
        expected.filter(|expected| *expected != self.region).map(str::to_owned)
    }

    /// Whether the scope's day is the day of `YYYYMMDDTHHMMSSZ`.
    pub(in crate::s3::auth) fn is_of_day(&self, date: &str) -> bool {
        date.get(..8) == Some(self.day)
    }

    /// The scope without the access key, as the string to sign holds it.
    pub(in crate::s3::auth) fn text(&self) -> String {
        format!("{}/{}/s3/aws4_request", self.day, self.region)
    }
}
