//! A TCP proxy that breaks on command: what a network does to a node, on one machine and without any privilege.
//!
//! Owns: one port in front of another, and what happens to the bytes of each direction. It never looks into them: to it
//! everything is a stream, so a test meets the transport as it is.
//!
//! A connection has two lanes, one each way. [`Proxy::set`] changes them while it runs, for connections that exist and
//! for those to come; [`Proxy::set_for`] does so for the connections of one process, so that two callers of one node
//! can see different networks.
//!
//! A lane that is [`Lane::Held`] is a black hole that may end: connections are accepted, bytes are taken (about a
//! megabyte, as much as the buffers of a kernel), and are delivered when it is opened, even if their sender has gone
//! meanwhile. That is how a request comes late.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use coffer_common::random::between;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Read at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that wait in a lane: together about what two kernels buffer.
const PIECES: usize = 16;

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// They pass.
    #[default]
    Open,
    /// They come later: by this much, and by a random part of the second.
    Late(Duration, Duration),
    /// No more than this many pass in a second.
    Slow(u64),
    /// None passes until the lane is something else.
    Held,
    /// So many pass from now on, then the connection is reset.
    CutAfter(u64),
}

/// What happens to connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether connections, also those that exist, are reset.
    pub reset: bool,
    /// Requests.
    pub to_node: Lane,
    /// Replies.
    pub to_caller: Lane,
}

impl Link {
    /// Everything passes.
    pub const OPEN: Self = Self { reset: false, to_node: Lane::Open, to_caller: Lane::Open };
    /// Every connection is reset.
    pub const RESET: Self = Self { reset: true, ..Self::OPEN };
    /// Connections are accepted, and nothing passes.
    pub const SILENT: Self = Self::both(Lane::Held);
    /// Requests arrive, replies do not.
    pub const NO_REPLIES: Self = Self { to_caller: Lane::Held, ..Self::OPEN };
    /// The reverse.
    pub const NO_REQUESTS: Self = Self { to_node: Lane::Held, ..Self::OPEN };

    /// The same in both directions.
    pub const fn both(lane: Lane) -> Self {
        Self { reset: false, to_node: lane, to_caller: lane }
    }
}

#[derive(Clone, Debug, Default)]
struct Rules {
    /// Raised with every reset, so that one which is over at once is not missed.
    resets: u64,
    all: Link,
    of_process: HashMap<u32, Link>,
}

impl Rules {
    fn of(&self, process: Option<u32>) -> Link {
        process.and_then(|process| self.of_process.get(&process)).copied().unwrap_or(self.all)
    }
}

/// A port of 127.0.0.1 in front of another. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    target: Arc<AtomicU16>,
    rules: watch::Sender<Rules>,
    _task: JoinSet<()>,
}

impl Proxy {
    /// Starts one in front of `target`, all open.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start(target: u16) -> io::Result<Self> {
        let port = crate::harness::ports::free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let (rules, target) = (watch::Sender::new(Rules::default()), Arc::new(AtomicU16::new(target)));
        let mut task = JoinSet::new();
        task.spawn(accept(listener, target.clone(), rules.subscribe()));
        Ok(Self { port, target, rules, _task: task })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What happens from now on, to every caller.
    pub fn set(&self, link: Link) {
        self.rules.send_modify(|rules| {
            let resets = rules.resets + u64::from(link.reset);
            *rules = Rules { resets, all: link, of_process: HashMap::new() };
        });
    }

    /// What happens from now on to the connections of this process.
    pub fn set_for(&self, process: u32, link: Link) {
        self.rules.send_modify(|rules| {
            rules.of_process.insert(process, link);
        });
    }

    /// Connections go to this port; those that exist are reset.
    pub fn aim(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
        self.rules.send_modify(|rules| rules.resets += 1);
    }
}

async fn accept(listener: TcpListener, target: Arc<AtomicU16>, rules: watch::Receiver<Rules>) {
    let mut connections = JoinSet::new();
    let own = listener.local_addr().map_or(0, |address| address.port());
    loop {
        let Ok((caller, from)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let rules = rules.clone();
        // Before the target is looked at: it may be aimed anew now.
        let resets = rules.borrow().resets;
        let target = target.load(Ordering::SeqCst);
        connections.spawn(async move {
            let owner = coffer_common::blocking::run(move || owner(from, own)).await.unwrap_or_default();
            connect(caller, target, owner, (resets, rules)).await;
        });
    }
}

/// Which process the other end of a local connection belongs to, as the kernel's tables tell.
fn owner(from: SocketAddr, to_port: u16) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let ends = (format!(":{:04X}", from.port()), format!(":{to_port:04X}"));
    let inode = table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let found = columns.get(1)?.ends_with(&ends.0) && columns.get(2)?.ends_with(&ends.1);
        found.then(|| columns.get(9).map(|inode| format!("socket:[{inode}]")))?
    })?;
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|process: &u32| {
        let Ok(files) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
        files
            .flatten()
            .any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == &*inode))
    })
}

