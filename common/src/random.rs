//! The one source of randomness: ids, nonces and jitter. A simulated thread draws from its seed instead.

use std::ops::Range;

use rand::distr::{Distribution, StandardUniform};

/// A random value of the whole range of its type.
pub fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    #[cfg(any(test, feature = "simulation"))]
    if let Some(drawn) = crate::simulated::with_random(|random| StandardUniform.sample(random)) {
        return drawn;
    }
    draw()
}

/// A random number of the range.
pub fn between(range: Range<f64>) -> f64 {
    range.start + (range.end - range.start) * random::<f64>()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that draws")]
fn draw<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    rand::random()
}
