//! S3 clients of the AWS SDK, pointed at a process of the harness.

use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Builder, Credentials, Region};

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