/// The connection ends at once, with a reset.
#[derive(Debug)]
struct Reset;

async fn connect(
    mut caller: TcpStream,
    target: u16,
    owner: Option<u32>,
    (resets, mut rules): (u64, watch::Receiver<Rules>),
) {
    let view = |pick: fn(&Link) -> Lane| View { rules: rules.clone(), owner, pick, cut: None };
    let (requests, replies) = (view(|link| link.to_node), view(|link| link.to_caller));
    // An error is the end of the proxy, and of all its connections with it.
    let is_reset = |rules: &Rules| rules.resets != resets || rules.of(owner).reset;
    let reset = async { drop(rules.wait_for(is_reset).await) };
    let connected = async {
        let mut node = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await.map_err(|_| Reset)?;
        let _ = (caller.set_nodelay(true), node.set_nodelay(true));
        let ((from_caller, to_caller), (from_node, to_node)) = (caller.split(), node.split());
        tokio::try_join!(carry(from_caller, to_node, requests), carry(from_node, to_caller, replies))
    };
    let ended = tokio::select! {
        biased;
        () = reset => Err(Reset),
        ended = connected => ended,
    };
    if ended.is_err() {
        // Nobody is to take this for the clean end of a stream.
        let _ = caller.set_zero_linger();
    }
}

/// One lane's rules as they are now.
struct View {
    rules: watch::Receiver<Rules>,
    owner: Option<u32>,
    pick: fn(&Link) -> Lane,
    /// Bytes that may still pass.
    cut: Option<u64>,
}

impl View {
    fn now(&mut self) -> Lane {
        let rules = self.rules.borrow_and_update();
        (self.pick)(&rules.of(self.owner))
    }

    /// Waits until a piece that came at `came` may pass, and tells how much of it.
    async fn admit(&mut self, came: Instant, waiting: usize) -> Result<usize, Reset> {
        loop {
            let lane = self.now();
            if !matches!(lane, Lane::CutAfter(_)) {
                self.cut = None;
            }
            match lane {
                Lane::Open => return Ok(waiting),
                Lane::Held => self.rules.changed().await.map_err(|_| Reset)?,
                Lane::Late(by, jitter) => {
                    let late = by + jitter.mul_f64(between(0.0..1.0));
                    tokio::time::sleep(late.saturating_sub(came.elapsed())).await;
                    return Ok(waiting);
                }
                Lane::Slow(per_second) => {
                    let some = usize::try_from(per_second / 10).unwrap_or(usize::MAX).clamp(1, waiting);
                    tokio::time::sleep(Duration::from_secs_f64(some as f64 / per_second.max(1) as f64)).await;
                    return Ok(some);
                }
                Lane::CutAfter(bytes) => {
                    let left = self.cut.get_or_insert(bytes);
                    if *left == 0 {
                        return Err(Reset);
                    }
                    let some = waiting.min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= some as u64;
                    return Ok(some);
                }
            }
        }
    }
}

/// Carries one direction until its end: read in one task and written in another, so that bytes which come late leave
/// room for those behind them. What was taken is delivered also when its sender has gone.
async fn carry(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut view: View) -> Result<(), Reset> {
    let (queue, mut waiting) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let read = async move {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            match from.read_buf(&mut piece).await {
                Ok(1..) if queue.send((Instant::now(), piece.freeze())).await.is_ok() => {}
                _ => return Ok(()),
            }
        }
    };
    let write = async move {
        while let Some((came, mut piece)) = waiting.recv().await {
            while !piece.is_empty() {
                let some = view.admit(came, piece.len()).await?;
                if to.write_all(&piece.split_to(some)).await.is_err() {
                    return Ok(());
                }
            }
        }
        // A receiver that has gone needs no end of the stream.
        let _ = to.shutdown().await;
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

#[cfg(test)]
mod tests;
