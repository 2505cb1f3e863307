//! A PUT of some gibibytes that runs as long as it is told to, and verifies what it wrote.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::BUCKET;

/// Longer than the largest body that is collected in memory, and than any buffer.
pub(super) const BYTES: usize = 2304 << 20;
const PIECE: usize = 1 << 20;
/// The last tenth trickles until the stream is told to end.
const HELD_BACK: usize = BYTES / 10;
const TRICKLE: Duration = Duration::from_secs(2);
/// Between two pieces before that: about as fast as the slots move.
const PAUSE: Duration = Duration::from_millis(35);

fn piece(number: usize) -> Vec<u8> {
    vec![number as u8 ^ (number >> 8) as u8; PIECE]
}

/// The upload under way.
pub(super) struct Stream {
    key: String,
    end: Arc<AtomicBool>,
    task: JoinHandle<Result<()>>,
}

impl Stream {
    pub(super) async fn begin(client: &Client, key: &str) -> Result<Self> {
        let lifetime = PresigningConfig::expires_in(Duration::from_secs(3600))?;
        let signed = client.put_object().bucket(BUCKET).key(key).presigned(lifetime).await?;
        let uri = signed.uri().strip_prefix("http://").and_then(|uri| uri.split_once('/'));
        let (host, target) = uri.context("a URL of an object")?;
        let mut head = format!("PUT /{target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {BYTES}\r\n");
        for (name, value) in signed.headers().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(format!("{head}\r\n").as_bytes()).await?;
        let end = Arc::<AtomicBool>::default();
        let told = Arc::clone(&end);
        let task = tokio::spawn(async move {
            for number in 0..BYTES / PIECE {
                // A connection on which nothing comes is given up after a while.
                let mut waited = Duration::ZERO;
                while number * PIECE >= BYTES - HELD_BACK && waited < TRICKLE && !told.load(Ordering::Relaxed)
                {
                    tokio::time::sleep(PAUSE).await;
                    waited += PAUSE;
                }
                stream.write_all(&piece(number)).await.with_context(|| format!("piece {number}"))?;
                tokio::time::sleep(if told.load(Ordering::Relaxed) { Duration::ZERO } else { PAUSE }).await;
            }
            let mut answer = vec![0; 12];
            stream.read_exact(&mut answer).await?;
            ensure!(answer == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&answer));
            Ok(())
        });
        Ok(Self { key: key.to_owned(), end, task })
    }

    /// Sends the rest, and reads the object back.
    pub(super) async fn finish(self, client: &Client) -> Result<()> {
        ensure!(!self.task.is_finished(), "`{}` did not run all the time", self.key);
        self.end.store(true, Ordering::Relaxed);
        self.task.await?.with_context(|| self.key.clone())?;
        let begun = Instant::now();
        let mut body = client.get_object().bucket(BUCKET).key(&self.key).send().await?.body;
        let mut at = 0;
        while let Some(chunk) = body.try_next().await? {
            let right = |(offset, byte): (usize, &u8)| {
                let number = (at + offset) / PIECE;
                *byte == number as u8 ^ (number >> 8) as u8
            };
            ensure!(chunk.iter().enumerate().all(right), "`{}` reads otherwise near {at}", self.key);
            at += chunk.len();
        }
        ensure!(at == BYTES, "`{}` has {at} bytes", self.key);
        println!("{} MiB written all along, read back in {:.0?}", BYTES >> 20, begun.elapsed());
        client.delete_object().bucket(BUCKET).key(&self.key).send().await?;
        Ok(())
    }
}
