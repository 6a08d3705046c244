//! Processes that hold secrets: what they free is wiped, and their memory is never dumped.
//!
//! Seeds, masks, shares, boundary rows and prompts also pass through buffers of the HTTP and TLS
//! libraries and of WebSocket frames, which nobody could erase by hand; see
//! [`marill_crypto::wipe`].

pub use marill_crypto::wipe::{WipingAllocator, wipes};

/// From now on memory that is given back is wiped, where the binary's allocator is a
/// [`WipingAllocator`], and the process writes no core dump and cannot be traced by others of its
/// user. For roles that hold seeds, shares or prompts.
pub fn hold_secrets() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    marill_crypto::wipe::wipe_what_is_freed();
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!("a crash of this process may write its memory to disk: {error}");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        tracing::warn!("a crash of this process may write its memory to disk: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_secrets_wipes_and_dumps_nothing() {
        hold_secrets();
        assert!(wipes());
        let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
        assert_eq!(limit.current, Some(0));
    }
}
