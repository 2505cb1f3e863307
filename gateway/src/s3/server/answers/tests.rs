use std::convert::Infallible;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self as client, SendRequest};
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Semaphore;

use super::*;
use crate::s3::metered::Metered;
use crate::s3::response::ResponseBody;

const SECOND: Duration = Duration::from_secs(1);
const PIECES: usize = 8;
/// Of HTTP/2, of one answer.
const WINDOW_BYTES: usize = 64 * 1024;

/// A body that takes so long for each of its pieces, and holds a place.
fn body(pause: Duration, places: &Arc<Semaphore>) -> Metered {
    let pieces = stream::iter(0..PIECES).then(move |_| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, BoxError>(Frame::data(Bytes::from(vec![0_u8; 4 * PIECE_BYTES])))
    });
    let place = Arc::new(Arc::clone(places).try_acquire_owned().unwrap());
    let pieces: ResponseBody = StreamBody::new(pieces).boxed_unsync();
    Metered::new(pieces, "GetObject", (StatusCode::OK, None), Instant::now(), Some(place))
}

fn one_place() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_which_nothing_is_taken_gives_back_what_it_holds() {
    let (answers, places) = (Answers::new(), one_place());
    let mut answer = answers.keep(body(Duration::ZERO, &places));
    assert_eq!(answer.frame().await.unwrap().unwrap().data_ref().unwrap().len(), PIECE_BYTES);
    tokio::time::advance(STALL_LIMIT - SECOND).await;
    answers.look();
    assert_eq!(places.available_permits(), 0);
    tokio::time::advance(SECOND).await;
    answers.look();
    assert_eq!(places.available_permits(), 1);
    assert!(!answer.is_end_stream());
    assert!(answer.frame().await.unwrap().is_err(), "who comes back is told");
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_not_late() {
    let (answers, places) = (Answers::new(), one_place());
    let mut answer = answers.keep(body(Duration::ZERO, &places));
    let mut taken = 0;
    while let Some(piece) = answer.frame().await {
        taken += piece.unwrap().data_ref().unwrap().len();
        tokio::time::advance(STALL_LIMIT - SECOND).await;
        answers.look();
    }
    assert_eq!(taken, PIECES * 4 * PIECE_BYTES);
}

#[tokio::test(start_paused = true)]
async fn a_slow_gateway_is_not_the_clients_fault() {
    let (answers, places) = (Answers::new(), one_place());
    let answer = answers.keep(body(STALL_LIMIT * 3, &places));
    let whole = tokio::select! {
        whole = answer.collect() => whole.unwrap(),
        () = answers.watch() => unreachable!("it never ends"),
    };
    assert_eq!(whole.to_bytes().len(), PIECES * 4 * PIECE_BYTES);
}

#[tokio::test]
async fn answers_that_are_over_are_forgotten() {
    let answers = Answers::new();
    let still = answers.keep(Full::new(Bytes::from_static(b"a")));
    for _ in 0..3 * MOST_KEPT {
        assert_eq!(answers.keep(Full::new(Bytes::from_static(b"b"))).size_hint().exact(), Some(1));
    }
    assert!(answers.0.lock().len() <= MOST_KEPT);
    assert!(answers.0.lock().iter().any(|held| held.strong_count() > 0));
    assert_eq!(still.collect().await.unwrap().to_bytes(), "a");
}

/// The answer of a server over HTTP/2; the connection ends with the sender.
async fn asked(places: &Arc<Semaphore>, window_bytes: usize) -> (SendRequest<Empty<Bytes>>, Incoming) {
    let (near, far) = tokio::io::duplex(1024 * 1024);
    let (answers, free) = (Answers::new(), Arc::clone(places));
    let kept = answers.clone();
    let service = service_fn(move |_: Request<Incoming>| {
        let answer = kept.keep(body(Duration::ZERO, &free));
        async move { Ok::<_, Infallible>(Response::new(answer)) }
    });
    let connection = server::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(far), service);
    tokio::spawn(async move {
        tokio::select! {
            _ = connection => {}
            () = answers.watch() => {}
        }
    });
    let (mut sender, connection) = client::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window_bytes as u32)
        .handshake(TokioIo::new(near))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::builder().uri("http://host/").body(Empty::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    (sender, answer.into_body())
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_window_stays_closed_holds_no_place() {
    let places = one_place();
    let (_sender, mut answer) = asked(&places, WINDOW_BYTES).await;
    tokio::time::sleep(STALL_LIMIT - SECOND).await;
    assert_eq!(places.available_permits(), 0);
    tokio::time::sleep(LOOK + SECOND * 2).await;
    assert_eq!(places.available_permits(), 1);
    let mut taken = 0;
    let broken = loop {
        match answer.frame().await {
            Some(Ok(frame)) => taken += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(broken, "it looks whole after {taken} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_window_was_never_open_holds_no_place() {
    let places = one_place();
    let (_sender, _answer) = asked(&places, 0).await;
    assert_eq!(places.available_permits(), 0);
    tokio::time::sleep(STALL_LIMIT + LOOK + SECOND).await;
    assert_eq!(places.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_window_opens_now_and_then_comes_to_its_end() {
    let places = one_place();
    let (_sender, mut answer) = asked(&places, WINDOW_BYTES).await;
    let (mut taken, mut rested) = (0, 0);
    while let Some(frame) = answer.frame().await {
        taken += frame.unwrap().data_ref().map_or(0, Bytes::len);
        if taken >= rested + WINDOW_BYTES {
            rested = taken;
            tokio::time::sleep(STALL_LIMIT - LOOK).await;
        }
    }
    assert_eq!(taken, PIECES * 4 * PIECE_BYTES);
}
