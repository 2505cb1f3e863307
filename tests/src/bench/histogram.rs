//! Latencies by logarithmic class: constant memory, cheap to add to and to merge, within 1/64 of the truth.

const SUB_CLASSES_LOG2: u32 = 6;
const SUB_CLASSES: u64 = 1 << SUB_CLASSES_LOG2;

/// Counts of latencies in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    classes: Vec<u64>,
    count: u64,
    max_us: u64,
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&mut self, us: u64) {
        let class = class_of(us);
        if class >= self.classes.len() {
            self.classes.resize(class + 1, 0);
        }
        self.classes[class] += 1;
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        if other.classes.len() > self.classes.len() {
            self.classes.resize(other.classes.len(), 0);
        }
        for (mine, theirs) in self.classes.iter_mut().zip(&other.classes) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn max_us(&self) -> u64 {
        self.max_us
    }

    /// The latency that this part of all (0 to 1) does not exceed; 0 if there is none.
    pub fn quantile_us(&self, part: f64) -> u64 {
        let rank = ((self.count as f64 * part).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (class, count) in self.classes.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_end(class).min(self.max_us);
            }
        }
        0
    }
}

fn class_of(us: u64) -> usize {
    if us < SUB_CLASSES {
        return us as usize;
    }
    let shift = u64::from(us.ilog2() - SUB_CLASSES_LOG2);
    ((shift + 1) * SUB_CLASSES + (us >> shift) - SUB_CLASSES) as usize
}

fn upper_end(class: usize) -> u64 {
    let class = class as u64;
    if class < SUB_CLASSES {
        return class;
    }
    let shift = class / SUB_CLASSES - 1;
    ((class % SUB_CLASSES + SUB_CLASSES + 1) << shift) - 1
}
