//! S3 clients of the AWS SDK, pointed at a process of the harness.

use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Builder, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

/// The access key every process of the harness is started with.
pub const ACCESS_KEY: &str = "coffer-test";
/// The secret key every process of the harness is started with.
pub const SECRET_KEY: &str = "coffer-test-secret";

/// A path-style client without retries: a test sees every error.
pub fn s3(endpoint: &str) -> aws_sdk_s3::Client {
    s3_as(endpoint, ACCESS_KEY, SECRET_KEY)
}

/// The same for other credentials.
pub fn s3_as(endpoint: &str, access_key: &str, secret_key: &str) -> aws_sdk_s3::Client {
    let config = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new(access_key, secret_key, None, None, "harness"))
        .retry_config(RetryConfig::disabled())
        .force_path_style(true)
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

/// The S3 code and HTTP status of a refusal.
///
/// # Panics
/// If it was no refusal.
pub fn refusal<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug>(
    answer: Result<T, SdkError<E>>,
) -> (String, u16) {
    let error = answer.expect_err("it must be refused");
    let status = error.raw_response().map_or(0, |raw| raw.status().as_u16());
    (error.code().unwrap_or_default().to_owned(), status)
}

/// A refusal to compare with.
pub fn refused(code: &str, status: u16) -> (String, u16) {
    (code.to_owned(), status)
}
