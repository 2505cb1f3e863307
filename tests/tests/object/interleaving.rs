//! Random schedules of writes, uploads, deletes and sweeps: every object reads back as what was acknowledged last, and in
//! the end nothing is left on the drives but what objects are made of, and what writes that were refused after they had
//! sent their COMMIT had prepared: that stays until all slots of a partition say that none of them holds it.

use std::time::Duration;

use bytes::Bytes;
use coffer_common::time::UnixMillis;
use coffer_gateway::object::{
    ChosenPart, CompleteError, GetError, ObjectStore, PartError, UploadError, UploadRef,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::body::*;
use crate::cluster::Bench;
use crate::multipart::{begin, complete, part};
use crate::reclaim::{after, grace};

/// One schedule each.
const SEEDS: std::ops::Range<u64> = 1..4;
/// Each holds a shard of everything.
const DRIVES: usize = 4;
/// Steps of each client.
const STEPS: usize = 60;

/// An open upload and the parts that were acknowledged, with the seeds of their bytes.
struct Open {
    upload: UploadRef,
    parts: Vec<(ChosenPart, u64)>,
}

/// One client; nobody else writes its key.
struct Client {
    store: ObjectStore,
    key: String,
    random: StdRng,
    seed: u64,
    open: Vec<Open>,
    /// What the key must read back.
    object: Option<Bytes>,
    /// Parts whose writing was refused; each may have left a shard on every drive.
    refused: usize,
}

impl Client {
    fn new(store: ObjectStore, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self {
            store,
            key: format!("k{seed}"),
            random,
            seed: seed << 32,
            open: Vec::new(),
            object: None,
            refused: 0,
        }
    }

    fn data(&mut self) -> (Bytes, u64) {
        self.seed += 1;
        (of(self.seed), self.seed)
    }

    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..10 => {
                let (data, _) = self.data();
                put(&self.store, "bucket", &self.key, &data).await.unwrap();
                self.object = Some(data);
            }
            10..20 => {
                delete(&self.store, &self.key).await;
                self.object = None;
            }
            20..35 if self.open.len() < 3 => {
                let upload = begin(&self.store, &self.key).await;
                self.open.push(Open { upload, parts: Vec::new() });
            }
            35..40 => {
                if let Some(open) = self.take() {
                    self.store.abort_upload(&open.upload).await.unwrap();
                }
            }
            40..70 => self.write_part().await,
            70..85 => self.complete().await,
            _ => self.complete_while_others_write().await,
        }
        self.check().await;
    }

    fn take(&mut self) -> Option<Open> {
        let at = self.random.random_range(0..self.open.len().max(1));
        (at < self.open.len()).then(|| self.open.swap_remove(at))
    }

    async fn write_part(&mut self) {
        let Some(mut open) = self.take() else { return };
        let (data, seed) = self.data();
        let number = self.random.random_range(1..4);
        let written = loop {
            // The part may just be pinned.
            match part(&self.store, &open.upload, number, &data).await {
                Err(PartError::Write(_)) => self.refused += 1,
                other => break other.unwrap(),
            }
        };
        open.parts.retain(|(part, _)| part.number != number);
        open.parts.push((written, seed));
        self.open.push(open);
    }

    async fn complete(&mut self) {
        let Some(open) = self.take() else { return };
        let Some((chosen, seed)) = open.parts.first().cloned() else {
            self.open.push(open);
            return;
        };
        let request = || complete(&open.upload, std::slice::from_ref(&chosen));
        let info = self.store.complete_upload(request()).await.unwrap();
        self.object = Some(of(seed));
        let again = self.store.complete_upload(request()).await.unwrap();
        assert_eq!(stored(again), stored(info));
    }

    /// A part is written again, and perhaps the upload aborted, at the same time.
    async fn complete_while_others_write(&mut self) {
        let Some(mut open) = self.take() else { return };
        let Some((chosen, seed)) = open.parts.first().cloned() else {
            self.open.push(open);
            return;
        };
        let (data, late_seed) = self.data();
        let (wait, aborts) = (self.random.random_range(0..40), self.random.random_bool(0.3));
        let (upload, store) = (&open.upload, &self.store);
        let (completed, written, aborted) = tokio::join!(
            async {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                store.complete_upload(complete(upload, std::slice::from_ref(&chosen))).await
            },
            part(store, upload, chosen.number, &data),
            async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if aborts { store.abort_upload(upload).await } else { Err(UploadError::Conflict) }
            },
        );
        self.refused += usize::from(matches!(written, Err(PartError::Write(_))));
        match &completed {
            Ok(_) => {
                assert!(aborted.is_err(), "{aborted:?}");
                self.object = Some(of(seed));
                return;
            }
            Err(
                CompleteError::InvalidPart { .. } | CompleteError::NoSuchUpload | CompleteError::Conflict,
            ) => {}
            Err(other) => panic!("{other:?}"),
        }
        if aborted.is_ok() {
            return;
        }
        assert!(matches!(completed, Err(CompleteError::InvalidPart { .. })), "{completed:?}");
        open.parts.remove(0);
        if let Ok(written) = written {
            open.parts.push((written, late_seed));
        }
        self.open.push(open);
    }

    async fn check(&self) {
        let found = get(&self.store, "bucket", &self.key).await;
        match (&self.object, found) {
            (Some(object), Ok(found)) => assert!(*object == found, "{} reads back wrong", self.key),
            (None, Err(ReadFailure::Get(GetError::NoSuchKey))) => {}
            (object, found) => panic!("{}: {:?} {found:?}", self.key, object.as_ref().map(Bytes::len)),
        }
    }
}

/// The bytes of a seed, long enough for shard files.
fn of(seed: u64) -> Bytes {
    bytes(300_000, seed)
}

async fn run(seed: u64) {
    let bench = Bench::start(1, DRIVES).await;
    make_bucket(&bench.store, "bucket").await;
    let other = bench.gateway().await;
    let mut running = Vec::new();
    for index in 0..3 {
        let store = if index == 0 { other.clone() } else { bench.store.clone() };
        let mut client = Client::new(store, seed * 10 + index);
        running.push(tokio::spawn(async move {
            for _ in 0..STEPS {
                client.step().await;
            }
            client
        }));
    }
    while running.iter().any(|client| !client.is_finished()) {
        other.reclaim(UnixMillis::now()).await.unwrap();
        bench.free(grace()).await;
    }
    let (mut made_of, mut refused) = (0, 0);
    let mut clients = Vec::new();
    for client in running {
        let mut client = client.await.unwrap();
        while let Some(open) = client.open.pop() {
            client.store.abort_upload(&open.upload).await.unwrap();
        }
        made_of += if client.object.is_some() { DRIVES } else { 0 };
        refused += client.refused * DRIVES;
        clients.push(client);
    }
    other.reclaim(after(Duration::from_secs(25 * 3600))).await.unwrap();
    let expected = made_of..=made_of + refused;
    for _ in 0..300 {
        bench.free(grace()).await;
        if expected.contains(&bench.census().0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let left = bench.census().0;
    assert!(expected.contains(&left), "seed {seed}: {left} files are left, not {expected:?}");
    for client in clients {
        client.check().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_parts_survive_everything_that_goes_on_around_them() {
    for seed in SEEDS {
        run(seed).await;
    }
}
