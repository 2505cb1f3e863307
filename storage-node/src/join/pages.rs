//! Asks the nodes for pages of many slots at once.
//!
//! Owns: what waits for each node. While a node is asked, the requests that come for it wait, and go together then: nobody
//! waits for company.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coffer_common::node::{HandOverPage, HandOverRequest, NodeClient, NodeError};
use coffer_common::types::NodeId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::pace::{Kind, Pace, Urgency};

/// Requests that go together at most.
const MOST: usize = 64;
/// How long a node may take for its pages.
const LIMIT: Duration = Duration::from_secs(20);

type Told = Result<HandOverPage, NodeError>;
type Waiting = Vec<(HandOverRequest, oneshot::Sender<Told>)>;

/// What waits for each node that is being asked.
#[derive(Debug, Default)]
pub(super) struct Pages(Mutex<HashMap<NodeId, Waiting>>);

impl Pages {
    /// Asks a node for a page. The first of those who wait asks for all of them, in a turn of this urgency; none is taken by
    /// who has one.
    pub(super) async fn ask(
        &self,
        (node, client): (&NodeId, &Arc<dyn NodeClient>),
        request: HandOverRequest,
        (pace, urgency): (&Pace, Option<Urgency>),
    ) -> Told {
        let (sender, answer) = oneshot::channel();
        let leads = {
            let mut waiting = self.0.lock();
            let leads = !waiting.contains_key(node);
            waiting.entry(node.clone()).or_default().push((request, sender));
            leads
        };
        if leads {
            let lead = Lead(self, node);
            loop {
                let turn = match urgency {
                    Some(urgency) => Some(pace.turn(urgency).await),
                    None => None,
                };
                let Some(batch) = lead.next() else { break };
                ask_all((node, client), batch, pace).await;
                drop(turn);
            }
        }
        answer.await.unwrap_or_else(|_| Err(late(node)))
    }
}

/// Who asks a node for all. If it is dropped, those who wait learn that they get nothing.
struct Lead<'a>(&'a Pages, &'a NodeId);

impl Lead<'_> {
    /// What waits by now.
    fn next(&self) -> Option<Waiting> {
        let mut all = self.0.0.lock();
        let waiting = all.get_mut(self.1)?;
        let count = waiting.len().min(MOST);
        (count > 0).then(|| waiting.drain(..count).collect())
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.0.lock().remove(self.1);
    }
}

async fn ask_all((node, client): (&NodeId, &Arc<dyn NodeClient>), batch: Waiting, pace: &Pace) {
    let (requests, senders): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let asked = tokio::time::timeout(LIMIT, client.hand_over_all(requests));
    let told = match pace.timed(Kind::Page, asked).await.unwrap_or_else(|_| Err(late(node))) {
        Ok(told) => told,
        Err(error) => senders.iter().map(|_| Err(error.clone())).collect(),
    };
    for (sender, told) in senders.into_iter().zip(told) {
        // Whoever does not wait any more needs no answer.
        let _ = sender.send(told);
    }
}

fn late(node: &NodeId) -> NodeError {
    NodeError::Timeout { node: node.to_string() }
}
