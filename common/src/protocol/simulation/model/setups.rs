//! The configurations that are modelled, and the broken rules that the small ones must notice.

use super::{Budget, Setup};
use crate::linearizability::Call;

const NONE: Budget = Budget { losses: 0, duplicates: 0, crashes: 0, restarts: 0 };
const LOSS: Budget = Budget { losses: 1, ..NONE };
const CRASH: Budget = Budget { crashes: 1, ..NONE };
const RESTART: Budget = Budget { restarts: 1, ..NONE };
const DUPLICATE: Budget = Budget { duplicates: 1, ..NONE };

const ALL: Budget = Budget { losses: 1, duplicates: 1, crashes: 1, restarts: 1 };

const WRITE: Call = Call::Write(1);

const CREATE: Call = Call::Replace(0, 2);

const fn setup(name: &'static str, n: u8, calls: &'static [Call], budget: Budget) -> Setup {
    Setup { name, n, calls, budget, stable: true }
}

/// Every configuration.
pub const SETUPS: &[Setup] = &[
    setup("write-read", 3, &[WRITE, Call::Read], NONE),
    setup("write-write", 3, &[WRITE, Call::Write(2)], NONE),
    setup("create-create", 3, &[Call::Replace(0, 1), CREATE], NONE),
    setup("write-create", 3, &[WRITE, CREATE], NONE),
    setup("create-read", 3, &[Call::Replace(0, 1), Call::Read], NONE),
    setup("write-read-loss", 3, &[WRITE, Call::Read], LOSS),
    setup("write-read-duplicate", 3, &[WRITE, Call::Read], DUPLICATE),
    setup("write-read-crash", 3, &[WRITE, Call::Read], CRASH),
    setup("write-read-restart", 3, &[WRITE, Call::Read], RESTART),
    setup("write-write-crash", 3, &[WRITE, Call::Write(2)], CRASH),
    setup("create-create-crash", 3, &[Call::Replace(0, 1), CREATE], CRASH),
    setup("write-create-crash", 3, &[WRITE, CREATE], CRASH),
    setup("write-read-4", 4, &[WRITE, Call::Read], NONE),
    setup("write-write-4", 4, &[WRITE, Call::Write(2)], NONE),
    setup("write-create-4", 4, &[WRITE, CREATE], NONE),
    setup("write-write-read", 3, &[WRITE, Call::Write(2), Call::Read], NONE),
    setup("write-create-read", 3, &[WRITE, CREATE, Call::Read], NONE),
    setup("all-4", 4, &[WRITE, Call::Write(2), Call::Replace(0, 3), Call::Read], ALL),
];

/// Broken rules, and the configuration in which each is noticed within seconds.
pub const NOTICED: &[(&str, &str)] = &[
    ("no-write-back", "write-read"),
    ("reads-on-too-few", "write-read"),
    ("decides-on-too-few", "write-read"),
    ("writes-on-too-few", "write-read"),
    ("tags-on-too-few", "write-read"),
    ("no-fence-check", "write-create"),
];
