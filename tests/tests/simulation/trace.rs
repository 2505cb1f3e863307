//! What happened, in order: a hash of it always, the lines themselves when somebody wants to read them.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hasher as _};

use parking_lot::Mutex;
use tokio::time::Instant;

/// See the module.
pub(crate) struct Trace {
    began: Instant,
    /// Printed as they come.
    shown: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hasher: DefaultHasher,
    events: u64,
}

/// Feeds text to a hasher without keeping it.
struct Feed<'a>(&'a mut DefaultHasher);

impl fmt::Write for Feed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl Trace {
    pub(crate) fn new(shown: bool) -> Self {
        Self { began: Instant::now(), shown, state: Mutex::default() }
    }

    /// Notes an event at the present time.
    pub(crate) fn note(&self, event: fmt::Arguments<'_>) {
        let at = self.began.elapsed();
        if self.shown {
            println!("{:>10.6} {event}", at.as_secs_f64());
        }
        let mut state = self.state.lock();
        state.events += 1;
        state.hasher.write_u128(at.as_nanos());
        Feed(&mut state.hasher).write_fmt(event).expect("a hasher takes everything");
    }

    /// A number that differs if anything differed, and how many events there were.
    pub(crate) fn digest(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.hasher.finish(), state.events)
    }
}

/// Notes an event: a trace, then what `format!` takes.
macro_rules! note {
    ($trace:expr, $($what:tt)*) => { $trace.note(format_args!($($what)*)) };
}
pub(crate) use note;
