//! One schedule: random operations on one key of one partition, run to the end, and the verdict on what they returned.
//!
//! 1. Four to eight operations start at random moments, up to four at once; everything else happens in between.
//! 2. What has not ended is unknown. The network heals; two more reads are run one after the other.
//! 3. The history must be linearizable, no promise may have gone back, and the newest version must still have k shards.

use super::super::action::{NoLock, TimerKind};
use super::super::message::{SlotRequest, Version, VersionState};
use super::super::quorum::Geometry;
use super::super::tally::Tally;
use super::barrier::is_linearizable_around;
use super::broken::Broken;
use super::bucket::Buckets;
use super::client::{Choices, Client, Ended};
use super::faults::Faults;
use super::random::Random;
use super::report::Report;
use super::scenario::{Scenario, Start};
use super::world::{Envelope, Record, Slot, World};
use crate::linearizability::{Call, Operation, Return};
use crate::types::Fence;

/// What is run, apart from the seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) n: u8,
    pub(super) scenario: Scenario,
    pub(super) broken: Option<Broken>,
    pub(super) trace: bool,
}

/// How much goes wrong in this schedule.
#[derive(Clone, Copy, Debug)]
struct Weather {
    loss_per_mille: u32,
    crash_rate: u32,
    give_up_rate: u32,
    resend_rate: u32,
    /// How soon the next operation begins; seldom enough that purges find a key at rest.
    start_rate: u32,
    concurrent: usize,
    /// Data shards of the storage class; versions have fewer when slots are away.
    class_k: u8,
}

/// Runs the schedule of this seed; adds to the report. Says whether all held.
pub(super) fn run(seed: u64, setting: Setting, report: &mut Report) -> bool {
    let mut schedule = Schedule::new(seed, setting);
    schedule.run_operations();
    schedule.run_final_reads();
    schedule.conclude(seed, report)
}

pub(super) struct Schedule {
    pub(super) setting: Setting,
    pub(super) world: World,
    pub(super) faults: Faults,
    pub(super) buckets: Buckets,
    weather: Weather,
    pub(super) calls: Vec<Call>,
    /// Operations begun so far; the rest of `calls` waits.
    pub(super) started: usize,
    /// Operations whose gateway died.
    pub(super) crashed: u32,
}

impl Schedule {
    fn new(seed: u64, setting: Setting) -> Self {
        let mut random = Random::new(seed);
        let mut geometry = Geometry::new(setting.n);
        if let Some(Broken::Client(flaw)) = setting.broken {
            geometry = geometry.with_flaw(flaw);
        }
        let scenario = setting.scenario;
        let weather = weather(&mut random, setting);
        let calls = calls(&mut random, scenario);
        let stable = random.pick(&[0, 500, 1000, 1000]);
        let n = usize::from(setting.n);
        let mut world = World {
            geometry,
            bucket: 0,
            slots: vec![Slot::default(); n],
            left: vec![Vec::new(); n],
            clients: Vec::with_capacity(10),
            network: Vec::with_capacity(256),
            late: Vec::new(),
            maps: vec![Default::default()],
            random,
            now: 0,
            revision: 0,
            broken: setting.broken,
            stable_per_mille: if scenario.collects && stable == 0 { 1000 } else { stable },
            trace: setting.trace,
            swept: Vec::new(),
            breach: None,
        };
        let faults = Faults::new(scenario, &mut world);
        let mut schedule = Self {
            setting,
            world,
            faults,
            buckets: Buckets::default(),
            weather,
            calls,
            started: 0,
            crashed: 0,
        };
        schedule.seed();
        schedule
    }

    /// The next operation, with its random choices, begins.
    pub(super) fn begin(&mut self, call: Call) {
        self.started += 1;
        let record = self.buckets.known(&mut self.world);
        self.begin_as(call, self.started as u64, record);
    }

