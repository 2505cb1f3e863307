//! Free loopback ports. A port is handed out once per test process and was free a moment ago; ports below the
//! kernel's range for outgoing connections, so that no client socket takes one in between.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A free port of 127.0.0.1.
pub fn free_port() -> u16 {
    let start = u16::try_from(std::process::id() % 2000).unwrap_or_default() * 10;
    for _ in 0..20_000 {
        let port = 11_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1");
}
