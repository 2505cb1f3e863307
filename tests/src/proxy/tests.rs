use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Lane, Link, Proxy};

/// A node that sends back what it is sent, and its proxy.
async fn echo() -> Proxy {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    Proxy::start(port).await.unwrap()
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap()
}

/// What comes back of `text`, and how long that took.
async fn ask(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Duration> {
    let start = Instant::now();
    stream.write_all(text).await?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await?;
    assert_eq!(back, text);
    Ok(start.elapsed())
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    let patience = Duration::from_millis(300);
    tokio::time::timeout(patience, stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn open_late_and_slow_lanes_carry_every_byte() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    ask(&mut stream, &[7; 300_000]).await.unwrap();
    proxy.set(Link::both(Lane::Late(Duration::from_millis(60), Duration::from_millis(20))));
    assert!(ask(&mut stream, b"late").await.unwrap() >= Duration::from_millis(120));
    proxy.set(Link { to_caller: Lane::Slow(1000), ..Link::OPEN });
    assert!(ask(&mut stream, &[1; 500]).await.unwrap() >= Duration::from_millis(400));
}

#[tokio::test]
async fn what_was_held_comes_late_also_from_a_sender_that_has_gone() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap().port()).await.unwrap();
    proxy.set(Link::SILENT);
    let mut stream = connect(&proxy).await;
    stream.write_all(b"a request").await.unwrap();
    assert!(is_silent(&mut stream).await);
    let (mut node, _) = listener.accept().await.unwrap();
    drop(stream);
    assert!(is_silent(&mut node).await);
    proxy.set(Link::OPEN);
    let mut came = String::new();
    node.read_to_string(&mut came).await.unwrap();
    assert_eq!(came, "a request");
}

#[tokio::test]
async fn one_way_and_resets_are_what_they_say() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    proxy.set(Link::NO_REPLIES);
    stream.write_all(b"x").await.unwrap();
    assert!(is_silent(&mut stream).await);
    proxy.set(Link::OPEN);
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    proxy.set(Link { to_node: Lane::CutAfter(10), ..Link::OPEN });
    ask(&mut stream, b"0123456789").await.unwrap();
    ask(&mut stream, b"one too many").await.unwrap_err();
    let mut stream = connect(&proxy).await;
    ask(&mut stream, b"again").await.unwrap();
    proxy.set(Link::RESET);
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let mut refused = connect(&proxy).await;
    refused.read_u8().await.unwrap_err();
    // One that is over before anybody looks.
    proxy.set(Link::OPEN);
    let mut stream = connect(&proxy).await;
    ask(&mut stream, b"open").await.unwrap();
    proxy.set(Link::RESET);
    proxy.set(Link::OPEN);
    stream.read_u8().await.unwrap_err();
}

#[tokio::test]
async fn callers_are_told_apart_by_their_process() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    ask(&mut stream, b"before").await.unwrap();
    proxy.set_for(std::process::id() + 1, Link::RESET);
    ask(&mut stream, b"somebody else's").await.unwrap();
    proxy.set_for(std::process::id(), Link::RESET);
    stream.read_u8().await.unwrap_err();
    proxy.set(Link::OPEN);
    ask(&mut connect(&proxy).await, b"after").await.unwrap();
}