    /// An operation of this number begins; its gateway knows a record of the bucket, unless there is none in use.
    pub(super) fn begin_as(&mut self, call: Call, number: u64, record: Option<Record>) {
        let world = &mut self.world;
        let geometry = world.geometry;
        let lag = if world.random.chance(300) { world.random.below(3) } else { 0 };
        let map = world.maps[world.maps.len() - 1 - lag.min(world.maps.len() - 1)];
        let least = (geometry.n() / 2).max(1);
        let k = least + world.random.below(usize::from(self.weather.class_k) - least + 1);
        let mut first = geometry.all();
        let lists = record.is_some_and(|record| record.adopts);
        if lists || world.random.chance(500) {
            while first.len() > geometry.r0() {
                first.0 &= !(1 << world.random.below(geometry.n()));
            }
        }
        let choices = Choices {
            k: k as u8,
            reads_first: world.random.chance(500),
            first,
            settles: world.random.chance(250) && !lists,
            record: record.unwrap_or_default(),
        };
        let client = world.clients.len();
        world.clients.push(Client::new(call, number, geometry, map, choices));
        if record.is_none() {
            world.clients[client].ended = Some(Ended::NoEffect);
            return;
        }
        if call == Call::Read && choices.settles && choices.record.bucket == world.bucket {
            world.clients[client].record.revision = self.buckets.newest();
        }
        world.start(client);
    }

    fn active(&self) -> impl Iterator<Item = usize> {
        let ended = |at: &usize| self.world.clients[*at].ended.is_some() || self.crashed >> at & 1 == 1;
        (0..self.world.clients.len()).filter(move |at| !ended(at))
    }

    fn run_operations(&mut self) {
        let n = self.world.n();
        let scale = (n / 4).max(1) * 1000;
        for _ in 0..500 * n + 500 {
            self.faults.step(&mut self.world);
            if self.setting.scenario.buckets {
                self.bucket_step();
            }
            let mut active = [0_usize; 16];
            let mut count = 0;
            for at in self.active() {
                active[count] = at;
                count += 1;
            }
            if count == 0 && self.started == self.calls.len() {
                break;
            }
            let starts = self.started < self.calls.len() && count < self.weather.concurrent;
            if starts && self.world.random.odds(self.weather.start_rate, scale) {
                self.begin(self.calls[self.started]);
            } else if count > 0 {
                let client = self.world.random.pick(&active[..count]);
                if !self.trouble(client, scale) && !self.tend(client) {
                    self.deliver_one();
                }
            } else {
                self.deliver_one();
            }
        }
    }

    /// The gateway of this operation dies, or gives up.
    fn trouble(&mut self, client: usize, scale: usize) -> bool {
        let world = &mut self.world;
        if world.random.odds(self.weather.crash_rate, scale) {
            self.crashed |= 1 << client;
            world.clients[client].timers.clear();
            if world.trace {
                println!("  {} op{} dies", world.now, client + 1);
            }
            return true;
        }
        if world.random.odds(self.weather.give_up_rate, scale) {
            let actions = world.clients[client].give_up();
            world.act(client, actions);
            return true;
        }
        false
    }

    /// Gives the operation what it waits for besides replies: a lock, a map, a timer.
    fn tend(&mut self, client: usize) -> bool {
        let idle = self.world.network.is_empty();
        let World { clients, random, revision, maps, .. } = &mut self.world;
        let waiting = &mut clients[client];
        let actions = if waiting.wants_lock && random.chance(200) {
            if !self.setting.scenario.calm && random.chance(20) {
                waiting.lock(Err(NoLock))
            } else {
                *revision += 1;
                waiting.lock(Ok(Fence { generation: 0, revision: *revision }))
            }
        } else if waiting.wants_map && random.chance(200) {
            waiting.map(maps.last().copied().unwrap_or_default())
        } else if !waiting.timers.is_empty() {
            let at = random.below(waiting.timers.len());
            let resends = matches!(waiting.timers[at].kind, TimerKind::Resend);
            let rate = match (resends, idle) {
                (true, true) => 300,
                (true, false) => self.weather.resend_rate,
                (false, _) => 60,
            };
            if !random.chance(rate) {
                return false;
            }
            waiting.fire(at)
        } else {
            return false;
        };
        self.world.act(client, actions);
        true
    }

