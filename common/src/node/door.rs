//! A door that messages pass, for simulated networks and processes.
//!
//! Open, everything passes. Shut (a partition, a dead process), what comes is lost. Held (a stopped process), what comes
//! waits until the door is opened, and passes late, or until it is shut, and is lost.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How a door stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stand {
    /// Everything passes.
    #[default]
    Open,
    /// What comes is lost.
    Shut,
    /// What comes waits.
    Held,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Door {
    stand: Mutex<Stand>,
    moved: Notify,
}

impl Door {
    /// How it stands.
    pub fn stand(&self) -> Stand {
        *self.stand.lock()
    }

    /// Moves it; what waits passes or is lost.
    pub fn set(&self, stand: Stand) {
        *self.stand.lock() = stand;
        self.moved.notify_waiters();
    }

    /// Passes the door, waiting as long as it is held; false if what passes is lost.
    pub async fn pass(&self) -> bool {
        loop {
            let moved = self.moved.notified();
            match self.stand() {
                Stand::Open => return true,
                Stand::Shut => return false,
                Stand::Held => moved.await,
            }
        }
    }

    /// Passes doors one after the other.
    pub async fn pass_all(doors: &[std::sync::Arc<Self>]) -> bool {
        for door in doors {
            if !door.pass().await {
                return false;
            }
        }
        true
    }
}
