//! Many operations of every kind sent through one gateway at once, so that whatever befalls it then befalls some of them
//! in each of their steps; and what the other gateway does about the same keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use coffer_common::linearizability::Return;
use coffer_tests::harness::wait_for;
use tokio::task::JoinSet;

use super::{Arena, PATIENCE};

/// Operations of each kind.
const EACH: usize = 6;
const LARGE: usize = 1_500_000;

/// Operations under way.
pub(super) struct Volley {
    keys: Vec<String>,
    answered: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

#[derive(Clone, Copy, Debug)]
enum Shot {
    Put,
    PutLarge,
    Overwrite,
    Create,
    CreateLarge,
    Replace,
    Delete,
    DeleteValue,
    Copy,
    Complete,
    CompleteIfAbsent,
}

const SHOTS: [Shot; 11] = [
    Shot::Put,
    Shot::PutLarge,
    Shot::Overwrite,
    Shot::Create,
    Shot::CreateLarge,
    Shot::Replace,
    Shot::Delete,
    Shot::DeleteValue,
    Shot::Copy,
    Shot::Complete,
    Shot::CompleteIfAbsent,
];

impl Volley {
    /// Prepares keys of this name and fires at them through the first of these clients; a Complete without an answer is
    /// sent again through the next ones.
    pub(super) async fn fire(arena: &Arena, name: &str, clients: &[Client]) -> Result<Self> {
        let recorder = &arena.recorder;
        let source = format!("{name}/source");
        let (ready, source_value) = recorder.put(&clients[0], &source, 5_000).await;
        ensure!(ready == Return::Ok, "{ready:?}");
        let mut volley =
            Self { keys: Vec::new(), answered: Arc::new(AtomicUsize::new(0)), tasks: JoinSet::new() };
        let mut shots = Vec::new();
        for number in 0..EACH * SHOTS.len() {
            let (key, shot) = (format!("{name}/{number:02}"), SHOTS[number % SHOTS.len()]);
            let mut old = 0;
            if matches!(shot, Shot::Overwrite | Shot::Replace | Shot::Delete | Shot::DeleteValue) {
                let (ready, value) = recorder.put(&clients[0], &key, 500).await;
                ensure!(ready == Return::Ok, "{ready:?}");
                old = value;
            }
            let upload = match shot {
                Shot::Complete | Shot::CompleteIfAbsent => {
                    recorder.prepare_upload(&clients[0], &key, 9_000).await
                }
                _ => None,
            };
            volley.keys.push(key.clone());
            shots.push((key, shot, old, upload));
        }
        for (key, shot, old, upload) in shots {
            let (recorder, clients, answered) = (recorder.clone(), clients.to_vec(), volley.answered.clone());
            let source = source.clone();
            volley.tasks.spawn(async move {
                let client = &clients[0];
                match shot {
                    Shot::Put | Shot::Overwrite => drop(recorder.put(client, &key, 800).await),
                    Shot::PutLarge => drop(recorder.put(client, &key, LARGE).await),
                    Shot::Create => drop(recorder.create(client, &key, 800).await),
                    Shot::CreateLarge => drop(recorder.create(client, &key, LARGE).await),
                    Shot::Replace => drop(recorder.replace(client, &key, old, 800).await),
                    Shot::Delete => drop(recorder.delete(client, &key).await),
                    Shot::DeleteValue => drop(recorder.delete_value(client, &key, old).await),
                    Shot::Copy => drop(recorder.copy(client, &key, (&source, source_value)).await),
                    Shot::Complete => drop(recorder.complete_persistently(&clients, &upload.unwrap()).await),
                    Shot::CompleteIfAbsent => drop(recorder.complete(client, &upload.unwrap(), true).await),
                }
                answered.fetch_add(1, Ordering::SeqCst);
            });
        }
        Ok(volley)
    }

    /// Waits until so many were answered.
    pub(super) async fn answered(&self, count: usize) -> Result<()> {
        let answered = || async { self.answered.load(Ordering::SeqCst) >= count };
        wait_for("answers", PATIENCE, answered).await
    }

    /// Another gateway replaces whatever each key holds, and gets it acknowledged: no lock or half-done commit is in the
    /// way for long.
    pub(super) async fn replace_all(&self, arena: &Arena, client: &Client) -> Result<()> {
        let mut tasks = JoinSet::new();
        for key in self.keys.clone() {
            let (recorder, client) = (arena.recorder.clone(), client.clone());
            tasks.spawn(async move {
                let replaced = || async {
                    let returned = match recorder.get(&client, &key).await {
                        Some(0) => recorder.create(&client, &key, 700).await.0,
                        Some(old) => recorder.replace(&client, &key, old, 700).await.0,
                        None => Return::Unknown,
                    };
                    returned == Return::Ok
                };
                wait_for(&format!("{key} to be replaced"), PATIENCE, replaced).await
            });
        }
        tasks.join_all().await.into_iter().collect()
    }

    /// Waits for the answers that are left.
    pub(super) async fn end(mut self) -> Result<()> {
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("an operation of the volley")?;
        }
        Ok(())
    }
}
