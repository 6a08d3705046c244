//! Turns off candle's own thread pool, which competes with rayon's.

use std::sync::Once;

static ONCE: Once = Once::new();

/// Keeps candle's own thread pool out of the way: it spins between operations, which on a busy
/// machine costs more than half of all processor time, while every operation that matters here runs
/// on rayon.
///
/// Does nothing where the user set `CANDLE_NUM_THREADS`. The pool is built on first use, so this
/// comes before it.
pub(crate) fn keep_candle_from_spinning() {
    ONCE.call_once(|| {
        if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
            // SAFETY: the standard library serializes this with every Rust reader of the
            // environment, and a program opens its model before it calls into C code that reads the
            // environment (name resolution).
            unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
        }
    });
}
