//! The ledger and the purses under random interleavings of gateways, deaths, surveys and recalls: what is stored exceeds the
//! quota by no more than gateways had in flight whose lease ended, and room that is free is had by whoever asks.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::ledger::{Account, Ledger, Stage, Usage};
use super::purse::Purse;

const QUOTA: u64 = 1_000;

/// One gateway. A name is used once: who lost its lease goes on as another.
struct Gateway {
    name: u64,
    purse: Purse,
    /// What its requests have that are under way, and whether it is stored already.
    in_flight: Vec<(u64, bool)>,
    /// Requests of names before, paused.
    paused: Vec<(u64, bool)>,
}

struct World {
    ledger: Ledger,
    gateways: Vec<Gateway>,
    next_name: u64,
    live: BTreeSet<String>,
    stored: u64,
    /// What gateways had in flight whose lease ended.
    excused: u64,
    /// The round that is being led: by whom, which, and what the listing has seen so far.
    led: Option<(String, u64, Option<u64>)>,
    /// Bytes stored, and deleted, since the listing began.
    meanwhile: (u64, u64),
}

#[derive(Clone, Debug)]
enum Step {
    /// A gateway wants to write; the outcome of taking room may get lost on the way.
    Write { gateway: usize, size: u64, lost: bool },
    /// The bytes of a request under way are stored.
    Store { gateway: usize, which: usize },
    /// A request ends, stored or not; if it is not, it may be certain.
    End { gateway: usize, which: usize, certain: bool },
    /// Bytes are deleted.
    Delete { size: u64 },
    /// A gateway answers a round.
    Answer { gateway: usize },
    /// A gateway begins a round.
    Begin { gateway: usize },
    /// The leader begins the listing.
    List,
    /// The round ends; the listing has seen that part (in eighths) of what changed meanwhile.
    Conclude { stored: u64, deleted: u64 },
    /// A lease ends: the gateway is dead, or was paused.
    Expire { gateway: usize },
    /// A request that was admitted before its gateway's lease ended stores its bytes.
    Wake { gateway: usize, which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let (gateway, which) = (0..3_usize, 0..4_usize);
    prop_oneof![
        6 => (gateway.clone(), 1..300_u64, prop::bool::weighted(0.2))
            .prop_map(|(gateway, size, lost)| Step::Write { gateway, size, lost }),
        5 => (gateway.clone(), which.clone()).prop_map(|(gateway, which)| Step::Store { gateway, which }),
        5 => (gateway.clone(), which.clone(), any::<bool>())
            .prop_map(|(gateway, which, certain)| Step::End { gateway, which, certain }),
        2 => (1..400_u64).prop_map(|size| Step::Delete { size }),
        4 => gateway.clone().prop_map(|gateway| Step::Answer { gateway }),
        2 => gateway.clone().prop_map(|gateway| Step::Begin { gateway }),
        2 => Just(Step::List),
        2 => (0..=8_u64, 0..=8_u64).prop_map(|(stored, deleted)| Step::Conclude { stored, deleted }),
        1 => gateway.clone().prop_map(|gateway| Step::Expire { gateway }),
        1 => (gateway, which).prop_map(|(gateway, which)| Step::Wake { gateway, which }),
    ]
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            ledger: Ledger::new(1),
            gateways: Vec::new(),
            next_name: 0,
            live: BTreeSet::new(),
            stored: 0,
            excused: 0,
            led: None,
            meanwhile: (0, 0),
        };
        for _ in 0..3 {
            let name = world.name();
            let (in_flight, paused) = Default::default();
            world.gateways.push(Gateway { name, purse: Purse::default(), in_flight, paused });
        }
        world
    }

    fn name(&mut self) -> u64 {
        self.next_name += 1;
        self.live.insert(self.next_name.to_string());
        self.next_name
    }

    /// A gateway reads the ledger, as it does before each change.
    fn read(&mut self, gateway: usize) -> (String, Option<Account>) {
        let gateway = &mut self.gateways[gateway];
        let name = gateway.name.to_string();
        let account = self.ledger.accounts.get(&name).copied();
        match account {
            Some(account) => gateway.purse.learn(account.taken),
            None => assert!(!gateway.purse.is_used(), "an account stays while its owner lives"),
        }
        (name, account)
    }

    fn write(&mut self, gateway: usize, size: u64, lost: bool) -> bool {
        if !self.gateways[gateway].purse.admit(size) {
            let (name, _) = self.read(gateway);
            let (returned, _) = self.gateways[gateway].purse.told();
            if self.ledger.take(&name, returned, size, QUOTA).is_err() || lost {
                return false;
            }
            self.read(gateway);
            assert!(self.gateways[gateway].purse.admit(size), "what was taken is enough");
        }
        self.gateways[gateway].in_flight.push((size, false));
        true
    }

    fn store(&mut self, gateway: usize, which: usize, paused: bool) {
        let gateway = &mut self.gateways[gateway];
        let requests = if paused { &mut gateway.paused } else { &mut gateway.in_flight };
        if let Some((size, stored @ false)) = requests.get_mut(which) {
            *stored = true;
            self.stored += *size;
            self.meanwhile.0 += *size;
        }
    }

    fn end(&mut self, gateway: usize, which: usize, certain: bool) {
        let gateway = &mut self.gateways[gateway];
        if which < gateway.in_flight.len() {
            match gateway.in_flight.remove(which) {
                (size, false) if certain => gateway.purse.release(size),
                (size, _) => gateway.purse.finish(size),
            }
        }
    }

    fn answer(&mut self, gateway: usize) {
        let (name, _) = self.read(gateway);
        if self.ledger.awaits(&name) {
            let purse = &mut self.gateways[gateway].purse;
            purse.give_back();
            let (returned, done) = purse.told();
            self.ledger.answer(&name, returned, done);
        }
    }

    fn begin(&mut self, gateway: usize) {
        let name = self.gateways[gateway].name.to_string();
        if let Some(number) = self.ledger.begin(&name, &self.live) {
            self.led = Some((name, number, None));
        }
    }

    fn list(&mut self) {
        if let Some((by, number, listing @ None)) = &mut self.led
            && self.ledger.list(by, *number)
        {
            *listing = Some(self.stored);
            self.meanwhile = (0, 0);
        }
    }

    fn conclude(&mut self, stored: u64, deleted: u64, wanted: u64) {
        let Some((by, number, listing)) = self.led.take() else { return };
        let (more, less) = self.meanwhile;
        let usage = listing.map(|before| {
            // Of what was deleted meanwhile, some may have been stored meanwhile, and not been seen: never less than nothing.
            let bytes = (before + more * stored / 8).saturating_sub(less.min(before) * deleted / 8);
            Usage { bytes, surveyed_ms: 0, took_ms: 0, round: number }
        });
        if self.ledger.conclude(&by, number, usage)
            && let Some(leader) = self.gateways.iter().position(|gateway| gateway.name.to_string() == by)
        {
            // In the same change it takes what the round was begun for.
            let (returned, _) = self.gateways[leader].purse.told();
            let _ = wanted > 0 && self.ledger.take(&by, returned, wanted, QUOTA).is_ok();
            self.read(leader);
        }
    }

    fn expire(&mut self, gateway: usize) {
        let name = self.name();
        let gateway = &mut self.gateways[gateway];
        self.live.remove(&gateway.name.to_string());
        gateway.name = name;
        gateway.purse = Purse::default();
        self.excused +=
            gateway.in_flight.iter().filter(|(_, stored)| !stored).map(|(size, _)| size).sum::<u64>();
        gateway.paused.append(&mut gateway.in_flight);
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Write { gateway, size, lost } => drop(self.write(gateway, size, lost)),
            Step::Store { gateway, which } => self.store(gateway, which, false),
            Step::End { gateway, which, certain } => self.end(gateway, which, certain),
            Step::Delete { size } => {
                let size = size.min(self.stored);
                self.stored -= size;
                self.meanwhile.1 += size;
            }
            Step::Answer { gateway } => self.answer(gateway),
            Step::Begin { gateway } => self.begin(gateway),
            Step::List => self.list(),
            Step::Conclude { stored, deleted } => self.conclude(stored, deleted, 50),
            Step::Expire { gateway } => self.expire(gateway),
            Step::Wake { gateway, which } => self.store(gateway, which, true),
        }
    }

    fn check(&self) {
        let waiting = |gateway: &Gateway| -> u64 {
            gateway.in_flight.iter().filter(|(_, stored)| !stored).map(|(size, _)| size).sum()
        };
        let in_flight: u64 = self.gateways.iter().map(waiting).sum();
        assert!(
            self.stored + in_flight <= QUOTA + self.excused,
            "{} stored and {in_flight} in flight, {} excused",
            self.stored,
            self.excused
        );
    }

    /// Everybody ends its requests and answers a round, with a listing or without.
    fn round(&mut self, survey: bool) {
        self.led = None;
        self.ledger.round = None;
        self.begin(0);
        (0..3).for_each(|gateway| self.answer(gateway));
        assert!(self.ledger.is_collected());
        if survey {
            self.list();
        }
        self.conclude(8, 8, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_stored_stays_below_the_quota_and_free_room_is_had(
        steps in prop::collection::vec(step(), 0..120),
        asker in 0..3_usize,
    ) {
        let mut world = World::new();
        world.round(true);
        for step in &steps {
            world.run(step);
            world.check();
        }
        for gateway in 0..3 {
            while !world.gateways[gateway].in_flight.is_empty() {
                world.end(gateway, 0, false);
            }
        }
        world.round(true);
        world.check();
        prop_assert_eq!(world.ledger.outstanding(), 0, "everything is settled: {:?}", world.ledger);
        let free = QUOTA.saturating_sub(world.stored);
        if free > 0 {
            prop_assert!(world.write(asker, free, false), "{} of {} are free: {:?}", free, QUOTA, world.ledger);
        }
        prop_assert!(!world.write((asker + 1) % 3, 1, false), "and no more");
    }
}

fn counted(bytes: u64) -> Ledger {
    let usage = Some(Usage { bytes, surveyed_ms: 0, took_ms: 0, round: 0 });
    Ledger { usage, ..Ledger::new(1) }
}

#[test]
fn nothing_is_taken_before_somebody_has_counted() {
    assert_eq!(Ledger::new(1).take("a", 0, 1, QUOTA).unwrap_err().left, None);
    assert!(counted(0).take("a", 0, 1, QUOTA).is_ok());
}

#[test]
fn a_gateway_takes_a_share_and_no_more_than_is_left() {
    let mut ledger = counted(200);
    ledger.take("a", 0, 1, QUOTA).unwrap();
    assert_eq!(ledger.accounts["a"].taken, 100);
    ledger.take("b", 0, 600, QUOTA).unwrap();
    assert_eq!(ledger.accounts["b"].taken, 600);
    assert_eq!(ledger.take("a", 0, 101, QUOTA).unwrap_err().left, Some(100));
    ledger.take("a", 0, 100, QUOTA).unwrap();
    assert_eq!(ledger.claimed(), QUOTA);
}

#[test]
fn room_is_recalled_without_a_listing() {
    let mut ledger = counted(0);
    ledger.take("a", 0, 900, QUOTA).unwrap();
    let live = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    let number = ledger.begin("b", &live).unwrap();
    assert_eq!(ledger.begin("a", &live), None, "one leads");
    ledger.answer("a", 700, 100);
    assert!(ledger.handed > 0 && ledger.conclude("b", number, None));
    assert_eq!(ledger.handed, 0, "another recall would bring nothing");
    assert_eq!(ledger.claimed(), 200, "what has ended is not known to be gone");
    assert!(ledger.take("b", 0, 800, QUOTA).is_ok());
}

#[test]
fn a_mark_after_the_listing_began_is_not_taken() {
    let mut ledger = counted(0);
    ledger.take("a", 0, 400, QUOTA).unwrap();
    let live = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    let number = ledger.begin("b", &live).unwrap();
    assert!(ledger.list("b", number) && !ledger.awaits("a"));
    assert_eq!(ledger.round.as_ref().unwrap().stage, Stage::Listing);
    assert!(ledger.conclude(
        "b",
        number,
        Some(Usage { bytes: 300, surveyed_ms: 0, took_ms: 0, round: number })
    ));
    assert_eq!(ledger.claimed(), 700, "the listing may not have seen it");
}

#[test]
fn room_of_the_dead_comes_back_with_a_survey_and_their_rounds_are_begun_again() {
    let mut ledger = counted(0);
    ledger.take("dead", 0, 800, QUOTA).unwrap();
    let number = ledger.begin("dead", &BTreeSet::from(["dead".to_owned()])).unwrap();
    let live = BTreeSet::from(["b".to_owned()]);
    let next = ledger.begin("b", &live).unwrap();
    assert!(!ledger.conclude("dead", number, None), "it leads no more");
    assert!(ledger.list("b", next));
    assert!(ledger.conclude("b", next, Some(Usage { bytes: 100, surveyed_ms: 0, took_ms: 0, round: next })));
    assert_eq!((ledger.claimed(), ledger.accounts.len()), (100, 0));
}

#[test]
fn a_quota_below_the_usage_hands_nothing_out() {
    let mut ledger = counted(500);
    assert_eq!(ledger.take("a", 0, 1, 400).unwrap_err().left, Some(0));
    assert_eq!(ledger.claimed(), 500);
}

#[test]
fn ledgers_are_stored_as_they_were() {
    let mut ledger = counted(5);
    ledger.take("00000000000000aa", 0, 95, 100).unwrap();
    let text = serde_json::to_string(&ledger).unwrap();
    assert_eq!(
        text,
        r#"{"term":1,"usage":{"bytes":5,"surveyed_ms":0,"took_ms":0,"round":0},"accounts":{"00000000000000aa":{"taken":95,"returned":0,"settled":0}},"handed":95,"rounds":0,"concluded":0}"#
    );
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
    ledger.begin("00000000000000aa", &BTreeSet::from(["00000000000000aa".to_owned()])).unwrap();
    ledger.answer("00000000000000aa", 5, 90);
    let text = serde_json::to_string(&ledger).unwrap();
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
}
