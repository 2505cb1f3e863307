//! Random faults on a cluster of processes: kill -9 with a restart, and SIGSTOP with a SIGCONT, of nodes, gateways and
//! etcd. Of each kind at most one is away at a time, so that the cluster can always come back, and one gateway works.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::daemons::{Daemon, Daemons};
use crate::harness::http_status;

/// Longest pause of a gateway: more than three times its lease.
const LONG_PAUSE: Duration = Duration::from_secs(33);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Node(usize),
    Gateway(usize),
    Etcd,
}

impl Victim {
    fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Kill,
    Pause,
}

#[derive(Debug)]
struct Fault {
    victim: Victim,
    harm: Harm,
    until: Instant,
    healed: bool,
}

/// How long all may take to be ready after the last fault.
const RECOVERY: Duration = Duration::from_secs(90);

/// One who does harm, the same for the same seed.
#[derive(Debug)]
pub struct Nemesis {
    random: StdRng,
    faults: Vec<Fault>,
    start: Instant,
    /// How many faults there were.
    pub count: usize,
}

impl Nemesis {
    /// One with this seed.
    pub fn new(seed: u64) -> Self {
        let (random, start) = (StdRng::seed_from_u64(seed), Instant::now());
        Self { random, faults: Vec::new(), start, count: 0 }
    }

    /// A fault every `every` for `duration`; then all is healed and ready again.
    ///
    /// # Errors
    /// If something does not come back.
    pub async fn rage(&mut self, cluster: &mut Daemons, duration: Duration, every: Duration) -> Result<()> {
        let (begun, mut next) = (Instant::now(), Instant::now());
        while begun.elapsed() < duration {
            self.heal(cluster, false).await?;
            if Instant::now() >= next {
                next += every;
                self.harm(cluster);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let calm = Instant::now();
        self.heal(cluster, true).await?;
        while !self.faults.is_empty() && calm.elapsed() < RECOVERY {
            tokio::time::sleep(Duration::from_millis(200)).await;
            self.heal(cluster, true).await?;
        }
        for daemon in cluster.nodes.iter().chain(&cluster.gateways) {
            daemon.wait_ready().await?;
        }
        Ok(())
    }

    fn harm(&mut self, cluster: &mut Daemons) {
        let random = &mut self.random;
        let victim = match random.random_range(0..10) {
            0..5 => Victim::Node(random.random_range(0..cluster.nodes.len())),
            5..8 => Victim::Gateway(random.random_range(0..cluster.gateways.len())),
            _ => Victim::Etcd,
        };
        let harm = if random.random_bool(0.5) { Harm::Kill } else { Harm::Pause };
        let long = victim != Victim::Etcd && harm == Harm::Pause && random.random_bool(0.2);
        let length = Duration::from_millis(random.random_range(500..12_000));
        let length = if long { LONG_PAUSE } else { length };
        if self.faults.iter().any(|fault| fault.victim.is_like(victim)) {
            return;
        }
        println!("{:7.1} s: {harm:?} {victim:?} for {length:.1?}", self.start.elapsed().as_secs_f64());
        match (victim, harm) {
            (Victim::Node(at), Harm::Kill) => cluster.nodes[at].process().kill(),
            (Victim::Node(at), Harm::Pause) => cluster.nodes[at].process().pause(),
            (Victim::Gateway(at), Harm::Kill) => cluster.gateways[at].process().kill(),
            (Victim::Gateway(at), Harm::Pause) => cluster.gateways[at].process().pause(),
            (Victim::Etcd, Harm::Kill) => cluster.etcd.kill(),
            (Victim::Etcd, Harm::Pause) => cluster.etcd.pause(),
        }
        self.count += 1;
        self.faults.push(Fault { victim, harm, until: Instant::now() + length, healed: false });
    }

    /// Ends the faults that are due, or all; forgets those whose victims are ready again.
    async fn heal(&mut self, cluster: &mut Daemons, all: bool) -> Result<()> {
        for fault in &mut self.faults {
            if fault.healed || !(all || Instant::now() >= fault.until) {
                continue;
            }
            fault.healed = true;
            match fault.victim {
                Victim::Node(at) => revive(&mut cluster.nodes[at], fault.harm)?,
                Victim::Gateway(at) => revive(&mut cluster.gateways[at], fault.harm)?,
                Victim::Etcd if fault.harm == Harm::Pause => cluster.etcd.resume(),
                Victim::Etcd => cluster.etcd.launch().await?,
            }
        }
        let mut left = Vec::new();
        for fault in self.faults.drain(..) {
            let recovered = fault.healed
                && match fault.victim {
                    Victim::Node(at) => is_back(&mut cluster.nodes[at]).await?,
                    Victim::Gateway(at) => is_back(&mut cluster.gateways[at]).await?,
                    Victim::Etcd => true,
                };
            if !recovered {
                left.push(fault);
            }
        }
        self.faults = left;
        Ok(())
    }
}

fn revive(daemon: &mut Daemon, harm: Harm) -> Result<()> {
    match harm {
        Harm::Kill => daemon.spawn(),
        Harm::Pause => {
            daemon.process().resume();
            Ok(())
        }
    }
}

/// Whether it is ready. One that ended, because it was started while etcd was away, is started again, as a service manager
/// would do.
async fn is_back(daemon: &mut Daemon) -> Result<bool> {
    if !daemon.process().is_running() {
        daemon.spawn()?;
    }
    Ok(http_status(&daemon.admin_url("/health/ready")).await == Some(200))
}