    fn deliver_one(&mut self) {
        let world = &mut self.world;
        if world.network.is_empty() {
            return;
        }
        let at = world.random.below(world.network.len());
        if self.faults.slow[world.network[at].slot()] && !world.random.chance(30) {
            return;
        }
        let duplicate = !self.setting.scenario.calm && world.random.chance(20);
        let lose = world.random.chance(self.weather.loss_per_mille);
        if let Envelope::Reply { client, .. } = &world.network[at]
            && self.crashed >> client & 1 == 1
        {
            world.network.swap_remove(at);
            return;
        }
        world.deliver(at, duplicate, lose);
    }

    /// Strict reads after everything has calmed down; what was under way may still arrive.
    fn run_final_reads(&mut self) {
        for client in 0..self.world.clients.len() {
            if self.world.clients[client].ended.is_none() {
                self.crashed |= 1 << client;
            }
        }
        if self.world.random.chance(300) {
            self.world.network.clear();
        }
        self.faults.slow = [false; 16];
        self.weather.loss_per_mille = 0;
        for _ in 0..2 {
            let client = self.world.clients.len();
            self.begin(Call::Read);
            for _ in 0..80 * self.world.n() {
                if self.world.clients[client].ended.is_some() {
                    break;
                }
                if !self.tend(client) {
                    self.deliver_one();
                }
            }
            if self.world.clients[client].ended.is_none() {
                self.crashed |= 1 << client;
            }
        }
    }

    /// What the operations have returned, with the revision of the record that each ran under: clients name a bucket, and
    /// know nothing of one that was deleted and another of its name. A settler goes on in a deleted one, seen by nobody.
    fn history(&self) -> Vec<(Operation, u64)> {
        let mut history = Vec::with_capacity(self.world.clients.len());
        let unseen = |client: &&Client| client.settles() && self.buckets.deleted(client.record.bucket);
        for client in self.world.clients.iter().filter(|client| !unseen(client)) {
            let returned = match client.ended {
                Some(Ended::Returned(returned)) => returned,
                Some(Ended::NoEffect) => continue,
                None if client.call == Call::Read => continue,
                None => Return::Unknown,
            };
            let operation = Operation { call: client.call, returned, begin: client.begin, end: client.end };
            history.push((operation, client.record.revision));
        }
        history
    }

    fn is_linearizable(&self) -> bool {
        let (history, revisions): (Vec<_>, Vec<_>) = self.history().into_iter().unzip();
        is_linearizable_around(&history, &self.buckets.barriers(&revisions))
    }

    /// Whether the newest version still has its k shards. Not asked where slots lose shards by losing their state.
    fn is_durable(&self) -> bool {
        if self.setting.scenario.wipes || self.setting.scenario.moves {
            return true;
        }
        let Some(newest) = self.world.newest() else { return true };
        let Version { op, k, .. } = newest.version;
        let holds = |slot: &&Slot| {
            let register = &slot.register;
            register.prepared.contains(&op)
                || register.versions.iter().any(|v| v.version.op == op && v.shard_present)
        };
        self.world.slots.iter().filter(holds).count() >= usize::from(k)
    }

