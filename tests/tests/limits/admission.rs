//! More uploads at a time than there are stripe buffers for: some wait, some are told to slow down, all are answered, and
//! what was acknowledged is there.

use std::time::Duration;

use anyhow::Result;
use coffer_tests::harness::standalone::Standalone;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::{RawRequest, answer_head, bytes, get, keys};

/// The buffers of one upload to four drives are at least 1.375 MiB, the budget is 160 MiB: these are too many.
const UPLOADS: usize = 180;
const SIZE: usize = 1 << 20;

/// Uploads half, waits for the release or a refusal, and then the rest. The status, and whether it says when to come back.
async fn upload(
    request: RawRequest,
    body: Vec<u8>,
    mut released: watch::Receiver<bool>,
) -> Result<(u16, bool)> {
    let mut stream = request.begin("PUT", SIZE, &body[..SIZE / 2]).await?;
    let early = tokio::select! {
        head = answer_head(&mut stream) => Some(head?),
        _ = released.wait_for(|released| *released) => None,
    };
    let head = match early {
        Some(head) => head,
        None => {
            // A refusal may come in between: the answer says so.
            let _ = stream.write_all(&body[SIZE / 2..]).await;
            answer_head(&mut stream).await?
        }
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, head.to_ascii_lowercase().contains("\r\nretry-after: ")))
}

#[tokio::test(flavor = "multi_thread")]
async fn more_uploads_than_buffers_wait_or_slow_down_and_none_is_lost() -> Result<()> {
    let server = Standalone::start(4).await?;
    let client = server.client();
    client.create_bucket().bucket("limits").send().await?;
    let (release, released) = watch::channel(false);
    let (refused, mut refusals) = watch::channel(0_usize);
    let mut running = Vec::new();
    for number in 0..UPLOADS {
        let request = RawRequest::put(&client, &server.endpoint(), &format!("upload/{number:03}")).await?;
        let (body, released, refused) = (bytes(SIZE, number as u8), released.clone(), refused.clone());
        running.push(tokio::spawn(async move {
            let answer = upload(request, body, released).await;
            refused.send_modify(|count| *count += usize::from(!matches!(answer, Ok((200, _)))));
            answer
        }));
    }
    // Nobody goes on before somebody has waited too long.
    tokio::time::timeout(Duration::from_secs(120), refusals.wait_for(|count| *count > 0)).await??;
    release.send_replace(true);
    let mut stored = Vec::new();
    for (number, upload) in running.into_iter().enumerate() {
        match upload.await?? {
            (200, _) => stored.push(format!("upload/{number:03}")),
            (503, comes_back) => assert!(comes_back, "upload {number}: 503 without Retry-After"),
            (status, _) => panic!("upload {number} is answered {status}\n{}", server.process().log_tail()),
        }
    }
    assert!(stored.len() >= 64 && stored.len() < UPLOADS, "{} uploads are stored", stored.len());
    assert_eq!(keys(&client).await?, stored);
    for key in &stored {
        let number: usize = key[7..].parse()?;
        assert!(get(&client, key).await == Ok(bytes(SIZE, number as u8)), "{key} differs");
    }
    // The buffers are free again.
    let again = client.put_object().bucket("limits").key("again").body(bytes(SIZE, 7).into()).send().await;
    assert!(again.is_ok(), "{again:?}");
    assert!(!server.process().log().contains("panicked"), "{}", server.process().log_tail());
    Ok(())
}
