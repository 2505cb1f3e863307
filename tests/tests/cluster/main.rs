//! Clusters of processes in the shapes that the other suites do not start: mutual TLS between the nodes, and separate
//! storage nodes and gateways.

mod daemons;
mod tls;

use aws_sdk_s3::Client;

/// Bytes that tell their place, so that shifted or foreign ones are seen.
fn bytes(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
}

async fn put(client: &Client, key: &str, body: Vec<u8>) -> Result<(), u16> {
    let sent = client.put_object().bucket("cluster").key(key).body(body.into()).send().await;
    sent.map(|_| ()).map_err(|error| error.raw_response().map_or(0, |raw| raw.status().as_u16()))
}

async fn get(client: &Client, key: &str) -> Result<Vec<u8>, u16> {
    let got = client.get_object().bucket("cluster").key(key).send().await;
    let got = got.map_err(|error| error.raw_response().map_or(0, |raw| raw.status().as_u16()))?;
    got.body.collect().await.map(|bytes| bytes.to_vec()).map_err(|_| 0)
}