    /// At rest, with everything STABLE everywhere, any R0 answers must decide.
    fn rests_well(&mut self) -> Option<bool> {
        let newest = self.world.newest().cloned()?;
        let at_rest = |slot: &Slot| {
            let current = slot.register.current();
            slot.is_voter() && current.is_some_and(|v| v.tag == newest.tag && v.state == VersionState::Stable)
        };
        if !self.world.slots.iter().all(at_rest) {
            return None;
        }
        let geometry = self.world.geometry;
        let mut asked = geometry.all();
        while asked.len() > geometry.r0() {
            asked.0 &= !(1 << self.world.random.below(geometry.n()));
        }
        let epoch = self.world.map().epoch;
        let record =
            Record { bucket: self.world.bucket, revision: self.buckets.newest(), ..Record::default() };
        let query = SlotRequest::Query { inline_data: false };
        let mut round = super::super::round::Round::new(geometry, self.world.map());
        round.send::<Ended>(geometry.all(), query.clone(), &mut Vec::new());
        for slot in asked.iter() {
            let reply = self.world.serve_as(usize::from(slot.0), epoch, record, &query);
            round.accept(1, slot, Ok(reply));
        }
        let tally = Tally::of(round.answers());
        let decides = tally.views == geometry.r0() && tally.decided(geometry);
        Some(decides && tally.top.map(|top| top.tag) == Some(newest.tag))
    }

    fn conclude(mut self, seed: u64, report: &mut Report) -> bool {
        let rests = self.rests_well();
        let held = if !self.is_linearizable() {
            Err("not linearizable")
        } else if let Some(breach) = self.world.breach {
            Err(breach)
        } else if !self.is_durable() {
            Err("the newest version has lost its shards")
        } else if rests == Some(false) {
            Err("a read at rest was not decided by R0 answers")
        } else {
            Ok(())
        };
        if self.setting.trace {
            for (at, client) in self.world.clients.iter().enumerate() {
                let died = self.crashed >> at & 1 == 1;
                println!(
                    "op{} {:?} {}-{} {:?} died {died}",
                    at + 1,
                    client.call,
                    client.begin,
                    client.end,
                    client.ended
                );
            }
            for (at, slot) in self.world.slots.iter().enumerate() {
                println!("slot{at} {slot:?}");
            }
            println!("seed {seed}: {held:?}");
        }
        report.schedules += 1;
        report.drops += self.faults.drops;
        report.sweeps += self.faults.sweeps;
        report.joins += self.faults.joins;
        report.at_rest += u64::from(rests.is_some());
        for client in &self.world.clients {
            report.count(client.call, client.ended);
        }
        if let Err(why) = held {
            report.violation(seed, why);
        }
        held.is_ok()
    }
}

fn weather(random: &mut Random, setting: Setting) -> Weather {
    let calm = setting.scenario.calm;
    let losses: &[u32] = if setting.scenario.collects { &[0, 10, 20, 100] } else { &[0, 20, 100, 250] };
    let n = setting.n;
    let least = (n / 2).max(1);
    let resends = setting.scenario.start == Start::Acknowledged;
    let weather = Weather {
        loss_per_mille: random.pick(losses),
        crash_rate: random.pick(&[0, 2, 8]),
        give_up_rate: random.pick(&[0, 0, 3]),
        resend_rate: random.pick(if resends { &[10, 30] } else { &[2, 10] }),
        start_rate: random.pick(if setting.scenario.collects { &[100, 30, 15, 8] } else { &[100] }),
        concurrent: 1 + random.below(4),
        class_k: random.pick(&[least, least, n.saturating_sub(2).max(least), (n - 1).max(least)]),
    };
    if calm { Weather { loss_per_mille: 0, crash_rate: 0, give_up_rate: 0, ..weather } } else { weather }
}

fn calls(random: &mut Random, scenario: Scenario) -> Vec<Call> {
    let count = 4 + random.below(5);
    let mut one = |number: usize| {
        let value = number as u32 + 1;
        let other = random.below(count) as u32;
        let deletes = if scenario.collects { 6 } else { 1 };
        // A conditional delete prepares nothing.
        if scenario.buckets && random.chance(120) {
            return Call::Replace(other, 0);
        }
        match random.below(13 + deletes) {
            0..4 => Call::Write(value),
            4 | 5 => Call::Replace(0, value),
            6 => Call::Replace(other, value),
            7 => Call::Swap(value),
            8 => Call::Replace(other, 0),
            9..13 => Call::Read,
            _ => Call::Write(0),
        }
    };
    (0..count).map(&mut one).collect()
}
