//! What a simulation puts in the place of the operating system on its thread: chance, the wall clock, and work that would
//! block. Only with the feature `simulation`; a thread without it, and every server, has the real ones.
//!
//! Owns: one world per thread, which [`random`](crate::random), [`time`](crate::time) and
//! [`blocking`](crate::blocking) look at, and the rules that are broken on purpose. Never decides when something happens: that is the runtime's paused clock.

use std::cell::RefCell;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::protocol::flaw::Flaw;
use crate::time::UnixMillis;

struct World {
    random: StdRng,
    /// Wall time at `began`.
    epoch: UnixMillis,
    began: Instant,
    /// A bit per [`Flaw`].
    broken_rules: u32,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Gives this thread a world of its own until the guard is dropped. Call it inside a runtime of this thread whose clock is
/// paused: wall time follows that clock.
#[must_use]
pub fn enter(seed: u64, epoch: UnixMillis) -> Entered {
    let world = World { random: StdRng::seed_from_u64(seed), epoch, began: Instant::now(), broken_rules: 0 };
    WORLD.with_borrow_mut(|place| *place = Some(world));
    Entered(())
}

/// This thread is simulated while this lives.
pub struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        WORLD.with_borrow_mut(|place| *place = None);
    }
}

/// Sets this thread's wall clock forward or back; elapsed time is not touched.
pub fn jump(milliseconds: i64) {
    WORLD.with_borrow_mut(|world| {
        if let Some(world) = world {
            world.epoch = UnixMillis(world.epoch.0.saturating_add_signed(milliseconds));
        }
    });
}

/// From now on the protocol's machines on this thread break a rule, to show that it would be noticed.
pub fn break_rule(flaw: Flaw) {
    WORLD.with_borrow_mut(|world| {
        if let Some(world) = world {
            world.broken_rules |= 1 << flaw as u8;
        }
    });
}

/// The rules that are broken on this thread, a bit per [`Flaw`].
pub(crate) fn broken_rules() -> u32 {
    WORLD.with_borrow(|world| world.as_ref().map_or(0, |world| world.broken_rules))
}

/// Whether this thread is simulated.
pub fn is_entered() -> bool {
    WORLD.with_borrow(Option::is_some)
}

/// The thread's generator, if it is simulated.
pub(crate) fn with_random<T>(draw: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    WORLD.with_borrow_mut(|world| world.as_mut().map(|world| draw(&mut world.random)))
}

/// The thread's wall time, if it is simulated.
pub(crate) fn wall_time() -> Option<UnixMillis> {
    WORLD.with_borrow(|world| {
        let world = world.as_ref()?;
        let elapsed = u64::try_from(world.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some(UnixMillis(world.epoch.0.saturating_add(elapsed)))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_thread_has_its_own_chance_and_clock() {
        let draw = |seed| {
            let _world = enter(seed, UnixMillis(1_000));
            (0..4).map(|_| crate::random::random::<u64>()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let world = enter(1, UnixMillis(10_000));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(UnixMillis::now(), UnixMillis(12_000));
        jump(-2_500);
        assert_eq!(UnixMillis::now(), UnixMillis(9_500));
        let here = std::thread::current().id();
        let ran = crate::blocking::run(|| std::thread::current().id()).await;
        assert_eq!(ran.unwrap(), here);
        drop(world);
        assert!(UnixMillis::now() > UnixMillis(1 << 40) && !is_entered());
    }
}
