//! Keeping memory that the allocator would hand back to the system.

/// Tells glibc to keep freed memory instead of returning it, for the whole process.
///
/// A training step allocates and frees the same large tensors again and again; handing their pages
/// back and faulting them in anew costs up to a third of a step. A binary that trains calls this
/// once at its start. Does nothing where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const TRIM_THRESHOLD: i32 = -1;
        const MMAP_THRESHOLD: i32 = -3;
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // SAFETY: mallopt takes two integers and may be called at any time; an unknown parameter or
        // value is ignored. 32 MiB is the largest threshold that glibc accepts.
        unsafe {
            mallopt(MMAP_THRESHOLD, 32 << 20);
            mallopt(TRIM_THRESHOLD, i32::MAX);
        }
    }
}

/// Hands back to the system what [`keep_freed_memory`] has kept: between a phase that needed much
/// memory and one that needs little. Does nothing where the C library is not glibc.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: malloc_trim takes a size and may be called at any time.
        unsafe {
            malloc_trim(0);
        }
    }
}
