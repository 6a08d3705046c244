//! CPU time of one party: its thread, with a rayon pool of one thread so that nothing runs
//! elsewhere.

use std::{ops::AddAssign, time::Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// CPU and wall time of a measured stretch.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Spent {
    pub cpu: f64,
    pub wall: f64,
}

/// CPU seconds of this thread.
fn thread_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

impl Spent {
    /// Adds what a step takes.
    pub fn measure<T>(&mut self, step: impl FnOnce() -> T) -> T {
        let cpu = thread_seconds();
        let wall = Instant::now();
        let result = step();
        self.cpu += thread_seconds() - cpu;
        self.wall += wall.elapsed().as_secs_f64();
        result
    }
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.wall += other.wall;
    }
}

/// Where this thread stood when a stretch began.
pub struct Lap {
    cpu: f64,
    wall: Instant,
}

impl Lap {
    pub fn start() -> Self {
        Self {
            cpu: thread_seconds(),
            wall: Instant::now(),
        }
    }

    /// What was spent since; the next stretch begins.
    pub fn next(&mut self) -> Spent {
        let now = Self::start();
        let spent = Spent {
            cpu: now.cpu - self.cpu,
            wall: (now.wall - self.wall).as_secs_f64(),
        };
        *self = now;
        spent
    }
}

/// Runs a party on a pool of its own.
///
/// # Errors
/// When the system gives no thread.
pub fn alone<T: Send>(party: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    Ok(pool.install(party))
}
